"""The contract of a dataset: which rows are accepted, which are refused, and every reason why.

A partition is judged by itself, so that the result does not depend on how many are judged at once.
Where one of its files is refused, a partition keeps its earlier content, so none of its new rows is
accepted. A file that holds many partitions is cut into one slice a partition first. Not here:
reading files, storing rows, and the rules on single rows.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from statistics import median
from typing import Any

import polars as pl

from retrain_assets.domain.data import row_checks, rules, texts
from retrain_assets.domain.data.row_checks import FAULTY, REFUSED, SLICE, RawRows, Slice
from retrain_assets.domain.data.rules import LINE, PARTITION, PROBLEM, Type
from retrain_assets.errors import PermanentError
from retrain_assets.specs.base import duration, shorten
from retrain_assets.specs.dataset import DatasetSpec

UNPLACED = "file:"  # begins the key of rows whose partition is unknown
NEIGHBOUR_REFUSED = "another file of the same partition was refused"
QUARANTINE_SCHEMA: dict[str, Type] = {
    PARTITION: pl.String,
    "_file": pl.String,
    LINE: pl.Int64,
    "_reasons": pl.List(pl.Struct({"rule": pl.String, "column": pl.String, "value": pl.String})),
    "_row": pl.String,
}
FILES_SCHEMA: dict[str, Type] = {
    **dict.fromkeys((PARTITION, "file", "sha256"), pl.String),
    **dict.fromkeys(("rows_read", "accepted", "quarantined", "faulty"), pl.Int64),
    "refusal": pl.String,
}
_SHOWN_CHARACTERS = 60
_HISTORY, _ENOUGH = 28, 5  # most and fewest earlier partitions that a volume is compared with
_KEY = "_key_of_row"


class AccountingError(PermanentError):
    """Rows of a file were lost or doubled, which is a defect of this program: nothing is stored."""


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
        texts: The tally of categories and odd texts in the accepted rows, see `texts.tally`.
    """

    accepted: pl.DataFrame
    quarantined: pl.DataFrame
    files: pl.DataFrame
    outliers: pl.DataFrame
    texts: pl.DataFrame

    @cached_property
    def refused_partitions(self) -> dict[str, str]:
        """Return the partitions with a refused file, each with the file and the reason."""
        refused = self.files.filter(pl.col("refusal").is_not_null())
        causes = refused.sort(pl.col("refusal") == NEIGHBOUR_REFUSED, maintain_order=True)
        first = causes.unique(PARTITION, keep="first", maintain_order=True).sort(PARTITION)
        return {row[PARTITION]: f"{row['file']}: {row['refusal']}" for row in first.to_dicts()}


def judge(raw: Sequence[RawRows], spec: DatasetSpec) -> Judgement:
    """Divide the rows of landing files into accepted and quarantined.

    Args:
        raw: The rows of all files of some partitions.
        spec: The dataset.

    Raises:
        AccountingError: A row is in neither part, or in both.
    """
    files = sorted(raw, key=lambda file: (file.partition, file.path))
    refusals = {
        item.slice: why for item in files if (why := row_checks.reason_to_refuse(item, spec))
    }
    readable = [file for file in files if file.slice not in refusals]
    rows, flags = row_checks.flag_rows(readable, spec)
    counts = _count(files, refusals, rows)
    reasons = {file.slice: file.excess for file in readable if file.excess}
    reasons |= _find_too_bad(counts, refusals, spec)
    bad = [number for number, file in enumerate(readable) if file.slice in reasons]
    sound = rows.lazy().filter(~pl.col(REFUSED))
    judgement = Judgement(
        accepted=sound.select(*rules.dataset_schema(spec)).collect(),
        quarantined=row_checks.explain(row_checks.thin_out(rows, bad, flags), flags, spec),
        files=counts,
        outliers=row_checks.outliers(rows, flags, spec),
        texts=texts.tally(sound, spec).collect(),
    )
    first = _first_faults(judgement.quarantined)
    examples = {key: text for (key, _), text in reversed(first.items())} if spec.is_split else {}
    for part, reason in reasons.items():
        refusals[part] = reason + first.get(part, examples.get(part[0], ""))
    return _refuse(judgement, refusals)


