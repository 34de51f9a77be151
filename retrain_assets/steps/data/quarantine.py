"""Refused rows and files for the people who can correct them: counted, listed, or as a CSV.

Not here: refusing, and taking in what was mended, which empties a partition's quarantine.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import polars.selectors as cs

from retrain_assets.domain.data import values
from retrain_assets.domain.data.arrivals import WAITING
from retrain_assets.domain.data.contract import QUARANTINE_SCHEMA, UNPLACED
from retrain_assets.domain.data.rules import LINE, PARTITION, RULES
from retrain_assets.specs.base import hint, shorten
from retrain_assets.specs.dataset import ColumnSpec, ColumnType, DatasetSpec
from retrain_assets.stores.storage import Storage

WHOLE_FILE = "file"
_FORMULA = r"^[=+\-@\t\r\n＝＋－＠]"  # noqa: RUF001 wide ones count in some spreadsheets
_WIDEST, _LONGEST_LIST, _MOST_FILES = 60, 200, 5
_TYPES: dict[ColumnType, str] = {
    "int": "a whole number, such as 5",
    "float": "a number, such as 0.5",
    "bool": "true or false",
    "category": "a text that is neither a word for a missing value nor an error of a spreadsheet",
    "text": "a text that is neither a word for a missing value nor an error of a spreadsheet",
    "date": "a date, such as 2013-01-31",
    "datetime": "a time with its offset, such as 2013-01-31T10:00:00Z",
}
_EXPECTED = {
    "parse": "a line that can be read as a row",
    "required": "a value",
    "partition": "a row of the partition in the name of its file, or of one that the dataset has",
    "key": "a key that no other row of its partition has with other values",
    "repeat": "a row that stands once",
}


def refused(
    storage: Storage, spec: DatasetSpec, partition: str | None = None, reason: str | None = None
) -> pl.DataFrame:
    """Return every reason of every refused row and file, as of the newest delivery.

    Args:
        storage: Where the tables are.
        spec: The dataset.
        partition: Only of this one; `file:PATH` holds the rows of a file that cannot be placed.
        reason: Only for this rule; `file` where a file was refused whole.

    Returns:
        `partition`, `file`, `line` (null for a whole file), `column`, `value` and `reason`, in this
        order.

    Raises:
        ValueError: There can be no such partition, or is no such rule.
    """
    rules = (*RULES, WHOLE_FILE)
    if reason is not None and reason not in rules:
        raise ValueError(f"no rule is named {reason!r}{hint(reason, rules)}")
    is_key = partition is not None and not partition.startswith(UNPLACED)
    if is_key and (why := spec.partition.explain_misfit(partition or "")) is not None:
        raise ValueError(f"{partition!r} is not a partition of {spec.name}: {why}")
    table = f"{spec.name}/quarantine"
    rows = storage.tables.scan(table, QUARANTINE_SCHEMA)
    if partition is not None:
        rows = rows.filter(pl.col(PARTITION) == partition)
    reasons = rows.explode("_reasons").unnest("_reasons")
    if reason is not None:
        reasons = reasons.filter(pl.col("rule") == reason)
    names = {PARTITION: "partition", "_file": "file", LINE: "line", "rule": "reason"}
    columns = ["partition", "file", "line", "column", "value", "reason"]
    listing = reasons.rename(names).select(columns)
    ordered = listing.sort("partition", "file", "line", maintain_order=True)
    return storage.tables.collect(ordered, table)


def count(reasons: pl.DataFrame) -> pl.DataFrame:
    """Count the rows or files that each partition lost for each reason and column; most first."""
    grouped = reasons.group_by("partition", "reason", "column", maintain_order=True)
    return grouped.agg(pl.len().alias("records")).sort(
        "partition", -pl.col("records").cast(pl.Int64), maintain_order=True
    )


def write_csv(reasons: pl.DataFrame, path: Path) -> None:
    """Write the reasons for a spreadsheet; no cell is a formula, whatever was delivered.

    Raises:
        ValueError: The file is there already, or cannot be written.
    """
    safe = cs.string().str.replace(_FORMULA, "'${0}")
    try:
        with path.open("xb") as file:
            reasons.with_columns(safe).write_csv(file, include_bom=True)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; name a new file") from error


def as_lines(reasons: pl.DataFrame, most: int = 50) -> Iterator[str]:
    """Yield a table for a terminal: delivered text is escaped, and omitted rows are counted."""
    if reasons.is_empty():
        return
    rows = [reasons.columns, *(list(map(_cell, row)) for row in reasons.head(most).rows())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()
    if reasons.height > most:
        yield f"… and {reasons.height - most:,} more: --csv FILE writes all"


def explain(reasons: pl.DataFrame, spec: DatasetSpec) -> Iterator[str]:
    """Yield why files were refused, and what each rule expects instead of a value."""
    files = reasons.filter(reason=WHOLE_FILE).unique(["file", "value"], maintain_order=True)
    for row in files.head(_MOST_FILES).iter_rows(named=True):
        yield f"{_cell(row['file'])}: {row['value']}"
    first = reasons.filter(pl.col("reason") != WHOLE_FILE).unique(
        ["reason", "column"], keep="first", maintain_order=True
    )
    for row in first.iter_rows(named=True):
        if str(row["value"]).endswith(WAITING):
            yield f"{row['column']}, {row['reason']}: {row['value']}"
            continue
        column = spec.columns.get(row["column"] or "")
        expected = _expected(row["reason"], row["column"], column, spec)
        value = f", not {_cell(row['value'])!r}" if row["value"] else ""
        yield f"{row['column'] or 'line'}, {row['reason']}: expected is {expected}{value}"


def _expected(rule: str, name: str, column: ColumnSpec | None, spec: DatasetSpec) -> str:
    if column is None or rule not in ("type", "range", "allowed", "pattern", "outlier"):
        return _EXPECTED.get(rule, "what the YAML says")
    written = values.date_format(name, spec)
    if rule == "type":
        return f"a value written as {written}" if written else _TYPES[column.type]
    bounds = (("from", column.min), ("to", column.max))
    outliers = column.outliers.robust_z if column.outliers else 0
    return {
        "range": "a number " + " ".join(f"{w} {v:g}" for w, v in bounds if v is not None),
        "allowed": f"one of {shorten(', '.join(column.allowed or ()), _LONGEST_LIST)}",
        "pattern": f"a text that {column.pattern!r} matches in full",
        "outlier": f"a number within {outliers:g} robust standard deviations of the median",
    }[rule]


def count_unplaced(storage: Storage, spec: DatasetSpec) -> int:
    """Count the refused rows of no partition, such as those with a wrong date."""
    table = f"{spec.name}/quarantine"
    rows = storage.tables.scan(table, QUARANTINE_SCHEMA)
    unplaced = rows.filter(pl.col(PARTITION).str.starts_with(UNPLACED), pl.col(LINE).is_not_null())
    return int(storage.tables.collect(unplaced.select(pl.len()), table).item())


def _cell(value: object) -> str:
    if value is None:
        return ""
    return shorten(repr(value)[1:-1], _WIDEST) if isinstance(value, str) else f"{value:,}"
