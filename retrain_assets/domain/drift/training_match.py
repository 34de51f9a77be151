"""Compare rows of features with those a model was trained on, by partition and column.

This shows whether a model can use the rows at all; a shift within what was trained on is drift and
judged elsewhere. Training comes in as profiles, never as rows. Not here: reading either, outliers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.data.values import keep_finite
from retrain_assets.domain.drift.profile import ColumnProfile, get_kind

Finding = dict[str, object]

# Bounds on the change of the share of nulls, and on the share of foreign values: beyond the range
# trained on, or of a category not trained on.
NULLS, FOREIGN = 0.1, 0.05


def find_mismatches(
    rows: pl.DataFrame, names: Sequence[str], trained: Mapping[str, ColumnProfile]
) -> list[Finding]:
    """Return where rows do not match those of training.

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
    findings = [*_compare_columns(kinds, trained)]
    mismatched = {finding["column"] for finding in findings}
    same = [name for name in names if name not in mismatched and trained[name].filled]
    shares = rows.group_by(PARTITION).agg(
        *(_round_value(trained[name]).is_null().mean().alias(f"null {name}") for name in same),
        *(_is_foreign(trained[name]).mean().fill_null(0.0).alias(f"far {name}") for name in same),
    )
    for record in shares.sort(PARTITION).iter_rows(named=True):
        for name in same:
            findings += _compare_partition(record, trained[name])
    return findings


def find_idle(names: Sequence[str], window: Mapping[str, ColumnProfile]) -> Iterator[Finding]:
    """Yield features with no value, or with one alone, in a whole window of more than one row."""
    for name in names:
        column = window.get(name)
        if column is None or column.rows < 2:  # noqa: PLR2004 one row is always constant
            continue
        if column.filled == 0:
            yield _describe("", name, "no value", 1.0, None)
        elif _is_constant(column):
            yield _describe("", name, "one value alone", 1.0, None)


def _compare_columns(
    kinds: Mapping[str, str], trained: Mapping[str, ColumnProfile]
) -> Iterator[Finding]:
    for name in trained:
        if name not in kinds:
            yield _describe("", name, "trained on, not there", 0.0, 1.0)
    for name, kind in kinds.items():
        if name not in trained:
            yield _describe("", name, "not trained on", 1.0, 0.0)
        elif kind != trained[name].kind and trained[name].filled:
            yield _describe("", name, f"{kind}, was {trained[name].kind}", 1.0, 0.0)


def _compare_partition(record: Mapping[str, Any], trained: ColumnProfile) -> Iterator[Finding]:
    name, key = trained.column, record[PARTITION]
    null, before = record[f"null {name}"], trained.nulls / trained.rows
    if abs(null - before) > NULLS:
        yield _describe(key, name, "share of nulls", null, before)
    if (far := record[f"far {name}"]) > FOREIGN:
        what = "beyond the range trained on" if trained.sketch else "category not trained on"
        yield _describe(key, name, what, far, 0.0)


def _describe(key: str, column: str, what: str, share: float, trained: float | None) -> Finding:
    names = ("partition", "column", "finding", "share", "in_training")
    return dict(zip(names, (key, column, what, share, trained), strict=True))


def _round_value(trained: ColumnProfile) -> pl.Expr:
    """Return a value as the profile of training holds it: numbers in its precision, or null."""
    column = pl.col(trained.column)
    if trained.sketch is None:
        return column
    return keep_finite(column.cast(pl.Float32 if trained.is_single else pl.Float64))


def _is_foreign(trained: ColumnProfile) -> pl.Expr:
    """Return whether a value is foreign to training; null where that cannot be decided."""
    value, sketch = _round_value(trained), trained.sketch
    if sketch is not None:
        return ~value.is_between(sketch.get_min_value(), sketch.get_max_value())
    return ~value.is_in(list(trained.counts or {})) if trained.others == 0 else pl.lit(None)


def _is_constant(column: ColumnProfile) -> bool:
    if column.sketch is not None:
        return bool(column.sketch.get_min_value() == column.sketch.get_max_value())
    return len(column.counts or {}) == 1 and column.others == 0
