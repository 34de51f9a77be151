"""Draft the YAML of a dataset: columns, bounds, partitions and key.

Not here: the model.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import polars as pl

from retrain_assets.domain.start.draft import Draft
from retrain_assets.domain.start.meaning import is_identifier
from retrain_assets.domain.start.table import Table, count_rarest, ends

CHUNKS = 20
_MOST_ALLOWED, _LEAST_SEEN, _EARLY = 12, 3, 0.7
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+<>=/&()-]{0,40}|[<>]=?[0-9A-Za-z]{1,20}")
_MOST_DIGITS = 15


def describe_column(
    table: Table, name: str, *, is_key: bool, is_time: bool, is_personal: bool
) -> tuple[dict[str, Any], list[str]]:
    """Return the rules of a column, and the reasons to write beside them."""
    kind, reasons = table.types[name], list[str]()
    rules: dict[str, Any] = {"type": kind}
    if is_key or is_time:
        rules["required"] = True
    if is_personal:
        return rules | {"personal": True}, reasons
    if kind in ("int", "float") and not is_time and not is_identifier(table, name):
        bounds, reason = _bounds(table, name)
        rules |= bounds
        reasons += [reason] if reason else []
    if kind == "category" and (allowed := _allowed(table.rows[name])):
        rules["allowed"] = allowed
        reasons.append("the values observed: take `allowed` out if others may come")
    if missing := table.rows[name].null_count():
        reasons.append(f"empty in {missing:,} of {table.rows.height:,} rows")
    return rules, reasons


def _bounds(table: Table, name: str) -> tuple[dict[str, Any], str | None]:
    """Return bounds half a range beyond what was observed, and not below 0 without need."""
    values = table.rows[name].drop_nulls()
    low, high = ends(values)
    if low is None or low == high or max(abs(low), abs(high)) >= 10**_MOST_DIGITS:
        return {}, None
    if table.types[name] == "int" and (low, high) == (0, 1):
        return {"min": 0, "max": 1}, None
    if values.is_sorted() and values.n_unique() > _MOST_ALLOWED:
        return {}, "grows from row to row, so it has no bounds"
    margin = (high - low) / 2
    least = 0 if low >= 0 else _round(low - margin, math.floor)
    most = _round(high + margin, math.ceil)
    if table.types[name] == "int":
        least, most = math.floor(least), math.ceil(most)
    return {"min": least, "max": most}, f"observed {low:,.9g} to {high:,.9g}"


def _round(value: float, towards: Any) -> float | int:
    """Return a number with two digits, rounded outwards."""
    if value == 0:
        return 0
    digits = 1 - math.floor(math.log10(abs(value)))
    rounded = towards(value * 10**digits) / 10**digits
    return int(rounded) if float(rounded).is_integer() else float(f"{rounded:.2g}")


def _allowed(values: pl.Series) -> list[str]:
    """Return the values of a small category; none if others are likely to come."""
    present = values.drop_nulls()
    early = present.head(int(len(present) * _EARLY)).n_unique()
    texts = sorted(present.unique())
    is_settled = early == len(texts) and count_rarest(present) >= _LEAST_SEEN
    if len(texts) > _MOST_ALLOWED or not is_settled:
        return []
    return texts if all(_PLAIN.fullmatch(text) for text in texts) else []


def divide_lines(rows: int, column: str, *, is_sorted: bool) -> tuple[dict[str, Any], str]:
    """Return partitions by the order of lines, for rows without any time, and their expression.

    Args:
        rows: How many there are.
        column: The name of the partition column.
        is_sorted: The file is in the order of the target, so that parts of it are not alike.
    """
    size = max(1, math.ceil(rows / CHUNKS))
    if is_sorted:
        return {"by": "value", "column": column, "start": "00", "end": f"{CHUNKS - 1}"}, (
            f"_line % {CHUNKS}"
        )
    return {"by": "value", "column": column, "start": "000", "end": "999"}, f"_line // {size}"


def draft_dataset(
    head: Mapping[str, Any],
    columns: Mapping[str, dict[str, Any]],
    reasons: Mapping[str, list[str]],
    tail: Mapping[str, Any],
) -> Draft:
    """Return the draft of a dataset.

    Args:
        head: The fields before the columns.
        columns: The rules of each column.
        reasons: What is said beside each.
        tail: The fields after the columns.
    """
    draft = Draft("LandedDataset", {**head, "columns": dict(columns), **tail})
    for name, texts in reasons.items():
        draft.comments["columns", name] = "; ".join(texts)
    return draft
