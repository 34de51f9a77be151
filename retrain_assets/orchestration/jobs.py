"""Jobs by name, for sensors, backfills and the UI: ingest, monitor, retrain, replay.

Jobs that a person starts, from the UI or the command line: approve, roll back, pause and so on.

Not here: what the assets and steps do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from retrain_assets.orchestration import checks
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.messages import tell_at_once
from retrain_assets.orchestration.metadata import DATASET_TAG, MODEL_TAG
from retrain_assets.orchestration.resources import Channels, StorageResource
from retrain_assets.orchestration.run_requests import tag_permanent_error
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.decision import operate
from retrain_assets.steps.inspect import status
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.registry.registry import ModelRegistry

WORK = {"retrain/work": "yes"}  # dagster.yaml keeps a run free of these
MONITORED = ("features", "profile", "predictions", "monitoring")
CURRENCY = "trained_on_current_data"
DECIDED = ("candidate_model", "evaluation", "production_model")


def ingest_job(spec: DatasetSpec) -> UnresolvedAssetJobDefinition:
    """`<d>_ingest`: landing files to dataset and quarantine, one run over a range."""
    return dg.define_asset_job(
        f"{spec.name}_ingest",
        selection=dg.AssetSelection.assets([spec.name, "dataset"], [spec.name, "quarantine"]),
        description=f"Take in what has landed of {spec.name}.",
        tags={DATASET_TAG: spec.name, **WORK},
        hooks={tag_permanent_error},
    )


def monitor_job(model: Model) -> UnresolvedAssetJobDefinition:
    """`<m>_monitor`: features to monitoring, one run over a range."""
    current = dg.AssetCheckKey(model.key("production_model"), CURRENCY)
    return _job(
        model,
        "monitor",
        _assets(model, *MONITORED) | dg.AssetSelection.checks(current),
        "Build features, summarise, predict and watch.",
    )


def replay_job(model: Model) -> UnresolvedAssetJobDefinition:
    """`<m>_replay`: other policies over stored history."""
    text = "Play other policies over stored history, and change nothing."
    return _job(model, "replay", _assets(model, "replay"), text)


def retrain_job(model: Model) -> UnresolvedAssetJobDefinition:
    """`<m>_retrain`: candidate, evaluation, decision."""
    text = "Train a candidate, compare it with production, promote it if it is better."
    return _job(model, "retrain", _assets(model, *DECIDED), text)


def _assets(model: Model, *names: str) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(model.key(name) for name in names))


def _job(
    model: Model, name: str, selection: dg.AssetSelection, text: str
) -> UnresolvedAssetJobDefinition:
    tags = {MODEL_TAG: model.spec.name, **WORK}
    return dg.define_asset_job(
        f"{model.spec.name}_{name}",
        selection,
        description=text,
        tags=tags,
        hooks={tag_permanent_error},
    )


FIRST = {"dagster/priority": "10"}  # in the run queue


class Plan(dg.Config):
    """Nothing is asked for."""


class Resume(dg.Config):
    """Who lets retraining go on, and why."""

    reason: str
    by: str = "a person"


class Approve(Resume):
    """Which version; it must be the one that waits."""

    version: int


class Pause(Resume):
    """Until which partition no retraining is asked for."""

    until: str


class Rollback(Resume):
    """To which version; the one before the present by default."""

    to: int | None = None


@dataclass(frozen=True)
class Operated:
    """What an operation is done on."""

    context: dg.OpExecutionContext
    config: Any
    state: ModelState
    registry: ModelRegistry


Shown = dict[str, Any]


def operation_jobs(model: Model) -> list[dg.JobDefinition]:
    """`<m>_approve`, `<m>_rollback`, `<m>_pause`, `<m>_resume`, `<m>_plan`."""
    return [
        _operations_job(
            model, "approve", "Put the version that waits into production.", Approve, _approve
        ),
        _operations_job(model, "rollback", "Put an earlier version back.", Rollback, _roll_back),
        _operations_job(model, "pause", "Ask for no retraining before a partition.", Pause, _pause),
        _operations_job(model, "resume", "End a pause.", Resume, _resume),
        _operations_job(
            model, "plan", "Show what would happen now, and change nothing.", Plan, _plan
        ),
    ]


def _operations_job(
    model: Model,
    name: str,
    description: str,
    config_class: type[dg.Config],
    act: Callable[[Operated], Shown],
) -> dg.JobDefinition:
    """One operation; what it says is seen on the asset `production_model`."""

    @dg.op(name=f"{model.spec.name}_{name}_op", description=description)
    def operation(
        context: dg.OpExecutionContext,
        config: config_class,  # type: ignore[valid-type]
        storage: StorageResource,
        channels: Channels,
    ) -> None:
        opened = storage.open()
        registry = opened.registry(model.spec.name)
        shown = act(Operated(context, config, model.state(opened), registry))
        key, metadata = model.key("production_model"), {"operation": name, **shown}
        made = dg.AssetMaterialization if "action" in shown else dg.AssetObservation
        context.log_event(made(key, metadata=metadata))
        tell_at_once(model, opened, channels, context)

    @dg.job(
        name=f"{model.spec.name}_{name}",
        description=description,
        tags={MODEL_TAG: model.spec.name, **FIRST},
    )
    def job() -> None:
        operation()

    return job


def _approve(on: Operated) -> Shown:
    config = on.config
    row = operate.approve(on.state, on.registry, config.version, config.reason, config.by)
    return {"action": row.action, "version": row.version, "reason": row.reason}


def _roll_back(on: Operated) -> Shown:
    row = operate.roll_back(on.state, on.registry, on.config.to, on.config.reason, on.config.by)
    return {"action": row.action, "version": row.version, "reason": row.reason}


def _pause(on: Operated) -> Shown:
    made = operate.pause(on.state, on.config.until, on.config.reason, on.config.by)
    return {"until": made.until, "reason": made.reason, "by": made.by}


def _resume(on: Operated) -> Shown:
    stood = operate.resume(on.state, on.config.reason, on.config.by)
    return {
        "ended": f"the pause until {stood.until}" if stood else "there was no pause",
        "reason": on.config.reason,
        "by": on.config.by,
    }


def _plan(on: Operated) -> Shown:
    found = status.plan(on.state, last_seconds(on.context.instance, on.state.spec.name))
    return {
        "wanted": found["wanted"],
        "reason": found["reason"],
        "causes": checks.table(found["triggers"]),
        **{name: " to ".join(keys) for name, keys in found["windows"].items()},
        **{name: value for name, value in found["cost"].items() if value is not None},
    }


def last_seconds(instance: dg.DagsterInstance, model: str) -> float | None:
    """How long the newest retraining that succeeded took."""
    done = dg.RunsFilter(job_name=f"{model}_retrain", statuses=[dg.DagsterRunStatus.SUCCESS])
    for record in instance.get_run_records(done, limit=1):
        if record.start_time and record.end_time:
            return round(record.end_time - record.start_time, 1)
    return None
