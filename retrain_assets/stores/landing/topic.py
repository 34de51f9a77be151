"""The landing files of a topic: each message a line, and each line in exactly one file.

A file is named `<topic>-<partition>-<first>-<last>.jsonl` after the offsets it covers, and where to
go on is read from these names alone: the one rename that lands messages also records that they have
landed. Offsets that hold no message (compacted, transaction markers) are covered as well. Not here:
where the messages come from, and reading the files.
"""

import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores import lease
from retrain_assets.stores.landing.source import LocalFiles, Source
from retrain_assets.stores.place import place_at

# 190 characters leave room for partition and offsets; a dot in front would hide the file.
_TOPIC = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,189}")
_BREAKS = re.compile("[\0\r\n]")


def file_name(topic: str, partition: int, first: int, last: int) -> str:
    """Return the name of the file that covers these offsets of a topic partition."""
    return f"{topic}-{partition}-{first:020}-{last:020}.jsonl"


def line_of(value: bytes | None) -> bytes:
    """Return a message as one line of a JSONL file.

    What would break the file, vanish from it, or mean something else on one line becomes a JSON
    string, which is no row: the reader keeps it as a broken line for quarantine to show.

    Args:
        value: The message's value; None is a tombstone.
    """
    if value is None:
        return b'"no value (tombstone)"\n'
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return b'"base64:' + b64encode(value) + b'"\n'
    if text.strip() and not text.startswith("\ufeff") and not _BREAKS.search(text):
        return value + b"\n"
    if _is_json(text):
        return _BREAKS.sub(" ", text).encode() + b"\n"
    return json.dumps(text).encode() + b"\n"


def _is_json(text: str) -> bool:
    """Tell if a text is JSON, whose line breaks all stand between values and never in a string."""
    try:
        json.loads(text, parse_int=str)
    except (ValueError, RecursionError):
        return False
    return True


@dataclass(frozen=True)
class TopicFiles:
    """The landing files of one topic.

    Args:
        root: The landing folder, or its URI in an object store.
        spec: The dataset; its files must be JSONL that may hold rows of many partitions.
        topic: Its name, which becomes part of file names.

    Raises:
        ValueError: The dataset's files are of another kind, or the name is no topic's.
    """

    root: Path | str
    spec: DatasetSpec
    topic: str

    def __post_init__(self) -> None:
        spec = self.spec
        if not (spec.is_split and spec.format == "jsonl" and spec.read.encoding == "utf-8"):
            raise ValueError(
                f"dataset {spec.name} lands {spec.landing or spec.table}: a topic needs UTF-8 "
                f"JSONL without {{partition}} in its name, such as {spec.name}/*.jsonl"
            )
        if _TOPIC.fullmatch(self.topic) is None:
            raise ValueError(
                f"topic {self.topic[:200]!r}: a name has 1 to 190 of A-Z, a-z, 0-9, '.', '_', '-' "
                "and no dot in front"
            )
        inside = ".." not in self.spec.pattern.parts
        if isinstance(self.root, Path):
            inside = self.folder.resolve().is_relative_to(self.root.resolve())
        if "*" in str(self.spec.pattern.parent) or not inside or spec.bucket:
            raise ValueError(f"{spec.landing}: its folder must be a single one below {self.root}")

    @property
    def folder(self) -> Path:
        """Return the folder of the files on this machine."""
        return Path(self.root) / self.spec.pattern.parent

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the topic for one writer; the lock ends with its process.

        Raises:
            RuntimeError: Another process is writing.
        """
        if not isinstance(self.root, Path):
            root = place_at(self.root.rpartition("/")[0])
            try:
                with lease.hold(root / f".{self.topic}.topic"):
                    yield
            except lease.HeldError as error:
                raise RuntimeError(
                    f"topic {self.topic} is being landed by another process: {error}; if that has "
                    f"died, run this again after {lease.SECONDS} seconds"
                ) from error
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.folder / f".{self.topic}.lock").acquire(blocking=False)
        except Timeout as error:
            raise RuntimeError(
                f"topic {self.topic} is being landed in {self.folder} by another process"
            ) from error
        with lock:
            yield

    def next_offsets(self) -> dict[int, int]:
        """Return the offset after the last one that has landed, by topic partition.

        Raises:
            ValueError: Between two files, which are named, there is a gap or an overlap.
        """
        pattern = rf"{re.escape(self.topic)}-(0|[1-9]\d*)-(\d{{20}})-(\d{{20}})\.jsonl"
        ends: dict[int, tuple[int, str]] = {}
        for file in self._source().files():
            match = re.fullmatch(pattern, PurePosixPath(file.path).name, re.ASCII)
            if match is None:
                continue
            partition, first, last = map(int, match.groups())
            start, before = ends.get(partition, (first, "nothing"))
            if first != start or last < first:
                raise ValueError(
                    f"{file.path} follows {before} and should start at offset {start}: "
                    "put the files back as they landed, so that none is missing or there twice"
                )
            ends[partition] = last + 1, file.path
        return {partition: offset for partition, (offset, _) in ends.items()}

    def write(self, partition: int, first: int, last: int, lines: bytes | bytearray) -> None:
        """Write the messages of some offsets as one file, all of them or none.

        Raises:
            ValueError: The dataset would not see the file.
        """
        name = file_name(self.topic, partition, first, last)
        if not re.fullmatch(re.escape(self.spec.pattern.name).replace(r"\*", ".*"), name):
            raise ValueError(
                f"dataset {self.spec.name} lands {self.spec.pattern}, which leaves out {name}: "
                f"write {self.spec.pattern.with_name('*.jsonl')}"
            )
        if not isinstance(self.root, Path):
            place_at(f"{self.root}/{self.spec.pattern.parent}").write(name, bytes(lines))
            return
        part = self.folder / f"{self.topic}-{partition}.jsonl.part"
        part.unlink(missing_ok=True)
        with part.open("xb") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        part.rename(self.folder / name)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _source(self) -> Source:
        if isinstance(self.root, Path):
            return LocalFiles(self.root, self.spec)
        from retrain_assets.stores.landing.objects import ObjectFiles

        return ObjectFiles(self.spec, self.root)
