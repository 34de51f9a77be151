"""Landing files: which have landed, and their rows as they stand.

A file is only ever read, once, whole. What makes it unreadable refuses it here with the reason;
a line that is no row is kept as text for the contract to refuse. Not here: whether a value is
sound, and what becomes of a row.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.contract import RawRows
from retrain_assets.domain.rules import BROKEN, LINE
from retrain_assets.specs.partition import ALL
from retrain_assets.stores.readers import READERS, RefusedFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from retrain_assets.specs.dataset import DatasetSpec

_UNFINISHED = (".tmp", ".part")


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
            for path, status in self._matching(PurePosixPath(self.spec.landing or "").parts, "")
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
        pattern = str(PurePosixPath(self.spec.landing or ""))
        named = re.fullmatch(_as_regex(pattern, "(?P<key>[^/]+)", "(?P=key)"), path)
        found = None if named is None else named.groupdict().get("key", ALL)
        return found if found and self.spec.partition.is_key(found) else None

    def _read(self, file: LandingFile) -> RawFile:
        content = (self.root / file.path).read_bytes()
        rows = pl.DataFrame(schema={LINE: pl.Int64, BROKEN: pl.String})
        extra: tuple[str, ...] = ()
        refusal = None
        try:
            rows, extra = READERS[self.spec.format](content, self.spec)
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
