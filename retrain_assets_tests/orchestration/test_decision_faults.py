"""A decision stands once and whole, wherever the work on it dies and whatever fails under it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import pytest

from retrain_assets.steps.decision import promote
from retrain_assets.steps.decision.promote import decide_candidate, roll_back
from retrain_assets.steps.inspect.status import verify
from retrain_assets.stores.ledger import History, Ledger, LedgerRow
from retrain_assets_tests.killing import Point, kill_at
from retrain_assets_tests.orchestration.test_soak import retrain, state_of, watched
from retrain_assets_tests.servers import running
from retrain_assets_tests.world import World, new_world

HANGS = 3
EXPECTED = ("promote", True, 2, ["ledger:0"])
REGISTRY, LEDGER = (
    "retrain_assets.stores.registry.registry",
    "retrain_assets.stores.ledger:Ledger.append",
)
# Where a retraining dies; how many versions, and whether a decision, it leaves.
POINTS = {
    Point("retrain_assets.steps.decision.train:fit", after=True): (0, 0),
    Point(f"{REGISTRY}:log_pipeline", after=True): (0, 0),
    Point(f"{REGISTRY}:ModelRegistry.log_version", after=True): (1, 0),
    Point(f"{REGISTRY}:ModelRegistry.log_version", 2, after=True): (2, 0),
    Point(LEDGER, after=True): (2, 1),
    Point("retrain_assets.steps.decision.promote:reconcile", after=True): (2, 1),
}


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root on which there is nothing left to do but to retrain."""
    return watched(tmp_path_factory.mktemp("ready"))


@pytest.fixture
def world(ready: Path, tmp_path: Path) -> Iterator[World]:
    shutil.copytree(ready, tmp_path / "root")
    with dg.DagsterInstance.ephemeral() as instance:
        yield new_world(tmp_path / "root", instance)


def open_runs(world: World) -> list[str]:
    registry = world.storage.registry("churn")
    experiment = registry.client.get_experiment_by_name("churn")
    assert experiment is not None
    found = registry.client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
    return [run.info.run_id for run in found]


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_a_retraining_that_is_killed_is_gone_on_with_by_the_next(
    world: World, point: Point
) -> None:
    kill_at(point, retrain, world.root)
    registry, ledger = world.storage.registry("churn"), world.state.ledger
    assert (len(registry.versions()), len(ledger.read().rows)) == POINTS[point]
    experiment = registry.client.get_experiment_by_name("churn")
    assert experiment is not None
    own = registry.client.create_run(experiment.experiment_id).info.run_id
    retrain(world.root)
    assert state_of(world) == EXPECTED
    assert open_runs(world) == [own]


def test_what_is_out_of_memory_fails_and_the_next_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("retrain_assets.steps.decision.train.fit", no_memory)
        job = world.definitions.resolve_job_def("churn_retrain")
        assert not job.execute_in_process(instance=world.instance, raise_on_error=False).success
    assert world.storage.registry("churn").versions() == []
    assert open_runs(world) == []
    retrain(world.root)
    assert state_of(world) == EXPECTED


def failing(answer: str) -> type[BaseHTTPRequestHandler]:
    class Failing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if answer == "hangs":
                time.sleep(HANGS)
            self.send_error(500)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Failing


@pytest.mark.parametrize("answer", ["fails", "hangs"])
def test_while_mlflow_is_away_nothing_is_decided_and_afterwards_all_is(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    job = world.definitions.resolve_job_def("churn_retrain")
    server = ThreadingHTTPServer(("127.0.0.1", 0), failing(answer))
    with monkeypatch.context() as away, running(server):
        away.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        away.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        done = job.execute_in_process(instance=world.instance, raise_on_error=False)
    assert not done.success
    assert world.state.ledger.read().rows == ()
    retrain(world.root)
    assert state_of(world) == EXPECTED


def decided(world: World) -> LedgerRow:
    registry = world.storage.registry("churn")

    def new_run() -> str:
        experiment = registry.client.get_experiment_by_name("churn")
        assert experiment is not None
        return str(registry.client.create_run(experiment.experiment_id).info.run_id)

    return decide_candidate(world.state, "by hand", new_run)


def test_of_two_that_decide_at_once_one_wins_and_the_other_sees_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.definitions.resolve_job_def("churn_retrain")
    keys = [dg.AssetKey(["churn", name]) for name in ("candidate_model", "evaluation")]
    assert job.execute_in_process(instance=world.instance, asset_selection=keys).success
    append, first = Ledger.append, []

    def overtaken(ledger: Ledger, row: LedgerRow, history: History) -> History:
        monkeypatch.setattr(Ledger, "append", append)
        first.append(decided(world))
        return append(ledger, row, history)

    monkeypatch.setattr(Ledger, "append", overtaken)
    assert [decided(world)] == first
    assert state_of(world) == EXPECTED


def roll_back_once(root: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(root, instance)
        roll_back(world.state, None, "complaints", "on call")


def test_a_rollback_that_is_killed_is_finished_by_the_next_and_not_followed_by_another(
    world: World,
) -> None:
    retrain(world.root)
    registry, ledger = world.storage.registry("churn"), world.state.ledger
    gated, history = registry.version(1), ledger.read()
    (row,) = history.rows
    other = replace(row, version=1, sha256=gated.sha256, previous=row.version)
    promote.reconcile(registry, ledger.append(other, history))
    kill_at(Point("retrain_assets.stores.ledger:Ledger.append"), roll_back_once, world.root)
    assert (len(ledger.read().rows), registry.alias("production")) == (2, 1)
    kill_at(
        Point("retrain_assets.stores.ledger:Ledger.append", after=True), roll_back_once, world.root
    )
    assert (len(ledger.read().rows), registry.alias("production")) == (3, 1)
    roll_back_once(world.root)
    assert [found.action for found in ledger.read().rows] == ["promote", "promote", "rollback"]
    assert registry.alias("production") == row.version
    assert verify(world.state).startswith("the chain of 3 rows fits; ")
