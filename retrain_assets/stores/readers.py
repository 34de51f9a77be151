"""Readers of landing files: bytes in, rows as they stand out.

Nothing is guessed: what is no row stays text, and what cannot be told refuses the file. Not here:
which files there are, and whether a value is sound.
"""

from __future__ import annotations

import csv
import io
import json
from difflib import get_close_matches
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.rules import BROKEN, LINE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from retrain_assets.specs.dataset import DatasetSpec

_MAX_CHARACTERS = 200
# Line number; the fields, or None where the line is no row; the line as it stands.
_Record = tuple[int, "Sequence[str | None] | None", str]
# The contract's columns with `_line` and `_broken`, and the names of other columns.
_Content = tuple[pl.DataFrame, tuple[str, ...]]


class RefusedFileError(ValueError):
    """A landing file that cannot be read as rows; the message says why and what would do."""


def _read_csv(content: bytes, spec: DatasetSpec) -> _Content:
    text, delimiter = _text(content), spec.read.delimiter
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise RefusedFileError(f"its header cannot be read: {error}") from error
    positions, extra = columns_of(header, spec)
    rows = _plain_csv(text, delimiter, len(header), positions)
    if rows is None:
        rows = _table(_csv_records(text, delimiter, len(header)), positions, text)
    return rows, extra


def _plain_csv(
    text: str, delimiter: str, width: int, positions: dict[str, int]
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
    try:
        found = pl.read_csv(
            text.encode(),
            separator=delimiter,
            quote_char=None,
            infer_schema=False,
            empty_string_is_null=False,
        )
    except pl.exceptions.PolarsError:
        return None
    rows = pl.DataFrame([found.to_series(at).alias(name) for name, at in positions.items()])
    return numbered(rows, first=2)


def _csv_records(text: str, delimiter: str, width: int) -> Iterator[_Record]:
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
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
        yield start + 1, fields if sound else None, line


def _read_jsonl(content: bytes, spec: DatasetSpec) -> _Content:
    text = _text(content)
    objects = [
        (number, _json_object(line, spec), line.rstrip("\r"))
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    names = dict.fromkeys(name for _, found, _ in objects for name in found or ())
    extra = columns_of(list(names), spec)[1] if names else ()
    records: Iterator[_Record] = (
        (number, None if found is None else [found.get(name) for name in spec.columns], line)
        for number, found, line in objects
    )
    return _table(records, {name: at for at, name in enumerate(spec.columns)}, text), extra


def _json_object(line: str, spec: DatasetSpec) -> dict[str, str | None] | None:
    """The object on a line, its contract's values as text; None where there is no such object."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        named = {spec.read.rename.get(name, name): value for name, value in pairs}
        if len(named) < len(pairs):
            raise ValueError("a key stands twice")
        return named

    try:
        found = json.loads(
            line, object_pairs_hook=once, parse_int=str, parse_float=str, parse_constant=str
        )
        if not isinstance(found, dict):
            return None
        return {name: _scalar(found[name]) if name in spec.columns else None for name in found}
    except (ValueError, RecursionError):
        return None


def _scalar(value: object) -> str | None:
    """A JSON value as text; numbers have come as text already.

    Raises:
        ValueError: It is nested, or half of a surrogate pair, which no text can hold.
    """
    if value is None or isinstance(value, str):
        (value or "").encode()
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    raise ValueError("a nested value")


def _read_parquet(content: bytes, spec: DatasetSpec) -> _Content:
    try:
        found = list(pl.read_parquet_schema(io.BytesIO(content)))
        positions, extra = columns_of(found, spec)
        names = {found[at]: name for name, at in positions.items()}
        rows = pl.read_parquet(io.BytesIO(content), columns=list(names)).rename(names)
    # A damaged page makes polars panic, which is no Exception.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise RefusedFileError(f"it is no sound parquet file: {_shown(str(error))}") from error
    return numbered(rows.select(*spec.columns), first=1), extra


READERS = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}


def _text(content: bytes) -> str:
    if not content:
        raise RefusedFileError("it is empty")
    if b"\0" in content:
        raise RefusedFileError("it holds a NUL byte: save it as UTF-8 text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte 0x{content[error.start]:02x} at offset {error.start}"
        raise RefusedFileError(f"it is not UTF-8 ({where}): save it as UTF-8 text") from error


def columns_of(found: Sequence[str], spec: DatasetSpec) -> tuple[dict[str, int], tuple[str, ...]]:
    """Where the contract's columns stand in a file, after renaming, and what other names it has.

    Raises:
        RefusedFileError: A column is there twice or not at all.
    """
    names = [spec.read.rename.get(name, name) for name in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise RefusedFileError(f"it has two columns {_shown(', '.join(sorted(twice)))}: keep one")
    missing = [name for name in spec.columns if name not in names]
    if missing:
        lacking = ", ".join(_with_hint(name, names) for name in missing)
        raise RefusedFileError(f"it lacks {lacking}; its columns are {_shown(', '.join(found))}")
    extra = tuple(name for name in names if name not in spec.columns)
    return {name: names.index(name) for name in spec.columns}, extra


def _with_hint(name: str, found: Sequence[str]) -> str:
    alike = {other.strip().casefold(): other for other in found}
    near = get_close_matches(name.casefold(), alike, n=1)
    return f"{name} (is {_shown(alike[near[0]])} meant?)" if near else name


def _table(records: Iterable[_Record], positions: dict[str, int], text: str) -> pl.DataFrame:
    """Records as a frame; a file that ends in the middle of one is refused."""
    listed = list(records)
    if listed and listed[-1][1] is None and not text.endswith(("\n", "\r")):
        raise RefusedFileError(f"it ends in the middle of line {listed[-1][0]}: deliver it again")
    values: dict[str, list[int] | list[str | None]] = {
        name: [None if fields is None else fields[at] for _, fields, _ in listed]
        for name, at in positions.items()
    }
    values[LINE] = [line for line, _, _ in listed]
    values[BROKEN] = [line if fields is None else None for _, fields, line in listed]
    schema = dict.fromkeys(positions, pl.String) | {LINE: pl.Int64, BROKEN: pl.String}
    return pl.DataFrame(values, schema)


def numbered(rows: pl.DataFrame, first: int) -> pl.DataFrame:
    """Rows with `_line`, counted from `first`; none is broken."""
    lines = pl.int_range(first, rows.height + first, dtype=pl.Int64)
    return rows.with_columns(lines.alias(LINE), pl.lit(None, pl.String).alias(BROKEN))


def _shown(text: str) -> str:
    return repr(text[:_MAX_CHARACTERS])
