"""Drift that is watched at a rate of false alarms: in the tables, the checks and the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from retrain_assets.steps.inspect.status import status
from retrain_assets_tests.world import World, key, new_world

DRIFT = {"data_drift": {"false_alarms_per_year": 10}, "cooldown": 100}


def feature_rows(world: World, day: int) -> pl.DataFrame:
    rows = world.storage.tables.scan("churn/monitoring").collect()
    return rows.filter(
        pl.col("threshold").is_not_null(), _landing_partition=key(day), role="feature"
    )


def cause(world: World) -> dict[str, Any]:
    return next(
        found for found in status(world.state)["triggers"] if found["cause"] == "data_drift"
    )


def test_what_moved_is_told_and_what_did_not_is_not(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance, triggers=DRIFT)
    world.land(*range(16))
    world.settle()
    assert cause(world)["reason"] == ("no window lies wholly after what production was trained on")
    world.land(*range(16, 22))
    world.settle()
    assert feature_rows(world, 17).is_empty(), "its window holds a day that was trained on"
    calm = feature_rows(world, 21)
    assert not calm["alert"].any()
    assert set(calm.select("measure", "column").iter_rows()) == {
        ("p_value", ""),
        ("ks", "x"),
        ("jensen_shannon", "plan"),
    }
    assert not cause(world)["fired"]

    world.land(*range(22, 25), shift=1.0)
    runs = world.settle()
    moved = feature_rows(world, 24)
    assert moved.filter("alert")["measure"].to_list() == ["p_value", "ks"]
    said = cause(world)
    assert said["fired"]
    assert (
        "and 0.027 or less is drift (10 false alarms a year); farthest is x: ks " in said["reason"]
    )
    checked = {
        check.check_name: check.passed
        for entry in instance.all_logs(
            runs[-1].run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        )
        if (check := entry.get_dagster_event().asset_check_evaluation_data)
    }
    assert not checked["no_data_drift"]


def test_a_window_is_judged_alike_whenever_it_is_judged(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance, triggers=DRIFT)
    world.land(*range(16))
    world.settle()
    world.land(*range(16, 21))
    world.settle()
    before = feature_rows(world, 20)
    world.land(21)
    world.settle()
    assert feature_rows(world, 20).equals(before)
    assert before.height == 3
