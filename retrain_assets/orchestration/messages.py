"""`<name>_messages`: tells people what has happened to a model or dataset.

All that is told is read from records that stay (ledger, files, runs), so what could not be told
when it happened is told later. Not here: what ledger and files say, and how a message is sent.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import dagster as dg

from retrain_assets.domain.messages import Event
from retrain_assets.orchestration.metadata import (
    AS_OF_TAG,
    BECAUSE_TAG,
    CAUSES_TAG,
    DATASET_TAG,
    MODEL_TAG,
)
from retrain_assets.orchestration.model_assets import Model
from retrain_assets.orchestration.partitions import partitions_definition
from retrain_assets.orchestration.requests import WATCHING, failure
from retrain_assets.orchestration.resources import Channels, StorageResource
from retrain_assets.specs.base import duration
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.notify import NotifySpec
from retrain_assets.steps import messages
from retrain_assets.stores.outbox import Outbox
from retrain_assets.stores.storage import Storage

NEWEST = 30  # runs of a kind that are looked at; fewer begin or fail between two ticks
FROM_THE_UI = "__ASSET_JOB"  # what Dagster calls a run of assets that were selected there
Context = dg.OpExecutionContext | dg.AssetExecutionContext
Source = Callable[[], Iterator[Event]]
_now = partial(datetime.now, UTC)


@dataclass(frozen=True)
class Subject:
    """Whom or what people are told about.

    Args:
        name: The model or dataset.
        tag: Of runs that are about it.
        notify: Who is told.
        records: What its records tell, from a storage and Dagster's instance, at a time.
    """

    name: str
    tag: str
    notify: NotifySpec
    records: Callable[[Storage, dg.DagsterInstance, datetime], Sequence[Source]]


def of_model(model: Model) -> Subject:
    """A model: decisions, corrections, what was asked for, troubles of serving."""

    def records(storage: Storage, instance: dg.DagsterInstance, _: datetime) -> Sequence[Source]:
        state = model.state(storage)
        return (
            partial(messages.decisions, state),
            partial(messages.corrections, state),
            partial(messages.worse_than_before, state),
            partial(messages.troubles, state),
            partial(_asked, instance, model.spec.name),
        )

    return Subject(model.spec.name, MODEL_TAG, model.spec.notify, records)


def of_dataset(spec: DatasetSpec) -> Subject:
    """A dataset: files that are refused, and a partition that has not landed."""

    def records(storage: Storage, _: dg.DagsterInstance, now: datetime) -> Sequence[Source]:
        return (
            partial(messages.refusals, storage.tables, spec),
            partial(messages.overdue, storage.tables, spec, _expected(spec, now)),
        )

    return Subject(spec.name, DATASET_TAG, spec.notify, records)


def messages_sensors(subject: Subject) -> list[dg.SensorDefinition]:
    """`<name>_messages`; none where nobody is to be told."""
    if not subject.notify.channels:
        return []

    @dg.sensor(
        name=f"{subject.name}_messages",
        **WATCHING,
        description=f"Tells people what has happened to {subject.name}; asks for nothing.",
    )
    def _sensor(
        context: dg.SensorEvaluationContext, storage: StorageResource, channels: Channels
    ) -> dg.SkipReason:
        return dg.SkipReason(tell(subject, storage.open(), channels, context.instance))

    return [_sensor]


def tell_at_once(model: Model, storage: Storage, channels: Channels, context: Context) -> None:
    """Tell of a decision as soon as it is made; whatever happens, the run goes on."""
    try:
        said = tell(of_model(model), storage, channels, context.instance)
    except Exception as error:  # noqa: BLE001 telling people never breaks the work
        said = f"{type(error).__name__}: {error}: {model.spec.name}_messages tries again"
    if said:
        context.log.info("messages: %s", said)


def tell(
    subject: Subject,
    storage: Storage,
    channels: Channels,
    instance: dg.DagsterInstance,
    clock: Callable[[], datetime] = _now,
) -> str:
    """Send what is due; records that cannot be read keep nobody from being told of the others.

    Args:
        subject: What people are told about.
        storage: Where its records are, and its outbox.
        channels: How they are told.
        instance: Where runs are recorded.
        clock: The time.

    Returns:
        What came of it, for people.
    """
    senders, problems = channels.senders(subject.notify)
    if not senders:
        return "; ".join(problems)
    outbox = Outbox(storage.tables, subject.name)
    sources = [*subject.records(storage, instance, clock())]
    if any(subject.notify.tells(channel, "run_failed") for channel in senders):
        known = {notice.id: notice for notice in outbox.read()}
        sources.append(partial(_failed, instance, subject, known))
    events: list[Event] = []
    for source in sources:
        try:
            events += source()
        except Exception as error:  # noqa: BLE001 see above
            problems.append(f"{type(error).__name__}: {error}")
    done = messages.deliver(outbox, subject.notify, senders, events, clock)
    return "; ".join([done, *problems])


def _expected(spec: DatasetSpec, now: datetime) -> str | None:
    """The newest partition that should have landed by a time."""
    definition = partitions_definition(spec.partition)
    if definition is None or spec.expected is None:
        return None
    with dg.partition_loading_context(now - duration(spec.expected)):
        return definition.get_last_partition_key()


def _asked(instance: dg.DagsterInstance, model: str) -> Iterator[Event]:
    """Retraining that was asked for, by a sensor or a person."""
    for record in instance.get_run_records(dg.RunsFilter(job_name=f"{model}_retrain"), NEWEST):
        run, tags = record.dagster_run.run_id, record.dagster_run.tags
        as_of, causes = tags.get(AS_OF_TAG, ""), tags.get(CAUSES_TAG, "request")
        why, when = tags.get(BECAUSE_TAG, "a person asked for it"), f" as of {as_of}"
        yield Event(
            id=f"asked:{run}",
            kind="retraining",
            subject=model,
            text=f"{model}: retraining{when if as_of else ''} ({causes}): {why}",
            cause=f"{as_of} {causes}" if as_of else run,
            fields=json.dumps({"as_of": as_of, "causes": causes.split(","), "run_id": run}),
            time=record.create_timestamp,
        )


def _failed(
    instance: dg.DagsterInstance, subject: Subject, known: Mapping[str, Event]
) -> Iterator[Event]:
    """Failed runs of the subject's jobs, and of its assets where they were selected in the UI."""
    failed = [dg.DagsterRunStatus.FAILURE]
    own = dg.RunsFilter(statuses=failed, tags={subject.tag: subject.name})
    selected = dg.RunsFilter(statuses=failed, job_name=FROM_THE_UI)
    runs = list(instance.get_runs(own, limit=NEWEST))
    for run in instance.get_runs(selected, limit=NEWEST):
        runs += [run] if subject.name in {key.path[0] for key in run.asset_selection or ()} else []
    for run in runs:
        name, job = f"failed:{run.run_id}", run.job_name.replace(FROM_THE_UI, "a run from the UI")
        if name in known:
            yield known[name]
            continue
        kind, why = failure(instance, run.run_id)
        yield Event(
            id=name,
            kind="run_failed",
            subject=subject.name,
            text=f"{subject.name}: {job} failed, {why} (run {run.run_id})",
            cause=f"{job} {kind}",
            fields=json.dumps({"job": run.job_name, "run_id": run.run_id, "error": why}),
        )
