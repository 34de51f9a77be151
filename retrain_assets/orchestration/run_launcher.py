"""Runs whose worker is gone are found out, also where nobody is left to report it.

With Dagster's own launcher a code server reports those of its runs that die. When both end at once
(a power cut, a restarted container, no memory left), the run counts as started for ever: its sensor
waits for it, and its pool stays taken (dagster issue 4319). Named by dagster.yaml. Not here: what
then becomes of such a run. Run monitoring marks it as failed and frees its pool, and it is tried
again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import grpc  # type: ignore[import-untyped]
from dagster import DagsterEventType
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin as ManagedServer
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

from retrain_assets.orchestration.in_process import has_died

if TYPE_CHECKING:
    from dagster import DagsterRun

ANSWER_SECONDS = 10


class WatchedRunLauncher(DefaultRunLauncher):
    """Dagster's own launcher, asking after runs under way."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring may ask."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a run that counts as started is there; yes where none can tell."""
        gone = has_died(run) or (self._is_unknown(run) and not self._lives_here(run))
        if gone:
            return CheckRunHealthResult(WorkerStatus.FAILED, "its process is gone")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def _is_unknown(self, run: DagsterRun) -> bool:
        """Whether the code server that started the run is gone, or does not run it any more.

        One with an address of its own is waited for, since without it nothing can be tried again.
        """
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:
            return False
        asked = CanCancelExecutionRequest(run_id=run.run_id)
        try:
            answer = client.can_cancel_execution(asked, timeout=ANSWER_SECONDS)
        except DagsterUserCodeUnreachableError as error:
            failed, origin = error.__cause__, run.remote_job_origin
            return (
                origin is not None
                and isinstance(origin.repository_origin.code_location_origin, ManagedServer)
                and isinstance(failed, grpc.Call)
                and failed.code() == grpc.StatusCode.UNAVAILABLE
            )
        return not deserialize_value(answer, CanCancelExecutionResult).can_cancel

    def _lives_here(self, run: DagsterRun) -> bool:
        """Whether its worker outlives its server, as it does while that is being restarted."""
        for entry in self._instance.all_logs(run.run_id, of_type=DagsterEventType.RUN_START):
            try:
                os.kill(entry.get_dagster_event().pid or 0, 0)
            except ProcessLookupError:
                return False
        return True
