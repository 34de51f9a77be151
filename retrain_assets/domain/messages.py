"""Events that people are told about, and their state on the way to each channel.

An event is made from a record that stays (a ledger row, a run, a refused file), so it can be made
again and then has the same id. The outbox holds a notice of each event for each channel. Not here:
reading records, storing notices, sending, the clock.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256

from retrain_assets.specs.base import duration
from retrain_assets.specs.notify import Channel, EventKind, NotifySpec

# These events may come in great number; all others are decisions, which are sent at once.
DIGESTED: tuple[EventKind, ...] = ("data_refused", "late_data", "run_failed", "serving")
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 30.0, 3600.0
MAX_AT_ONCE = 10  # webhooks of one tick
MAX_LINES, MAX_CHARACTERS = 20, 500  # of a message, of an event
MAX_REMEMBERED = 1000  # sent notices whose records are not read any more


class NotTakenError(RuntimeError):
    """A channel did not take a message.

    Args:
        reason: Why.
        wait: For how many seconds the channel asks not to be tried again.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Event:
    """Something that people or programs are told.

    Args:
        id: The same each time the event is made from the same record.
        kind: What happened.
        subject: The model or dataset.
        text: One sentence.
        cause: Equal for events that report the same thing again.
        fields: For programs, as JSON.
        time: When it happened; None where the record has no time.
    """

    id: str
    kind: EventKind
    subject: str
    text: str
    cause: str
    fields: str = "{}"
    time: datetime | None = None

    @property
    def topic(self) -> tuple[str, str]:
        """Return what is equal where the same thing has happened again."""
        return self.kind, self.cause


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """An event on its way to one channel.

    Args:
        channel: Where it goes.
        message: Id of the message it is part of; empty until that is first tried.
        attempts: How often sending has failed.
        error: The last failure, or a remark of the channel that took the message.
        since: When sending began or failed last.
        wait: For how many seconds from then on nobody tries again.
        sent_at: When the channel took it.
    """

    channel: Channel
    message: str = ""
    attempts: int = 0
    error: str = ""
    since: datetime | None = None
    wait: float = 0.0
    sent_at: datetime | None = None


@dataclass(frozen=True)
class Message:
    """Notices that are sent together, oldest first; the id is the same at each attempt."""

    id: str
    channel: Channel
    events: Sequence[Event]

    @property
    def lines(self) -> list[str]:
        """Return a line for each topic, with its count; of very many, the newest."""
        counts = Counter(event.topic for event in self.events)
        newest = {event.topic: event.text for event in self.events}
        lines = [f"{text} ({counts[topic]} times)" for topic, text in newest.items()]
        lines = [line.removesuffix(" (1 times)") for line in lines]
        excess = len(lines) - MAX_LINES
        return [f"… and {excess} more", *lines[excess:]] if excess > 0 else lines

    @property
    def headline(self) -> str:
        """Return the only line, or the subject and the number of events."""
        lines, subject = self.lines, self.events[0].subject
        return lines[0] if len(lines) == 1 else f"{subject}: {len(self.events)} events"


# Why a message was not taken, or the remark of the channel that took it, or None if not tried.
Outcome = NotTakenError | str | None


def add_events(
    notices: Sequence[Notice],
    events: Iterable[Event],
    notify: NotifySpec,
    channels: Collection[Channel],
    now: datetime,
) -> list[Notice]:
    """Return the notices with those of new events, and without some that were sent long ago.

    Args:
        notices: The content of the outbox.
        events: The events of all records that are read.
        notify: Which channel is told of what.
        channels: Channels that can be used.
        now: The time of events whose record has none.
    """
    by_id = {event.id: event for event in events}
    present = {(notice.id, notice.channel) for notice in notices}
    old = [notice for notice in notices if notice.sent_at and notice.id not in by_id]
    forgotten = {(notice.id, notice.channel) for notice in old[:-MAX_REMEMBERED]}
    dated = [
        replace(event, time=event.time or now, text=to_line(event.text)) for event in by_id.values()
    ]
    return [notice for notice in notices if (notice.id, notice.channel) not in forgotten] + [
        Notice(**vars(event), channel=channel)
        for event in sorted(dated, key=lambda event: event.time or now)
        for channel in channels
        if notify.tells(channel, event.kind) and (event.id, channel) not in present
    ]


