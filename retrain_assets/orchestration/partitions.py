"""Dataset partitions as Dagster knows them, and the partitions a run is asked for.

Not here: which partitions exist in storage.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from retrain_assets.specs.dataset import PartitionSpec

UNPARTITIONED = "all"
_KINDS = {
    "day": (dg.DailyPartitionsDefinition, "%Y-%m-%d", timedelta(days=1)),
    "month": (dg.MonthlyPartitionsDefinition, "%Y-%m", timedelta(days=31)),
}
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def partitions_definition(spec: PartitionSpec) -> dg.TimeWindowPartitionsDefinition | None:
    """The Dagster partitions of a dataset; None where it has none."""
    if spec.by == "none":
        return None
    kind, key_format, longest = _KINDS[spec.by]
    return kind(
        start_date=spec.start or "",
        end_date=_following(spec.end, key_format, longest) if spec.end else None,
        timezone=spec.timezone,
        fmt=key_format,
    )


def requested_partitions(context: dg.AssetExecutionContext) -> tuple[str, ...]:
    """The keys a run is for, in order; the one constant key of an unpartitioned asset."""
    return tuple(context.partition_keys) if context.has_partition_key_range else (UNPARTITIONED,)


def range_tags(first: str, last: str) -> dict[str, str]:
    """Run tags that ask for one run over a range of partitions."""
    return {} if first == UNPARTITIONED else {RANGE_START: first, RANGE_END: last}


def _following(key: str, key_format: str, longest: timedelta) -> str:
    """The key after this one, since Dagster leaves the end out and the spec does not."""
    return (datetime.strptime(key, key_format) + longest).strftime(key_format)  # noqa: DTZ007 a key


def checked_range(spec: PartitionSpec, first: str, last: str) -> int:
    """How many partitions a range holds.

    Raises:
        ValueError: An end is no partition of the dataset, or the range runs backwards.
    """
    definition = partitions_definition(spec)
    if definition is None:
        raise ValueError("the dataset has no partitions: materialize it as a whole")
    keys = definition.get_partition_keys()
    for key in (first, last):
        if key not in keys:
            raise ValueError(f"{key!r} is no partition: they run from {keys[0]} to {keys[-1]}")
    if last < first:
        raise ValueError(f"the range ends at {last}, before it starts at {first}")
    return keys.index(last) - keys.index(first) + 1
