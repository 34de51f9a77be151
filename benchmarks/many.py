"""Alarms of drift over many segments: rows shuffled over segments and days, and some that move.

    python benchmarks/many.py [--segments 200] [--moved 20] [--days 5] [--per-year 12]

Rows of two numbers and a category are dealt to segments and days at random, so that nothing
moves; then both numbers of some segments are shifted in the newest week. The test of each segment
is the shipped one, 60 days against 7. "Each its own" is a YAML for each segment, which knows
nothing of the others; "alone" is each test at its share of the level; "together" is `for_each`.
Not here: what a segment costs in a run (docs/scale.md).
"""

import argparse
import os

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.many_tests import alert_together
from retrain_assets.domain.drift.observations import FEATURE, P_VALUE
from retrain_assets.domain.drift.permutation_test import BINS, Column, run_permutation_test
from retrain_assets.steps.state import MONITORING_SCHEMA

BLOCKS, CURRENT, ROWS, SHIFT, YEAR = 67, 7, 60, 0.5, 365


def main() -> None:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--segments", type=int, default=200)
    parser.add_argument("--moved", type=int, default=20)
    parser.add_argument("--days", type=int, default=5)
    parser.add_argument("--per-year", type=float, default=12)
    options = parser.parse_args()
    level = options.per_year / YEAR
    print("moved  day  each its own: true false  alone: true false  together: true false  CPU s")
    for moved in (0, options.moved):
        for day in range(options.days):
            before = sum(os.times()[:4])
            p_values = _test(options.segments, moved, level, day)
            counts = [_count(p_values <= limit, moved) for limit in (level, level / len(p_values))]
            counts.append(_count(_alert(p_values, level), moved))
            texts = "   ".join(f"{true:10} {false:6}" for true, false in counts)
            print(f"{moved:5}  {day:3}  {texts}  {sum(os.times()[:4]) - before:6.1f}", flush=True)


def _test(segments: int, moved: int, level: float, day: int) -> np.ndarray:
    """Return the p-value of each segment, of which the first have moved."""
    random = np.random.default_rng([moved, day])
    values = random.permutation(random.standard_t(4, (segments * BLOCKS * ROWS, 2)))
    numbers = values.reshape(segments, BLOCKS, ROWS, 2)
    numbers[:moved, -CURRENT:] += SHIFT
    kinds = random.integers(0, 8, (segments, BLOCKS, ROWS))
    rate, current = level / segments, range(BLOCKS - CURRENT, BLOCKS)
    tests = (_pool(numbers[segment], kinds[segment]) for segment in range(segments))
    return np.array([run_permutation_test(pool, current, rate, random).p_value for pool in tests])


def _pool(numbers: np.ndarray, kinds: np.ndarray) -> list[Column]:
    none = np.zeros(BLOCKS)
    columns = []
    for place in range(numbers.shape[2]):
        column = numbers[:, :, place]
        edges = np.quantile(column, np.arange(1, BINS) / BINS)
        columns.append(Column(f"x{place}", True, _count_bins(np.searchsorted(edges, column)), none))
    return [*columns, Column("kind", False, _count_bins(kinds, 8), none)]


def _count_bins(bins: np.ndarray, width: int = BINS) -> np.ndarray:
    return np.stack([np.bincount(row, minlength=width) for row in bins]).astype(np.float64)


def _alert(p_values: np.ndarray, level: float) -> np.ndarray:
    """Return the alarms of all tests together."""
    shared = {PARTITION: "day", "role": FEATURE, "measure": P_VALUE, "column": ""}
    rows = [shared | {"statistic": p, "threshold": level / len(p_values)} for p in p_values]
    return alert_together(pl.DataFrame(rows, schema=MONITORING_SCHEMA))["alert"].to_numpy()


def _count(alarms: np.ndarray, moved: int) -> tuple[int, int]:
    return int(alarms[:moved].sum()), int(alarms[moved:].sum())


if __name__ == "__main__":
    main()
