"""A run whose process is gone is called failed, whatever its code server says."""

from __future__ import annotations

import os
import subprocess
import sys

import dagster as dg
import pytest
from dagster._core import remote_origin
from dagster._core.events import DagsterEvent
from dagster._core.launcher import WorkerStatus
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from retrain_assets.orchestration.dagster_internals.runs import WatchedRunLauncher

HERE = remote_origin.ManagedGrpcPythonEnvCodeLocationOrigin(
    LoadableTargetOrigin(executable_path=sys.executable, module_name="theirs"), "theirs"
)
ELSEWHERE = remote_origin.GrpcServerCodeLocationOrigin("code", 4000, None, "theirs")


@pytest.mark.parametrize("place", [HERE, ELSEWHERE], ids=["here", "elsewhere"])
@pytest.mark.parametrize("alive", [True, False])
def test_a_dead_process_counts_where_the_code_server_is_on_this_machine(
    place: remote_origin.CodeLocationOrigin,
    alive: bool,
    monkeypatch: pytest.MonkeyPatch,
    instance: dg.DagsterInstance,
) -> None:
    monkeypatch.setattr(WatchedRunLauncher, "_is_unknown", lambda *_: False)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    launcher = WatchedRunLauncher()
    launcher.register_instance(instance)
    origin = remote_origin.RemoteRepositoryOrigin(place, "__repository__")
    run = instance.create_run_for_job(
        dg.job(name="some")(lambda: None),
        status=dg.DagsterRunStatus.STARTING,
        remote_job_origin=remote_origin.RemoteJobOrigin(origin, "some"),
    )
    pid = os.getpid() if alive else ended.pid
    start = DagsterEvent(dg.DagsterEventType.RUN_START.value, "some", message="", pid=pid)
    instance.report_dagster_event(start, run.run_id)
    gone = place is HERE and not alive
    status = WorkerStatus.FAILED if gone else WorkerStatus.RUNNING
    assert launcher.check_run_worker_health(run).status == status
