"""A file that holds many partitions, cut into one slice a partition.

A slice is named by a digest of its rows, so that of a file that is delivered again only those
partitions are replaced whose rows have changed. Not here: reading, and whether a row is sound.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

import polars as pl

from retrain_assets.domain.contract import UNPLACED, RawRows, excess
from retrain_assets.domain.rules import LINE, partition_of
from retrain_assets.domain.verdicts import typed, unreadable

if TYPE_CHECKING:
    from retrain_assets.specs.dataset import DatasetSpec

RawT = TypeVar("RawT", bound=RawRows)
_KEY = "_key_of_row"


def slices(file: RawT, spec: DatasetSpec) -> list[RawT]:
    """Cut a file by the partition of its rows.

    Args:
        file: All of a file, whatever its `partition`.
        spec: A dataset that `is_split`.

    Returns:
        One slice a partition and, last, the rows that cannot be placed: their value is no date,
        or one outside the dataset's partitions. That slice is there even without rows, and keeps
        the digest of the file: it stands for the file having been read. Where too many rows
        cannot be placed, it stands alone and refuses the file by its `excess`.
    """
    unplaced = replace(file, partition=f"{UNPLACED}{file.path}")
    if file.refusal is not None or unreadable(file, spec) is not None:
        return [unplaced]
    keys = partition_keys(file, spec)
    parts = file.rows.with_columns(keys.alias(_KEY)).partition_by(
        _KEY, maintain_order=True, include_key=False, as_dict=True
    )
    rest = parts.pop((None,), file.rows.clear())
    if (why := excess(file.rows.height, rest.height, spec)) is not None:
        return [replace(unplaced, rows=rest, excess=why)]
    found = [
        replace(file, partition=str(key), rows=rows, sha256=_digest(rows))
        for (key,), rows in parts.items()
    ]
    return [*found, replace(unplaced, rows=rest)]


def partition_keys(file: RawRows, spec: DatasetSpec) -> pl.Series:
    """The partition of each raw row; null where it cannot be told or is none of the dataset."""
    key = partition_of(spec.partition, spec.partition.column or "")
    keys = typed([file], spec).select(key.alias(_KEY))
    known = [found for found in keys[_KEY].unique().drop_nulls() if spec.partition.is_key(found)]
    return keys.select(pl.when(pl.col(_KEY).is_in(known)).then(pl.col(_KEY)))[_KEY]


def _digest(rows: pl.DataFrame) -> str:
    """Of the rows in their order, wherever they stand in the file."""
    text = rows.drop(LINE).write_csv(null_value="\\N", quote_style="non_numeric")
    return sha256(text.encode()).hexdigest()
