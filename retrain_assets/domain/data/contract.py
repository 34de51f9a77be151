"""The contract of a dataset: which rows are accepted, which are refused, and every reason why.

A partition is judged by itself, so that the result does not depend on how many are judged at once.
Where one of its files is refused, a partition keeps its earlier content, so none of its new rows is
accepted. A file that holds many partitions is cut into one slice a partition first. Not here:
reading files, storing rows, and the rules on single rows.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

import polars as pl

from retrain_assets.domain.data import arrivals, row_checks, rules, texts
from retrain_assets.domain.data.row_checks import REFUSED, RawRows, Shelf, Slice
from retrain_assets.domain.data.rules import LINE, PARTITION, PROBLEM, Type
from retrain_assets.errors import PermanentError
from retrain_assets.specs.base import shorten
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
_KEY = "_key_of_row"
_CUT_AT_ONCE = 4  # batches of rows of a file that is cut; more would take memory, fewer make files


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


def judge(
    raw: Sequence[RawRows],
    spec: DatasetSpec,
    keep: Callable[[pl.DataFrame], object] | None = None,
) -> Judgement:
    """Divide the rows of landing files into accepted and quarantined, chunk by chunk.

    Args:
        raw: The rows of all files of some partitions.
        spec: The dataset.
        keep: Takes the sound rows of each chunk, so that the judgement holds none of them. Among
            them are those of partitions that are refused later.

    Raises:
        AccountingError: A row is in neither part, or in both.
    """
    files = sorted(raw, key=lambda file: (file.partition, file.path))
    refusals = {
        item.slice: why for item in files if (why := row_checks.reason_to_refuse(item, spec))
    }
    readable = [file for file in files if file.slice not in refusals]
    reasons = {file.slice: file.excess for file in readable if file.excess}
    chunks, flags = row_checks.flag_rows(readable, spec)
    accepted, listed, outliers, tallies = [], [], [], []
    counts: dict[int, tuple[int, int, int]] = {}
    for rows in chunks:
        sound = rows.lazy().filter(~pl.col(REFUSED))
        chunk = sound.select(*rules.dataset_schema(spec)).collect()
        accepted.append(chunk if keep is None else chunk.clear())
        if keep is not None:
            keep(chunk)
        row_checks.count(rows, counts)
        counted = _count(files, readable, counts)
        too_bad = _find_too_bad(counted, refusals, spec)
        bad = [n for n, file in enumerate(readable) if file.slice in {*reasons, *too_bad}]
        # Whatever is listed in the end is among what is listed of its chunk.
        listed.append(row_checks.thin_out(rows.filter(REFUSED), bad, flags))
        outliers.append(row_checks.outliers(rows, flags, spec))
        tallies.append(texts.tally(sound, spec).collect())
    _check_account(counted)
    refused = row_checks.thin_out(pl.concat(listed), bad, flags, counts)
    judgement = Judgement(
        accepted=pl.concat(accepted),
        quarantined=row_checks.explain(refused, flags, spec),
        files=counted,
        outliers=row_checks.add_up(outliers),
        texts=texts.add_up(tallies),
    )
    return _refuse_bad(judgement, reasons | too_bad, refusals, spec)


def _refuse_bad(
    judgement: Judgement,
    reasons: Mapping[Slice, str],
    refusals: dict[Slice, str],
    spec: DatasetSpec,
) -> Judgement:
    """Refuse slices for the reasons of their rows, with the first fault, and for other reasons."""
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
    files: Sequence[RawRows],
    readable: Sequence[RawRows],
    counts: Mapping[int, tuple[int, int, int]],
) -> pl.DataFrame:
    """Return the counts of each file so far, before any file is refused whole.

    Args:
        files: All files.
        readable: Those whose rows are counted.
        counts: Rows, refused and faulty rows of each readable file, by its number.
    """
    numbers = {file.slice: number for number, file in enumerate(readable)}
    rows = []
    for file in files:
        height = file.rows.height if file.slice in numbers else 0
        total, refused, faulty = counts.get(numbers.get(file.slice, -1), (0, 0, 0))
        rows.append((*file.slice, file.sha256, height, total - refused, refused, faulty, None))
    return pl.DataFrame(rows, schema=FILES_SCHEMA, orient="row")


def _check_account(files: pl.DataFrame) -> None:
    lost = files.filter(pl.col("rows_read") != pl.col("accepted") + pl.col("quarantined"))
    for row in lost.head(1).iter_rows(named=True):
        raise AccountingError(
            f"{row['file']}: {row['rows_read']} rows read, {row['accepted']} accepted, "
            f"{row['quarantined']} quarantined: rows were lost, which is a fault of the platform: "
            "keep the file and report the fault"
        )


def _find_too_bad(
    files: pl.DataFrame, refusals: Mapping[Slice, str], spec: DatasetSpec
) -> dict[Slice, str]:
    """Return files whose refused rows are too many; where files hold many partitions, by those."""
    # Of files that are pulled, a later one may replace all rows of an earlier one.
    unit = [PARTITION] if spec.is_split or spec.is_pulled else [PARTITION, "file"]
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
    find_waiting: Callable[[Mapping[str, int]], Mapping[str, str]] | None = None,
    keep: Callable[[], Shelf] | None = None,
) -> list[RawRows]:
    """Cut a file by the partition of its rows.

    A slice is named by a digest of its rows, so that when a file is delivered again only the
    partitions whose rows have changed are replaced.

    Args:
        file: A full file, whatever its `partition`.
        spec: A dataset that `is_split`.
        find_waiting: Returns which partitions wait, and why, by their rows; by default none does.
        keep: Makes what keeps the rows of a partition out of memory; by default they are in memory.

    Returns:
        One slice a partition and, last, the rows without a partition: their value is no date, or is
        outside the partitions of the dataset, or their partition waits. The last slice exists even
        without rows and keeps the digest of the file, which records that the file was read. Where
        too many rows have no partition, it is the only slice and refuses the file by its `excess`.
    """
    unplaced = replace(file, partition=f"{UNPLACED}{file.path}")
    if file.refusal is not None or row_checks.reason_to_refuse(file, spec) is not None:
        return [unplaced]
    keys = partitions_of(file, spec)
    counts = dict(keys.drop_nulls().value_counts().iter_rows())
    waiting = find_waiting(counts) if find_waiting else {}
    if waiting:
        unplaced = replace(unplaced, waiting=arrivals.name_waiting(waiting))
    most = row_checks.rows_at_once(spec)
    cut = _Cut(keep, _CUT_AT_ONCE * most)
    for rows in file.chunks(most):
        part, keys = keys.head(rows.height), keys.slice(rows.height)
        cut.add(_explain_waiting(rows, part, waiting))
    parts, digests = cut.finish()
    rest = parts.pop(None, pl.DataFrame(schema=file.rows.schema))
    short = sum(counts[key] for key, why in waiting.items() if why == arrivals.SHORT)
    if (reason := excess(file.rows.height, rest.height - short, spec)) is not None:
        return [replace(unplaced, rows=rest, excess=reason)]
    placed = [
        replace(
            file,
            partition=key,
            rows=rows,
            sha256=digests[key],
            refusal=_explain_lack(file, key, spec),
        )
        for key, rows in parts.items()
        if key is not None
    ]
    return [*placed, replace(unplaced, rows=rest)]


def _explain_waiting(
    rows: pl.DataFrame, keys: pl.Series, waiting: Mapping[str, str]
) -> pl.DataFrame:
    """Return rows with their partition in `_key_of_row`; those that wait have none, and say why."""
    if waiting:
        reasons = keys.replace_strict(waiting, default=None, return_dtype=pl.String).alias(PROBLEM)
        broken = rows[PROBLEM] if PROBLEM in rows.columns else pl.lit(None, pl.String)
        rows = rows.with_columns(pl.coalesce(broken, reasons).alias(PROBLEM))
    return rows.with_columns(keys.set(keys.is_in(list(waiting)), None))


class _Cut:
    """The rows of a file by partition, as its chunks come.

    Args:
        keep: Makes what keeps rows out of memory; None keeps them in memory.
        most: So many rows may be in memory before they are kept elsewhere.
    """

    def __init__(self, keep: Callable[[], Shelf] | None, most: int) -> None:
        self._keep, self._most, self._height = keep, most, 0
        self._rows: dict[str | None, list[pl.DataFrame]] = defaultdict(list)
        self._shelves: dict[str | None, Shelf] = {}
        self._digests: dict[str | None, Any] = {}

    def add(self, rows: pl.DataFrame) -> None:
        """Add a chunk, each row with its partition in `_key_of_row`."""
        parts = rows.partition_by(_KEY, maintain_order=True, include_key=False, as_dict=True)
        for (key,), part in parts.items():
            text = part.drop(LINE, PROBLEM, strict=False).write_csv(
                null_value="\\N", quote_style="non_numeric", include_header=key not in self._digests
            )
            self._digests.setdefault(key, sha256()).update(text.encode())
            self._rows[key].append(part)
        self._height += rows.height
        if self._height >= self._most:
            self._move()

    def _move(self) -> None:
        """Move all rows out of memory."""
        if self._keep is None:
            return
        for key, rows in self._rows.items():
            shelf = self._shelves.setdefault(key, self._keep())
            shelf.put(pl.concat(rows, rechunk=True))
        self._rows.clear()
        self._height = 0

    def finish(self) -> tuple[dict[str | None, pl.DataFrame | Shelf], dict[str | None, str]]:
        """Return the rows of each partition, and their digests, wherever they are in the file."""
        digests = {key: digest.hexdigest() for key, digest in self._digests.items()}
        if self._keep:
            self._move()
            return {**self._shelves}, digests
        return {key: pl.concat(rows, rechunk=True) for key, rows in self._rows.items()}, digests


def _explain_lack(file: RawRows, key: str, spec: DatasetSpec) -> str | None:
    """Return which column the rows of a partition may not lack, if the file has none of it."""
    for name in file.lacking:
        since = spec.columns[name].since
        if since is not None and key >= since:
            return f"it lacks {name}, which the files have since {since}"
    return None


def partitions_of(file: RawRows, spec: DatasetSpec) -> pl.Series:
    """Return the partition of each row of a file; null where the dataset has no such partition."""
    return pl.concat(partition_keys(rows, spec) for rows in row_checks.typed([file], spec))


def partition_keys(rows: pl.DataFrame, spec: DatasetSpec) -> pl.Series:
    """Return the partition of each typed row; null where the dataset has no such partition."""
    key = rules.partition_of(spec.partition, spec.partition.column or "")
    keys = rows.select(key.alias(_KEY))[_KEY]
    valid = [key for key in keys.unique().drop_nulls() if spec.partition.is_key(key)]
    return keys.set(~keys.is_in(valid), None)
