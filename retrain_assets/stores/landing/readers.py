"""Readers of landing files: bytes in, rows as they stand out, for CSV, JSONL and parquet.

No value is guessed. A line that is no row stays text beside the reason, and a file that cannot be
trusted is refused. Not here: listing files, and whether a value is sound.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from retrain_assets.domain.data.rules import BROKEN, LINE, PROBLEM
from retrain_assets.domain.data.values import misfit
from retrain_assets.specs.base import number_of
from retrain_assets.specs.dataset import ColumnSpec, DatasetSpec, Encoding

_MAX_LINE = 2**20  # characters
_MAX_CHARACTERS = 200  # of foreign text in a message
_MARKS: dict[Encoding, tuple[bytes, ...]] = {
    "utf-8": (codecs.BOM_UTF8,),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
_BINARY = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PAR1": "parquet",
}
_PARQUET, _MAX_FOOTER = b"PAR1", 8 * 2**20
_BYTES_A_VALUE = 8
# Few rows are unpacked at once, since each may repeat a long text of the row before in a few bytes.
_BATCH_ROWS = 1024
# polars panics at dates that are further than this from 1970, about the year 262,142.
_MAX_DAYS = 95_000_000
_UNITS_A_DAY = {"day": 1, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}

# The contract's columns with `_line`, `_broken` and `_problem`, and the names of other columns.
Content = tuple[pl.DataFrame, tuple[str, ...]]
# Line number; the fields, or None where the line is no row; the line as it stands; why it is none.
_Record = tuple[int, Sequence[str | None] | None, str, str | None]


class RefusedFileError(ValueError):
    """A landing file that cannot be read as rows; the message says why and what would do."""


def columns_of(
    names: Sequence[str], spec: DatasetSpec, partition: str | None = None
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return where the contract's columns stand in a file, and the names of its other columns.

    A small file of a stream may lack what no message must have, since producers leave out nulls.

    Args:
        names: The columns of the file.
        spec: The dataset.
        partition: The partition of the file; None where its rows name theirs.

    Raises:
        RefusedFileError: A column is there twice or not at all.
    """
    renamed = [spec.read.rename.get(name, name) for name in names]
    twice = [name for name in spec.file_columns if renamed.count(name) > 1]
    if twice:
        raise RefusedFileError(f"it has two columns {shown(', '.join(twice))}: keep one")
    absent = [name for name in spec.file_columns if name not in renamed]
    absent = [name for name in absent if not _is_younger(spec.columns[name], partition)]
    missing = [name for name in absent if not _may_be_left_out(name, renamed, spec)]
    if missing:
        lacking = ", ".join(_with_hint(name, renamed) for name in missing)
        raise RefusedFileError(f"it lacks {lacking}; {_present(names, spec)}")
    extra = tuple(name for name in renamed if name not in spec.file_columns)
    return {name: renamed.index(name) for name in spec.file_columns if name in renamed}, extra


def _present(names: Sequence[str], spec: DatasetSpec) -> str:
    """Describe the columns of a file; without a header they are the values of its first row."""
    hint = _delimiter_hint(names)
    if any(column.personal for column in spec.columns.values()):
        return f"it has {len(names)} columns, not shown as they may be personal{hint}"
    return f"its columns are {shown(', '.join(names))}{hint}"


def _delimiter_hint(fields: Sequence[str]) -> str:
    """Return what to set if a line has one field since another character separates them."""
    marks = [mark for mark in ";\t|," if len(fields) == 1 and mark in fields[0]]
    return f": if {marks[0]!r} separates them, set read.delimiter to it" if marks else ""


def _is_younger(column: ColumnSpec, partition: str | None) -> bool:
    """Tell if a column may have come into the files after a partition."""
    return column.since is not None and (partition is None or partition < column.since)


def _may_be_left_out(name: str, names: Sequence[str], spec: DatasetSpec) -> bool:
    needed = spec.columns[name].required or name in (*spec.key, spec.partition.column)
    near = _near(name, [extra for extra in names if extra not in spec.file_columns])
    return spec.is_split and spec.format == "jsonl" and not needed and near is None


