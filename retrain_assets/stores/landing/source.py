"""Landing files: how they are named, which names are passed over and why, their rows as they stand.

A file is only ever read, once, whole. What makes it unreadable refuses it here with the reason;
a line that is no row is kept as text for the contract to refuse. Not here: where files are listed
and read from (`local_files.py`, `object_files.py`), whether a value is sound, and what becomes of a
row.
"""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from hashlib import sha256
from typing import Protocol

import polars as pl

from retrain_assets.domain.data.row_checks import RawRows
from retrain_assets.domain.data.rules import BROKEN, LINE
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.partition import ALL
from retrain_assets.stores.landing.readers import READERS, RefusedFileError

ATTEMPTS = 3  # at reading a file that changes meanwhile
CHANGING = "it changed whenever it was read: it is read again when it settles"
_UNFINISHED = (".tmp", ".part")
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


@dataclass
class Ignored:
    """What a listing passed over: a count and a few names for each reason."""

    found: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    def add(self, path: str, why: object) -> None:
        """One more name."""
        count, names = self.found.get(str(why), (0, []))
        named = repr(path if len(path) <= _NAME_CHARACTERS else f"…{path[-_NAME_CHARACTERS:]}")
        self.found[str(why)] = count + 1, [*names, named][:_EXAMPLES]

    def records(self) -> list[dict[str, str | int]]:
        """A row a reason, with the names escaped and shortened."""
        return [
            {"reason": why, "names": count, "such as": ", ".join(names)}
            for why, (count, names) in sorted(self.found.items())
        ]

    def __str__(self) -> str:
        said = [f"{row['names']} {row['reason']} ({row['such as']})" for row in self.records()]
        return f"; ignored: {', '.join(said)}" if said else ""


class Source(Protocol):
    """Where a dataset's rows come from."""

    def files(
        self, since: str | None = None, ignored: Ignored | None = None, /
    ) -> list[LandingFile]:
        """What has landed, by partition and path.

        Args:
            since: The first partition that is looked for; where rows say which partitions they
                are of, it is not heeded.
            ignored: Takes what is passed over among the names that were looked at.

        Raises:
            LandingError: It cannot be listed now.
        """

    def read(self, file: LandingFile, /) -> RawFile:
        """The rows of one file; what cannot be read as rows is refused and not raised.

        Raises:
            LandingError: Nothing can be read from there now.
        """


@dataclass(frozen=True)
class Names:
    """How the landing files of a dataset are named.

    Args:
        spec: The dataset.
    """

    spec: DatasetSpec

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The pattern of each folder, and of the file."""
        return self.spec.pattern.parts

    @cached_property
    def _form(self) -> re.Pattern[str]:
        period = self.spec.partition.period
        key = period.form if period else "[^/]+"
        return re.compile(as_regex(str(self.spec.pattern), f"(?P<key>{key})", "(?P=key)"))

    def least(self, part: str, since: str | None) -> str:
        """What the names of a part do not come before, where a partition is the first looked for.

        Keys of times are as long as each other, so names are in the order of their keys.
        """
        before, placeholder, _ = part.partition("{partition}")
        return before + since if placeholder and since and "*" not in before else ""

    def partition(self, path: str) -> str | None:
        """The partition of a file by its path; None where its rows are to say.

        Raises:
            PassedOverError: It is none of the dataset's files.
        """
        check_finished(path)
        named, spec = self._form.fullmatch(path), self.spec.partition
        if named is None:
            example = spec.period.example if spec.period else "{partition}"
            like = str(self.spec.pattern).replace("{partition}", example)
            raise PassedOverError(f"not named like {like}")
        if self.spec.is_split:
            return None
        key = named.groupdict().get("key", ALL)
        if not spec.is_key(key):
            outside = spec.period is not None and spec.period.begins(key) is not None
            raise PassedOverError(
                f"before {spec.start} or after {spec.end}" if outside else "of no partition"
            )
        return key

    def pass_over(self, path: str, why: PassedOverError, ignored: Ignored | None) -> None:
        """Note a name; not where all datasets may deliver and it may be another's."""
        if ignored is not None and (len(self.parts) > 1 or self._form.fullmatch(path)):
            ignored.add(path, why)


def check_finished(path: str) -> None:
    """Refuse hidden names and those of files that are still being written.

    Raises:
        PassedOverError: It, or a folder that it is in, is one.
    """
    for name in path.split("/"):
        if name.startswith("."):
            raise PassedOverError("hidden")
        if name.endswith(_UNFINISHED):
            raise PassedOverError("unfinished")


def parsed(file: LandingFile, content: bytes, spec: DatasetSpec) -> RawFile:
    """The rows of what was read."""
    digest = sha256(content).hexdigest()
    try:
        rows, extra = READERS[spec.format](content, spec)
    except RefusedFileError as error:
        return refused(file, str(error), digest)
    return RawFile(file.path, file.partition or "", digest, rows, file=file, extra=extra)


def refused(file: LandingFile, why: str, digest: str = "") -> RawFile:
    """A file that could not be read."""
    rows = pl.DataFrame(schema={LINE: pl.Int64, BROKEN: pl.String})
    return RawFile(file.path, file.partition or "", digest, rows, why, file=file)


def too_large(size_bytes: int, spec: DatasetSpec) -> str | None:
    """Why a file is not read at all, if it has too many bytes."""
    limit = spec.read.max_bytes
    if size_bytes <= limit:
        return None
    return f"it has {size_bytes:,} bytes; read.max_bytes is {limit:,}"


def as_regex(pattern: str, key: str, repeated: str | None = None) -> str:
    """A landing pattern as a regular expression, its first `{partition}` as `key`."""
    escaped = re.escape(pattern).replace(r"\*", "[^/]*")
    placeholder = re.escape("{partition}")
    return escaped.replace(placeholder, key, 1).replace(placeholder, repeated or key)
