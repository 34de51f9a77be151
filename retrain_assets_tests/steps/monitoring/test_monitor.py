"""Performance is told twice: promised by the probabilities at once, realised once labels are final.

Labels come three days late, by a correction of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from retrain_assets.domain.decision.causes import estimate_is_reliable
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.decision.evaluate import read_calibration
from retrain_assets.steps.inspect.status import status
from retrain_assets.steps.monitoring.monitor import observe
from retrain_assets_tests.world import MODEL, World, customers, key, new_world

DELAY, CURRENT, FIRST, LAST = 3, 3, 19, 30
TURN = 26


def deliver(world: World, number: int, *, labelled: bool) -> None:
    """A day's file; from the turn on, what follows from `x` is the opposite."""
    rows = customers(number, slope=2.0 if number < TURN else -2.0)
    if not labelled:
        rows = rows.with_columns(left=pl.lit(None, pl.Int64))
    rows.write_csv(world.root / "landing" / "customers" / f"{key(number)}.csv")


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world where each day lands without labels, and again with them."""
    triggers = {"performance": {"metric": "log_loss", "max_drop": 0.2}, "cooldown": 100}
    with dg.DagsterInstance.ephemeral() as instance:
        root = tmp_path_factory.mktemp("late")
        world = new_world(root, instance, labels={"delay": DELAY}, triggers=triggers)
        world.land(*range(FIRST))
        world.settle()
        for number in range(FIRST, LAST):
            deliver(world, number, labelled=False)
            deliver(world, number - DELAY, labelled=True)
            world.settle()
        yield world


def told(world: World, role: str) -> pl.DataFrame:
    rows = world.storage.tables.scan("churn/monitoring").collect()
    return rows.filter(role=role).sort("_landing_partition")


def predicted(world: World, first: str, last: str) -> pl.DataFrame:
    rows = world.storage.tables.scan("churn/predictions").collect()
    return rows.filter(pl.col("_landing_partition").is_between(pl.lit(first), pl.lit(last)))


def test_labels_judge_once_they_are_final_and_not_before(late: World) -> None:
    rows = told(late, "performance")
    keys = [key(number) for number in range(LAST)]
    for row in rows.iter_rows(named=True):
        assert keys.index(row["window_to"]) == keys.index(row["_landing_partition"]) - DELAY
        seen = predicted(late, row["window_from"], row["window_to"])
        chance, label = seen["prediction"].to_numpy(), seen["label"].to_numpy()
        loss = -np.log(np.where(label == 1, chance, 1 - chance)).mean()
        assert row["statistic"] == pytest.approx(loss)
        assert row["low"] < loss < row["high"]
    assert rows.height == LAST - FIRST - CURRENT - DELAY + 1


def test_the_estimate_is_there_without_a_label(late: World) -> None:
    production = late.state.ledger.read().production
    assert production is not None
    assert production.candidate is not None
    calibrated = read_calibration(late.state, production.candidate)
    assert calibrated is not None
    rows = told(late, "estimated")
    assert rows["window_to"].to_list() == rows["_landing_partition"].to_list()
    assert rows["window_to"].max() == key(LAST - 1)
    for row in rows.iter_rows(named=True):
        seen = predicted(late, row["window_from"], row["window_to"])
        said = seen["prediction"].to_numpy()
        chance = calibrated(said)[:, 1]
        promised = -(chance * np.log(said) + (1 - chance) * np.log(1 - said)).mean()
        assert row["statistic"] == pytest.approx(promised)


def test_it_is_blind_to_another_law_and_known_to_be_once_labels_come(late: World) -> None:
    estimated, realised = told(late, "estimated"), told(late, "performance")
    before = pl.col("window_to") < key(TURN)
    assert estimate_is_reliable(estimated.filter(before), realised.filter(before))[0]
    assert not estimate_is_reliable(estimated, realised.filter(~before))[0]
    assert not estimated["alert"].any()
    cause = next(c for c in status(late.state)["triggers"] if c["cause"] == "performance")
    assert cause["fired"]


def test_what_the_policy_decided_is_kept_with_every_cause(late: World) -> None:
    kept = late.storage.tables.scan("churn/decisions").collect()
    as_of = kept["_landing_partition"].max()
    newest = kept.filter(_landing_partition=as_of)
    assert newest["cause"].n_unique() == newest.height > 5
    found = status(late.state)["decisions"]
    first = found[-1]
    assert (first["wanted"], first["causes"], first["outdated"]) == (True, ["no_production"], False)
    assert all(row["as_of"] > first["as_of"] and not row["wanted"] for row in found[:-1])
    assert "`triggers.cooldown` is 100" in found[0]["reason"]


def test_a_decision_on_data_that_were_corrected_since_is_marked(late: World) -> None:
    before = {row["as_of"]: row["outdated"] for row in status(late.state)["decisions"]}
    corrected = customers(FIRST - 5).with_columns(plan=pl.lit("pro"))
    corrected.write_csv(late.root / "landing" / "customers" / f"{key(FIRST - 5)}.csv")
    late.settle()
    after = {row["as_of"]: row["outdated"] for row in status(late.state)["decisions"]}
    assert not any(before.values())
    assert set(before) == set(after)
    assert after[min(after)]


def test_a_decision_under_a_spec_that_was_changed_since_is_not(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance)
    world.land(*range(16))
    world.settle()
    features = MODEL["features"] | {"sql": "SELECT x * 2 AS x, plan FROM rows"}
    windows = MODEL["windows"] | {"train": 3}
    changed = replace(
        world, spec=ModelSpec.model_validate(MODEL | {"features": features, "windows": windows})
    )
    changed.settle()
    assert changed.state.built() != world.state.sources()
    made = status(changed.state)["decisions"]
    assert made
    assert not any(row["outdated"] for row in made)


def test_the_output_too_is_held_against_a_rate_of_false_alarms(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    triggers = {"prediction_drift": {"false_alarms_per_year": 20}, "cooldown": 100}
    world = new_world(tmp_path, instance, triggers=triggers)
    world.land(*range(16))
    world.settle()
    world.land(*range(16, 20))
    world.settle()
    calm = told(world, "prediction").filter(measure="p_value")
    assert calm.height == 2  # the windows of three days that this version predicted
    assert not calm["alert"].any()
    assert calm["threshold"].unique().to_list() == [pytest.approx(20 / 365.25)]
    world.land(20, 21, 22, shift=3.0)
    world.settle()
    moved = told(world, "prediction").filter(_landing_partition=key(22))
    assert moved.filter(measure="p_value")["alert"].item()
    farthest = moved.filter(measure="ks")
    assert farthest["statistic"].item() > farthest["threshold"].item()
    assert moved.select("measure", "column").is_unique().all()
    cause = next(c for c in status(world.state)["triggers"] if c["cause"] == "prediction_drift")
    assert cause["fired"]


def test_a_replay_measures_no_drift_that_no_trigger_needs(late: World) -> None:
    days, limit = [key(LAST - 1)], {"threshold": 0.2, "share": 0.5}
    always, triggers = observe(late.state, days).rows, {**late.spec.triggers.model_dump()}
    spec = late.spec.model_dump() | {"triggers": triggers | {"data_drift": limit}}
    watched = replace(late.state, spec=ModelSpec.model_validate(spec))
    rows = [observe(state, days, only_triggers=True).rows for state in (late.state, watched)]
    drift = pl.col("role").is_in(["feature", "target", "prediction"])
    assert rows[0].equals(always.filter(~drift))
    assert {"feature", "target", "prediction"} == {*always.filter(drift)["role"]}
    seen = pl.col("role") == "feature", pl.col("measure") == "psi"
    assert rows[1].filter(drift).equals(observe(watched, days).rows.filter(seen))
    assert rows[1].filter(seen).height > 1


def test_status_says_what_moved_farthest_then_and_now(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    drift = {"data_drift": {"measure": "psi", "threshold": 0.5}, "cooldown": 100}
    world = new_world(tmp_path, instance, triggers=drift)
    world.land(*range(16))
    world.settle()
    world.land(*range(16, 20), shift=3.0)
    world.settle()
    first, second = status(world.state)["moved"]
    assert (first["column"], first["alert"]) == ("x", True)
    then, now = (float(part) for part in first["effect"].removeprefix("median ").split(" → "))
    assert abs(then) < 0.5
    assert now > 2.5
    assert (second["column"], second["alert"]) == ("plan", False)
