"""Drift: how far a current window has moved from the reference, from their profiles alone.

A measure is a function of two profiles of one column, and None where it is undefined: for a
column of another kind, or where a side has no value. Numbers are compared in the ten bins that
the reference's deciles make, categories value by value, with one more bin for all values that the
reference does not name.
Not here: building profiles, thresholds, alerts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from datasketches import kll_doubles_sketch, kll_floats_sketch
from numpy.typing import NDArray

from retrain_assets.domain.drift.profile import CATEGORY_BOUND, ColumnProfile, Values

Shares = tuple[NDArray[np.float64], NDArray[np.float64]]
Measure = Callable[[ColumnProfile, ColumnProfile], float | None]

BINS = 10
FLOOR = 1e-4
MEDIAN = "median"
QUANTILES = ((MEDIAN, 0.5), ("10th percentile", 0.1), ("90th percentile", 0.9))


class DriftError(ValueError):
    """Two windows cannot be compared; the message says where and what would do."""


def psi(reference: ColumnProfile, current: ColumnProfile) -> float | None:
    """Population stability index: sum of (current - reference) * ln(current / reference) by bin.

    Source: Siddiqi, "Credit Risk Scorecards", Wiley 2006. No share counts as less than `FLOOR`,
    so that an empty bin gives a finite value.
    """
    shares = _shares(reference, current)
    if shares is None:
        return None
    expected, actual = (np.maximum(side, FLOOR) for side in shares)
    return float(np.sum((actual - expected) * np.log(actual / expected)))


def jensen_shannon(reference: ColumnProfile, current: ColumnProfile) -> float | None:
    """Jensen-Shannon distance: the root of the divergence to base 2, from 0 to 1.

    Sources: Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Trans. Inf. Theory
    37(1), 1991; its root is a metric: Endres and Schindelin, ibid. 49(7), 2003. All unseen
    categories in one bin give the same value as each in its own.
    """
    shares = _shares(reference, current)
    return None if shares is None else float(get_distance(*shares))


def get_distance(before: NDArray[np.float64], now: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Jensen-Shannon distance of shares, which are along the last axis."""
    from scipy.special import rel_entr

    middle = (before + now) / 2
    divergence = (rel_entr(before, middle) + rel_entr(now, middle)).sum(axis=-1) / np.log(4)
    return np.asarray(np.sqrt(np.maximum(divergence, 0)))


def ks(reference: ColumnProfile, current: ColumnProfile) -> float | None:
    """Two-sample Kolmogorov-Smirnov statistic: the greatest gap between the two ECDFs.

    Source: Smirnov, "Table for Estimating the Goodness of Fit of Empirical Distributions", Ann.
    Math. Statist. 19(2), 1948. Both are step functions, so all steps of both sketches are tried;
    the result is off by no more than the rank errors of the two.
    """
    gaps = _distribution_gaps(reference, current)
    return None if gaps is None else float(gaps[1].max())


def null_share(reference: ColumnProfile, current: ColumnProfile) -> float | None:
    """Absolute change of the share of rows that are null."""
    if reference.rows == 0 or current.rows == 0:
        return None
    return abs(current.nulls / current.rows - reference.nulls / reference.rows)


def unseen_share(reference: ColumnProfile, current: ColumnProfile) -> float | None:
    """Share of the current values that are of a category the reference does not name.

    Rows that the current profile only counts among its `others` are taken as seen.
    """
    if reference.counts is None or current.counts is None or not _have_values(reference, current):
        return None
    unseen = current.counts.keys() - reference.counts.keys()
    return sum(current.counts[value] for value in unseen) / current.filled


def wasserstein(reference: ColumnProfile, current: ColumnProfile) -> float | None:
    """Wasserstein-1 distance, in standard deviations of the reference.

    It is the area between the two ECDFs. Source: Vallender, "Calculation of the Wasserstein
    Distance between Probability Distributions on the Line", Theory Probab. Appl. 18(4), 1974.
    None where the reference is one value.
    """
    if (gaps := _distribution_gaps(reference, current)) is None:
        return None
    values, rows = np.array([*(reference.sketch or ())], dtype=np.float64).T
    spread = np.sqrt(np.average((values - np.average(values, weights=rows)) ** 2, weights=rows))
    area = gaps[1][:-1] @ np.diff(gaps[0])
    return float(area / spread) if spread else None


def _distribution_gaps(reference: ColumnProfile, current: ColumnProfile) -> Shares | None:
    """Return all values of two numeric sides in order, and the gap of the ECDFs at each."""
    before, now = reference.sketch, current.sketch
    if before is None or now is None or not _have_values(reference, current):
        return None
    steps = np.unique([value for sketch in (before, now) for value, _ in sketch])
    sides = (np.array(sketch.get_cdf(steps, inclusive=True)) for sketch in (before, now))
    return steps.astype(np.float64), np.abs(np.subtract(*sides))[:-1]


def chi_squared(reference: ColumnProfile, current: ColumnProfile) -> float | None:
    """Pearson's statistic of two samples of categories having one law; it grows with the rows.

    Source: Pearson, "On the Criterion ...", Philosophical Magazine 50, 1900.
    """
    if reference.counts is None or current.counts is None or not _have_values(reference, current):
        return None
    names = tuple(sorted({*reference.counts, *current.counts}))
    sides = (reference, current)
    rows = np.array([_category_shares(side, names) * side.filled for side in sides])
    rows = rows[:, rows.sum(axis=0) > 0]
    expected = np.outer(rows.sum(axis=1), rows.sum(axis=0)) / rows.sum()
    return float(((rows - expected) ** 2 / expected).sum())


