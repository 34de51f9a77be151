"""From raw rows to features: the code of training, with the lookups held in memory.

`FeatureMaker.features` is `compute_features` on the lookups as they are now. For a few rows,
planning joins and SQL takes most of its time, so the quick way is used where it gave the same on
stored rows. Not here: encoding features for a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from retrain_assets.domain.data import contract, rules, values
from retrain_assets.domain.data.row_wise import compute_by_row
from retrain_assets.domain.data.rules import BROKEN, FILE_ROW, LINE, PARTITION, STORED
from retrain_assets.domain.features.build import RowError, compute_features, join_lookups
from retrain_assets.serving.scoring.quick_features import QuickFeatures
from retrain_assets.serving.scoring.request import Row, reject
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.features.rows import Rows
from retrain_assets.steps.state import ModelState

TRIED_ROWS = 200


@dataclass(frozen=True)
class LookupRows:
    """A lookup in memory.

    Args:
        version: The version of its table.
        changed: When that version was committed.
        rows: The columns that features can use.
        max_age: How old it may become; None without a bound.
    """

    version: int
    changed: datetime
    rows: pl.DataFrame
    max_age: timedelta | None = None


class FeatureMaker:
    """Computes features of raw rows, on one state of the lookups.

    Args:
        state: The model.
        lookups: Its lookups.

    Raises:
        FeatureError: A lookup has two rows for one key.
    """

    def __init__(self, state: ModelState, lookups: Mapping[str, LookupRows]) -> None:
        self.state, self.lookups = state, lookups
        self.quick: QuickFeatures | None = None
        self._tables = {name: lookup.rows for name, lookup in lookups.items()}
        dataset = state.dataset
        columns = {n: c for n, c in dataset.file_columns.items() if c.timing == "before"}
        self._schema = {name: STORED[column.type] for name, column in columns.items()}
        derived = _derived_before(dataset)
        self._derived_rules = [
            (name, rule)
            for name, rule in rules.contract_rules(dataset)
            if rule.limits is not None and derived.issuperset(rule.columns)
        ]
        self._past: dict[tuple[int | None, str], pl.DataFrame] = {}

    def features(self, rows: Sequence[Row] | pl.DataFrame) -> pl.DataFrame:
        """Return features of rows in the order given, as `compute_features` computes them.

        Raises:
            FeatureError: The model's SQL or function fails on them.
        """
        spec, dataset = self.state.spec, self.state.dataset
        frame = self._typed(rows)
        if not spec.features.history:
            return compute_features(frame, self._tables, spec, dataset)
        parts = []
        for part in frame.with_row_index("_order").partition_by(PARTITION):
            past = self._before(part[PARTITION][0])
            features = compute_features(part.drop("_order"), self._tables, spec, dataset, past)
            parts.append(features.with_columns(part["_order"]))
        return pl.concat(parts).sort("_order").drop("_order")

    def prepare(self, rows: Sequence[Row]) -> str | None:
        """Use the quick way from now on, provided that it gives the same for some rows.

        Returns:
            Why it is not used; None where it is.
        """
        try:
            empty = {name: table.head(0) for name, table in self._tables.items()}
            joined = join_lookups(self._typed([]), empty, self.state.spec.lookups).drop(PARTITION)
            quick = QuickFeatures(self.state.spec, tuple(self._schema), joined, self._tables)
            features, frame = self._select_sound(pl.DataFrame(rows, self._schema))
            by_frame = zip(*quick.frame(frame), strict=True)
            by_row = zip(*quick.values(frame.to_dicts()), strict=True)
            compared = list(zip(features.rows(), by_row, by_frame, strict=True))
        except (ValueError, pl.exceptions.PolarsError) as error:
            return str(error)
        for place, (expected, *results) in enumerate(compared):
            for result in results:
                if repr(result) != repr(expected):
                    return f"stored row {place} gives {result} instead of {expected}"
        self.quick = quick if quick.names == features.columns else None
        return None

    def _select_sound(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return features, and the rows that have some."""
        parts = [
            (features, part)
            for part, features in compute_by_row(rows, self.features, RowError)
            if isinstance(features, pl.DataFrame)
        ]
        features, sound = zip(*parts or [(self.features([]), rows.clear())], strict=True)
        return pl.concat(features), pl.concat(sound)

    def stored_rows(self, most: int = TRIED_ROWS) -> list[Row]:
        """Return raw rows of the newest stored partition, as a request would hold them."""
        maker = Rows(self.state)
        newest = list(maker.counts)[-1:]
        rows = maker._dataset(newest)  # noqa: SLF001 the same rows that features are made of
        return rows.select(*self._schema).sample(min(most, rows.height), seed=0).to_dicts()

    def _typed(self, rows: Sequence[Row] | pl.DataFrame) -> pl.DataFrame:
        dataset = self.state.dataset
        frame = pl.DataFrame(rows, schema=self._schema)
        if len(dataset.file_columns) < len(dataset.columns):
            absent = {n: c for n, c in dataset.file_columns.items() if n not in self._schema}
            frame = frame.with_row_index(LINE, 1).with_columns(
                pl.lit(None, pl.String).alias(BROKEN),
                pl.lit(None, pl.String).alias(PARTITION),
                *(pl.lit(None, STORED[column.type]).alias(n) for n, column in absent.items()),
            )
            frame = values.derive(frame, dataset)
            self._check_derived(frame)
            frame = frame.select(n for n, c in dataset.columns.items() if c.timing == "before")
        key = rules.partition_of(dataset.partition, dataset.partition.column or "")
        return frame.select(key.alias(PARTITION), pl.all())

    def _check_derived(self, rows: pl.DataFrame) -> None:
        """Refuse rows whose derived columns break a rule, as landing would quarantine them."""
        dataset = self.state.dataset
        if dataset.partition.column is not None:
            key = contract.partition_keys(rows, dataset).fill_null("").alias(PARTITION)
            rows = rows.with_columns(key)
        for name, rule in self._derived_rules:
            broken = rows.select(rule.fails.fill_null(False)).to_series().arg_true()
            if len(broken):
                message = f"its value breaks the rule {name!r} of the contract"
                raise reject([{"row": broken[0], "column": rule.column, "message": message}])

    def _before(self, key: str) -> pl.DataFrame | None:
        """Return what rows of a partition look back on, read again when the dataset changes."""
        place = (self.state.tables.version(f"{self.state.dataset.name}/dataset"), key)
        if place not in self._past:
            history = Rows(self.state).history([key])
            self._past = {place: history.before(key)} if history else {}
        return self._past.get(place)


def _derived_before(dataset: DatasetSpec) -> set[str]:
    """Return the columns that are derived only from what is known before the prediction."""
    names = {LINE, FILE_ROW}
    for name, column in (dataset.file_columns | dataset.columns).items():
        if column.timing == "before" and names.issuperset(values.sources(column)):
            names.add(name)
    return names - dataset.file_columns.keys()
