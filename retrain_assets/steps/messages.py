"""From records to messages: what the ledger and the list of files tell, and sending what is due.

A message is claimed in the outbox before it is sent and recorded there after it, so that two
processes do not both send it; one whose sender was killed in between is sent again, by the same id.
Not here: what Dagster's runs tell, and which channels there are.
"""

from __future__ import annotations

import json
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.contract import NEIGHBOUR_REFUSED, UNPLACED
from retrain_assets.domain.messages import Event, NotTakenError, claimed, due, projected, settled
from retrain_assets.steps.digests import digest
from retrain_assets.steps.report import stale, staleness
from retrain_assets.steps.state import landing_files
from retrain_assets.steps.watch import seen
from retrain_assets.stores.tables import PARTITION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from retrain_assets.domain.messages import Message, Notice, Outcome
    from retrain_assets.specs.dataset import DatasetSpec
    from retrain_assets.specs.notify import Channel, EventKind, NotifySpec
    from retrain_assets.steps.state import ModelState
    from retrain_assets.stores.channels import Send
    from retrain_assets.stores.ledger import Action
    from retrain_assets.stores.outbox import Outbox
    from retrain_assets.stores.tables import Tables

NEWEST = 50  # rows of the ledger that are looked at
SEND_SECONDS = 20.0  # for all channels together; a tick has 60
_SAID: dict[Action, tuple[EventKind, str]] = {
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
}
_TOLD = (
    *("action", "version", "previous", "as_of", "reason", "because", "by", "sha256", "metrics"),
    "ledger_sha256",
)
_TROUBLES = {"cause": pl.String(), "time": pl.Datetime("us", "UTC"), "text": pl.String()}


def decisions(state: ModelState) -> Iterator[Event]:
    """What the newest rows of the ledger tell."""
    history, model = state.ledger.read(), state.spec.name
    for number, row in list(enumerate(history.rows))[-NEWEST:]:
        kind, said = _SAID[row.action]
        text = said.format(version=row.version, model=model, by=row.by)
        why = f". Asked for: {row.because}" if row.because else ""
        shown = row.for_people() | {"ledger_sha256": history.digests[number]}
        yield Event(
            id=f"ledger:{number}",
            kind=kind,
            subject=model,
            text=f"{model}: {text}. {row.reason}{why}",
            cause=str(number),
            fields=json.dumps({name: shown[name] for name in _TOLD}),
            time=row.time,
        )


def corrections(state: ModelState) -> Iterator[Event]:
    """Late or corrected partitions that production was trained on, as one event."""
    row, keys = state.ledger.read().production, stale(state)
    if row is not None and keys:
        yield Event(
            id=f"stale:{digest(str(row.version), *keys)}",
            kind="late_data",
            subject=state.spec.name,
            text=f"{state.spec.name}: {staleness(state)}",
            cause=f"version {row.version}",
            fields=json.dumps({"version": row.version, "partitions": keys}),
        )


def leave(state: ModelState, troubles: Mapping[str, str], now: datetime) -> None:
    """Leave what `retrain serve` found wrong, to be told; the newest of each cause stays.

    Args:
        state: The model.
        troubles: A sentence for each cause.
        now: The time.
    """
    rows = [(cause, now, text) for cause, text in troubles.items()]
    table = pl.DataFrame(rows, schema=_TROUBLES, orient="row")
    state.tables.replace(state.table("serving"), table, troubles, {"run_id": "serve"}, key="cause")


def troubles(state: ModelState) -> Iterator[Event]:
    """What `retrain serve` left."""
    for row in state.stored("serving", _TROUBLES).iter_rows(named=True):
        cause, time = row["cause"], row["time"]
        yield Event(
            id=f"serving:{digest(cause, time.isoformat())}",
            kind="serving",
            subject=state.spec.name,
            text=row["text"],
            cause=cause,
            fields=json.dumps({"about": cause}),
            time=time,
        )


def worse_than_before(state: ModelState) -> Iterator[Event]:
    """Whether production is shown to be worse than the version before it."""
    found = seen(state)
    if found is not None and found.is_worse:
        name = state.spec.name
        yield Event(
            id=f"watch:{found.production}",
            kind="worse_than_before",
            subject=name,
            text=f"{name}: {found.said}: retrain rollback {name} --reason WHY",
            cause=f"version {found.production}",
            fields=json.dumps({"version": found.production, "before": found.before}),
        )


