"""Readers of landing files: bytes in, rows as they stand out, block by block.

No value is guessed. A line that is no row stays text beside the reason, and a file that cannot be
trusted is refused. Here is CSV; JSONL is in `jsonl.py`, parquet in `parquet.py`. Not here: listing
files, which reader reads which format (`formats.py`), and whether a value is sound.
"""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import polars as pl
import polars.selectors as cs

from retrain_assets.domain.data.rules import BROKEN, LINE, PROBLEM
from retrain_assets.specs.base import number_of
from retrain_assets.specs.dataset import ColumnSpec, DatasetSpec, Encoding

_MAX_LINE = 2**20  # characters
_MAX_CHARACTERS = 200  # of foreign text in a message
_MOST_LACKING = 5  # names in a message, behind which a remedy stands
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
_LONGEST_MARK = 4
_BLOCK = 4 * 2**20  # characters that are read at once
# polars panics at dates that are further than this from 1970, about the year 262,142.
_MAX_DAYS = 95_000_000
_UNITS_A_DAY = {"day": 1, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}

# Takes the contract's columns with `_line`, `_broken` and `_problem` of some rows.
Keep = Callable[[pl.DataFrame], object]
# Line number; the fields, or None where the line is no row; the line as it stands; why it is none.
Record = tuple[int, Sequence[str | None] | None, str, str | None]


class Columns(NamedTuple):
    """The differences between the columns of a file and those of the contract.

    Args:
        extra: Those that the contract does not know.
        lacking: Those that the file does not have and may lack.
    """

    extra: tuple[str, ...]
    lacking: tuple[str, ...]


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
        free = [name for name in renamed if name not in spec.file_columns]
        lacking = ", ".join(_with_hint(name, free) for name in missing[:_MOST_LACKING])
        if len(missing) > _MOST_LACKING:
            lacking += f" and {len(missing) - _MOST_LACKING} more"
        raise RefusedFileError(f"it lacks {lacking}; {_present(names, spec)}")
    extra = tuple(name for name in renamed if name not in spec.file_columns)
    return {name: renamed.index(name) for name in spec.file_columns if name in renamed}, extra


def _present(names: Sequence[str], spec: DatasetSpec) -> str:
    """Describe the columns of a file; without a header they are the values of its first row."""
    hint = _delimiter_hint(names)
    if any(column.personal for column in spec.columns.values()):
        return f"it has {number_of(len(names), 'column')}, not shown as they may be personal{hint}"
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


def check_text(content: BinaryIO, spec: DatasetSpec) -> None:
    """Refuse a text file in another encoding, with too many lines, or with a NUL byte."""
    encoding, lines = spec.read.encoding, 0
    content.seek(0)
    begin = content.read(_LONGEST_MARK) if encoding == "utf-8" else content.read()
    if not begin:
        raise RefusedFileError("it is empty: deliver it again")
    likely = _likely_encoding(begin, encoding)
    if likely != encoding:
        remedy = f"save it as {encoding}, or set read.encoding to {likely}"
        raise RefusedFileError(f"it is {likely}, not {encoding}: {remedy}")
    if kind := next((kind for mark, kind in _BINARY.items() if begin.startswith(mark)), None):
        raise RefusedFileError(f"it is a {kind} file, not {encoding}: deliver it unpacked, as text")
    try:
        for text in read_blocks(content, encoding):
            if (at := text.find("\0")) >= 0:
                line, before = lines + text.count("\n", 0, at) + 1, text.rfind("\n", 0, at)
                raise RefusedFileError(
                    "it holds a NUL byte, which no text has, as character "
                    f"{at - before} of line {line}: save it as text, or set read.encoding to what "
                    "it is"
                )
            lines += text.count("\n")
    except UnicodeDecodeError as error:
        raise RefusedFileError(_undecodable(content, encoding)) from error
    check_rows(lines, spec, "lines")


def read_blocks(content: BinaryIO, encoding: Encoding) -> Iterator[str]:
    """Yield the text of a file in blocks of full lines, of some four million characters."""
    content.seek(0)
    codec = "utf-8-sig" if encoding == "utf-8" else encoding
    text = io.TextIOWrapper(content, codec, newline="\n")
    try:
        while block := text.read(_BLOCK):
            yield block + text.readline()
    finally:
        text.detach()  # which leaves the file open


def check_rows(rows: int, spec: DatasetSpec, noun: str = "rows") -> None:
    """Refuse a file of too many rows before they are read; one line may be the header."""
    most, columns = spec.read.max_rows, len(spec.file_columns)
    values = spec.read.max_values or rows * columns
    spare = int(noun == "lines")
    if rows > most + spare:
        raise RefusedFileError(f"it has {rows:,} {noun}; read.max_rows is {most:,}: split the file")
    if (rows - spare) * columns > values:
        raise RefusedFileError(
            f"it has {rows:,} {noun} of {number_of(columns, 'column')}; read.max_values is "
            f"{values:,}: split the file, or raise it"
        )


