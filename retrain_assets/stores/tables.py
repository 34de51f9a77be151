"""Delta tables: the one place where rows are read from and committed to storage.

A table's name is `<group>/<table>`; each has the column `_landing_partition`, which says where a
row came from and is what a replacement is keyed on, so that a row with a null or foreign date can
be stored all the same. Not here: what the rows mean, and any decision on them.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

PARTITION = "_landing_partition"
REPLACED = "replaced"  # in a commit: the partitions it replaced, as JSON
ATTEMPTS, MAX_SMALL_FILES = 5, 64
NOW: Final = -1
# Versions that models were trained on stay readable: nothing expires, and nothing is vacuumed.
_CONFIGURATION: dict[str, str | None] = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
    "delta.checkpointInterval": "10",
}
_SMALL_BYTES, _STREAMED_ROWS = 32 * 2**20, 100_000
_DAMAGE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, DeltaError)


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

    def version(self, table: str) -> int | None:
        """The newest version of a table; None where it was never written."""
        opened = self._open(table)
        return None if opened is None else opened.version()

    def scan(
        self,
        table: str,
        schema: Mapping[str, pl.DataType | type[pl.DataType]] | None = None,
        version: int | None = None,
    ) -> pl.LazyFrame:
        """Read a table lazily.

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

    def read(
        self,
        table: str,
        partitions: Iterable[str],
        schema: Mapping[str, pl.DataType | type[pl.DataType]] | None = None,
        version: int | None = None,
    ) -> pl.DataFrame:
        """The rows of some partitions; a damaged data file is an error, never fewer rows."""
        wanted = pl.col(PARTITION).is_in(list(partitions))
        lazy = self.scan(table, schema, version).filter(wanted)
        try:
            return lazy.collect()
        # A damaged page makes polars panic, which is no Exception.
        except _DAMAGE as error:
            raise StorageError(f"table {table}: {self._damage(table, version) or error}") from error

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
        replaced = sorted(set(partitions))
        foreign = set(rows.lazy().select(pl.col(key).unique()).collect()[key]) - set(replaced)
        if foreign:
            raise StorageError(f"table {table}: rows of {sorted(foreign)} not among {replaced}")
        said = {**commit, REPLACED: json.dumps(replaced)}
        since = self.version(table) if base == NOW else base
        failure: BaseException | None = None
        for _ in range(ATTEMPTS):
            existing = self._open(table)
            self._refuse_stale(table, existing, since, replaced)
            try:
                self._write(table, existing, rows, said, _among(key, replaced))
            except _DAMAGE as error:
                failure = error
                if (version := self._landed(table, said, since)) is not None:
                    return version
                if existing is not None and not isinstance(error, CommitFailedError):
                    break
                continue
            version = DeltaTable(self.uri(table)).version()
            self._compact(table)
            return version
        span = f"{replaced[0]} to {replaced[-1]}"
        raise StorageError(
            f"table {table}: {span} could not be written at version {self.version(table)}: make "
            f"room, or run it again when no other run writes ({failure})"
        ) from failure

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
        """
        # A stale append would silently rebase onto the newer version; no retries make it fail.
        properties = CommitProperties(custom_metadata=dict(commit), max_commit_retries=0)
        target = self._open(table, expected) if expected is not None else None
        try:
            if target is None:
                write_deltalake(
                    self.uri(table),
                    rows,
                    mode="error",
                    configuration=_CONFIGURATION,
                    commit_properties=properties,
                )
            else:
                write_deltalake(target, rows, mode="append", commit_properties=properties)
        except Exception as error:
            if self.version(table) != expected:
                moved = f"table {table} is no longer at version {expected}"
                raise StaleTableError(moved) from error
            raise
        return DeltaTable(self.uri(table)).version()

    def _open(self, table: str, version: int | None = None) -> DeltaTable | None:
        try:
            opened = DeltaTable(self.uri(table), version=version)
        except TableNotFoundError:
            return None
        except DeltaError as error:
            newest = max((Path(self.uri(table)) / "_delta_log").glob("*.json"), default="its log")
            why = str(error).partition("\n")[0]
            raise StorageError(
                f"table {table}: {newest} or a checkpoint cannot be read: {why}; docs/storage.md "
                "says the repair"
            ) from error
        last = Path(self.uri(table)) / "_delta_log" / f"{opened.version():020}.json"
        # An empty commit would pass as one that changed nothing, and hide that rows are missing.
        if last.exists() and last.stat().st_size == 0:
            raise StorageError(f"table {table}: {last} is empty; docs/storage.md says the repair")
        return opened

    def _write(
        self,
        table: str,
        existing: DeltaTable | None,
        rows: pl.DataFrame | pl.LazyFrame,
        said: dict[str, str],
        predicate: str,
    ) -> None:
        properties = CommitProperties(custom_metadata=said)
        data = rows if isinstance(rows, pl.DataFrame) else _streamed(rows)
        if existing is None:
            write_deltalake(
                self.uri(table),
                data,
                mode="error",
                configuration=_CONFIGURATION,
                commit_properties=properties,
            )
            return
        write_deltalake(
            existing,
            data,
            mode="overwrite",
            schema_mode="merge",
            predicate=predicate,
            commit_properties=properties,
        )

    def _refuse_stale(
        self, table: str, existing: DeltaTable | None, since: int | None, replaced: Sequence[str]
    ) -> None:
        for commit in _commits_after(existing, since):
            touched = json.loads(commit[REPLACED]) if REPLACED in commit else replaced
            if same := sorted(set(touched).intersection(replaced)):
                raise StaleTableError(
                    f"table {table}: {', '.join(same[:3])} of {len(same)} partitions were replaced "
                    f"by run {commit.get('run_id')} in version {commit['version']} after version "
                    f"{since} was read: run it again"
                )

    def _landed(self, table: str, said: Mapping[str, str], since: int | None) -> int | None:
        """The version of our own commit, where an error came back though it landed."""
        own = (
            int(commit["version"])
            for commit in _commits_after(self._open(table), since)
            if said.items() <= commit.items()
        )
        return next(own, None)

    def _compact(self, table: str) -> None:
        """Merge small files once they are many; a lost race is left to the next commit."""
        opened = DeltaTable(self.uri(table))
        sizes = opened.get_add_actions(flatten=True)["size_bytes"]
        if sum(size < _SMALL_BYTES for size in sizes.to_pylist()) > MAX_SMALL_FILES:
            with suppress(DeltaError):
                opened.optimize.compact(target_size=4 * _SMALL_BYTES)

    def _damage(self, table: str, version: int | None) -> str | None:
        """The first data file that cannot be read, and the partitions it holds."""
        opened = self._open(table, version)
        actions = (
            [] if opened is None else pl.DataFrame(opened.get_add_actions(flatten=True)).to_dicts()
        )
        for action in actions:
            file = f"{self.uri(table)}/{action['path']}"
            try:
                pl.read_parquet(file)
            except _DAMAGE as error:
                held = f"{action.get(f'min.{PARTITION}')} to {action.get(f'max.{PARTITION}')}"
                return f"data file {file} with partitions {held} cannot be read: {str(error)[:200]}"
        return None


def _commits_after(opened: DeltaTable | None, since: int | None) -> list[dict[str, Any]]:
    """What is recorded of the commits after a version; merging small files is none."""
    first = 0 if since is None else since + 1
    if opened is None or (number := opened.version() - first + 1) <= 0:
        return []
    return [commit for commit in opened.history(number) if commit["operation"] != "OPTIMIZE"]


def _streamed(rows: pl.LazyFrame) -> pa.RecordBatchReader:
    """Rows as a stream of batches, so that they are never in memory together."""

    def batches() -> Iterator[pa.RecordBatch]:
        for part in rows.collect_batches(chunk_size=_STREAMED_ROWS, maintain_order=True):
            yield from part.to_arrow().to_batches()

    schema = pl.DataFrame(schema=rows.collect_schema()).to_arrow().schema
    return pa.RecordBatchReader.from_batches(schema, batches())


def _among(key: str, values: Iterable[str]) -> str:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{key} IN ({quoted})"
