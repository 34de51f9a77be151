"""Each rule on each row: the rows as their types, a flag a breach, and the words for quarantine.

What is personal is masked here, before anything is stored or shown. Not here: the rules, and what
the sum of refused rows means for a file or partition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from retrain_assets.domain.derived import derive
from retrain_assets.domain.rules import (
    BROKEN,
    LINE,
    PARTITION,
    RULES,
    STORED,
    WHOLE,
    Breach,
    Type,
    far_out,
    given,
    is_text,
    mark_outliers,
    raw,
    shared_keys,
    unparsable,
)
from retrain_assets.domain.values import is_given, misfit, parsed, wide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain_assets.domain.contract import RawRows
    from retrain_assets.specs.dataset import DatasetSpec

MASK = "***"
OUTLIERS_SCHEMA: dict[str, Type] = {
    PARTITION: pl.String,
    "column": pl.String,
    "rows": pl.Int64,
    "outlying": pl.Int64,
}
SLICE, REFUSED, FAULTY = "_slice", "_refused", "_faulty"
_ROW = "_row_number"
MAX_CHARACTERS = 200
_WIDE = {pl.UInt64, pl.Int128, pl.UInt128}
Flags = dict[str, tuple[str, Breach]]  # by flag: the rule, and how it is broken


def unreadable(file: RawRows, spec: DatasetSpec) -> str | None:
    """Why a file is refused before its rows are looked at."""
    if file.refusal is not None or not spec.is_typed:
        return file.refusal
    return misfit(file.rows.schema, spec)


def typed(files: Sequence[RawRows], spec: DatasetSpec) -> pl.DataFrame:
    """The rows of readable files as they stand, in `_raw_x`, and as their types, in `x`."""
    gathered = _gathered(files, spec)
    is_there = {given(name): is_given(name, spec) for name in spec.file_columns}
    parse = {name: parsed(name, column, spec) for name, column in spec.file_columns.items()}
    return derive(gathered.with_columns(**is_there).with_columns(**parse), spec)


def _gathered(files: Sequence[RawRows], spec: DatasetSpec) -> pl.DataFrame:
    """The rows of all readable files, in columns of one type each whatever parquet wrote."""
    names, parts = [LINE, BROKEN, *spec.file_columns], [file.rows for file in files]
    is_wide = not _WIDE.isdisjoint(kind for part in parts for kind in part.dtypes)
    schema: dict[str, Type] = {LINE: pl.Int64, BROKEN: pl.String}
    for name, column in spec.file_columns.items():
        typed_kind = wide(column) if is_wide else STORED[column.type]
        schema[name] = pl.String if is_text(name, spec) else typed_kind
    none = pl.DataFrame(schema=schema)
    chosen = (part[names] for part in parts)
    alike = [part if part.dtypes == none.dtypes else part.cast(none.schema) for part in chosen]
    # In one piece, since every expression that follows is paid for by the piece.
    rows = pl.concat([none, *alike], rechunk=True)
    origin = pl.DataFrame(
        [(number, *file.slice) for number, file in enumerate(files)],
        {SLICE: pl.UInt32, PARTITION: pl.String, "_file": pl.String},
        orient="row",
    )
    at = np.repeat(np.arange(len(parts)), np.array([part.height for part in parts], dtype=int))
    return rows.rename({name: f"_raw_{name}" for name in spec.file_columns}).hstack(origin[at])


def flagged(files: Sequence[RawRows], spec: DatasetSpec) -> tuple[pl.DataFrame, Flags]:
    """Typed rows of readable files with one flag a breach, and what each flag means.

    Rows are `_refused` for any breach, and `_faulty` unless they are merely repeated.
    """
    found = [(rule, breach) for rule, breaches in RULES.items() for breach in breaches(spec)]
    flags = {f"_breach_{number}": named for number, named in enumerate(found)}
    faults = [flag for flag, (rule, _) in flags.items() if rule != "repeat"]
    unread = [pl.col(BROKEN).is_not_null(), *(unparsable(name) for name in spec.columns)]
    read = typed(files, spec).with_columns((~pl.any_horizontal(unread)).alias(WHOLE))
    breaches = {flag: breach.fails.fill_null(False) for flag, (_, breach) in flags.items()}
    rows = (
        mark_outliers(read, spec)
        .lazy()
        .with_columns(shared_keys(read, spec))
        .with_columns(**breaches)
        .with_columns(
            pl.any_horizontal(*flags).alias(REFUSED), pl.any_horizontal(*faults).alias(FAULTY)
        )
    )
    return rows.collect(), flags


def outliers(rows: pl.DataFrame, flags: Flags, spec: DatasetSpec) -> pl.DataFrame:
    """By partition and column: rows with a value and no other breach, and how many lie far out."""
    others = [flag for flag, (rule, _) in flags.items() if rule != "outlier"]
    named = [name for name, column in spec.columns.items() if column.outliers is not None]
    sound = rows.lazy().filter(~pl.any_horizontal(others)).group_by(PARTITION, maintain_order=True)
    counted = [
        sound.agg(
            pl.lit(name).alias("column"),
            pl.col(name).count().cast(pl.Int64).alias("rows"),
            pl.col(far_out(name)).sum().cast(pl.Int64).alias("outlying"),
        ).collect()
        for name in named
    ]
    return pl.concat([pl.DataFrame(schema=OUTLIERS_SCHEMA), *counted]).sort(PARTITION, "column")


def explained(refused: pl.DataFrame, flags: Flags, spec: DatasetSpec) -> pl.DataFrame:
    """Refused rows as quarantine records, with every reason and the row as it was read."""
    hidden = personal(spec)
    row = pl.struct(_shown(raw(name), name in hidden).alias(name) for name in spec.columns)
    broken = pl.struct(_shown(pl.col(BROKEN), bool(hidden)).alias(BROKEN))
    return refused.select(
        PARTITION,
        "_file",
        LINE,
        _reasons(refused, flags, hidden),
        pl.when(pl.col(BROKEN).is_null())
        .then(row.struct.json_encode())
        .otherwise(broken.struct.json_encode())
        .alias("_row"),
    )


def _reasons(refused: pl.DataFrame, flags: Flags, hidden: set[str]) -> pl.Series:
    """Return the list of reasons of each refused row, in the order of the rules.

    Rows are gathered flag by flag, because polars takes 180 times as long to join structs in lists.
    """
    numbered = refused.with_row_index(_ROW)
    reasons = [
        numbered.filter(flag).select(
            _ROW,
            pl.struct(
                pl.lit(rule).alias("rule"),
                pl.lit(breach.column, dtype=pl.String).alias("column"),
                _shown(breach.value, _is_hidden(breach, hidden)).alias("value"),
            ).alias("_reasons"),
        )
        for flag, (rule, breach) in flags.items()
    ]
    ordered = pl.concat(reasons).sort(_ROW, maintain_order=True)
    return ordered.group_by(_ROW, maintain_order=True).agg("_reasons")["_reasons"]


def personal(spec: DatasetSpec) -> set[str]:
    """The columns that are masked: those said to be personal, and what is derived from them."""
    found: set[str] = set()
    for name, column in spec.columns.items():
        sources = (
            [] if column.expression is None else pl.sql_expr(column.expression).meta.root_names()
        )
        if column.personal or found.intersection(sources):
            found.add(name)
    return found


def _is_hidden(breach: Breach, hidden: set[str]) -> bool:
    """Whether what a breach shows may hold anything personal; a broken line may."""
    return bool(hidden.intersection(breach.columns) if breach.columns else hidden)


def _shown(value: pl.Expr, is_hidden: bool) -> pl.Expr:
    if is_hidden:
        return pl.when(value.is_not_null()).then(pl.lit(MASK))
    return value.cast(pl.String).str.slice(0, MAX_CHARACTERS)
