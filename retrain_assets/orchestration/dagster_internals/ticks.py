"""The daemon's work in this process: tick the sensors, execute what they ask for.

A run started by the daemon costs some twelve seconds of process start and polling; here it costs
what its steps cost. The runs are those of the same jobs, in the same instance, tagged with the
same sensor. Not here: what any sensor decides.
"""

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import time
from types import MappingProxyType
from typing import Any

import dagster as dg
from dagster._core import remote_origin
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._core.storage.tags import MAX_RETRIES_TAG, RUN_KEY_TAG, SENSOR_NAME_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from retrain_assets.orchestration.dagster_internals.runs import own_process
from retrain_assets.orchestration.run_requests import (
    SHARED,
    concerns,
    covers,
    describe_error,
    failure,
)
from retrain_assets.stores.database import outage

MAX_ROUNDS = 20
HEARTBEAT_SECONDS = 90  # a daemon gives a sign of life every 30 seconds
NEWEST = 100  # runs of several models, among which that of a model is looked for
# Progress is shown by the caller; every event is in the instance all the same.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class UnsettledError(RuntimeError):
    """The sensors kept asking for runs, or a run failed."""


@dataclass(frozen=True)
class Executed:
    """A run that a sensor requested.

    Args:
        sensor: The sensor.
        job: The job; empty after a failure.
        run_id: The run; empty after a failure, whose `error` names it.
        error: Why the sensor or a run of it failed.
    """

    sensor: str
    job: str = ""
    run_id: str = ""
    error: str | None = None


