"""The partitions that train, judge and are watched. Time is counted in partitions of the data.

Partitions are keys in the order of time; a missing one is simply not among them. Not here: the
wall clock, and where partitions are stored.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

from retrain_assets.specs.model import ExcludedSpec, WindowsSpec
from retrain_assets.specs.partition import PartitionSpec
from retrain_assets.specs.triggers import ReferenceSpec

PartT = TypeVar("PartT")
MAX_GAP = 366  # missing partitions within one range
SEASONS: dict[str, Callable[[datetime], int]] = {
    "month": lambda begin: begin.month,
    "weekday": lambda begin: begin.weekday(),
}


class TooFewPartitionsError(ValueError):
    """There is not enough history for the windows that the spec asks for."""


@dataclass(frozen=True)
class Windows:
    """Training and holdout partitions as of one partition."""

    as_of: str
    train: tuple[str, ...]
    holdout: tuple[str, ...]


def complete_partitions(
    landed: Sequence[str], lookups: Iterable[tuple[Collection[str], int]]
) -> tuple[str, ...]:
    """Return the partitions whose lookups have arrived, or are too late to be waited for.

    Args:
        landed: Keys of the dataset that is predicted, in order.
        lookups: Of each lookup that is waited for, the partitions for which all of it has arrived,
            and after how many newer ones it is not waited for.
    """
    ready = [{*available, *mature_partitions(landed, lateness)} for available, lateness in lookups]
    return tuple(key for key in landed if all(key in keys for keys in ready))


def mature_partitions(complete: Sequence[str], delay: int) -> tuple[str, ...]:
    """Return the partitions whose labels are final: all but the newest `delay`."""
    return tuple(complete[: max(0, len(complete) - delay)])


def split(mature: Sequence[str], spec: WindowsSpec, as_of: str | None = None) -> Windows:
    """Cut training and holdout windows that end at the as-of.

    Args:
        mature: Complete, label-mature partitions in order.
        spec: Window lengths.
        as_of: Last partition used; the newest mature one by default.

    Raises:
        TooFewPartitionsError: Fewer partitions than both windows need.
    """
    usable = mature if as_of is None else mature[: bisect_right(mature, as_of)]
    if len(usable) < spec.needed:
        raise TooFewPartitionsError(
            f"{len(usable)} mature partitions, but windows.train + windows.holdout need "
            f"{spec.needed}: "
            "land more data or shorten the windows"
        )
    return Windows(
        as_of=usable[-1],
        train=tuple(spec.take(usable[: -spec.holdout])),
        holdout=tuple(usable[-spec.holdout :]),
    )


def exclude_range(partitions: Sequence[str], first: str, last: str) -> tuple[str, ...]:
    """Return the partitions that are not in the training range `first` to `last`."""
    return tuple(key for key in partitions if not first <= key <= last)


def take_before(partitions: Sequence[str], key: str, length: int) -> tuple[str, ...]:
    """Return the newest `length` partitions strictly before a key, which need not have landed."""
    end = bisect_left(partitions, key)
    return tuple(partitions[max(0, end - length) : end])


def describe_exclusions(excluded: Sequence[ExcludedSpec], first: str, last: str) -> str:
    """Return the known-bad partitions that a window spans, with reasons; empty without any."""
    spanned = (bad for bad in excluded if bad.first <= last and bad.last >= first)
    return "; ".join(f"without {bad.first} to {bad.last}: {bad.reason}" for bad in spanned)


def take_through(partitions: Sequence[str], last: str, length: int) -> tuple[str, ...]:
    """Return the newest `length` partitions up to and including `last`."""
    end = bisect_right(partitions, last)
    return tuple(partitions[max(0, end - length) : end])


def reference_partitions(
    spec: ReferenceSpec,
    partitions: Sequence[str],
    window: Sequence[str],
    begins: Callable[[str], datetime | None],
) -> tuple[str, ...]:
    """Return the partitions that a window is compared with, none of which is of the window.

    Args:
        spec: Which.
        partitions: Keys in order, without those known to be bad.
        window: Keys in order.
        begins: When a partition begins; asked of seasons only.
    """
    if spec.first is not None and spec.last is not None:
        keys = (key for key in partitions if spec.first <= key <= spec.last)
        return tuple(key for key in keys if key not in window)
    if spec.rolling is not None:
        return take_before(partitions, window[0], spec.rolling)
    earlier = partitions[: bisect_left(partitions, window[0])]
    part = SEASONS[spec.season or "month"]
    parts = {key: part(begin) for key in (*earlier, *window) if (begin := begins(key))}
    seasons = {parts[key] for key in window}
    return tuple(key for key in earlier if parts[key] in seasons)


def count_since(partitions: Sequence[str], since: str) -> int:
    """Return how many partitions came after `since`."""
    return len(partitions) - bisect_right(partitions, since)


def widen_ranges(
    partitions: Sequence[str], changed: Sequence[str], length: int
) -> tuple[tuple[str, str], ...]:
    """Return ranges of all partitions whose window holds a changed one, as first and last keys.

    Args:
        partitions: All keys in order.
        changed: Keys whose content is new.
        length: Partitions a window spans.
    """
    ranges: list[tuple[int, int]] = []
    for place in sorted(bisect_left(partitions, key) for key in changed):
        end = min(place + length, len(partitions))
        if ranges and place <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((place, end))
    return tuple((partitions[start], partitions[end - 1]) for start, end in ranges)


def group_batches(
    parts: Iterable[tuple[int, Sequence[PartT]]], most: int
) -> Iterator[tuple[PartT, ...]]:
    """Yield partitions together as long as they stay within a bound; larger ones alone.

    Args:
        parts: Of each partition its size, and its parts.
        most: The bound.
    """
    batch: list[PartT] = []
    total = 0
    for size, part in parts:
        if batch and total + size > most:
            yield tuple(batch)
            batch, total = [], 0
        batch += part
        total += size
    if batch:
        yield tuple(batch)


def split_at_gaps(
    keys: Sequence[str], partition: PartitionSpec, most: int | None = None
) -> list[Sequence[str]]:
    """Split ordered partitions where more than `MAX_GAP` are missing between two.

    A range costs time and events for each partition in it, whether it has data or not.

    Args:
        keys: The partitions.
        partition: How the dataset is divided.
        most: The most parts; they are split at the largest gaps.
    """
    period = partition.period
    if period is None or not keys:
        return [keys]
    begins = [period.begins(key) or datetime.min for key in keys]  # noqa: DTZ901 never
    gaps = sorted((begins[at - 1] - begins[at], at) for at in range(1, len(keys)))
    wide = [at for gap, at in gaps if -gap > MAX_GAP * period.longest]
    ends = [0, *sorted(wide[: None if most is None else most - 1]), len(keys)]
    return [keys[first:end] for first, end in pairwise(ends)]
