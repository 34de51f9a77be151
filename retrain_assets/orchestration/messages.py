"""The sensor `<name>_messages`, which tells people what has happened to a model or dataset.

Every event is read from records that stay (ledger, files, runs), so an event that could not be
sent when it happened is sent later. Not here: events of ledger and files, and how to send.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import dagster as dg

from retrain_assets.domain.messages import Event
from retrain_assets.orchestration import metadata, partitions, run_requests
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.resources import Channels, StorageResource
from retrain_assets.specs.base import duration
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.notify import NotifySpec
from retrain_assets.steps.upkeep import messages
from retrain_assets.stores.messages import Outbox
from retrain_assets.stores.storage import Storage

NEWEST = 30  # runs of a kind that are read; fewer begin or fail between two ticks
FROM_THE_UI = "__ASSET_JOB"  # what Dagster calls a run of assets that were selected there
Context = dg.OpExecutionContext | dg.AssetExecutionContext
Source = Callable[[], Iterator[Event]]
_now = partial(datetime.now, UTC)


@dataclass(frozen=True)
class Subject:
    """A model or dataset that people are told about.

    Args:
        name: The model or dataset.
        tag: Of runs that are about it.
        notify: Who is told.
        records: Makes the sources of its events from a storage, Dagster's instance and the time.
    """

    name: str
    tag: str
    notify: NotifySpec
    records: Callable[[Storage, dg.DagsterInstance, datetime], Sequence[Source]]


def of_model(model: Model) -> Subject:
    """Return a model, with its decisions, corrections, requests and troubles of serving."""

    def records(storage: Storage, instance: dg.DagsterInstance, _: datetime) -> Sequence[Source]:
        state = model.state(storage)
        return (
            partial(messages.list_decisions, state),
            partial(messages.list_corrections, state),
            partial(messages.find_regression, state),
            partial(messages.list_troubles, state),
            partial(_list_requests, instance, model),
        )

    return Subject(model.spec.name, metadata.MODEL_TAG, model.spec.notify, records)


def of_dataset(spec: DatasetSpec) -> Subject:
    """Return a dataset, with its refused files and a partition that has not landed."""

    def records(storage: Storage, _: dg.DagsterInstance, now: datetime) -> Sequence[Source]:
        return (
            partial(messages.list_refusals, storage.tables, spec),
            partial(messages.find_overdue, storage.tables, spec, _find_expected(spec, now)),
        )

    return Subject(spec.name, metadata.DATASET_TAG, spec.notify, records)


def messages_sensors(subject: Subject, *segments: Subject) -> list[dg.SensorDefinition]:
    """Return the sensor `<name>_messages`; none if `notify` names no channel.

    Args:
        subject: A model or dataset.
        segments: With `for_each`, the models of the segments.
    """
    if not subject.notify.channels:
        return []

    @dg.sensor(
        name=f"{subject.name}_messages",
        **run_requests.WATCHING,
        description=f"Tells people what has happened to {subject.name}; asks for nothing.",
    )
    def _sensor(
        context: dg.SensorEvaluationContext, storage: StorageResource, channels: Channels
    ) -> dg.SkipReason:
        opened, instance = storage.open(), context.instance
        results = [tell(part, opened, channels, instance) for part in (subject, *segments)]
        return dg.SkipReason("; ".join(dict.fromkeys(results)))

    return [_sensor]


def tell_at_once(model: Model, storage: Storage, channels: Channels, context: Context) -> None:
    """Tell people of a decision as soon as it is made; no failure of that stops the run."""
    try:
        summary = tell(of_model(model), storage, channels, context.instance)
    except Exception as error:  # noqa: BLE001 a message never breaks the work
        summary = f"{type(error).__name__}: {error}: {model.spec.name}_messages tries again"
    if summary:
        context.log.info("messages: %s", summary)


def tell(
    subject: Subject,
    storage: Storage,
    channels: Channels,
    instance: dg.DagsterInstance,
    clock: Callable[[], datetime] = _now,
) -> str:
    """Send the messages that are due, also if some of the records cannot be read.

    Args:
        subject: The model or dataset.
        storage: Holds its records and its outbox.
        channels: The channels.
        instance: Holds the records of runs.
        clock: The time.

    Returns:
        The result, for people.
    """
    senders, problems = channels.senders(subject.notify)
    if not senders:
        return "; ".join(problems)
    outbox = Outbox(storage.tables, subject.name)
    sources = [*subject.records(storage, instance, clock())]
    if any(subject.notify.tells(channel, "run_failed") for channel in senders):
        notices = {notice.id: notice for notice in outbox.read()}
        sources.append(partial(_list_failures, instance, subject, notices))
    events: list[Event] = []
    for source in sources:
        try:
            events += source()
        except Exception as error:  # noqa: BLE001 see above
            problems.append(f"{type(error).__name__}: {error}")
    summary = messages.deliver(outbox, subject.notify, senders, events, clock)
    return "; ".join([summary, *problems])


def _find_expected(spec: DatasetSpec, now: datetime) -> str | None:
    """Return the newest partition that should have landed by a time."""
    definition = partitions.partitions_definition(spec.partition, with_current=False)
    if definition is None or spec.expected is None:
        return None
    with dg.partition_loading_context(now - duration(spec.expected)):
        return definition.get_last_partition_key()


def _list_requests(instance: dg.DagsterInstance, of: Model) -> Iterator[Event]:
    """Yield an event for each retraining that a sensor or a person requested."""
    model, job = of.spec.name, f"{of.spec.group}_retrain"
    for record in instance.get_run_records(dg.RunsFilter(job_name=job, tags=of.decides), NEWEST):
        run, tags = record.dagster_run.run_id, record.dagster_run.tags
        as_of, causes = tags.get(metadata.AS_OF_TAG, ""), tags.get(metadata.CAUSES_TAG, "request")
        reason = tags.get(metadata.BECAUSE_TAG, "a person asked for it")
        when = f" as of {as_of}" if as_of else ""
        name, text = f"asked:{run}", f"retraining{when} ({causes}): {reason}"
        fields = {"as_of": as_of, "causes": causes.split(","), "run_id": run}
        cause, time = f"{as_of} {causes}" if as_of else run, record.create_timestamp
        yield messages.make_event(name, "retraining", model, text, cause, fields, time=time)


def _list_failures(
    instance: dg.DagsterInstance, subject: Subject, notices: Mapping[str, Event]
) -> Iterator[Event]:
    """Yield failed runs of the subject's jobs, and of its assets that were selected in the UI."""
    failure_only = [dg.DagsterRunStatus.FAILURE]
    tagged = dg.RunsFilter(statuses=failure_only, tags={subject.tag: subject.name})
    selected = dg.RunsFilter(statuses=failure_only, job_name=FROM_THE_UI)
    shared = dg.RunsFilter(statuses=failure_only, tags=run_requests.SHARED)
    runs = list(instance.get_runs(tagged, limit=NEWEST))
    for run in (
        *instance.get_runs(selected, limit=NEWEST),
        *instance.get_runs(shared, limit=NEWEST),
    ):
        runs += [run] if run_requests.concerns(instance, run, subject.name) else []
    for run in runs:
        name, job = f"failed:{run.run_id}", run.job_name.replace(FROM_THE_UI, "a run from the UI")
        if name in notices:
            yield notices[name]
            continue
        kind, reason = run_requests.failure(instance, run.run_id, subject.name)
        fields = {"job": run.job_name, "run_id": run.run_id, "error": reason}
        text, cause = f"{job} failed, {reason} (run {run.run_id})", f"{job} {kind}"
        yield messages.make_event(name, "run_failed", subject.name, text, cause, fields)
