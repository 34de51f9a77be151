"""Choose the files that hold the requested partitions, and read them in batches of bounded size.

A partition is always read whole, from all files that hold rows of it, so that the outcome does not
depend on what else is read at once. Not here: judging and committing.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
from polars.exceptions import PanicException

from retrain_assets.domain.data import row_checks
from retrain_assets.domain.data.arrivals import find_future, find_strays
from retrain_assets.domain.data.contract import UNPLACED, partitions_of, slices
from retrain_assets.domain.data.rules import PARTITION, dataset_schema
from retrain_assets.domain.data.values import counts_lines
from retrain_assets.domain.windows import group_batches, split_at_gaps
from retrain_assets.specs.base import duration, number_of
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.state import FILES, digest, landing_files
from retrain_assets.stores.landing.readers import shown
from retrain_assets.stores.landing.source import Ignored, LandingError, LandingFile, refused
from retrain_assets.stores.storage import Storage
from retrain_assets.stores.tables.data_files import Spill

_MANY, _MOST_WAITING = 2**31, 20  # rows that are not few; waiting partitions that are recorded
Batch = tuple[tuple[row_checks.RawRows, ...], float]

Share = tuple[Sequence[Sequence[LandingFile]], int]  # files by partition; bytes of all shares

BATCH_BYTES, BYTES_A_VALUE = 32 * 2**20, 16
DENSITY = 8  # files on disk take so many times less
MAX_FILES = 500  # of one range, or of those looked into that hold many partitions
LOOK_BACK = 60  # partitions with files that each listing looks at


@dataclass(frozen=True)
class Intake:
    """The files of one dataset, and the records of what was read.

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
        files = self.storage.source(self.spec).files(self.since, ignored)
        if self.spec.is_split:
            return files, ignored
        future = find_future({file.partition or "" for file in files}, (), self.spec, self._now)
        for file in files:
            if file.partition in future:
                ignored.add(file.path, "of a partition that begins in the future")
        return [file for file in files if file.partition not in future], ignored

    @property
    def _now(self) -> datetime | None:
        """Return the time in the time zone of the partitions, without offset."""
        if self.now_ns is None:
            return None
        zone = ZoneInfo(self.spec.partition.timezone)
        return datetime.fromtimestamp(self.now_ns / 1e9, zone).replace(tzinfo=None)

    @cached_property
    def accepted(self) -> dict[str, int]:
        """Return the accepted rows of each stored partition."""
        stored = self.recorded.filter(pl.col("refusal").is_null(), pl.col("accepted") > 0)
        placed = stored.filter(~pl.col(PARTITION).str.starts_with(UNPLACED))
        return dict(placed.group_by(PARTITION).agg(pl.col("accepted").sum()).iter_rows())

    def find_strays(self, rows: Mapping[str, int], path: str = "") -> dict[str, str]:
        """Return the partitions of a delivery that wait, and why, by their rows.

        Args:
            rows: Rows of each partition.
            path: The file that has them; none if each partition has files of its own.
        """
        future = find_future(rows.keys(), self.accepted, self.spec, self._now)
        present = {key: count for key, count in rows.items() if key not in future}
        others = [keys for file, keys in self._waiting.items() if file != path]
        waiting = set().union(*others) - rows.keys()
        earlier = self._waiting.get(path, ())
        return future | find_strays(present, self.accepted, self.spec, waiting, earlier)

    @cached_property
    def _waiting(self) -> dict[str, set[str]]:
        """Return the partitions of each file that wait."""
        waiting: dict[str, set[str]] = defaultdict(set)
        for path, stamp in self.recorded.select("file", "stamp").unique().iter_rows():
            names = "".join(stamp.split(" ")[2:]).split(",")
            waiting[path] |= {name.removesuffix("+") for name in names if name}
        return {path: names for path, names in waiting.items() if names}

    @cached_property
    def _contract(self) -> str:
        """Return a digest of the spec, with which a refused file is read again once it changes."""
        others = {"owners", "notify", "expected"}
        return digest(self.spec.model_dump_json(exclude=others))

    def mark_to_reread(self, stamp: str, waiting: Iterable[str]) -> str:
        """Return the stamp of a file that is read again when the spec or its neighbours change."""
        names, half = sorted(waiting), _MOST_WAITING // 2
        ends = names if len(names) <= _MOST_WAITING else [*names[:half], *names[-half:]]
        return f"{stamp} {self._contract} {','.join(ends)}"

    def _is_current(self, file: LandingFile, stamp: str) -> bool:
        """Tell if a file was read in its present state, and would be refused once more."""
        earlier, _, rest = stamp.partition(" ")
        contract, _, waiting = rest.partition(" ")
        if earlier != file.stamp or contract not in ("", self._contract):
            return False
        names = waiting.split(",")
        keys = {name.removesuffix("+"): _MANY * name.endswith("+") for name in names}
        return not waiting or self.find_strays(keys, file.path).keys() == keys.keys()

    @cached_property
    def files(self) -> list[LandingFile]:
        """Return all files except new ones that may still be written."""
        read = set(self._read["file"])
        return [file for file in self._listed[0] if file.path in read or self._is_settled(file)]

    @cached_property
    def ignored(self) -> Ignored:
        """Return names that are no files of the dataset, and files that may still be written."""
        _, ignored = self._listed
        for file in self.unread:
            if not self._is_settled(file):
                ignored.add(file.path, "may still be written")
        return ignored

    @cached_property
    def recorded(self) -> pl.DataFrame:
        """Return what became of each file, a row a file and partition."""
        return landing_files(self.storage.tables, self.spec.name)

    @cached_property
    def _read(self) -> pl.DataFrame:
        """Return partition, path, stamp and refusal of read files, of the listed partitions."""
        tables, table = self.storage.tables, f"{self.spec.name}/files"
        rows = tables.scan(table, FILES).select(PARTITION, "file", "stamp", "refusal")
        if self.spec.is_split:
            rows = rows.filter(pl.col(PARTITION).str.starts_with(UNPLACED))
        elif self.since:
            rows = rows.filter(pl.col(PARTITION) >= self.since)
        return tables.collect(rows, table)

    @cached_property
    def unread(self) -> list[LandingFile]:
        """Return the files that were never read in their present state."""
        stamps = defaultdict(list)
        for path, stamp in self._read.select("file", "stamp").iter_rows():
            stamps[path].append(stamp)
        return [
            file
            for file in self._listed[0]
            if not any(self._is_current(file, stamp) for stamp in stamps[file.path])
        ]

    @property
    def refused_files(self) -> int:
        """Return how many of the listed files were refused as a whole."""
        listed = {file.path for file in self._listed[0]}
        return len(listed.intersection(self._read.drop_nulls("refusal")["file"]))

    @cached_property
    def settled(self) -> list[LandingFile]:
        """Return the unread files that have been unchanged for `read.settle`."""
        return [file for file in self.unread if self._is_settled(file)]

    @property
    def next_since(self) -> str | None:
        """Return where the next listing may start; None where it must list everything.

        No unread file is before it, and `LOOK_BACK` partitions are after it.
        """
        spec, landed = self.spec, self._landed
        if spec.is_split or spec.partition.period is None or not landed:
            return None
        return min([landed[-LOOK_BACK:][0], *(file.partition or "" for file in self.unread)])

    def ranges(
        self, separate: Collection[tuple[str, str]] = ()
    ) -> Iterator[tuple[Sequence[str], list[LandingFile]]]:
        """Yield what to read next, where file names hold partitions.

        Args:
            separate: First and last partition of ranges that are read alone, since they failed.

        Yields:
            Landed partitions that follow each other, are all to be read, and have at most
            `MAX_FILES` files (or are a single one), in order; and which of their files are new.
        """
        new, sizes = defaultdict(list), Counter(file.partition for file in self.files)
        for file in self._fresh:
            new[file.partition].append(file)
        settled = {key for key, files in new.items() if all(map(self._is_settled, files))}

        def group(key: str) -> tuple[bool, tuple[str, str] | None]:
            return key in settled, next(
                (pair for pair in separate if pair[0] <= key <= pair[1]), None
            )

        for (is_settled, _), stretch in groupby(self._landed, group):
            for part in split_at_gaps(list(stretch), self.spec.partition) if is_settled else ():
                for keys in group_batches(((sizes[key], [key]) for key in part), MAX_FILES):
                    yield keys, [file for key in keys for file in new[key]]

    def forget_refusals(self) -> list[Sequence[str]]:
        """Record each refused file as unread, and forget those that were deleted.

        Returns:
            The ranges of partitions whose runs read these files again; none if none is refused.
            A range is empty if no partition of a file is known.
        """
        is_refused = pl.col("refusal").is_not_null()
        paths = set(self.recorded.filter(is_refused)["file"])
        present = [file for file in self.files if file.path in paths]
        is_gone = is_refused & ~pl.col("file").is_in([file.path for file in present])
        keys = set(self.recorded.filter(is_refused & ~is_gone)[PARTITION])
        # A file of many partitions counts as read by its record without a partition.
        is_hit = pl.col("file").is_in(list(paths))
        touched = set(self.recorded.filter(is_hit)[PARTITION])
        stamp = pl.when(is_hit).then(pl.lit("")).otherwise("stamp").alias("stamp")
        is_touched = pl.col(PARTITION).is_in(list(touched))
        rows = self.recorded.filter(is_touched & ~is_gone).with_columns(stamp)
        commit = {"action": "forget refusals"}
        if touched:
            self.storage.tables.replace(f"{self.spec.name}/files", rows, touched, commit)
        if not present:
            return []
        if not self.spec.is_split:
            stretches = groupby(self._landed, keys.__contains__)
            return [list(stretch) for has_refusal, stretch in stretches if has_refusal]
        placed = {key for key in keys if not key.startswith(UNPLACED)}
        placed |= self.keys(present)
        return split_at_gaps(sorted(placed), self.spec.partition)

    @cached_property
    def _fresh(self) -> list[LandingFile]:
        """Return the unread files that are read now if their partitions are requested."""
        files = set(self.files)
        return [file for file in self.unread if file in files]

    @cached_property
    def _landed(self) -> list[str]:
        """Return the listed partitions with a file, present or recorded."""
        return sorted({*(file.partition or "" for file in self.files), *self._read[PARTITION]})

    def _is_settled(self, file: LandingFile) -> bool:
        settle: timedelta = duration(self.spec.read.settle)
        # What is pulled stands there as a whole or not at all.
        is_whole = self.now_ns is None or self.spec.is_pulled
        return is_whole or file.is_settled(settle, self.now_ns or 0)

    def keys(self, files: Collection[LandingFile]) -> set[str]:
        """Return the partitions that files hold; of small files, those that have changed.

        A file that cannot be read has none.
        """
        column = self.spec.partition.column
        if not self.spec.is_split or column is None:
            return {file.partition for file in files if file.partition is not None}
        if _packed(files) <= BATCH_BYTES:
            parts = [part for part in self._cut(files) if not _is_unplaced(part)]
            return {part.partition for part in parts if self._has_changed(part)}
        only = {column: self.spec.columns[column]}
        narrow = self.spec.model_copy(update={"columns": only})
        spec = narrow if narrow.file_columns else self.spec
        keys: set[str] = set()
        for file in files:
            # A file that cannot be read has no partitions here; the run refuses it.
            with suppress(Exception, PanicException):
                raw = self._read_file(file, spec)
                if raw.refusal is None:
                    present = partitions_of(raw, spec).drop_nulls()
                    counts = dict(present.value_counts().iter_rows())
                    keys |= counts.keys() - self.find_strays(counts, file.path)
        return keys

    def batches(self, requested: set[str]) -> Iterator[Batch]:
        """Read all files of the requested partitions.

        Of the partitions in unread files, only those whose rows have changed are read.

        Yields:
            All files or slices of some partitions, and their share of all the work, so that a
            sample can be spread over it.
        """
        if self.spec.is_split:
            yield from self._slices(requested)
        else:
            for share in self.shares(requested):
                yield from self.read_share(share)

    def shares(self, requested: set[str]) -> Iterator[Share]:
        """Yield files of requested partitions whose names hold these, in shares of bounded size."""
        by_partition = defaultdict(list)
        for file in self.files:
            if file.partition in requested:
                by_partition[file.partition].append(file)
        total = sum(map(_packed, by_partition.values()))
        sized = ((_packed(files), [files]) for files in by_partition.values())
        for groups in group_batches(sized, BATCH_BYTES // DENSITY):
            yield groups, total

    def read_share(self, share: Share) -> Iterator[Batch]:
        """Read the files of a share."""
        groups, total = share
        # Read one by one, because the bytes on disk do not tell how many rows a file has.
        read = ([self._read_file(file) for file in files] for files in groups)
        current = (row_checks.keep_newest(part, self.spec) for part in read)
        sized = ((max(_unpacked(part), _packed(part)), part) for part in current)
        for raw in group_batches(sized, BATCH_BYTES):
            yield (*raw, *self._missing(raw)), _packed(raw) / total if total else 1.0

    def _slices(self, requested: set[str]) -> Iterator[Batch]:
        """Yield slices of unread files, and of the files that hold rows of the same partitions."""
        unread = self._fresh[:MAX_FILES]
        fresh = self._cut(unread)
        changed = {part.partition for part in fresh if self._has_changed(part)} & requested
        is_rerun = requested.isdisjoint(part.partition for part in fresh)
        keys = requested if is_rerun else changed
        paths = set(self.recorded.filter(pl.col(PARTITION).is_in(list(keys)))["file"])
        paths -= {file.path for file in unread}
        older = self._cut([file for file in self.files if file.path in paths])
        parts = [part for part in [*fresh, *older] if part.partition in keys]
        # A file stays unread until all of its partitions that changed were requested.
        missed = [part for part in fresh if part.partition not in requested]
        partial = {p.path for p in missed if not _is_unplaced(p) and self._has_changed(p)}
        marks = [part for part in fresh if _is_unplaced(part) and part.path not in partial]
        by_partition = defaultdict(list)
        for part in [*parts, *self._missing(parts), *marks]:
            by_partition[part.partition].append(part)
        groups = [row_checks.keep_newest(group, self.spec) for group in by_partition.values()]
        total = sum(part.rows.height for group in groups for part in group)
        sized = ((_unpacked(group), group) for group in groups)
        for raw in group_batches(sized, BATCH_BYTES):
            yield raw, sum(part.rows.height for part in raw) / (total or 1)

    def _read_file(self, file: LandingFile, spec: DatasetSpec | None = None) -> row_checks.RawRows:
        """Read a file; whatever error it causes refuses this file and no other."""
        try:
            return self.storage.source(spec or self.spec).read(file)
        except LandingError:
            raise
        except (Exception, PanicException) as error:  # noqa: BLE001 a panic is no Exception
            return refused(file, f"it cannot be read: {shown(str(error))}")

    def _cut(self, files: Iterable[LandingFile]) -> list[row_checks.RawRows]:
        parts, rows = list[row_checks.RawRows](), 0
        for file in files:
            raw = self._read_file(file)
            try:
                if why := self._explain_renumbering(raw):
                    raw = refused(file, why)
                rows += raw.rows.height
                keep = Spill if rows > row_checks.rows_at_once(self.spec) else None
                find = partial(self.find_strays, path=raw.path)
                parts += slices(raw, self.spec, find, keep)
            except (Exception, PanicException) as error:  # noqa: BLE001 as above
                reason = f"its rows cannot be assigned to partitions: {shown(str(error))}"
                parts += slices(refused(file, reason), self.spec)
        return parts

    def _explain_renumbering(self, raw: row_checks.RawRows) -> str | None:
        """Return why the rows of a file would get the partitions of others that are stored.

        Where partitions count lines, the first line of each file is line 1, so that there can be
        one file, and it can only grow.
        """
        if raw.refusal is not None or not counts_lines(self.spec):
            return None
        stored = {path for _, path in self._stored}
        paths = [file.path for file in self._listed[0]]
        counted = next((path for path in paths if path in stored), paths[0])
        advice = "append new rows to the one file, or give them a column that tells their partition"
        if raw.path != counted:
            return f"its lines are counted from 1 again, as those of {counted}: {advice}"
        placed = (row for (key, _), row in self._stored.items() if not key.startswith(UNPLACED))
        if (before := sum(row["rows_read"] for row in placed)) > raw.rows.height:
            return f"it has {number_of(raw.rows.height, 'row')}, {before:,} are stored: {advice}"
        return None

    def _has_changed(self, part: row_checks.RawRows) -> bool:
        """Tell if rows differ from the stored ones, or quarantined rows may have moved lines."""
        earlier = self._stored.get(part.slice)
        return earlier is None or earlier["sha256"] != part.sha256 or earlier["quarantined"] > 0

    @cached_property
    def _stored(self) -> dict[row_checks.Slice, dict[str, Any]]:
        """Return the records of files whose rows are in the tables, by partition and path."""
        stored = self.recorded.filter(pl.col("refusal").is_null(), pl.col("rows_read") > 0)
        return {(row[PARTITION], row["file"]): row for row in stored.iter_rows(named=True)}

    def _missing(self, raw: Sequence[row_checks.RawRows]) -> list[row_checks.RawRows]:
        """Return refusals of files whose rows of the same partitions are in no file now."""
        keys, present = {part.partition for part in raw}, {part.slice for part in raw}
        gone = {key for key, path in self._stored.keys() - present if key in keys}
        keys = {key for key in gone if not self._has_all_rows(key, raw)}
        return [
            refused(
                LandingFile(path, key, 0, ""),
                f"it held {number_of(row['rows_read'], 'row')} of this partition and holds none "
                "now: restore it",
            )
            for (key, path), row in self._stored.items()
            if key in keys and (key, path) not in present and not key.startswith(UNPLACED)
        ]

    def _has_all_rows(self, key: str, raw: Sequence[row_checks.RawRows]) -> bool:
        """Tell if each stored row of a partition is still delivered, in whatever file."""
        columns, table = self.spec.key, f"{self.spec.name}/dataset"
        parts = [part for part in raw if part.partition == key]
        readable = [part for part in parts if row_checks.reason_to_refuse(part, self.spec) is None]
        rows = self.storage.tables.scan(table, dataset_schema(self.spec))
        stored = rows.filter(pl.col(PARTITION) == key).select(columns)
        with suppress(Exception, PanicException):
            chunks = row_checks.typed(readable, self.spec)
            present = pl.concat(rows.lazy().select(columns) for rows in chunks)
            lost = stored.join(present, on=columns, how="anti", nulls_equal=True)
            return self.storage.tables.collect(lost, table).is_empty()
        return False


def _is_unplaced(part: row_checks.RawRows) -> bool:
    return part.partition.startswith(UNPLACED)


def _packed(parts: Iterable[LandingFile | row_checks.RawRows]) -> int:
    return sum(part.size_bytes for part in parts)


def _unpacked(raw: Iterable[row_checks.RawRows]) -> int:
    return sum(part.rows.height * len(part.rows.schema) * BYTES_A_VALUE for part in raw)
