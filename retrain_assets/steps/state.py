"""What is known of one model: which partitions are there, complete, built, and what was seen.

Read by assets, sensors and the command line, so that all of them decide on the same facts. Not
here: writing, and deciding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.contract import UNPLACED
from retrain_assets.domain.features import feature_names
from retrain_assets.domain.triggers import Production, Situation
from retrain_assets.domain.windows import Arrivals, complete_partitions, mature_partitions
from retrain_assets.specs.base import duration
from retrain_assets.stores.ledger import Ledger
from retrain_assets.stores.tables import PARTITION

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from retrain_assets.specs.dataset import DatasetSpec
    from retrain_assets.specs.features import LookupSpec
    from retrain_assets.specs.model import ModelSpec
    from retrain_assets.stores.ledger import LedgerRow
    from retrain_assets.stores.tables import Tables

SOURCE = "_source"  # digest of what a partition was built from
FILES_SEEN = {PARTITION: pl.String(), "sha256": pl.String(), "refusal": pl.String()}
MONITORING_SCHEMA: dict[str, pl.DataType] = {
    PARTITION: pl.String(),
    "role": pl.String(),
    "measure": pl.String(),
    "column": pl.String(),
    "statistic": pl.Float64(),
    "threshold": pl.Float64(),
    "baseline": pl.Float64(),
    "alert": pl.Boolean(),
    "model_version": pl.Int64(),
    "window_from": pl.String(),
    "window_to": pl.String(),
    SOURCE: pl.String(),
}


def landed(tables: Tables, dataset: str) -> dict[str, str]:
    """Digest of the accepted files of each partition of a dataset, in the order of partitions."""
    placed = ~pl.col(PARTITION).str.starts_with(UNPLACED)
    files = tables.scan(f"{dataset}/files", FILES_SEEN).filter(pl.col("refusal").is_null(), placed)
    contents = files.group_by(PARTITION).agg(pl.col("sha256").sort().str.join("+"))
    ordered = contents.sort(PARTITION).collect()
    return {key: _digest(digests) for key, digests in ordered.iter_rows()}


@dataclass(frozen=True)
class ModelState:
    """The read side of one model.

    Args:
        spec: The model.
        dataset: The dataset whose rows are predicted.
        lookups: The datasets joined to it, by name.
        tables: Where their tables are.
    """

    spec: ModelSpec
    dataset: DatasetSpec
    lookups: Mapping[str, DatasetSpec]
    tables: Tables

    @property
    def ledger(self) -> Ledger:
        """The model's decisions."""
        return Ledger(self.tables, self.spec.name)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The features of the spec as it is now."""
        return feature_names(self.spec, self.dataset, self.lookups)

    def table(self, name: str) -> str:
        """The full name of one of the model's tables."""
        return f"{self.spec.name}/{name}"

    def sources(self) -> dict[str, str]:
        """Complete partitions in order, each with a digest of all that its features depend on."""
        main = landed(self.tables, self.dataset.name)
        joined = {name: landed(self.tables, name) for name in self.spec.lookups}
        arrivals = {
            name: Arrivals(frozenset(joined[name]), lookup.lateness)
            for name, lookup in self.spec.lookups.items()
            if lookup.as_of is not None
        }
        if any(not joined[name] for name in joined):
            return {}
        made = self.spec.features_recipe
        return {
            key: _digest(made, main[key], *(self._seen(name, joined[name], key) for name in joined))
            for key in complete_partitions(tuple(main), arrivals)
        }

    def built(self) -> dict[str, str]:
        """Partitions that were monitored, each with the digest of what they were built from."""
        table = self.table("monitoring")
        seen = self.tables.scan(table, MONITORING_SCHEMA).select(PARTITION, SOURCE).unique()
        return dict(seen.sort(PARTITION).collect().iter_rows())

    def mature(self) -> tuple[str, ...]:
        """Partitions that are built, complete and have final labels, in order."""
        built = self.built()
        return tuple(
            key
            for key in mature_partitions(tuple(self.sources()), self.spec.labels.delay)
            if key in built
        )

    def situation(self) -> Situation:
        """What the triggering policy decides on."""
        history = self.ledger.read()
        row = history.production
        production = _production(row) if row else None
        monitoring = self.tables.scan(self.table("monitoring"), MONITORING_SCHEMA)
        if production is not None:
            monitoring = monitoring.filter(pl.col(PARTITION) > production.as_of)
        windows = self.spec.windows
        return Situation(
            mature=self.mature(),
            needed=windows.train + windows.holdout,
            recipe=self.spec.recipe,
            production=production,
            decided=history.decided.as_of if history.decided else None,
            decided_recipe=history.decided.recipe if history.decided else None,
            monitoring=monitoring.collect(),
        )

    def _seen(self, name: str, digests: Mapping[str, str], key: str) -> str:
        """Digest of the lookup's partitions that rows of `key` can see."""
        lookup = self.spec.lookups[name]
        period = self.lookups[name].partition.period
        if lookup.as_of is None or period is None:
            return _digest(*digests.values())
        earlier = [partition for partition in digests if partition <= key]
        return _digest(*(digests[p] for p in earlier[-_reach(lookup, period.shortest) :]))


def _production(row: LedgerRow) -> Production:
    return Production(row.version, row.as_of, row.data_range[1], row.recipe)


def _reach(lookup: LookupSpec, period: timedelta) -> int:
    """How many partitions of a lookup the rows of one partition can see; 0 means all."""
    if lookup.tolerance is None:
        return 0
    return 1 + math.ceil(duration(lookup.tolerance) / period)


def _digest(*parts: str) -> str:
    return sha256("|".join(parts).encode()).hexdigest()[:16]
