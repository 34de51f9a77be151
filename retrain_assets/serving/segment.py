"""A file of the prediction log, read back as rows of its table.

Not here: writing it, and bringing it into the table (`log`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
from pydantic_core import from_json

from retrain_assets.domain.contract import UNPLACED
from retrain_assets.domain.features import KEY, PARTITION
from retrain_assets.domain.rules import STORED, partition_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from retrain_assets.domain.rules import Type
    from retrain_assets.specs.dataset import ColumnType, DatasetSpec

SEGMENT = "_segment"
_TIMES = ("date", "datetime")


def kept(path: Path, dataset: DatasetSpec) -> pl.DataFrame:
    """The predictions of a file; a record that was cut off was not answered."""
    first, _, rest = path.read_bytes().partition(b"\n")
    if not rest:
        return pl.DataFrame()
    head = from_json(first)
    columns = {n: pl.String() if is_text else pl.Float64() for n, is_text in head["features"]}
    output = pl.List(pl.Float64) if head["several"] else pl.Float64()
    kinds = {name: dataset.columns[name].type for name in head["named"]}
    rows = _of_arrow(rest) if head["arrow"] else _of_json(rest, kinds, columns, output)
    if rows.is_empty():
        return pl.DataFrame()
    return rows.select(
        *_placed(rows.select(pl.col(f"_key_{name}").alias(name) for name in kinds), dataset),
        pl.lit(path.stem).alias(SEGMENT),
        pl.concat_str("_id", pl.lit("-"), "_place").alias("_id"),
        "_time",
        pl.lit(head["role"]).alias("_role"),
        pl.lit(head["version"], pl.Int64).alias("_version"),
        pl.col("_prediction").cast(output),
        *(pl.col(name).cast(kind) for name, kind in columns.items()),
    )


def _of_arrow(content: bytes) -> pl.DataFrame:
    source, tables, told = pa.BufferReader(content), [], []
    while (end := content.find(b"\n", source.tell()) + 1) > 0:
        line = from_json(content[source.tell() : end])
        source.seek(end)
        try:
            tables.append(pa.ipc.open_stream(source).read_all())
        except (pa.ArrowException, OSError):
            break
        told.append({**line, "_count": tables[-1].num_rows})
    if not told:
        return pl.DataFrame()
    time, place = _read(pl.col("_time"), "datetime"), pl.int_ranges("_count").alias("_place")
    each = pl.DataFrame(told).select("_id", time, place).explode("_place", empty_as_null=False)
    rows = pl.DataFrame(pa.concat_tables(tables, promote_options="permissive"))
    return rows.hstack(each)


def _of_json(
    content: bytes, kinds: Mapping[str, ColumnType], columns: Mapping[str, Type], output: Type
) -> pl.DataFrame:
    stored = {f"_key_{n}": pl.String if k in _TIMES else STORED[k] for n, k in kinds.items()}
    listed = {name: pl.List(kind) for name, kind in {**stored, **columns}.items()}
    schema = {"_id": pl.String(), "_time": pl.String(), "_prediction": pl.List(output), **listed}
    lines = content[: content.rfind(b"\n") + 1]
    found = pl.read_ndjson(lines, schema=schema) if lines else pl.DataFrame(schema=schema)
    place = pl.int_ranges(pl.col("_prediction").list.len()).alias("_place")
    rows = found.with_columns(place).explode("_prediction", "_place", *listed, empty_as_null=False)
    read = [_read(pl.col(f"_key_{name}"), kind) for name, kind in kinds.items()]
    return rows.with_columns(_read(pl.col("_time"), "datetime"), *read)


def _read(text: pl.Expr, kind: str) -> pl.Expr:
    if kind == "date":
        return text.str.to_date("%Y-%m-%d")
    return (
        text.str.to_datetime("%+", time_unit="us", time_zone="UTC") if kind == "datetime" else text
    )


def _placed(keys: pl.DataFrame, dataset: DatasetSpec) -> list[pl.Series]:
    """Partition and key of each row, as the features table has them."""
    whole = [pl.col(name).cast(pl.String) for name in dataset.key]
    partition = partition_of(dataset.partition, dataset.partition.column or "")
    placed = keys.select(
        partition.fill_null(UNPLACED).alias(PARTITION),
        pl.concat_str(whole, separator="|").alias(KEY),
    )
    return placed.get_columns()
