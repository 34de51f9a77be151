"""Somebody else's project in a folder of its own, and Dagster's real processes on it.

Nothing of it is made up but its impatience, and that a run can be held before it commits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import dagster as dg
import polars as pl
import yaml

from retrain_assets.stores.storage import Storage
from retrain_assets_tests.projects import Project, write_project, yaml_of
from retrain_assets_tests.system.processes import Processes, free_port, wait_for
from retrain_assets_tests.world import customers, key

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 700
TICKING = '{"minimum_interval_seconds": 1}'
STOPPED = '{"default_status": dg.DefaultSensorStatus.STOPPED}'
# Backfills are otherwise looked at twice a minute. It kills itself at the point of a tick that the
# file `die_at` names, where Dagster's own tests of its recovery do.
DAEMON = """
import os
import signal
from pathlib import Path

from dagster._daemon import controller, sensor
from dagster._daemon.cli import main
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 2
DIE_AT = Path("die_at")


def die(_, point):
    if DIE_AT.exists() and DIE_AT.read_text() == point:
        DIE_AT.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


sensor.check_for_debug_crash = die
main()
"""
DEFINITIONS = """
import os
import time
from contextlib import suppress
from pathlib import Path

import dagster as dg

from retrain_assets.definitions import build_defs
from retrain_assets.orchestration import run_requests
from retrain_assets.stores.tables.tables import Tables

run_requests.WATCHING |= {watching}
HOLD, replace = Path({hold!r}), Tables.replace


def held(self, table, *given, **named):
    hold = HOLD / table
    while hold.exists():
        with suppress(FileNotFoundError), hold.open("r+") as file:
            file.write(str(os.getpid()))
        time.sleep(0.05)
    return replace(self, table, *given, **named)


Tables.replace = held


@dg.definitions
def defs():
    return build_defs(project=Path(__file__).parent)
"""


@dataclass(frozen=True)
class Deployment:
    """Where a project runs: its folder is DAGSTER_HOME, and storage is `data` below it."""

    project: Project
    processes: Processes

    @property
    def home(self) -> Path:
        return self.project.root

    @property
    def storage(self) -> Storage:
        return Storage(self.home / "data")

    @cached_property
    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.home))

    def start_daemon(self) -> None:
        command = ("-c", DAEMON, "run", "--workspace", "workspace.yaml")
        self.processes.start("daemon", "python", *command)

    def dies_at(self, point: str) -> None:
        """Return once the daemon has died there, in the next tick that comes to it."""
        daemon = self.processes.running["daemon"]
        wait_for(lambda: daemon.poll() is not None, RUN_SECONDS, f"death at {point}")
        self.processes.kill("daemon")

    def start_code_server(self, port: int) -> None:
        module = f"{self.project.name}.definitions"
        where = ("--host", "127.0.0.1", "--port", str(port))
        self.processes.start("code", "dagster", "api", "grpc", "--module-name", module, *where)
        self.processes.listening("code", port)

    def start_webserver(self) -> str:
        """Its address."""
        port = free_port()
        where = ("--workspace", "workspace.yaml", "--host", "127.0.0.1", "--port", str(port))
        self.processes.start("webserver", "dagster-webserver", *where)
        self.processes.listening("webserver", port)
        return f"http://127.0.0.1:{port}"

    def land(self, *numbers: int, dataset: str = "customers", **law: Any) -> None:
        """Deliver days, each by an atomic rename."""
        folder = self.storage.landing / dataset
        folder.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            part = folder / f"{key(number)}.csv.part"
            customers(number, **law).write_csv(part)
            part.rename(folder / f"{key(number)}.csv")

    @contextmanager
    def held(self, table: str) -> Iterator[Callable[[], int]]:
        """Runs wait before they commit to a table; yields what waits for the process of one."""
        hold = self.home / "hold" / table
        hold.parent.mkdir(parents=True, exist_ok=True)
        hold.touch()
        try:
            yield lambda: int(wait_for(hold.read_text, RUN_SECONDS, f"commit to {table}"))
        finally:
            hold.unlink()

    def runs(self, job: str, *statuses: dg.DagsterRunStatus, **tags: str) -> list[dg.DagsterRun]:
        """Runs of a job, oldest first."""
        chosen = dg.RunsFilter(job_name=job, statuses=list(statuses), tags=tags)
        return list(reversed(self.instance.get_runs(filters=chosen)))

    def succeeded(self, job: str, **tags: str) -> dg.DagsterRun:
        """The newest run of a job that has succeeded, once there is one."""
        done = dg.DagsterRunStatus.SUCCESS
        what = f"{job} with {tags} that has succeeded; see {self.home}"
        return wait_for(lambda: self.runs(job, done, **tags), RUN_SECONDS, what)[-1]

    def materialized(self, *path: str) -> set[str]:
        """Partitions of an asset, as Dagster knows them."""
        return set(self.instance.get_materialized_partitions(dg.AssetKey(path)))

    def rows(self, table: str) -> pl.DataFrame:
        return rows(self.storage, table)


def deploy(
    home: Path,
    documents: str = "",
    watching: str = TICKING,
    workspace: dict[str, Any] | None = None,
) -> Deployment:
    """A deployment of which nothing runs yet.

    Args:
        home: Its folder.
        documents: The YAML of its components; the world's dataset and model by default.
        watching: What is changed of its sensors.
        workspace: Where its code is, if not to be loaded by each process itself.
    """
    definitions = DEFINITIONS.format(hold=str(home / "hold"), watching=watching)
    project = write_project(home, definitions)
    project.write(documents or yaml_of())
    here = {"module_name": f"{project.name}.definitions", "location_name": "theirs"}
    load_from = [workspace or {"python_module": here}]
    (home / "workspace.yaml").write_text(yaml.safe_dump({"load_from": load_from}), "utf-8")
    (home / "dagster.yaml").write_text(yaml.safe_dump(_settings(home)), "utf-8")
    paths = f"{home / 'src'}:{ROOT}"
    return Deployment(project, Processes(home, {"PYTHONPATH": paths}))


def rows(storage: Storage, table: str) -> pl.DataFrame:
    """A table in a fixed order."""
    found = storage.tables.scan(table).collect()
    return found.sort(name for name, kind in found.schema.items() if not kind.is_nested())


def _settings(home: Path) -> dict[str, Any]:
    """The shipped dagster.yaml, with paths below `home` and no patience."""
    text = (ROOT / "dagster.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text.replace("data/dagster", str(home / "data" / "dagster")))
    settings["run_monitoring"] |= {
        "poll_interval_seconds": 2,
        "free_slots_after_run_end_seconds": 1,
    }
    settings["run_coordinator"] = {
        "module": "dagster._core.run_coordinator.queued_run_coordinator",
        "class": "QueuedRunCoordinator",
        "config": {"dequeue_interval_seconds": 1},
    }
    return settings


def graphql(address: str, query: str, **variables: Any) -> Any:
    """What a web server answers; `data` of it."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"{address}/graphql", body, headers), timeout=60) as answer:  # noqa: S310
        found = json.load(answer)
    assert "errors" not in found, found
    return found["data"]
