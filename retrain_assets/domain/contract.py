"""The contract of a dataset: which rows are sound, which are refused, and every reason why.

A partition is judged by itself, so that the outcome does not depend on how many are judged at
once; where one of its files is refused it keeps its earlier content, so none of its rows is
accepted. Not here: reading files, storing rows, rules on a whole partition such as its volume.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import polars as pl
import polars.selectors as cs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from retrain_assets.specs.dataset import ColumnSpec, ColumnType, DatasetSpec, PartitionSpec

Type = pl.DataType | type[pl.DataType]

PARTITION, LINE, BROKEN = "_landing_partition", "_line", "_broken"
_WHOLE, _FIRST = "_whole", "_first"  # read in full; the first of equal rows
ALL = "all"
KEY_PATTERNS = {"day": r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "month": r"[0-9]{4}-[0-9]{2}", "none": ALL}
NULL_WORDS = frozenset(
    ("NULL", "Null", "null", "None", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT")
)
NEIGHBOUR_REFUSED = "another file of the same partition was refused"
QUARANTINE_SCHEMA: dict[str, Type] = {
    PARTITION: pl.String,
    "_file": pl.String,
    LINE: pl.Int64,
    "_reasons": pl.List(pl.Struct({"rule": pl.String, "column": pl.String, "value": pl.String})),
    "_row": pl.String,
}
FILES_SCHEMA: dict[str, Type] = {
    PARTITION: pl.String,
    "file": pl.String,
    "sha256": pl.String,
    "rows_read": pl.Int64,
    "accepted": pl.Int64,
    "quarantined": pl.Int64,
    "refusal": pl.String,
}

_KEY_FORMATS = {"day": "%Y-%m-%d", "month": "%Y-%m"}
_STORED: dict[ColumnType, Type] = {
    "int": pl.Int64,
    "float": pl.Float64,
    "bool": pl.Boolean,
    "category": pl.String,
    "text": pl.String,
    "date": pl.Date,
    "datetime": pl.Datetime("us", "UTC"),
}
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_DATETIME = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})$"
)
_MAX_CHARACTERS, _SAMPLE_ROWS = 200, 5
_YEARS = (1, 9999)  # what Python's dates can hold


class AccountingError(RuntimeError):
    """Rows of a file got lost or doubled: a defect of this program, so nothing is stored."""


@dataclass(frozen=True)
class RawRows:
    """What was read from one landing file.

    Args:
        path: Of the file, below the landing root.
        partition: Key in the file's name.
        sha256: Of the file's bytes.
        rows: The contract's columns, as text or as parquet typed them; `_line`, counted from 1;
            and `_broken`, the text of a line that is no row, whose columns are null.
        refusal: Why the file is refused whole; then its rows are not looked at.
    """

    path: str
    partition: str
    sha256: str
    rows: pl.DataFrame
    refusal: str | None = None


@dataclass(frozen=True)
class Judgement:
    """Every row and file, accepted or refused.

    Args:
        accepted: Sound rows of partitions without a refused file, as in `dataset_schema`.
        quarantined: Refused rows; of a file that is refused whole, one record with `_line` null.
        files: One row a file; a file that is refused whole counts all its rows as quarantined.
    """

    accepted: pl.DataFrame
    quarantined: pl.DataFrame
    files: pl.DataFrame

    @property
    def refused_partitions(self) -> dict[str, str]:
        """Partitions with a refused file, each with the file and the reason."""
        refused = self.files.filter(pl.col("refusal").is_not_null())
        causes = refused.sort(pl.col("refusal") == NEIGHBOUR_REFUSED, maintain_order=True)
        first = causes.unique(PARTITION, keep="first", maintain_order=True).sort(PARTITION)
        return {row[PARTITION]: f"{row['file']}: {row['refusal']}" for row in first.to_dicts()}


@dataclass(frozen=True)
class Breach:
    """One way in which rows break a rule.

    Args:
        column: Whose value it is; None where it is of the row.
        fails: True for rows that break the rule; null counts as false.
        value: What is shown of such a row.
    """

    column: str | None
    fails: pl.Expr
    value: pl.Expr


def partition_of(spec: PartitionSpec, column: str) -> pl.Expr:
    """The partition key of each row, from a date or a UTC datetime; `all` where there are none."""
    if spec.by == "none":
        return pl.lit(ALL)
    dated, timed = cs.by_name(column) & cs.date(), cs.by_name(column) & cs.datetime()
    key_format = _KEY_FORMATS[spec.by]
    return pl.coalesce(
        dated.dt.strftime(key_format),
        timed.dt.convert_time_zone(spec.timezone).dt.strftime(key_format),
    )


def partition_key_is_valid(spec: PartitionSpec, key: str) -> bool:
    """Whether a key is written exactly as keys are, is a real date, and not outside the spec."""
    if re.fullmatch(KEY_PATTERNS[spec.by], key) is None:
        return False
    if spec.by == "none":
        return True
    try:
        date.fromisoformat(key if spec.by == "day" else f"{key}-01")
    except ValueError:
        return False
    return (spec.start or key) <= key <= (spec.end or key)


def dataset_schema(spec: DatasetSpec) -> dict[str, Type]:
    """The columns of accepted rows, in order."""
    columns = {name: _STORED[column.type] for name, column in spec.columns.items()}
    return {PARTITION: pl.String, **columns}


def judge(raw: Sequence[RawRows], spec: DatasetSpec) -> Judgement:
    """Divide the rows of landing files into accepted and quarantined.

    Args:
        raw: What was read; all files of a partition must be among them.
        spec: The dataset.

    Raises:
        AccountingError: A row is in neither part, or in both.
    """
    files = sorted(raw, key=lambda file: (file.partition, file.path))
    refusals = {file.path: why for file in files if (why := _unreadable(file, spec))}
    flagged, flags = _flagged(_gathered(files, refusals, spec), spec)
    refused, sound = flagged.filter("_refused"), flagged.lazy().filter(~pl.col("_refused"))
    judgement = Judgement(
        accepted=sound.select(*dataset_schema(spec)).collect(),
        quarantined=_explained(refused, flags, spec),
        files=_counted(files, refusals, flagged),
    )
    for row in judgement.files.iter_rows(named=True):
        if row["file"] not in refusals and (why := _too_bad(row, spec)):
            refusals[row["file"]] = why
    return _refuse(judgement, refusals)


def refuse_partitions(judgement: Judgement, reasons: Mapping[str, str]) -> Judgement:
    """Refuse whole partitions after all, such as those that fail an audit.

    Args:
        judgement: What was accepted so far.
        reasons: Why, by partition key; files that are refused already keep their own reason.
    """
    standing = judgement.files.filter(
        pl.col("refusal").is_null() & pl.col(PARTITION).is_in(list(reasons))
    )
    keys = standing.select("file", PARTITION).iter_rows()
    return _refuse(judgement, {path: reasons[key] for path, key in keys})


# Rules: each says which rows break it, by the parsed columns `x` and the raw ones `_raw_x`.


def _parse(_: DatasetSpec) -> Iterator[Breach]:
    """A line that is no row."""
    yield Breach(None, pl.col(BROKEN).is_not_null(), pl.col(BROKEN))


def _type(spec: DatasetSpec) -> Iterator[Breach]:
    """A value that cannot be read as its column's type."""
    for name in spec.columns:
        yield Breach(name, _unparsable(name, spec), _raw(name))


