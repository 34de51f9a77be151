"""Each rule on each row: the rows as their types, a flag a breach, and the words for quarantine.

Personal values are masked here, before anything is stored or shown. Not here: the rules, and what
the sum of refused rows means for a file or partition.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import polars as pl

from retrain_assets.domain.data import rules, texts, values
from retrain_assets.domain.data.marks import find_marks
from retrain_assets.domain.data.rules import BROKEN, LINE, MASK, PARTITION, PROBLEM, Type
from retrain_assets.domain.windows import group_batches
from retrain_assets.specs.dataset import DatasetSpec

OUTLIERS_SCHEMA: dict[str, Type] = {
    PARTITION: pl.String,
    "column": pl.String,
    "rows": pl.Int64,
    "outlying": pl.Int64,
}
NO_ROWS = pl.DataFrame(schema={LINE: pl.Int64, BROKEN: pl.String})
SLICE, REFUSED, FAULTY = "_slice", "_refused", "_faulty"
_ROW = "_row_number"
_FURTHER = "_further_repeats"
_KEY = "_key_"
MAX_CHARACTERS = 200
SAMPLE_ROWS = 5  # of a file that is refused as a whole
MAX_REPEATS = 1000  # of a file and partition that are listed
_EXPLAINED_ROWS = 20_000  # at once, since to explain a row takes three times the memory of a row
_WIDE = {pl.UInt64, pl.Int128, pl.UInt128}
Flags = dict[str, tuple[str, rules.Rule]]  # by flag: the name of the rule, and the rule
Slice = tuple[str, str]  # partition and file


class Chunks(Protocol):
    """Rows in order, in chunks that are read one at a time."""

    height: int

    @property
    def schema(self) -> Mapping[str, pl.DataType]:
        """Return the columns of each chunk and their types."""

    def __iter__(self) -> Iterator[pl.DataFrame]: ...


class Shelf(Chunks, Protocol):
    """Chunks that are on disk, and may get more."""

    def put(self, frame: pl.DataFrame) -> None:
        """Append a chunk."""


@dataclass(frozen=True)
class RawRows:
    """The content of one landing file, or the part of it that belongs to one partition.

    Args:
        path: Path of the file below the landing root.
        partition: Key in the name of the file. Where a file holds many partitions: key of these
            rows, or `file:` and the path for rows without a partition.
        sha256: Digest of the bytes of the file, or of these rows.
        rows: The columns of the contract, as text or as parquet typed them; `_line`, counted from
            1; `_broken`, the text of a line that is no row, whose columns are null; and perhaps
            `_problem`, why it is none. A large file has chunks of them.
        refusal: Why the file is refused as a whole without judging its rows.
        excess: Why the file is refused as a whole although its rows can be read, so that some are
            shown.
        extra: Columns that the contract does not know, which are not in `rows`.
        lacking: Columns that the file does not have and may lack; they are null in `rows`.
        stamp: The state of the file when it was read, see `LandingFile`.
        size_bytes: The length of the file.
        waiting: The partitions of its rows that wait, see `name_waiting`.
    """

    path: str
    partition: str
    sha256: str
    rows: pl.DataFrame | Chunks
    refusal: str | None = None
    excess: str | None = None
    extra: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    stamp: str = ""
    size_bytes: int = 0
    waiting: tuple[str, ...] = ()

    @property
    def slice(self) -> Slice:
        """Return what identifies these rows among all that are judged."""
        return self.partition, self.path

    @property
    def frame(self) -> pl.DataFrame:
        """Return all rows in one frame."""
        return self.rows if isinstance(self.rows, pl.DataFrame) else pl.concat(self.rows)

    def chunks(self, most: int) -> Iterator[pl.DataFrame]:
        """Yield the rows in frames of at most so many."""
        frames = [self.rows] if isinstance(self.rows, pl.DataFrame) else self.rows
        for frame in frames:
            yield from split_rows(frame, most)


def split_rows(rows: pl.DataFrame, most: int) -> Iterator[pl.DataFrame]:
    """Yield rows in frames of at most so many; one frame if there are none."""
    return rows.iter_slices(most) if rows.height > most else iter([rows])


def rows_at_once(spec: DatasetSpec) -> int:
    """Return how many rows are read and judged at once."""
    return max(1, spec.read.batch_values // len(spec.columns))


def reason_to_refuse(file: RawRows, spec: DatasetSpec) -> str | None:
    """Return why a file is refused before its rows are judged."""
    if file.refusal is not None or not spec.is_typed:
        return file.refusal
    return values.misfit(file.rows.schema, spec)


def keep_newest(files: Sequence[RawRows], spec: DatasetSpec) -> list[RawRows]:
    """Return pulled files without the rows whose key is also in a later file, which has them newer.

    Args:
        files: The files of one partition.
        spec: The dataset; nothing is dropped unless it is pulled by a cursor.
    """
    if spec.sql is None or spec.sql.cursor is None:
        return list(files)
    newer: list[pl.DataFrame] = []
    current = []
    for file in sorted(files, key=lambda file: file.path, reverse=True):
        rows = file.frame
        if set(spec.key) <= set(rows.columns):
            texts = (pl.col(name).cast(pl.String).alias(f"{_KEY}{name}") for name in spec.key)
            keys = rows.select(texts)
            if newer:
                keyed = pl.concat([rows, keys], how="horizontal")
                replaced = pl.concat(newer)
                rows = keyed.join(replaced, on=keys.columns, how="anti", maintain_order="left")
                rows = rows.drop(keys.columns)
            newer.append(keys)
        current.append(replace(file, rows=rows))
    return current[::-1]


def typed(files: Sequence[RawRows], spec: DatasetSpec) -> Iterator[pl.DataFrame]:
    """Yield chunks of the rows of readable files: as they stand, in `_raw_x`, and typed, in `x`.

    There is one chunk if there are no rows.
    """
    schema, most = _common_schema(files, spec), rows_at_once(spec)
    pieces = (
        (piece.height, [(number, piece)])
        for number, file in enumerate(files)
        for piece in file.chunks(most)
    )
    groups = group_batches(pieces, most)
    yield _typed(_gathered(next(groups, ()), files, schema), spec)
    for group in groups:
        yield _typed(_gathered(group, files, schema), spec)


def _typed(gathered: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    has_value = {rules.value_flag(name): values.is_given(name, spec) for name in spec.file_columns}
    rows = texts.normalise_texts(gathered, spec)
    columns = {}
    for name, column in spec.file_columns.items():
        is_text = rows.schema[f"_raw_{name}"] == pl.String
        from_text = is_text and not (spec.is_typed and column.type in ("category", "text"))
        columns[name] = values.parsed(name, column, spec, from_text=from_text)
    return values.derive(rows.with_columns(**has_value).with_columns(**columns), spec)


def _common_schema(files: Sequence[RawRows], spec: DatasetSpec) -> pl.Schema:
    """Return the types in which the rows of all files fit into one frame, whatever parquet has."""
    schemas = [file.rows.schema for file in files]
    is_wide = not _WIDE.isdisjoint(kind for schema in schemas for kind in schema.values())
    common: dict[str, Type] = {LINE: pl.Int64, BROKEN: pl.String, PROBLEM: pl.String}
    for name, column in spec.file_columns.items():
        typed_kind = values.wide(column) if is_wide else rules.STORED[column.type]
        is_text = rules.is_text(name, spec) or any(
            values.needs_text(schema[name], column.type, spec) for schema in schemas
        )
        common[name] = pl.String if is_text else typed_kind
    return pl.DataFrame(schema=common).schema


def _gathered(
    pieces: Sequence[tuple[int, pl.DataFrame]], files: Sequence[RawRows], schema: pl.Schema
) -> pl.DataFrame:
    """Return pieces of files, each with the number of its file, in one frame."""
    empty, parts = pl.DataFrame(schema=schema), []
    for _, rows in pieces:
        # Only readers of files know why a line is no row.
        missing = [] if PROBLEM in rows.columns else [pl.lit(None, pl.String).alias(PROBLEM)]
        part = rows.with_columns(missing).select(
            values.as_text(rows[name]) if kind == pl.String and name in rows.columns else name
            for name, kind in schema.items()
        )
        parts.append(part if part.dtypes == empty.dtypes else part.cast(schema))
    # The rows are one chunk, since the cost of every later expression grows with the chunks.
    rows = pl.concat([empty, *parts], rechunk=True)
    origin = pl.DataFrame(
        [(number, *file.slice) for number, file in enumerate(files)],
        {SLICE: pl.UInt32, PARTITION: pl.String, "_file": pl.String},
        orient="row",
    )
    numbers = np.array([number for number, _ in pieces], dtype=int)
    at = np.repeat(numbers, np.array([part.height for part in parts], dtype=int))
    names = {name: f"_raw_{name}" for name in schema if name not in (LINE, BROKEN, PROBLEM)}
    return rows.rename(names).hstack(origin[at])


def flag_rows(files: Sequence[RawRows], spec: DatasetSpec) -> tuple[Iterator[pl.DataFrame], Flags]:
    """Return chunks of typed rows of readable files with one flag a rule, and each flag's rule.

    Rows are `_refused` for any breach, and `_faulty` unless they are merely repeated.
    """
    flags = {f"_breach_{number}": rule for number, rule in enumerate(rules.contract_rules(spec))}
    return _flagged(files, flags, spec), flags


def _flagged(files: Sequence[RawRows], flags: Flags, spec: DatasetSpec) -> Iterator[pl.DataFrame]:
    unread = [pl.col(BROKEN).is_not_null(), *map(rules.unparsable, spec.columns)]
    is_whole = (~pl.any_horizontal(unread)).alias(rules.WHOLE)

    def parse() -> Iterable[pl.DataFrame]:
        return (rows.with_columns(is_whole) for rows in typed(files, spec))

    is_single = sum(file.rows.height for file in files) <= rows_at_once(spec)
    single = list(parse()) if is_single else []
    chunks = (lambda: single) if is_single else parse
    faults = [flag for flag, (name, _) in flags.items() if name != "repeat"]
    breaches = {flag: rule.fails.fill_null(False) for flag, (_, rule) in flags.items()}
    refused = pl.any_horizontal(*flags).alias(REFUSED), pl.any_horizontal(*faults).alias(FAULTY)
    marks, first = find_marks(chunks, spec), 0
    for rows in chunks():
        marked = marks.mark(rows, first, spec).lazy()
        yield marked.with_columns(**breaches).with_columns(refused).collect()
        first += rows.height


def outliers(rows: pl.DataFrame, flags: Flags, spec: DatasetSpec) -> pl.DataFrame:
    """Count, by partition and column, sound rows with a value and those that lie far out."""
    breaches = [flag for flag, (name, _) in flags.items() if name != "outlier"]
    sound = rows.lazy().filter(~pl.any_horizontal(breaches))
    by_partition = sound.group_by(PARTITION, maintain_order=True)
    counted = [
        by_partition.agg(
            pl.lit(name).alias("column"),
            pl.col(name).count().cast(pl.Int64).alias("rows"),
            pl.col(rules.far_out(name)).sum().cast(pl.Int64).alias("outlying"),
        ).collect()
        for name, column in spec.columns.items()
        if column.outliers is not None
    ]
    return pl.concat([pl.DataFrame(schema=OUTLIERS_SCHEMA), *counted])


def add_up(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Add up the counts of outliers of several chunks."""
    counted = pl.concat(parts).group_by(PARTITION, "column").sum()
    return counted.sort(PARTITION, "column")


