"""Parquet files: what their footer says is checked before any of it is unpacked.

They are read by pyarrow, which verifies the checksums of pages where there are some, and in
dictionaries, so that a text repeated a million times stays one. Not here: text formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from retrain_assets.domain.values import misfit
from retrain_assets.stores.raw_columns import RefusedFileError, columns_of, numbered, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from retrain_assets.specs.dataset import DatasetSpec
    from retrain_assets.stores.raw_columns import Content

_BYTES_A_VALUE = 8


def read_parquet(content: bytes, spec: DatasetSpec) -> Content:
    """The rows of a parquet file, in its own types.

    Raises:
        RefusedFileError: It is damaged, too large, or its columns or types are not the contract's.
    """
    try:
        return _read(content, spec)
    except RefusedFileError:
        raise
    # A damaged page can make polars panic, which is no Exception.
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
    ) as error:
        raise RefusedFileError(f"it is no sound parquet file: {shown(str(error))}") from error


def _read(content: bytes, spec: DatasetSpec) -> Content:
    footer = pq.read_metadata(pa.BufferReader(content))
    schema = pl.DataFrame(footer.schema.to_arrow_schema().empty_table()).schema
    found = list(schema)
    positions, extra = columns_of(found, spec)
    names = {found[at]: name for name, at in positions.items()}
    if (why := misfit({name: schema[there] for there, name in names.items()}, spec)) is not None:
        raise RefusedFileError(why)
    coded = _check_footer(footer, names, spec.read.max_bytes)
    table = pq.ParquetFile(
        pa.BufferReader(content), page_checksum_verification=True, read_dictionary=coded
    ).read(columns=list(names))
    rows = pl.DataFrame([_series(name, table.column(there)) for there, name in names.items()])
    sizes = rows.select(pl.col(pl.String).str.len_bytes().sum()).row(0)
    _check_size(sum(sizes), spec.read.max_bytes)
    return numbered(rows, first=1), extra


def _check_footer(footer: pq.FileMetaData, names: Mapping[str, str], limit: int) -> list[str]:
    """Refuse what unpacks to too much or contradicts itself; which columns have dictionaries."""
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    parts = [(group, group.column(at)) for group in groups for at in range(group.num_columns)]
    wanted = [(group, part) for group, part in parts if part.path_in_schema in names]
    counted = {part.num_values == group.num_rows for group, part in wanted}
    if False in counted or sum(group.num_rows for group in groups) != footer.num_rows:
        raise RefusedFileError("its footer contradicts itself on how many rows there are")
    least = _BYTES_A_VALUE * footer.num_rows * len(names)
    _check_size(max(least, sum(part.total_uncompressed_size for _, part in wanted)), limit)
    return sorted({part.path_in_schema for _, part in wanted if part.has_dictionary_page})


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise RefusedFileError(f"it unpacks to {size:,} bytes; read.max_bytes is {limit:,}")


def _series(name: str, column: pa.ChunkedArray) -> pl.Series:
    """A column, each text of a dictionary kept once however often it is repeated."""
    if not pa.types.is_dictionary(column.type):
        return pl.Series(name, column)
    chunks = [pl.Series(one.dictionary).gather(pl.Series(one.indices)) for one in column.chunks]
    return pl.concat(chunks).rename(name)
