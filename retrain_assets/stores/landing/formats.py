"""The formats of landing files, and the reader of each.

Not here: how bytes become rows (`readers.py`, `jsonl.py`, `parquet.py`).
"""

import io
from collections.abc import Callable
from typing import BinaryIO

import polars as pl

from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.landing.jsonl import read_jsonl
from retrain_assets.stores.landing.readers import Columns, Keep, read_csv


def _read_parquet(
    content: BinaryIO, spec: DatasetSpec, partition: str | None, keep: Keep
) -> Columns:
    # Imported here, since it takes half as long to load as all definitions do.
    from retrain_assets.stores.landing.parquet import read_parquet

    return read_parquet(content, spec, partition, keep)


# Of the bytes of a file, the dataset, the partition of the file (None where its rows name theirs),
# and a function that takes some rows at a time. They raise RefusedFileError.
READERS: dict[str, Callable[[BinaryIO, DatasetSpec, str | None, Keep], Columns]] = {
    "csv": read_csv,
    "jsonl": read_jsonl,
    "parquet": _read_parquet,
}


def read_rows(
    content: bytes, spec: DatasetSpec, partition: str | None = None
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return all rows of a file, and the names of its other columns; see `READERS`."""
    parts: list[pl.DataFrame] = []
    columns = READERS[spec.format](io.BytesIO(content), spec, partition, parts.append)
    return pl.concat(parts).drop(columns.lacking, strict=False), columns.extra
