"""What changed by key from one full copy of a table to the next; each delivery is a partition.

Not here: judging the rows of a delivery, and rows that differ under one key in it.
"""

from collections.abc import Callable, Collection
from functools import lru_cache, partial
from itertools import pairwise

import polars as pl

from retrain_assets.domain.data.rules import FILE_PARTITION
from retrain_assets.domain.data.values import sources
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.tables.tables import Tables

Change = dict[str, str | int]
_MOST = 50  # deliveries that are compared in one run
_CONTENT = "_content"


def compare_deliveries(
    tables: Tables, spec: DatasetSpec, stored: Collection[str], published: Collection[str]
) -> list[Change]:
    """Count the keys that were added, changed, left alone and gone, for each published delivery.

    The one after a published delivery is compared too. Without deliveries there is nothing.

    Args:
        tables: The tables, after the commit.
        spec: The dataset; its deliveries are partitions if `_partition` makes their column.
        stored: All stored partitions.
        published: Those that were just stored.
    """
    column = spec.partition.column
    on = [name for name in spec.key if name != column]
    if not (column and on and FILE_PARTITION in sources(spec.columns[column])):
        return []
    pairs = pairwise(sorted({*stored, *published}))
    touched = [pair for pair in pairs if not set(pair).isdisjoint(published)]
    # The later delivery of a pair is often the earlier one of the next.
    read = lru_cache(maxsize=1)(partial(_read, tables, spec, on))
    return [_compare(read, on, *pair) for pair in touched[-_MOST:]]


def _read(tables: Tables, spec: DatasetSpec, on: list[str], key: str) -> pl.DataFrame:
    """Return the keys of a delivery, each with a digest of its other values."""
    values = [name for name in spec.columns if name not in (*on, spec.partition.column)]
    content = pl.struct(pl.lit(0).alias("_"), *values).hash()
    return tables.read(f"{spec.name}/dataset", [key]).select(*on, content.alias(_CONTENT))


def _compare(read: Callable[[str], pl.DataFrame], on: list[str], before: str, key: str) -> Change:
    old, new = read(before).rename({_CONTENT: "_old"}), read(key).rename({_CONTENT: "_new"})
    joined = old.join(new, on=on, how="full", coalesce=True, nulls_equal=True)
    is_old, is_new = (pl.col(side).is_not_null() for side in ("_old", "_new"))
    same = pl.col("_old") == pl.col("_new")
    counts = joined.select(
        added=(~is_old).sum(),
        changed=(is_old & is_new & ~same).sum(),
        unchanged=same.sum(),
        gone=(~is_new).sum(),
    )
    return {"partition": key, "before": before, **counts.row(0, named=True)}
