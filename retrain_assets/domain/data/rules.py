"""The rules of a contract, each in one place for the three engines that ask it.

A rule is one function and one entry in `RULES`. It says which rows break it as a polars expression
for files, as expectations for Great Expectations, and as limits on one value for requests. Not
here: how text becomes typed values, applying rules to rows, and what follows for a row that breaks
one.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import polars.selectors as cs

from retrain_assets.domain.data.patterns import full_match
from retrain_assets.specs.dataset import ColumnType, DatasetSpec
from retrain_assets.specs.partition import ALL, PartitionSpec

Type = pl.DataType | type[pl.DataType]

PARTITION, LINE = "_landing_partition", "_line"
FILE_ROW = "_row"  # in expressions: the place of a row's line after the header, from 0
FILE_PARTITION = "_partition"  # in expressions: the partition that the name of a file contains
MASK = "***"  # stands for a personal value
# The text of a line that is no row, and why it is none or why the partition of a row waits.
BROKEN, PROBLEM = "_broken", "_problem"
# Rows that could be read in full, that equal an earlier row, and that differ under one key.
WHOLE, REPEATED, CONFLICTING = "_whole", "_repeated", "_conflicting"
OWN_PARTITION = "_own_partition"
NOT_NULL, BETWEEN = "expect_column_values_to_not_be_null", "expect_column_values_to_be_between"
IN_SET = "expect_column_values_to_be_in_set"
UNIQUE = "expect_compound_columns_to_be_unique"

_TIGHTER: dict[str, Callable[[Any, Any], Any]] = {
    "le": min,
    "enum": lambda first, second: [value for value in first if value in second],
}

STORED: dict[ColumnType, Type] = {
    "int": pl.Int64,
    "float": pl.Float64,
    "bool": pl.Boolean,
    "category": pl.String,
    "text": pl.String,
    "date": pl.Date,
    "datetime": pl.Datetime("us", "UTC"),
}


@dataclass(frozen=True)
class Rule:
    """A rule as each engine asks it.

    Args:
        columns: The columns whose values it judges; none where it judges the row.
        fails: For polars: true for rows that break it; null counts as false.
        value: What is shown of a row that breaks it.
        expectations: For Great Expectations: names and arguments; none where accepted rows cannot
            break it.
        limits: For a value in a request, as pydantic names them, with `enum`, and `required` where
            null breaks the rule. None where one row alone cannot break it.
    """

    columns: tuple[str, ...]
    fails: pl.Expr
    value: pl.Expr
    expectations: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    limits: Mapping[str, Any] | None = None

    @property
    def column(self) -> str | None:
        """Return the names of the columns as one text."""
        return ", ".join(self.columns) or None


def partition_of(spec: PartitionSpec, column: str) -> pl.Expr:
    """Return the partition key of each row by its partition column; `all` where there is none."""
    if spec.by == "none":
        return pl.lit(ALL)
    if spec.values is not None:
        return pl.col(column)
    if spec.period is None:
        return pl.col(column).cast(pl.String).str.zfill(len(spec.start or ""))
    dated, timed = cs.by_name(column) & cs.date(), cs.by_name(column) & cs.datetime()
    begins = (
        moment.dt.truncate(spec.period.length)
        for moment in (dated, timed.dt.convert_time_zone(spec.timezone).dt.replace_time_zone(None))
    )
    return pl.coalesce(begin.dt.strftime(spec.period.key_format) for begin in begins)


def dataset_schema(spec: DatasetSpec) -> dict[str, Type]:
    """Return the columns of accepted rows in order."""
    columns = {name: STORED[column.type] for name, column in spec.columns.items()}
    return {PARTITION: pl.String, **columns}


def _parse(_: DatasetSpec) -> Iterator[Rule]:
    """Refuse a line that is no row."""
    yield Rule((), pl.col(BROKEN).is_not_null(), pl.col(BROKEN))


def _type(spec: DatasetSpec) -> Iterator[Rule]:
    """Refuse a value that cannot be read as the type of its column."""
    for name in spec.columns:
        yield Rule((name,), unparsable(name), raw(name), limits={})


def _required(spec: DatasetSpec) -> Iterator[Rule]:
    """Refuse a row without a value that it must have."""
    for name, column in spec.columns.items():
        if column.required:
            rule = _present(name)
            if column.since is not None:
                is_due = pl.col(PARTITION) >= column.since
                rule = replace(rule, fails=rule.fails & is_due, expectations=())
            yield rule


def _range(spec: DatasetSpec) -> Iterator[Rule]:
    """Refuse a number below `min` or above `max`."""
    for name, column in spec.columns.items():
        below = pl.lit(False) if column.min is None else pl.col(name) < column.min
        above = pl.lit(False) if column.max is None else pl.col(name) > column.max
        if column.min is not None or column.max is not None:
            bounds = {"column": name, "min_value": column.min, "max_value": column.max}
            limits = {"ge": column.min, "le": column.max}
            yield Rule((name,), below | above, raw(name), ((BETWEEN, bounds),), limits)


def _allowed(spec: DatasetSpec) -> Iterator[Rule]:
    """Refuse a text that is not among those listed."""
    for name, column in spec.columns.items():
        if (listed := column.allowed) is not None:
            among = (IN_SET, {"column": name, "value_set": listed})
            yield Rule((name,), ~pl.col(name).is_in(listed), raw(name), (among,), {"enum": listed})


def _pattern(spec: DatasetSpec) -> Iterator[Rule]:
    """Refuse a text that the pattern does not match in full."""
    for name, column in spec.columns.items():
        if column.pattern is not None:
            matches = pl.col(name).str.contains(full_match(column.pattern))
            regex = {"column": name, "regex": full_match(column.pattern, end=r"\Z")}
            limits = {"pattern": full_match(column.pattern, begin="^", end="$")}
            match = ("expect_column_values_to_match_regex", regex)
            yield Rule((name,), ~matches, raw(name), (match,), limits)


def _outlier(spec: DatasetSpec) -> Iterator[Rule]:
    """Refuse a number that lies far out among those of its partition."""
    for name, column in spec.columns.items():
        if column.outliers is not None and column.outliers.action == "quarantine":
            yield Rule((name,), pl.col(far_out(name)), raw(name))


def _partition(spec: DatasetSpec) -> Iterator[Rule]:
    """Refuse a row of another partition than its file, or of none."""
    name = spec.partition.column
    if name in spec.columns:
        present = _present(name)
        foreign = partition_of(spec.partition, name) != pl.col(PARTITION)
        pair = {"column_A": PARTITION, "column_B": OWN_PARTITION}
        same = {**pair, "ignore_row_if": "either_value_is_missing"}
        expected = (*present.expectations, ("expect_column_pair_values_to_be_equal", same))
        is_timed = spec.columns[name].type == "datetime"
        limits = {"required": True, **spec.partition.limits(is_timed=is_timed)}
        text = raw(name).cast(pl.String)
        explained = pl.concat_str(text, PROBLEM, separator=": ", ignore_nulls=True)
        value = pl.when(pl.col(PROBLEM).is_null()).then(text).otherwise(explained)
        yield Rule((name,), present.fails | foreign, value, expected, limits)


def _key(spec: DatasetSpec) -> Iterator[Rule]:
    """Refuse a row whose key is incomplete, and rows that differ under one key."""
    yield from map(_present, spec.key)
    unique = (UNIQUE, {"column_list": [PARTITION, *spec.key]})
    yield Rule(tuple(spec.key), pl.col(CONFLICTING), _shown_key(spec), (unique,))


def _repeat(spec: DatasetSpec) -> Iterator[Rule]:
    """Count a row that occurs again once, which is no fault of its file."""
    yield Rule(tuple(spec.key), pl.col(REPEATED), _shown_key(spec))


def _present(name: str) -> Rule:
    fails = missing(name) & pl.col(BROKEN).is_null()
    return Rule((name,), fails, raw(name), ((NOT_NULL, {"column": name}),), {"required": True})


def _shown_key(spec: DatasetSpec) -> pl.Expr:
    return pl.concat_str([raw(name).cast(pl.String) for name in spec.key], separator=", ")


RULES: dict[str, Callable[[DatasetSpec], Iterator[Rule]]] = {
    "parse": _parse,
    "type": _type,
    "required": _required,
    "range": _range,
    "allowed": _allowed,
    "pattern": _pattern,
    "outlier": _outlier,
    "partition": _partition,
    "key": _key,
    "repeat": _repeat,
}


def contract_rules(spec: DatasetSpec) -> list[tuple[str, Rule]]:
    """Return all rules of a dataset with their names."""
    return [(name, rule) for name, rules in RULES.items() for rule in rules(spec)]


def column_limits(spec: DatasetSpec) -> dict[str, dict[str, Any]]:
    """Return the limits of all rules on single values, by column."""
    merged: dict[str, dict[str, Any]] = {name: {} for name in spec.columns}
    for _, rule in contract_rules(spec):
        for key, limit in (rule.limits or {}).items():
            column = merged[rule.columns[0]]
            if limit is not None:
                column[key] = _TIGHTER.get(key, max)(column.get(key, limit), limit)
    return merged


def row_key(spec: DatasetSpec) -> pl.Expr:
    r"""Return the key of each row as one text: its values joined by `|`.

    Of several values, `|` and `\` within one are escaped by `\`, so that no two keys are one text.
    """
    parts = [pl.col(name).cast(pl.String) for name in spec.key]
    if len(parts) > 1:
        parts = [part.str.replace_all(r"([\\|])", r"\$1") for part in parts]
    return pl.concat_str(parts, separator="|")


def raw(name: str) -> pl.Expr:
    """Return a column as the file has it."""
    return pl.col(f"_raw_{name}")


def is_text(name: str, spec: DatasetSpec) -> bool:
    """Return whether a raw column is text that must still be read as its type."""
    return not spec.is_typed and spec.columns[name].expression is None


def value_flag(name: str) -> str:
    """Name the flag of rows in which a column has a value, readable or not."""
    return f"_given_{name}"


def missing(name: str) -> pl.Expr:
    """Return where a column has no value."""
    return ~pl.col(value_flag(name))


def unparsable(name: str) -> pl.Expr:
    """Return where a column has a value that cannot be read as its type."""
    return pl.col(name).is_null() & pl.col(value_flag(name))


def far_out(name: str) -> str:
    """Name the flag of values that lie far out."""
    return f"_far_{name}"
