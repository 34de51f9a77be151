"""The types of stored columns: widen a column when its type changes, or refuse the new values.

Delta casts new rows to the stored type without a word, so that 0.75 became 0. Not here: writing.
"""

from collections.abc import Mapping

import polars as pl

from retrain_assets.errors import PermanentError

# The types that hold each value of another type; a text holds whole numbers, whose text is unique.
_WIDER: Mapping[type[pl.DataType], tuple[type[pl.DataType], ...]] = {
    pl.Boolean: (pl.Int64, pl.Float64),
    pl.Int64: (pl.Int64, pl.Float64, pl.String),
    pl.Float32: (pl.Float64,),
    pl.Date: (pl.Datetime,),
}
_STORED = {pl.Categorical: pl.String(), pl.Enum: pl.String(), pl.Null: pl.Boolean()}


class ColumnTypeError(PermanentError):
    """A column's new values do not fit its stored type; the message says what would help."""


def stored_type(dtype: pl.DataType) -> pl.DataType:
    """Return the type that Delta has for a type: times in microseconds, whole numbers signed."""
    if dtype.is_unsigned_integer():
        return pl.Int64()
    if isinstance(dtype, pl.Datetime):
        return pl.Datetime("us", dtype.time_zone and "UTC")
    return _STORED.get(dtype.base_type(), dtype)


def joint_types(
    table: str, stored: pl.LazyFrame | None, rows: pl.LazyFrame, *, mixed: bool = False
) -> dict[str, pl.DataType]:
    """Return the type of each column of the rows that holds stored and new values unaltered.

    Args:
        table: The table, for messages.
        stored: Its rows that stay; None if it was never written.
        rows: The rows to write.
        mixed: Whether a column of numbers and of text holds all of them as text.

    Raises:
        ColumnTypeError: There is no such type for a column.
    """
    before = stored.collect_schema() if stored is not None else pl.Schema()
    types = {}
    for name, dtype in rows.collect_schema().items():
        new = stored_type(dtype)
        old = before.get(name, new)
        types[name] = new
        if old.is_nested():  # Delta itself merges the fields of nested columns
            continue
        frames = [rows] if stored is None or name not in before else [stored, rows]
        wider = pl.String() if mixed and pl.String in (old, new) else _wider(old, new)
        for types[name] in (wider,) if wider else (old, new):
            altered = [_altered(frame, name, types[name], bool(wider)) for frame in frames]
            if not any(altered):
                break
        else:
            example = next(filter(None, altered))[0]
            raise ColumnTypeError(
                f"table {table}: column {name} is stored as {old} and its new values are {new}, "
                f"such as {example!r}; no type holds both unaltered: give the column or feature "
                "another name, write it in the stored type, or build all partitions in one run"
            )
    return types


def _wider(old: pl.DataType, new: pl.DataType) -> pl.DataType | None:
    """Return that of two types which holds each value of the other, if one does."""
    for narrow, wide in ((old, new), (new, old)):
        kind = pl.Int64 if narrow.is_integer() else narrow.base_type()
        if narrow == wide or wide.base_type() in _WIDER.get(kind, ()):
            return wide
    return None


def _altered(frame: pl.LazyFrame, name: str, target: pl.DataType, castable: bool) -> list[object]:
    """Return a value that the other type does not hold, if there is one."""
    source, value = frame.collect_schema()[name], pl.col(name)
    if source == target or _STORED.get(source.base_type()) == target:
        return []
    same = value.is_null()
    if castable:
        same |= value.cast(target, strict=False).cast(source, strict=False).eq_missing(value)
    return frame.filter(~same).select(value).head(1).collect()[name].to_list()
