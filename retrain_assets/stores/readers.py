"""Readers of landing files: bytes in, rows as they stand out.

Nothing is guessed: what is no row stays text, and what cannot be told refuses the file. Not here:
which files there are, what is inside parquet, and whether a value is sound.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any

import polars as pl

from retrain_assets.domain.rules import BROKEN, LINE
from retrain_assets.stores.raw_columns import RefusedFileError, columns_of, numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from retrain_assets.specs.dataset import DatasetSpec, Encoding
    from retrain_assets.stores.raw_columns import Content

_MAX_LINE = 2**20  # characters
_MARKS: dict[Encoding, tuple[bytes, ...]] = {
    "utf-8": (codecs.BOM_UTF8,),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
# Line number; the fields, or None where the line is no row; the line as it stands.
_Record = tuple[int, "Sequence[str | None] | None", str]


def _read_csv(content: bytes, spec: DatasetSpec) -> Content:
    text, delimiter = _text(content, spec.read.encoding), spec.read.delimiter
    header, has_header = _header(text, spec), spec.read.header is None
    positions, extra = columns_of(header, spec)
    rows = _plain_csv(text, delimiter, len(header), positions, has_header)
    if rows is None:
        records = _csv_records(text, delimiter, len(header), has_header)
        rows = _table(records, positions, text)
    if spec.read.trim:
        rows = rows.with_columns(pl.col(*positions).str.strip_chars())
    return rows, extra


def _header(text: str, spec: DatasetSpec) -> list[str]:
    """The names of a CSV's columns, in order."""
    given, first = spec.read.header, list[str]()
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=spec.read.delimiter, strict=True)
    try:
        first = next(reader, first)
    except csv.Error as error:
        if given is None:
            raise RefusedFileError(f"its header cannot be read: {error}") from error
    if first == given:
        raise RefusedFileError("it has a header line, so read.header must not give one")
    return given or first


def _plain_csv(
    text: str, delimiter: str, width: int, positions: dict[str, int], has_header: bool
) -> pl.DataFrame | None:
    """Rows by polars, forty times as fast, where counting proves that no row is ragged.

    polars fills up short rows and says nothing, nor does it of a last row with an empty field too
    many. So there may be no quotes, and each line must have as many delimiters as it should.
    """
    lines = pl.Series(text.removesuffix("\n").split("\n"), dtype=pl.String)
    plain = '"' not in text and text.count("\r") == text.count("\r\n") and delimiter.isascii()
    if width == 1 or not plain:
        return None
    if (lines.str.count_matches(delimiter, literal=True) != width - 1).any():
        return None
    if (lines.str.len_bytes() > _MAX_LINE).any():
        return None
    try:
        found = pl.read_csv(
            text.encode(),
            has_header=has_header,
            separator=delimiter,
            quote_char=None,
            infer_schema=False,
            empty_string_is_null=False,
        )
    except pl.exceptions.PolarsError:
        return None
    rows = pl.DataFrame([found.to_series(at).alias(name) for name, at in positions.items()])
    return numbered(rows, first=1 + has_header)


def _csv_records(text: str, delimiter: str, width: int, has_header: bool) -> Iterator[_Record]:
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    if has_header:
        next(reader)
    while (start := reader.line_num) < len(lines):
        fields, problem = None, ""
        try:
            fields = next(reader)
        except csv.Error as error:
            problem = str(error)
        if fields == []:
            continue
        sound = fields is not None and len(fields) == width
        # A stray quote takes in the rows up to the next one: they would be lost unseen.
        if not sound and (reader.line_num > start + 1 or "unexpected end" in problem):
            raise RefusedFileError(
                f"the quote opened on line {start + 1} runs on to line {reader.line_num}: close it"
            )
        line = "".join(lines[start : reader.line_num]).rstrip("\r\n")
        yield start + 1, fields if sound and len(line) <= _MAX_LINE else None, line


def _read_jsonl(content: bytes, spec: DatasetSpec) -> Content:
    text = _text(content, spec.read.encoding)
    if re.match(r"\s*\[", text):
        raise RefusedFileError("it begins as a JSON array: write one object a line, no brackets")
    names: dict[str, None] = {}
    records = _json_records(text, spec, names)
    rows = _table(records, {name: at for at, name in enumerate(spec.file_columns)}, text)
    return rows, columns_of(list(names), spec)[1] if names else ()