_ALL = (psi, ks, jensen_shannon, null_share, unseen_share, wasserstein, chi_squared)
MEASURES: dict[str, Measure] = {measure.__name__: measure for measure in _ALL}


def compare(
    reference: Mapping[str, ColumnProfile],
    current: Mapping[str, ColumnProfile],
    names: Iterable[str] = tuple(MEASURES),
) -> Iterator[tuple[str, str, float]]:
    """Take measures of each column that both windows have, where they are defined.

    Args:
        reference: Profiles by column, such as of the training window.
        current: Profiles by column.
        names: The measures to take, by name; all by default.

    Yields:
        Column, measure and statistic: column by column in the order of the reference; without
        those that `explain_unsupported` gives a reason for.

    Raises:
        DriftError: A column is numeric in one window only.
    """
    measures = {name: MEASURES[name] for name in names}
    for name in (name for name in reference if name in current):
        before, now = reference[name], current[name]
        if before.kind != now.kind:
            raise DriftError(
                f"column {name} is {before.kind} in the reference and {now.kind} in the "
                "current window: build both profiles with one type"
            )
        if before.is_single or now.is_single:
            before, now = before.in_single(), now.in_single()
        for measure, function in measures.items():
            statistic = function(before, now)
            if statistic is not None and not explain_unsupported(measure, before, now):
                yield name, measure, statistic


def explain_unsupported(measure: str, reference: ColumnProfile, current: ColumnProfile) -> str:
    """Return why truncated counts do not support a measure, or an empty text where they do.

    Each block names only its most frequent values, so that a value may be named in one window and
    counted among the others in the next one although nothing has changed.
    """
    others = reference.others + (0 if measure == "unseen_share" else current.others)
    if not others or measure == "null_share":
        return ""
    return (
        f"{measure} is not computed, because a partition has more than {CATEGORY_BOUND} values, "
        "of which its summary names only the most frequent: watch null_share, or group the values"
    )


def describe_effect(reference: ColumnProfile, current: ColumnProfile) -> str:
    """Describe what has changed most about a column, in its own units: then and now.

    Returns:
        The median of numbers, or a tail that has moved by more than twice as much; the category
        whose share has changed most; nulls where these have changed by more, or where a side has
        nothing else.
    """
    if not reference.rows or not current.rows:
        return ""
    sides = reference, current
    empty = [side.nulls / side.rows for side in sides]
    nulls = f"null {empty[0]:.1%} → {empty[1]:.1%}"
    if not _have_values(*sides):
        return nulls
    if reference.sketch is not None and current.sketch is not None:
        before, after = reference.sketch, current.sketch
        ends = {name: (before.get_quantile(q), after.get_quantile(q)) for name, q in QUANTILES}
        weights = {name: 2 if name == MEDIAN else 1 for name in ends}
        name = max(ends, key=lambda end: weights[end] * abs(ends[end][1] - ends[end][0]))
        then, now = ends[name]
        distance = abs(before.get_rank(now) - after.get_rank(now))
        pairs = (f"{then:.{digits}g} → {now:.{digits}g}" for digits in range(4, 18))
        distinct = (pair for pair in pairs if len({*pair.split(" → ")}) > 1)
        change = f"{name} {next(distinct, f'{then:.4g} → {now:.4g}')}"
    else:
        names = sorted({*(reference.counts or {}), *(current.counts or {})})
        shares = np.array([_category_shares(side, tuple(names)) for side in sides])
        farthest = int(np.argmax(np.abs(shares[1] - shares[0])))
        then, now = shares[:, farthest]
        distance = abs(now - then)
        change = f"{[*names, 'others'][farthest]} {then:.1%} → {now:.1%}"
    return nulls if abs(empty[1] - empty[0]) > distance else change


def _have_values(reference: ColumnProfile, current: ColumnProfile) -> bool:
    return reference.filled > 0 and current.filled > 0


def _shares(reference: ColumnProfile, current: ColumnProfile) -> Shares | None:
    """Return the share of the values of each side in each bin; None where a side has no value."""
    if not _have_values(reference, current):
        return None
    before, now = reference.sketch, current.sketch
    if before is not None and now is not None:
        edges = _edges(before, reference.is_single)
        in_bins = before.get_pmf(edges, inclusive=True), now.get_pmf(edges, inclusive=True)
        return np.array(in_bins[0]), np.array(in_bins[1])
    names = tuple(reference.counts or {})
    return _category_shares(reference, names), _category_shares(current, names)


def _category_shares(profile: ColumnProfile, names: tuple[str, ...]) -> NDArray[np.float64]:
    counts = [(profile.counts or {}).get(name, 0) for name in names]
    return np.array([*counts, profile.filled - sum(counts)]) / profile.filled


def _edges(reference: kll_doubles_sketch | kll_floats_sketch, is_single: bool) -> Values:
    """Return the upper edges of all bins but the last: the deciles of the reference, each once.

    A decile met more than once is a value that many rows share. It gets a bin of its own, or a
    column that is nearly constant could move below that value, or leave it, unnoticed.
    """
    precision = np.float32 if is_single else np.float64
    ranks = np.arange(1, BINS) / BINS
    deciles = np.array(reference.get_quantiles(ranks, inclusive=True), dtype=precision)
    distinct, times = np.unique(deciles, return_counts=True)
    just_below = np.nextafter(distinct[times > 1], precision(-np.inf))
    return np.union1d(distinct, just_below)
