"""Landing files: which have landed, and their rows as they stand.

A file is only ever read, once, whole. What makes it unreadable refuses it here with the reason;
a line that is no row is kept as text for the contract to refuse. Not here: whether a value is
sound, and what becomes of a row.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.contract import RawRows
from retrain_assets.domain.rules import ALL, BROKEN, KEY_PATTERNS, LINE, partition_key_is_valid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from retrain_assets.specs.dataset import DatasetSpec

_UNFINISHED = (".tmp", ".part")
_MAX_CHARACTERS = 200
# Line number; the fields, or None where the line is no row; the line as it stands.
_Record = tuple[int, "Sequence[str | None] | None", str]
# The contract's columns with `_line` and `_broken`, and the names of other columns.
_Content = tuple[pl.DataFrame, tuple[str, ...]]


class RefusedFileError(ValueError):
    """A landing file that cannot be read as rows; the message says why and what would do."""


@dataclass(frozen=True)
class LandingFile:
    """A file that has landed.

    Args:
        path: Below the landing root, with forward slashes.
        partition: Key in its name; `all` where the pattern has none.
        size_bytes: Its length when it was seen.
        modified_ns: Its time of modification then, in nanoseconds since 1970.
    """

    path: str
    partition: str
    size_bytes: int
    modified_ns: int

    @property
    def stamp(self) -> str:
        """Changes when the file does, and costs no reading."""
        return f"{self.size_bytes:x}-{self.modified_ns:x}"


@dataclass(frozen=True, kw_only=True)
class RawFile(RawRows):
    """The rows of one landing file.

    Args:
        file: The file as it was seen.
        extra: Columns that the contract does not know, which are not in `rows`.
    """

    file: LandingFile
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Landing:
    """The landing files of one dataset.

    Args:
        root: The landing folder; it need not be there yet.
        spec: The dataset.
    """

    root: Path
    spec: DatasetSpec

    def files(self) -> list[LandingFile]:
        """All finished files that the pattern names, by partition and path.

        Left out are hidden and unfinished names (`.x`, `x.tmp`, `x.part`), what is no regular file
        or lies outside the root, and names whose `{partition}` is no key of the dataset.
        """
        found = [
            LandingFile(path, key, status.st_size, status.st_mtime_ns)
            for path, status in self._matching(PurePosixPath(self.spec.landing).parts, "")
            if (key := self._partition(path)) is not None
        ]
        return sorted(found, key=lambda file: (file.partition, file.path))

    def read(self, files: Sequence[LandingFile]) -> list[RawFile]:
        """Read files whole, each once.

        Raises:
            OSError: A file has gone since it was seen, or may not be read.
        """
        return [self._read(file) for file in files]

    def _matching(self, parts: Sequence[str], below: str) -> Iterator[tuple[str, os.stat_result]]:
        """The regular files under folder `below` that match the rest of the pattern."""
        name, rest = re.compile(_as_regex(parts[0], ".+")), parts[1:]
        try:
            entries = os.scandir(self.root / below)
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                if name.fullmatch(entry.name) is None or not self._is_offered(entry):
                    continue
                path = f"{below}/{entry.name}" if below else entry.name
                if rest:
                    yield from self._matching(rest, path)
                elif (status := _regular(entry)) is not None:
                    yield path, status

    def _is_offered(self, entry: os.DirEntry[str]) -> bool:
        if entry.name.startswith(".") or entry.name.endswith(_UNFINISHED):
            return False
        root = self.root.resolve() if entry.is_symlink() else None
        return root is None or Path(entry.path).resolve().is_relative_to(root)

    def _partition(self, path: str) -> str | None:
        partition = self.spec.partition
        key = f"(?P<key>{KEY_PATTERNS[partition.by]})"
        pattern = str(PurePosixPath(self.spec.landing))
        named = re.fullmatch(_as_regex(pattern, key, "(?P=key)"), path)
        found = None if named is None else named.groupdict().get("key", ALL)
        return found if found and partition_key_is_valid(partition, found) else None

    def _read(self, file: LandingFile) -> RawFile:
        content = (self.root / file.path).read_bytes()
        rows = pl.DataFrame(schema={LINE: pl.Int64, BROKEN: pl.String})
        extra: tuple[str, ...] = ()
        refusal = None
        try:
            rows, extra = _READERS[self.spec.format](content, self.spec)
        except RefusedFileError as error:
            refusal = str(error)
        digest = sha256(content).hexdigest()
        return RawFile(file.path, file.partition, digest, rows, refusal, file=file, extra=extra)


def _as_regex(pattern: str, key: str, repeated: str | None = None) -> str:
    """A landing pattern as a regular expression, its first `{partition}` as `key`."""
    escaped = re.escape(pattern).replace(r"\*", "[^/]*")
    placeholder = re.escape("{partition}")
    return escaped.replace(placeholder, key, 1).replace(placeholder, repeated or key)


def _regular(entry: os.DirEntry[str]) -> os.stat_result | None:
    """The status of a regular file; None for anything else, and for one that has just gone."""
    try:
        status = entry.stat()
    except FileNotFoundError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _read_csv(content: bytes, spec: DatasetSpec) -> _Content:
    text, delimiter = _text(content), spec.read.delimiter
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise RefusedFileError(f"its header cannot be read: {error}") from error
    positions, extra = _columns(header, spec)
    rows = _plain_csv(text, delimiter, len(header), positions)
    if rows is None:
        rows = _table(_csv_records(text, delimiter, len(header)), positions, text)
    return rows, extra


def _plain_csv(
    text: str, delimiter: str, width: int, positions: dict[str, int]
) -> pl.DataFrame | None:
    """Rows by polars, forty times as fast, where counting proves that no row is ragged.

    polars fills up short rows and says nothing, but does raise on a long one. So where there are
    no quotes and the delimiters are in all as many as they should be, no row is short.
    """
    lines = text.count("\n") + (not text.endswith("\n"))
    plain = '"' not in text and text.count("\r") == text.count("\r\n") and delimiter.isascii()
    if width == 1 or not plain or text.count(delimiter) != lines * (width - 1):
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
    return _numbered(rows, first=2)


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
    extra = _columns(list(names), spec)[1] if names else ()
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
        positions, extra = _columns(found, spec)
        names = {found[at]: name for name, at in positions.items()}
        rows = pl.read_parquet(io.BytesIO(content), columns=list(names)).rename(names)
    # A damaged page makes polars panic, which is no Exception.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise RefusedFileError(f"it is no sound parquet file: {_shown(str(error))}") from error
    return _numbered(rows.select(*spec.columns), first=1), extra


_READERS = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}


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


def _columns(found: Sequence[str], spec: DatasetSpec) -> tuple[dict[str, int], tuple[str, ...]]:
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


def _numbered(rows: pl.DataFrame, first: int) -> pl.DataFrame:
    lines = pl.int_range(first, rows.height + first, dtype=pl.Int64)
    return rows.with_columns(lines.alias(LINE), pl.lit(None, pl.String).alias(BROKEN))


def _shown(text: str) -> str:
    return repr(text[:_MAX_CHARACTERS])
