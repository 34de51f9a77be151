"""Sensors ask once, for the right thing, and tell people what failed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from retrain_assets.domain.features.build import FeatureError
from retrain_assets.domain.metrics.metrics import MeasureError
from retrain_assets.domain.model.families.family import TrainingError
from retrain_assets.orchestration.dagster_internals.ticks import UnsettledError
from retrain_assets.orchestration.run_requests import (
    PERMANENT_TAG,
    REQUEST_TAG,
    Wish,
    requests,
    tag_permanent_error,
)
from retrain_assets.orchestration.sensors import policy_schedule
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.data.ingest import NothingLandedError
from retrain_assets.steps.data.intake import MAX_FILES
from retrain_assets.stores.tables.tables import StaleTableError
from retrain_assets_tests.world import DATASET, World, customers, key, new_world


def tick(world: World, name: str) -> list[dg.RunRequest] | str | None:
    """Return what a sensor asks for, or why it does not; a second tick with its cursor agrees."""
    repository = world.definitions.get_repository_def()

    def outcome(cursor: str | None = None) -> Any:
        context = dg.build_sensor_context(
            instance=world.instance,
            repository_def=repository,
            sensor_name=name,
            resources=repository.get_top_level_resources(),
            cursor=cursor,
        )
        return repository.get_sensor_def(name).evaluate_tick(context)

    first = outcome()
    second = outcome(first.cursor)
    keys = [[request.run_key for request in tick.run_requests or ()] for tick in (first, second)]
    assert keys[0] == keys[1]
    return first.run_requests or first.skip_message


@pytest.fixture
def persistent(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on disk, which the context of a schedule needs, and Dagster keeps open."""
    folder = tmp_path / "dagster"
    folder.mkdir()
    with dg.instance_for_test(temp_dir=str(folder)) as made:
        yield made


def test_many_files_are_asked_for_as_one_range(world: World) -> None:
    assert tick(world, "customers_new_data") == "0 files have landed, all were read"
    world.land(3, 5, 9)
    (asked,) = tick(world, "customers_new_data")  # type: ignore[misc]
    tags = asked.tags  # type: ignore[union-attr]
    assert tags["dagster/asset_partition_range_start"] == key(3)
    assert tags["dagster/asset_partition_range_end"] == key(9)


def test_a_file_that_may_still_be_written_is_waited_for(world: World) -> None:
    waiting = replace(world, dataset=dataset(read={"settle": "60s"}))
    waiting.land(0, 1)
    landed = waiting.root / "landing" / "customers"
    assert "2 may still be written" in str(tick(waiting, "customers_new_data"))
    os.utime(landed / f"{key(1)}.csv", (1, 1))
    (asked,) = tick(waiting, "customers_new_data")  # type: ignore[misc]
    tags = asked.tags  # type: ignore[union-attr]
    assert tags["dagster/asset_partition_range_start"] == key(1)
    an_hour_ahead = time.time() + 3600
    os.utime(landed / f"{key(0)}.csv", (an_hour_ahead, an_hour_ahead))
    (asked,) = tick(waiting, "customers_new_data")  # type: ignore[misc]
    assert asked.tags["dagster/asset_partition_range_start"] == key(0)  # type: ignore[union-attr]


def test_a_file_of_many_partitions_is_asked_for_by_the_keys_of_its_rows(world: World) -> None:
    split = replace(world, dataset=dataset(landing="customers/*.csv"))
    split.land(3)
    folder = split.root / "landing" / "customers"
    pl.concat([customers(4), customers(7)]).write_csv(folder / "more.csv")
    (folder / "broken.csv").write_bytes(b"\xff\xfe")
    ran = [done.job for done in split.settle()]
    assert ran[0] == "customers_ingest"
    dataset_key = dg.AssetKey(["customers", "dataset"])
    assert split.instance.get_materialized_partitions(dataset_key) == {key(n) for n in (3, 4, 7)}
    assert tick(split, "customers_new_data") == (
        "3 files have landed, all were read; 1 was refused, see `retrain quarantine customers`"
    )


def test_a_quiet_tick_says_how_many_files_were_refused(world: World) -> None:
    world.land(*range(4))
    for number in (1, 2):
        (world.root / "landing" / "customers" / f"{key(number)}.csv").write_bytes(b"\xff\xfe")
    world.settle()
    assert tick(world, "customers_new_data") == (
        "4 files have landed, all were read; 2 were refused, see `retrain quarantine customers`"
    )
    world.land(1, 2)
    world.settle()
    assert tick(world, "customers_new_data") == "4 files have landed, all were read"