def _required(spec: DatasetSpec) -> Iterator[Breach]:
    """No value where one must be."""
    for name, column in spec.columns.items():
        if column.required:
            yield Breach(name, _missing(name, spec) & pl.col(BROKEN).is_null(), _raw(name))


def _range(spec: DatasetSpec) -> Iterator[Breach]:
    """A number below `min` or above `max`."""
    for name, column in spec.columns.items():
        below = pl.lit(False) if column.min is None else pl.col(name) < column.min
        above = pl.lit(False) if column.max is None else pl.col(name) > column.max
        if column.min is not None or column.max is not None:
            yield Breach(name, below | above, _raw(name))


def _allowed(spec: DatasetSpec) -> Iterator[Breach]:
    """A text that is not among those listed."""
    for name, column in spec.columns.items():
        if column.allowed is not None:
            yield Breach(name, ~pl.col(name).is_in(column.allowed), _raw(name))


def _partition(spec: DatasetSpec) -> Iterator[Breach]:
    """A row of another partition than its file, or of none."""
    name = spec.partition.column
    if name is not None:
        undated = _missing(name, spec) & pl.col(BROKEN).is_null()
        foreign = partition_of(spec.partition, name) != pl.col(PARTITION)
        yield Breach(name, undated | foreign, _raw(name))