def refusals(tables: Tables, spec: DatasetSpec) -> Iterator[Event]:
    """Files that stand refused."""
    refused = pl.col("refusal").is_not_null() & (pl.col("refusal") != NEIGHBOUR_REFUSED)
    files = landing_files(tables, spec.name, refused).sort(PARTITION, "file")
    for row in files.iter_rows(named=True):
        key, file, why = row[PARTITION], row["file"], row["refusal"]
        of = "" if key.startswith(UNPLACED) else f" of {key}"
        told = {"partition": key, "file": file, "reason": why, "rows": row["rows_read"]}
        yield Event(
            id=f"file:{digest(key, file, row['sha256'], why)}",
            kind="data_refused",
            subject=spec.name,
            text=f"{spec.name}: {file}{of} is refused, {row['rows_read']} rows: {why}",
            cause=f"{file}: {why}",
            fields=json.dumps(told),
        )


def overdue(tables: Tables, spec: DatasetSpec, partition: str | None) -> Iterator[Event]:
    """Whether a partition that should have landed has not.

    Args:
        tables: Where it is looked for.
        spec: The dataset.
        partition: The newest that ended `expected` ago; None where there is none.
    """
    if partition and landing_files(tables, spec.name, pl.col(PARTITION) == partition).is_empty():
        yield Event(
            id=f"overdue:{partition}",
            kind="late_data",
            subject=spec.name,
            text=f"{spec.name}: {partition} has not landed {spec.expected} after its end",
            cause="overdue",
            fields=json.dumps({"partition": partition}),
        )


def deliver(
    outbox: Outbox,
    notify: NotifySpec,
    senders: Mapping[Channel, Send],
    events: Sequence[Event],
    clock: Callable[[], datetime],
) -> str:
    """Put new events into the outbox, and send what is due.

    Args:
        outbox: Of the model or dataset.
        notify: Who is told of what.
        senders: The channels that can be used.
        events: All that is told now; those the outbox knows are not told again.
        clock: The time.

    Returns:
        What came of it, for people.
    """
    messages: list[Message] = []

    def claim(notices: Sequence[Notice]) -> list[Notice]:
        now = clock()
        held = projected(notices, events, notify, senders, now)
        messages[:] = due(held, notify, senders, now)
        return claimed(held, messages, now)

    held = outbox.change(claim)
    outcomes = _sent(messages, senders)
    if messages:
        held = outbox.change(lambda notices: settled(notices, outcomes, clock()))
    waiting = [notice for notice in held if notice.sent is None]
    failed = {notice.channel: notice.error for notice in waiting if notice.error}
    sent = sum(isinstance(outcome, str) for outcome in outcomes.values())
    told = f"{sent} messages sent, {len(waiting)} events wait"
    return "; ".join([told, *(f"{channel}: {error}" for channel, error in failed.items())])


def _sent(messages: Sequence[Message], senders: Mapping[Channel, Send]) -> dict[str, Outcome]:
    """Send over all channels at once; what has not come to an end in time counts as failed."""
    by_channel = {channel: [m for m in messages if m.channel == channel] for channel in senders}
    outcomes: dict[str, Outcome] = dict.fromkeys(message.id for message in messages)
    end = monotonic() + SEND_SECONDS

    def work(own: Sequence[Message]) -> None:
        for message in own:
            if monotonic() > end:
                return
            try:
                outcomes[message.id] = senders[message.channel](message)
            except NotTakenError as error:
                outcomes[message.id] = error
                return

    threads = [Thread(target=work, args=(own,), daemon=True) for own in by_channel.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - monotonic()))
    known = dict(outcomes)  # what comes of a stuck thread later is too late
    for thread, own in zip(threads, by_channel.values(), strict=True):
        untold = [message.id for message in own if known[message.id] is None]
        if thread.is_alive() and untold:
            known[untold[0]] = NotTakenError(f"no answer within {SEND_SECONDS:g} seconds")
    return known
