"""Tables and a registry in memory, above those that are stored, which stay as they are.

What steps read is what is stored until they write it; what they write is gone with the process.
Not here: what is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion
from retrain_assets.stores.tables.tables import NOW, StaleTableError, Tables

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


@dataclass(frozen=True)
class Overlay(Tables):
    """Tables that are written in memory.

    Args:
        root: Of the tables below.
        model: Whose tables below are not seen, but for those that are kept.
        kept: Some of them, as they were read.
        written: The tables that were written, by partition.
    """

    model: str = ""
    kept: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    written: dict[str, dict[str, pl.DataFrame]] = field(default_factory=dict)
    _versions: dict[str, int] = field(default_factory=dict)
    _whole: dict[str, pl.DataFrame] = field(default_factory=dict)

    def version(self, table: str) -> int | None:
        """How often a table was written here; that of the table below where it was not."""
        if table in self.written:
            return self._versions[table]
        if table in self.kept:
            return 0
        return super().version(table) if self._is_below(table) else None

    def scan(
        self,
        table: str,
        schema: Mapping[str, pl.DataType | type[pl.DataType]] | None = None,
        version: int | None = None,
    ) -> pl.LazyFrame:
        """What was written here, else what is kept, else the table below."""
        if table in self.written:
            if table not in self._whole:
                self._whole[table] = pl.concat(self.written[table].values(), rechunk=True)
            return self._whole[table].lazy()
        if table in self.kept:
            return self.kept[table].lazy()
        below = super().scan(table, schema, version) if self._is_below(table) else None
        return pl.LazyFrame(schema=dict(schema or {})) if below is None else below

    def verify(
        self, table: str, partitions: Sequence[str] | None = None, version: int | None = None
    ) -> None:
        """Hold files below against their digests; what is in memory was held when it was read."""
        if table not in self.written and table not in self.kept and self._is_below(table):
            super().verify(table, partitions, version)

    def replace(
        self,
        table: str,
        rows: pl.DataFrame | pl.LazyFrame,
        partitions: Iterable[str],
        commit: Mapping[str, str],
        key: str = PARTITION,
        base: int | None = NOW,
    ) -> int:
        """Replace partitions here."""
        del commit, base
        found, parts = rows.lazy().collect(), self.written.setdefault(table, {})
        parts |= {name: found.filter(pl.col(key) == name) for name in partitions}
        return self._next(table)

    def append(
        self, table: str, rows: pl.DataFrame, commit: Mapping[str, str], expected: int | None
    ) -> int:
        """Append here.

        Raises:
            StaleTableError: The table has moved on.
        """
        del commit
        if self.version(table) != expected:
            raise StaleTableError(f"table {table} is no longer at version {expected}")
        parts = self.written.setdefault(table, {})
        parts[str(len(parts))] = rows
        return self._next(table)

    def _next(self, table: str) -> int:
        self._versions[table] = self._versions.get(table, -1) + 1
        self._whole.pop(table, None)
        return self._versions[table]

    def _is_below(self, table: str) -> bool:
        return not table.startswith(f"{self.model}/")


class MemoryRegistry(ModelRegistry):
    """The versions of one model in memory; registries that share them have aliases of their own.

    Args:
        name: Of the model.
        shared: Versions and pipelines, by number.
    """

    ledger_head = ""

    def __init__(self, name: str, shared: dict[int, tuple[ModelVersion, Pipeline]]) -> None:
        super().__init__("", "", name)
        self.shared, self.aliases = shared, dict[str, int]()

    def log_version(self, run_id: str, pipeline: Pipeline, **kept: Any) -> ModelVersion:
        """Keep a version."""
        number = len(self.shared) + 1
        tags, metrics = dict(kept["tags"]), dict(kept["metrics"])
        made = ModelVersion(self.name, number, run_id, "", str(number), tags, metrics)
        self.shared[number] = made, pipeline
        return made

    def register_again(
        self, found: ModelVersion, tags: Mapping[str, str], metrics: Mapping[str, float]
    ) -> ModelVersion:
        """Keep a version once more, under other tags and metrics."""
        number, both = len(self.shared) + 1, {**found.tags, **tags}
        made = replace(found, version=number, tags=both, metrics=dict(metrics))
        self.shared[number] = made, self.shared[found.version][1]
        return made

    def versions(self) -> list[ModelVersion]:
        """All versions, newest first."""
        return [made for made, _ in reversed(self.shared.values())]

    def alias(self, name: str) -> int | None:
        """The version an alias names."""
        return self.aliases.get(name)

    def set_alias(self, name: str, number: int | None) -> None:
        """Let an alias name a version, or none."""
        if number is None:
            self.aliases.pop(name, None)
        else:
            self.aliases[name] = self.version(number).version

    def load(self, number: int, sha256: str) -> Pipeline:
        """The pipeline of a version, which no file was between."""
        del sha256
        return self.shared[self.version(number).version][1]
