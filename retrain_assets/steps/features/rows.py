"""Features made of what a model's datasets hold, some partitions at a time.

Not here: storing them, and which partitions can be made.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from retrain_assets.domain.data.rules import PARTITION, dataset_schema
from retrain_assets.domain.features.build import (
    History,
    build_features,
    drop_replaced,
    get_lookup_schema,
    list_label_lookups,
)
from retrain_assets.domain.windows import group_batches, take_before
from retrain_assets.specs.base import duration
from retrain_assets.steps.state import ModelState, landed_rows

BATCH_VALUES = 8_000_000


@dataclass(frozen=True)
class Rows:
    """The rows of a model's datasets.

    Args:
        state: The model.
    """

    state: ModelState

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many rows each partition of the dataset has, in the order of partitions."""
        return landed_rows(self.state.tables, self.state.dataset.name)

    def batches(self, keys: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Partitions together, up to a bound on their values; each of more than that alone."""
        columns = len(self.state.dataset.columns) + len(self.state.feature_names)
        return group_batches(
            ((self.counts.get(key, 0) * columns, [key]) for key in keys), BATCH_VALUES
        )

    def features(self, keys: Sequence[str]) -> pl.DataFrame:
        """Features of all rows of some partitions, as `build_features` gives them."""
        return self._made(self._dataset(keys), keys)

    def sample(self, keys: Sequence[str], most: int) -> pl.DataFrame:
        """Features of about `most` rows of some partitions, always the same: each n-th by key."""
        step = max(1, -(-sum(self.counts.get(key, 0) for key in keys) // most))
        place = pl.int_range(pl.len()).over(PARTITION)
        parts = []
        for batch in self.batches(keys):
            rows = self._dataset(batch).sort(PARTITION, *self.state.dataset.key)
            parts.append(self._made(rows.filter(place % step == 0), batch))
        return pl.concat(parts)

    def history(self, keys: Collection[str]) -> History | None:
        """What rows of some partitions look back on, whether these have landed or not."""
        spec, landed = self.state.spec, tuple(self.counts)
        if spec.features.history == 0:
            return None
        past = {seen for key in keys for seen in take_before(landed, key, spec.features.history)}
        return History(self._dataset(past), landed, spec, self.state.dataset)

    def lookup(
        self, name: str, rows: pl.DataFrame, keys: Collection[str], *, later: bool = False
    ) -> pl.DataFrame:
        """A lookup's rows that rows of some partitions can see, as far as that is known.

        Args:
            name: The lookup.
            rows: Rows of the dataset, for their times.
            keys: Their partitions.
            later: Whether columns that are `known: later` are among those read.
        """
        spec, reach = self.state.spec.lookups[name], self.state.reaches[name]
        self.state.tables.verify(f"{name}/dataset")
        tables, stored = self.state.tables, f"{name}/dataset"
        table = tables.scan(stored).select(
            *(dataset_schema(reach.other) if later else get_lookup_schema(reach.other))
        )
        if spec.as_of is not None:
            times = rows[spec.as_of].drop_nulls()
            if times.is_empty():
                return table.limit(0).collect()
            table = table.filter(pl.col(spec.as_of) <= times.max())
            if spec.tolerance is not None:
                oldest = times.min() - duration(spec.tolerance)  # type: ignore[operator]
                table = table.filter(pl.col(spec.as_of) >= oldest)
        elif reach.is_bounded:
            there = tuple(landed_rows(self.state.tables, name))
            seen = {part for key in keys for part in reach.seen(key, there)}
            table = table.filter(pl.col(PARTITION).is_in(list(seen)))
        return drop_replaced(tables.collect(table, stored), spec, reach.other)

    def _dataset(self, keys: Collection[str]) -> pl.DataFrame:
        dataset = self.state.dataset
        return self.state.tables.read(f"{dataset.name}/dataset", keys, dataset_schema(dataset))

    def _made(self, rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
        state, history = self.state, self.history(keys)
        named = list_label_lookups(state.spec, state.lookups)
        read = {name: self.lookup(name, rows, keys, later=name in named) for name in state.lookups}
        lookups = {
            name: read[name].select(*get_lookup_schema(state.lookups[name])) for name in read
        }
        past = history.before if history else None
        labels = {name: read[name] for name in named}
        return build_features(rows, lookups, state.spec, state.dataset, past, labels)
