"""Sensors and the schedule: what has happened in, run requests out.

Each looks at storage, not at a cursor, so that a repeated or restarted tick asks for the same. A
request is named by a digest of what it is about and the attempt, since Dagster never repeats a
run key: a failed run can be asked for again, a running one is not doubled. Not here: the
triggering policy, which decides on retraining.
"""

from __future__ import annotations

import json
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import dagster as dg

from retrain_assets.domain.triggers import decide
from retrain_assets.domain.windows import widened
from retrain_assets.orchestration.decision_assets import AS_OF_TAG, CAUSES_TAG
from retrain_assets.orchestration.partitions import covering, range_tags
from retrain_assets.orchestration.resources import SlackNotifications, StorageResource
from retrain_assets.steps.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from retrain_assets.orchestration.model_assets import Model
    from retrain_assets.specs.dataset import DatasetSpec

REQUEST_TAG = "retrain/request"
MAX_ATTEMPTS = 3
MAX_FILES = 500  # looked into in one tick, where they hold many partitions
WATCHING: dict[str, Any] = {
    "minimum_interval_seconds": 30,
    "default_status": dg.DefaultSensorStatus.RUNNING,
}
ALERT_TAG, MODEL_TAG = "retrain/notify", "retrain/model"
Evaluated = dg.RunRequest | dg.SkipReason


def new_data_sensor(spec: DatasetSpec, job: dg.ExecutableDefinition) -> dg.SensorDefinition:
    """`<d>_new_data`: files that were not read yet, as one range."""

    @dg.sensor(
        name=f"{spec.name}_new_data",
        job=job,
        **WATCHING,
        description=f"Asks to ingest files of {spec.name} that have landed or changed.",
    )
    def _sensor(context: dg.SensorEvaluationContext, storage: StorageResource) -> Evaluated:
        intake = Intake(storage.open(), spec)
        unread, settled = intake.unread, intake.settled(time.time_ns())
        if not settled:
            waits = f"; {len(unread)} may still be written" if unread else ""
            return dg.SkipReason(f"{len(intake.files)} files have landed, all were read{waits}")
        chosen = settled[:MAX_FILES]
        stamps = [f"{file.path}:{file.stamp}" for file in chosen]
        return request(context, stamps, covering(spec.partition, intake.keys(chosen)))

    return _sensor


def data_ready_sensor(model: Model, job: dg.ExecutableDefinition) -> dg.SensorDefinition:
    """`<m>_data_ready`: partitions whose datasets changed since monitoring, as one range."""

    @dg.sensor(
        name=f"{model.spec.name}_data_ready",
        job=job,
        **WATCHING,
        description="Asks to build and monitor partitions whose datasets have changed.",
    )
    def _sensor(context: dg.SensorEvaluationContext, storage: StorageResource) -> Evaluated:
        state = model.state(storage.open())
        sources, built = state.sources(), state.built()
        changed = [key for key, source in sources.items() if built.get(key) != source]
        if not changed:
            return dg.SkipReason(f"all {len(sources)} complete partitions are monitored")
        keys = widened(tuple(sources), changed, model.spec.windows.current)
        contents = [f"{key}:{sources[key]}" for key in changed]
        return request(context, contents, {**range_tags(keys[0], keys[-1]), **_owner(model)})

    return _sensor


def retrain_wanted_sensor(model: Model, job: dg.ExecutableDefinition) -> dg.SensorDefinition:
    """`<m>_retrain_wanted`: what the triggering policy decides on what was monitored."""

    @dg.sensor(
        name=f"{model.spec.name}_retrain_wanted",
        job=job,
        **WATCHING,
        description="Asks to retrain when the triggering policy finds a cause.",
    )
    def _sensor(context: dg.SensorEvaluationContext, storage: StorageResource) -> Evaluated:
        return _wanted(model, context, storage)

    return _sensor


def policy_schedule(model: Model, job: dg.ExecutableDefinition) -> dg.ScheduleDefinition | None:
    """`<m>_schedule`: wakes the policy; whether to retrain is decided in data time all the same."""
    if model.spec.schedule is None:
        return None

    @dg.schedule(
        name=f"{model.spec.name}_schedule",
        job=job,
        cron_schedule=model.spec.schedule,
        execution_timezone=model.dataset.partition.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Wakes the triggering policy at fixed times.",
    )
    def _schedule(context: dg.ScheduleEvaluationContext, storage: StorageResource) -> Evaluated:
        return _wanted(model, context, storage)

    return _schedule


def run_failed_sensor() -> dg.SensorDefinition:
    """`run_failed`: tells people which run failed and where, once for all components."""

    @dg.run_failure_sensor(
        name="run_failed",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells people of a failed run.",
    )
    def run_failed(context: dg.RunFailureSensorContext, slack: SlackNotifications) -> None:
        run, channel = context.dagster_run, context.dagster_run.tags.get(ALERT_TAG)
        said = f"{run.job_name} failed in run {run.run_id}: {context.failure_event.message}"
        slack.notifier(context.log).tell(channel, said)

    return run_failed


def request(
    context: dg.SensorEvaluationContext | dg.ScheduleEvaluationContext,
    about: Sequence[str],
    tags: Mapping[str, str],
) -> Evaluated:
    """Ask for a run about something, unless one is under way or it failed too often.

    Args:
        context: Of the tick.
        about: What names the request: file stamps, partition contents, or as-of and causes.
        tags: Tags of the run.
    """
    digest = sha256(json.dumps(sorted(about)).encode()).hexdigest()[:16]
    runs = context.instance.get_runs(filters=dg.RunsFilter(tags={REQUEST_TAG: digest}))
    if any(not run.is_finished for run in runs):
        return dg.SkipReason(f"run {runs[0].run_id} is at it")
    if len(runs) >= MAX_ATTEMPTS:
        return dg.SkipReason(
            f"{len(runs)} runs did not settle it, the last is {runs[0].run_id}: see why, mend it, "
            "and start the job by hand"
        )
    return dg.RunRequest(run_key=f"{digest}:{len(runs)}", tags={**tags, REQUEST_TAG: digest})


def _owner(model: Model) -> dict[str, str]:
    """Tags that say whose run it is, and who is told if it fails."""
    channel = model.spec.notify.slack
    return {MODEL_TAG: model.spec.name} | ({ALERT_TAG: channel} if channel else {})


def _wanted(
    model: Model,
    context: dg.SensorEvaluationContext | dg.ScheduleEvaluationContext,
    storage: StorageResource,
) -> Evaluated:
    wish = decide(model.spec, model.state(storage.open()).situation())
    if not wish.wanted or wish.as_of is None:
        return dg.SkipReason(wish.reason)
    tags = {
        AS_OF_TAG: wish.as_of,
        CAUSES_TAG: ",".join(wish.fired),
        "retrain/reason": wish.reason[:250],
        **_owner(model),
    }
    return request(context, [model.spec.name, wish.as_of, *wish.fired], tags)