def count(rows: pl.DataFrame, counts: dict[int, tuple[int, int, int]]) -> None:
    """Add the rows of a chunk, the refused and the faulty ones to the counts of their slices."""
    sums = pl.len(), pl.col(REFUSED).sum(), pl.col(FAULTY).sum()
    for number, *sizes in rows.group_by(SLICE).agg(*sums).iter_rows():
        before = counts.get(number, (0, 0, 0))
        counts[number] = tuple(a + b for a, b in zip(before, sizes, strict=True))


def thin_out(
    refused: pl.DataFrame,
    bad: Collection[int],
    flags: Flags,
    counts: Mapping[int, tuple[int, int, int]] | None = None,
) -> pl.DataFrame:
    """Return refused rows without those that nobody needs to see.

    Of slices that are refused as a whole, the first rows and the first of each rule are enough. Of
    rows that merely repeat others, the first 1,000 of a slice are; the last of them counts the
    others. Chunks may be thinned out one by one, and then once more together.

    Args:
        refused: Refused rows in their order.
        bad: The numbers of the slices that are refused as a whole.
        flags: The rule of each flag in the rows.
        counts: Rows, refused and faulty rows of each slice; None as long as there are more to come.
    """
    repeats = {number: refused - faulty for number, (_, refused, faulty) in (counts or {}).items()}
    is_first = pl.any_horizontal(
        pl.col(flag) & (pl.col(flag).cast(pl.Int64).cum_sum().over(SLICE) == 1) for flag in flags
    )
    is_sample = (pl.int_range(pl.len()).over(SLICE) < SAMPLE_ROWS) | is_first
    is_repeat = ~pl.col(FAULTY)
    place = is_repeat.cast(pl.Int64).cum_sum().over(SLICE)
    total = pl.col(SLICE).replace_strict(repeats, default=0, return_dtype=pl.Int64)
    others = total - MAX_REPEATS
    is_last = is_repeat & (place == MAX_REPEATS) & (others > 0)
    is_bad = pl.col(SLICE).is_in(list(bad))
    is_listed = pl.when(is_bad).then(is_sample).otherwise(pl.col(FAULTY) | (place <= MAX_REPEATS))
    return refused.with_columns(pl.when(is_last).then(others).alias(_FURTHER)).filter(is_listed)


