"""What is to be read: which files hold the partitions asked for, in batches of bounded size.

A partition is always read whole, from all files that hold rows of it, so that the outcome does not
depend on what else is read at once. Not here: judging and committing.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from itertools import groupby
from typing import Any

import polars as pl

from retrain_assets.domain.data.contract import UNPLACED, partition_keys, slices
from retrain_assets.domain.data.row_checks import typed
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.windows import batched
from retrain_assets.specs.base import duration
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.state import FILES, landing_files
from retrain_assets.stores.landing.source import Ignored, LandingFile, RawFile, refused
from retrain_assets.stores.storage import Storage

Batch = tuple[tuple[RawFile, ...], float]

BATCH_BYTES, BYTES_A_VALUE = 32 * 2**20, 16
MAX_FILES = 500  # of one range, or of those looked into that hold many partitions
LOOK_BACK = 60  # partitions with files that each listing looks at


@dataclass(frozen=True)
class Intake:
    """The files of one dataset beside what is recorded of them.

    Args:
        storage: Where files and tables are.
        spec: The dataset.
        since: First partition that is looked at, where file names hold partitions; all by default.
        now_ns: The time, in nanoseconds since 1970; by default nothing may still be written.
    """

    storage: Storage
    spec: DatasetSpec
    since: str | None = None
    now_ns: int | None = None

    @cached_property
    def _listed(self) -> tuple[list[LandingFile], Ignored]:
        ignored = Ignored()
        return self.storage.source(self.spec).files(self.since, ignored), ignored

    @cached_property
    def files(self) -> list[LandingFile]:
        """All that has landed; a new file that may still be written has not."""
        known = set(self._known["file"])
        return [file for file in self._listed[0] if file.path in known or self._is_settled(file)]

    @cached_property
    def ignored(self) -> Ignored:
        """Names that are no files of the dataset, and unread files that may still be written."""
        _, ignored = self._listed
        for file in self.unread:
            if not self._is_settled(file):
                ignored.add(file.path, "may still be written")
        return ignored

    @cached_property
    def recorded(self) -> pl.DataFrame:
        """What became of each file, a row a file and partition."""
        return landing_files(self.storage.tables, self.spec.name)

    @cached_property
    def _known(self) -> pl.DataFrame:
        """Partition, path and stamp of what was read, of the partitions that are looked at."""
        tables, table = self.storage.tables, f"{self.spec.name}/files"
        rows = tables.scan(table, FILES).select(PARTITION, "file", "stamp")
        if self.spec.is_split:
            rows = rows.filter(pl.col(PARTITION).str.starts_with(UNPLACED))
        elif self.since:
            rows = rows.filter(pl.col(PARTITION) >= self.since)
        return tables.collect(rows, table)

    @cached_property
    def unread(self) -> list[LandingFile]:
        """Files that were never read as they are now."""
        read = set(self._known.select("file", "stamp").iter_rows())
        return [file for file in self._listed[0] if (file.path, file.stamp) not in read]

    @cached_property
    def settled(self) -> list[LandingFile]:
        """Unread files that have not changed for `read.settle`."""
        return [file for file in self.unread if self._is_settled(file)]

    @property
    def next_since(self) -> str | None:
        """What the next listing may start from; None where it has to look at everything.

        Nothing unread is before it, and `LOOK_BACK` partitions are not.
        """
        spec, landed = self.spec, self._landed
        if spec.is_split or spec.partition.period is None or not landed:
            return None
        return min([landed[-LOOK_BACK:][0], *(file.partition or "" for file in self.unread)])

    def ranges(
        self, apart: Collection[tuple[str, str]] = ()
    ) -> Iterator[tuple[Sequence[str], list[LandingFile]]]:
        """What to read next, where file names hold partitions.

        Args:
            apart: First and last partition of ranges that keep to themselves: those that failed.

        Yields:
            Landed partitions that follow each other, are all to be read, and have at most
            `MAX_FILES` files (or are a single one), in order; and which of their files are new.
        """
        new, held = defaultdict(list), Counter(file.partition for file in self.files)
        for file in self._fresh:
            new[file.partition].append(file)
        wanted = {key for key, files in new.items() if all(map(self._is_settled, files))}

        def group(key: str) -> tuple[bool, tuple[str, str] | None]:
            return key in wanted, next((pair for pair in apart if pair[0] <= key <= pair[1]), None)

        for (is_wanted, _), stretch in groupby(self._landed, group):
            if is_wanted:
                for keys in batched(((held[key], [key]) for key in stretch), MAX_FILES):
                    yield keys, [file for key in keys for file in new[key]]

    @cached_property
    def _fresh(self) -> list[LandingFile]:
        """Unread files that are read now if their partitions are asked for."""
        there = set(self.files)
        return [file for file in self.unread if file in there]

    @cached_property
    def _landed(self) -> list[str]:
        """Partitions with a file, there or recorded, of those that are looked at."""
        return sorted({*(file.partition or "" for file in self.files), *self._known[PARTITION]})

    def _is_settled(self, file: LandingFile) -> bool:
        settle: timedelta = duration(self.spec.read.settle)
        return self.now_ns is None or file.is_settled(settle, self.now_ns)

    def keys(self, files: Iterable[LandingFile]) -> set[str]:
        """The partitions that files hold; of one that cannot be read, none."""
        named = {file.partition for file in files if file.partition is not None}
        column = self.spec.partition.column
        if not self.spec.is_split or column is None:
            return named
        only = {column: self.spec.columns[column]}
        narrow = self.spec.model_copy(update={"columns": only})
        spec = narrow if narrow.file_columns else self.spec
        source = self.storage.source(spec)
        read = [raw for file in files if (raw := source.read(file)).refusal is None]
        typed_rows = (typed([raw], spec) for raw in read)
        return {key for rows in typed_rows for key in partition_keys(rows, spec).drop_nulls()}

    def batches(self, asked: set[str]) -> Iterator[Batch]:
        """Read what holds the partitions asked for, all of their files.

        Of those that unread files hold, only partitions whose rows have changed.

        Yields:
            All files or slices of some partitions, and their share of all the work, so that a
            sample can be spread over it.
        """
        return self._slices(asked) if self.spec.is_split else self._whole_files(asked)

    def _whole_files(self, asked: set[str]) -> Iterator[Batch]:
        source = self.storage.source(self.spec)
        by_partition = defaultdict(list)
        for file in self.files:
            if file.partition in asked:
                by_partition[file.partition].append(file)
        total = sum(file.size_bytes for files in by_partition.values() for file in files)
        # Read as they are asked for: bytes on disk do not tell what a file holds.
        read = ([source.read(file) for file in files] for files in by_partition.values())
        sized = ((max(_unpacked(part), _packed(part)), part) for part in read)
        for raw in batched(sized, BATCH_BYTES):
            yield (*raw, *self._gone(raw)), _packed(raw) / total if total else 1.0

    def _slices(self, asked: set[str]) -> Iterator[Batch]:
        """Slices of unread files, and of those that hold the same partitions."""
        looked_into = self._fresh[:MAX_FILES]
        fresh = self._cut(looked_into)
        changed = {one.partition for one in fresh if self._has_changed(one)} & asked
        wanted = asked if asked.isdisjoint(one.partition for one in fresh) else changed
        held = set(self.recorded.filter(pl.col(PARTITION).is_in(list(wanted)))["file"])
        held -= {file.path for file in looked_into}
        others = [file for file in self.files if file.path in held]
        found = [*fresh, *self._cut(others)]
        chosen = [one for one in found if one.partition in wanted]
        # A file of which not all was asked for stays unread.
        partly = {one.path for one in fresh if not _is_unplaced(one) and one.partition not in asked}
        marks = [one for one in fresh if _is_unplaced(one) and one.path not in partly]
        by_partition = defaultdict(list)
        for one in [*chosen, *self._gone(chosen), *marks]:
            by_partition[one.partition].append(one)
        total = sum(one.rows.height for part in by_partition.values() for one in part)
        sized = ((_unpacked(part), part) for part in by_partition.values())
        for raw in batched(sized, BATCH_BYTES):
            yield raw, sum(one.rows.height for one in raw) / (total or 1)

    def _cut(self, files: Iterable[LandingFile]) -> list[RawFile]:
        source = self.storage.source(self.spec)
        return [one for file in files for one in slices(source.read(file), self.spec)]

    def _has_changed(self, one: RawFile) -> bool:
        """Whether rows differ from those that stand, or moved lines of those in quarantine."""
        earlier = self._standing.get((one.partition, one.path))
        return earlier is None or earlier["sha256"] != one.sha256 or earlier["quarantined"] > 0

    @cached_property
    def _standing(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Records of files whose rows stand in the tables, by partition and path."""
        standing = self.recorded.filter(pl.col("refusal").is_null(), pl.col("rows_read") > 0)
        return {(row[PARTITION], row["file"]): row for row in standing.iter_rows(named=True)}

    def _gone(self, raw: Sequence[RawFile]) -> list[RawFile]:
        """Refusals of files that held rows of the same partitions, and hold none now."""
        keys, there = {one.partition for one in raw}, {(one.partition, one.path) for one in raw}
        return [
            refused(
                LandingFile(path, key, 0, ""),
                f"it held {row['rows_read']} rows of this partition and holds none now: restore it",
            )
            for (key, path), row in self._standing.items()
            if key in keys and (key, path) not in there and not key.startswith(UNPLACED)
        ]


def _is_unplaced(one: RawFile) -> bool:
    return one.partition.startswith(UNPLACED)


def _packed(raw: Iterable[RawFile]) -> int:
    return sum(one.file.size_bytes for one in raw)


def _unpacked(raw: Iterable[RawFile]) -> int:
    return sum(one.rows.height * one.rows.width * BYTES_A_VALUE for one in raw)