def _near(name: str, names: Sequence[str]) -> str | None:
    alike = {candidate.strip().casefold(): candidate for candidate in names}
    near = get_close_matches(name.casefold(), alike, n=1)
    return alike[near[0]] if near else None


def _with_hint(name: str, names: Sequence[str]) -> str:
    near = _near(name, names)
    return name if near is None else f"{name} (is {shown(near)} meant?)"


def shown(text: str) -> str:
    """Return foreign text, short and escaped."""
    return repr(text[:_MAX_CHARACTERS])


def number_rows(rows: pl.DataFrame, first: int) -> pl.DataFrame:
    """Add `_line`, counted from `first`; a row with a date that no calendar shows is broken."""
    lines = pl.int_range(first, rows.height + first, dtype=pl.Int64)
    nothing = pl.lit(None, pl.String)
    rows = rows.with_columns(lines.alias(LINE), nothing.alias(BROKEN), nothing.alias(PROBLEM))
    for name in rows.select(cs.date() | cs.datetime()).columns:
        days = _MAX_DAYS * _UNITS_A_DAY[getattr(rows.schema[name], "time_unit", "day")]
        limit = min(days, 2**63 - 1)
        number = rows[name].to_physical()
        is_real = number.is_between(-limit, limit).fill_null(True)
        if not is_real.all():
            text = pl.lit(f"{name}: ") + pl.lit(number.cast(pl.String))
            why = f"column {name} holds a date that no calendar shows"
            rows = rows.with_columns(
                pl.when(is_real).then(pl.exclude(LINE, BROKEN, PROBLEM)),
                pl.when(is_real).then(BROKEN).otherwise(text).alias(BROKEN),
                pl.when(is_real).then(PROBLEM).otherwise(pl.lit(why)).alias(PROBLEM),
            )
    return rows


def _text(content: bytes, spec: DatasetSpec) -> str:
    """Decode a text file that has neither too many lines nor a NUL byte."""
    encoding = spec.read.encoding
    if not content:
        raise RefusedFileError("it is empty: deliver it again")
    likely = _likely_encoding(content, encoding)
    if likely != encoding:
        remedy = f"save it as {encoding}, or set read.encoding to {likely}"
        raise RefusedFileError(f"it is {likely}, not {encoding}: {remedy}")
    if kind := next((kind for mark, kind in _BINARY.items() if content.startswith(mark)), None):
        raise RefusedFileError(f"it is a {kind} file, not {encoding}: deliver it unpacked, as text")
    try:
        text = content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        raise RefusedFileError(_undecodable(content, encoding, error.start)) from error
    if (at := text.find("\0")) >= 0:
        line, before = text.count("\n", 0, at) + 1, text.rfind("\n", 0, at)
        raise RefusedFileError(
            f"it holds a NUL byte, which no text has, as character {at - before} of line {line}: "
            "save it as text, or set read.encoding to what it is"
        )
    _check_rows(text.count("\n"), spec, "lines")
    return text


def _check_rows(rows: int, spec: DatasetSpec, noun: str = "rows") -> None:
    """Refuse a file of too many rows before they are read; one line may be the header."""
    most, columns, values = spec.read.max_rows, len(spec.file_columns), spec.read.max_values
    spare = int(noun == "lines")
    if rows > most + spare:
        raise RefusedFileError(f"it has {rows:,} {noun}; read.max_rows is {most:,}: split the file")
    if (rows - spare) * columns > values:
        raise RefusedFileError(
            f"it has {rows:,} {noun} of {number_of(columns, 'column')}; read.max_values is "
            f"{values:,}: split the file, or raise it if there are 60 bytes of memory for each"
        )


def _undecodable(content: bytes, encoding: Encoding, at: int) -> str:
    """Say where bytes are no text."""
    where = f"byte 0x{content[at]:02x} at offset {at}"
    line = content.count(b"\n", 0, at) + 1
    return f"it is not {encoding} ({where}) on line {line}: save it so, or set read.encoding"


