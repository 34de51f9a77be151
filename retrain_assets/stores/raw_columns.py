"""What readers of every format share: which columns a file must have, and how one is refused.

Not here: any format.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.rules import BROKEN, LINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain_assets.specs.dataset import DatasetSpec

_MAX_CHARACTERS = 200
# The contract's columns with `_line` and `_broken`, and the names of other columns.
Content = tuple[pl.DataFrame, tuple[str, ...]]


class RefusedFileError(ValueError):
    """A landing file that cannot be read as rows; the message says why and what would do."""


def columns_of(found: Sequence[str], spec: DatasetSpec) -> tuple[dict[str, int], tuple[str, ...]]:
    """Where the contract's columns stand in a file, after renaming, and what other names it has.

    A small file of a stream may lack what no message has to have: producers leave out nulls.

    Raises:
        RefusedFileError: A column is there twice or not at all.
    """
    names = [spec.read.rename.get(name, name) for name in found]
    twice = [name for name in spec.file_columns if names.count(name) > 1]
    if twice:
        raise RefusedFileError(f"it has two columns {shown(', '.join(twice))}: keep one")
    absent = [name for name in spec.file_columns if name not in names]
    missing = [name for name in absent if not _may_be_left_out(name, names, spec)]
    if missing:
        lacking = ", ".join(_with_hint(name, names) for name in missing)
        # Of a file without a header, these are the values of its first row.
        is_open = not any(column.personal for column in spec.columns.values())
        there = f"its columns are {shown(', '.join(found))}" if is_open else f"it has {len(found)}"
        raise RefusedFileError(f"it lacks {lacking}; {there}")
    extra = tuple(name for name in names if name not in spec.file_columns)
    return {name: names.index(name) for name in spec.file_columns if name in names}, extra


def numbered(rows: pl.DataFrame, first: int) -> pl.DataFrame:
    """Rows with `_line`, counted from `first`; none is broken."""
    lines = pl.int_range(first, rows.height + first, dtype=pl.Int64)
    return rows.with_columns(lines.alias(LINE), pl.lit(None, pl.String).alias(BROKEN))


def shown(text: str) -> str:
    """Foreign text, short and escaped."""
    return repr(text[:_MAX_CHARACTERS])


def _may_be_left_out(name: str, found: Sequence[str], spec: DatasetSpec) -> bool:
    needed = spec.columns[name].required or name in (*spec.key, spec.partition.column)
    renamed = _near(name, [other for other in found if other not in spec.file_columns])
    return spec.is_split and spec.format == "jsonl" and not needed and renamed is None


def _near(name: str, found: Sequence[str]) -> str | None:
    alike = {other.strip().casefold(): other for other in found}
    near = get_close_matches(name.casefold(), alike, n=1)
    return alike[near[0]] if near else None


def _with_hint(name: str, found: Sequence[str]) -> str:
    near = _near(name, found)
    return name if near is None else f"{name} (is {shown(near)} meant?)"