def merge(parts: Sequence[Judgement], spec: DatasetSpec) -> Judgement:
    """Merge judgements of different partitions."""
    parts, names = [judge([], spec), *parts], [field.name for field in fields(Judgement)]
    return Judgement(**{name: pl.concat([getattr(part, name) for part in parts]) for name in names})


def refuse_partitions(judgement: Judgement, reasons: Mapping[str, str]) -> Judgement:
    """Refuse whole partitions after all, such as those that fail an audit.

    Args:
        judgement: The judgement so far.
        reasons: Reasons by partition key; files that are refused already keep their own reason.
    """
    standing = judgement.files.filter(
        pl.col("refusal").is_null() & pl.col(PARTITION).is_in(list(reasons))
    )
    keys = standing.select(PARTITION, "file").iter_rows()
    return _refuse(judgement, {(key, path): reasons[key] for key, path in keys})


def _count(
    files: Sequence[RawRows], refusals: Mapping[Slice, str], checked: pl.DataFrame
) -> pl.DataFrame:
    """Count the rows of each file, before any file is refused whole."""
    sums = (pl.len() - pl.col(REFUSED).sum()).alias("accepted"), pl.col(REFUSED, FAULTY).sum()
    grouped = checked.select(SLICE, REFUSED, FAULTY).group_by(SLICE).agg(*sums)
    counts = {number: sizes for number, *sizes in grouped.iter_rows()}
    readable = [file.slice for file in files if file.slice not in refusals]
    numbers = {key: number for number, key in enumerate(readable)}
    rows = []
    for file in files:
        height = 0 if file.slice in refusals else file.rows.height
        accepted, refused, faulty = counts.get(numbers.get(file.slice), (0, 0, 0))
        if height != accepted + refused:
            raise AccountingError(
                f"{file.path}: {height} rows read, {accepted} accepted, {refused} quarantined"
            )
        rows.append((*file.slice, file.sha256, height, accepted, refused, faulty, None))
    return pl.DataFrame(rows, schema=FILES_SCHEMA, orient="row")


def _find_too_bad(
    files: pl.DataFrame, refusals: Mapping[Slice, str], spec: DatasetSpec
) -> dict[Slice, str]:
    """Return files whose refused rows are too many; where files hold many partitions, by those."""
    unit = [PARTITION] if spec.is_split else [PARTITION, "file"]
    sums = (
        files.filter(~pl.col(PARTITION).str.starts_with(UNPLACED))
        .group_by(unit, maintain_order=True)
        .agg(pl.col("rows_read", "faulty").sum(), pl.col("file").alias("_files"))
    )
    reasons: dict[Slice, str] = {}
    for row in sums.iter_rows(named=True):
        reason = excess(row["rows_read"], row["faulty"], spec)
        parts = [(row[PARTITION], path) for path in row["_files"]]
        if reason is not None and refusals.keys().isdisjoint(parts):
            reasons |= dict.fromkeys(parts, reason)
    return reasons


def _first_faults(quarantined: pl.DataFrame) -> dict[Slice, str]:
    """Describe the first row of each slice that is refused for more than being repeated."""
    rule = pl.col("_reasons").list.first().struct.field("rule")
    first = quarantined.filter(rule != "repeat").unique(
        [PARTITION, "_file"], keep="first", maintain_order=True
    )
    faults = {}
    for row in first.iter_rows(named=True):
        reason, problem = row["_reasons"][0], json.loads(row["_row"]).get(PROBLEM)
        value = repr(shorten(reason["value"], _SHOWN_CHARACTERS)) if reason["value"] else "no value"
        fault = problem or f"column {reason['column']}: {value} breaks the rule {reason['rule']}"
        faults[row[PARTITION], row["_file"]] = f"; the first is on line {row[LINE]}: {fault}"
    return faults


