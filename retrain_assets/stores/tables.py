"""Delta tables: the one place where rows are read from and committed to storage.

A table's name is `<group>/<table>`; each has the column `_landing_partition`, which says where a
row came from and is what a replacement is keyed on, so that a row with a null or foreign date can
be stored all the same. Not here: what the rows mean, and any decision on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PARTITION = "_landing_partition"


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
        except (pl.exceptions.PolarsError, OSError) as error:
            raise StorageError(f"table {table}: {error}") from error

    def replace(
        self,
        table: str,
        rows: pl.DataFrame | pl.LazyFrame,
        partitions: Iterable[str],
        commit: Mapping[str, str],
        key: str = PARTITION,
        base: int | None = None,  # noqa: ARG002 for now
    ) -> int:
        """Replace whole partitions in one atomic commit.

        Args:
            table: `<group>/<table>`.
            rows: All rows of the partitions; none means the partitions become empty.
            partitions: The values of `key` that are replaced.
            commit: What is written beside the commit: run, asset, partitions, fingerprints.
            key: Column that says which partition a row is of.
            base: Version that was seen before anything was read.

        Returns:
            The version the commit made.

        Raises:
            StorageError: Another writer committed the same partitions first.
        """
        replaced = sorted(set(partitions))
        rows = rows.lazy().collect()
        foreign = set(rows[key].unique()) - set(replaced)
        if foreign:
            raise StorageError(f"table {table}: rows of {sorted(foreign)} not among {replaced}")
        uri = self.uri(table)
        properties = CommitProperties(custom_metadata=dict(commit))
        existing = self._open(table)
        try:
            if existing is None:
                write_deltalake(uri, rows, mode="error", commit_properties=properties)
            else:
                write_deltalake(
                    existing,
                    rows,
                    mode="overwrite",
                    schema_mode="merge",
                    predicate=_among(key, replaced),
                    commit_properties=properties,
                )
        except CommitFailedError as error:
            raise StorageError(
                f"table {table} was changed by another run while {replaced[0]} to {replaced[-1]} "
                f"were written: run it again ({error})"
            ) from error
        return DeltaTable(uri).version()

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
                write_deltalake(self.uri(table), rows, mode="error", commit_properties=properties)
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
            return DeltaTable(self.uri(table), version=version)
        except TableNotFoundError:
            return None


def _among(key: str, values: Iterable[str]) -> str:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{key} IN ({quoted})"
