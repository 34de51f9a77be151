"""Thresholds of drift that keep a stated rate of false alarms, from stored profiles alone.

Reference and current blocks are pooled, and as many blocks as are current are drawn again and again
from the pool: if nothing drifts, the current window is one draw like any other. So the share of
draws whose largest statistic over all columns is as large is a p-value, exact however few blocks
there are and however alike rows of one block (permutation of whole blocks with the maximum over
columns: Westfall and Young, "Resampling-Based Multiple Testing", Wiley 1993). Statistics of
different columns are made comparable by mean and deviation over separate draws, which do not
depend on which blocks are current.

What is exact is exact for blocks that could come in any order. Seasons and trends are drift by
this definition, and are told as such. If neighbouring blocks are alike, such as because they share
their customers, alarms are more frequent than stated: `likeness` tells by how much they are alike.
Not here: what is done about an alarm.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import polars as pl
from numpy.typing import NDArray

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.measures import get_distance
from retrain_assets.domain.drift.profile import EMPTY, pool_values, read_sketch

Floats = NDArray[np.float64]

BINS = 64  # of a number, by quantiles of the pool
PILOT, CHUNK = 200, 500  # draws
FEWEST_ALIKE = 50  # draws as far away, after which no further ones can make an alarm
LEAST_DEVIATION = 1e-9


@dataclass(frozen=True)
class Column:
    """One column of the pool, a row a block.

    Args:
        name: Of the column.
        ordered: Whether its bins are in an order, as those of numbers are.
        counts: Rows by block and bin.
        nulls: Rows without a value, by block.
    """

    name: str
    ordered: bool
    counts: Floats
    nulls: Floats


@dataclass(frozen=True)
class PermutationTest:
    """A window held against all windows it might have been.

    Args:
        statistics: Of the window, by column and measure.
        thresholds: Beyond which each would make an alarm, in its own units; none of what is the
            same in every window.
        beyond: Share of draws in which the column's statistic is as large.
        p_value: Share of draws, and the window itself, whose largest statistic is as large.
        error: Standard error of that share.
        draws: How many were made; fewer than planned where no alarm could come of it.
        alarm: Whether the window is farther out than the rate allows.
        likeness: Correlation of neighbouring blocks of the reference, of the column where it is
            largest; 0 where it may be chance.
    """

    statistics: Mapping[tuple[str, str], float]
    thresholds: Mapping[tuple[str, str], float]
    beyond: Mapping[tuple[str, str], float]
    p_value: float
    error: float
    draws: int
    alarm: bool
    likeness: float = 0.0


def pool(profile: pl.DataFrame, keys: Sequence[str]) -> list[Column]:
    """Return the stored summaries of some blocks as counts.

    Args:
        profile: Rows of `PROFILE_SCHEMA`; of each column, at most one for each of the blocks.
        keys: Blocks, in the order of the rows of what is returned.
    """
    columns, blocks = [], pl.DataFrame({PARTITION: keys})
    for (name,), part in profile.group_by("column", maintain_order=True):
        rows = blocks.join(part, on=PARTITION, how="left", maintain_order="left")
        ordered = part["kind"][0] == "numeric"
        count = _count_bins if ordered else _count_categories
        counts = count(rows["sketch" if ordered else "counts"].to_list())
        columns.append(Column(str(name), ordered, counts, rows["nulls"].fill_null(0).to_numpy()))
    return columns


def run_permutation_test(
    columns: Sequence[Column], current: Sequence[int], rate: float, random: np.random.Generator
) -> PermutationTest:
    """Compare the current blocks of a pool with draws of as many.

    Args:
        columns: The pool.
        current: Places of the current blocks; all others are the reference.
        rate: Probability of a false alarm that is allowed in this evaluation.
        random: Of the draws.

    Raises:
        ValueError: The rate is not between 0 and 1.
    """
    if not 0 < rate < 1:
        raise ValueError(f"a rate of {rate} is not a probability between 0 and 1")
    blocks = len(columns[0].counts)
    mask = np.zeros((1, blocks))
    mask[0, list(current)] = 1
    names = [(column.name, measure) for column in columns for measure in _list_measures(column)]
    actual = _compute_statistics(columns, mask)[0]
    pilot = _compute_statistics(columns, _draw(PILOT, blocks, len(current), random))
    mean, deviation = pilot.mean(axis=0), pilot.std(axis=0)
    # A statistic that is the same in every draw distinguishes nothing.
    varied = deviation >= LEAST_DEVIATION
    largest = _take_largest(actual[None], mean, deviation, varied)[0]
    standard, alike, beyond = list[Floats](), 0, np.zeros(len(names))
    planned = int(np.ceil(20 / rate)) if rate < 20 / 1000 else 1000
    while len(standard) * CHUNK < planned and alike < FEWEST_ALIKE:
        samples = _compute_statistics(columns, _draw(CHUNK, blocks, len(current), random))
        beyond += (samples >= actual).sum(axis=0)
        standard.append(_take_largest(samples, mean, deviation, varied))
        alike += int(np.count_nonzero(standard[-1] >= largest))
    tops = np.concatenate(standard)
    draws = len(tops)
    p_value = (1 + alike) / (1 + draws)
    allowed = int(rate * (1 + draws))
    limits = (mean + deviation * np.sort(tops)[-max(allowed, 1)]).tolist()
    thresholds = zip(names, limits, varied, strict=True)
    return PermutationTest(
        statistics=dict(zip(names, actual.tolist(), strict=True)),
        thresholds={name: limit for name, limit, is_varied in thresholds if is_varied},
        beyond=dict(zip(names, (beyond / draws).tolist(), strict=True)),
        p_value=float(p_value),
        error=float(np.sqrt(p_value * (1 - p_value) / draws)),
        draws=draws,
        alarm=bool(p_value <= rate),
        likeness=_measure_likeness(columns, ~mask[0].astype(bool)),
    )


def _measure_likeness(columns: Sequence[Column], reference: NDArray[np.bool_]) -> float:
    """Return the largest correlation of a block's shares with those of the block before it.

    Correlations that none of the columns would exceed by chance in 1 % of references count as 0.
    """
    blocks = int(reference.sum())
    likely = NormalDist().inv_cdf(1 - 0.01 / max(1, len(columns)))
    correlations = [0.0]
    for column in columns:
        shares = _divide(column.counts[reference])
        shares = shares.cumsum(axis=1) if column.ordered else shares
        apart = shares - shares.mean(axis=0)
        if (total := float((apart**2).sum())) > 0:
            correlations.append(float((apart[1:] * apart[:-1]).sum()) / total)
    largest = max(correlations) + 1 / max(1, blocks)  # its mean is -1 / blocks by chance
    return largest if largest > likely / max(1, blocks) ** 0.5 else 0.0


def _take_largest(
    statistics: Floats, mean: Floats, deviation: Floats, varied: NDArray[np.bool_]
) -> Floats:
    """Return the largest of each row, by mean and deviation of the draws."""
    standard = (statistics - mean)[:, varied] / deviation[varied]
    return np.asarray(standard.max(axis=1, initial=-np.inf))


def compute_least_rate(reference: int, current: int) -> float:
    """Return the least rate that so few blocks can support: one over the number of windows."""
    return 1 / math.comb(reference + current, current)


def _list_measures(column: Column) -> tuple[str, ...]:
    measure = "ks" if column.ordered else "jensen_shannon"
    return (measure, "null_share") if column.nulls.any() else (measure,)


def _draw(times: int, blocks: int, size: int, random: np.random.Generator) -> Floats:
    """Return masks of drawn windows, one a row."""
    places = np.argpartition(random.random((times, blocks)), size - 1, axis=1)[:, :size]
    masks = np.zeros((times, blocks))
    np.put_along_axis(masks, places, 1, axis=1)
    return masks


def _compute_statistics(columns: Sequence[Column], masks: Floats) -> Floats:
    """Return the statistics of each window, one a row, against all blocks outside it."""
    statistics = []
    for column in columns:
        now = masks @ column.counts
        before = column.counts.sum(axis=0) - now
        measure = _get_gap if column.ordered else get_distance
        # For a side without a value, only the share of nulls says something.
        filled = (before.sum(axis=1) > 0) & (now.sum(axis=1) > 0)
        statistics.append(np.where(filled, measure(_divide(before), _divide(now)), 0))
        if column.nulls.any():
            rows = column.counts.sum(axis=1) + column.nulls
            null, total = masks @ column.nulls, masks @ rows
            others = (column.nulls.sum() - null) / np.maximum(rows.sum() - total, 1)
            statistics.append(np.abs(null / np.maximum(total, 1) - others))
    return np.stack(statistics, axis=1)


def _divide(counts: Floats) -> Floats:
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _get_gap(before: Floats, now: Floats) -> Floats:
    return np.asarray(np.abs(np.cumsum(now - before, axis=1)).max(axis=1))


def _count_bins(stored: list[bytes | None]) -> Floats:
    """Count rows by block and quantile bin of the pool."""
    sketches, length = [sketch or EMPTY for sketch in stored], len(stored)
    values, weights = pool_values(sketches)
    if not weights.sum():
        return np.zeros((length, 1))
    place = np.repeat(np.arange(length), [len(read_sketch(sketch)[0]) for sketch in sketches])
    order = np.argsort(values)
    ranks = np.cumsum(weights[order]) / weights.sum()
    edges = np.unique(values[order][np.searchsorted(ranks, np.arange(1, BINS) / BINS)])
    width = len(edges) + 1
    bins = place * width + np.searchsorted(edges, values)
    return np.bincount(bins, weights, length * width).reshape(length, width).astype(np.float64)


def _count_categories(stored: list[str | None]) -> Floats:
    """Count rows by block and category; what a block only counts among its others is left out."""
    blocks = [json.loads(text or "{}") for text in stored]
    names = sorted({name for counts in blocks for name in counts}) or [""]
    return np.array([[counts.get(name, 0) for name in names] for counts in blocks], dtype=float)
