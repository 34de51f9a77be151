"""Where the rows of a dataset come from: files in a local folder.

Here is how landing files are named, and which names are ignored and why. A file that cannot be
read is refused with the reason; a line that is no row is kept as text
for the contract to refuse. Not here: files in an object store (`objects.py`), tables that others
write (`foreign.py`), how bytes become rows (`formats.py`), and whether a value is sound.
"""

import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import polars as pl

from retrain_assets.domain.data import row_checks
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.partition import ALL
from retrain_assets.stores.landing.formats import READERS
from retrain_assets.stores.landing.readers import RefusedFileError
from retrain_assets.stores.tables.data_files import Spill

ATTEMPTS = 3  # at reading a file that changes meanwhile
CHANGING = "it changed whenever it was read: it is read again when it settles"
_HALF_WRITTEN = (".tmp", ".part", ".partial", ".crdownload", ".download", ".filepart")
_EXAMPLES, _NAME_CHARACTERS = 3, 80


class LandingError(RuntimeError):
    """Landing files cannot be listed or read now; the message says where and what would do."""


class PassedOverError(ValueError):
    """A name is none of the dataset's files; the message is the reason."""


@dataclass(frozen=True)
class LandingFile:
    """A file that has landed.

    Args:
        path: Below the landing folder or in the bucket, with forward slashes; or where a Delta
            table is.
        partition: Key in its name; `all` where the dataset has no partitions; None where its rows
            name their partitions.
        size_bytes: Its length when it was listed.
        stamp: Changes when the file does, and costs no reading.
        modified_ns: Its time of modification, in nanoseconds since 1970.
    """

    path: str
    partition: str | None
    size_bytes: int
    stamp: str
    modified_ns: int = 0

    def is_settled(self, settle: timedelta, now_ns: int) -> bool:
        """Tell if it has been unchanged for a while; a time in the future is a clock's error."""
        return not 0 <= now_ns - self.modified_ns < settle.total_seconds() * 1e9


@dataclass
class Ignored:
    """The names that a listing ignored: a count and a few examples for each reason."""

    reasons: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    def add(self, path: str, reason: object) -> None:
        """Add a name."""
        count, names = self.reasons.get(str(reason), (0, []))
        name = repr(path if len(path) <= _NAME_CHARACTERS else f"…{path[-_NAME_CHARACTERS:]}")
        self.reasons[str(reason)] = count + 1, [*names, name][:_EXAMPLES]

    def records(self) -> list[dict[str, str | int]]:
        """Return a row a reason, with the names escaped and shortened."""
        return [
            {"reason": reason, "names": count, "such as": ", ".join(names)}
            for reason, (count, names) in sorted(self.reasons.items())
        ]

    def __str__(self) -> str:
        texts = [f"{row['names']} {row['reason']} ({row['such as']})" for row in self.records()]
        return f"; ignored: {', '.join(texts)}" if texts else ""


class Source(Protocol):
    """The place that a dataset's rows come from."""

    def files(
        self, since: str | None = None, ignored: Ignored | None = None, /
    ) -> list[LandingFile]:
        """Return what has landed, by partition and path.

        Args:
            since: The first partition that is listed; without effect where rows name their
                partitions.
            ignored: Takes the names that were listed and are ignored.

        Raises:
            LandingError: It cannot be listed now.
        """

    def read(self, file: LandingFile, /) -> row_checks.RawRows:
        """Return the rows of one file; what cannot be read as rows is refused and not raised.

        Raises:
            LandingError: Nothing can be read from there now.
        """


