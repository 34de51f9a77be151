"""The rules of a contract, as polars expressions, and how text becomes typed values.

One rule is one function and one entry in `RULES`. Not here: applying them to files, and what
becomes of a row that breaks one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import polars.selectors as cs

from retrain_assets.specs.partition import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retrain_assets.specs.dataset import ColumnSpec, ColumnType, DatasetSpec
    from retrain_assets.specs.partition import PartitionSpec

Type = pl.DataType | type[pl.DataType]

PARTITION, LINE, BROKEN = "_landing_partition", "_line", "_broken"
# Read in full; equal to an earlier row; with the key of a row that differs.
WHOLE, REPEATED, CONFLICTING = "_whole", "_repeated", "_conflicting"
_FIRST = "_first"
NULL_WORDS = frozenset(
    ("NULL", "Null", "null", "None", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT")
)

STORED: dict[ColumnType, Type] = {
    "int": pl.Int64,
    "float": pl.Float64,
    "bool": pl.Boolean,
    "category": pl.String,
    "text": pl.String,
    "date": pl.Date,
    "datetime": pl.Datetime("us", "UTC"),
}
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_DATETIME = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})$"
)
_YEARS = (1, 9999)  # what Python's dates can hold


@dataclass(frozen=True)
class Breach:
    """One way in which rows break a rule.

    Args:
        column: Whose value it is; None where it is of the row.
        fails: True for rows that break the rule; null counts as false.
        value: What is shown of such a row.
    """

    column: str | None
    fails: pl.Expr
    value: pl.Expr


def partition_of(spec: PartitionSpec, column: str) -> pl.Expr:
    """The partition key of each row, from its typed partition column; `all` where there is none."""
    if spec.by == "none":
        return pl.lit(ALL)
    if spec.values is not None:
        return pl.col(column)
    if spec.period is None:
        return pl.col(column).cast(pl.String).str.zfill(len(spec.start or ""))
    dated, timed = cs.by_name(column) & cs.date(), cs.by_name(column) & cs.datetime()
    begins = (
        moment.dt.truncate(spec.period.every)
        for moment in (dated, timed.dt.convert_time_zone(spec.timezone).dt.replace_time_zone(None))
    )
    return pl.coalesce(begin.dt.strftime(spec.period.key_format) for begin in begins)


def dataset_schema(spec: DatasetSpec) -> dict[str, Type]:
    """The columns of accepted rows, in order."""
    columns = {name: STORED[column.type] for name, column in spec.columns.items()}
    return {PARTITION: pl.String, **columns}


# Rules: each says which rows break it, by the parsed columns `x` and the raw ones `_raw_x`.


def _parse(_: DatasetSpec) -> Iterator[Breach]:
    """A line that is no row."""
    yield Breach(None, pl.col(BROKEN).is_not_null(), pl.col(BROKEN))


def _type(spec: DatasetSpec) -> Iterator[Breach]:
    """A value that cannot be read as its column's type."""
    for name in spec.columns:
        yield Breach(name, unparsable(name, spec), raw(name))


def _required(spec: DatasetSpec) -> Iterator[Breach]:
    """No value where one must be."""
    for name, column in spec.columns.items():
        if column.required:
            yield Breach(name, missing(name, spec) & pl.col(BROKEN).is_null(), raw(name))


def _range(spec: DatasetSpec) -> Iterator[Breach]:
    """A number below `min` or above `max`."""
    for name, column in spec.columns.items():
        below = pl.lit(False) if column.min is None else pl.col(name) < column.min
        above = pl.lit(False) if column.max is None else pl.col(name) > column.max
        if column.min is not None or column.max is not None:
            yield Breach(name, below | above, raw(name))


def _allowed(spec: DatasetSpec) -> Iterator[Breach]:
    """A text that is not among those listed."""
    for name, column in spec.columns.items():
        if column.allowed is not None:
            yield Breach(name, ~pl.col(name).is_in(column.allowed), raw(name))


def _partition(spec: DatasetSpec) -> Iterator[Breach]:
    """A row of another partition than its file, or of none."""
    name = spec.partition.column
    if name is not None:
        undated = missing(name, spec) & pl.col(BROKEN).is_null()
        foreign = partition_of(spec.partition, name) != pl.col(PARTITION)
        yield Breach(name, undated | foreign, raw(name))


def _key(spec: DatasetSpec) -> Iterator[Breach]:
    """A key that is incomplete, or that rows have which differ."""
    for name in spec.key:
        yield Breach(name, missing(name, spec) & pl.col(BROKEN).is_null(), raw(name))
    yield _shared(spec, CONFLICTING)


