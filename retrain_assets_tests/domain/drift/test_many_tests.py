"""Alarms of many segments together: the share of false ones, where nothing and where some moves."""

from __future__ import annotations

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.many_tests import alert_together
from retrain_assets.domain.drift.observations import FEATURE, P_VALUE
from retrain_assets.steps.state import MONITORING_SCHEMA

SEGMENTS, MOVED, DAYS, LEVEL = 200, 20, 300, 0.1


def monitored(p_values: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> pl.DataFrame:
    """A test of each segment on each day, at its share of the level, beside a measure."""
    rows = [
        {PARTITION: f"{day:03}", "role": FEATURE, "measure": measure, "column": str(segment)}
        | {"statistic": p_values[day, segment], "threshold": LEVEL / SEGMENTS}
        | {"alert": p_values[day, segment] <= LEVEL / SEGMENTS}
        for day in range(p_values.shape[0])
        for segment in range(SEGMENTS)
        for measure in (P_VALUE, "ks")
    ]
    return pl.DataFrame(rows, schema=MONITORING_SCHEMA)


def test_alarms_of_all_segments_together_keep_their_level() -> None:
    random = np.random.default_rng(1)
    quiet = random.random((DAYS, SEGMENTS))
    moved = quiet.copy()
    moved[:, :MOVED] *= 0.01
    is_test = pl.col("measure") == P_VALUE
    before, after = monitored(quiet), alert_together(monitored(quiet))
    assert after.columns == before.columns
    assert after.filter(~is_test).equals(before.filter(~is_test))
    # Nothing moves: an alarm on any of 200 segments on no more than a tenth of the days.
    days = after.filter(is_test, "alert")[PARTITION].n_unique()
    assert 0 < days / DAYS < 0.14
    # 20 move: at most a tenth of the alarms are false, and more are true than each test sees alone.
    alone = monitored(moved)
    alarms = alert_together(alone).filter(is_test, "alert")
    is_false = pl.col("column").cast(pl.Int64) >= MOVED
    share = alarms.group_by(PARTITION).agg(is_false.mean().alias("false"))["false"].sum() / DAYS
    assert 0 < share <= LEVEL
    assert alarms.filter(~is_false).height > 1.5 * alone.filter(is_test, "alert", ~is_false).height
    assert alarms.filter(pl.col("statistic") > pl.col("threshold")).is_empty()
