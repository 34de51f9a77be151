"""Events worth telling, and what becomes of each on its way to a channel.

An event is made from a record that stays (a ledger row, a run, a refused file), so it can be made
again and has the same id. The outbox keeps a notice of it for each channel. Not here: reading
records, storing notices, sending, the clock.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

from retrain_assets.specs.base import duration

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from retrain_assets.specs.notify import Channel, EventKind, NotifySpec

# They may come in great number; all others are decisions, which wait for nothing.
DIGESTED: tuple[EventKind, ...] = ("data_refused", "late_data", "run_failed", "serving")
LEASE_SECONDS = 120.0  # a claim on what is being sent; longer than sending may take
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 30.0, 3600.0
MAX_AT_ONCE = 10  # webhooks of one tick
MAX_LINES, MAX_CHARACTERS = 20, 500  # of a message, of an event
MAX_REMEMBERED = 1000  # sent notices of records that are not looked at any more


class NotTakenError(RuntimeError):
    """A channel did not take a message.

    Args:
        said: Why.
        wait: For how many seconds it wants to be left alone.
    """

    def __init__(self, said: str, wait: float | None = None) -> None:
        super().__init__(said)
        self.wait = wait


@dataclass(frozen=True)
class Event:
    """Something that people or programs are told.

    Args:
        id: The same each time it is made from the same record.
        kind: What happened.
        subject: The model or dataset.
        text: One sentence.
        cause: What it shares with the same thing happening again.
        fields: For programs, as JSON.
        time: When it happened; None where the record does not say.
    """

    id: str
    kind: EventKind
    subject: str
    text: str
    cause: str
    fields: str = "{}"
    time: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """An event on its way to one channel.

    Args:
        channel: Where to.
        message: The message it is part of, once that was claimed.
        attempts: How often sending it has failed.
        error: Why it failed last, or what was remarked when it was sent.
        since: When it was claimed, or failed.
        wait: For how many seconds from then on it is left alone.
        sent: When the channel took it.
    """

    channel: Channel
    message: str = ""
    attempts: int = 0
    error: str = ""
    since: datetime | None = None
    wait: float = 0.0
    sent: datetime | None = None


@dataclass(frozen=True)
class Message:
    """Notices that are sent together, oldest first; its id is the same at each attempt."""

    id: str
    channel: Channel
    events: Sequence[Event]

    @property
    def lines(self) -> list[str]:
        """A line for each thing that happened, and how often; of very many, the newest."""
        counts = Counter(map(_again, self.events))
        newest = {_again(event): event.text for event in self.events}
        told = [f"{text} ({counts[key]} times)" for key, text in newest.items()]
        told = [line.removesuffix(" (1 times)") for line in told]
        left = len(told) - MAX_LINES
        return [f"… and {left} more", *told[left:]] if left > 0 else told

    @property
    def headline(self) -> str:
        """What it is about."""
        lines, subject = self.lines, self.events[0].subject
        return lines[0] if len(lines) == 1 else f"{subject}: {len(self.events)} events"


Outcome = NotTakenError | str | None


def projected(
    notices: Sequence[Notice],
    events: Iterable[Event],
    notify: NotifySpec,
    channels: Collection[Channel],
    now: datetime,
) -> list[Notice]:
    """Notices, and those of events that are new to a channel; without some that were sent long ago.

    Args:
        notices: What the outbox holds.
        events: Of all records that are looked at.
        notify: Which channel is told of what.
        channels: Those that can be used.
        now: The time of events whose record says none.
    """
    made = {event.id: event for event in events}
    known = {(notice.id, notice.channel) for notice in notices}
    done = [notice for notice in notices if notice.sent and notice.id not in made]
    forgotten = {(notice.id, notice.channel) for notice in done[:-MAX_REMEMBERED]}
    fresh = [
        replace(event, time=event.time or now, text=plain(event.text)) for event in made.values()
    ]
    return [notice for notice in notices if (notice.id, notice.channel) not in forgotten] + [
        Notice(**vars(event), channel=channel)
        for event in sorted(fresh, key=lambda event: event.time or now)
        for channel in channels
        if notify.tells(channel, event.kind) and (event.id, channel) not in known
    ]


def due(
    notices: Sequence[Notice], notify: NotifySpec, channels: Iterable[Channel], now: datetime
) -> list[Message]:
    """What to send now; nothing over a channel that is in use or has just failed."""
    found: list[Message] = []
    for channel in channels:
        own = [notice for notice in notices if notice.channel == channel]
        waiting = [notice for notice in own if notice.sent is None]
        if not any(_within(notice.since, notice.wait, now) for notice in waiting):
            found += _begun(waiting) or _new(channel, own, waiting, notify, now)
    return found


def claimed(notices: Sequence[Notice], messages: Iterable[Message], now: datetime) -> list[Notice]:
    """The notices, with those of some messages claimed by whoever is about to send them."""
    names = {(one.channel, event.id): one.id for one in messages for event in one.events}
    return [
        replace(notice, message=name, since=now, wait=LEASE_SECONDS)
        if (name := names.get((notice.channel, notice.id)))
        else notice
        for notice in notices
    ]


def settled(
    notices: Sequence[Notice], outcomes: Mapping[str, Outcome], now: datetime
) -> list[Notice]:
    """The notices, with what became of their messages.

    Args:
        notices: What the outbox holds.
        outcomes: By message: why it was not taken, or what was remarked when it was; None where it
            was not tried.
        now: When that was known.
    """
    return [
        _settled(notice, outcomes[notice.message], now)
        if notice.sent is None and notice.message in outcomes
        else notice
        for notice in notices
    ]


def plain(text: str) -> str:
    """Text in one line of bounded length, without characters that steer a terminal or a header."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MAX_CHARACTERS else line[: MAX_CHARACTERS - 1] + "…"