def _key(spec: DatasetSpec) -> Iterator[Breach]:
    """A key that is incomplete, repeated by an equal row, or claimed by rows that differ.

    Of equal rows the first stays; of rows that differ none does, since nothing says which is
    right. Rows that could not be read in full are not compared.
    """
    for name in spec.key:
        yield Breach(name, _missing(name, spec) & pl.col(BROKEN).is_null(), _raw(name))
    versions = (pl.col(_WHOLE) & pl.col(_FIRST)).sum().over(PARTITION, *spec.key)
    shown = pl.concat_str([_raw(name).cast(pl.String) for name in spec.key], separator=", ")
    repeated = pl.col(_WHOLE) & (~pl.col(_FIRST) | (versions > 1))
    yield Breach(", ".join(spec.key), repeated, shown)


RULES: dict[str, Callable[[DatasetSpec], Iterator[Breach]]] = {
    "parse": _parse,
    "type": _type,
    "required": _required,
    "range": _range,
    "allowed": _allowed,
    "partition": _partition,
    "key": _key,
}


def _raw(name: str) -> pl.Expr:
    return pl.col(f"_raw_{name}")


def _missing(name: str, spec: DatasetSpec) -> pl.Expr:
    absent = _raw(name).is_null()
    return absent | _raw(name).is_in(spec.read.nulls) if spec.format == "csv" else absent


def _unparsable(name: str, spec: DatasetSpec) -> pl.Expr:
    return pl.col(name).is_null() & ~_missing(name, spec)


def _parsed(name: str, column: ColumnSpec, spec: DatasetSpec) -> pl.Expr:
    """A raw column as its type; null where it cannot be read as that."""
    value: pl.Expr = pl.when(~_missing(name, spec)).then(_raw(name))
    if spec.format != "parquet":
        value = _from_text(value, column.type)
    if column.type == "int":
        return value.cast(pl.Int64, strict=False)
    if column.type == "float":
        return pl.when(value.is_finite()).then(value)
    if column.type in ("category", "text"):
        suspect = NULL_WORDS.difference(column.allowed or ())
        return pl.when(~value.is_in(sorted(suspect))).then(value)
    if column.type in ("date", "datetime"):
        return pl.when(value.dt.year().is_between(*_YEARS)).then(value)
    return value


def _from_text(text: pl.Expr, kind: ColumnType) -> pl.Expr:
    if kind == "float":
        return text.cast(pl.Float64, strict=False)
    if kind == "bool":
        words = {"true": True, "false": False}
        return text.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)
    if kind == "date":
        iso: pl.Expr = pl.when(text.str.contains(_DATE)).then(text)
        return iso.str.to_date("%Y-%m-%d", strict=False)
    if kind == "datetime":
        iso = pl.when(text.str.contains(_DATETIME)).then(text).str.replace(" ", "T", literal=True)
        return iso.str.to_datetime("%+", time_unit="us", strict=False)
    return text


