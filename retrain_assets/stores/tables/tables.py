"""Delta tables: the one place where rows are read from and committed to storage.

A table's name is `<group>/<table>`; each has the column `_landing_partition`, which says where a
row came from and is what a replacement is keyed on, so that a row with a null or foreign date can
be stored all the same. Not here: what the rows mean, and any decision on them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import polars as pl
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.stores.tables.data_files import (
    CONFIGURATION,
    FAILURES,
    LAYOUT,
    broken_file,
    broken_seal,
    merge_small_files,
    seal,
    streamed,
    unneeded,
)
from retrain_assets.stores.tables.log import (
    REPAIR,
    commits_after,
    log_damage,
    replaced_in,
    replacement,
    short,
    torn_commit,
)

ATTEMPTS = 10
NOW: Final = -1
_TOKEN = "token"  # noqa: S105 in a commit: which call made it


class StorageError(RuntimeError):
    """A table cannot be read or committed to; the message names it and what would do."""


class StaleTableError(StorageError):
    """The table has moved on since the version that the caller decided on."""


@dataclass(frozen=True)
class Tables:
    """All Delta tables below one root.

    Args:
        root: Folder or object-store URI, with no slash at its end.
    """

    root: str

    def uri(self, table: str) -> str:
        """Where a table is stored."""
        return f"{self.root}/{table}"

    def names(self) -> list[str]:
        """All tables there are, where they are kept in a folder."""
        root = Path(self.root)
        return sorted(str(log.parent.relative_to(root)) for log in root.glob("*/*/_delta_log"))

    def version(self, table: str) -> int | None:
        """The newest version of a table; None where it was never written."""
        return _version(self._open(table))

    def size(self, table: str) -> tuple[int, pl.Schema]:
        """Rows and columns of a table as it is now, from its log; none where it is not there."""
        opened = self._open(table)
        if opened is None:
            return 0, pl.Schema()
        return opened.count(), pl.scan_delta(opened).collect_schema()

    def changed(self, table: str) -> tuple[int, datetime] | None:
        """The newest version of a table and when it was committed; None where there is none."""
        opened = self._open(table)
        if opened is None:
            return None
        millis = opened.history(1)[0]["timestamp"]
        return opened.version(), datetime.fromtimestamp(millis / 1000, UTC)

    def scan(
        self,
        table: str,
        schema: Mapping[str, pl.DataType | type[pl.DataType]] | None = None,
        version: int | None = None,
    ) -> pl.LazyFrame:
        """Read a table lazily; `collect` what is made of it.

        Args:
            table: `<group>/<table>`.
            schema: What an unwritten table looks like; without it, reading one is an error.
            version: An earlier version; the newest by default.

        Raises:
            StorageError: The table or version is not there.
        """
        opened = self._open(table, version)
        if opened is None:
            if schema is None:
                raise StorageError(f"table {table} was never written: materialize it first")
            return pl.LazyFrame(schema=dict(schema))
        return pl.scan_delta(opened)

    def collect(self, rows: pl.LazyFrame, table: str, version: int | None = None) -> pl.DataFrame:
        """What was made of a scan.

        Args:
            rows: A scan of the table, and whatever was done to it.
            table: The table that is named where it cannot be read.
            version: The version that was scanned.

        Raises:
            StorageError: A data file is damaged; the message names it and the partitions it holds.
        """
        try:
            return rows.collect()
        except FAILURES as error:
            broken = broken_file(self._open(table, version), PARTITION)
            raise StorageError(f"table {table}: {broken or short(error)}") from error

    def read(
        self,
        table: str,
        partitions: Iterable[str],
        schema: Mapping[str, pl.DataType | type[pl.DataType]] | None = None,
        version: int | None = None,
    ) -> pl.DataFrame:
        """The rows of some partitions; a damaged data file is an error, never other rows."""
        keys = list(partitions)
        self.verify(table, keys, version)
        wanted = pl.col(PARTITION).is_in(keys)
        return self.collect(self.scan(table, schema, version).filter(wanted), table, version)

    def verify(
        self, table: str, partitions: Sequence[str] | None = None, version: int | None = None
    ) -> None:
        """Hold the data files of some partitions, or of all, against their digests.

        Raises:
            StorageError: A file is not what was written; the message names it and its partitions.
        """
        if wrong := broken_seal(self._open(table, version), PARTITION, partitions):
            raise StorageError(f"table {table}: {wrong}; {REPAIR}")

    def replace(
        self,
        table: str,
        rows: pl.DataFrame | pl.LazyFrame,
        partitions: Iterable[str],
        commit: Mapping[str, str],
        key: str = PARTITION,
        base: int | None = NOW,
    ) -> int:
        """Replace whole partitions in one atomic commit.

        Where another run commits other partitions meanwhile, this one is tried again; where it
        commits the same, this one fails, as what it read may be older.

        Args:
            table: `<group>/<table>`.
            rows: All rows of the partitions; none means the partitions become empty. A lazy frame
                is written in bounded memory.
            partitions: The values of `key` that are replaced.
            commit: What is written beside the commit: run, asset, fingerprints.
            key: Column that says which partition a row is of.
            base: Version that was there before anything was read that `rows` are made from; None
                where the table was not written yet, by default the version now.

        Returns:
            The version the commit made.

        Raises:
            StaleTableError: Another run replaced the same partitions since `base`.
            StorageError: The table cannot be written.
        """
        keys = sorted(set(partitions))
        present = self.collect(rows.lazy().select(pl.col(key).unique()), table)[key]
        if foreign := set(present) - set(keys):
            some = ", ".join(sorted(map(repr, foreign))[:3])
            raise StorageError(
                f"table {table}: {len(foreign)} partitions of the rows, such as {some}, are not "
                f"among the {len(keys)} to replace"
            )
        opened = self._open(table)
        since = _version(opened) if base == NOW else base
        said, predicate = {**commit, **replacement(keys)}, _among(key, keys)
        for _ in range(ATTEMPTS):
            _refuse_stale(table, opened, since, keys)
            version = self._commit(table, opened, rows, said, predicate)
            if version is not None:
                merge_small_files(opened)
                seal(DeltaTable(self.uri(table)))
                return version
            opened = self._open(table)
        raise StorageError(
            f"table {table}: {keys[0]} to {keys[-1]} could not be written: another run was first "
            f"each of {ATTEMPTS} times, last with version {_version(opened)}: run it again"
        )

    def append(
        self, table: str, rows: pl.DataFrame, commit: Mapping[str, str], expected: int | None
    ) -> int:
        """Append rows only if the table still is at the version that was read.

        Args:
            table: `<group>/<table>`.
            rows: What is appended.
            commit: What is written beside the commit.
            expected: The version the caller decided on; None for a table not yet written.

        Returns:
            The version the commit made.

        Raises:
            StaleTableError: The table has moved on.
            StorageError: The table cannot be written.
        """
        opened = None if expected is None else self._open(table, expected)
        version = self._commit(table, opened, rows, commit, None)
        if version is None:
            raise StaleTableError(f"table {table} is no longer at version {expected}")
        return version

    def merge(self, table: str) -> None:
        """Merge small files that are many, where a commit has not done so already."""
        merge_small_files(self._open(table))

    def unneeded(self, table: str, keep: Iterable[int], hours: int) -> list[Path]:
        """Files that neither the newest version nor one to keep names; see `table_files`."""
        opened = self._open(table)
        return [] if opened is None else unneeded(opened, sorted(keep), hours)

    def _open(self, table: str, version: int | None = None) -> DeltaTable | None:
        uri = self.uri(table)
        try:
            opened = DeltaTable(uri, version=version)
        except TableNotFoundError:
            return None
        except DeltaError as error:
            raise StorageError(
                f"table {table}: {log_damage(uri, version) or short(error)}"
            ) from error
        if torn := torn_commit(uri, opened.version()):
            raise StorageError(f"table {table}: {torn}")
        return opened

    def _commit(
        self,
        table: str,
        opened: DeltaTable | None,
        rows: pl.DataFrame | pl.LazyFrame,
        commit: Mapping[str, str],
        predicate: str | None,
    ) -> int | None:
        """Commit on exactly the version that was opened.

        Returns:
            The version made, or None where another writer made it first.
        """
        before, token = _version(opened), uuid4().hex
        how: dict[str, Any] = {"mode": "append", "schema_mode": "merge"}
        if opened is None:
            how = {"mode": "error", "configuration": CONFIGURATION}
        elif predicate is not None:
            how = {"mode": "overwrite", "schema_mode": "merge", "predicate": predicate}
        # With retries, two first commits both land, and so does a stale append.
        how["commit_properties"] = CommitProperties({**commit, _TOKEN: token}, max_commit_retries=0)
        try:
            write_deltalake(opened or self.uri(table), streamed(rows), **how, **LAYOUT)
        except FAILURES as error:
            now = self._open(table)
            for made in commits_after(now, before):
                if made.get(_TOKEN) == token:
                    return int(made["version"])
            if _version(now) != before:
                return None
            wrong = broken_file(now, PARTITION) or short(error)
            raise StorageError(
                f"table {table} could not be written and stays at version {before}: {wrong}"
            ) from error
        return 0 if before is None else before + 1


def _version(opened: DeltaTable | None) -> int | None:
    return None if opened is None else opened.version()


def _refuse_stale(
    table: str, opened: DeltaTable | None, since: int | None, partitions: list[str]
) -> None:
    for commit in commits_after(opened, since):
        if same := replaced_in(commit, partitions):
            raise StaleTableError(
                f"table {table}: {len(same)} partitions, such as {', '.join(same[:3])}, were "
                f"replaced by run {commit.get('run_id', 'unknown')} in version {commit['version']} "
                f"after version {since} was read: run it again"
            )


def _among(key: str, values: Iterable[str]) -> str:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{key} IN ({quoted})"
