"""Find runs whose process has died, so that they are reported as failed and requested again.

A run that a command executes in its own process names that process in a tag, since Dagster's
monitoring cannot see it. Not here: executing runs.
"""

import os
import socket
from pathlib import Path

import dagster as dg
import grpc  # type: ignore[import-untyped]
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin as ManagedServer
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

PROCESS_TAG = "retrain/process"


def own_process() -> dict[str, str]:
    """Return the tag of a run that this process executes: host, process id, and start time."""
    return {PROCESS_TAG: _name(os.getpid())}


def has_died(run: dg.DagsterRun) -> bool:
    """Tell if the run was executed by a process of this host that no longer exists."""
    name = run.tags.get(PROCESS_TAG, "")
    host, _, rest = name.partition(" ")
    if host != socket.gethostname():
        return False
    pid = int(rest.split()[0])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _name(pid) != name


def _name(pid: int) -> str:
    """Return a name of a process that no later one with the same number has."""
    status = Path(f"/proc/{pid}/stat")
    # Field 22, counted behind the name, which may hold anything: the tick at which it started.
    began = status.read_text().rpartition(")")[2].split()[19] if status.exists() else "0"
    return f"{socket.gethostname()} {pid} {began}"


def _is_managed(run: dg.DagsterRun) -> bool:
    """Tell if the code server that started a run is a process of this machine."""
    origin = run.remote_job_origin
    return origin is not None and isinstance(
        origin.repository_origin.code_location_origin, ManagedServer
    )


ANSWER_SECONDS = 10


class WatchedRunLauncher(DefaultRunLauncher):
    """Dagster's own launcher, which can also check runs under way."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Return that run monitoring may ask."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether the process of a started run exists; healthy where nobody can tell."""
        gone = has_died(run)
        if not gone and not self._lives_here(run):
            # A code server of this machine need not notice: it stops looking for dead workers for
            # good where Dagster's database does not answer it once.
            gone = _is_managed(run) or self._is_unknown(run)
        if gone:
            return CheckRunHealthResult(WorkerStatus.FAILED, "its process is gone")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def _is_unknown(self, run: dg.DagsterRun) -> bool:
        """Tell if the code server that started the run is gone, or no longer runs it.

        One with an address of its own is waited for, since without it nothing can be tried again.
        """
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:
            return False
        request = CanCancelExecutionRequest(run_id=run.run_id)
        try:
            answer = client.can_cancel_execution(request, timeout=ANSWER_SECONDS)
        except DagsterUserCodeUnreachableError as error:
            failed = error.__cause__
            return (
                _is_managed(run)
                and isinstance(failed, grpc.Call)
                and failed.code() == grpc.StatusCode.UNAVAILABLE
            )
        return not deserialize_value(answer, CanCancelExecutionResult).can_cancel

    def _lives_here(self, run: dg.DagsterRun) -> bool:
        """Tell if the worker outlives its server, as it does while the server is restarted."""
        for entry in self._instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_START):
            try:
                os.kill(entry.get_dagster_event().pid or 0, 0)
            except ProcessLookupError:
                return False
        return True
