"""The loop by itself: files land under the real daemon, and its processes are killed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from retrain_assets.orchestration.partitions import range_tags
from retrain_assets.orchestration.run_requests import REQUEST_TAG
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.data.ingest import ingest
from retrain_assets.steps.inspect import status
from retrain_assets.stores.storage import Storage
from retrain_assets_tests.system.deployment import RUN_SECONDS, Deployment, deploy, rows
from retrain_assets_tests.system.processes import wait_for
from retrain_assets_tests.world import DATASET, customers, key, new_world

pytestmark = pytest.mark.system
FIRST = range(16)  # days the first model needs
KILLED, TURNED, UNWATCHED = range(16, 20), range(20, 36), range(36, 38)
POINTS = ("TICK_CREATED", "RUN_IDS_RESERVED", "RUN_CREATED", "RUN_LAUNCHED")
FAILURE, STARTED, SUCCESS = (
    *(dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS),
)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A daemon under which the first days have landed, at two times."""
    deployment = deploy(tmp_path_factory.mktemp("live"))
    deployment.start_daemon()
    try:
        deployment.land(*FIRST[:10])
        deployment.succeeded("customers_ingest")
        deployment.land(*FIRST[10:])
        deployment.succeeded("churn_retrain")
        yield deployment
    finally:
        deployment.processes.stop()


def history(live: Deployment) -> list[dict[str, object]]:
    with dg.DagsterInstance.ephemeral() as instance:
        return status.history(new_world(live.storage.root, instance).state)


def test_what_lands_is_ingested_monitored_and_promoted_without_anybody(live: Deployment) -> None:
    jobs = {
        "customers_ingest": "customers_new_data",
        "churn_monitor": "churn_data_ready",
        "churn_retrain": "churn_retrain_wanted",
    }
    for job, sensor in jobs.items():
        runs = live.runs(job)
        assert {run.status for run in runs} == {SUCCESS}
        assert {run.tags["dagster/sensor_name"] for run in runs} == {sensor}
        assert len({run.tags[REQUEST_TAG] for run in runs}) == len(runs)
    landed = pl.concat([customers(number) for number in FIRST]).sort("day", "id")
    found = live.rows("customers/dataset").sort("day", "id").select(landed.columns)
    assert_frame_equal(found.cast({"day": pl.String}), landed, check_dtypes=False)
    (row,) = history(live)
    assert (row["action"], row["as_of"], row["causes"]) == ("promote", key(15), ["no_production"])
    assert live.storage.registry("churn").alias("production") == row["version"]


def test_a_run_whose_worker_is_killed_is_asked_for_again_and_completed(
    live: Deployment, tmp_path: Path
) -> None:
    made, before = live.materialized("customers", "dataset"), live.rows("customers/dataset")
    with live.held("customers/dataset") as worker:
        live.land(*KILLED)
        os.kill(worker(), signal.SIGKILL)
        (failed,) = wait_for(lambda: live.runs("customers_ingest", FAILURE), 30, "failed run")
        request = {REQUEST_TAG: failed.tags[REQUEST_TAG]}
        assert_frame_equal(live.rows("customers/dataset"), before)
        assert live.materialized("customers", "dataset") == made
    again = live.succeeded("customers_ingest", **request)
    assert again.tags.items() >= range_tags(key(16), key(19)).items()
    assert [run.run_id for run in live.runs("customers_ingest", **request)] == [
        failed.run_id,
        again.run_id,
    ]
    assert live.materialized("customers", "dataset") == made | {key(n) for n in KILLED}

    undisturbed = Storage(tmp_path)
    shutil.copytree(live.storage.landing, undisturbed.landing)
    keys = [key(number) for number in [*FIRST, *KILLED]]
    ingest(undisturbed, DatasetSpec.model_validate(DATASET), keys, "run")
    for name in ("customers/dataset", "customers/quarantine", "customers/files"):
        assert_frame_equal(live.rows(name), rows(undisturbed, name))


def test_a_training_that_dies_with_all_other_processes_is_decided_after_the_restart(
    live: Deployment,
) -> None:
    decided = len(history(live))
    with live.held("churn/evaluation") as worker:
        live.land(*TURNED, slope=-2.0)
        worker()
        live.processes.kill("daemon")
        (dead,) = live.runs("churn_retrain", STARTED)
    live.start_daemon()
    live.succeeded("churn_retrain", **{REQUEST_TAG: dead.tags[REQUEST_TAG]})
    assert [run.run_id for run in live.runs("churn_retrain", FAILURE)] == [dead.run_id]
    rows = history(live)
    assert len(rows) == decided + 1
    assert (rows[-1]["action"], rows[-1]["as_of"]) == ("promote", key(35))
    assert live.storage.registry("churn").alias("production") == rows[-1]["version"]


def test_a_run_outlives_the_daemon_that_asked_for_it(live: Deployment) -> None:
    with live.held("customers/dataset") as worker:
        live.land(*UNWATCHED, slope=-2.0)
        worker()
        live.processes.kill_alone("daemon")
        (run,) = live.runs("customers_ingest", STARTED)
    request = {REQUEST_TAG: run.tags[REQUEST_TAG]}
    assert live.succeeded("customers_ingest", **request).run_id == run.run_id
    live.start_daemon()
    new = {key(number) for number in UNWATCHED}
    wait_for(lambda: live.materialized("churn", "monitoring") >= new, RUN_SECONDS, "monitoring")
    assert [found.run_id for found in live.runs("customers_ingest", **request)] == [run.run_id]


@pytest.mark.parametrize(("number", "point"), enumerate(POINTS, UNWATCHED[-1] + 1), ids=str)
def test_a_daemon_that_dies_within_a_tick_asks_once_for_what_it_was_about_to_ask(
    live: Deployment, number: int, point: str
) -> None:
    (live.home / "die_at").write_text(point, encoding="utf-8")
    live.land(number, slope=-2.0)
    live.dies_at(point)
    live.start_daemon()
    wait_for(
        lambda: key(number) in live.materialized("churn", "monitoring"), RUN_SECONDS, "monitoring"
    )
    runs = [run for job in ("customers_ingest", "churn_monitor") for run in live.runs(job, SUCCESS)]
    asked = [run.tags[REQUEST_TAG] for run in runs]
    assert len(asked) == len(set(asked))
    found = live.rows("customers/dataset").filter(pl.col("_landing_partition") == key(number))
    assert found.height == customers(number).height
