"""Reader of parquet files: rows in the types that the file has, some at a time.

What a damaged or hostile file may do to the libraries is caught here. Not here: whether a value is
sound.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import polars as pl
import polars.selectors as cs
import pyarrow as pa
from pyarrow.parquet import ParquetFile
from pyarrow.types import is_dictionary

from retrain_assets.domain.data.row_checks import rows_at_once
from retrain_assets.domain.data.values import misfit
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.landing import readers

_MARK, _MAX_FOOTER = b"PAR1", 8 * 2**20
_BYTES_A_VALUE = 8
# Few rows are unpacked at once, since each may repeat a long text of the row before in a few bytes.
_BATCH_ROWS = 1024


def read_parquet(
    content: BinaryIO, spec: DatasetSpec, partition: str | None, keep: readers.Keep
) -> readers.Columns:
    """Read the rows of a parquet file, in its own types; see `READERS`."""
    try:
        return _read(content, spec, partition, keep)
    except readers.RefusedFileError:
        raise
    # A damaged file may raise anything, and a panic of polars is no Exception.
    except (Exception, pl.exceptions.PanicException) as error:
        raise readers.RefusedFileError(
            f"it is not a sound parquet file: {readers.shown(str(error))}"
        ) from error


def _read(
    content: BinaryIO, spec: DatasetSpec, partition: str | None, keep: readers.Keep
) -> readers.Columns:
    _check_footer(content)
    file = ParquetFile(content, page_checksum_verification=True)
    fields = file.schema_arrow
    positions, extra = readers.columns_of(fields.names, spec, partition)
    empty = {name: pa.array([], fields.field(at).type) for name, at in positions.items()}
    if (why := misfit({name: pl.Series(e).dtype for name, e in empty.items()}, spec)) is not None:
        raise readers.RefusedFileError(why)
    # Nothing else of `metadata` is safe: what pyarrow does not catch there ends the process.
    size = file.metadata.num_rows
    _check_size(_BYTES_A_VALUE * size * len(positions), spec)
    readers.check_rows(size, spec)
    most = rows_at_once(spec)
    columns = [
        _in_chunks(_parts(file, fields.names[at], spec), _series(empty[name]), most)
        for name, at in positions.items()
    ]
    first, texts = 1, 0
    for series in zip(*columns, strict=True):
        rows = pl.DataFrame(
            [part.alias(name) for part, name in zip(series, positions, strict=True)]
        )
        # A text that is repeated stands once in memory, until somebody writes it out.
        sizes = rows.select(pl.sum_horizontal(0, cs.string().str.len_bytes().cast(pl.Int64)).sum())
        texts += sizes.item()
        _check_size(texts, spec)
        keep(readers.number_rows(rows, first))
        first += rows.height
    if first - 1 != size:
        raise ValueError(f"its footer says {size:,} rows, but its groups hold {first - 1:,}")
    return readers.Columns(
        extra, tuple(name for name in spec.file_columns if name not in positions)
    )


def _check_footer(content: BinaryIO) -> None:
    """Refuse a file whose ends are no parquet's, or whose footer would fill the memory."""
    content.seek(0)
    begin = content.read(len(_MARK))
    length = content.seek(0, 2)
    content.seek(max(0, length - 8))
    end = content.read()
    if begin != _MARK or not end.endswith(_MARK):
        raise ValueError("it does not begin and end as one")
    if (size := int.from_bytes(end[:4], "little")) > _MAX_FOOTER:
        raise ValueError(f"its footer has {size:,} bytes; {_MAX_FOOTER:,} are the most")


def _in_chunks(parts: Iterator[pl.Series], empty: pl.Series, most: int) -> Iterator[pl.Series]:
    """Yield values in series of so many, the last of which has at most so many; perhaps none."""
    waiting = empty
    for part in parts:
        waiting = pl.concat([waiting, part])
        while len(waiting) > most:
            yield waiting[:most].rechunk()
            waiting = waiting[most:]
    yield waiting.rechunk()


def _parts(file: ParquetFile, name: str, spec: DatasetSpec) -> Iterator[pl.Series]:
    """Unpack a column whose pages hold as many values as the footer has rows, part by part.

    pyarrow reads no more rows than the footer says and passes over others, so values are counted.
    """
    size = 0
    try:
        if file.scan_contents([name], batch_size=_BATCH_ROWS) != file.metadata.num_rows:
            raise readers.RefusedFileError(
                f"the pages of {name} do not hold the rows of the footer"
            )
        if is_dictionary(file.schema_arrow.field(name).type):
            yield from map(_series, file.read([name])[name].chunks)
            return
        for batch in file.iter_batches(_BATCH_ROWS, columns=[name]):
            size += batch.nbytes
            _check_size(size, spec)
            yield _series(batch[name])
    except (pa.ArrowException, OSError) as error:
        why = (
            "the checksum of a page is wrong" if "CRC" in str(error) else readers.shown(str(error))
        )
        message = f"it is not a sound parquet file: column {name} cannot be read, {why}"
        raise readers.RefusedFileError(message) from error


def _series(values: Any) -> pl.Series:
    """Take over values of pyarrow; of a category, as texts that share their memory.

    They are validated first, because polars takes it for granted that texts are UTF-8.
    """
    values.validate(full=True)
    if hasattr(values, "dictionary"):
        return pl.Series(values.dictionary).gather(pl.Series(values.indices).cast(pl.UInt32))
    return pl.Series(values)


def _check_size(size: int, spec: DatasetSpec) -> None:
    limit = spec.read.max_bytes
    if size > limit:
        raise readers.RefusedFileError(f"it unpacks to {size:,} bytes; read.max_bytes is {limit:,}")