def test_five_thousand_files_are_taken_in_by_runs_of_bounded_size(world: World) -> None:
    many = replace(world, dataset=dataset(landing="customers/{partition}-*.csv"))
    folder = many.root / "landing" / "customers"
    folder.mkdir(parents=True)
    for number in range(5000):
        day = key(number // 50)
        row = f"{day},{number},0.5,basic,0"
        (folder / f"{day}-{number}.csv").write_text(f"day,id,x,plan,left\n{row}\n")
    job, runs = many.definitions.resolve_job_def("customers_ingest"), 0
    while not isinstance(asked := tick(many, "customers_new_data"), str):
        for request_made in asked or ():
            job.execute_in_process(instance=many.instance, tags=request_made.tags)
            runs += 1
    assert runs == 5000 // MAX_FILES
    ids = many.storage.tables.scan("customers/dataset").collect()["id"].sort().to_list()
    assert ids == list(range(5000))


def dataset(**changes: Any) -> DatasetSpec:
    return DatasetSpec.model_validate(DATASET | changes)


def test_a_repeated_tick_asks_for_the_same_run(world: World) -> None:
    world.land(0, 1)
    first, again = (tick(world, "customers_new_data") for _ in range(2))
    assert first[0].run_key == again[0].run_key  # type: ignore[index,union-attr]
    world.land(2)
    other = tick(world, "customers_new_data")
    assert other[0].run_key != first[0].run_key  # type: ignore[index,union-attr]


def asked(instance: dg.DagsterInstance, about: str) -> str:
    """The run key of a request of a job named `some`, or why there is none."""
    outcome = requests(dg.build_sensor_context(instance), "some", [Wish([about], {})])
    if isinstance(outcome, dg.SkipReason):
        return str(outcome.skip_message)
    return str(outcome[0].run_key)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (dg.DagsterRunStatus.STARTING, "is at it"),
        (dg.DagsterRunStatus.STARTED, "is at it"),
        (dg.DagsterRunStatus.CANCELING, "is at it"),
        (dg.DagsterRunStatus.FAILURE, ":1"),
        (dg.DagsterRunStatus.SUCCESS, ":1"),
    ],
)
def test_a_run_under_way_is_not_doubled_and_a_failed_one_is_asked_for_again(
    status: dg.DagsterRunStatus, outcome: str, instance: dg.DagsterInstance
) -> None:
    assert asked(instance, "a file").endswith(":0")
    job = dg.job(name="some")(lambda: None)
    tags = {REQUEST_TAG: Wish(["a file"], {}).digest}
    instance.create_run_for_job(job, tags=tags, status=status)
    assert asked(instance, "a file").endswith(outcome)
    assert asked(instance, "another file").endswith("is at it" if outcome == "is at it" else ":0")


def test_successes_are_no_failures_and_work_that_settles_nothing_is_not_repeated_for_ever(
    instance: dg.DagsterInstance,
) -> None:
    job = dg.job(name="some")(lambda: None)

    def succeed(about: str) -> None:
        tags = {REQUEST_TAG: Wish([about], {}).digest}
        instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.SUCCESS)

    for content in ("corrected", "a file") * 3:
        succeed(content)
    assert asked(instance, "a file").endswith(":3")
    fail(instance, OSError("no space left"))
    assert asked(instance, "a file").endswith(":4")
    for _ in range(3):
        succeed("a file")
    assert "2 before it succeeded, and the same work is still asked for" in asked(
        instance, "a file"
    )


def test_each_change_of_the_yaml_is_asked_for_as_of_the_same_partition(world: World) -> None:
    world.land(*range(16))
    world.settle()
    for decisions, strength in enumerate((0.5, 0.25, 0.1, 0.05), start=2):
        params = {"params": {"C": strength}}
        estimator = {"class": "sklearn.linear_model.LogisticRegression", **params}
        spec = world.spec.model_validate(world.spec.model_dump() | {"estimator": estimator})
        world = replace(world, spec=spec)
        world.settle()
        assert len(world.state.ledger.read().rows) == decisions


def test_a_run_that_dagster_is_about_to_try_again_is_not_asked_for_beside_that(
    instance: dg.DagsterInstance,
) -> None:
    job = dg.job(name="some")(lambda: None)
    tags = {REQUEST_TAG: Wish(["a file"], {}).digest, "dagster/will_retry": "true"}
    died = instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.FAILURE)
    assert asked(instance, "a file") == f"run {died.run_id} is about to be tried again"
    instance.add_run_tags(died.run_id, {"dagster/auto_retry_run_id": "another"})
    assert asked(instance, "a file").endswith(":1")


class OwnError(TrainingError):
    """An error of a user, which the process of the sensor need not know."""


