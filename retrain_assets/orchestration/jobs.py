"""Jobs by name: what sensors, backfills and people start.

Not here: what the assets and steps do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import dagster as dg

from retrain_assets.orchestration import checks, messages, metadata, run_requests
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.dagster_internals import AssetJob
from retrain_assets.orchestration.resources import Channels, StorageResource
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.resources import SizeSpec
from retrain_assets.steps.decision import layer, policy, promote
from retrain_assets.steps.inspect import status
from retrain_assets.steps.state import ModelState

WORK = {"retrain/work": "yes"}  # dagster.yaml keeps a run free of these
FIRST = {"dagster/priority": "10"}  # in the run queue
CURRENCY = "trained_on_current_data"


def ingest_job(spec: DatasetSpec) -> AssetJob:
    """Return `<d>_ingest`: landing files to dataset and quarantine, one run over a range."""
    selection = dg.AssetSelection.assets([spec.name, "dataset"], [spec.name, "quarantine"])
    text = f"Take in what has landed of {spec.name}."
    return _job(f"{spec.name}_ingest", selection, text, {metadata.DATASET_TAG: spec.name})


def pull_job(spec: DatasetSpec) -> AssetJob:
    """Return `<d>_pull`: new rows of a database or an asset to landing files."""
    selection = dg.AssetSelection.assets([spec.name, "landing"])
    text = f"Pull new rows of {spec.name} from {spec.place}."
    return _job(f"{spec.name}_pull", selection, text, {metadata.DATASET_TAG: spec.name})


def monitor_job(model: Model) -> AssetJob:
    """Return `<m>_monitor`: features to monitoring, one run over a range."""
    text = "Build features, summarise, predict and watch."
    return _model_job(model, "monitor", monitored(model), text)


def shared_monitor_job(models: Sequence[Model]) -> AssetJob:
    """Return `<d>_monitor`: what `<m>_monitor` does of several models of a dataset, in one run."""
    name = models[0].dataset.name
    text = f"Build features, summarise, predict and watch: all models of {name}."
    selection = reduce(or_, map(monitored, models))
    return _job(f"{name}_monitor", selection, text, run_requests.SHARED)


def monitored(model: Model) -> dg.AssetSelection:
    """Return what a run that monitors a model builds and checks."""
    selection = _assets(model, "features", "profile", "predictions", "monitoring")
    if model.spec.for_each is None:
        learned = () if model.spec.layer.mode == "off" else ("adaptation",)
        check = dg.AssetCheckKey(model.key("production_model"), CURRENCY)
        selection |= _assets(model, "report", *learned) | dg.AssetSelection.checks(check)
    return selection


def replay_job(model: Model) -> AssetJob:
    """Return `<m>_replay`: other policies over stored history."""
    text = "Play other policies over stored history, and change nothing."
    return _model_job(model, "replay", _assets(model, "replay"), text)


def retrain_job(model: Model) -> AssetJob:
    """Return `<m>_retrain`: candidate, evaluation, decision."""
    text = "Train a candidate, compare it with production, promote it if it is better."
    selection = _assets(model, "candidate_model", "evaluation", "production_model", "report")
    return _model_job(model, "retrain", selection, text)


def _assets(model: Model, *names: str) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(model.key(name) for name in names))


def _model_job(model: Model, name: str, selection: dg.AssetSelection, text: str) -> AssetJob:
    spec = model.spec
    sizes = [spec.resources, *([spec.resources.retrain] if name == "retrain" else [])]
    tags = {metadata.MODEL_TAG: spec.name, **kubernetes_tags(*sizes)}
    return _job(f"{spec.name}_{name}", selection, text, tags)


def kubernetes_tags(*sizes: SizeSpec) -> dict[str, Any]:
    """Return the tag from which Dagster's launcher takes the resources of a Job; none without any.

    Args:
        sizes: Where several set a value, the last one counts.
    """
    sets = [size.model_dump(include={"cpu", "memory"}, exclude_none=True) for size in sizes]
    requests = {name: str(value) for part in sets for name, value in part.items()}
    limits = {name: value for name, value in requests.items() if name == "memory"}
    resources = {"requests": requests, "limits": limits}
    return (
        {"dagster-k8s/config": {"container_config": {"resources": resources}}} if requests else {}
    )


def _job(name: str, selection: dg.AssetSelection, text: str, tags: dict[str, Any]) -> AssetJob:
    hooks = {run_requests.tag_permanent_error}
    return dg.define_asset_job(name, selection, description=text, tags=tags | WORK, hooks=hooks)


class Plan(dg.Config):
    """The config of an operation that needs no more: with `for_each`, which model is meant."""

    model: str | None = None


class Resume(Plan):
    """Who lets retraining go on, and why."""

    reason: str
    by: str = "a person"


class Approve(Resume):
    """The version that is approved, or the adaptive layer; it must be what waits."""

    version: int | None = None
    layer: bool = False


class Pause(Resume):
    """Until which partition no retraining is asked for."""

    until: str


class Rollback(Resume):
    """To which version to go back; the one before production by default."""

    to: int | None = None


@dataclass(frozen=True)
class Operation:
    """The run, settings, model and state that an operation works with."""

    context: dg.OpExecutionContext
    config: Any
    member: Model
    state: ModelState


Metadata = dict[str, Any]


def operation_jobs(model: Model) -> list[dg.JobDefinition]:
    """Return `<m>_approve`, `<m>_rollback`, `<m>_pause`, `<m>_resume` and `<m>_plan`."""
    return [_operation_job(model, name, *parts) for name, parts in _OPERATIONS.items()]


def _operation_job(
    model: Model,
    name: str,
    description: str,
    config_class: type[dg.Config],
    act: Callable[[Operation], Metadata],
) -> dg.JobDefinition:
    """Return the job of an operation, whose result is seen on the asset `production_model`."""

    @dg.op(name=f"{model.spec.name}_{name}_op", description=description)
    def operation(
        context: dg.OpExecutionContext,
        config: config_class,  # type: ignore[valid-type]
        storage: StorageResource,
        channels: Channels,
    ) -> None:
        opened, member = storage.open(), model.member(config.model)  # type: ignore[attr-defined]
        outcome = act(Operation(context, config, member, member.state(opened)))
        event = dg.AssetMaterialization if "action" in outcome else dg.AssetObservation
        key = model.key("production_model")
        partition = member.spec.name if model.spec.for_each else None
        noted = {"operation": name, **outcome}
        context.log_event(event(key, metadata=noted, partition=partition))
        messages.tell_at_once(member, opened, channels, context)

    @dg.job(
        name=f"{model.spec.name}_{name}",
        description=description,
        tags={metadata.MODEL_TAG: model.spec.name, **FIRST},
    )
    def job() -> None:
        operation()

    return job


def _approve(on: Operation) -> Metadata:
    config = on.config
    if config.layer:
        row = layer.approve_layer(on.state, config.reason, config.by)
    else:
        row = promote.approve(on.state, config.version, config.reason, config.by)
    return {"action": row.action, "version": row.version, "reason": row.reason}


def _roll_back(on: Operation) -> Metadata:
    row = promote.roll_back(on.state, on.config.to, on.config.reason, on.config.by)
    return {"action": row.action, "version": row.version, "reason": row.reason}


def _pause(on: Operation) -> Metadata:
    pause = policy.pause(on.state, on.config.until, on.config.reason, on.config.by)
    return {"until": pause.until, "reason": pause.reason, "by": pause.by}


def _resume(on: Operation) -> Metadata:
    pause = policy.resume(on.state, on.config.reason, on.config.by)
    ended = f"the pause until {pause.until}" if pause else "there was no pause"
    return {"ended": ended, "reason": on.config.reason, "by": on.config.by}


def _plan(on: Operation) -> Metadata:
    plan = status.plan(on.state, last_seconds(on.context.instance, on.member))
    return {
        "wanted": plan["wanted"],
        "reason": plan["reason"],
        "causes": checks.table(plan["triggers"]),
        **{name: " to ".join(keys) for name, keys in plan["windows"].items()},
        **{name: value for name, value in plan["cost"].items() if value is not None},
    }


_OPERATIONS: dict[str, tuple[str, type[dg.Config], Callable[[Operation], Metadata]]] = {
    "approve": ("Put the version that waits into production.", Approve, _approve),
    "rollback": ("Put an earlier version back.", Rollback, _roll_back),
    "pause": ("Ask for no retraining before a partition.", Pause, _pause),
    "resume": ("End a pause.", Resume, _resume),
    "plan": ("Show what would happen now, and change nothing.", Plan, _plan),
}


def last_seconds(instance: dg.DagsterInstance, model: Model) -> float | None:
    """Return how many seconds the newest retraining that succeeded took, or None."""
    job, statuses = f"{model.spec.group}_retrain", [dg.DagsterRunStatus.SUCCESS]
    succeeded = dg.RunsFilter(job_name=job, statuses=statuses, tags=model.decides)
    for record in instance.get_run_records(succeeded, limit=1):
        if record.start_time and record.end_time:
            return round(record.end_time - record.start_time, 1)
    return None
