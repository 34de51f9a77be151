"""Dataset partitions as Dagster knows them, and the partitions a run is asked for.

Not here: which partitions exist in storage.
"""

from collections.abc import Collection

import dagster as dg

from retrain_assets.specs.partition import ALL, PartitionSpec

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def partitions_definition(
    spec: PartitionSpec, *, with_current: bool = True
) -> dg.PartitionsDefinition[str] | None:
    """Return the partitions of a dataset as Dagster knows them; None where it has none.

    Args:
        spec: The partitions.
        with_current: Whether the period that has begun and not ended is one of them, since its
            data may land before it ends.
    """
    if spec.by == "none":
        return None
    period, first, last = spec.period, spec.start or "", spec.end
    if period is None:
        numbers = range(int(first or 0), int(last or 0) + 1)
        values = spec.values or [str(number).zfill(len(first)) for number in numbers]
        return dg.StaticPartitionsDefinition(values)
    return dg.TimeWindowPartitionsDefinition(
        cron_schedule=period.cron,
        start=first,
        end=period.following(last) if last else None,  # Dagster leaves the end out
        timezone=spec.timezone,
        fmt=period.key_format,
        end_offset=int(with_current),
    )


def map_partitions(
    partition: PartitionSpec, source: PartitionSpec, periods: int | None
) -> dg.PartitionMapping | None:
    """Return how Dagster shows which partitions of a dataset those of an asset are made from.

    Dagster maps periods of time where both begin in one time zone; to anything else, each partition
    is shown as made from all.

    Args:
        partition: Partitions of the asset.
        source: Partitions of the dataset.
        periods: How many periods of the asset further back it looks; None for all.
    """
    if source.by == "none" or (partition == source and periods == 0):
        return None
    timed = partition.period and source.period and partition.timezone == source.timezone
    if not timed or periods is None:
        return dg.AllPartitionMapping()
    return dg.TimeWindowPartitionMapping(
        start_offset=-periods, allow_nonexistent_upstream_partitions=True
    )


def requested_partitions(context: dg.AssetExecutionContext) -> tuple[str, ...]:
    """Return the keys of a run in order; the one constant key of an unpartitioned asset."""
    is_partitioned = context.has_partition_key or context.has_partition_key_range
    return tuple(context.partition_keys) if is_partitioned else (ALL,)


def range_tags(first: str, last: str) -> dict[str, str]:
    """Return run tags that ask for one run over a range of partitions."""
    return {} if first == ALL else {RANGE_START: first, RANGE_END: last}


def covering_tags(spec: PartitionSpec, keys: Collection[str]) -> dict[str, str]:
    """Return run tags for the range from the first key to the last.

    Without keys, as for a file that cannot be read, the range is the first partition.
    """
    definition = partitions_definition(spec)
    if definition is None:
        return {}
    first = definition.get_first_partition_key() or ""
    return range_tags(min(keys, default=first), max(keys, default=first))


def count_range(spec: PartitionSpec, first: str, last: str) -> int:
    """Return how many partitions a range holds.

    Raises:
        ValueError: An end is not a partition of the dataset, or the range runs backwards.
    """
    definition = partitions_definition(spec)
    if definition is None and (first, last) == (ALL, ALL):
        return 1
    if definition is None:
        raise ValueError("the dataset has no partitions: leave out --from and --to")
    keys = definition.get_partition_keys()
    if ALL in (first, last):
        raise ValueError(f"give --from and --to: the partitions run from {keys[0]} to {keys[-1]}")
    for key in (first, last):
        if key not in keys:
            raise ValueError(f"{key!r} is not a partition: they run from {keys[0]} to {keys[-1]}")
    if last < first:
        raise ValueError(f"the range ends at {last}, before it starts at {first}")
    return keys.index(last) - keys.index(first) + 1