def _repeat(spec: DatasetSpec) -> Iterator[Breach]:
    """A row that is there already: counted once, and no fault of its file."""
    yield _shared(spec, REPEATED)


def _shared(spec: DatasetSpec, flag: str) -> Breach:
    shown = pl.concat_str([raw(name).cast(pl.String) for name in spec.key], separator=", ")
    return Breach(", ".join(spec.key), pl.col(flag), shown)


RULES: dict[str, Callable[[DatasetSpec], Iterator[Breach]]] = {
    "parse": _parse,
    "type": _type,
    "required": _required,
    "range": _range,
    "allowed": _allowed,
    "partition": _partition,
    "key": _key,
    "repeat": _repeat,
}


def shared_keys(rows: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """Which rows have a key that their partition has more than once, as two flags.

    Of equal rows all but the first are `_repeated`; of rows that differ each is `_conflicting`,
    since nothing says which is right. Rows that could not be read in full are not compared. Only
    rows whose key is shared are looked at in full, since comparing whole rows is most of what
    judging costs.
    """
    shared = rows.select(pl.struct(PARTITION, *spec.key).is_duplicated()).to_series()
    compared = rows.filter(shared).select(PARTITION, WHOLE, *spec.columns)
    first = pl.struct(pl.all()).is_first_distinct()
    marked = compared.with_columns(first.alias(_FIRST))
    versions = (pl.col(WHOLE) & pl.col(_FIRST)).sum().over(PARTITION, *spec.key)
    found = marked.select(
        (pl.col(WHOLE) & ~pl.col(_FIRST) & (versions == 1)).alias(REPEATED),
        (pl.col(WHOLE) & (versions > 1)).alias(CONFLICTING),
    )
    flags = {name: np.zeros(rows.height, dtype=bool) for name in found.columns}
    for name, flag in flags.items():
        flag[shared.to_numpy()] = found[name].to_numpy()
    return pl.DataFrame(flags)


def raw(name: str) -> pl.Expr:
    """A column as it stood in the file."""
    return pl.col(f"_raw_{name}")


def missing(name: str, spec: DatasetSpec) -> pl.Expr:
    """Whether a file gave no value."""
    absent = raw(name).is_null()
    return absent | raw(name).is_in(spec.read.nulls) if spec.format == "csv" else absent


def unparsable(name: str, spec: DatasetSpec) -> pl.Expr:
    """Whether a file gave a value that is not of the column's type."""
    return pl.col(name).is_null() & ~missing(name, spec)


def parsed(name: str, column: ColumnSpec, spec: DatasetSpec) -> pl.Expr:
    """A raw column as its type; null where it cannot be read as that."""
    value: pl.Expr = pl.when(~missing(name, spec)).then(raw(name))
    if spec.format != "parquet":
        value = _from_text(value, column.type)
    if column.type == "int":
        return value.cast(pl.Int64, strict=False)
    if column.type == "float":
        return pl.when(value.is_finite()).then(value)
    if column.type in ("category", "text"):
        suspect = NULL_WORDS.difference(column.allowed or ())
        return pl.when(~value.is_in(sorted(suspect))).then(value)
    if column.type in ("date", "datetime"):
        return pl.when(value.dt.year().is_between(*_YEARS)).then(value)
    return value


def _from_text(text: pl.Expr, kind: ColumnType) -> pl.Expr:
    if kind == "float":
        return text.cast(pl.Float64, strict=False)
    if kind == "bool":
        words = {"true": True, "false": False}
        return text.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)
    if kind == "date":
        iso: pl.Expr = pl.when(text.str.contains(_DATE)).then(text)
        return iso.str.to_date("%Y-%m-%d", strict=False)
    if kind == "datetime":
        iso = pl.when(text.str.contains(_DATETIME)).then(text).str.replace(" ", "T", literal=True)
        return iso.str.to_datetime("%+", time_unit="us", strict=False)
    return text


def fits(found: pl.DataType, kind: ColumnType) -> bool:
    """Whether a parquet type can hold the values of a column; a naive datetime cannot."""
    if kind in ("int", "float"):
        return found.is_integer() or (kind == "float" and found.is_numeric())
    if kind == "datetime":
        return isinstance(found, pl.Datetime) and found.time_zone is not None
    if kind in ("category", "text"):
        return found in (pl.String, pl.Categorical, pl.Enum)
    return found == STORED[kind]
