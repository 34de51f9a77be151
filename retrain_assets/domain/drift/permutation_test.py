"""Thresholds of drift that keep a stated rate of false alarms, from stored profiles alone.

Reference and current blocks are pooled, and as many blocks as are current are drawn again and again
from the pool: if nothing drifts, the current window is one draw like any other. So the share of
draws whose largest statistic over all columns is as large is a p-value, exact however few blocks
there are and however alike rows of one block (permutation of whole blocks with the maximum over
columns: Westfall and Young, "Resampling-Based Multiple Testing", Wiley 1993). Statistics of
different columns are made comparable by mean and deviation over draws of their own, which know
nothing of which blocks are current.

What is exact is exact for blocks that could come in any order. Seasons and trends are drift by
this definition, and are told as such. Not here: what is done about an alarm.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.profile import pool_values, read_sketch

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
    """

    statistics: Mapping[tuple[str, str], float]
    thresholds: Mapping[tuple[str, str], float]
    beyond: Mapping[tuple[str, str], float]
    p_value: float
    error: float
    draws: int
    alarm: bool


def pool(profile: pl.DataFrame, keys: Sequence[str]) -> list[Column]:
    """Stored summaries of some blocks as counts.

    Args:
        profile: Rows of `PROFILE_SCHEMA`; of each column, one for each of the blocks.
        keys: Blocks, in the order of the rows of what is returned.
    """
    place = {key: number for number, key in enumerate(keys)}
    columns = profile.partition_by("column", maintain_order=True, as_dict=True)
    found = []
    for (name,), part in columns.items():
        blocks = np.array([place[key] for key in part[PARTITION]])
        nulls = np.zeros(len(keys))
        nulls[blocks] = part["nulls"].to_numpy()
        ordered = part["kind"][0] == "numeric"
        count = _count_bins if ordered else _count_categories
        content = part["sketch" if ordered else "counts"].to_list()
        found.append(Column(str(name), ordered, count(blocks, content, len(keys)), nulls))
    return found


def run_permutation_test(
    columns: Sequence[Column], current: Sequence[int], rate: float, random: np.random.Generator
) -> PermutationTest:
    """Hold the current blocks of a pool against draws of as many.

    Args:
        columns: The pool.
        current: Places of the current blocks; all others are the reference.
        rate: Probability of a false alarm that is allowed in this evaluation.
        random: Of the draws.

    Raises:
        ValueError: The rate is not between 0 and 1.
    """
    if not 0 < rate < 1:
        raise ValueError(f"a rate of {rate} is no probability between 0 and 1")
    blocks = len(columns[0].counts)
    mask = np.zeros((1, blocks))
    mask[0, list(current)] = 1
    names = [(column.name, measure) for column in columns for measure in _list_measures(column)]
    seen = _compute_statistics(columns, mask)[0]
    pilot = _compute_statistics(columns, _draw(PILOT, blocks, len(current), random))
    mean, deviation = pilot.mean(axis=0), pilot.std(axis=0)
    # What is the same in every draw tells none from another.
    varied = deviation >= LEAST_DEVIATION
    largest = _take_largest(seen[None], mean, deviation, varied)[0]
    drawn, tops = np.empty((0, len(names))), np.empty(0)
    planned = int(np.ceil(20 / rate)) if rate < 20 / 1000 else 1000
    while len(tops) < planned and np.count_nonzero(tops >= largest) < FEWEST_ALIKE:
        more = _compute_statistics(columns, _draw(CHUNK, blocks, len(current), random))
        drawn = np.concatenate([drawn, more])
        tops = np.concatenate([tops, _take_largest(more, mean, deviation, varied)])
    draws = len(tops)
    p_value = (1 + np.count_nonzero(tops >= largest)) / (1 + draws)
    allowed = int(rate * (1 + draws))
    limit = np.sort(tops)[-max(allowed, 1)]
    return PermutationTest(
        statistics=dict(zip(names, seen.tolist(), strict=True)),
        thresholds={
            name: float(mean[place] + deviation[place] * limit)
            for place, name in enumerate(names)
            if varied[place]
        },
        beyond=dict(zip(names, (drawn >= seen).mean(axis=0).tolist(), strict=True)),
        p_value=float(p_value),
        error=float(np.sqrt(p_value * (1 - p_value) / draws)),
        draws=draws,
        alarm=bool(p_value <= rate),
    )