def excess(total: int, refused: int, spec: DatasetSpec) -> str | None:
    """Return why so many rows are refused that the others are refused too."""
    bound = spec.quarantine.max_fraction
    if total == 0:
        return "it has no rows" if spec.rows.min > 0 else None
    if refused == total:
        return (
            "its only row was refused" if total == 1 else f"all of its {total:,} rows were refused"
        )
    if refused > bound * total:
        return f"{refused} of {total} rows were refused; quarantine.max_fraction is {bound:g}"
    return None


def _refuse(judgement: Judgement, refusals: Mapping[Slice, str]) -> Judgement:
    """Refuse whole slices, and with them all other rows of their partitions."""
    hit = pl.col(PARTITION).is_in([key for key, _ in refusals])
    reasons = pl.DataFrame(
        [(*part, reason) for part, reason in refusals.items()],
        schema={PARTITION: pl.String, "file": pl.String, "refusal": pl.String},
        orient="row",
    )
    refused = (
        judgement.files.filter(hit)
        .drop("refusal")
        .join(reasons, on=[PARTITION, "file"], how="left")
        .with_columns(pl.col("refusal").fill_null(NEIGHBOUR_REFUSED))
    )
    rows = judgement.quarantined.filter(hit).partition_by(PARTITION, "_file", as_dict=True)
    empty = judgement.quarantined.clear()
    records = [
        _file_record(file, rows.get((file[PARTITION], file["file"]), empty))
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
        texts=judgement.texts.filter(~hit),
    )


def _file_record(file: Mapping[str, Any], rows: pl.DataFrame) -> dict[str, object]:
    """Return one quarantine record for a file: its reason, its faults and some of its rows."""
    broken = rows.explode("_reasons").select(pl.col("_reasons").struct.unnest())
    examples = broken.unique(["rule", "column"], keep="first", maintain_order=True).to_dicts()
    reason = {"rule": "file", "column": None, "value": file["refusal"][: row_checks.MAX_CHARACTERS]}
    sample = rows.select(LINE, "_row").head(row_checks.SAMPLE_ROWS).iter_rows()
    return {
        PARTITION: file[PARTITION],
        "_file": file["file"],
        LINE: None,
        "_reasons": [reason, *examples],
        "_row": json.dumps(
            {
                "rows_read": file["rows_read"],
                "refused": file["quarantined"],
                "sample": [{LINE: line, **json.loads(row)} for line, row in sample],
            }
        ),
    }


def slices(
    file: RawRows,
    spec: DatasetSpec,
    stored: Mapping[str, int] | None = None,
    now: datetime | None = None,
) -> list[RawRows]:
    """Cut a file by the partition of its rows.

    A slice is named by a digest of its rows, so that when a file is delivered again only the
    partitions whose rows have changed are replaced.

    Args:
        file: A full file, whatever its `partition`.
        spec: A dataset that `is_split`.
        stored: See `find_strays`.
        now: See `find_strays`.

    Returns:
        One slice a partition and, last, the rows without a partition: their value is no date, or is
        outside the partitions of the dataset, or their partition waits. The last slice exists even
        without rows and keeps the digest of the file, which records that the file was read. Where
        too many rows have no partition, it is the only slice and refuses the file by its `excess`.
    """
    unplaced = replace(file, partition=f"{UNPLACED}{file.path}")
    if file.refusal is not None or row_checks.reason_to_refuse(file, spec) is not None:
        return [unplaced]
    keys = partition_keys(row_checks.typed([file], spec), spec)
    counts = dict(keys.drop_nulls().value_counts().iter_rows())
    waiting = find_strays(counts, stored or {}, spec, now)
    rows = file.rows.with_columns(keys.set(keys.is_in(list(waiting)), None))
    if waiting:
        unplaced = replace(unplaced, waiting=tuple(sorted(waiting)))
        reasons = keys.replace_strict(waiting, default=None, return_dtype=pl.String).alias(PROBLEM)
        broken = rows[PROBLEM] if PROBLEM in rows.columns else pl.lit(None, pl.String)
        rows = rows.with_columns(pl.coalesce(broken, reasons).alias(PROBLEM))
    parts = rows.partition_by(_KEY, maintain_order=True, include_key=False, as_dict=True)
    rest = parts.pop((None,), rows.drop(_KEY).clear())
    if (reason := excess(file.rows.height, rest.height, spec)) is not None:
        return [replace(unplaced, rows=rest, excess=reason)]
    placed = [
        replace(
            file,
            partition=str(key),
            rows=rows,
            sha256=_digest(rows),
            refusal=_explain_lack(file, str(key), spec),
        )
        for (key,), rows in parts.items()
    ]
    return [*placed, replace(unplaced, rows=rest)]


