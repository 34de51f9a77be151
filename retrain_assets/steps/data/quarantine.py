"""Refused rows and files for the people who can correct them: counted, listed, or as a CSV.

Not here: refusing, and taking in what was mended, which empties a partition's quarantine.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import polars.selectors as cs

from retrain_assets.domain.data.contract import QUARANTINE_SCHEMA, UNPLACED
from retrain_assets.domain.data.rules import LINE, PARTITION, RULES
from retrain_assets.specs.base import hint, shorten
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.storage import Storage

WHOLE_FILE = "file"
_FORMULA = r"^[=+\-@\t\r\n＝＋－＠]"  # noqa: RUF001 wide ones count in some spreadsheets
_WIDEST = 60


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
        raise ValueError(f"{partition!r} is no partition of {spec.name}: {why}")
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


def _cell(value: object) -> str:
    if value is None:
        return ""
    return shorten(repr(value)[1:-1], _WIDEST) if isinstance(value, str) else f"{value:,}"
