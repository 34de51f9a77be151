"""How many rows each segment of a dataset has.

Not here: the rows.
"""

from functools import lru_cache

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.stores.tables.tables import Tables


def count_segments(tables: Tables, dataset: str, column: str) -> dict[str, dict[str, int]]:
    """Return by value of a column how many rows each partition has: one scan for all segments."""
    stored = Tables(tables.root)  # a replay holds other tables in memory, which nothing remembers
    return _count(stored, dataset, column, stored.identity(f"{dataset}/dataset"))


def list_segments(tables: Tables, dataset: str, column: str, most: int) -> dict[str, int]:
    """Return the values of a column with most rows, and how many these are."""
    parts = count_segments(tables, dataset, column)
    rows = {value: sum(counts.values()) for value, counts in parts.items() if value}
    return dict(sorted(rows.items(), key=lambda item: (-item[1], item[0]))[:most])


@lru_cache(maxsize=2)  # each holds a number for each segment and partition
def _count(
    tables: Tables, dataset: str, column: str, _: tuple[str, int] | None
) -> dict[str, dict[str, int]]:
    table = f"{dataset}/dataset"
    rows = tables.scan(table).group_by(pl.col(column).cast(pl.String), PARTITION).len()
    counts: dict[str, dict[str, int]] = {}
    for value, key, count in tables.collect(rows, table).iter_rows():
        counts.setdefault(value, {})[key] = count
    return counts
