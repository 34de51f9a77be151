"""Landing files: which have landed, and their rows as they stand.

A file is only ever read, once, whole. What makes it unreadable refuses it here with the reason;
a line that is no row is kept as text for the contract to refuse. Not here: whether a value is
sound, and what becomes of a row.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

import polars as pl

from retrain_assets.domain.contract import RawRows
from retrain_assets.domain.rules import BROKEN, LINE
from retrain_assets.specs.partition import ALL
from retrain_assets.stores.raw_columns import RefusedFileError
from retrain_assets.stores.readers import READERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import timedelta

    from retrain_assets.specs.dataset import DatasetSpec

_UNFINISHED = (".tmp", ".part")
_ATTEMPTS = 3


@dataclass(frozen=True)
class LandingFile:
    """A file that has landed.

    Args:
        path: Below the landing root, with forward slashes; or where a Delta table is.
        partition: Key in its name; `all` where the dataset has no partitions; None where its rows
            are to say which partitions they are of.
        size_bytes: Its length when it was seen.
        stamp: Changes when the file does, and costs no reading.
        modified_ns: Its time of modification, in nanoseconds since 1970.
    """

    path: str
    partition: str | None
    size_bytes: int
    stamp: str
    modified_ns: int = 0

    def is_settled(self, settle: timedelta, now_ns: int) -> bool:
        """Whether it has not changed for a while; a time to come is a clock's error, not news."""
        return not 0 <= now_ns - self.modified_ns < settle.total_seconds() * 1e9


@dataclass(frozen=True, kw_only=True)
class RawFile(RawRows):
    """The rows of one landing file, or a slice of them.

    Args:
        file: The file as it was when it was read.
        extra: Columns that the contract does not know, which are not in `rows`.
    """

    file: LandingFile
    extra: tuple[str, ...] = ()


class Source(Protocol):
    """Where a dataset's rows come from."""

    def files(self) -> list[LandingFile]:
        """All that has landed, by partition and path."""

    def read(self, file: LandingFile) -> RawFile:
        """The rows of one file; what cannot be read is refused and not raised."""


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
        matching = self._matching(PurePosixPath(self.spec.landing or "").parts, "")
        found = [file for path, status in matching if (file := self._file(path, status))]
        return sorted(found, key=lambda file: (file.partition or "", file.path))

    def read(self, file: LandingFile) -> RawFile:
        """Read a file whole.

        One that has gone, is too large, or keeps changing while it is read, is refused.
        """
        path, limit = self.root / file.path, self.spec.read.max_bytes
        for _ in range(_ATTEMPTS):
            try:
                with path.open("rb") as opened:
                    status = os.fstat(opened.fileno())
                    if status.st_size > limit:
                        why = f"it has {status.st_size:,} bytes; read.max_bytes is {limit:,}"
                        return refused(file, why)
                    content = opened.read()
                unchanged = _stamp(path.stat()) == _stamp(status)
            except OSError as error:
                return refused(file, f"it cannot be read ({error.strerror}): deliver it again")
            if unchanged:
                return self._parsed(replace(file, stamp=_stamp(status)), content)
        return refused(file, "it changed whenever it was read: it is read again when it settles")

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

    def _file(self, path: str, status: os.stat_result) -> LandingFile | None:
        """A file as seen; None where its name holds no key of the dataset."""
        pattern = str(PurePosixPath(self.spec.landing or ""))
        named = re.fullmatch(_as_regex(pattern, "(?P<key>[^/]+)", "(?P=key)"), path)
        if named is None:
            return None
        key = None if self.spec.is_split else named.groupdict().get("key", ALL)
        if key is not None and not self.spec.partition.is_key(key):
            return None
        return LandingFile(path, key, status.st_size, _stamp(status), status.st_mtime_ns)

    def _parsed(self, file: LandingFile, content: bytes) -> RawFile:
        try:
            rows, extra = READERS[self.spec.format](content, self.spec)
        except RefusedFileError as error:
            return replace(refused(file, str(error)), sha256=sha256(content).hexdigest())
        digest = sha256(content).hexdigest()
        return RawFile(file.path, file.partition or "", digest, rows, file=file, extra=extra)


def refused(file: LandingFile, why: str) -> RawFile:
    """A file that could not be read."""
    rows = pl.DataFrame(schema={LINE: pl.Int64, BROKEN: pl.String})
    return RawFile(file.path, file.partition or "", "", rows, why, file=file)


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


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
