"""Columns that are no part of a file: SQL over the columns that are.

Not here: whether what comes out is sound.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.rules import BROKEN, LINE, STORED, given
from retrain_assets.domain.values import fits, parsed, wide

if TYPE_CHECKING:
    from retrain_assets.specs.dataset import DatasetSpec

# polars runs a query within an expression, files included, as soon as it parses it.
_FORBIDDEN = re.compile(
    r"\b(select|from|table|now|current_(?:date|time|timestamp)|local(?:time|timestamp))\b",
    re.IGNORECASE,
)
_VALUE, _GIVEN = "_value", "_given"


def derive(rows: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """Add the derived columns, raw and parsed, each over the columns before it.

    Args:
        rows: With all other columns as their types.
        spec: The dataset, of which each expression is sound.
    """
    visible = [*spec.file_columns, LINE, BROKEN]
    for name, column in spec.columns.items():
        if column.expression is not None:
            value = pl.when(pl.col(BROKEN).is_null()).then(pl.sql_expr(column.expression))
            found = _evaluated(rows.select(visible), value.cast(wide(column)))
            rows = rows.with_columns(
                found[_VALUE].alias(f"_raw_{name}"), found[_GIVEN].alias(given(name))
            ).with_columns(parsed(name, column, spec).alias(name))
            visible.append(name)
    return rows


def _evaluated(rows: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    """The value of each row; null though given where it fails, which is found by halves."""
    try:
        found = rows.select(value.alias(_VALUE), LINE)
        return found.select(_VALUE, pl.col(_VALUE).is_not_null().alias(_GIVEN))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        if rows.height <= 1:
            return rows.select(pl.lit(None).alias(_VALUE), (pl.col(LINE) > 0).alias(_GIVEN))
    half = rows.height // 2
    parts = _evaluated(rows[:half], value), _evaluated(rows[half:], value)
    return pl.concat(parts, how="vertical_relaxed")


def mistaken_expression(name: str, spec: DatasetSpec) -> str | None:
    """What is wrong with the expression of a derived column, told without data."""
    column, expression = spec.columns[name], spec.columns[name].expression or ""
    if found := _FORBIDDEN.search(expression):
        return (
            f"may not hold {found[0]!r}, neither a query nor the clock: use columns and functions"
        )
    before = list(spec.columns)[: list(spec.columns).index(name)]
    known = {*spec.file_columns, *before} - {name}
    rows = pl.LazyFrame(schema={LINE: pl.Int64, **{k: STORED[spec.columns[k].type] for k in known}})
    try:
        value = pl.sql_expr(expression)
        if "strict_cast" in str(value):
            return "fails for all rows where one cannot be cast: write TRY_CAST, which gives null"
        derived = rows.with_columns(value.alias(_VALUE))
        kind = derived.collect_schema()[_VALUE]
        # polars moves a filter below what it knows to be computed row by row, and only that.
        by_row = not derived.filter(pl.col(LINE) > 0).explain().startswith("FILTER")
        derived.collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        return f"is not valid: {str(error).partition(chr(10))[0][:300]}"
    if not by_row:
        return "looks at more than its own row: leave out aggregates, windows and offsets"
    if not fits(kind, column.type):
        return f"gives {kind}, but the contract says {column.type}: cast it"
    return None