def _likely_encoding(content: bytes, expected: Encoding) -> Encoding:
    """Return which encoding it is where the bytes leave little doubt, else the one expected."""
    marked = next((name for name, marks in _MARKS.items() if content.startswith(marks)), None)
    if marked is not None or expected == "utf-8":
        return marked or expected
    if expected == "utf-16":
        return expected if b"\0" in content else "utf-8"  # as each line end has one in UTF-16
    if not content.isascii() and is_utf8(content):
        return "utf-8"
    is_windows = expected == "latin-1" and re.search(rb"[\x80-\x9f]", content) is not None
    return "cp1252" if is_windows else expected


def is_utf8(content: bytes) -> bool:
    """Tell if a content is sound UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _table(records: Iterable[_Record], positions: dict[str, int], text: str) -> pl.DataFrame:
    """Return records as a frame; a file that ends in the middle of one is refused."""
    schema = dict.fromkeys([*positions, BROKEN, PROBLEM], pl.String) | {LINE: pl.Int64}
    values: dict[str, list[Any]] = {name: [] for name in schema}
    columns = [(values[name].append, at) for name, at in positions.items()]
    # Not row by row: millions of small lists keep Python's garbage collector busy.
    for number, fields, line, problem in records:
        values[LINE].append(number)
        values[BROKEN].append(line if fields is None else None)
        values[PROBLEM].append(problem)
        for append, at in columns:
            append(None if fields is None else fields[at])
    if values[BROKEN] and values[BROKEN][-1] is not None and not text.endswith(("\n", "\r")):
        raise RefusedFileError(
            f"it ends in the middle of line {values[LINE][-1]}: deliver it again"
        )
    return pl.DataFrame(values, schema).select(*positions, LINE, BROKEN, PROBLEM)


def _read_csv(content: bytes, spec: DatasetSpec, partition: str | None = None) -> Content:
    text, delimiter = _text(content, spec), spec.read.delimiter
    header, has_header = _header(text, spec), spec.read.header is None
    positions, extra = columns_of(header, spec, partition)
    rows = _plain_csv(text, delimiter, len(header), positions, has_header)
    if rows is None:
        records = _csv_records(text, delimiter, len(header), has_header)
        rows = _table(records, positions, text)
    if spec.read.trim:
        rows = rows.with_columns(pl.col(*positions).str.strip_chars())
    return rows, extra


def _header(text: str, spec: DatasetSpec) -> list[str]:
    """Return the names of a CSV's columns, in order."""
    header, first = spec.read.header, list[str]()
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=spec.read.delimiter, strict=True)
    try:
        first = next(reader, first)
    except csv.Error as error:
        if header is None:
            why = f"its header on line 1 cannot be read ({error}): close the quote or shorten it"
            raise RefusedFileError(why) from error
    if first == header:
        raise RefusedFileError("it has a header line, so read.header must not give one")
    return header or first


def _plain_csv(
    text: str, delimiter: str, width: int, positions: dict[str, int], has_header: bool
) -> pl.DataFrame | None:
    """Read rows by polars, forty times as fast, where counting proves that no row is ragged.

    polars fills up short rows and says nothing, nor does it of a last row with an empty field too
    many. So there may be no quotes, and each line must have as many delimiters as it should.
    """
    plain = '"' not in text and text.count("\r") == text.count("\r\n") and delimiter.isascii()
    if width == 1 or not plain:
        return None
    # Counted in bytes, since an object of each line would take more memory than the file.
    content = text.encode()
    codes = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    if not content.endswith(b"\n"):
        ends = np.append(ends, len(content))
    marks = np.searchsorted(np.flatnonzero(codes == ord(delimiter)), ends)
    if (np.diff(marks, prepend=0) != width - 1).any() or (
        np.diff(ends, prepend=0) > _MAX_LINE
    ).any():
        return None
    try:
        table = pl.read_csv(
            content,
            has_header=has_header,
            separator=delimiter,
            quote_char=None,
            infer_schema=False,
            empty_string_is_null=False,
        )
    except pl.exceptions.PolarsError:
        return None
    rows = pl.DataFrame([table.to_series(at).alias(name) for name, at in positions.items()])
    return number_rows(rows, first=1 + has_header)