def _unreadable(file: RawRows, spec: DatasetSpec) -> str | None:
    """Why a file is refused before its rows are looked at."""
    if file.refusal is not None or spec.format != "parquet":
        return file.refusal
    schema = file.rows.schema
    for name, column in spec.columns.items():
        found = schema[name]
        if found != pl.Null and not _fits(found, column.type):
            return f"column {name} is {found}, but the contract says {column.type}"
    return None


def _fits(found: pl.DataType, kind: ColumnType) -> bool:
    """Whether a parquet type can hold the values of a column; a naive datetime cannot."""
    if kind in ("int", "float"):
        return found.is_integer() or (kind == "float" and found.is_numeric())
    if kind == "datetime":
        return isinstance(found, pl.Datetime) and found.time_zone is not None
    if kind in ("category", "text"):
        return found in (pl.String, pl.Categorical, pl.Enum)
    return found == _STORED[kind]


def _gathered(
    files: Sequence[RawRows], refusals: Mapping[str, str], spec: DatasetSpec
) -> pl.DataFrame:
    """The rows of all readable files, in columns of one type each whatever parquet wrote."""
    wide: dict[str, Type] = {name: _STORED[column.type] for name, column in spec.columns.items()}
    for name, column in spec.columns.items():
        if spec.format != "parquet":
            wide[name] = pl.String
        elif column.type == "int":
            wide[name] = pl.Int128  # an unsigned value too large is then seen, not wrapped
    values = [pl.col(name).cast(dtype).alias(f"_raw_{name}") for name, dtype in wide.items()]
    schema = {PARTITION: pl.String, "_file": pl.String, LINE: pl.Int64, BROKEN: pl.String}
    none = pl.DataFrame(schema=schema | {f"_raw_{name}": dtype for name, dtype in wide.items()})
    rows = [
        file.rows.select(
            pl.lit(file.partition).alias(PARTITION),
            pl.lit(file.path).alias("_file"),
            LINE,
            BROKEN,
            *values,
        )
        for file in files
        if file.path not in refusals
    ]
    return pl.concat([none, *rows])


def _flagged(
    rows: pl.DataFrame, spec: DatasetSpec
) -> tuple[pl.DataFrame, dict[str, tuple[str, Breach]]]:
    """The rows with parsed columns, `_refused`, and one flag a breach; and what each flag means."""
    found = [(rule, breach) for rule, breaches in RULES.items() for breach in breaches(spec)]
    flags = {f"_breach_{number}": named for number, named in enumerate(found)}
    unread = [pl.col(BROKEN).is_not_null(), *(_unparsable(name, spec) for name in spec.columns)]
    flagged = (
        rows.lazy()
        .with_columns(**{name: _parsed(name, of, spec) for name, of in spec.columns.items()})
        .with_columns((~pl.any_horizontal(unread)).alias(_WHOLE))
        # A column of its own: inside `over` it would be computed anew for every single key.
        .with_columns(pl.struct(PARTITION, _WHOLE, *spec.columns).is_first_distinct().alias(_FIRST))
        .with_columns(
            **{flag: breach.fails.fill_null(False) for flag, (_, breach) in flags.items()}
        )
        .with_columns(_refused=pl.any_horizontal(*flags))
    )
    return flagged.collect(), flags


def _short(value: pl.Expr) -> pl.Expr:
    return value.cast(pl.String).str.slice(0, _MAX_CHARACTERS)


def _explained(
    refused: pl.DataFrame, flags: Mapping[str, tuple[str, Breach]], spec: DatasetSpec
) -> pl.DataFrame:
    """Refused rows as quarantine records, with every reason and the row as it was read."""
    reasons = [
        pl.when(flag).then(
            pl.struct(
                pl.lit(rule).alias("rule"),
                pl.lit(breach.column, dtype=pl.String).alias("column"),
                _short(breach.value).alias("value"),
            )
        )
        for flag, (rule, breach) in flags.items()
    ]
    row = pl.struct(_short(_raw(name)).alias(name) for name in spec.columns)
    broken = pl.struct(_short(pl.col(BROKEN)).alias(BROKEN))
    return refused.select(
        PARTITION,
        "_file",
        LINE,
        pl.concat_list(reasons).list.drop_nulls().alias("_reasons"),
        pl.when(pl.col(BROKEN).is_null())
        .then(row.struct.json_encode())
        .otherwise(broken.struct.json_encode())
        .alias("_row"),
    )


