"""The rules of a contract, as polars expressions.

One rule is one function and one entry in `RULES`. Not here: how text becomes typed values, applying
rules to files, and what becomes of a row that breaks one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import polars.selectors as cs

from retrain_assets.domain.patterns import full_match
from retrain_assets.specs.partition import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retrain_assets.specs.dataset import ColumnType, DatasetSpec
    from retrain_assets.specs.partition import PartitionSpec

Type = pl.DataType | type[pl.DataType]

PARTITION, LINE, BROKEN = "_landing_partition", "_line", "_broken"
# Read in full; equal to an earlier row; with the key of a row that differs.
WHOLE, REPEATED, CONFLICTING = "_whole", "_repeated", "_conflicting"
_FIRST = "_first"

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
class Breach:
    """One way in which rows break a rule.

    Args:
        columns: Whose values it is about; none where it is about the row.
        fails: True for rows that break the rule; null counts as false.
        value: What is shown of such a row.
    """

    columns: tuple[str, ...]
    fails: pl.Expr
    value: pl.Expr

    @property
    def column(self) -> str | None:
        """The columns by name."""
        return ", ".join(self.columns) or None


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
    yield Breach((), pl.col(BROKEN).is_not_null(), pl.col(BROKEN))


def _type(spec: DatasetSpec) -> Iterator[Breach]:
    """A value that cannot be read as its column's type."""
    for name in spec.columns:
        yield Breach((name,), unparsable(name), raw(name))


def _required(spec: DatasetSpec) -> Iterator[Breach]:
    """No value where one must be."""
    for name, column in spec.columns.items():
        if column.required:
            yield Breach((name,), missing(name) & pl.col(BROKEN).is_null(), raw(name))


def _range(spec: DatasetSpec) -> Iterator[Breach]:
    """A number below `min` or above `max`."""
    for name, column in spec.columns.items():
        below = pl.lit(False) if column.min is None else pl.col(name) < column.min
        above = pl.lit(False) if column.max is None else pl.col(name) > column.max
        if column.min is not None or column.max is not None:
            yield Breach((name,), below | above, raw(name))


def _allowed(spec: DatasetSpec) -> Iterator[Breach]:
    """A text that is not among those listed."""
    for name, column in spec.columns.items():
        if column.allowed is not None:
            yield Breach((name,), ~pl.col(name).is_in(column.allowed), raw(name))


def _pattern(spec: DatasetSpec) -> Iterator[Breach]:
    """A text of which not all matches."""
    for name, column in spec.columns.items():
        if column.pattern is not None:
            matches = pl.col(name).str.contains(full_match(column.pattern))
            yield Breach((name,), ~matches, raw(name))


def _outlier(spec: DatasetSpec) -> Iterator[Breach]:
    """A number that lies far out among those of its partition."""
    for name, column in spec.columns.items():
        if column.outliers is not None and column.outliers.action == "quarantine":
            yield Breach((name,), pl.col(far_out(name)), raw(name))


def _partition(spec: DatasetSpec) -> Iterator[Breach]:
    """A row of another partition than its file, or of none."""
    name = spec.partition.column
    if name is not None:
        undated = missing(name) & pl.col(BROKEN).is_null()
        foreign = partition_of(spec.partition, name) != pl.col(PARTITION)
        yield Breach((name,), undated | foreign, raw(name))


def _key(spec: DatasetSpec) -> Iterator[Breach]:
    """A key that is incomplete, or that rows have which differ."""
    for name in spec.key:
        yield Breach((name,), missing(name) & pl.col(BROKEN).is_null(), raw(name))
    yield _shared(spec, CONFLICTING)


def _repeat(spec: DatasetSpec) -> Iterator[Breach]:
    """A row that is there already: counted once, and no fault of its file."""
    yield _shared(spec, REPEATED)


def _shared(spec: DatasetSpec, flag: str) -> Breach:
    shown = pl.concat_str([raw(name).cast(pl.String) for name in spec.key], separator=", ")
    return Breach(tuple(spec.key), pl.col(flag), shown)


RULES: dict[str, Callable[[DatasetSpec], Iterator[Breach]]] = {
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


def shared_keys(rows: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """Which rows have a key that their partition has more than once, as two flags.

    Of equal rows all but the first are `_repeated`; of rows that differ each is `_conflicting`,
    since nothing says which is right. Rows that could not be read in full are not compared. Only
    rows whose key is shared are looked at in full, since comparing whole rows is most of what
    judging costs.
    """
    # Hashes that are equal by chance only mean that more is compared.
    shared = rows.select(pl.struct(PARTITION, *spec.key).hash().is_duplicated()).to_series()
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


def is_text(name: str, spec: DatasetSpec) -> bool:
    """Whether a raw column is text that has yet to be read as its type."""
    return not spec.is_typed and spec.columns[name].expression is None


def given(name: str) -> str:
    """The flag of rows in which a column has a value, be it one that cannot be read."""
    return f"_given_{name}"


def missing(name: str) -> pl.Expr:
    """Whether no value was given."""
    return ~pl.col(given(name))


def unparsable(name: str) -> pl.Expr:
    """Whether a value was given that is not of the column's type."""
    return pl.col(name).is_null() & pl.col(given(name))


def far_out(name: str) -> str:
    """The flag of values that lie far out."""
    return f"_far_{name}"


def mark_outliers(rows: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """Flag values by their robust z-score, |x - median| / s, within their partition.

    s is 1.4826 MAD, the median absolute deviation, which estimates the standard deviation of a
    normal distribution; where more than half of the values are equal, so that MAD is 0, it is
    1.2533 times the mean absolute deviation (Iglewicz and Hoaglin 1993). All values that could be
    read are among those compared.
    """
    for name, column in spec.columns.items():
        if column.outliers is not None:
            value, distance = pl.col(name).cast(pl.Float64), pl.col(far_out(name))
            scales = ((distance.median(), 1.4826), (distance.mean(), 1.2533))
            spread, fallback = (scale.over(PARTITION) * factor for scale, factor in scales)
            scale = pl.when(spread > 0).then(spread).otherwise(fallback)
            rows = rows.with_columns(
                (value - value.median().over(PARTITION)).abs().alias(far_out(name))
            ).with_columns((distance > column.outliers.robust_z * scale).alias(far_out(name)))
    return rows