def _take_largest(
    statistics: Floats, mean: Floats, deviation: Floats, varied: NDArray[np.bool_]
) -> Floats:
    """The largest of each row, by the draws' own mean and deviation."""
    standard = (statistics - mean)[:, varied] / deviation[varied]
    top: Floats = standard.max(axis=1, initial=-np.inf)
    return top


def compute_least_rate(reference: int, current: int) -> float:
    """The least rate that so few blocks can tell from chance: one over all windows there are."""
    return 1 / math.comb(reference + current, current)


def _list_measures(column: Column) -> tuple[str, ...]:
    own = "ks" if column.ordered else "jensen_shannon"
    return (own, "null_share") if column.nulls.any() else (own,)


def _draw(times: int, blocks: int, size: int, random: np.random.Generator) -> Floats:
    """Masks of windows, a row each."""
    chosen = np.argpartition(random.random((times, blocks)), size - 1, axis=1)[:, :size]
    masks = np.zeros((times, blocks))
    np.put_along_axis(masks, chosen, 1, axis=1)
    return masks


def _compute_statistics(columns: Sequence[Column], masks: Floats) -> Floats:
    """Of each window, one a row, against all blocks outside it."""
    found = []
    for column in columns:
        now = masks @ column.counts
        before = column.counts.sum(axis=0) - now
        measure = _ks if column.ordered else _jensen_shannon
        # A side without a value is told by the share of nulls, and moved nowhere.
        filled = (before.sum(axis=1) > 0) & (now.sum(axis=1) > 0)
        found.append(np.where(filled, measure(_divide(before), _divide(now)), 0))
        if column.nulls.any():
            rows = column.counts.sum(axis=1) + column.nulls
            null, total = masks @ column.nulls, masks @ rows
            others = (column.nulls.sum() - null) / np.maximum(rows.sum() - total, 1)
            found.append(np.abs(null / np.maximum(total, 1) - others))
    return np.stack(found, axis=1)


def _divide(counts: Floats) -> Floats:
    shares: Floats = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares


def _ks(before: Floats, now: Floats) -> Floats:
    gaps: Floats = np.abs(np.cumsum(now - before, axis=1)).max(axis=1)
    return gaps


def _jensen_shannon(before: Floats, now: Floats) -> Floats:
    from scipy.special import rel_entr

    middle = (before + now) / 2
    divergence = (rel_entr(before, middle) + rel_entr(now, middle)).sum(axis=1) / np.log(4)
    distance: Floats = np.sqrt(np.maximum(divergence, 0))
    return distance


def _count_bins(blocks: NDArray[np.int64], sketches: list[bytes], length: int) -> Floats:
    """Rows by block and quantile bin of the pool."""
    values, weights = pool_values(sketches)
    if not weights.sum():
        return np.zeros((length, 1))
    place = np.repeat(blocks, [len(read_sketch(sketch)[0]) for sketch in sketches])
    order = np.argsort(values)
    ranks = np.cumsum(weights[order]) / weights.sum()
    edges = np.unique(values[order][np.searchsorted(ranks, np.arange(1, BINS) / BINS)])
    width = len(edges) + 1
    bins = place * width + np.searchsorted(edges, values)
    return np.bincount(bins, weights, length * width).reshape(length, width).astype(np.float64)


def _count_categories(blocks: NDArray[np.int64], counts: list[str], length: int) -> Floats:
    """Rows by block and category; what a block only counts among its others is left out."""
    parts = [json.loads(text) for text in counts]
    names = sorted({name for part in parts for name in part})
    place = {name: number for number, name in enumerate(names)}
    found = np.zeros((length, max(len(place), 1)))
    for block, part in zip(blocks, parts, strict=True):
        for name, rows in part.items():
            found[block, place[name]] = rows
    return found
