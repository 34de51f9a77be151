"""Workers and schedulers of Dask that are really killed: the whole result, or one clear error."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from polars.testing import assert_frame_equal

from retrain_assets.steps.data.ingest import ingest
from retrain_assets.steps.features import rows as rows_module
from retrain_assets.steps.features.build import build_features
from retrain_assets.steps.state import ModelState
from retrain_assets.stores import engine as engine_module
from retrain_assets.stores.engine import Engine, EngineError, engine_from
from retrain_assets_tests.system.processes import Processes, free_port
from retrain_assets_tests.world import key, new_world

pytestmark = pytest.mark.system
DAYS = [key(number) for number in range(16)]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelState:
    """A model whose features are built, each of eight batches an item."""
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path, instance)
    world.land(*range(16))
    ingest(world.storage, world.dataset, DAYS, "run")
    monkeypatch.setattr(rows_module, "BATCH_VALUES", 2500)
    build_features(world.state, DAYS, "run")
    return world.state


@dataclass
class Cluster:
    """A scheduler and two workers, started as docs/scale.md says."""

    processes: Processes
    engine: Engine

    def kill_worker(self) -> None:
        """Kill one of the two; the process that started it starts another."""
        children = psutil.Process(self.processes.running["workers"].pid).children(recursive=True)
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        workers[0].kill()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    port = free_port()
    # Workers may be lost twice while they compute an item, and not three times as by default.
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    settings = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "2", "PYTHONPATH": paths}
    processes = Processes(tmp_path, settings)
    options = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    processes.start("scheduler", "dask", "scheduler", *options)
    processes.listening("scheduler", port)
    options = ("--nworkers", "2", "--nthreads", "1", "--memory-limit", "1GB", "--no-dashboard")
    processes.start("workers", "dask", "worker", f"tcp://127.0.0.1:{port}", *options)
    yield Cluster(processes, engine_from(f"dask://127.0.0.1:{port}", tmp_path))
    engine_module._connect.cache_clear()
    for name in [*processes.running]:  # at once, since workers wait for a lost scheduler
        processes.kill(name)


@dataclass(frozen=True)
class Interrupted:
    """An engine beside which something happens after its second value."""

    engine: Engine
    event: Callable[[], None]

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for number, value in enumerate(self.engine.map(function, items)):
            if number == 1:
                self.event()
            yield value


@dataclass(frozen=True)
class Changed:
    """An engine that maps another function."""

    engine: Engine
    change: Callable[[Callable[[Any], Any], Any], Any]

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return self.engine.map(partial(self.change, function), items)


def die_on_a_day(function: Callable[[Any], Any], keys: Sequence[str]) -> Any:
    if DAYS[6] in keys:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(keys)


def outgrow_a_worker(function: Callable[[Any], Any], keys: Sequence[str]) -> Any:
    if DAYS[6] in keys:
        ballast = b"x" * 2**31  # twice what a worker may have
        time.sleep(len(ballast))
    return function(keys)


def test_what_is_killed_gives_the_whole_result_or_one_error(
    state: ModelState, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, name = state.tables.scan(state.table("features")).collect(), state.table("features")

    def build(engine: Any) -> None:
        build_features(replace(state, engine=engine), DAYS, "run")

    build(Interrupted(cluster.engine, cluster.kill_worker))
    rows = state.tables.scan(name).collect()
    assert_frame_equal(rows, table, check_row_order=False)
    version = state.tables.version(name)
    with pytest.raises(EngineError, match=f"item .*{DAYS[6]}.* ended 3 workers") as raised:
        build(Changed(cluster.engine, die_on_a_day))
    assert "--memory-limit" in str(raised.value)
    with pytest.raises(EngineError, match=f"item .*{DAYS[6]}.* ended 3 workers"):
        build(Changed(cluster.engine, outgrow_a_worker))
    with pytest.raises(EngineError, match=r"the scheduler at tcp:.* was lost"):
        build(Interrupted(cluster.engine, partial(cluster.processes.kill, "scheduler")))
    monkeypatch.setattr(engine_module, "PATIENCE_SECONDS", 2.0)
    with pytest.raises(EngineError, match="no scheduler with workers answers"):
        build(cluster.engine)
    assert state.tables.version(name) == version
