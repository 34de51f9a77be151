"""SQL that gives one row for each row of the table `rows`, in the order of that table.

A join, a grouping or a subquery gives rows in any order, and another one on another machine, so
each row carries its place through the query. Not here: what the query is for.
"""

import re
from collections.abc import Mapping

import polars as pl

from retrain_assets.domain.data.values import as_floats

ROW, _PLACE = "_row", "_place"
_WORD = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | [()]
    | \bselect\b(?:\s+distinct\b)? | \bgroup\s+by\b""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_MOVES_ROWS = re.compile(r"\b(join|group|order|distinct|union|except|intersect)\b", re.IGNORECASE)

_PLAIN = re.compile(r"\s*select\b(?!\s+distinct\b)(.*)\bfrom\s+rows\s*", re.IGNORECASE | re.DOTALL)
_CAST = re.compile(
    r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/)|\bcast\s*\(""", re.IGNORECASE | re.DOTALL
)
_PIECE = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | [][(),]""",
    re.DOTALL | re.VERBOSE,
)


class QueryError(ValueError):
    """A query loses track of rows; the message says where and what would do."""


def run_in_order(sql: str, rows: pl.DataFrame, others: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Run a query and return its result in the order of `rows`, whose place is column `_row`.

    Args:
        sql: The query.
        rows: The table `rows`.
        others: Further tables, by name.

    Raises:
        QueryError: It has no SELECT, gives a row twice, or loses the place of rows in a subquery
            that moves them.
        PolarsError: It is not valid.
    """
    context = pl.SQLContext({"rows": rows.with_row_index(ROW), **others})
    try:
        result = _collect(context.execute(_add_place(forgive_rows(sql))))
    except pl.exceptions.PolarsError as error:
        why = str(error).partition("\n")[0]
        if ROW not in why:
            raise
        if _MOVES_ROWS.search(sql):
            raise QueryError(
                f"a subquery that joins or groups loses the order of the rows: select the column "
                f"{ROW} of `rows` in it and in each query around it ({why})"
            ) from error
        return _collect(context.execute(forgive_rows(sql))).drop(ROW, strict=False)
    if result[_PLACE].n_unique() < result.height:
        raise QueryError("the query gives a row more than once: join on columns that name one row")
    return result.sort(_PLACE).drop(_PLACE, ROW, strict=False)


def _collect(result: pl.LazyFrame) -> pl.DataFrame:
    """Compute all rows at once, since parts as many as the processors could be single rows.

    A single row is divided in another way: see `repeat_single`.
    """
    return result.collect(engine="in-memory")


def forgive_rows(sql: str) -> str:
    """Return SQL in which a value that cannot be computed is one null and fails no other row."""
    return _CAST.sub(lambda match: match[1] or "TRY_CAST(", as_floats(sql))


def split_select_list(sql: str) -> list[str] | None:
    """Return the expressions of `SELECT …, … FROM rows`; None of any other query."""
    plain = _PLAIN.fullmatch(forgive_rows(sql))
    if plain is None:
        return None
    depth, start, items, text = 0, 0, [], plain[1]
    for piece in _PIECE.finditer(text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(piece[0], 0)
        if depth == 0 and piece[0] == ",":
            items.append(text[start : piece.start()])
            start = piece.end()
    return [*items, text[start:]]


def _add_place(sql: str) -> str:
    """Return the query whose result also has the place of the row that each is made from."""
    depth, start, place = 0, 0, ROW
    for word in _WORD.finditer(sql):
        text = word[0].lower()
        depth += {"(": 1, ")": -1}.get(text, 0)
        if depth == 0 and text.startswith("select"):
            start = start or word.end()
        elif depth == 0 and text.startswith("group"):
            place = f"MIN({ROW})"
    if start == 0:
        raise QueryError("write SELECT … FROM rows, outside any parentheses")
    return f"{sql[:start]} {place} AS {_PLACE}, {sql[start:]}"
