"""The contract of a dataset: which rows are sound, which are refused, and every reason why.

A partition is judged by itself, so that the outcome does not depend on how many are judged at
once; where one of its files is refused it keeps its earlier content, so none of its rows is
accepted. Not here: reading files, storing rows, rules on a whole partition such as its volume.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from retrain_assets.domain.rules import LINE, PARTITION, Type, dataset_schema
from retrain_assets.domain.verdicts import (
    FAULTY,
    MAX_CHARACTERS,
    REFUSED,
    SLICE,
    explained,
    flagged,
    outliers,
    unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from retrain_assets.specs.dataset import DatasetSpec


UNPLACED = "file:"  # begins the key of rows whose own partition cannot be told
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
    "faulty": pl.Int64,
    "refusal": pl.String,
}
_SAMPLE_ROWS = 5
Slice = tuple[str, str]  # partition and file


class AccountingError(RuntimeError):
    """Rows of a file got lost or doubled: a defect of this program, so nothing is stored."""


@dataclass(frozen=True)
class RawRows:
    """What was read from one landing file, or the part of it that is of one partition.

    Args:
        path: Of the file, below the landing root.
        partition: Key in the file's name or, of a file that holds many, of these rows; of those
            that cannot be placed, `file:` and the path.
        sha256: Of the file's bytes, or of these rows.
        rows: The contract's columns, as text or as parquet typed them; `_line`, counted from 1;
            and `_broken`, the text of a line that is no row, whose columns are null.
        refusal: Why the file is refused whole; then its rows are not looked at.
        excess: Why it is refused whole though its rows can be read; then some are shown.
    """

    path: str
    partition: str
    sha256: str
    rows: pl.DataFrame
    refusal: str | None = None
    excess: str | None = None

    @property
    def slice(self) -> Slice:
        """What names it among all that is judged."""
        return self.partition, self.path


@dataclass(frozen=True)
class Judgement:
    """Every row and file, accepted or refused.

    Args:
        accepted: Sound rows of partitions without a refused file, as in `dataset_schema`.
        quarantined: Refused rows; of a file that is refused whole, one record with `_line` null.
        files: One row a file; a file that is refused whole counts all its rows as quarantined.
            Of the quarantined, `faulty` are not merely repeated.
        outliers: By partition and column with `outliers`, of the rows with a value that break no
            other rule, how many there are and how many lie far out; none where a file is refused.
    """

    accepted: pl.DataFrame
    quarantined: pl.DataFrame
    files: pl.DataFrame
    outliers: pl.DataFrame

    @cached_property
    def refused_partitions(self) -> dict[str, str]:
        """Partitions with a refused file, each with the file and the reason."""
        refused = self.files.filter(pl.col("refusal").is_not_null())
        causes = refused.sort(pl.col("refusal") == NEIGHBOUR_REFUSED, maintain_order=True)
        first = causes.unique(PARTITION, keep="first", maintain_order=True).sort(PARTITION)
        return {row[PARTITION]: f"{row['file']}: {row['refusal']}" for row in first.to_dicts()}


def judge(raw: Sequence[RawRows], spec: DatasetSpec) -> Judgement:
    """Divide the rows of landing files into accepted and quarantined.

    Args:
        raw: What was read; all files of a partition must be among them.
        spec: The dataset.

    Raises:
        AccountingError: A row is in neither part, or in both.
    """
    files = sorted(raw, key=lambda file: (file.partition, file.path))
    refusals = {file.slice: why for file in files if (why := unreadable(file, spec))}
    readable = [file for file in files if file.slice not in refusals]
    rows, flags = flagged(readable, spec)
    refused, sound = rows.filter(REFUSED), rows.lazy().filter(~pl.col(REFUSED))
    judgement = Judgement(
        accepted=sound.select(*dataset_schema(spec)).collect(),
        quarantined=explained(refused, flags, spec),
        files=_counted(files, refusals, rows),
        outliers=outliers(rows, flags, spec),
    )
    refusals |= {file.slice: file.excess for file in readable if file.excess}
    return _refuse(judgement, refusals | _too_bad(judgement.files, refusals, spec))


def merged(parts: Sequence[Judgement], spec: DatasetSpec) -> Judgement:
    """Judgements of different partitions as one."""
    whole = [judge([], spec), *parts]
    names = [one.name for one in fields(Judgement)]
    return Judgement(**{name: pl.concat([getattr(one, name) for one in whole]) for name in names})


def refuse_partitions(judgement: Judgement, reasons: Mapping[str, str]) -> Judgement:
    """Refuse whole partitions after all, such as those that fail an audit.

    Args:
        judgement: What was accepted so far.
        reasons: Why, by partition key; files that are refused already keep their own reason.
    """
    standing = judgement.files.filter(
        pl.col("refusal").is_null() & pl.col(PARTITION).is_in(list(reasons))
    )
    keys = standing.select(PARTITION, "file").iter_rows()
    return _refuse(judgement, {(key, path): reasons[key] for key, path in keys})


def _counted(
    files: Sequence[RawRows], refusals: Mapping[Slice, str], judged: pl.DataFrame
) -> pl.DataFrame:
    """What became of the rows of each file, before any is refused whole."""
    sums = (pl.len() - pl.col(REFUSED).sum()).alias("accepted"), pl.col(REFUSED, FAULTY).sum()
    grouped = judged.select(SLICE, REFUSED, FAULTY).group_by(SLICE).agg(*sums)
    counts = {number: counted for number, *counted in grouped.iter_rows()}
    readable = [file.slice for file in files if file.slice not in refusals]
    place = {key: number for number, key in enumerate(readable)}
    rows = []
    for file in files:
        read = 0 if file.slice in refusals else file.rows.height
        accepted, refused, faulty = counts.get(place.get(file.slice), (0, 0, 0))
        if read != accepted + refused:
            raise AccountingError(
                f"{file.path}: {read} rows read, {accepted} accepted, {refused} quarantined"
            )
        rows.append((*file.slice, file.sha256, read, accepted, refused, faulty, None))
    return pl.DataFrame(rows, schema=FILES_SCHEMA, orient="row")


def _too_bad(
    files: pl.DataFrame, refusals: Mapping[Slice, str], spec: DatasetSpec
) -> dict[Slice, str]:
    """Files that are refused for the sum of their rows; of many partitions, their partitions."""
    unit = [PARTITION] if spec.is_split else [PARTITION, "file"]
    sums = (
        files.filter(~pl.col(PARTITION).str.starts_with(UNPLACED))
        .group_by(unit, maintain_order=True)
        .agg(pl.col("rows_read", "faulty").sum(), pl.col("file").alias("_files"))
    )
    found: dict[Slice, str] = {}
    for row in sums.iter_rows(named=True):
        why = excess(row["rows_read"], row["faulty"], spec)
        slices = {(row[PARTITION], path) for path in row["_files"]}
        if why is not None and not slices & refusals.keys():
            found |= dict.fromkeys(slices, why)
    return found


def excess(read: int, refused: int, spec: DatasetSpec) -> str | None:
    """Why so many refused rows are too many to accept the others."""
    bound = spec.quarantine.max_fraction
    if read == 0:
        return "it has no rows" if spec.rows.min > 0 else None
    if refused == read:
        return f"all of its {read} rows were refused"
    if refused > bound * read:
        return f"{refused} of {read} rows were refused; quarantine.max_fraction is {bound:g}"
    return None


def _refuse(judgement: Judgement, refusals: Mapping[Slice, str]) -> Judgement:
    """Refuse slices whole, and with them what else their partitions hold."""
    hit = pl.col(PARTITION).is_in([key for key, _ in refusals])
    named = pl.DataFrame(
        [(*found, why) for found, why in refusals.items()],
        schema={PARTITION: pl.String, "file": pl.String, "_why": pl.String},
        orient="row",
    )
    refused = (
        judgement.files.filter(hit)
        .join(named, on=[PARTITION, "file"], how="left")
        .with_columns(pl.col("_why").fill_null(NEIGHBOUR_REFUSED).alias("refusal"))
        .drop("_why")
    )
    rows = judgement.quarantined.filter(hit).partition_by(PARTITION, "_file", as_dict=True)
    none = judgement.quarantined.clear()
    records = [
        _file_record(file, rows.get((file[PARTITION], file["file"]), none))
        for file in refused.iter_rows(named=True)
    ]
    counted = refused.with_columns(accepted=pl.lit(0, pl.Int64), quarantined=pl.col("rows_read"))
    return Judgement(
        accepted=judgement.accepted.filter(~hit),
        quarantined=pl.concat(
            [judgement.quarantined.filter(~hit), pl.DataFrame(records, QUARANTINE_SCHEMA)]
        ),
        files=pl.concat([judgement.files.filter(~hit), counted]).sort(PARTITION, "file"),
        outliers=judgement.outliers.filter(~hit),
    )


def _file_record(file: Mapping[str, Any], rows: pl.DataFrame) -> dict[str, object]:
    """One quarantine record for a whole file: why, what its rows break, and a few of them."""
    broken = rows.explode("_reasons").select(pl.col("_reasons").struct.unnest())
    examples = broken.unique(["rule", "column"], keep="first", maintain_order=True).to_dicts()
    why = {"rule": "file", "column": None, "value": file["refusal"][:MAX_CHARACTERS]}
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
