"""Which partitions of a lookup the rows of a partition can see, whatever each is cut by.

Where both are cut by time, a partition is a span of time, and so is what its rows can see: from the
lookup's `tolerance` before its begin to the `lag` before its end. The times of a row are taken to
lie in its partition. Not here: joining, and what has landed.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from retrain_assets.specs.base import duration
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.features import LookupSpec
from retrain_assets.specs.partition import PartitionSpec, Period

_MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True)
class LookupPartitions:
    """How partitions of a dataset and of a lookup belong together.

    Args:
        lookup: How it is joined.
        own: The dataset whose rows are predicted.
        other: The lookup's dataset.
    """

    lookup: LookupSpec
    own: DatasetSpec
    other: DatasetSpec

    @property
    def is_bounded(self) -> bool:
        """Whether it is known which part of the lookup a row sees, so that it can be waited for."""
        return self._periods is not None or self._is_by_value

    def seen(self, key: str, landed: Sequence[str]) -> Sequence[str]:
        """Those of the lookup's partitions, given in order, that rows of a partition can see."""
        if self._is_by_value:
            return [key] if key in landed else []
        if self._periods is None:
            return landed
        own, other = self._periods
        begin, last = self._span(own, key)
        start = 0
        if (back := self._tolerance) is not None:
            start = bisect_left(landed, self._holding(other, begin - back))
        return landed[start : bisect_right(landed, self._holding(other, last))]

    def awaited(self, key: str) -> Iterator[str]:
        """The lookup's partitions of a partition's own time, as far as its rows can see them."""
        if self._is_by_value:
            yield key
        elif self._periods is not None:
            own, other = self._periods
            begin, last = self._span(own, key)
            found, end = self._holding(other, min(begin, last)), self._holding(other, last)
            while found <= end:
                if self.other.partition.is_key(found):
                    yield found
                found = other.following(found)

    @property
    def periods_back(self) -> int | None:
        """How many partitions of the dataset a row may see back; None where all or not by time."""
        if self._periods is None or (back := self._tolerance) is None:
            return None
        return math.ceil(back / self._periods[0].shortest)

    @property
    def _joins_partitions(self) -> bool:
        """Whether rows are joined on what both are partitioned by."""
        column = self.own.partition.column
        return column == self.other.partition.column and column in self.lookup.on

    @property
    def _is_by_value(self) -> bool:
        own, other = self.own.partition, self.other.partition
        by_value = own.by == other.by == "value" and len(own.start or "") == len(other.start or "")
        return by_value and self._joins_partitions

    @property
    def _periods(self) -> tuple[Period, Period] | None:
        """Of dataset and lookup, where both are cut by time and joined by it."""
        own, other = self.own.partition.period, self.other.partition.period
        timed = self.lookup.as_of is not None or self._joins_partitions
        return (own, other) if own and other and timed else None

    @property
    def _tolerance(self) -> timedelta | None:
        if self.lookup.as_of is None:
            return timedelta(0)
        return _bound(self.lookup.tolerance) if self.lookup.tolerance else None

    def _zone(self, spec: PartitionSpec) -> ZoneInfo:
        """The zone in which a partition begins; dates are the same in every one."""
        column = self.own.columns[self.lookup.as_of or self.own.partition.column or ""]
        return ZoneInfo("UTC" if column.type == "date" else spec.timezone)

    def _span(self, period: Period, key: str) -> tuple[datetime, datetime]:
        """When a partition begins, and the last moment of the lookup that its rows can see."""
        zone = self._zone(self.own.partition)
        begin, end = (
            datetime.strptime(name, period.key_format).replace(tzinfo=zone).astimezone(UTC)
            for name in (key, period.following(key))
        )
        return begin, end - _bound(self.lookup.lag) - _MOMENT

    def _holding(self, period: Period, moment: datetime) -> str:
        """The key of the lookup's partition that a moment lies in."""
        local = moment.astimezone(self._zone(self.other.partition))
        monday = local - timedelta(days=local.weekday())
        return (monday if period.length == "1w" else local).strftime(period.key_format)


def _bound(text: str) -> timedelta:
    """A duration that can be taken from any date of a partition."""
    return min(duration(text), timedelta(days=36_500))
