"""The expectations that Great Expectations checks on accepted rows and on whole partitions.

The rules of the contract bring their own expectations; the schema, the volume and the expectations
of the YAML are added here. Not here: running them.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from retrain_assets.domain.data import rules
from retrain_assets.domain.data.rules import BETWEEN, NOT_NULL, OWN_PARTITION, PARTITION
from retrain_assets.specs.dataset import DatasetSpec, ExpectationSpec

ROWS = "_rows"
_BOUNDS = {"column", "min_value", "max_value", "strict_min", "strict_max"}
_BY_ROW = (
    *("expect_column_values_to_", "expect_column_pair_values_"),
    *("expect_multicolumn_", "expect_select_column_values_to_be_unique_within_record"),
)
_BY_ALL_ROWS = ("values_to_be_unique", "_increasing", "_decreasing")
AGGREGATES: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "expect_column_mean_to_be_between": pl.Expr.mean,
    "expect_column_median_to_be_between": pl.Expr.median,
    "expect_column_min_to_be_between": pl.Expr.min,
    "expect_column_max_to_be_between": pl.Expr.max,
    "expect_column_sum_to_be_between": pl.Expr.sum,
    "expect_column_stdev_to_be_between": pl.Expr.std,
    "expect_column_unique_value_count_to_be_between": pl.Expr.n_unique,
    "expect_column_proportion_of_unique_values_to_be_between": lambda x: x.n_unique() / x.len(),
}


@dataclass(frozen=True)
class Expectation:
    """One expectation.

    Args:
        rule: Its rule in `RULES`; or `schema`, `volume`, or `expectations` of the YAML.
        column: The column it judges, named as the rule names it.
        name: Its own name, such as `expect_column_values_to_not_be_null`.
        kwargs: Its arguments.
        aggregate: Its name in the YAML, where it judges a figure of each partition instead.
    """

    rule: str
    column: str | None
    name: str
    kwargs: Mapping[str, Any]
    aggregate: str | None = None

    @property
    def title(self) -> str:
        """Return the name by which people know it."""
        return self.aggregate or self.name

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Return its arguments as the YAML has them."""
        return {**self.kwargs, "column": self.column} if self.aggregate else self.kwargs

    def mentions(self, names: set[str]) -> bool:
        """Return whether one of these columns is part of any argument."""
        text = json.dumps([self.column, self.kwargs], default=str)
        return any(json.dumps(name)[1:-1] in text for name in names)


def schema_suite(spec: DatasetSpec) -> Iterator[Expectation]:
    """Yield one expectation on names and types, written as column names of an empty frame."""
    expected = [f"{name}: {kind}" for name, kind in pl.Schema(rules.dataset_schema(spec)).items()]
    kwargs = {"column_set": expected, "exact_match": True}
    yield Expectation("schema", None, "expect_table_columns_to_match_set", kwargs)


def contract_suite(spec: DatasetSpec) -> Iterator[Expectation]:
    """Yield what each rule expects of rows `with_own_partition`, with repetitions."""
    for rule_name, rule in rules.contract_rules(spec):
        for name, kwargs in rule.expectations:
            yield Expectation(rule_name, rule.column, name, kwargs)


def accepted_suite(spec: DatasetSpec) -> Iterator[Expectation]:
    """Yield what is expected of accepted rows: the contract once more, and the YAML."""
    distinct: dict[tuple[str, str], Expectation] = {}
    for expectation in contract_suite(spec):
        distinct.setdefault((expectation.name, str(expectation.kwargs)), expectation)
    yield from distinct.values()
    for extra in spec.expectations:
        if not _is_aggregate(extra, spec):
            yield Expectation("expectations", extra.kwargs.get("column"), extra.type, extra.kwargs)


def partition_suite(spec: DatasetSpec) -> Iterator[Expectation]:
    """Yield what is expected of each partition in `figures`; a missing figure fails."""
    bounds = {"column": ROWS, "min_value": spec.rows.min, "max_value": spec.rows.max}
    yield Expectation("volume", ROWS, BETWEEN, bounds)
    for figure, extra in _aggregates(spec):
        on = {"column": figure}
        for name, kwargs in ((NOT_NULL, on), (BETWEEN, {**extra.kwargs, **on})):
            yield Expectation("expectations", extra.kwargs["column"], name, kwargs, extra.type)


def figures(accepted: pl.LazyFrame | pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """Return the figures that `partition_suite` judges, a row a partition.

    Args:
        accepted: All accepted rows of whole partitions.
        spec: The dataset.

    Returns:
        `_landing_partition`, `_rows`, and a column for each aggregate; null where the partition has
        no value.
    """
    aggregates = {}
    for name, extra in _aggregates(spec):
        value = pl.col(extra.kwargs["column"])
        figure = AGGREGATES[extra.type](value.drop_nulls()).cast(pl.Float64)
        aggregates[name] = pl.when(value.count() > 0).then(figure)
    columns = {extra.kwargs["column"] for _, extra in _aggregates(spec)}
    rows = accepted.lazy().select(PARTITION, *sorted(columns)).collect()
    return rows.group_by(PARTITION, maintain_order=True).agg(pl.len().alias(ROWS), **aggregates)


def with_own_partition(rows: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """Add the partition that the values of each row name, where the dataset has such a column."""
    if spec.partition.column is None:
        return rows
    key = rules.partition_of(spec.partition, spec.partition.column)
    return rows.with_columns(key.alias(OWN_PARTITION))


def _aggregates(spec: DatasetSpec) -> Iterator[tuple[str, ExpectationSpec]]:
    """Yield the expectations on a figure that each partition has, with the name of the figure."""
    for number, extra in enumerate(spec.expectations):
        if _is_aggregate(extra, spec):
            yield f"_figure_{number}", extra


def is_asked_by_row_or_partition(extra: ExpectationSpec, spec: DatasetSpec) -> bool:
    """Tell if the result for a partition is the same whatever other partitions a run covers."""
    by_row = extra.type.startswith(_BY_ROW) and not extra.type.endswith(_BY_ALL_ROWS)
    return _is_aggregate(extra, spec) or (by_row and extra.kwargs.get("mostly", 1) == 1)


def _is_aggregate(extra: ExpectationSpec, spec: DatasetSpec) -> bool:
    column = spec.columns.get(extra.kwargs.get("column", ""))
    is_number = column is not None and column.type in ("int", "float")
    is_bound = "min_value" in extra.kwargs or "max_value" in extra.kwargs
    return extra.type in AGGREGATES and is_number and is_bound and extra.kwargs.keys() <= _BOUNDS
