"""Landing a topic: micro-batches of messages become files, from where the landed files end.

Not here: the brokers' side, and what a file is named.
"""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from threading import Event
from time import monotonic

from retrain_assets.specs.base import number_of
from retrain_assets.stores.landing.kafka import Topic
from retrain_assets.stores.landing.topic import TopicFiles


@dataclass(frozen=True)
class Bounds:
    """The limits at which messages are written, whichever comes first, and at which to stop.

    Args:
        messages: So many were read, over all topic partitions.
        seconds: So long have they been read.
        bytes: Their lines would be longer together; a single longer one is written alone.
        once: Stop at the end that each topic partition had when it was first seen.
        wait_seconds: How long to wait for the brokers to answer.
    """

    messages: int = 50_000
    seconds: float = 60.0
    bytes: int = 2**25
    once: bool = False
    wait_seconds: float = 30.0


@dataclass
class Landed:
    """The messages and files that have landed.

    Args:
        messages: How many.
        files: In how many files.
        next: The offset after them, by topic partition.
    """

    messages: int = 0
    files: int = 0
    next: dict[int, int] = field(default_factory=dict)


@dataclass
class _Batch:
    """The messages of a topic partition that are not written yet: offsets `first` up to `next`.

    `end` is where the topic partition ended when it was first seen.
    """

    first: int
    next: int
    end: int
    messages: int = 0
    lines: bytearray = field(default_factory=bytearray)


def land(
    files: TopicFiles,
    brokers: str,
    environment: Mapping[str, str],
    bounds: Bounds,
    stop: Event,
    tell: Callable[[str], None],
) -> Landed:
    """Land a topic's messages, each exactly once, until told to stop.

    Args:
        files: The landing files of the topic.
        brokers: `host:port`, several separated by commas.
        environment: Holds the brokers' credentials, see `Topic`.
        bounds: When files are written, and whether to go on for ever.
        stop: Once set, what was read is written, and that is all.
        tell: Takes a line on each write.

    Raises:
        RuntimeError: The brokers do not answer, refuse, or have deleted what comes next
            (`OffsetsGoneError`); the folder cannot be written; another process lands the topic.
        ValueError: A setting is wrong, or the files that have landed do not join up.
    """
    topic = Topic(files.topic, brokers, environment, bounds.wait_seconds)
    bounds = replace(bounds, bytes=min(bounds.bytes, files.spec.read.max_bytes))
    try:
        with closing(topic), files.locked():
            landed, batches = Landed(next=files.next_offsets()), dict[int, _Batch]()
            while True:
                new = sorted({*topic.partitions(), *landed.next} - batches.keys())
                followed = topic.follow({at: landed.next.get(at) for at in new})
                batches |= {at: _Batch(first, first, end) for at, (first, end) in followed.items()}
                before = landed.messages
                try:
                    _read(topic, batches, bounds, stop)
                finally:
                    # What retention has deleted meanwhile could not be read again.
                    _write(files, batches, landed)
                if landed.messages > before:
                    lag = _lag(topic, batches)
                    messages = number_of(landed.messages, "message")
                    tell(f"{files.topic}: {messages} landed, lag {lag:,}")
                if stop.is_set() or (bounds.once and _ended(batches)):
                    return landed
    except OSError as error:
        raise RuntimeError(f"topic {files.topic} in {files.folder}: {error}") from error


def _read(topic: Topic, batches: dict[int, _Batch], bounds: Bounds, stop: Event) -> None:
    """Read until a bound is met."""
    count, size, deadline = 0, 0, monotonic() + bounds.seconds
    while count < bounds.messages and (remaining := deadline - monotonic()) > 0:
        if stop.is_set() or (bounds.once and _ended(batches)):
            return
        read = topic.poll(remaining)
        if read is None:
            continue
        batch, line = batches[read.partition], read.line
        if line is None:
            # Transaction markers before the end hold no message, and are covered all the same.
            batch.next = read.offset
            continue
        size += len(line)
        if count and size > bounds.bytes:
            topic.put_back(read)
            return
        batch.next, batch.messages = read.offset + 1, batch.messages + 1
        batch.lines += line
        count += 1


def _write(files: TopicFiles, batches: dict[int, _Batch], landed: Landed) -> None:
    for partition, batch in batches.items():
        if batch.messages:
            files.write(partition, batch.first, batch.next - 1, batch.lines)
            landed.messages += batch.messages
            landed.files += 1
            landed.next[partition] = batch.next
            batches[partition] = _Batch(batch.next, batch.next, batch.end)


def _lag(topic: Topic, batches: dict[int, _Batch]) -> int:
    return sum(max(topic.end(at), batch.end) - batch.next for at, batch in batches.items())


def _ended(batches: dict[int, _Batch]) -> bool:
    return all(batch.next >= batch.end for batch in batches.values())


@contextmanager
def stop_on_signals() -> Iterator[Event]:
    """Yield an event that SIGTERM and SIGINT set, while the block lasts."""
    stop = Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
