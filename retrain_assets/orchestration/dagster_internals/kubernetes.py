"""Runs as Jobs of Kubernetes, each with the CPUs and the memory that the YAML of its model names.

Used by `deploy/kubernetes/jobs/dagster.yaml` as `run_launcher:`. Nothing else imports it, since it
needs the extra `kubernetes`. Not here: what the runs do.
"""

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster_k8s import K8sRunLauncher

from retrain_assets.orchestration.dagster_internals.runs import PROCESS_TAG, has_died


class WatchedJobLauncher(K8sRunLauncher):
    """Dagster's launcher of Jobs, which lets only runs fail that have ended."""

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether the Job of a started run works; healthy where nobody can tell."""
        if PROCESS_TAG in run.tags:  # a command executes it, so it has no Job
            gone = has_died(run)
            return CheckRunHealthResult(WorkerStatus.FAILED if gone else WorkerStatus.RUNNING)
        health = super().check_run_worker_health(run)
        is_gone = (health.msg or "").endswith("could not be found")
        if health.status == WorkerStatus.UNKNOWN and not is_gone:
            # Dagster would call the run failed, though only the API did not answer.
            return CheckRunHealthResult(WorkerStatus.RUNNING, health.msg)
        return health
