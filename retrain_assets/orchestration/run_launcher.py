"""Runs whose worker is gone are found out, also where nobody is left to report it.

With Dagster's own launcher a code server reports those of its runs that die. When both end at once
(a power cut, a restarted container, no memory left), the run counts as started for ever: its sensor
waits for it, and its pool stays taken (dagster issue 4319). Named by dagster.yaml. Not here: what
then becomes of such a run. Run monitoring marks it as failed and frees its pool, and it is tried
again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc  # type: ignore[import-untyped]
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
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
        gone = "its process has died" if has_died(run) else self._gone_from_server(run)
        return CheckRunHealthResult(WorkerStatus.FAILED if gone else WorkerStatus.RUNNING, gone)

    def _gone_from_server(self, run: DagsterRun) -> str | None:
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:
            return None
        asked = CanCancelExecutionRequest(run_id=run.run_id)
        try:
            answer = client.can_cancel_execution(asked, timeout=ANSWER_SECONDS)
        except DagsterUserCodeUnreachableError as error:
            failed = error.__cause__
            is_gone = isinstance(failed, grpc.Call) and failed.code() == grpc.StatusCode.UNAVAILABLE
            return "the code server that started it is gone" if is_gone else None
        known = deserialize_value(answer, CanCancelExecutionResult).can_cancel
        return None if known else "the code server does not run it any more"
