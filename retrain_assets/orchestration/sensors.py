"""A model's sensors and schedule: what has happened in, run requests out.

Each looks at storage, not at a cursor, so that a repeated or restarted tick asks for the same. Not
here: the triggering policy, which decides on retraining.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from retrain_assets.domain.windows import widened
from retrain_assets.orchestration.metadata import AS_OF_TAG, BECAUSE_TAG, CAUSES_TAG, HELD_TAG
from retrain_assets.orchestration.partitions import range_tags
from retrain_assets.orchestration.requests import WATCHING, Evaluated, Tick, Wish, requests
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.steps.decisions import recorded

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )

    from retrain_assets.orchestration.model_assets import Model

MAX_REASON = 500  # of a tag


def data_ready_sensor(model: Model, job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """`<m>_data_ready`: partitions whose datasets changed since monitoring.

    Each range holds all whose window looks at a changed one; far apart, they are ranges of their
    own, so that a correction of an old day does not build all days since again.
    """

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
        wishes = [
            Wish(
                [f"{key}:{sources[key]}" for key in changed if first <= key <= last],
                range_tags(first, last),
            )
            for first, last in widened(tuple(sources), changed, model.spec.monitoring_span)
        ]
        return requests(context, job.name, wishes)

    return _sensor


def retrain_wanted_sensor(model: Model, job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """`<m>_retrain_wanted`: what the triggering policy decides on what was monitored."""

    @dg.sensor(
        name=f"{model.spec.name}_retrain_wanted",
        job=job,
        **WATCHING,
        description="Asks to retrain when the triggering policy finds a cause.",
    )
    def _sensor(context: dg.SensorEvaluationContext, storage: StorageResource) -> Evaluated:
        return _wanted(model, job.name, context, storage)

    return _sensor


def policy_schedule(
    model: Model, job: UnresolvedAssetJobDefinition
) -> dg.ScheduleDefinition | None:
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
        return _wanted(model, job.name, context, storage)

    return _schedule


def _wanted(model: Model, job: str, context: Tick, storage: StorageResource) -> Evaluated:
    found = recorded(model.state(storage.open()))
    if not found.wanted or found.as_of is None:
        return dg.SkipReason(found.reason)
    tags = {
        AS_OF_TAG: found.as_of,
        CAUSES_TAG: ",".join(found.fired),
        BECAUSE_TAG: found.reason[:MAX_REASON],
        **({HELD_TAG: str(found.held)} if found.held else {}),
    }
    return requests(context, job, [Wish([found.as_of, *found.fired], tags)])
