"""What was refused, for the people who can mend it: counted, listed, or as a CSV for a supplier.

Not here: refusing, and taking in what was mended, which empties a partition's quarantine.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import polars.selectors as cs

from retrain_assets.domain.data.contract import QUARANTINE_SCHEMA, UNPLACED
from retrain_assets.domain.data.rules import LINE, PARTITION, RULES
from retrain_assets.specs.base import hint
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.storage import Storage

WHOLE_FILE = "file"
_FORMULA = r"^[=+\-@\t\r\n＝＋－＠]"  # noqa: RUF001 wide ones count in some spreadsheets
_WIDEST = 60


def refused(
    storage: Storage, spec: DatasetSpec, partition: str | None = None, reason: str | None = None
) -> pl.DataFrame:
    """Every reason of every refused row and file, as of the newest delivery.

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
    known = (*RULES, WHOLE_FILE)
    if reason is not None and reason not in known:
        raise ValueError(f"no rule is named {reason!r}{hint(reason, known)}")
    if not (
        partition is None or partition.startswith(UNPLACED) or spec.partition.is_key(partition)
    ):
        example = (spec.partition.values or [spec.partition.start or "all"])[0]
        raise ValueError(f"{partition!r} is no partition of {spec.name}: write it as {example}")
    table = f"{spec.name}/quarantine"
    rows = storage.tables.scan(table, QUARANTINE_SCHEMA)
    if partition is not None:
        rows = rows.filter(pl.col(PARTITION) == partition)
    reasons = rows.explode("_reasons").unnest("_reasons")
    if reason is not None:
        reasons = reasons.filter(pl.col("rule") == reason)
    named = {PARTITION: "partition", "_file": "file", LINE: "line", "rule": "reason"}
    columns = ["partition", "file", "line", "column", "value", "reason"]
    found = reasons.rename(named).select(columns)
    ordered = found.sort("partition", "file", "line", maintain_order=True)
    return storage.tables.collect(ordered, table)


def counted(found: pl.DataFrame) -> pl.DataFrame:
    """How many rows or files each partition lost for each reason and column; most first."""
    grouped = found.group_by("partition", "reason", "column", maintain_order=True)
    return grouped.agg(pl.len().alias("records")).sort(
        "partition", -pl.col("records").cast(pl.Int64), maintain_order=True
    )


def write_csv(found: pl.DataFrame, path: Path) -> None:
    """Write what was refused for a spreadsheet: no cell is a formula, whatever was delivered.

    Raises:
        ValueError: The file is there already, or cannot be written.
    """
    safe = cs.string().str.replace(_FORMULA, "'${0}")
    try:
        with path.open("xb") as file:
            found.with_columns(safe).write_csv(file, include_bom=True)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; name a new file") from error


def as_lines(found: pl.DataFrame, most: int = 50) -> Iterator[str]:
    """A table for a terminal: delivered text is escaped, and what is left out is counted."""
    if found.is_empty():
        return
    rows = [found.columns, *([_cell(value) for value in row] for row in found.head(most).rows())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()
    if found.height > most:
        yield f"… and {found.height - most:,} more: --csv FILE writes all"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return repr(value)[1:-1][:_WIDEST] if isinstance(value, str) else f"{value:,}"
