"""The interval of a gain is right for rows that share their block's luck."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from retrain_assets.domain.metrics.intervals import estimate

BLOCKS = 10


def days(count: int, rows: int) -> pl.Series:
    return pl.Series([f"{block:03}" for block in range(count) for _ in range(rows)])


def test_with_equal_blocks_a_mean_has_the_interval_of_a_t_test_on_block_means() -> None:
    losses = np.random.default_rng(1).normal(size=(BLOCKS, 7))
    zeros = np.zeros(losses.size)
    found = estimate("brier", zeros, zeros, np.sqrt(np.abs(losses)).ravel(), days(BLOCKS, 7))
    means = np.abs(losses).mean(axis=1)
    test = stats.ttest_1samp(means, 0).confidence_interval(0.9)
    assert found.gain == pytest.approx(means.mean())
    assert found.interval(0.9) == pytest.approx((test.low, test.high))
    assert list(found.block_gains.values()) == pytest.approx(means)


def test_blocks_of_unequal_size_count_by_their_rows() -> None:
    blocks = pl.Series(["a"] * 8 + ["b"] * 2 + ["c"] * 5)
    theirs = np.arange(15.0)
    found = estimate("mae", np.zeros(15), np.zeros(15), theirs, blocks)
    without = [theirs[(blocks != name).to_numpy()].mean() for name in "abc"]
    assert found.gain == theirs.mean()
    assert found.error == pytest.approx(math.sqrt(2 * np.var(without)))


def test_where_classes_are_weighed_a_few_blocks_that_decide_widen_the_interval() -> None:
    ones = [9, 1, 1, 1, 1, 1]  # most of what f1 counts lies on the first day
    target = np.concatenate([np.arange(10) < count for count in ones]).astype(float)
    theirs = target.copy()
    theirs[[0, 1, 2, 3]] = 0  # all misses are on the first day
    blocks = days(len(ones), 10)
    found = {name: estimate(name, target, target, theirs, blocks) for name in ("f1", "brier")}
    assert found["brier"].freedom == len(ones) - 1
    gains = []
    for block in range(len(ones)):
        kept = (blocks != f"{block:03}").to_numpy()
        missed, right = (target > theirs)[kept].sum(), theirs[kept].sum()
        gains.append(1 - 2 * right / (2 * right + missed))
    spread = np.array(gains) - np.mean(gains)
    effective = (spread**2).sum() ** 2 / (spread**4).sum()
    freedom = (3.16 - 2.77 / math.sqrt(len(ones))) * effective
    assert found["f1"].freedom == pytest.approx(freedom)
    assert freedom < len(ones) - 1
    low, high = found["f1"].interval(0.9)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.95, freedom) * found["f1"].error)


def test_one_block_bounds_nothing() -> None:
    found = estimate("mae", np.zeros(3), np.zeros(3), np.ones(3), days(1, 3))
    assert found.gain == 1
    assert found.interval(0.9) == (-math.inf, math.inf)


def test_a_metric_that_one_block_alone_defines_is_not_bounded() -> None:
    target = np.array([0.0, 1.0, 0.0, 0.0])
    ours = np.array([0.1, 0.9, 0.2, 0.3])
    found = estimate("roc_auc", target, ours, 1 - ours, days(2, 2))
    assert found.gain == 1
    assert found.interval(0.9) == (-math.inf, math.inf)
    assert found.block_gains == {"000": 1.0, "001": None}