def explain(refused: pl.DataFrame, flags: Flags, spec: DatasetSpec) -> pl.DataFrame:
    """Return refused rows as quarantine records, with every reason and the row as it was read."""
    parts = [*refused.iter_slices(_EXPLAINED_ROWS)] or [refused]
    return pl.concat([_explain(part, flags, spec) for part in parts])


def _explain(refused: pl.DataFrame, flags: Flags, spec: DatasetSpec) -> pl.DataFrame:
    hidden = personal(spec)
    row = pl.struct(_shown(rules.raw(name), name in hidden).alias(name) for name in spec.columns)
    line = _shown(pl.col(BROKEN), bool(hidden)).alias(BROKEN)
    broken = pl.when(pl.col(PROBLEM).is_null()).then(pl.struct(line).struct.json_encode())
    explained = broken.otherwise(pl.struct(line, PROBLEM).struct.json_encode())
    return refused.select(
        PARTITION,
        "_file",
        LINE,
        _reasons(refused, flags, hidden),
        pl.when(pl.col(BROKEN).is_null())
        .then(row.struct.json_encode())
        .otherwise(explained)
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
                pl.lit(name).alias("rule"),
                pl.lit(rule.column, dtype=pl.String).alias("column"),
                _value(name, rule, hidden).alias("value"),
            ).alias("_reasons"),
        )
        for flag, (name, rule) in flags.items()
    ]
    ordered = pl.concat(reasons).sort(_ROW, maintain_order=True)
    return ordered.group_by(_ROW, maintain_order=True).agg("_reasons")["_reasons"]