def _csv_records(text: str, delimiter: str, width: int, has_header: bool) -> Iterator[_Record]:
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    if has_header:
        next(reader)
    while (start := reader.line_num) < len(lines):
        fields, problem = None, None
        try:
            fields = next(reader)
        except csv.Error as error:
            problem = f"it is no CSV: {error}"
        if fields == []:
            continue
        if fields is not None and len(fields) != width:
            problem = f"it has {number_of(len(fields), 'field')} instead of {width}"
            problem += _delimiter_hint(fields)
        # A stray quote takes in the rows up to the next one: they would be lost unseen.
        if problem and (reader.line_num > start + 1 or "unexpected end" in problem):
            raise RefusedFileError(
                f"the quote opened on line {start + 1} runs on to line {reader.line_num}: close it"
            )
        line = "".join(lines[start : reader.line_num]).rstrip("\r\n")
        problem = problem or _too_long(line)
        yield start + 1, None if problem else fields, line, problem


def _too_long(line: str) -> str | None:
    size = len(line)
    return f"it has {size:,} characters; {_MAX_LINE:,} are the most" if size > _MAX_LINE else None


def _read_jsonl(content: bytes, spec: DatasetSpec, partition: str | None = None) -> Content:
    text = _text(content, spec)
    if start := re.match(r"\s*(\[|\{\s*\n)", text):
        kind = "array" if start[1] == "[" else "object on several lines"
        raise RefusedFileError(f"it begins as a JSON {kind}: write each object on one line")
    names: dict[str, None] = {}
    records = _json_records(text, spec, names)
    rows = _table(records, {name: at for at, name in enumerate(spec.file_columns)}, text)
    if not names:
        return rows, ()
    positions, extra = columns_of(list(names), spec, partition)
    lacking = [name for name in spec.columns if spec.columns[name].since and name not in positions]
    return rows.drop(lacking), extra


def _json_records(text: str, spec: DatasetSpec, names: dict[str, None]) -> Iterator[_Record]:
    """Read the lines that are not blank; `names` gathers the keys of all objects."""
    read, columns = _json_reader(spec), list(spec.file_columns)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        fields, problem = None, _too_long(line)
        if problem is None:
            try:
                values = read(line)
            except json.JSONDecodeError as error:
                problem = f"it is no JSON: {error.msg} at character {error.pos + 1}"
            except RecursionError:
                problem = "it is nested too deeply"
            except ValueError as error:
                problem = str(error)
            else:
                names.update(dict.fromkeys(values))
                fields = [values.get(name) for name in columns]
        yield number, fields, line.rstrip("\r"), problem


def _json_reader(spec: DatasetSpec) -> Callable[[str], dict[str, str | None]]:
    """Return what reads the object on a line, its columns' values as text, or raises ValueError."""
    columns, rename = spec.file_columns, spec.read.rename

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        renamed = {rename.get(name, name): value for name, value in pairs}
        if len(renamed) < len(pairs):
            names = [rename.get(name, name) for name, _ in pairs]
            if twice := [name for name in columns if names.count(name) > 1]:
                raise ValueError(f"column {twice[0]} stands twice")
        return renamed

    # Made once, since making it takes longer than most lines do.
    decoder = json.JSONDecoder(
        object_pairs_hook=once, parse_int=str, parse_float=str, parse_constant=str
    )

    def read(line: str) -> dict[str, str | None]:
        values = decoder.decode(line)
        if not isinstance(values, dict):
            raise ValueError("it is JSON, but no object")  # noqa: TRY004 as every other line
        is_escaped = "\\u" in line
        for name in columns:
            if name in values and (is_escaped or not isinstance(values[name], str)):
                values[name] = _scalar(values[name], name)
        return values

    return read


