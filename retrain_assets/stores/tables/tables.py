"""Delta tables: the one place where rows are read from and committed to storage.

A table's name is `<group>/<table>`. Each table has the column `_landing_partition`, which says
where a row came from and by which rows are replaced, so that a row with a null or foreign date can
be stored all the same. Not here: what the rows mean, and any decision on them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import random
from time import sleep, time_ns
from typing import Any, Final, NamedTuple
from uuid import uuid4

import polars as pl
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.specs.base import number_of
from retrain_assets.stores.place import Place, PlaceError, Stored, describe_error, place_at
from retrain_assets.stores.tables import data_files, log
from retrain_assets.stores.tables.types import joint_types

Schema = Mapping[str, pl.DataType | type[pl.DataType]]
ATTEMPTS = 10
PAUSE_SECONDS = 0.01  # at most, with a power of two for each attempt that failed
WIDENED = "widened"  # in a commit: the columns that were given a wider type
NOW: Final = -1
SECOND = 10**9  # in nanoseconds
_KEPT = 256  # opened tables: to open one takes 3 ms of CPU time, and 15 ms in an object store
_OPENED: dict[str, Any] = {}  # those in folders; a bucket keeps its own
_TOKEN = "token"  # noqa: S105 the key of a commit that names the call of `_commit`


class StorageError(RuntimeError):
    """A table cannot be read or committed to; the message names it and what would do."""


class StaleTableError(StorageError):
    """The table has moved on since the version that the caller decided on."""


class Description(NamedTuple):
    """A table as it is now.

    Args:
        version: The newest version.
        changed: When that was committed.
        rows: How many rows it has.
        schema: Its columns and their types.
        widened: The columns that the newest commit gave a wider type, in words.
    """

    version: int
    changed: datetime
    rows: int
    schema: pl.Schema
    widened: str = ""


@dataclass(frozen=True)
class Tables:
    """All Delta tables below one root.

    Args:
        root: Folder or object-store URI, with no slash at its end.
    """

    root: str

    def uri(self, table: str) -> str:
        """Return where a table is stored."""
        return f"{self.root}/{table}"

    def place(self, table: str) -> Place:
        """Return the place of a table."""
        return place_at(self.uri(table))

    def names(self, *groups: str) -> list[str]:
        """Return the names of all tables, or of those of some groups."""
        root = place_at(self.root)
        return [
            f"{group}/{table}"
            for group in groups or root.folders()
            for table in (root / group).folders()
            if log.LOG in (root / group / table).folders()
        ]

    def version(self, table: str) -> int | None:
        """Return the newest version of a table; None if it was never written."""
        return _version(self._open(table))

    def identity(self, table: str) -> tuple[str, int] | None:
        """Return what tells the newest content of a table from all others, also of one deleted."""
        opened = self._open(table)
        return None if opened is None else (str(opened.metadata().id), opened.version())

    def stamp(self, *groups: str) -> tuple[object, ...] | None:
        """Return what differs after any commit to a table of some groups, without opening one.

        None if it cannot be told so: in an object store, and within a second after a commit, since
        the time of a folder is coarse.
        """
        if not self.place(groups[0]).is_local:
            return None
        logs = [path for group in groups for path in Path(self.root, group).glob(f"*/{log.LOG}")]
        stamps = sorted((str(path), path.stat().st_mtime_ns) for path in logs)
        newest = max((changed for _, changed in stamps), default=0)
        return None if newest > time_ns() - SECOND else tuple(stamps)

    def describe(self, table: str) -> Description | None:
        """Return what the log says of a table as it is now; None if it was never written."""
        opened = self._open(table)
        if opened is None:
            return None
        newest, schema = opened.history(1)[0], pl.scan_delta(opened).collect_schema()
        changed = datetime.fromtimestamp(newest["timestamp"] / 1000, UTC)
        widened = newest.get(WIDENED, "")
        return Description(opened.version(), changed, opened.count(), schema, widened)

    def list_commits(self, table: str) -> list[dict[str, Any]]:
        """Return the headers of the stored commits, newest first, with the notes of each."""
        return log.commits_after(self._open(table), None)

    def scan(
        self, table: str, schema: Schema | None = None, version: int | None = None
    ) -> pl.LazyFrame:
        """Read a table lazily; `collect` the result.

        Args:
            table: `<group>/<table>`.
            schema: The columns if it was never written; without it, that is an error.
            version: An earlier version; the newest by default.

        Raises:
            StorageError: The table or version does not exist.
        """
        opened = self._open(table, version)
        if opened is None:
            if schema is None:
                raise StorageError(f"table {table} was never written: materialize it first")
            return pl.LazyFrame(schema=dict(schema))
        return pl.scan_delta(opened)

    def collect(self, rows: pl.LazyFrame, table: str, version: int | None = None) -> pl.DataFrame:
        """Execute a query on a scan.

        Args:
            rows: The query.
            table: The scanned table, for messages.
            version: The version that was scanned.

        Raises:
            StorageError: A data file is damaged; the message names it and the partitions it holds.
        """
        try:
            return rows.collect()
        except data_files.FAILURES as error:
            damage = self._unreadable_file(table, self._open(table, version))
            raise StorageError(f"table {table}: {damage or log.short(error)}") from error

    def read(
        self,
        table: str,
        partitions: Iterable[str],
        schema: Schema | None = None,
        version: int | None = None,
    ) -> pl.DataFrame:
        """Return the rows of some partitions; a damaged data file is an error, never other rows."""
        keys = list(partitions)
        self.verify(table, keys, version)
        rows = self.scan(table, schema, version).filter(pl.col(PARTITION).is_in(keys))
        return self.collect(rows, table, version)

    def verify(
        self, table: str, partitions: Sequence[str] | None = None, version: int | None = None
    ) -> None:
        """Compare the data files of some partitions, or of all, with their digests.

        Raises:
            StorageError: A file is not what was written; the message names it and its partitions.
        """
        place, opened = self.place(table), self._open(table, version)
        damage = data_files.changed_file(place, opened, PARTITION, partitions)
        if damage:
            raise StorageError(f"table {table}: {damage}; {log.REPAIR}")

    def replace(
        self,
        table: str,
        rows: pl.DataFrame | pl.LazyFrame,
        partitions: Iterable[str],
        commit: Mapping[str, str],
        key: str = PARTITION,
        base: int | None = NOW,
        *,
        mixed: bool = False,
    ) -> int:
        """Replace whole partitions in one atomic commit.

        If another run commits other partitions meanwhile, this call tries again; if that run
        commits the same partitions, this call fails, since the rows may come from older data.

        Args:
            table: `<group>/<table>`.
            rows: All rows of the partitions; none means the partitions become empty. A lazy frame
                is written in bounded memory.
            partitions: The values of `key` that are replaced.
            commit: Notes in the commit, such as the id of the run.
            key: Column that says which partition a row is of.
            base: The version before anything was read that `rows` are computed from; None if the
                table was not written yet, by default the version now.
            mixed: Whether a column of numbers and of text holds all of them as text.

        Returns:
            The new version.

        Raises:
            StaleTableError: Another run replaced the same partitions since `base`.
            ColumnTypeError: No type holds the stored and the new values of a column unaltered.
            StorageError: The table cannot be written.
        """
        keys = sorted(set(partitions))
        present = self.collect(rows.lazy().select(pl.col(key).unique()), table)[key]
        if foreign := set(present) - set(keys):
            some = ", ".join(sorted(map(repr, foreign))[:3])
            raise StorageError(
                f"table {table}: {number_of(len(foreign), 'partition')} of the rows, such as "
                f"{some}, are not among the {len(keys)} to replace"
            )
        opened = self._open_again(table)
        since = _version(opened) if base == NOW else base
        notes = {**commit, **log.replacement_note(keys)}
        quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in keys)
        for number in range(ATTEMPTS):
            if number:
                sleep(PAUSE_SECONDS * 2**number * random())  # noqa: S311 so that all win some time
                opened = self._open_again(table)
            _refuse_stale(table, opened, since, keys)
            self._refuse_damage(table, opened, key, keys)
            where = f"{key} IN ({quoted})"
            version = self._commit(table, opened, rows, notes, where, mixed=mixed)
            if version is not None:
                data_files.merge_small_files(opened, self.place(table))
                self._seal(table)
                return version
        raise StorageError(
            f"table {table}: {keys[0]} to {keys[-1]} could not be written: another run was first "
            f"each of {ATTEMPTS} times, last with version {self.version(table)}: run it again"
        )

    def _refuse_damage(
        self, table: str, opened: DeltaTable | None, key: str, keys: Sequence[str]
    ) -> None:
        """Refuse to copy damaged rows beside those replaced, since copies get new digests."""
        if damage := data_files.changed_file(self.place(table), opened, key, keys):
            raise StorageError(
                f"table {table} could not be written and stays at version {_version(opened)}: "
                f"{damage}; {log.REPAIR}"
            )

    def append(
        self, table: str, rows: pl.DataFrame, commit: Mapping[str, str], expected: int | None
    ) -> int:
        """Append rows only if the table still is at the version that was read.

        Args:
            table: `<group>/<table>`.
            rows: The rows to append.
            commit: Notes in the commit.
            expected: The version the caller decided on; None for a table not yet written.

        Returns:
            The new version.

        Raises:
            StaleTableError: The table has moved on.
            StorageError: The table cannot be written.
        """
        opened = None if expected is None else self._open_again(table, expected)
        version = self._commit(table, opened, rows, commit, None)
        if version is None:
            raise StaleTableError(f"table {table} is no longer at version {expected}")
        return version

    def merge(self, table: str) -> None:
        """Merge small files if they are many and no commit has merged them yet."""
        data_files.merge_small_files(self._open_again(table), self.place(table))

    def unneeded_files(self, table: str, keep: Iterable[int], hours: int) -> list[Stored]:
        """Return files that neither the newest version nor one to keep names."""
        place, opened = self.place(table), self._open(table)
        if opened is None:
            return []
        return [*data_files.unneeded_files(place, opened, sorted(keep), hours)]

    def _open(self, table: str, version: int | None = None) -> DeltaTable | None:
        """Return a version to read, which is kept for as long as it is newest and its log the same.

        A step asks for the same tables dozens of times.
        """
        place = self.place(table)
        memory, key = _OPENED if place.is_local else place.memory, f"{place} at {version}"
        cached: tuple[DeltaTable, log.Files] | None = memory.get(key)
        if cached is not None:
            newest = cached[0].version()
            if cached[1] != log.find_files(place, newest):
                memory.clear()  # somebody repaired the log, so nothing that was verified counts
            elif version is not None or not log.find_commit(place, newest + 1):
                return cached[0]
        if (opened := self._open_again(table, version)) is not None:
            memory[key] = opened, log.find_files(place, opened.version())
            keys = [name for name, value in [*memory.items()] if isinstance(value, tuple)]
            for oldest in keys[:-_KEPT]:
                memory.pop(oldest, None)
        return opened

    def _open_again(self, table: str, version: int | None = None) -> DeltaTable | None:
        """Return a version that nobody else has, since a commit moves it to the next one."""
        place = self.place(table)
        try:
            opened = DeltaTable(str(place), version=version)
        except TableNotFoundError:
            return None
        except DeltaError as error:
            damage = log.log_damage(place, version) or log.short(error)
            raise StorageError(f"table {table}: {damage}") from error
        except OSError as error:
            if place.is_local:
                raise
            raise PlaceError(f"table {place}: {describe_error(error)}") from None
        if torn := log.torn_commit(place, opened.version()):
            raise StorageError(f"table {table}: {torn}")
        return opened

    def _commit(
        self,
        table: str,
        opened: DeltaTable | None,
        rows: pl.DataFrame | pl.LazyFrame,
        commit: Mapping[str, str],
        predicate: str | None,
        *,
        mixed: bool = False,
    ) -> int | None:
        """Commit on exactly the version that was opened.

        Returns:
            The new version, or None if another writer was faster.
        """
        before, token = _version(opened), uuid4().hex
        options: dict[str, Any] = {"mode": "append", "schema_mode": "merge"}
        if opened is None:
            options = {"mode": "error", "configuration": data_files.CONFIGURATION}
        elif predicate is not None:
            options |= {"mode": "overwrite", "predicate": predicate}
        replaced = pl.sql_expr(predicate).fill_null(False) if predicate else pl.lit(False)
        stored = None if opened is None else pl.scan_delta(opened).filter(~replaced)
        types = joint_types(table, stored, rows.lazy(), mixed=mixed)
        frames = [rows.lazy()]
        schema = pl.Schema() if stored is None else stored.collect_schema()
        widened = [name for name in types if types[name] != schema.get(name, types[name])]
        if stored is not None and widened:
            self.verify(table, None, before)  # the new files get new digests
            frames, types = [stored, rows.lazy()], {**schema, **types}
            commit = {**commit, WIDENED: ", ".join(f"{name} to {types[name]}" for name in widened)}
            options = {"mode": "overwrite", "schema_mode": "overwrite"}
        # With retries, two first commits both land, and so does a stale append.
        notes = CommitProperties({**commit, _TOKEN: token}, max_commit_retries=0)
        options |= data_files.LAYOUT | {"commit_properties": notes}
        try:
            write_deltalake(
                opened or self.uri(table), data_files.record_batches(frames, types), **options
            )
        except data_files.FAILURES as error:
            return self._find_commit(table, before, token, error)
        return 0 if before is None else before + 1

    def _find_commit(
        self, table: str, before: int | None, token: str, error: BaseException
    ) -> int | None:
        """Return the version of a commit after which an error came, None if another was faster.

        Raises:
            StorageError: Nothing was committed since.
        """
        now = self._open(table)
        for header in log.commits_after(now, before):
            if header.get(_TOKEN) == token:
                return int(header["version"])
        if _version(now) != before:
            return None
        damage = self._unreadable_file(table, now) or log.short(error)
        raise StorageError(
            f"table {table} could not be written and stays at version {before}: {damage}"
        ) from error

    def _unreadable_file(self, table: str, opened: DeltaTable | None) -> str | None:
        return data_files.unreadable_file(self.place(table), opened, PARTITION)

    def _seal(self, table: str) -> None:
        if (opened := self._open(table)) is not None:
            data_files.seal(self.place(table), opened)


def _version(opened: DeltaTable | None) -> int | None:
    return None if opened is None else opened.version()


def _refuse_stale(
    table: str, opened: DeltaTable | None, since: int | None, partitions: list[str]
) -> None:
    for commit in log.commits_after(opened, since):
        if same := log.replaced_partitions(commit, partitions):
            raise StaleTableError(
                f"table {table}: {number_of(len(same), 'partition')}, such as "
                f"{', '.join(same[:3])}, were replaced by run {commit.get('run_id', 'unknown')} "
                f"in version {commit['version']} after version {since} was read: run it again"
            )
