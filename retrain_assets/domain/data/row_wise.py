"""Compute expressions so that a row has the value it has alone, and fails no other row.

Not here: which values are computed.
"""

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import polars as pl

_MAX_CHARACTERS = 300
Result = TypeVar("Result")
Failure = TypeVar("Failure", bound=BaseException)
SQL_ERRORS: tuple[type[BaseException], ...] = (
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
)


def explain_sql(error: BaseException) -> str:
    """Return the first line of an error of polars' SQL, whose place is counted in the SQL."""
    text = str(error).partition("\n")[0][:_MAX_CHARACTERS]
    match = re.search(r" at Line: (\d+), Column: (\d+)", text)
    if match is None:
        return text
    line = f" of line {match[1]}" if match[1] != "1" else ""
    text = text.replace(match[0], f", at character {match[2]}{line} of the SQL")
    unexpected = re.search(r"Expected: (end of statement|\)), found: (\S+?),", text)
    return f"{text}: is a comma missing before {unexpected[2]}?" if unexpected else text


def repeat_single(rows: pl.DataFrame) -> pl.DataFrame:
    """Return a single row twice, and other rows as they are, with each value written out.

    Polars multiplies a column by the reciprocal of a constant divisor, but divides a single row and
    a column that is stored as one repeated value, so the last bit differs
    (https://github.com/pola-rs/polars/issues/27753).
    """
    columns = rows.get_columns()
    return pl.DataFrame([pl.concat([item] * 2) for item in columns] if len(rows) == 1 else columns)


def select_rows(rows: pl.DataFrame, *values: pl.Expr | str) -> pl.DataFrame:
    """Select expressions whose value for a row has the same bits alone and among others."""
    return repeat_single(rows).select(*values)[: rows.height]


def compute_by_row(
    rows: pl.DataFrame,
    compute: Callable[[pl.DataFrame], Result],
    errors: type[Failure] | tuple[type[Failure], ...],
    *,
    is_checked: bool = False,
) -> Iterator[tuple[pl.DataFrame, Result | Failure]]:
    """Yield parts of rows in order with what is computed of them, or with the error of a row.

    Rows that fail are located by halving, so that they fail no other row.

    Args:
        rows: The rows.
        compute: Computes something of any number of rows.
        errors: What it raises where a row fails.
        is_checked: Whether it is known to succeed without any row.

    Raises:
        Failure: It is raised without any row too, so that no row is at fault.
    """
    result: Result | Failure
    try:
        result = compute(rows)
    except errors as error:
        if rows.is_empty():
            raise
        if not is_checked:
            compute(rows.clear())
        result = error
    if isinstance(result, errors) and rows.height > 1:
        half = rows.height // 2
        yield from compute_by_row(rows[:half], compute, errors, is_checked=True)
        yield from compute_by_row(rows[half:], compute, errors, is_checked=True)
    else:
        yield rows, result


def select_possible(rows: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    """Return the values of an expression, null for each row for which it fails."""
    results = compute_by_row(rows, lambda part: select_rows(part, value), SQL_ERRORS)
    nothing = pl.lit(None).alias(value.meta.output_name())
    return pl.concat(
        (
            (part.select(nothing) if isinstance(result, BaseException) else result)
            for part, result in results
        ),
        how="vertical_relaxed",
    )