def fail(instance: dg.DagsterInstance, error: Exception, **tags: str) -> None:
    """Execute a requested run that fails."""

    @dg.op
    def breaks() -> None:
        raise error

    @dg.job(name="some", hooks={tag_permanent_error})
    def job() -> None:
        breaks()

    tags[REQUEST_TAG] = Wish(["a file"], {}).digest
    job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)


@pytest.mark.parametrize(
    ("error", "attempts", "said"),
    [
        (ValueError("no labels"), 1, "failed with ValueError, as another would"),
        (NothingLandedError("gone"), 1, "failed with NothingLandedError, as another would"),
        (TrainingError("one class"), 1, "failed with TrainingError, as another would"),
        (FeatureError("no frame"), 1, "failed with FeatureError, as another would"),
        (MeasureError("no number"), 1, "failed with MeasureError, as another would"),
        (OwnError("at any depth"), 1, "failed with OwnError, as another would"),
        (ModuleNotFoundError("no package"), 1, "failed with ModuleNotFoundError, as another would"),
        (OSError("no space left"), 3, "failed after 2 others"),
        (StaleTableError("moved on"), 3, "failed after 2 others"),
    ],
)
def test_what_cannot_succeed_is_not_repeated(
    error: Exception, attempts: int, said: str, instance: dg.DagsterInstance
) -> None:
    made = 0
    while (outcome := asked(instance, "a file")).endswith(f":{made}"):
        fail(instance, error)
        made += 1
    assert made == attempts
    assert said in outcome
    assert outcome.endswith("mend it, and start the job by hand")


def test_a_run_that_was_repeated_in_the_ui_is_judged_by_its_own_error(
    instance: dg.DagsterInstance,
) -> None:
    fail(instance, OSError("no space left"), **{PERMANENT_TAG: "TrainingError"})
    assert asked(instance, "a file").endswith(":1")


@pytest.mark.parametrize(
    ("changes", "sensor", "error", "message"),
    [
        (
            {"features": {"sql": "SELECT x / 'a' AS y FROM rows"}},
            *("data_ready", "RowError", "model churn: features: division with 'String'"),
        ),
        (
            {"estimator": {"class": "sklearn.svm.LinearSVC"}},
            *("retrain_wanted", "TrainingError", "estimator: LinearSVC gives no probabilities"),
        ),
    ],
)
def test_a_mistake_in_the_yaml_costs_one_run(
    changes: dict[str, Any],
    sensor: str,
    error: str,
    message: str,
    tmp_path: Path,
    instance: dg.DagsterInstance,
) -> None:
    world = new_world(tmp_path, instance, **changes)
    world.land(*range(16))
    with pytest.raises(UnsettledError, match=message):
        world.settle()
    assert f"failed with {error}, as another would" in str(tick(world, f"churn_{sensor}"))


def test_the_runs_that_sensors_ask_for_are_tagged(world: World) -> None:
    for name in ("customers_ingest", "churn_monitor", "churn_retrain", "churn_replay"):
        assert world.definitions.resolve_job_def(name).hook_defs == {tag_permanent_error}


def test_nothing_is_monitored_before_it_has_landed(world: World) -> None:
    said = tick(world, "churn_data_ready")
    assert said == "all 0 complete partitions are monitored"
    assert tick(world, "churn_retrain_wanted") == "0 of 16 partitions needed have landed"


def test_the_schedule_only_wakes_the_policy(tmp_path: Path, persistent: dg.DagsterInstance) -> None:
    instance = persistent
    world = new_world(tmp_path, instance, schedule="0 6 * * 1", notify={"slack": "#ml"})
    schedule = policy_schedule(world.model, world.definitions.resolve_job_def("churn_retrain"))
    assert schedule is not None
    world.land(*range(15))
    world.settle()

    def woken() -> Any:
        context = dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=datetime(2050, 1, 3, 6, tzinfo=UTC),
            resources=world.definitions.get_repository_def().get_top_level_resources(),
        )
        return schedule.evaluate_tick(context)

    assert woken().skip_message == "15 of 16 partitions needed have landed"
    world.land(15)
    job = world.definitions.resolve_job_def
    for name in ("customers_ingest", "churn_monitor"):
        tags = {
            "dagster/asset_partition_range_start": key(15),
            "dagster/asset_partition_range_end": key(15),
        }
        assert job(name).execute_in_process(instance=instance, tags=tags).success
    (asked,) = woken().run_requests
    assert asked.tags["retrain/as_of"] == key(15)
    assert asked.tags["retrain/causes"] == "no_production"
    assert asked.run_key == tick(world, "churn_retrain_wanted")[0].run_key  # type: ignore[index,union-attr]
