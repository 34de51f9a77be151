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
from functools import lru_cache
from zoneinfo import ZoneInfo

from retrain_assets.specs.base import duration
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.features import LookupSpec
from retrain_assets.specs.partition import PartitionSpec, Period

_MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True)
class LookupPartitions:
    """The assignment of partitions of a lookup to those of a dataset.

    Args:
        lookup: How the lookup is joined.
        dataset: The dataset whose rows are predicted.
        source: The lookup's dataset.
    """

    lookup: LookupSpec
    dataset: DatasetSpec
    source: DatasetSpec

    @property
    def is_bounded(self) -> bool:
        """Return True if it is known which part of the lookup a row sees, so it can be awaited."""
        return self._periods is not None or self._is_by_value

    def list_visible(self, key: str, landed: Sequence[str]) -> Sequence[str]:
        """Return those of the lookup's partitions that rows of a partition see, in order."""
        if self._is_by_value:
            return [key] if key in landed else []
        if self._periods is None:
            return landed
        period, source = self._periods
        begin, last = self._span(period, key)
        start = 0
        if (back := self._tolerance) is not None:
            start = bisect_left(landed, self._key_at(source, begin - back))
        return landed[start : bisect_right(landed, self._key_at(source, last))]

    def list_awaited(self, key: str) -> Iterator[str]:
        """Yield the lookup's partitions of a partition's time, as far as its rows see them."""
        if self._is_by_value:
            yield key
        elif self._periods is not None:
            period, source = self._periods
            begin, last = self._span(period, key)
            part, end = self._key_at(source, min(begin, last)), self._key_at(source, last)
            while part <= end:
                if self.source.partition.is_key(part):
                    yield part
                part = source.following(part)

    @property
    def periods_back(self) -> int | None:
        """Return how many partitions of the dataset a row may see back; None without a bound."""
        if self._periods is None or (back := self._tolerance) is None:
            return None
        return math.ceil(back / self._periods[0].shortest)

    @property
    def _joins_partitions(self) -> bool:
        """Return True if rows are joined on the column by which both are partitioned."""
        column = self.dataset.partition.column
        return column == self.source.partition.column and column in self.lookup.on

    @property
    def _is_by_value(self) -> bool:
        specs = self.dataset.partition, self.source.partition
        same_kind = len({len(spec.start or "") for spec in specs}) == 1
        return same_kind and {spec.by for spec in specs} == {"value"} and self._joins_partitions

    @property
    def _periods(self) -> tuple[Period, Period] | None:
        """Return those of dataset and lookup, where both are cut by time and joined by it."""
        period, source = self.dataset.partition.period, self.source.partition.period
        timed = self.lookup.as_of is not None or self._joins_partitions
        return (period, source) if period and source and timed else None

    @property
    def _tolerance(self) -> timedelta | None:
        if self.lookup.as_of is None:
            return timedelta(0)
        return _bound(self.lookup.tolerance) if self.lookup.tolerance else None

    def _zone(self, spec: PartitionSpec) -> ZoneInfo:
        """Return the zone in which a partition begins; dates are the same in all zones."""
        column = self.dataset.columns[self.lookup.as_of or self.dataset.partition.column or ""]
        return ZoneInfo("UTC" if column.type == "date" else spec.timezone)

    def _span(self, period: Period, key: str) -> tuple[datetime, datetime]:
        """Return a partition's begin, and the last moment of the lookup that its rows see."""
        zone = self._zone(self.dataset.partition).key
        begin, end = (
            _parse(name, period.key_format, zone) for name in (key, period.following(key))
        )
        return begin, end - _bound(self.lookup.lag) - _MOMENT

    def _key_at(self, period: Period, moment: datetime) -> str:
        """Return the key of the lookup's partition that a moment lies in."""
        return _key_at(period, moment, self._zone(self.source.partition).key)


# All partitions are asked about at each look at what is complete.
@lru_cache(maxsize=2**15)
def _parse(key: str, key_format: str, zone: str) -> datetime:
    return datetime.strptime(key, key_format).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


@lru_cache(maxsize=2**15)
def _key_at(period: Period, moment: datetime, zone: str) -> str:
    local = moment.astimezone(ZoneInfo(zone))
    monday = local - timedelta(days=local.weekday())
    return (monday if period.length == "1w" else local).strftime(period.key_format)


def _bound(text: str) -> timedelta:
    """Return a duration, cut to one that can be taken from any date of a partition."""
    return min(duration(text), timedelta(days=36_500))
