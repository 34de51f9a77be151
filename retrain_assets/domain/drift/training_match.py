"""Whether rows of features are like those a model was trained on, by partition and column.

This asks whether a model can use the rows at all; a shift within what was trained on is drift and
judged elsewhere. Training comes in as profiles, never as rows. Not here: reading either, outliers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.profile import ColumnProfile, get_kind

Finding = dict[str, object]

# Bounds on the change of the share of nulls, and on the share of foreign values: beyond the range
# trained on, or of a category not trained on.
NULLS, FOREIGN = 0.1, 0.05


def find_mismatches(
    rows: pl.DataFrame, names: Sequence[str], trained: Mapping[str, ColumnProfile]
) -> list[Finding]:
    """Where rows are unlike those of training.

    Args:
        rows: Features, of any number of partitions.
        names: The features among their columns.
        trained: Profiles of the features of the training window; empty where there is none.

    Returns:
        Columns that were not trained on, or are not there; then, by partition, columns whose share
        of nulls differs by more than `NULLS`, or of foreign values exceeds `FOREIGN`. Each as
        `partition`, `column`, `finding`, and the share here and in training.
    """
    if not trained:
        return []
    kinds = {name: get_kind(name, rows.schema[name]) for name in names}
    odd = [*_columns(kinds, trained)]
    strange = {found["column"] for found in odd}
    same = [name for name in names if name not in strange and trained[name].filled]
    shares = rows.group_by(PARTITION).agg(
        *(_value(trained[name]).is_null().mean().alias(f"null {name}") for name in same),
        *(_foreign(trained[name]).mean().fill_null(0.0).alias(f"far {name}") for name in same),
    )
    for record in shares.sort(PARTITION).iter_rows(named=True):
        for name in same:
            odd += _partition(record, trained[name])
    return odd


def find_idle(names: Sequence[str], window: Mapping[str, ColumnProfile]) -> Iterator[Finding]:
    """Features with no value, or with one alone, throughout a window of more than one row."""
    for name in names:
        found = window.get(name)
        if found is None or found.rows < 2:  # noqa: PLR2004 one row is always constant
            continue
        if found.filled == 0:
            yield _finding("", name, "no value", 1.0, None)
        elif _is_constant(found):
            yield _finding("", name, "one value alone", 1.0, None)


def _columns(kinds: Mapping[str, str], trained: Mapping[str, ColumnProfile]) -> Iterator[Finding]:
    for name in trained:
        if name not in kinds:
            yield _finding("", name, "trained on, not there", 0.0, 1.0)
    for name, kind in kinds.items():
        if name not in trained:
            yield _finding("", name, "not trained on", 1.0, 0.0)
        elif kind != trained[name].kind and trained[name].filled:
            yield _finding("", name, f"{kind}, was {trained[name].kind}", 1.0, 0.0)


def _partition(record: Mapping[str, Any], trained: ColumnProfile) -> Iterator[Finding]:
    name, key = trained.column, record[PARTITION]
    null, before = record[f"null {name}"], trained.nulls / trained.rows
    if abs(null - before) > NULLS:
        yield _finding(key, name, "share of nulls", null, before)
    if (far := record[f"far {name}"]) > FOREIGN:
        what = "beyond the range trained on" if trained.sketch else "category not trained on"
        yield _finding(key, name, what, far, 0.0)


def _finding(key: str, column: str, what: str, share: float, trained: float | None) -> Finding:
    return {
        "partition": key,
        "column": column,
        "finding": what,
        "share": share,
        "in_training": trained,
    }


def _value(trained: ColumnProfile) -> pl.Expr:
    """Return a value as the profile of training holds it: numbers in its precision, or null."""
    column = pl.col(trained.column)
    if trained.sketch is None:
        return column
    number = column.cast(pl.Float32 if trained.is_single else pl.Float64)
    return pl.when(number.is_finite()).then(number)


def _foreign(trained: ColumnProfile) -> pl.Expr:
    """Whether a value is foreign to training; null where there is none, or it cannot be told."""
    value, sketch = _value(trained), trained.sketch
    if sketch is not None:
        return ~value.is_between(sketch.get_min_value(), sketch.get_max_value())
    return ~value.is_in(list(trained.counts or {})) if trained.others == 0 else pl.lit(None)


def _is_constant(found: ColumnProfile) -> bool:
    if found.sketch is not None:
        return bool(found.sketch.get_min_value() == found.sketch.get_max_value())
    return len(found.counts or {}) == 1 and found.others == 0