def _json_records(text: str, spec: DatasetSpec, names: dict[str, None]) -> Iterator[_Record]:
    """The lines that are not blank; `names` gathers the keys of all objects."""
    read, columns = _json_reader(spec), list(spec.file_columns)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            found = read(line)
            names.update(dict.fromkeys(found or ()))
            fields = None if found is None else [found.get(name) for name in columns]
            yield number, fields, line.rstrip("\r")


def _json_reader(spec: DatasetSpec) -> Callable[[str], dict[str, str | None] | None]:
    """What gives the object on a line, its columns' values as text; None where there is none."""
    columns, rename = spec.file_columns, spec.read.rename

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        named = {rename.get(name, name): value for name, value in pairs}
        if len(named) < len(pairs):
            names = [rename.get(name, name) for name, _ in pairs]
            if any(names.count(name) > 1 for name in columns):
                raise ValueError("a column stands twice")
        return named

    # Made once, since making it takes longer than most lines do.
    decoder = json.JSONDecoder(
        object_pairs_hook=once, parse_int=str, parse_float=str, parse_constant=str
    )

    def read(line: str) -> dict[str, str | None] | None:
        if len(line) > _MAX_LINE:
            return None
        try:
            found = decoder.decode(line)
            if not isinstance(found, dict):
                return None
            is_escaped = "\\u" in line
            for name in columns:
                if name in found and (is_escaped or not isinstance(found[name], str)):
                    found[name] = _scalar(found[name])
        except (ValueError, RecursionError):
            return None
        return found

    return read


def _scalar(value: object) -> str | None:
    """A JSON value as text; numbers have come as text already.

    Raises:
        ValueError: It is nested, or holds NUL or half of a surrogate pair.
    """
    if value is None or isinstance(value, str):
        if "\0" in (value or ""):
            raise ValueError("a NUL character")
        (value or "").encode()
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    raise ValueError("a nested value")


def _read_parquet(content: bytes, spec: DatasetSpec) -> Content:
    from retrain_assets.stores.parquet_reader import read_parquet

    return read_parquet(content, spec)


READERS = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}


def _text(content: bytes, encoding: Encoding) -> str:
    if not content:
        raise RefusedFileError("it is empty")
    found = _encoding_told(content, encoding)
    if found != encoding:
        raise RefusedFileError(f"it is {found}, not {encoding}: save it so, or say read.encoding")
    try:
        text = content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        where = f"byte 0x{content[error.start]:02x} at offset {error.start}"
        raise RefusedFileError(
            f"it is not {encoding} ({where}): save it so, or say read.encoding"
        ) from error
    if "\0" in text:
        raise RefusedFileError("it holds a NUL byte: save it as text")
    return text


def _encoding_told(content: bytes, expected: Encoding) -> Encoding:
    """Which encoding it is where the bytes leave little doubt, else the one expected."""
    marked = next((name for name, marks in _MARKS.items() if content.startswith(marks)), None)
    if marked is not None or expected == "utf-8":
        return marked or expected
    if expected == "utf-16":
        return expected if b"\0" in content else "utf-8"  # as each line end has one in UTF-16
    if not content.isascii() and _is_utf8(content):
        return "utf-8"
    is_windows = expected == "latin-1" and re.search(rb"[\x80-\x9f]", content) is not None
    return "cp1252" if is_windows else expected


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _table(records: Iterable[_Record], positions: dict[str, int], text: str) -> pl.DataFrame:
    """Records as a frame; a file that ends in the middle of one is refused."""
    schema = {LINE: pl.Int64, BROKEN: pl.String, **dict.fromkeys(positions, pl.String)}
    values: dict[str, list[Any]] = {name: [] for name in schema}
    columns = [(values[name].append, at) for name, at in positions.items()]
    # Not row by row: millions of small lists keep Python's garbage collector busy.
    for number, fields, line in records:
        values[LINE].append(number)
        values[BROKEN].append(line if fields is None else None)
        for append, at in columns:
            append(None if fields is None else fields[at])
    if values[BROKEN] and values[BROKEN][-1] is not None and not text.endswith(("\n", "\r")):
        raise RefusedFileError(
            f"it ends in the middle of line {values[LINE][-1]}: deliver it again"
        )
    return pl.DataFrame(values, schema).select(*positions, LINE, BROKEN)
