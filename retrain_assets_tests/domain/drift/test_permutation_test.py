"""Thresholds keep the rate of false alarms that was stated, and are met where something moves."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom

from retrain_assets.domain.drift.observations import describe_likeness, observe_permutation_test
from retrain_assets.domain.drift.permutation_test import (
    PermutationTest,
    compute_least_rate,
    pool,
    run_permutation_test,
)
from retrain_assets.domain.drift.profile import build_profile

REFERENCE, CURRENT, RATE = 20, 4, 0.1


def stream(random: np.random.Generator, blocks: int, moved: float = 0.0) -> pl.DataFrame:
    """Blocks with days of their own, which rows share; the last ones moved."""
    frames = []
    for block in range(blocks):
        late = moved if block >= blocks - CURRENT else 0.0
        day = random.normal(0, 1, 2)
        frames.append(
            pl.DataFrame(
                {
                    "_landing_partition": f"{block:03}",
                    "x": random.normal(day[0] + late, 1, 40),
                    "y": random.exponential(np.exp(day[1] / 2), 40),
                    "plan": random.choice(["a", "b", "c"], 40, p=random.dirichlet([4, 4, 4])),
                }
            ).with_columns(pl.when(pl.int_range(pl.len()) % 9 > 0).then("y").alias("y"))
        )
    return pl.concat(frames)


def judged(rows: pl.DataFrame, rate: float = RATE, seed: int = 0) -> PermutationTest:
    keys = rows["_landing_partition"].unique().sort().to_list()
    places = range(len(keys) - CURRENT, len(keys))
    return run_permutation_test(
        pool(build_profile(rows), keys), places, rate, np.random.default_rng(seed)
    )


def test_where_nothing_drifts_alarms_come_as_rarely_as_was_stated() -> None:
    times, random = 300, np.random.default_rng(7)
    alarms = sum(judged(stream(random, REFERENCE + CURRENT)).alarm for _ in range(times))
    low, high = binom.interval(0.999, times, RATE)
    assert low <= alarms <= high


def test_the_column_that_moved_is_beyond_its_threshold() -> None:
    found = judged(stream(np.random.default_rng(1), REFERENCE + CURRENT, moved=4.0), rate=0.01)
    assert found.alarm
    assert found.statistics["x", "ks"] > found.thresholds["x", "ks"]
    assert found.beyond["x", "ks"] < 0.01
    calm = ("plan", "jensen_shannon")
    assert found.statistics[calm] < found.thresholds[calm]
    assert set(found.statistics) == {("x", "ks"), ("y", "ks"), ("y", "null_share"), calm}


def test_a_new_category_and_a_burst_of_nulls_are_drift() -> None:
    rows = stream(np.random.default_rng(2), REFERENCE + CURRENT)
    late = pl.col("_landing_partition") >= f"{REFERENCE:03}"
    renamed = rows.with_columns(pl.when(late).then(pl.lit("z")).otherwise("plan").alias("plan"))
    emptied = rows.with_columns(pl.when(~late).then("y").alias("y"))
    for changed, cause in ((renamed, ("plan", "jensen_shannon")), (emptied, ("y", "null_share"))):
        found = judged(changed, rate=0.01)
        assert found.alarm
        far = {name: found.statistics[name] / limit for name, limit in found.thresholds.items()}
        assert max(far, key=far.__getitem__) == cause


def test_blocks_that_share_their_units_with_neighbours_are_seen_to_be_alike() -> None:
    random = np.random.default_rng(8)
    level = np.cumsum(random.normal(size=REFERENCE + CURRENT))  # units stay from day to day
    day = pl.col("_landing_partition").cast(pl.Int64)
    moved = day.replace_strict(list(range(len(level))), level.tolist())
    rows = stream(random, REFERENCE + CURRENT).with_columns(x=pl.col("x") + moved)
    assert judged(rows).likeness > 0.6
    calm = [judged(stream(random, REFERENCE + CURRENT)).likeness for _ in range(20)]
    assert sum(likeness > 0 for likeness in calm) <= 1


def test_an_effect_that_is_too_small_makes_no_alarm_and_the_rate_is_said_not_to_hold() -> None:
    rows = stream(np.random.default_rng(1), REFERENCE + CURRENT, moved=4.0)
    keys = rows["_landing_partition"].unique().sort().to_list()
    pooled, places = pool(build_profile(rows), keys), range(REFERENCE, REFERENCE + CURRENT)
    for smallest, expected in ((0.05, True), (0.99, False)):
        inputs = "feature", pooled, places, 0.01, [0], {}
        joint, *columns = observe_permutation_test(*inputs, smallest=smallest)
        assert joint.alert is expected
        assert any(column.alert for column in columns) is expected
    assert "more false alarms than stated" in (describe_likeness(0.5) or "")
    assert describe_likeness(0.0) is None


def test_the_same_seed_judges_alike() -> None:
    rows = stream(np.random.default_rng(3), REFERENCE + CURRENT)
    assert judged(rows, seed=5) == judged(rows, seed=5)


def test_draws_end_where_no_alarm_can_come_of_them() -> None:
    calm = judged(stream(np.random.default_rng(3), REFERENCE + CURRENT), rate=0.002)
    moved = judged(stream(np.random.default_rng(3), REFERENCE + CURRENT, moved=5), rate=0.002)
    assert calm.draws < moved.draws == 10_000
    assert moved.alarm
    assert moved.p_value <= 0.002 < calm.p_value
    assert 0 < moved.error < calm.error


def test_a_column_without_a_value_alarms_nobody() -> None:
    rows = stream(np.random.default_rng(4), REFERENCE + CURRENT)
    empty = rows.with_columns(pl.lit(None, pl.Float64).alias("y"), pl.lit(1.0).alias("one"))
    found = judged(empty)
    assert found.statistics["y", "ks"] == found.statistics["one", "ks"] == 0.0


def test_few_blocks_support_no_small_rate() -> None:
    assert compute_least_rate(3, 2) == pytest.approx(1 / 10)
    assert compute_least_rate(60, 7) < 1e-8


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_what_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="is not a probability between 0 and 1"):
        judged(stream(np.random.default_rng(5), REFERENCE + CURRENT), rate=rate)
