"""Parquet files, of which footer and pages are held against each other before any is unpacked.

polars takes the footer's word, verifies no checksum, and reads fewer rows than there are where it
is told to. Not here: text formats.

Source: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any
from zlib import crc32

import polars as pl
import polars.selectors as cs

from retrain_assets.domain.values import misfit
from retrain_assets.stores.raw_columns import RefusedFileError, columns_of, numbered, shown
from retrain_assets.stores.thrift import Compact

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from retrain_assets.specs.dataset import DatasetSpec
    from retrain_assets.stores.raw_columns import Content

_MAGIC = b"PAR1"
_CHECKSUM, _DATA, _DATA_V2 = 4, 5, 8  # fields of a page's header
_MAX_FOOTER, _MAX_HEADER = 8 * 2**20, 2**20
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
    # A damaged page makes polars panic, which is no Exception; a footer may hold any type.
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ) as error:
        raise RefusedFileError(f"it is no sound parquet file: {shown(str(error))}") from error


def _read(content: bytes, spec: DatasetSpec) -> Content:
    footer = _footer(content)
    schema = pl.read_parquet_schema(io.BytesIO(content))
    found = list(schema)
    positions, extra = columns_of(found, spec)
    names = {found[at]: name for name, at in positions.items()}
    if (why := misfit({name: schema[there] for there, name in names.items()}, spec)) is not None:
        raise RefusedFileError(why)
    _check_size(_BYTES_A_VALUE * int(footer[3]) * len(names), spec.read.max_bytes)
    _check_size(_unpacked(content, footer, names), spec.read.max_bytes)
    coded = [there for there in names if schema[there] in (pl.Categorical, pl.Enum)]
    plain = [there for there in names if there not in coded]
    rows = pl.concat(
        (
            pl.read_parquet(io.BytesIO(file), columns=wanted)
            for file, wanted in ((content, plain), (_without_categories(content), coded))
            if wanted
        ),
        how="horizontal",
    )
    # A text that is repeated stands once in memory, until somebody writes it out.
    texts = rows.select(pl.sum_horizontal(0, cs.string().str.len_bytes().cast(pl.Int64)).sum())
    _check_size(texts.item(), spec.read.max_bytes)
    return numbered(rows.rename(names).select(*positions), first=1), extra


def _without_categories(content: bytes) -> bytes:
    """The file without Arrow's schema, so that polars does not hash each value of a category."""
    begin = -8 - int.from_bytes(content[-8:-4], "little")
    return content[:begin] + content[begin:].replace(b"ARROW:schema", b"ARROW_schema")


def _footer(content: bytes) -> dict[int, Any]:
    size = int.from_bytes(content[-8:-4], "little")
    begin = len(content) - 8 - size
    if not (content.startswith(_MAGIC) and content.endswith(_MAGIC) and begin >= len(_MAGIC)):
        raise ValueError("it does not begin and end as one")
    if size > _MAX_FOOTER:
        raise ValueError(f"its footer has {size:,} bytes; {_MAX_FOOTER:,} are the most")
    return Compact(memoryview(content)[begin:-8]).struct()


def _unpacked(content: bytes, footer: dict[int, Any], names: Collection[str]) -> int:
    """How many bytes the pages of some flat columns take.

    Raises:
        ValueError: The pages of a column hold more or fewer values than its footer has rows.
    """
    groups, size = footer[4], 0
    for group in groups:
        if group[3] == 0:
            continue
        columns = {b".".join(chunk[3][3]).decode(): chunk[3] for chunk in group[1]}
        for name in names:
            pages = list(_pages(content, columns[name]))
            if sum(values for values, _ in pages) != group[3]:
                raise ValueError(f"the pages of {name} do not hold the rows of the footer")
            size += sum(unpacked for _, unpacked in pages)
    if sum(group[3] for group in groups) != footer[3]:
        raise ValueError("its footer contradicts itself on how many rows there are")
    return size


def _pages(content: bytes, column: dict[int, Any]) -> Iterator[tuple[int, int]]:
    """The values and the unpacked size of each page of a column.

    Raises:
        ValueError: A page is not where it should be, or its checksum is wrong.
    """
    view = memoryview(content)
    at = min(column[9], column.get(11) or column[9])
    end = at + column[7]
    if not len(_MAGIC) <= at <= end <= len(content):
        raise ValueError("a column lies outside the file")
    while at < end:
        header = Compact(view[at : min(end, at + _MAX_HEADER)])
        page = header.struct()
        body = view[at + header.at : at + header.at + page[3]]
        at += header.at + page[3]
        if page[2] < 0 or page[3] < 0 or at > end:
            raise ValueError("a page has a size that cannot be")
        if _CHECKSUM in page and crc32(body) != page[_CHECKSUM] % 2**32:
            raise ValueError("the checksum of a page is wrong")
        yield sum(page[kind][1] for kind in (_DATA, _DATA_V2) if kind in page), page[2]


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise RefusedFileError(f"it unpacks to {size:,} bytes; read.max_bytes is {limit:,}")