class NamedFiles:
    """The landing files of one dataset, by their names; subclasses say where they are."""

    spec: DatasetSpec

    def entries(self, since: str | None, ignored: Ignored | None) -> Iterator[tuple[str, Any]]:
        """Yield the paths that may be files of the dataset, and what the listing says of each."""
        raise NotImplementedError

    def describe(self, path: str, key: str | None, entry: Any) -> LandingFile:
        """Return a file as it is now."""
        raise NotImplementedError

    def files(
        self, since: str | None = None, ignored: Ignored | None = None, /
    ) -> list[LandingFile]:
        """Return all finished files that the pattern names, by partition and path.

        Ignored are hidden and temporary names (`.x`, `x.tmp`, `~x`), what is no regular file or
        lies outside the root, and names whose `{partition}` is no key of the dataset.
        """
        landed = []
        for path, entry in self.entries(since, ignored):
            with self.passing_over(path, ignored):
                key = self.partition(path)
                if not (since and key and key < since):
                    landed.append(self.describe(path, key, entry))
        return sorted(landed, key=lambda file: (file.partition or "", file.path))

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Return the pattern of each folder, and of the file."""
        return self.spec.pattern.parts

    @cached_property
    def _key(self) -> str:
        period = self.spec.partition.period
        return period.form if period else "[^/]+"

    @cached_property
    def _form(self) -> re.Pattern[str]:
        return re.compile(as_regex(str(self.spec.pattern), f"(?P<key>{self._key})", "(?P=key)"))

    def first_name(self, part: str, since: str | None) -> str:
        """Return the first name of a part that can be of this partition or a later one.

        Keys of times are as long as each other, so names are in the order of their keys.
        """
        before, placeholder, _ = part.partition("{partition}")
        return before + since if placeholder and since and "*" not in before else ""

    def partition(self, path: str) -> str | None:
        """Return the partition of a file by its path; None where its rows name it.

        Raises:
            PassedOverError: It is none of the dataset's files.
        """
        check_finished(path)
        match, spec = self._form.fullmatch(path), self.spec.partition
        if match is None:
            like = str(self.spec.pattern).replace("{partition}", spec.example)
            raise PassedOverError(f"not named like {like}")
        if self.spec.is_split:
            return None
        key = match.groupdict().get("key", ALL)
        if (why := spec.explain_misfit(key)) is not None:
            raise PassedOverError(f"of no partition ({why})")
        return key

    @contextmanager
    def passing_over(self, path: str, ignored: Ignored | None) -> Iterator[None]:
        """Note a name that the block refuses or cannot reach; go on without one that is gone.

        A name is not noted if all datasets may deliver to its folder and it may be another's.
        """
        try:
            yield
        except FileNotFoundError:
            return
        except OSError as error:
            reason: object = f"not reachable: {error.strerror or type(error).__name__}"
        except PassedOverError as error:
            reason = error
        else:
            return
        if ignored is not None and (len(self.parts) > 1 or self._form.fullmatch(path)):
            ignored.add(path, reason)


@dataclass(frozen=True)
class LocalFiles(NamedFiles):
    """The landing files of one dataset in a folder of this machine, or in one that it mounts.

    Args:
        root: The landing folder, which need not exist yet.
        spec: The dataset.
    """

    root: Path
    spec: DatasetSpec

    def entries(self, since: str | None, ignored: Ignored | None) -> Iterator[tuple[str, Any]]:
        """Yield the paths below the folder that match the pattern."""
        yield from ((path, None) for path in self._paths(self.parts, "", since, ignored))

    def describe(self, path: str, key: str | None, entry: Any) -> LandingFile:  # noqa: ARG002
        """Return a file as it is now.

        Raises:
            PassedOverError: It is no regular file below the root.
        """
        status = self._status(path)
        if not stat.S_ISREG(status.st_mode):
            raise PassedOverError("not a regular file")
        if not os.access(self.root / path, os.R_OK):
            raise PassedOverError("without permission to read")
        return LandingFile(path, key, status.st_size, _stamp(status), status.st_mtime_ns)

    def read(self, file: LandingFile, /) -> row_checks.RawRows:
        """Read a file.

        A file is refused where it is missing, is too large, or keeps changing while it is read.
        """
        path = self.root / file.path
        for _ in range(ATTEMPTS):
            try:
                with path.open("rb") as opened:
                    status = os.fstat(opened.fileno())
                    if reason := too_large(status.st_size, self.spec):
                        return refused(file, reason)
                    raw = parsed(replace(file, stamp=_stamp(status)), opened, self.spec)
                unchanged = _stamp(path.stat()) == _stamp(status)
            except OSError as error:
                # Without a stamp it counts as unread, since an error of the disk may pass.
                stamp = file.stamp if isinstance(error, FileNotFoundError) else ""
                reason = f"it cannot be read ({error.strerror}): deliver it again"
                return refused(replace(file, stamp=stamp), reason)
            if unchanged:
                return raw
        return refused(file, CHANGING)

    def _paths(
        self, parts: Sequence[str], below: str, since: str | None, ignored: Ignored | None
    ) -> Iterator[str]:
        """Yield the names in the folders below `below` that match the rest of the pattern."""
        part, rest = parts[0], parts[1:]
        form, first = re.compile(as_regex(part, ".+")), self.first_name(part, since)
        is_form = re.search(r"[*{]", part)
        is_above = rest and ignored is not None and "{partition}" in self.parts[-1]
        names = self._names(below, ignored if is_form else None) if is_form or is_above else []
        if is_above and ignored is not None:
            self._note_misplaced(below, names, ignored)
        for name in names if is_form else [part]:
            path = f"{below}/{name}" if below else name
            if name < first:
                continue
            if not rest:
                yield path
            elif form.fullmatch(name):
                with self.passing_over(path, ignored):
                    check_finished(path)
                    self._status(path)
                    yield from self._paths(rest, path, since, ignored)

    def _note_misplaced(self, below: str, names: Sequence[str], ignored: Ignored) -> None:
        """Note the files that stand in a folder above theirs."""
        form = re.compile(as_regex(self.parts[-1], self._key))
        for name in names:
            if form.fullmatch(name):
                ignored.add(f"{below}/{name}" if below else name, "above its folder")

    def _names(self, below: str, ignored: Ignored | None) -> list[str]:
        """Return the names in a folder; none where the landing folder does not exist yet."""
        names: list[str] = []
        with self.passing_over(below, ignored):
            # Nothing but its name is read of an old file.
            names += os.listdir(self.root / below)  # noqa: PTH208 makes no object of each name
        return names

    def _status(self, path: str) -> os.stat_result:
        """Return the status of a file or folder, or of what it links to.

        Raises:
            PassedOverError: That is not below the root.
        """
        place = self.root / path
        status = place.lstat()
        if not stat.S_ISLNK(status.st_mode):
            return status
        try:
            target = place.stat()
        except FileNotFoundError as error:
            raise PassedOverError("a link to nothing") from error
        if not place.resolve().is_relative_to(self.root.resolve()):
            raise PassedOverError("outside the landing folder")
        return target


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


def check_finished(path: str) -> None:
    """Refuse names that are no UTF-8, hidden names, and those of temporary files.

    Programs write them until a file is finished, or while somebody edits it (`~$x`, `x~`).

    Raises:
        PassedOverError: It, or a folder that it is in, has such a name.
    """
    if any("\ud800" <= character <= "\udfff" for character in path):
        raise PassedOverError("not named in UTF-8")
    for name in path.split("/"):
        if name.startswith("."):
            raise PassedOverError("hidden")
        if name.startswith("~") or name.endswith(("~", *_HALF_WRITTEN)):
            raise PassedOverError("temporary")


def parsed(file: LandingFile, content: bytes | BinaryIO, spec: DatasetSpec) -> row_checks.RawRows:
    """Return the rows of the bytes of a file; of many rows, most wait on disk."""
    stream: Any = io.BytesIO(content) if isinstance(content, bytes) else content
    digest, frames = file_digest(stream, "sha256").hexdigest(), Frames(spec)
    stream.seek(0)
    try:
        extra, lacking = READERS[spec.format](stream, spec, file.partition, frames.add)
    except RefusedFileError as error:
        return refused(file, str(error), digest)
    return replace(refused(file, None, digest), rows=frames.rows(), extra=extra, lacking=lacking)


class Frames:
    """The rows of a file as they are read, in bounded chunks."""

    def __init__(self, spec: DatasetSpec) -> None:
        self._spec, self._spill = spec, Spill()
        self._most = row_checks.rows_at_once(spec)
        self._waiting: list[pl.DataFrame] = []

    def add(self, rows: pl.DataFrame) -> None:
        """Append rows; the columns that they may lack are null."""
        lacking = [name for name in self._spec.file_columns if name not in rows.columns]
        nothing = pl.lit(None, pl.Null if self._spec.is_typed else pl.String)
        full = rows.with_columns(nothing.alias(name) for name in lacking)
        for part in row_checks.split_rows(full, self._most):
            if sum(waiting.height for waiting in self._waiting) + part.height > self._most:
                self._flush()
            self._waiting.append(part)

    def _flush(self) -> None:
        if self._waiting:
            self._spill.add(pl.concat(self._waiting, rechunk=True))
            self._waiting.clear()

    def rows(self) -> pl.DataFrame | row_checks.Chunks:
        """Return all rows: in one frame if they are few."""
        self._flush()
        return self._spill if self._spill.count > 1 else self._spill.parts()[0].collect()


def refused(file: LandingFile, reason: str | None, digest: str = "") -> row_checks.RawRows:
    """Return a file without rows, refused for a reason."""
    return row_checks.RawRows(
        *(file.path, file.partition or "", digest, row_checks.NO_ROWS, reason),
        stamp=file.stamp,
        size_bytes=file.size_bytes,
    )


def too_large(size_bytes: int, spec: DatasetSpec) -> str | None:
    """Return why a file has too many bytes to be read."""
    limit = spec.read.max_bytes
    if size_bytes <= limit:
        return None
    return f"it has {size_bytes:,} bytes; read.max_bytes is {limit:,}"


def as_regex(pattern: str, key: str, repeated: str | None = None) -> str:
    """Return a landing pattern as a regular expression, its first `{partition}` as `key`."""
    escaped = re.escape(pattern).replace(r"\*", "[^/]*")
    placeholder = re.escape("{partition}")
    return escaped.replace(placeholder, key, 1).replace(placeholder, repeated or key)