def personal(spec: DatasetSpec) -> set[str]:
    """Return the columns to mask: those that are `personal`, and those derived from them."""
    hidden: set[str] = set()
    for name, column in spec.columns.items():
        if column.personal or hidden.intersection(values.sources(column)):
            hidden.add(name)
    return hidden


def _value(name: str, rule: rules.Rule, hidden: set[str]) -> pl.Expr:
    """Return the value that a rule shows, masked if it may be personal, as a broken line may be.

    Before a line that is no row is why it is none.
    """
    value = _shown(rule.value, bool(hidden.intersection(rule.columns) if rule.columns else hidden))
    if name == "repeat":
        further = pl.format(", and {} more rows that repeat another", _FURTHER)
        return pl.concat_str(value, further, ignore_nulls=True)
    if name != "parse":
        return value
    return pl.concat_str(PROBLEM, value, separator=": ", ignore_nulls=True)


def _shown(value: pl.Expr, is_hidden: bool) -> pl.Expr:
    if is_hidden:
        return pl.when(value.is_not_null()).then(pl.lit(MASK))
    text = value.cast(pl.String)
    size = text.str.len_chars()
    short = pl.format("{}… ({} characters)", text.str.slice(0, MAX_CHARACTERS), size)
    return pl.when(size > MAX_CHARACTERS).then(short).otherwise(text)
