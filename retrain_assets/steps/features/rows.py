"""Compute features from the tables of a model's datasets, some partitions at a time.

Not here: storing them, and which partitions can be built.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import polars as pl

from retrain_assets.domain.data.row_checks import personal
from retrain_assets.domain.data.rules import MASK, PARTITION, dataset_schema
from retrain_assets.domain.features.build import (
    RefusedRow,
    build_features,
    drop_replaced,
    get_lookup_schema,
    list_label_lookups,
)
from retrain_assets.domain.features.history import History
from retrain_assets.domain.windows import group_batches, take_before
from retrain_assets.specs.base import duration
from retrain_assets.steps.state import ModelState, landed_rows
from retrain_assets.stores.tables.tables import Tables

BATCH_VALUES, SEGMENT = 8_000_000, "_segment"


@lru_cache(maxsize=2)  # the rows of some partitions, and those that they look back on
def _split(
    tables: Tables,
    dataset: str,
    keys: tuple[str, ...],
    column: str,
    identity: tuple[str, int] | None,
) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """Return rows by the value of a column: one reading for the models of all segments."""
    rows = tables.read(f"{dataset}/dataset", keys, version=identity and identity[1])
    values = rows.with_columns(pl.col(column).cast(pl.String).alias(SEGMENT))
    parts = values.partition_by(SEGMENT, as_dict=True, include_key=False)
    by_name = {str(value): part for (value,), part in parts.items() if value is not None}
    return rows.clear(), by_name


@dataclass(frozen=True)
class Rows:
    """The rows of a model's datasets.

    Args:
        state: The model.
    """

    state: ModelState

    @cached_property
    def counts(self) -> dict[str, int]:
        """Return how many rows each partition of the dataset has, in the order of partitions."""
        return self.state.count_rows()

    def batches(self, keys: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Yield partitions together, up to a bound on their values; larger ones alone."""
        columns = len(self.state.dataset.columns) + len(self.state.feature_names)
        # Of a segment too, since all rows of a partition are read for it.
        counts = landed_rows(self.state.tables, self.state.dataset.name)
        return group_batches(((counts.get(key, 0) * columns, [key]) for key in keys), BATCH_VALUES)

    def build(self, keys: Sequence[str]) -> tuple[pl.DataFrame, list[RefusedRow]]:
        """Return features of the rows of some partitions, and the rows that have none."""
        refused: list[RefusedRow] = []
        features = self._build(self._dataset(keys), keys, refused)
        return features, [*map(self._mask, refused)]

    def _mask(self, row: RefusedRow) -> RefusedRow:
        """Return a refused row without what may be personal."""
        dataset = self.state.dataset
        if not personal(dataset).isdisjoint(dataset.key):
            row = row | {"key": MASK}
        if any(map(personal, (dataset, *self.state.lookups.values()))):
            row = row | {"reason": "not shown, since it may hold a personal value"}
        return row

    def sample(self, keys: Sequence[str], most: int) -> pl.DataFrame:
        """Return features of about `most` rows, always the same: each n-th by key."""
        step = max(1, -(-sum(self.counts.get(key, 0) for key in keys) // most))
        place = pl.int_range(pl.len()).over(PARTITION)
        parts = []
        for batch in self.batches(keys):
            rows = self._dataset(batch).sort(PARTITION, *self.state.dataset.key)
            parts.append(self._build(rows.filter(place % step == 0), batch))
        return pl.concat(parts)

    def history(self, keys: Collection[str]) -> History | None:
        """Return what rows of some partitions look back on, whether these have landed or not."""
        spec, landed = self.state.spec, tuple(self.counts)
        if spec.features.history == 0:
            return None
        past = {part for key in keys for part in take_before(landed, key, spec.features.history)}
        return History(self._dataset(past), landed, spec, self.state.dataset)

    def lookup(
        self, name: str, rows: pl.DataFrame, keys: Collection[str], *, later: bool = False
    ) -> pl.DataFrame:
        """Return a lookup's rows that rows of some partitions can see, as far as that is known.

        Args:
            name: The lookup.
            rows: Rows of the dataset, for their times.
            keys: Their partitions.
            later: Whether columns that are `known: later` are among those read.
        """
        spec, reach = self.state.spec.lookups[name], self.state.lookup_partitions[name]
        tables, stored = self.state.tables, f"{name}/dataset"
        tables.verify(stored)
        get_schema = dataset_schema if later else get_lookup_schema
        table = tables.scan(stored).select(*get_schema(reach.source))
        if spec.as_of is not None:
            times = rows[spec.as_of].drop_nulls()
            if times.is_empty():
                return table.limit(0).collect()
            table = table.filter(pl.col(spec.as_of) <= times.max())
            if spec.tolerance is not None:
                oldest = times.min() - duration(spec.tolerance)  # type: ignore[operator]
                table = table.filter(pl.col(spec.as_of) >= oldest)
        elif reach.is_bounded:
            landed = tuple(landed_rows(tables, name))
            visible = {part for key in keys for part in reach.list_visible(key, landed)}
            table = table.filter(pl.col(PARTITION).is_in(list(visible)))
        return drop_replaced(tables.collect(table, stored), spec, reach.source)

    def _dataset(self, keys: Collection[str]) -> pl.DataFrame:
        tables, dataset, segment = self.state.tables, self.state.dataset, self.state.spec.segment
        if segment is None:
            return tables.read(f"{dataset.name}/dataset", keys, dataset_schema(dataset))
        identity = tables.identity(f"{dataset.name}/dataset")
        empty, parts = _split(tables, dataset.name, tuple(keys), segment.column, identity)
        return parts.get(segment.value, empty)

    def _build(
        self, rows: pl.DataFrame, keys: Sequence[str], refused: list[RefusedRow] | None = None
    ) -> pl.DataFrame:
        state, history = self.state, self.history(keys)
        sources = state.lookups.items()
        names = list_label_lookups(state.spec, state.lookups)
        tables = {name: self.lookup(name, rows, keys, later=name in names) for name, _ in sources}
        lookups = {
            name: tables[name].select(*get_lookup_schema(source)) for name, source in sources
        }
        past = history.before if history else None
        labels = {name: tables[name] for name in names}
        spec, dataset = state.spec, state.dataset
        return build_features(rows, lookups, spec, dataset, past, labels, refused=refused)
