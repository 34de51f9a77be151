"""The loop with all records in PostgreSQL, and with a server that dies in the middle of it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from retrain_assets.orchestration.dagster_internals.event_log import open_postgres
from retrain_assets.steps.inspect.status import verify
from retrain_assets.stores.database import name_driver
from retrain_assets.stores.storage import storage_from
from retrain_assets_tests.system.deployment import Deployment, deploy
from retrain_assets_tests.system.postgres import PASSWORD, Postgres, postgres
from retrain_assets_tests.system.processes import BIN, environment, wait_for
from retrain_assets_tests.world import customers, key, new_world

SECONDS = 600
# A command in the middle of which the server dies: at the first call of a function.
DYING = """
import importlib, os, signal, sys

module, path, server, *arguments = sys.argv[1:]
owner = getattr(importlib.import_module(module), path.split(".")[0])
name = path.split(".")[1]
real = getattr(owner, name)


def fatal(*args, **kwargs):
    setattr(owner, name, real)
    os.killpg(int(server), signal.SIGKILL)
    return real(*args, **kwargs)


setattr(owner, name, fatal)
from retrain_assets.cli import main
main(arguments)
"""


@pytest.fixture
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture
def live(server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """A project of which nothing runs yet; only the setting tells its processes of the server."""
    monkeypatch.setenv("RETRAIN_DATABASE", server.uri)
    deployment = deploy(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    try:
        yield deployment
    finally:
        deployment.processes.stop()


def retrain(live: Deployment, *command: str | Path, status: int = 0) -> str:
    """What a command prints; on standard error if it is to fail."""
    done = subprocess.run(
        [BIN / "retrain" if command[0] != "-c" else sys.executable, *command],
        cwd=live.home,
        env=environment(live.home, **live.processes.variables),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == status, done.stderr[-4000:]
    assert PASSWORD not in done.stdout + done.stderr
    return done.stderr if status else done.stdout


@pytest.mark.system
def test_the_loop_keeps_its_records_in_postgres(
    live: Deployment, server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    live.land(*range(16))
    (decision,) = json.loads(retrain(live, "tick", "--json"))["decisions"]
    assert (decision["action"], decision["as_of"]) == ("promote", key(15))
    assert list(live.home.rglob("*.db")) == [], "nothing is in sqlite"
    assert live.materialized("customers", "dataset") == {key(n) for n in range(16)}
    assert server.count_sessions() < 200, "each process keeps its connections"

    copy = tmp_path_factory.mktemp("copy")
    dump = json.loads(retrain(live, "backup", copy, "--json"))["then"]
    subprocess.run(shlex.split(dump), env={**os.environ, "PGPASSWORD": PASSWORD}, check=True)
    assert (copy / "database.dump").stat().st_size > 10_000
    files = [path for folder in (live.home, copy) for path in folder.rglob("*") if path.is_file()]
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []

    server.kill()
    line = retrain(live, "history", "churn", "--verify", status=1).strip()
    assert line.startswith("Error: PostgreSQL: connection to server at")
    assert "Nothing that was stored is lost" in line
    server.start()
    assert decided(live) == [("promote", production(live))]


@pytest.mark.system
def test_all_instances_of_a_process_share_a_connection(server: Postgres) -> None:
    for _ in range(3):  # as in a code server, which opens one for each tick
        opened = open_postgres(name_driver(server.uri), None)
        opened.run_storage.get_runs(limit=1)
        opened.schedule_storage.all_instigator_state()
    assert server.count_connections() == 1


def decided(live: Deployment) -> list[tuple[str, int]]:
    """The decisions, whose chain is whole and ends at what the registry has."""
    with dg.DagsterInstance.ephemeral() as instance:
        state = new_world(live.storage.root, instance).model.state(
            storage_from(os.environ | {"RETRAIN_STORAGE": str(live.storage.root)}, live.home)
        )
        assert "fits" in verify(state)
        rows = state.ledger.read().rows
        assert [state.registry.version(row.version) for row in rows]
        return [(row.action, row.version) for row in rows]


def production(live: Deployment) -> int | None:
    return storage_from(os.environ, live.home).registry("churn").alias("production")


@pytest.mark.soak
def test_a_server_that_dies_in_a_tick_loses_none_of_it(live: Deployment, server: Postgres) -> None:
    """As below, without a daemon: the server dies as a pass writes rows, and as it decides."""
    tables, ledger = "retrain_assets.stores.tables.tables", "retrain_assets.stores.ledger"
    for module, function, numbers, slope, decisions in (
        (tables, "Tables.replace", range(16), 2.0, 1),
        (ledger, "Ledger.append", range(16, 36), -2.0, 2),
    ):
        live.land(*numbers, slope=slope)
        assert server.process is not None
        dying = "-c", DYING, module, function, str(server.process.pid), "tick"
        assert "PostgreSQL" in retrain(live, *dying, status=1)
        server.process.wait(SECONDS)
        server.start()
        retrain(live, "tick")
        rows = decided(live)
        assert [action for action, _ in rows] == ["promote"] * decisions
        assert f"version {rows[-1][1]} in production" in retrain(live, "status", "churn")
    # The ledger decides; MLflow's alias follows with the next decision at the latest.
    retrain(live, "rollback", "churn", "--reason", "R")
    assert production(live) == rows[0][1]


@pytest.mark.soak
def test_a_server_that_dies_in_the_middle_of_work_loses_none_of_it(
    live: Deployment, server: Postgres
) -> None:
    def dies_while_held(table: str, *numbers: int, **law: float) -> None:
        """The server dies before a run commits to a table, and is back when the run has failed."""
        with live.held(table) as worker:
            live.land(*numbers, **law)
            process = Path("/proc", str(worker()))
            server.kill()
        wait_for(lambda: not process.exists(), SECONDS, f"end of the run that wrote {table}")
        server.start()
        if live.processes.running["daemon"].poll() is not None:
            live.processes.kill("daemon")
            live.start_daemon()

    live.start_daemon()
    dies_while_held("customers/dataset", *range(16))
    live.succeeded("churn_retrain")
    landed = pl.concat([customers(number) for number in range(16)]).sort("day", "id")
    stored = live.rows("customers/dataset").sort("day", "id").select(landed.columns)
    assert_frame_equal(stored.cast({"day": pl.String}), landed, check_dtypes=False)
    # What Dagster would have recorded after the commit may be missing; nothing decides by it.
    assert decided(live) == [("promote", production(live))]

    dies_while_held("churn/evaluation", *range(16, 36), slope=-2.0)
    wait_for(lambda: len(decided(live)) == 2, SECONDS, "second decision")
    (_, first), (action, second) = decided(live)
    assert (action, production(live)) == ("promote", second)

    assert server.process is not None
    module = "retrain_assets.stores.registry.registry"
    dying = "-c", DYING, module, "ModelRegistry.set_alias", str(server.process.pid)
    message = retrain(live, *dying, "rollback", "churn", "--reason", "R", status=1)
    assert "look at `retrain status MODEL` before you repeat" in message
    server.process.wait(SECONDS)
    server.start()
    assert [row[0] for row in decided(live)] == ["promote", "promote", "rollback"]
    assert f"version {first} in production" in retrain(live, "status", "churn")
