"""What is told, when and how often: each event once, floods as one, whatever the clock does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from retrain_assets.domain.messages import (
    FIRST_WAIT_SECONDS,
    LONGEST_WAIT_SECONDS,
    MAX_AT_ONCE,
    MAX_LINES,
    MAX_REMEMBERED,
    Event,
    Message,
    Notice,
    NotTakenError,
    Outcome,
    add_events,
    choose_messages,
    mark_attempt,
    record_outcomes,
    to_line,
)
from retrain_assets.specs.notify import NotifySpec

NOW = datetime(2020, 1, 1, 12, tzinfo=UTC)
NOTIFY = NotifySpec(slack="#ml", email=["ml@example.org"])
MINUTE = timedelta(minutes=1)


def event(number: int, kind: Any = "run_failed", cause: str | None = None) -> Event:
    return Event(f"run:{number}", kind, "churn", f"churn: event {number}", cause or str(number))


class Box:
    """An outbox and its channels; what they answer is chosen."""

    def __init__(self, *channels: Any, notify: NotifySpec = NOTIFY) -> None:
        self.notices: list[Notice] = []
        self.channels, self.notify = channels or ("slack",), notify
        self.now = NOW

    def tick(self, *events: Event, answer: Outcome = "") -> list[Message]:
        """What is sent of new events and old ones."""
        self.notices = add_events(self.notices, events, self.notify, self.channels, self.now)
        messages = choose_messages(self.notices, self.notify, self.channels, self.now)
        self.notices = mark_attempt(self.notices, messages, self.now)
        outcomes = {message.id: answer for message in messages}
        self.notices = record_outcomes(self.notices, outcomes, self.now)
        return messages

    def later(self, wait: timedelta) -> Box:
        self.now += wait
        return self


def told(messages: Sequence[Message]) -> list[list[str]]:
    return [[event.id for event in message.events] for message in messages]


def test_an_event_is_told_once_over_each_channel() -> None:
    box = Box("slack", "email")
    sent = box.tick(event(1))
    assert {message.channel for message in sent} == {"slack", "email"}
    assert sent[0].id != sent[1].id
    assert box.later(60 * MINUTE).tick(event(1)) == []


def test_a_channel_is_told_of_what_it_is_for() -> None:
    notify = NOTIFY.model_copy(update={"events": {"email": ["promoted"]}})
    box = Box("slack", "email", notify=notify)
    (only,) = box.tick(event(1, "held"))
    assert only.channel == "slack"
    assert {message.channel for message in box.tick(event(2, "promoted"))} == {"slack", "email"}


def test_a_channel_that_is_added_later_is_told_what_still_stands() -> None:
    box = Box("slack")
    box.tick(event(1))
    box.channels = ("slack", "email")
    assert told(box.later(60 * MINUTE).tick(event(1), event(2))) == [["run:2"], ["run:1", "run:2"]]


def test_several_events_are_one_message_in_the_order_they_happened() -> None:
    late, early = replace(event(1), time=NOW), replace(event(2), time=NOW - MINUTE)
    (message,) = Box().tick(late, early)
    assert message.lines == ["churn: event 2", "churn: event 1"]
    assert message.headline == "churn: 2 events"


def test_a_message_of_one_line_is_headed_by_it() -> None:
    (message,) = Box().tick(event(1))
    assert message.headline == "churn: event 1"


def test_a_flood_is_held_for_the_time_of_a_digest_and_a_decision_never() -> None:
    box = Box()
    assert told(box.tick(event(1))) == [["run:1"]]
    assert box.later(MINUTE).tick(event(2)) == []
    assert box.later(MINUTE).tick(event(3)) == []
    assert told(box.later(MINUTE).tick(event(4, "promoted"))) == [["run:2", "run:3", "run:4"]]
    assert box.later(9 * MINUTE).tick(event(5)) == []
    assert told(box.later(MINUTE).tick()) == [["run:5"]]


def test_what_happens_again_is_counted_and_told_when_it_has_been_quiet() -> None:
    box = Box()
    box.tick(event(1, cause="disk full"))
    for number in (2, 3, 4):
        assert box.later(60 * MINUTE).tick(event(number, cause="disk full")) == []
    assert told(box.tick(event(5, cause="no network"))) == [["run:5"]]
    (message,) = box.later(24 * 60 * MINUTE).tick()
    assert message.lines == ["churn: event 4 (3 times)"]


def test_of_an_old_history_the_newest_is_told_and_the_rest_counted() -> None:
    (message,) = Box().tick(*(event(number) for number in range(100)))
    assert len(message.lines) == MAX_LINES + 1
    assert message.lines[0] == "… and 80 more"
    assert message.lines[-1] == "churn: event 99"


def test_webhooks_are_one_for_each_thing_and_few_at_once() -> None:
    box = Box("webhook", notify=NotifySpec(webhook="https://deploy.example.org/"))
    events = [event(number) for number in range(MAX_AT_ONCE + 3)]
    same = [event(100 + number, cause="0") for number in range(4)]
    first, second = box.tick(*events, *same), box.tick()
    assert [len(ids) for ids in told(first)] == [5, *[1] * (MAX_AT_ONCE - 1)]
    assert told(second) == [[f"run:{number}"] for number in range(MAX_AT_ONCE, MAX_AT_ONCE + 3)]
    assert len({message.id for message in [*first, *second]}) == MAX_AT_ONCE + 3


def test_a_failed_message_is_tried_again_ever_more_rarely_as_the_same_message() -> None:
    box, waits = Box(), []
    (first,) = box.tick(event(1), answer=NotTakenError("HTTP 500"))
    for _ in range(9):
        failed = box.now
        while not (again := box.later(timedelta(seconds=15)).tick(answer=NotTakenError("no"))):
            pass
        assert [message.id for message in again] == [first.id]
        waits.append((box.now - failed).total_seconds())
    assert waits == [30, 60, 120, 240, 480, 960, 1920, *[LONGEST_WAIT_SECONDS] * 2]
    assert box.notices[0].attempts == 10
    assert box.notices[0].error == "no"


def test_a_channel_that_asks_to_be_left_alone_is() -> None:
    box = Box()
    box.tick(event(1), answer=NotTakenError("HTTP 429", wait=600))
    assert box.later(9 * MINUTE).tick(event(2, "promoted")) == []
    assert told(box.later(MINUTE).tick()) == [["run:1"]]


def test_an_outage_loses_none_and_ends_in_two_messages() -> None:
    box, numbers = Box(), range(40)
    for number in numbers:
        box.later(5 * MINUTE).tick(event(number, "promoted"), answer=NotTakenError("down"))
    sent = [box.later(60 * MINUTE).tick() for _ in range(3)]
    assert [len(found) for found in sent] == [1, 1, 0]
    assert sorted(told(sent[0])[0] + told(sent[1])[0]) == sorted(f"run:{n}" for n in numbers)


def test_one_channel_that_is_down_leaves_the_other_alone() -> None:
    box = Box("slack", "email")
    messages = box.tick(event(1))
    box = Box("slack", "email")
    box.notices = mark_attempt(add_events([], [event(1)], NOTIFY, box.channels, NOW), messages, NOW)
    outcomes: dict[str, Outcome] = {messages[0].id: NotTakenError("down"), messages[1].id: ""}
    box.notices = record_outcomes(box.notices, outcomes, NOW)
    assert [message.channel for message in box.later(MINUTE).tick(event(2, "held"))] == [
        "slack",
        "email",
    ]
    assert told(box.later(MINUTE).tick()) == [["run:2"]]


def test_what_another_process_is_sending_is_left_to_it_until_it_must_have_died() -> None:
    box = Box()
    box.notices = add_events([], [event(1)], NOTIFY, box.channels, NOW)
    (claim,) = choose_messages(box.notices, NOTIFY, box.channels, NOW)
    box.notices = mark_attempt(box.notices, [claim], NOW)
    assert box.later(timedelta(seconds=FIRST_WAIT_SECONDS - 1)).tick(event(2, "promoted")) == []
    (again,) = box.later(timedelta(seconds=1)).tick()
    assert (again.id, again.lines) == (claim.id, claim.lines)


def test_what_was_not_tried_is_tried_at_the_next_tick() -> None:
    box = Box()
    (first,) = box.tick(event(1), answer=None)
    (again,) = box.tick()
    assert first.id == again.id


@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(days=365), -timedelta(days=365)])
def test_a_clock_that_jumps_neither_holds_nor_doubles_a_message(jump: timedelta) -> None:
    box = Box()
    box.tick(event(1))
    box.tick(event(2), answer=NotTakenError("down"))
    box.later(10 * MINUTE).tick(event(2), answer=NotTakenError("down"))
    box.later(jump)
    assert told(box.tick(event(1), event(2))) == [["run:2"]]
    box.later(-jump)
    assert box.later(60 * MINUTE).tick(event(1), event(2)) == []


def test_what_was_sent_is_forgotten_once_its_record_is_not_looked_at_any_more() -> None:
    box = Box()
    events = [event(number) for number in range(MAX_REMEMBERED + 50)]
    box.tick(*events)
    standing = events[:10]
    box.later(60 * MINUTE).tick(*standing)
    assert len(box.notices) == MAX_REMEMBERED + 10
    assert {notice.id for notice in box.notices} >= {one.id for one in standing}
    assert box.later(60 * MINUTE).tick(*standing) == []


def test_what_waits_is_never_forgotten() -> None:
    box = Box()
    count = MAX_REMEMBERED + 50
    box.tick(*map(event, range(count)), answer=NotTakenError("down"))
    box.tick()
    assert len(box.notices) == count


def test_text_is_one_bounded_line_without_what_steers() -> None:
    assert to_line("a\r\nb\x1b[31m\u202ec\x00 d") == "a b [31m c d"
    assert to_line("x" * 10_000) == "x" * 499 + "…"
