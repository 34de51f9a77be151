"""How what stands in a file becomes a typed value, or none where it cannot.

Not here: whether a value that could be read is sound.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.rules import STORED, given, is_text, raw

if TYPE_CHECKING:
    from collections.abc import Mapping

    from retrain_assets.domain.rules import Type
    from retrain_assets.specs.dataset import ColumnSpec, ColumnType, DatasetSpec

NULL_WORDS = frozenset(
    ("NULL", "Null", "null", "None", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT")
)
_MAX_BYTES = 2**17  # of one value, as Python's csv module has it
_ISO: dict[ColumnType, str] = {
    "date": "[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "datetime": r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})",
}
# chrono takes a sign, any number of digits, and second 60 as well.
_DIRECTIVES = {"Y": "[0-9]{4}", "S": "[0-5]?[0-9]"} | dict.fromkeys("mdyHMIj", "[0-9]{1,3}")
_YEARS = (1, 9999)  # what Python's dates can hold


def wide(column: ColumnSpec) -> Type:
    """The type that a typed value is kept in until it is judged."""
    # An unsigned value too large is then seen, not wrapped.
    return pl.Int128 if column.type == "int" else STORED[column.type]


def is_given(name: str, spec: DatasetSpec) -> pl.Expr:
    """Whether a file gives a value, be it one that cannot be read."""
    absent = raw(name).is_null()
    return ~(absent | raw(name).is_in(spec.read.nulls) if spec.format == "csv" else absent)


def parsed(name: str, column: ColumnSpec, spec: DatasetSpec) -> pl.Expr:
    """A raw column as its type; null where it cannot be read as that."""
    value = raw(name)
    if is_text(name, spec):
        is_value = pl.col(given(name)) & (value.str.len_bytes() <= _MAX_BYTES)
        value = _from_text(pl.when(is_value).then(value), name, spec)
    if column.type == "int":
        return value.cast(pl.Int64, strict=False)
    if column.type == "float":
        return pl.when(value.is_finite()).then(value)
    if column.type in ("category", "text"):
        suspect = value.is_in(sorted(NULL_WORDS.difference(column.allowed or ())))
        if not is_text(name, spec) and column.allowed is None:
            suspect |= value.str.contains("\0", literal=True) | (value.str.len_bytes() > _MAX_BYTES)
        return pl.when(~suspect).then(value)
    if column.type in ("date", "datetime"):
        return pl.when(value.dt.year().is_between(*_YEARS)).then(value)
    return value


def _from_text(text: pl.Expr, name: str, spec: DatasetSpec) -> pl.Expr:
    kind = spec.columns[name].type
    if kind == "float":
        if spec.format == "csv" and spec.read.decimal == ",":
            text = pl.when(~text.str.contains(".", literal=True)).then(text)
            text = text.str.replace(",", ".", literal=True)
        return text.cast(pl.Float64, strict=False)
    if kind == "bool":
        words = {"true": True, "false": False}
        return text.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)
    if kind in ("date", "datetime"):
        return moment(text, kind, spec.read.date_format.get(name), spec.partition.timezone)
    return text


def moment(text: pl.Expr, kind: ColumnType, written: str | None, timezone: str) -> pl.Expr:
    """Text as a date or datetime.

    Args:
        text: What stands in the file.
        kind: `date` or `datetime`.
        written: A format of strftime; None for ISO 8601, a datetime then with its offset.
        timezone: Where a time without offset was taken. An hour that a clock there skips or
            repeats is null.
    """
    form = _ISO[kind] if written is None else _as_regex(written)
    text = pl.when(text.str.contains(f"^{form}$")).then(text)
    if kind == "date":
        return text.str.to_date(written or "%Y-%m-%d", strict=False)
    if written is None:
        text = text.str.replace(" ", "T", literal=True)
    read = text.str.to_datetime(written or "%+", time_unit="us", strict=False)
    if written is None or re.search(r"%:*z|%\+", written):
        return read
    local = read.dt.replace_time_zone(timezone, ambiguous="null", non_existent="null")
    return local.dt.convert_time_zone("UTC")


def _as_regex(written: str) -> str:
    """What a format of strftime may look like; numbers need no zero before them."""
    parts = re.split(r"%[-_0]?([:.0-9]*[A-Za-z%+])", written.replace("%F", "%Y-%m-%d"))
    named = [_DIRECTIVES.get(directive, ".*") for directive in parts[1::2]]
    literal = [re.escape(part) for part in parts[::2]]
    return "".join(a + b for a, b in zip(literal, [*named, ""], strict=True))


def misfit(found: Mapping[str, pl.DataType], spec: DatasetSpec) -> str | None:
    """Why the types of a parquet file or table are not those of the contract."""
    for name, column in spec.file_columns.items():
        kind = found[name]
        if kind != pl.Null and not fits(kind, column.type):
            return f"column {name} is {kind}, but the contract says {column.type}"
        zone = getattr(kind, "time_zone", None) or "UTC"
        if zone not in ("UTC", spec.partition.timezone):
            return (
                f"column {name} is in time zone {zone}, but partition.timezone is "
                f"{spec.partition.timezone}: write it in that or in UTC"
            )
    return None


def fits(found: pl.DataType, kind: ColumnType) -> bool:
    """Whether a type can hold the values of a column; a naive datetime cannot."""
    if kind in ("int", "float"):
        return found.is_integer() or (kind == "float" and found.is_numeric())
    if kind == "datetime":
        return isinstance(found, pl.Datetime) and found.time_zone is not None
    if kind in ("category", "text"):
        return found in (pl.String, pl.Categorical, pl.Enum)
    return found == STORED[kind]
