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

    Raises:
        RefusedFileError: A column is there twice or not at all.
    """
    names = [spec.read.rename.get(name, name) for name in found]
    twice = [name for name in spec.file_columns if names.count(name) > 1]
    if twice:
        raise RefusedFileError(f"it has two columns {shown(', '.join(twice))}: keep one")
    missing = [name for name in spec.file_columns if name not in names]
    if missing:
        lacking = ", ".join(_with_hint(name, names) for name in missing)
        # Of a file without a header, these are the values of its first row.
        is_open = not any(column.personal for column in spec.columns.values())
        there = f"its columns are {shown(', '.join(found))}" if is_open else f"it has {len(found)}"
        raise RefusedFileError(f"it lacks {lacking}; {there}")
    extra = tuple(name for name in names if name not in spec.file_columns)
    return {name: names.index(name) for name in spec.file_columns}, extra


def numbered(rows: pl.DataFrame, first: int) -> pl.DataFrame:
    """Rows with `_line`, counted from `first`; none is broken."""
    lines = pl.int_range(first, rows.height + first, dtype=pl.Int64)
    return rows.with_columns(lines.alias(LINE), pl.lit(None, pl.String).alias(BROKEN))


def shown(text: str) -> str:
    """Foreign text, short and escaped."""
    return repr(text[:_MAX_CHARACTERS])


def _with_hint(name: str, found: Sequence[str]) -> str:
    alike = {other.strip().casefold(): other for other in found}
    near = get_close_matches(name.casefold(), alike, n=1)
    return f"{name} (is {shown(alike[near[0]])} meant?)" if near else name