def choose_messages(
    notices: Sequence[Notice], notify: NotifySpec, channels: Iterable[Channel], now: datetime
) -> list[Message]:
    """Return the messages to send now; none over a channel that was just tried."""
    messages: list[Message] = []
    for channel in channels:
        on_channel = [notice for notice in notices if notice.channel == channel]
        waiting = [notice for notice in on_channel if notice.sent_at is None]
        if not any(_within(notice.since, notice.wait, now) for notice in waiting):
            messages += _started(waiting) or _new(channel, on_channel, waiting, notify, now)
    return messages


def mark_attempt(
    notices: Sequence[Notice], messages: Iterable[Message], now: datetime
) -> list[Notice]:
    """Return the notices, with an attempt marked on those whose message is about to be sent.

    Whoever reads the outbox during the first wait leaves these to the process that sends them; if
    that was killed, the next one sends them under the same id.
    """
    ids = {
        (message.channel, event.id): message.id for message in messages for event in message.events
    }
    return [
        replace(notice, message=message_id, since=now, wait=FIRST_WAIT_SECONDS)
        if (message_id := ids.get((notice.channel, notice.id)))
        else notice
        for notice in notices
    ]


def record_outcomes(
    notices: Sequence[Notice], outcomes: Mapping[str, Outcome], now: datetime
) -> list[Notice]:
    """Return the notices with the outcomes of their messages, which are given by message id."""
    return [
        _with_outcome(notice, outcomes[notice.message], now)
        if notice.sent_at is None and notice.message in outcomes
        else notice
        for notice in notices
    ]


def to_line(text: str) -> str:
    """Return one line of bounded length, without characters that steer a terminal or a header."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MAX_CHARACTERS else line[: MAX_CHARACTERS - 1] + "…"


def _within(since: datetime | None, seconds: float, now: datetime) -> bool:
    """Return whether less than some seconds have passed; not where the clock was put back."""
    return since is not None and since <= now < since + timedelta(seconds=seconds)


def _started(waiting: Iterable[Notice]) -> list[Message]:
    """Return messages that were tried before, as they were then."""
    messages = defaultdict(list)
    for notice in waiting:
        if notice.message:
            messages[notice.message].append(notice)
    return [Message(name, parts[0].channel, parts) for name, parts in messages.items()]


def _new(
    channel: Channel,
    on_channel: Iterable[Notice],
    waiting: Iterable[Notice],
    notify: NotifySpec,
    now: datetime,
) -> Iterator[Message]:
    quiet, digest = (duration(text).total_seconds() for text in (notify.quiet, notify.digest))
    recent_topics = {notice.topic for notice in on_channel if _within(notice.sent_at, quiet, now)}
    sent_recently = any(_within(notice.sent_at, digest, now) for notice in on_channel)
    parts: dict[object, list[Notice]] = defaultdict(list)
    for notice in waiting:
        if notice.topic not in recent_topics:
            parts[notice.topic if channel == "webhook" else channel].append(notice)
    for group in list(parts.values())[:MAX_AT_ONCE]:
        must_wait = channel != "webhook" and sent_recently
        if not must_wait or any(notice.kind not in DIGESTED for notice in group):
            names = "|".join([channel, group[0].subject, *(notice.id for notice in group)])
            yield Message(sha256(names.encode()).hexdigest()[:32], channel, group)


def _with_outcome(notice: Notice, outcome: Outcome, now: datetime) -> Notice:
    if outcome is None:
        return replace(notice, since=None)
    if isinstance(outcome, str):
        return replace(notice, sent_at=now, error=outcome)
    backoff = min(FIRST_WAIT_SECONDS * 2.0 ** min(notice.attempts, 30), LONGEST_WAIT_SECONDS)
    return replace(
        notice,
        attempts=notice.attempts + 1,
        error=str(outcome),
        since=now,
        wait=outcome.wait or backoff,
    )