def _within(since: datetime | None, seconds: float, now: datetime) -> bool:
    """Whether it is less than some seconds since; a clock that was put back makes it no."""
    return since is not None and since <= now < since + timedelta(seconds=seconds)


def _again(event: Event) -> tuple[str, str]:
    """What is equal where the same thing has happened again."""
    return event.kind, event.cause


def _begun(waiting: Iterable[Notice]) -> list[Message]:
    """Messages that were not taken, or whose sender has died."""
    messages = defaultdict(list)
    for notice in waiting:
        if notice.message:
            messages[notice.message].append(notice)
    return [Message(name, parts[0].channel, parts) for name, parts in messages.items()]


def _new(
    channel: Channel,
    own: Iterable[Notice],
    waiting: Iterable[Notice],
    notify: NotifySpec,
    now: datetime,
) -> Iterator[Message]:
    quiet, digest = (duration(text).total_seconds() for text in (notify.quiet, notify.digest))
    told = {_again(notice) for notice in own if _within(notice.sent, quiet, now)}
    just_told = any(_within(notice.sent, digest, now) for notice in own)
    parts: dict[object, list[Notice]] = defaultdict(list)
    for notice in waiting:
        if _again(notice) not in told:
            parts[_again(notice) if channel == "webhook" else channel].append(notice)
    for together in list(parts.values())[:MAX_AT_ONCE]:
        held = channel != "webhook" and just_told
        if not held or any(notice.kind not in DIGESTED for notice in together):
            names = "|".join([channel, together[0].subject, *(notice.id for notice in together)])
            yield Message(sha256(names.encode()).hexdigest()[:32], channel, together)


def _settled(notice: Notice, outcome: Outcome, now: datetime) -> Notice:
    if outcome is None:
        return replace(notice, since=None)
    if isinstance(outcome, str):
        return replace(notice, sent=now, error=outcome)
    backoff = min(FIRST_WAIT_SECONDS * 2.0 ** min(notice.attempts, 30), LONGEST_WAIT_SECONDS)
    return replace(
        notice,
        attempts=notice.attempts + 1,
        error=str(outcome),
        since=now,
        wait=outcome.wait or backoff,
    )