def _undecodable(content: BinaryIO, encoding: Encoding) -> str:
    """Say where bytes are no text."""
    content.seek(0)
    data, where, line = content.read(), "", 1
    try:
        data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        where = f" (byte 0x{data[error.start]:02x} at offset {error.start})"
        line += data.count(b"\n", 0, error.start)
    return f"it is not {encoding}{where} on line {line}: save it so, or set read.encoding"


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


def as_table(
    records: Iterable[Record], positions: Iterable[str], at: Iterable[int]
) -> pl.DataFrame:
    """Return records as a frame of some columns, which have these places in each record."""
    schema = dict.fromkeys([*positions, BROKEN, PROBLEM], pl.String) | {LINE: pl.Int64}
    values: dict[str, list[Any]] = {name: [] for name in schema}
    columns = [(values[name].append, place) for name, place in zip(positions, at, strict=True)]
    # Not row by row: millions of small lists keep Python's garbage collector busy.
    for number, fields, line, problem in records:
        values[LINE].append(number)
        values[BROKEN].append(line if fields is None else None)
        values[PROBLEM].append(problem)
        for append, place in columns:
            append(None if fields is None else fields[place])
    return pl.DataFrame(values, schema).select(*positions, LINE, BROKEN, PROBLEM)


def check_end(rows: pl.DataFrame, text: str) -> None:
    """Refuse a file that ends in the middle of a row, by its last rows and its last text."""
    if rows.height and rows[BROKEN][-1] is not None and not text.endswith(("\n", "\r")):
        raise RefusedFileError(f"it ends in the middle of line {rows[LINE][-1]}: deliver it again")


def read_csv(content: BinaryIO, spec: DatasetSpec, partition: str | None, keep: Keep) -> Columns:
    """Read the rows of a CSV, as text; see `READERS`."""
    check_text(content, spec)
    blocks = read_blocks(content, spec.read.encoding)
    text, has_header = next(blocks, ""), spec.read.header is None
    header = _header(text, spec)
    positions, extra = columns_of(header, spec, partition)
    for rows in _csv_frames(text, blocks, spec.read.delimiter, len(header), positions, has_header):
        keep(rows.with_columns(pl.col(*positions).str.strip_chars()) if spec.read.trim else rows)
    return Columns(extra, tuple(name for name in spec.file_columns if name not in positions))


def _csv_frames(
    text: str,
    blocks: Iterator[str],
    delimiter: str,
    width: int,
    positions: dict[str, int],
    has_header: bool,
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a CSV block by block; a quoted value may run on into the next one."""
    line, is_first = 1, True
    while text or is_first:
        rows = _plain_csv(text, delimiter, width, positions, has_header, line)
        if rows is None:
            lines = _Lines(text, blocks, line)
            records = _csv_records(lines, delimiter, width, has_header)
            rows = as_table(records, positions, positions.values())
            check_end(rows, lines.text)
            line = lines.number
        else:
            line += text.count("\n")
        yield rows
        text, has_header, is_first = next(blocks, ""), False, False


class _Lines:
    """The lines of a block of text, and of the blocks after it as long as they are asked for.

    Args:
        text: The block.
        blocks: Those after it.
        number: The number of the next line in the file.
    """

    def __init__(self, text: str, blocks: Iterator[str], number: int) -> None:
        self.text, self.number, self._blocks = text, number, blocks
        self.record: list[str] = []
        self._rest = list(io.StringIO(text, newline=""))[::-1]

    @property
    def has_more(self) -> bool:
        """Tell if the block has more lines."""
        return bool(self._rest)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self._rest:
            self.text = next(self._blocks)
            self._rest = list(io.StringIO(self.text, newline=""))[::-1]
        self.record.append(self._rest.pop())
        self.number += 1
        return self.record[-1]


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
    text: str,
    delimiter: str,
    width: int,
    positions: dict[str, int],
    has_header: bool,
    line: int = 1,
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
    return number_rows(rows, first=line + has_header)


def _csv_records(lines: _Lines, delimiter: str, width: int, has_header: bool) -> Iterator[Record]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    if has_header:
        next(reader)
    while lines.has_more:
        fields, problem, first = None, None, lines.number
        lines.record.clear()
        try:
            fields = next(reader)
        except csv.Error as error:
            problem = f"it is not CSV: {error}"
        if fields == []:
            continue
        if fields is not None and len(fields) != width:
            problem = f"it has {number_of(len(fields), 'field')} instead of {width}"
            problem += _delimiter_hint(fields)
        # A stray quote takes in the rows up to the next one: they would be lost unseen.
        if problem and (len(lines.record) > 1 or "unexpected end" in problem):
            last = lines.number - 1
            raise RefusedFileError(
                f"the quote opened on line {first} runs on to line {last}: close it"
            )
        line = "".join(lines.record).rstrip("\r\n")
        problem = problem or explain_length(line)
        yield first, None if problem else fields, line, problem


def explain_length(line: str) -> str | None:
    """Return why a line is too long to be a row; None if it is not."""
    size = len(line)
    return f"it has {size:,} characters; {_MAX_LINE:,} are the most" if size > _MAX_LINE else None