class InProcessDaemon:
    """Ticks the sensors of a repository until none asks for anything.

    Args:
        definitions: What `dagster dev` would load.
        instance: Where runs are recorded.
        module: Where the UI finds the definitions, as workspace.yaml says.
        location: The name that the UI shows.
        tags: Tags of each run that a sensor requests.
    """

    def __init__(
        self,
        definitions: dg.Definitions,
        instance: dg.DagsterInstance,
        module: str = "retrain_assets.definitions",
        location: str = "retrain_assets",
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.repository, self.instance = definitions.get_repository_def(), instance
        target = LoadableTargetOrigin(executable_path=sys.executable, module_name=module)
        self.origin = remote_origin.RemoteRepositoryOrigin(
            remote_origin.ManagedGrpcPythonEnvCodeLocationOrigin(target, location),
            self.repository.name,
        )
        sensors = sorted(self.repository.sensor_defs, key=_downstream_last)
        of_runs = dg.RunStatusSensorDefinition
        self.sensors = [sensor for sensor in sensors if not isinstance(sensor, of_runs)]
        self.cursors: dict[str, str | None] = {}
        self.tags, self.reasons = tags, dict[str, str]()  # why each sensor asks for nothing

    def drop_stopped(self) -> None:
        """Leave out sensors that somebody has stopped in the UI, or that start stopped."""
        running = {
            sensor.name: sensor.default_status == dg.DefaultSensorStatus.RUNNING
            for sensor in self.sensors
        }
        if self.instance.schedule_storage:
            states = self.instance.all_instigator_state()
            running |= {state.instigator_name: state.is_running for state in states}
        stopped = [sensor.name for sensor in self.sensors if not running[sensor.name]]
        self.reasons |= dict.fromkeys(stopped, "the sensor is stopped")
        self.sensors = [sensor for sensor in self.sensors if sensor.name not in self.reasons]

    def settle(
        self, only: Collection[str] | None = None, *, despite_failures: bool = False
    ) -> Iterator[Executed]:
        """Tick all sensors, round after round, executing each run as it is asked for.

        Args:
            only: The names of the sensors that are ticked; all by default.
            despite_failures: Yield a failure, and leave out its sensor from then on.

        Raises:
            UnsettledError: A run failed, or they still ask after `MAX_ROUNDS`.
        """
        sensors = [sensor for sensor in self.sensors if only is None or sensor.name in only]
        for _ in range(MAX_ROUNDS):
            executed = False
            for sensor in [*sensors]:
                try:
                    for run in self._tick(sensor):
                        executed = True
                        yield run
                except Exception as error:
                    if not despite_failures:
                        raise
                    sensors.remove(sensor)
                    kind = "" if isinstance(error, UnsettledError) else type(error).__name__
                    text = f"{kind}: {error}".removeprefix(": ")
                    answer = outage(error)
                    yield Executed(sensor.name, error=f"PostgreSQL: {answer}" if answer else text)
            if not executed:
                return
        raise UnsettledError(f"the sensors still ask for runs after {MAX_ROUNDS} rounds")

    def execute(
        self,
        job_name: str,
        tags: Mapping[str, str],
        config: Mapping[str, Any],
        assets: Iterable[dg.AssetKey] | None = None,
        checks: Iterable[dg.AssetCheckKey] | None = None,
    ) -> str:
        """Execute a job; all of it, or some of its assets and checks.

        Returns:
            The run's id.

        Raises:
            UnsettledError: The run failed.
        """
        job = self.repository.get_job(job_name)
        if assets is not None:
            keys = frozenset(checks or ())
            job = job.get_subset(asset_selection=frozenset(assets), asset_check_selection=keys)
        run = self.instance.create_run_for_job(
            job,
            run_config={**QUIET, **config},
            # No daemon may be there to try a run again; its sensor or a person asks for it again.
            tags={**job.tags, **tags, **own_process(), MAX_RETRIES_TAG: "0"},
            remote_job_origin=remote_origin.RemoteJobOrigin(self.origin, job.name),
        )
        result = execute_run(InMemoryJob(job), run, self.instance)
        if not result.success:
            _, why = failure(self.instance, run.run_id)
            raise UnsettledError(f"run {run.run_id} of {job.name} failed: {why}")
        return run.run_id

    def _tick(self, sensor: dg.SensorDefinition) -> Iterator[Executed]:
        context = dg.build_sensor_context(
            instance=self.instance,
            repository_def=self.repository,
            sensor_name=sensor.name,
            resources=self.repository.get_top_level_resources(),
            cursor=self.cursors.get(sensor.name),
        )
        outcome = sensor.evaluate_tick(context)
        self.cursors[sensor.name] = outcome.cursor
        self.reasons[sensor.name] = outcome.skip_message or ""
        for request in outcome.run_requests or []:
            job = request.job_name or sensor.job_name or ""
            tags = {SENSOR_NAME_TAG: sensor.name, RUN_KEY_TAG: request.run_key or "", **self.tags}
            parts = request.asset_selection, request.asset_check_keys
            run_id = self.execute(job, {**request.tags, **tags}, request.run_config, *parts)
            yield Executed(sensor.name, job, run_id)


def has_daemon(instance: dg.DagsterInstance) -> bool:
    """Return whether a daemon ticks the sensors of an instance at present."""
    heartbeat = instance.get_daemon_heartbeats().get("SENSOR")
    return heartbeat is not None and time() - heartbeat.timestamp < HEARTBEAT_SECONDS


def failed_ticks(instance: dg.DagsterInstance, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the sensors of datasets and models whose newest tick failed, and the error."""
    prefixes = tuple(f"{name}_" for name in names)
    for state in instance.all_instigator_state() if instance.schedule_storage else ():
        if state.instigator_name.startswith(prefixes):
            origin, selector = state.instigator_origin_id, state.selector_id
            for tick in instance.get_ticks(origin, selector, limit=1):
                if tick.error is not None:
                    yield state.instigator_name, describe_error(tick.error.cause or tick.error)


def failed_runs(instance: dg.DagsterInstance, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the jobs of datasets and models whose newest run failed, and the error.

    A model is monitored by runs of its own and by runs that it shares with others.
    """
    shared = instance.get_run_records(dg.RunsFilter(tags=SHARED), limit=NEWEST)
    for name in names:
        monitored = [record for record in shared if covers(record.dagster_run, name)][:1]
        for step in ("pull", "ingest", "monitor", "retrain"):
            job = dg.RunsFilter(job_name=f"{name}_{step}")
            records = [*instance.get_run_records(job, limit=1)]
            records += monitored if step == "monitor" else []
            for record in sorted(records, key=lambda record: record.storage_id)[-1:]:
                run = record.dagster_run
                is_alone = not SHARED.items() <= run.tags.items()
                has_failed = run.status == dg.DagsterRunStatus.FAILURE
                if has_failed and (is_alone or concerns(instance, run, name)):
                    why = failure(instance, run.run_id, name)[1]
                    yield run.job_name, f"run {run.run_id[:8]}: {why}"


def _downstream_last(sensor: dg.SensorDefinition) -> tuple[int, str]:
    """Return the order in which each sensor sees what the ones before it changed."""
    order = ("_pull_due", "_new_data", "_data_ready", "_retrain_wanted")
    places = (place for place, ending in enumerate(order) if sensor.name.endswith(ending))
    return next(places, len(order)), sensor.name
