"""From raw rows to features: the code of training, with what is looked up held in memory.

`RowMaker.features` is `compute_features` on the lookups as they are now. For a few rows most of its
time goes into planning joins and SQL, so `quick` is used where it was seen to give the same. Not
here: encoding features for a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from retrain_assets.domain.data.contract import partition_keys
from retrain_assets.domain.data.rules import (
    BROKEN,
    LINE,
    PARTITION,
    STORED,
    contract_rules,
    partition_of,
)
from retrain_assets.domain.data.values import derive, sources
from retrain_assets.domain.features.build import compute_features, join_lookups
from retrain_assets.serving.scoring.quick_features import Quick
from retrain_assets.serving.scoring.request import Row, refused
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.features.rows import Rows
from retrain_assets.steps.state import ModelState

TRIED = 200


@dataclass(frozen=True)
class LookupRows:
    """A lookup in memory.

    Args:
        version: Of its table.
        changed: When that version was committed.
        rows: What features can see of it.
        bound: How old it may become; None where nothing is known of it.
    """

    version: int
    changed: datetime
    rows: pl.DataFrame
    bound: timedelta | None = None


class RowMaker:
    """Features of raw rows, on one state of the lookups.

    Args:
        state: The model.
        held: Its lookups.

    Raises:
        FeatureError: A lookup has two rows for one key.
    """

    def __init__(self, state: ModelState, held: Mapping[str, LookupRows]) -> None:
        self.state, self.held = state, held
        self.quick: Quick | None = None
        columns = state.dataset.columns.items()
        self._schema = {
            name: STORED[column.type]
            for name, column in columns
            if column.known == "before" and column.expression is None
        }
        derived = _derived_before(state.dataset)
        self._derived_rules = [
            (name, rule)
            for name, rule in contract_rules(state.dataset)
            if rule.limits is not None and derived.issuperset(rule.columns)
        ]
        self._past: dict[tuple[int | None, str], pl.DataFrame] = {}

    def features(self, rows: Sequence[Row] | pl.DataFrame) -> pl.DataFrame:
        """Features of rows in the order given, as `compute_features` makes them.

        Raises:
            FeatureError: The model's SQL or function fails on them.
        """
        frame = self._typed(rows)
        if not self.state.spec.features.history:
            return self._made(frame, None)
        parts = frame.with_row_index("_order").partition_by(PARTITION)
        made = [
            self._made(part.drop("_order"), self._before(part[PARTITION][0])).with_columns(
                part["_order"]
            )
            for part in parts
        ]
        return pl.concat(made).sort("_order").drop("_order")

    def prepare(self, rows: Sequence[Row]) -> str | None:
        """Use the quick way from now on if it does and gives the same for these rows.

        Returns:
            Why it is not used; None where it is.
        """
        try:
            lookups = {name: held.rows for name, held in self.held.items()}
            empty = {name: held.head(0) for name, held in lookups.items()}
            joined = join_lookups(self._typed([]), empty, self.state.spec.lookups).drop(PARTITION)
            quick = Quick(self.state.spec, tuple(self._schema), joined, lookups)
            wanted = self.features(rows)
            framed = zip(*quick.frame(pl.DataFrame(rows, self._schema)), strict=True)
            made = zip(*quick.values(rows), strict=True)
        except (ValueError, pl.exceptions.PolarsError) as error:
            return str(error)
        for row, (expected, *both) in enumerate(zip(wanted.rows(), made, framed, strict=True)):
            for given in both:
                if repr(given) != repr(expected):
                    return f"stored row {row} gives {given} instead of {expected}"
        self.quick = quick if quick.names == wanted.columns else None
        return None

    def stored_rows(self, most: int = TRIED) -> list[Row]:
        """Raw rows of the newest stored partition, as a request would hold them."""
        maker = Rows(self.state)
        newest = list(maker.counts)[-1:]
        rows = maker._dataset(newest)  # noqa: SLF001 the same rows that features are made of
        return rows.select(*self._schema).sample(min(most, rows.height), seed=0).to_dicts()

    def _made(self, rows: pl.DataFrame, history: pl.DataFrame | None) -> pl.DataFrame:
        lookups = {name: held.rows for name, held in self.held.items()}
        return compute_features(rows, lookups, self.state.spec, self.state.dataset, history)

    def _typed(self, rows: Sequence[Row] | pl.DataFrame) -> pl.DataFrame:
        dataset = self.state.dataset
        frame = pl.DataFrame(rows, schema=self._schema)
        if len(dataset.file_columns) < len(dataset.columns):
            later = [pl.lit(None, STORED[c.type]).alias(n) for n, c in dataset.file_columns.items()]
            missing = [found for found in later if found.meta.output_name() not in frame.columns]
            broken = pl.lit(None, pl.String).alias(BROKEN)
            found = derive(frame.with_row_index(LINE, 1).with_columns(broken, *missing), dataset)
            self._check_derived(found)
            frame = found.select(n for n, c in dataset.columns.items() if c.known == "before")
        key = partition_of(dataset.partition, dataset.partition.column or "")
        return frame.select(key.alias(PARTITION), pl.all())

    def _check_derived(self, rows: pl.DataFrame) -> None:
        """Refuse rows whose derived columns break a rule, as landing would quarantine them."""
        dataset = self.state.dataset
        if dataset.partition.column is not None:
            key = partition_keys(rows, dataset).fill_null("").alias(PARTITION)
            rows = rows.with_columns(key)
        for name, rule in self._derived_rules:
            broken = rows.select(rule.fails.fill_null(False)).to_series().arg_true()
            if len(broken):
                message = f"its value breaks the rule {name!r} of the contract"
                raise refused([{"row": broken[0], "column": rule.column, "message": message}])

    def _before(self, key: str) -> pl.DataFrame | None:
        """What rows of a partition look back on; read again when the dataset changes."""
        at = (self.state.tables.version(f"{self.state.dataset.name}/dataset"), key)
        if at not in self._past:
            history = Rows(self.state).history([key])
            self._past = {at: history.before(key)} if history else {}
        return self._past.get(at)


def _derived_before(dataset: DatasetSpec) -> set[str]:
    """Return the columns that are derived from what is known before the prediction alone."""
    names = {LINE}
    for name, column in (dataset.file_columns | dataset.columns).items():
        if column.known == "before" and names.issuperset(sources(column)):
            names.add(name)
    return names - dataset.file_columns.keys()
