"""A range is one run and one commit a table, whoever asks; one run a partition ends equal."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg
import polars as pl
import pytest
import yaml
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionStatus
from polars.testing import assert_frame_equal

from retrain_assets.orchestration.partitions import range_tags
from retrain_assets_tests.system.deployment import (
    RUN_SECONDS,
    STOPPED,
    Deployment,
    deploy,
    graphql,
)
from retrain_assets_tests.system.processes import BIN, environment, free_port, wait_for
from retrain_assets_tests.world import World, key, new_world

pytestmark = pytest.mark.system
LAWS = {range(16): {}, range(16, 34): {"slope": -2.0}, range(34, 37): {"slope": -2.0}}
DAYS = [key(number) for number in range(37)]
RANGE = ("--from", DAYS[0], "--to", DAYS[-1])
ASSETS = {
    "customers": ("dataset", "quarantine"),
    "churn": ("features", "profile", "predictions", "monitoring"),
}
JOBS = ("customers_ingest", "churn_monitor")
TABLES = (
    *("customers/dataset", "customers/quarantine", "customers/files"),
    *("churn/features", "churn/profile", "churn/predictions", "churn/prediction_profile"),
    *("churn/performance", "churn/monitoring"),
)
LAUNCH = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}
"""

LAUNCH_RUNS = """
mutation Launch($params: [ExecutionParams!]!) {
  launchMultipleRuns(executionParamsList: $params) {
    ... on LaunchMultipleRunsResult {
      launchMultipleRunsResult { __typename ... on LaunchRunSuccess { run { runId } } }
    }
  }
}
"""


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A history in which two versions were promoted as the days went by; its sensors are off."""
    server = {"host": "127.0.0.1", "port": free_port(), "location_name": "theirs"}
    home = tmp_path_factory.mktemp("lived")
    deployment = deploy(home, watching=STOPPED, workspace={"grpc_server": server})
    with in_process(deployment) as world:
        for numbers, law in LAWS.items():
            world.land(*numbers, **law)
            world.settle()
    deployment.start_code_server(server["port"])
    deployment.start_daemon()
    try:
        yield deployment
    finally:
        deployment.processes.stop()


@pytest.fixture(scope="module")
def address(lived: Deployment) -> str:
    return lived.start_webserver()


@pytest.fixture(scope="module")
def history(lived: Deployment) -> dict[str, pl.DataFrame]:
    """All tables as the days going by have left them."""
    return {name: lived.rows(name) for name in TABLES}


@pytest.fixture
def forgotten(lived: Deployment, history: dict[str, pl.DataFrame]) -> Deployment:
    """All is to be made again, but for the landing files, the models and the decisions."""
    for name in TABLES:
        shutil.rmtree(lived.storage.tables.uri(name), ignore_errors=True)
    return lived


@contextmanager
def in_process(deployment: Deployment) -> Iterator[World]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield new_world(deployment.storage.root, instance)


def command(deployment: Deployment, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / arguments[0], *arguments[1:]],
        cwd=deployment.home,
        env=environment(deployment.home, **deployment.processes.variables),
        capture_output=True,
        text=True,
        check=False,
    )


def by_ui(deployment: Deployment, address: str) -> str:
    """Select assets and a range, as the UI does; the backfill that makes."""
    keys = [{"path": [group, name]} for group, names in ASSETS.items() for name in names]
    params = {"assetSelection": keys, "partitionNames": DAYS, "tags": []}
    launched = graphql(address, LAUNCH, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    return str(launched["backfillId"])


def completed(deployment: Deployment, backfill: str) -> list[str]:
    """The states of the runs of a backfill, oldest first, once it is complete."""
    instance = deployment.instance

    def ended() -> bool:
        found = instance.get_backfill(backfill)
        return found is not None and found.status in BULK_ACTION_TERMINAL_STATUSES

    wait_for(ended, RUN_SECONDS, f"end of backfill {backfill}")
    found = instance.get_backfill(backfill)
    assert found is not None
    assert found.status is BulkActionStatus.COMPLETED_SUCCESS
    runs = instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill}))
    return [run.status.value for run in reversed(runs)]


def in_the_ui(deployment: Deployment, address: str) -> None:
    assert completed(deployment, by_ui(deployment, address)) == ["SUCCESS"]


def by_dagster_asset_materialize(deployment: Deployment, _address: str) -> None:
    selected = ",".join(f"{group}/{name}" for group, names in ASSETS.items() for name in names)
    what = ("--select", selected, "--partition-range", f"{DAYS[0]}...{DAYS[-1]}")
    module = f"{deployment.project.name}.definitions"
    done = command(deployment, "dagster", "asset", "materialize", *what, "--module-name", module)
    assert done.returncode == 0, done.stderr


def by_retrain_backfill(deployment: Deployment, _address: str) -> None:
    for name, job in zip(ASSETS, JOBS, strict=True):
        done = command(deployment, "retrain", "backfill", name, *RANGE, "--json")
        assert done.returncode == 0, done.stderr
        run = deployment.instance.get_run_by_id(json.loads(done.stdout)["run_id"])
        assert run is not None
        assert run.job_name == job
        assert run.remote_job_origin is not None
        assert run.remote_job_origin.location_name == deployment.home.name


WAYS = [in_the_ui, by_dagster_asset_materialize, by_retrain_backfill]


@pytest.mark.parametrize("backfill", WAYS)
def test_a_range_is_one_run_and_one_commit_a_table_and_comes_to_what_was_lived(
    forgotten: Deployment,
    history: dict[str, pl.DataFrame],
    address: str,
    backfill: Callable[[Deployment, str], None],
) -> None:
    backfill(forgotten, address)
    for name in TABLES:
        assert forgotten.storage.tables.version(name) == 0, name
        assert_frame_equal(forgotten.rows(name), history[name])


def test_each_partition_is_scored_by_the_version_that_was_in_production_then(
    lived: Deployment, history: dict[str, pl.DataFrame]
) -> None:
    """Which the tests of each way hold what was backfilled against."""
    first, second = lived.storage.ledger("churn").read().rows
    assert (first.seen_through, second.seen_through) == (DAYS[15], DAYS[33])
    scored = history["churn/predictions"].select("_landing_partition", "model_version").unique()
    assert dict(scored.iter_rows()) == {
        **dict.fromkeys(DAYS[16:34], first.version),
        **dict.fromkeys(DAYS[34:], second.version),
    }


def test_a_backfill_waits_for_a_code_server_that_died_with_its_run(
    forgotten: Deployment, history: dict[str, pl.DataFrame], address: str
) -> None:
    with forgotten.held("churn/features") as worker:
        backfill = by_ui(forgotten, address)
        worker()
        restart_code_server(forgotten, forgotten.processes.kill)
    assert completed(forgotten, backfill) == ["FAILURE", "SUCCESS"]
    for name in TABLES:
        assert_frame_equal(forgotten.rows(name), history[name])


def test_one_run_a_partition_newest_first_ends_with_equal_tables_though_its_server_is_restarted(
    forgotten: Deployment, history: dict[str, pl.DataFrame], address: str
) -> None:
    earlier, newest = DAYS[:-3], DAYS[-3:]
    with in_process(forgotten) as world:
        for job in JOBS:
            tags = range_tags(earlier[0], earlier[-1])
            world.daemon.execute(job, tags, {})
    with forgotten.held("customers/dataset") as worker:
        runs = one_by_one(forgotten, "customers_ingest", newest)
        worker()
        restart_code_server(forgotten, forgotten.processes.kill_alone)
    end_well(forgotten, runs)
    end_well(forgotten, launched(forgotten, address, "churn_monitor", newest[::-1]))
    for name in TABLES:
        assert_frame_equal(forgotten.rows(name), history[name])


def one_by_one(deployment: Deployment, job: str, keys: list[str]) -> list[str]:
    """The runs that `dagster job backfill` asks for, each of one partition."""
    what = ("--job", job, "--from", keys[0], "--to", keys[-1], "--noprompt")
    done = command(deployment, "dagster", "job", "backfill", "-w", "workspace.yaml", *what)
    assert done.returncode == 0, done.stderr
    runs = deployment.runs(job)[-len(keys) :]
    assert [run.tags["dagster/partition"] for run in runs] == keys
    return [run.run_id for run in runs]


def launched(deployment: Deployment, address: str, job: str, keys: list[str]) -> list[str]:
    """The runs of one partition each that the UI launches at once."""
    selector = {"repositoryLocationName": "theirs", "repositoryName": "__repository__"}
    params = [
        {
            "selector": {**selector, "jobName": job},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": key}]},
        }
        for key in keys
    ]
    answer = graphql(address, LAUNCH_RUNS, params=params)["launchMultipleRuns"]
    return [found["run"]["runId"] for found in answer["launchMultipleRunsResult"]]


def end_well(deployment: Deployment, run_ids: list[str]) -> None:
    """Wait for runs; none of them may fail."""

    def ended() -> bool:
        runs = deployment.instance.get_runs(dg.RunsFilter(run_ids=run_ids))
        assert dg.DagsterRunStatus.FAILURE not in [run.status for run in runs]
        return {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}

    wait_for(ended, RUN_SECONDS, f"end of {run_ids}")


def restart_code_server(deployment: Deployment, end: Callable[[str], None]) -> None:
    settings = yaml.safe_load((deployment.home / "workspace.yaml").read_text(encoding="utf-8"))
    end("code")
    deployment.start_code_server(settings["load_from"][0]["grpc_server"]["port"])


def test_a_rollback_to_a_version_that_is_not_there_lists_those_that_are(lived: Deployment) -> None:
    first, second = lived.storage.ledger("churn").read().rows
    done = command(lived, "retrain", "rollback", "churn", "--to", "99", "--reason", "typo")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert line.endswith(
        f"cannot roll back to version 99: version {second.version} is in production, "
        f"earlier ones are {first.version}"
    )
