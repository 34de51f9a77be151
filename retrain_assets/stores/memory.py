"""Tables and a registry in memory, above those that are stored, which stay as they are.

Steps read what is stored until they write it; what they write is lost with the process. Not here:
what is written.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion
from retrain_assets.stores.tables.tables import NOW, Schema, StaleTableError, Tables

MOST_CHUNKS = 16  # of a table in memory; reading more of them is slower than to copy them once
JOINED = "/"  # names the part that was read since; no partition has this name


@dataclass(frozen=True)
class Overlay(Tables):
    """Tables that are written in memory.

    Args:
        root: Root of the tables below.
        model: A model whose tables below are not read.
        content: Version and rows of each table in memory, in parts that are joined when they are
            read, since joining them at each write takes time with the square of their number.
    """

    model: str = ""
    content: dict[str, tuple[int, Mapping[str, pl.DataFrame]]] = field(default_factory=dict)

    def version(self, table: str) -> int | None:
        """Return the version of a table in memory, else of the table below."""
        if table in self.content:
            return self.content[table][0]
        return super().version(table) if self._is_below(table) else None

    def identity(self, table: str) -> None:
        """Return nothing, so that no result outlives the tables in memory."""

    def scan(
        self, table: str, schema: Schema | None = None, version: int | None = None
    ) -> pl.LazyFrame:
        """Read a table in memory, else the table below."""
        if table in self.content:
            number, parts = self.content[table]
            rows = pl.concat(parts.values())
            if rows.n_chunks() > MOST_CHUNKS:
                rows = rows.rechunk()
            self.content[table] = number, {JOINED: rows}
            return rows.lazy()
        if self._is_below(table):
            return super().scan(table, schema, version)
        return pl.LazyFrame(schema=dict(schema or {}))

    def verify(
        self, table: str, partitions: Sequence[str] | None = None, version: int | None = None
    ) -> None:
        """Compare files below with their digests; rows in memory were verified when read."""
        if table not in self.content and self._is_below(table):
            super().verify(table, partitions, version)

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
        """Replace partitions in memory."""
        del commit, base, mixed
        frame, keys = rows.lazy().collect(), [*partitions]
        parts = {name: frame.filter(pl.col(key) == name) for name in keys}
        return self._write(table, parts, ~pl.col(key).is_in(keys))

    def append(
        self, table: str, rows: pl.DataFrame, commit: Mapping[str, str], expected: int | None
    ) -> int:
        """Append rows in memory.

        Raises:
            StaleTableError: The table has moved on.
        """
        del commit
        if self.version(table) != expected:
            raise StaleTableError(f"table {table} is no longer at version {expected}")
        return self._write(table, {f"{JOINED}{expected}": rows}, pl.lit(True))

    def _write(self, table: str, parts: Mapping[str, pl.DataFrame], remaining: pl.Expr) -> int:
        """Write parts beside the rows that remain, and return the new version."""
        version, stored = self.content.get(table, (-1, {}))
        joined = {name: stored[name].filter(remaining) for name in stored if name == JOINED}
        self.content[table] = version + 1, {**stored, **joined, **parts}
        return version + 1

    def _is_below(self, table: str) -> bool:
        return not table.startswith(f"{self.model}/")


class MemoryRegistry(ModelRegistry):
    """The versions of one model in memory; registries that share them have separate aliases.

    Args:
        name: The model.
        shared: Versions and pipelines, by number.
    """

    ledger_head = ""

    def __init__(self, name: str, shared: dict[int, tuple[ModelVersion, Any]]) -> None:
        super().__init__("", "", name)
        self.shared, self.aliases = shared, dict[str, int]()

    def log_version(self, run_id: str, pipeline: Any, **record: Any) -> ModelVersion:
        """Add a version."""
        number = len(self.shared) + 1
        tags, metrics = dict(record["tags"]), dict(record["metrics"])
        version = ModelVersion(self.name, number, run_id, "", str(number), tags, metrics)
        self.shared[number] = version, pipeline
        return version

    def register_again(
        self, version: ModelVersion, tags: Mapping[str, str], metrics: Mapping[str, float]
    ) -> ModelVersion:
        """Add a version once more, under other tags and metrics."""
        number, pipeline = len(self.shared) + 1, self.shared[version.version][1]
        tags = {**version.tags, **tags}
        version = replace(version, version=number, tags=tags, metrics={**metrics})
        self.shared[number] = version, pipeline
        return version

    def versions(self) -> list[ModelVersion]:
        """Return all versions, newest first."""
        return [version for version, _ in reversed(self.shared.values())]

    def read_aliases(self) -> dict[str, int]:
        """Return the versions that aliases name."""
        return self.aliases

    def set_alias(self, name: str, number: int | None) -> None:
        """Let an alias name a version, or none."""
        self.aliases.pop(name, None)
        if number is not None:
            self.aliases[name] = self.version(number).version

    def load(self, number: int, sha256: str) -> Any:
        """Return the pipeline of a version, which was never a file."""
        del sha256
        return self.shared[self.version(number).version][1]