def _scalar(value: object, name: str) -> str | None:
    """Return a JSON value as text; numbers have come as text already.

    Raises:
        ValueError: It is nested, or holds NUL or half of a surrogate pair.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        raise ValueError(f"column {name} holds a nested value, not a single one")  # noqa: TRY004
    text = None if value is None else str(value)
    if "\0" in (text or ""):
        raise ValueError(f"column {name} holds a NUL character")
    if re.search("[\ud800-\udfff]", text or ""):
        raise ValueError(f"column {name} holds half of a surrogate pair")
    return text


def _read_parquet(content: bytes, spec: DatasetSpec, partition: str | None = None) -> Content:
    """Read the rows of a parquet file, in its own types."""
    try:
        return _parquet_rows(content, spec, partition)
    except RefusedFileError:
        raise
    # A damaged file may raise anything, and a panic of polars is no Exception.
    except (Exception, pl.exceptions.PanicException) as error:
        raise RefusedFileError(f"it is no sound parquet file: {shown(str(error))}") from error


def _parquet_rows(content: bytes, spec: DatasetSpec, partition: str | None) -> Content:
    # Imported here, since it takes half as long to load as all definitions do.
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    if not (content.startswith(_PARQUET) and content.endswith(_PARQUET)):
        raise ValueError("it does not begin and end as one")
    if (size := int.from_bytes(content[-8:-4], "little")) > _MAX_FOOTER:
        raise ValueError(f"its footer has {size:,} bytes; {_MAX_FOOTER:,} are the most")
    file = ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    fields = file.schema_arrow
    positions, extra = columns_of(fields.names, spec, partition)
    empty = {name: pa.array([], fields.field(at).type) for name, at in positions.items()}
    if (why := misfit({name: pl.Series(e).dtype for name, e in empty.items()}, spec)) is not None:
        raise RefusedFileError(why)
    # Nothing else of `metadata` is safe: what pyarrow does not catch there ends the process.
    size = file.metadata.num_rows
    _check_size(_BYTES_A_VALUE * size * len(positions), spec)
    _check_rows(size, spec)
    columns = [
        pl.concat([_series(empty[name]), *_parts(file, fields.names[at], spec)])
        .rechunk()
        .alias(name)
        for name, at in positions.items()
    ]
    rows = pl.DataFrame(columns)
    if rows.height != size:
        raise ValueError(f"its footer says {size:,} rows, but its groups hold {rows.height:,}")
    # A text that is repeated stands once in memory, until somebody writes it out.
    texts = rows.select(pl.sum_horizontal(0, cs.string().str.len_bytes().cast(pl.Int64)).sum())
    _check_size(texts.item(), spec)
    return number_rows(rows, first=1), extra


def _parts(file: Any, name: str, spec: DatasetSpec) -> Iterator[pl.Series]:
    """Unpack a column whose pages hold as many values as the footer has rows, part by part.

    pyarrow reads no more rows than the footer says and passes over others, so values are counted.
    """
    from pyarrow import ArrowException
    from pyarrow.types import is_dictionary

    size = 0
    try:
        if file.scan_contents([name], batch_size=_BATCH_ROWS) != file.metadata.num_rows:
            raise RefusedFileError(f"the pages of {name} do not hold the rows of the footer")
        if is_dictionary(file.schema_arrow.field(name).type):
            yield from map(_series, file.read([name])[name].chunks)
            return
        for batch in file.iter_batches(_BATCH_ROWS, columns=[name]):
            size += batch.nbytes
            _check_size(size, spec)
            yield _series(batch[name])
    except (ArrowException, OSError) as error:
        why = "the checksum of a page is wrong" if "CRC" in str(error) else shown(str(error))
        message = f"it is no sound parquet file: column {name} cannot be read, {why}"
        raise RefusedFileError(message) from error


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
        raise RefusedFileError(f"it unpacks to {size:,} bytes; read.max_bytes is {limit:,}")


READERS = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}