def _counted(
    files: Sequence[RawRows], refusals: Mapping[str, str], flagged: pl.DataFrame
) -> pl.DataFrame:
    """What became of the rows of each file, before any is refused whole."""
    grouped = flagged.group_by("_file").agg(
        (~pl.col("_refused")).sum(), pl.col("_refused").sum().alias("n")
    )
    counts = {path: (accepted, refused) for path, accepted, refused in grouped.iter_rows()}
    rows = []
    for file in files:
        read = 0 if file.path in refusals else file.rows.height
        accepted, refused = counts.get(file.path, (0, 0))
        if read != accepted + refused:
            raise AccountingError(
                f"{file.path}: {read} rows read, {accepted} accepted, {refused} quarantined"
            )
        rows.append((file.partition, file.path, file.sha256, read, accepted, refused, None))
    return pl.DataFrame(rows, schema=FILES_SCHEMA, orient="row")


def _too_bad(file: Mapping[str, Any], spec: DatasetSpec) -> str | None:
    """Why a file is refused for the sum of its rows."""
    read, refused, bound = file["rows_read"], file["quarantined"], spec.quarantine.max_fraction
    if read == 0:
        return "it has no rows" if spec.rows.min > 0 else None
    if refused == read:
        return f"all of its {read} rows were refused"
    if refused > bound * read:
        return f"{refused} of {read} rows were refused; quarantine.max_fraction is {bound:g}"
    return None


def _refuse(judgement: Judgement, refusals: Mapping[str, str]) -> Judgement:
    """Refuse files whole, and with them what else their partitions hold."""
    gone = judgement.files.filter(pl.col("file").is_in(list(refusals)))[PARTITION].unique()
    hit = pl.col(PARTITION).is_in(gone.to_list())
    why = pl.col("file").replace_strict(
        dict(refusals), default=NEIGHBOUR_REFUSED, return_dtype=pl.String
    )
    refused = judgement.files.filter(hit).with_columns(why.alias("refusal"))
    rows = judgement.quarantined.filter(hit).partition_by("_file", as_dict=True)
    none = judgement.quarantined.clear()
    records = [
        _file_record(file, rows.get((file["file"],), none))
        for file in refused.iter_rows(named=True)
    ]
    counted = refused.with_columns(accepted=pl.lit(0, pl.Int64), quarantined=pl.col("rows_read"))
    return Judgement(
        accepted=judgement.accepted.filter(~hit),
        quarantined=pl.concat(
            [judgement.quarantined.filter(~hit), pl.DataFrame(records, QUARANTINE_SCHEMA)]
        ),
        files=pl.concat([judgement.files.filter(~hit), counted]).sort(PARTITION, "file"),
    )


def _file_record(file: Mapping[str, Any], rows: pl.DataFrame) -> dict[str, object]:
    """One quarantine record for a whole file: why, what its rows break, and a few of them."""
    broken = rows.explode("_reasons").select(pl.col("_reasons").struct.unnest())
    examples = broken.unique(["rule", "column"], keep="first", maintain_order=True).to_dicts()
    why = {"rule": "file", "column": None, "value": file["refusal"][:_MAX_CHARACTERS]}
    sample = rows.select(LINE, "_row").head(_SAMPLE_ROWS).iter_rows()
    return {
        PARTITION: file[PARTITION],
        "_file": file["file"],
        LINE: None,
        "_reasons": [why, *examples],
        "_row": json.dumps(
            {
                "rows_read": file["rows_read"],
                "refused": rows.height,
                "sample": [{LINE: line, **json.loads(row)} for line, row in sample],
            }
        ),
    }
