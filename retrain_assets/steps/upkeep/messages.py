"""Make events from the ledger, the list of files and serving, and send the messages that are due.

A message is marked in the outbox before it is sent, and its outcome is recorded afterwards. If the
sender is killed in between, the message is sent again under the same id. Not here: events of
Dagster's runs, and the channels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from time import monotonic

import polars as pl

from retrain_assets.domain import messages
from retrain_assets.domain.data.contract import NEIGHBOUR_REFUSED, UNPLACED
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.json_text import write_json
from retrain_assets.domain.messages import Event, NotTakenError
from retrain_assets.specs.base import number_of
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.notify import Channel, EventKind, NotifySpec
from retrain_assets.steps.inspect.status import describe_staleness, list_stale
from retrain_assets.steps.monitoring.watch import summarize
from retrain_assets.steps.state import ModelState, digest, landing_files
from retrain_assets.stores.ledger import Action
from retrain_assets.stores.messages import Outbox, Send
from retrain_assets.stores.tables.tables import Tables

NEWEST = 50  # rows of the ledger that are read
SEND_SECONDS = 20.0  # after which no further message is begun; a tick has 60
_DECISIONS: dict[Action, tuple[EventKind, str]] = {
    "promote": ("promoted", "version {version} is in production"),
    "hold": ("held", "version {version} is held back, production stays"),
    "reject": ("refused", "version {version} is refused, production stays"),
    "stage": (
        "waiting_for_approval",
        "version {version} waits: retrain approve {model} {version} --by NAME --reason WHY",
    ),
    "rollback": ("rolled_back", "rolled back to version {version} by {by}"),
    "approve": ("promoted", "version {version} is in production, approved by {by}"),
    "adopt": ("promoted", "version {version} is in production, adopted by {by}"),
    "adapt": ("adaptation", "the adaptive layer serves with version {version}"),
    "withdraw": ("adaptation", "version {version} serves without the adaptive layer"),
}
_FIELDS = (
    *("action", "version", "previous", "as_of", "reason", "because", "by", "sha256", "metrics"),
    "ledger_sha256",
)
_TROUBLES = {"cause": pl.String(), "time": pl.Datetime("us", "UTC"), "text": pl.String()}


def make_event(
    name: str,
    kind: EventKind,
    subject: str,
    text: str,
    cause: str,
    fields: Mapping[str, object],
    *,
    time: datetime | None = None,
) -> Event:
    """Return an event whose text begins with its subject and whose fields are written as JSON."""
    return Event(name, kind, subject, f"{subject}: {text}", cause, write_json(fields), time)


def list_decisions(state: ModelState) -> Iterator[Event]:
    """Yield an event for each of the newest rows of the ledger that are decisions."""
    history, model = state.ledger.read(), state.spec.name
    decisions = [item for item in enumerate(history.rows) if item[1].action in _DECISIONS]
    for number, row in decisions[-NEWEST:]:
        kind, template = _DECISIONS[row.action]
        text = template.format(version=row.version, model=model, by=row.by)
        because = f". Asked for: {row.because}" if row.because else ""
        record = row.for_people() | {"ledger_sha256": history.digests[number]}
        fields = {name: record[name] for name in _FIELDS}
        text = f"{text}. {row.reason}{because}"
        yield make_event(f"ledger:{number}", kind, model, text, str(number), fields, time=row.time)


def list_corrections(state: ModelState) -> Iterator[Event]:
    """Yield one event of late or corrected partitions that production was trained on."""
    row, keys = state.ledger.read().production, list_stale(state)
    if row is not None and keys:
        name, cause = f"stale:{digest(str(row.version), *keys)}", f"version {row.version}"
        fields, text = {"version": row.version, "partitions": keys}, describe_staleness(state, keys)
        yield make_event(name, "late_data", state.spec.name, text, cause, fields)


def store_troubles(state: ModelState, troubles: Mapping[str, str], now: datetime) -> None:
    """Store troubles of `retrain serve` for the messages; the newest of each cause stays.

    Args:
        state: The model.
        troubles: A sentence for each cause.
        now: The time.
    """
    rows = [(cause, now, text) for cause, text in troubles.items()]
    table = pl.DataFrame(rows, schema=_TROUBLES, orient="row")
    state.tables.replace(state.table("serving"), table, troubles, {"run_id": "serve"}, key="cause")


def list_troubles(state: ModelState) -> Iterator[Event]:
    """Yield an event for each trouble that `retrain serve` has stored."""
    for row in state.stored("serving", _TROUBLES).iter_rows(named=True):
        cause, time, text = row["cause"], row["time"], row["text"]
        name, fields = f"serving:{digest(cause, time.isoformat())}", write_json({"about": cause})
        yield Event(name, "serving", state.spec.name, text, cause, fields, time)


def find_regression(state: ModelState) -> Iterator[Event]:
    """Yield an event if production is shown to be worse than the version before it."""
    comparison, model = summarize(state), state.spec.name
    if comparison is not None and comparison.is_worse:
        version = comparison.production
        text = f"{comparison.sentence}: retrain rollback {model} --reason WHY"
        fields = {"version": version, "before": comparison.before}
        name, cause = f"watch:{version}", f"version {version}"
        yield make_event(name, "worse_than_before", model, text, cause, fields)


def list_refusals(tables: Tables, spec: DatasetSpec) -> Iterator[Event]:
    """Yield an event for each file that is refused at present."""
    refused = pl.col("refusal").is_not_null() & (pl.col("refusal") != NEIGHBOUR_REFUSED)
    files = landing_files(tables, spec.name, refused).sort(PARTITION, "file")
    for row in files.iter_rows(named=True):
        key, file, reason, rows = row[PARTITION], row["file"], row["refusal"], row["rows_read"]
        place = "" if key.startswith(UNPLACED) else f" of {key}"
        text = f"{file}{place} is refused, {number_of(rows, 'row')}: {reason}"
        name, cause = f"file:{digest(key, file, row['sha256'], reason)}", f"{file}: {reason}"
        fields = {"partition": key, "file": file, "reason": reason, "rows": rows}
        yield make_event(name, "data_refused", spec.name, text, cause, fields)


def find_overdue(tables: Tables, spec: DatasetSpec, partition: str | None) -> Iterator[Event]:
    """Yield an event if a partition that should have landed has not.

    Args:
        tables: The tables with the list of files.
        spec: The dataset.
        partition: The newest one that ended at least `expected` ago, if any.
    """
    if partition and landing_files(tables, spec.name, pl.col(PARTITION) == partition).is_empty():
        name, fields = f"overdue:{partition}", {"partition": partition}
        text = f"{partition} has not landed {spec.expected} after its end"
        yield make_event(name, "late_data", spec.name, text, "overdue", fields)


def deliver(
    outbox: Outbox,
    notify: NotifySpec,
    senders: Mapping[Channel, Send],
    events: Sequence[Event],
    clock: Callable[[], datetime],
) -> str:
    """Put new events into the outbox, and send the messages that are due.

    Args:
        outbox: Of the model or dataset.
        notify: Who is told of what.
        senders: The channels that can be used.
        events: All events of the records; those the outbox has are not told again.
        clock: The time.

    Returns:
        The result, for people.
    """
    outgoing: list[messages.Message] = []

    def begin(notices: Sequence[messages.Notice]) -> list[messages.Notice]:
        now = clock()
        extended = messages.add_events(notices, events, notify, senders, now)
        outgoing[:] = messages.choose_messages(extended, notify, senders, now)
        return messages.mark_attempt(extended, outgoing, now)

    notices = outbox.change(begin)
    outcomes = _send(outgoing, senders)
    if outgoing:
        notices = outbox.change(lambda stored: messages.record_outcomes(stored, outcomes, clock()))
    waiting = [notice for notice in notices if notice.sent_at is None]
    errors = {notice.channel: notice.error for notice in waiting if notice.error}
    count = sum(isinstance(outcome, str) for outcome in outcomes.values())
    summary = f"{count} messages sent, {len(waiting)} events wait"
    return "; ".join([summary, *(f"{channel}: {error}" for channel, error in errors.items())])


def _send(
    outgoing: Sequence[messages.Message], senders: Mapping[Channel, Send]
) -> dict[str, messages.Outcome]:
    """Send messages, each channel until it fails, and return the outcomes by message id."""
    outcomes: dict[str, messages.Outcome] = dict.fromkeys(message.id for message in outgoing)
    failed: set[Channel] = set()
    end = monotonic() + SEND_SECONDS
    for message in outgoing:
        if message.channel in failed or monotonic() > end:
            continue
        try:
            outcomes[message.id] = senders[message.channel](message)
        except NotTakenError as error:
            outcomes[message.id] = error
            failed.add(message.channel)
    return outcomes