def _explain_lack(file: RawRows, key: str, spec: DatasetSpec) -> str | None:
    """Return which column the rows of a partition may not lack, if the file has none of it."""
    for name in file.lacking:
        since = spec.columns[name].since
        if since is not None and key >= since:
            return f"it lacks {name}, which the files have since {since}"
    return None


def partition_keys(rows: pl.DataFrame, spec: DatasetSpec) -> pl.Series:
    """Return the partition of each typed row; null where the dataset has no such partition."""
    key = rules.partition_of(spec.partition, spec.partition.column or "")
    keys = rows.select(key.alias(_KEY))[_KEY]
    valid = [key for key in keys.unique().drop_nulls() if spec.partition.is_key(key)]
    return keys.set(~keys.is_in(valid), None)


def _digest(rows: pl.DataFrame) -> str:
    """Return a digest of rows in their order, wherever they are in the file."""
    text = rows.drop(LINE, PROBLEM, strict=False).write_csv(
        null_value="\\N", quote_style="non_numeric"
    )
    return sha256(text.encode()).hexdigest()


def find_strays(
    rows: Mapping[str, int], stored: Mapping[str, int], spec: DatasetSpec, now: datetime | None
) -> dict[str, str]:
    """Return the partitions of a delivery that wait because nothing confirms their time, and why.

    A partition waits if it begins in the future, or if it is far from all others and has few rows,
    as those with a mistaken date have. It waits until others near it are stored.

    Args:
        rows: Rows of each partition in the delivery.
        stored: Accepted rows of each stored partition, none of which waits.
        spec: The dataset.
        now: The time in the time zone of the partitions, without offset; None if nobody knows.
    """
    period = spec.partition.period
    if period is None:
        return {}
    latest = datetime.max if now is None else now + duration(spec.rows.ahead)  # noqa: DTZ901 bound
    begins = {key: period.begins(key) or datetime.max for key in {*stored, *rows}}  # noqa: DTZ901
    future = {key for key in rows if key not in stored and begins[key] > latest}
    counts = {key: count for key, count in {**stored, **rows}.items() if key not in future}
    usual = median(counts.values()) if len(counts) > _ENOUGH else 0
    enough = max(1, spec.rows.stray * usual)
    confirmed = {key for key, count in counts.items() if key in stored or count >= enough}
    groups: list[list[str]] = []
    for key in sorted(counts):
        is_near = groups and begins[key] - begins[groups[-1][-1]] <= period.near * period.longest
        groups = groups if is_near else [*groups, []]
        groups[-1].append(key)
    apart = [key for group in groups if confirmed.isdisjoint(group) for key in group]
    return dict.fromkeys(future, "its partition begins in the future and waits") | dict.fromkeys(
        apart, "its partition is far from all others, has few rows and waits for its neighbours"
    )


def find_atypical(
    rows: Mapping[str, int], published: Collection[str], tolerance: float
) -> list[dict[str, object]]:
    """Return partitions whose number of rows is far from the median of the 28 before them.

    Args:
        rows: Accepted rows of each partition, including the published ones.
        published: Partitions to judge; one with fewer than five earlier partitions passes.
        tolerance: Largest difference, as a share of the median.

    Returns:
        Partition, rows and median of each partition that is too far off, in order.
    """
    keys = sorted(rows)
    unusual: list[dict[str, object]] = []
    for place, key in enumerate(keys):
        before = [rows[earlier] for earlier in keys[max(0, place - _HISTORY) : place]]
        if key not in published or len(before) < _ENOUGH:
            continue
        typical = median(before)
        if abs(rows[key] - typical) > tolerance * typical:
            unusual.append({"partition": key, "rows": rows[key], "median_before": typical})
    return unusual
