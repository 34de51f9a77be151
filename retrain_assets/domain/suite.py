"""A contract as Great Expectations is asked about it: an expectation or more for each rule.

Only rules that accepted rows could break: their columns are typed, so no line is broken, no value
misread, and what lies far out or repeats a row cannot be told of them alone. Not here: asking.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from retrain_assets.domain.patterns import full_match
from retrain_assets.domain.rules import PARTITION, dataset_schema, partition_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from retrain_assets.specs.dataset import DatasetSpec, ExpectationSpec

ROWS = "_rows"
NOT_NULL, BETWEEN = "expect_column_values_to_not_be_null", "expect_column_values_to_be_between"
IN_SET = "expect_column_values_to_be_in_set"
UNIQUE = "expect_compound_columns_to_be_unique"
_OWN_PARTITION = "_own_partition"
_BOUNDS = {"column", "min_value", "max_value", "strict_min", "strict_max"}
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
class Asked:
    """One expectation.

    Args:
        rule: The one of `RULES` it stands for; or `schema`, `volume`, `expectations` (of the YAML).
        column: What it is about, named as a breach of the rule names it.
        name: Its own name, such as `expect_column_values_to_not_be_null`.
        kwargs: Its arguments.
        given: Its name in the YAML, where it is asked of a figure for each partition instead.
    """

    rule: str
    column: str | None
    name: str
    kwargs: Mapping[str, Any]
    given: str | None = None

    @property
    def title(self) -> str:
        """The name that people know it by."""
        return self.given or self.name

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Its arguments as people gave them."""
        return {**self.kwargs, "column": self.column} if self.given else self.kwargs

    def mentions(self, names: set[str]) -> bool:
        """Whether any of these columns is part of it, in whatever argument."""
        text = json.dumps([self.column, self.kwargs], default=str)
        return any(json.dumps(name)[1:-1] in text for name in names)


def schema_suite(spec: DatasetSpec) -> Iterator[Asked]:
    """Names and types at once, as column names of an empty frame."""
    expected = [f"{name}: {kind}" for name, kind in pl.Schema(dataset_schema(spec)).items()]
    kwargs = {"column_set": expected, "exact_match": True}
    yield Asked("schema", None, "expect_table_columns_to_match_set", kwargs)


def contract_suite(spec: DatasetSpec) -> Iterator[Asked]:
    """What each rule asks of rows that carry their own partition, with repetitions."""
    for name, column in spec.columns.items():
        on = {"column": name}
        if column.required:
            yield Asked("required", name, NOT_NULL, on)
        if column.min is not None or column.max is not None:
            bounds = {"min_value": column.min, "max_value": column.max}
            yield Asked("range", name, BETWEEN, on | bounds)
        if column.allowed is not None:
            yield Asked("allowed", name, IN_SET, on | {"value_set": column.allowed})
        if column.pattern is not None:
            regex = {"regex": full_match(column.pattern, end=r"\Z")}
            yield Asked("pattern", name, "expect_column_values_to_match_regex", on | regex)
    if (dated := spec.partition.column) is not None:
        pair = {"column_A": PARTITION, "column_B": _OWN_PARTITION}
        own = {**pair, "ignore_row_if": "either_value_is_missing"}
        yield Asked("partition", dated, NOT_NULL, {"column": dated})
        yield Asked("partition", dated, "expect_column_pair_values_to_be_equal", own)
    for name in spec.key:
        yield Asked("key", name, NOT_NULL, {"column": name})
    yield Asked("key", ", ".join(spec.key), UNIQUE, {"column_list": [PARTITION, *spec.key]})


def accepted_suite(spec: DatasetSpec) -> Iterator[Asked]:
    """What accepted rows are held to: the contract once more, and the YAML's own."""
    asked: dict[tuple[str, str], Asked] = {}
    for one in contract_suite(spec):
        asked.setdefault((one.name, str(one.kwargs)), one)
    yield from asked.values()
    for own in spec.expectations:
        if not _is_aggregate(own, spec):
            yield Asked("expectations", own.kwargs.get("column"), own.type, own.kwargs)


def partition_suite(spec: DatasetSpec) -> Iterator[Asked]:
    """What each partition is held to, asked of `figures`; one that lacks a figure fails."""
    bounds = {"column": ROWS, "min_value": spec.rows.min, "max_value": spec.rows.max}
    yield Asked("volume", ROWS, BETWEEN, bounds)
    for number, own in enumerate(spec.expectations):
        if _is_aggregate(own, spec):
            name, on = own.kwargs["column"], {"column": _figure(number)}
            for ask, kwargs in ((NOT_NULL, on), (BETWEEN, {**own.kwargs, **on})):
                yield Asked("expectations", name, ask, kwargs, given=own.type)


def figures(accepted: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """What `partition_suite` is asked about, a row a partition.

    Args:
        accepted: All accepted rows of whole partitions.
        spec: The dataset.

    Returns:
        `_landing_partition`, `_rows`, and a column for each aggregate; null where the partition has
        no value.
    """
    asked = {}
    for number, own in enumerate(spec.expectations):
        if _is_aggregate(own, spec):
            value = pl.col(own.kwargs["column"])
            figure = AGGREGATES[own.type](value.drop_nulls()).cast(pl.Float64)
            asked[_figure(number)] = pl.when(value.count() > 0).then(figure)
    return accepted.group_by(PARTITION, maintain_order=True).agg(pl.len().alias(ROWS), **asked)


def with_own_partition(rows: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """Add the partition that each row says it is of, where rows say so."""
    if spec.partition.column is None:
        return rows
    return rows.with_columns(
        partition_of(spec.partition, spec.partition.column).alias(_OWN_PARTITION)
    )


def _is_aggregate(own: ExpectationSpec, spec: DatasetSpec) -> bool:
    """Whether an expectation is on a figure that each partition has."""
    column = spec.columns.get(own.kwargs.get("column", ""))
    is_number = column is not None and column.type in ("int", "float")
    is_bound = "min_value" in own.kwargs or "max_value" in own.kwargs
    return own.type in AGGREGATES and is_number and is_bound and own.kwargs.keys() <= _BOUNDS


def _figure(number: int) -> str:
    return f"_figure_{number}"
