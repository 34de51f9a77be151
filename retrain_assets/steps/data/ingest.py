"""From landing files to tables: read, judge, audit, publish.

Quarantine is committed first, then the accepted rows of the sound partitions, then the list of
files, each in one commit whatever the number of partitions; a kill in between is repaired when the
same partitions are ingested again. Not here: the rules, and Dagster.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import polars as pl
from polars.exceptions import PanicException

from retrain_assets.domain.data import arrivals, contract, texts
from retrain_assets.domain.data.contract import UNPLACED, Judgement
from retrain_assets.domain.data.expectations import figures
from retrain_assets.domain.data.row_checks import NO_ROWS, RawRows
from retrain_assets.domain.data.rules import LINE, PARTITION, dataset_schema
from retrain_assets.errors import PermanentError
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.data.deliveries import Change, compare_deliveries
from retrain_assets.steps.data.intake import Batch, Intake, Share
from retrain_assets.steps.state import FILES, digest
from retrain_assets.stores.audit import (
    MAX_AUDITED_ROWS,
    Audit,
    audit,
    draw_sample,
    judge_volume,
    write_results,
)
from retrain_assets.stores.engine import IN_PROCESS
from retrain_assets.stores.landing.readers import shown
from retrain_assets.stores.storage import Storage
from retrain_assets.stores.tables.data_files import Spill
from retrain_assets.stores.tables.tables import Tables

CHECKED_RULES: dict[str, tuple[str, ...]] = {
    "schema_matches": ("parse", "type", "partition", "file"),
    "required_values_present": ("required",),
    "values_within_range": ("range", "outlier"),
    "categories_allowed": ("allowed", "pattern"),
    "keys_unique": ("key", "repeat"),
}

# In the order of the commits, so that what is refused is kept before anything is published.
PARTS = ("quarantine", "dataset", "files")


class NothingLandedError(PermanentError):
    """None of the requested partitions has a file."""


@dataclass(frozen=True)
class Reading:
    """The outcome of all that was read.

    Args:
        judgement: Quarantined rows and files; the accepted rows are in a spill file.
        audit: The results of Great Expectations on the accepted rows.
        stamps: The state of each slice's file when it was read.
        extra: Columns of each file that the contract does not know.
        waiting: The partitions of each file that wait until others near them are stored.
    """

    judgement: Judgement
    audit: Audit
    stamps: dict[tuple[str, str], str]
    extra: dict[str, tuple[str, ...]]
    waiting: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Ingestion:
    """The outcome of one ingest.

    Args:
        requested: Requested partitions that have something new.
        published: Those whose rows were committed.
        reading: What was judged and audited.
        atypical: Partitions with an unusual number of rows.
        shared_keys: Keys that several partitions have, counted by these.
        changes: What deliveries of full copies changed, see `compare_deliveries`.
        odd_texts: Texts that look like a mistake, and new categories, see `texts.describe`.
        version: Version of the dataset after the commit; None where nothing was ever published.
        audit_file: The results of Great Expectations as JSON.
        ignored: Names that are no files of the dataset, and why.
    """

    requested: tuple[str, ...]
    published: tuple[str, ...]
    reading: Reading
    atypical: list[dict[str, object]]
    shared_keys: list[dict[str, object]]
    odd_texts: list[dict[str, object]]
    changes: list[Change]
    version: int | None
    audit_file: str
    ignored: list[dict[str, str | int]]

    @property
    def refused(self) -> dict[str, str]:
        """Return why partitions, and files without a partition, were not published."""
        return self.reading.judgement.refused_partitions

    def rows_by_partition(self, partitions: Collection[str]) -> pl.DataFrame:
        """Count rows `accepted`, and rows and full files `quarantined`, by partition."""
        judgement = self.reading.judgement
        is_refused = pl.col("refusal").is_not_null()
        quarantined = pl.when(is_refused).then(1).otherwise("quarantined").alias("quarantined")
        counts = judgement.files.select(PARTITION, "accepted", quarantined)
        counted = counts.group_by(PARTITION).sum().sort(PARTITION)
        return counted.filter(pl.col(PARTITION).is_in(list(partitions)))

    @property
    def files(self) -> int:
        """Count the files that were read."""
        return self.reading.judgement.files["file"].n_unique()

    def refusals_by_partition(self, rules: Collection[str]) -> list[dict[str, str | int]]:
        """Count the rows or files refused for these rules, with one example a partition."""
        reasons = self.reading.judgement.quarantined.explode("_reasons").unnest("_reasons")
        grouped = (
            reasons.filter(pl.col("rule").is_in(list(rules)))
            .sort(PARTITION, "_file", "_line")
            .group_by(PARTITION, maintain_order=True)
            .agg(
                pl.len().alias("rows"), pl.col("_file", "_line", "rule", "column", "value").first()
            )
        )
        names = {PARTITION: "partition", "_file": "file", "_line": "line"}
        return grouped.rename(names).to_dicts()

    def findings(self, *, volume: bool) -> list[dict[str, str]]:
        """Return the expectations that failed: those on volume, or all others."""
        return [
            {
                "expectation": finding.item.title,
                "column": finding.item.column or "",
                "partitions": ", ".join(finding.partitions[:10]),
                "observed": finding.observed,
            }
            for finding in self.reading.audit.findings
            if not finding.passed and (finding.item.rule == "volume") is volume
        ]

    def outlying(self, spec: DatasetSpec) -> list[dict[str, object]]:
        """Return the columns with too many outliers, by partition."""
        return [
            row
            for row in self.reading.judgement.outliers.rename({PARTITION: "partition"}).to_dicts()
            if (rule := spec.columns[row["column"]].outliers) is not None
            and row["outlying"] > rule.max_share * row["rows"]
        ]

    def unaccounted(self) -> list[dict[str, object]]:
        """Return the accepted files whose rows do not add up."""
        lost = pl.col("rows_read") != pl.col("accepted") + pl.col("quarantined")
        return self.reading.judgement.files.filter(pl.col("refusal").is_null() & lost).to_dicts()


def ingest(
    storage: Storage,
    spec: DatasetSpec,
    partitions: Sequence[str],
    run_id: str,
    now_ns: int | None = None,
) -> Ingestion:
    """Ingest what has landed of some partitions.

    Memory is bounded by a batch of files, or by one file that holds many partitions.

    Args:
        storage: Where files and tables are.
        spec: The dataset.
        partitions: Keys; those without a file are left as they are.
        run_id: Written on every commit.
        now_ns: The time, in nanoseconds since 1970. New files are ignored until they have been
            unchanged for `read.settle`; by default all files are read.

    Raises:
        NothingLandedError: None of the partitions has a file.
    """
    tables, intake = storage.tables, Intake(storage, spec, min(partitions), now_ns)
    base = {part: tables.version(f"{spec.name}/{part}") for part in PARTS}
    with Spill() as spill:
        reading = _read(intake, set(partitions), spill)
        judgement = reading.judgement
        keys = tuple(judgement.files[PARTITION].unique().sort())
        if not keys:
            raise NothingLandedError(_describe_nothing(intake, partitions))
        requested = tuple(key for key in keys if not key.startswith(UNPLACED))
        published = tuple(key for key in requested if key not in judgement.refused_partitions)
        accepted = spill.frame().filter(pl.col(PARTITION).is_in(published))
        shared_keys = _shared_keys(intake, accepted.lazy(), published)
        contents = digest(*judgement.files["sha256"].sort())
        commit = {"run_id": run_id, "asset": spec.name, "files": contents}
        records = _records(intake, reading)
        content = (judgement.quarantined, keys), (accepted, published), (records, keys)
        for part, (rows, keys) in zip(PARTS, content, strict=True):
            _replace(intake, part, rows, keys, commit, base[part])
    folder = storage.reports / "expectations" / spec.name
    return Ingestion(
        audit_file=write_results(reading.audit, spec, folder, run_id),
        requested=requested,
        published=published,
        reading=reading,
        atypical=_atypical(intake, judgement, published),
        shared_keys=shared_keys,
        odd_texts=_find_odd_texts(intake, judgement, published),
        changes=compare_deliveries(tables, spec, intake.accepted, published),
        version=tables.version(f"{spec.name}/dataset"),
        ignored=intake.ignored.records(),
    )


def _describe_nothing(intake: Intake, partitions: Sequence[str]) -> str:
    """Return where nothing was for some partitions."""
    spec = intake.spec
    below = f" below {intake.storage.landing_place}" if spec.landing and not spec.bucket else ""
    return (
        f"dataset {spec.name}: nothing for {partitions[0]} to {partitions[-1]} in "
        f"{spec.place}{below}{intake.ignored}"
    )


def _replace(
    intake: Intake,
    part: str,
    rows: pl.DataFrame | pl.LazyFrame,
    keys: tuple[str, ...],
    commit: dict[str, str],
    base: int | None,
) -> None:
    """Replace the partitions of a table whose rows are not what is stored."""
    table, tables = f"{intake.spec.name}/{part}", intake.storage.tables
    same = set() if part == "files" else _unchanged(tables, table, rows.lazy(), intake)
    if replaced := [key for key in keys if key not in same]:
        new = rows.filter(pl.col(PARTITION).is_in(replaced))
        tables.replace(table, new, replaced, commit, base=base)


@dataclass(frozen=True)
class Part:
    """The outcome of one batch.

    Args:
        judgement: Quarantined rows and files; the accepted rows were spilled.
        samples: A sample of the accepted rows, chunk by chunk.
        counts: Figures on the accepted rows of each partition.
        stamps: As of a reading; so are `extra` and `waiting`.
    """

    judgement: Judgement
    samples: list[pl.DataFrame]
    counts: pl.DataFrame
    stamps: dict[tuple[str, str], str]
    extra: dict[str, tuple[str, ...]]
    waiting: dict[str, tuple[str, ...]]


def _read(intake: Intake, requested: set[str], spill: Spill) -> Reading:
    """Judge all batches, spill the accepted rows, and audit a sample of them."""
    spec, parts = intake.spec, [*_judge_all(intake, requested, spill)]
    judgement = contract.merge([part.judgement for part in parts], spec)
    if not parts:
        return Reading(judgement, Audit((), 0, 0), {}, {}, {})
    counts = pl.concat(part.counts for part in parts)
    if spec.expectations:
        audited = audit(pl.concat(frame for part in parts for frame in part.samples), counts, spec)
    else:
        audited = judge_volume(counts, spec)
    judgement = contract.refuse_partitions(judgement, audited.refusals())
    waiting = _join(part.waiting for part in parts)
    if not spec.is_split:
        judgement, waiting = _refuse_strays(intake, judgement)
    stamps, extra = (_join(getattr(part, name) for part in parts) for name in ("stamps", "extra"))
    return Reading(judgement, audited, stamps, extra, waiting)


def _join(parts: Iterable[dict[Any, Any]]) -> dict[Any, Any]:
    return {key: value for part in parts for key, value in part.items()}


def _judge_all(intake: Intake, requested: set[str], spill: Spill) -> Iterator[Part]:
    """Judge all batches in order, and spill what each accepts; an engine reads whole files."""
    engine = intake.storage.engine
    if engine is IN_PROCESS or intake.spec.is_split:
        for batch in intake.batches(requested):
            yield _judge_batch(intake.spec, batch, spill)
        return
    for parts in engine.map(partial(_judge_share, intake), intake.shares(requested)):
        for part, frames in parts:
            for frame in frames:
                spill.add(frame)
            yield part


def _judge_share(intake: Intake, share: Share) -> list[tuple[Part, list[pl.DataFrame]]]:
    """Judge the batches of a share, and return each with its accepted rows."""
    parts = []
    for batch in intake.read_share(share):
        with Spill() as spill:
            parts.append((_judge_batch(intake.spec, batch, spill), [*spill]))
    return parts


def _judge_batch(spec: DatasetSpec, batch: Batch, spill: Spill) -> Part:
    raw, share = batch
    first = spill.count
    judgement = _judge(raw, spec, spill)
    accepted = _accepted(spill.parts()[first:], judgement)
    return Part(
        judgement,
        [*_draw_samples(accepted, MAX_AUDITED_ROWS * share, judgement)],
        figures(pl.concat(accepted), spec),
        {part.slice: part.stamp for part in raw},
        {part.path: part.extra for part in raw if part.extra},
        {part.path: part.waiting for part in raw if part.waiting},
    )


def _accepted(chunks: Sequence[pl.LazyFrame], judgement: Judgement) -> list[pl.LazyFrame]:
    """Return the accepted rows, without those whose partition was refused after they were kept."""
    refused = list(judgement.refused_partitions)
    return [rows.filter(~pl.col(PARTITION).is_in(refused)) for rows in chunks]


def _draw_samples(
    chunks: Sequence[pl.LazyFrame], rows: float, judgement: Judgement
) -> Iterator[pl.DataFrame]:
    """Yield a sample of so many rows of a batch, chunk by chunk."""
    share = rows / max(int(judgement.files["accepted"].sum()), 1)
    before: Counter[str] = Counter()
    for chunk in chunks:
        accepted = chunk.collect()
        yield draw_sample(accepted, share, before)
        before.update(dict(accepted[PARTITION].value_counts().iter_rows()))


def _refuse_strays(
    intake: Intake, judgement: Judgement
) -> tuple[Judgement, dict[str, tuple[str, ...]]]:
    """Refuse the files whose partition waits, as the rows of such a partition in other files do."""
    files = judgement.files.filter(pl.col("refusal").is_null())
    rows = dict(files.group_by(PARTITION).agg(pl.sum("rows_read")).iter_rows())
    strays = intake.find_strays(rows)
    keys = files.select("file", PARTITION).iter_rows()
    waiting = {
        path: arrivals.name_waiting({key: strays[key]}) for path, key in keys if key in strays
    }
    return contract.refuse_partitions(judgement, strays), waiting


def _judge(raw: Sequence[RawRows], spec: DatasetSpec, spill: Spill) -> Judgement:
    """Judge files; where that raises, refuse the files that cause it and judge the others.

    The sound rows are spilled.
    """
    culprits, first = {file.slice for file in raw}, spill.count
    try:
        return contract.judge(raw, spec, spill.add)
    except contract.AccountingError:
        raise
    except (Exception, PanicException) as error:  # noqa: BLE001 values may raise anything
        reason = f"its rows cannot be judged: {shown(str(error))}"
    spill.cut(first)
    for file in raw if len(raw) > 1 else ():
        with suppress(Exception, PanicException):
            contract.judge([file], spec, len)
            culprits.remove(file.slice)
    culprits = culprits or {file.slice for file in raw}
    return _judge(
        [
            replace(file, rows=NO_ROWS, refusal=reason) if file.slice in culprits else file
            for file in raw
        ],
        spec,
        spill,
    )


def _unchanged(tables: Tables, table: str, rows: pl.LazyFrame, intake: Intake) -> set[str]:
    """Return the stored partitions whose rows are the same, so that no new version is written."""
    earlier = intake.recorded[PARTITION].unique()
    stored, schema = tables.scan(table, rows.collect_schema()), rows.collect_schema()
    if stored.collect_schema() != schema:
        return set()
    row, on = pl.struct(pl.all()), [PARTITION, "rows"]
    if any(kind.is_nested() for kind in schema.dtypes()):
        row = row.struct.json_encode()  # polars hashes no lists
    new, old = (
        frame.filter(pl.col(PARTITION).is_in(earlier))
        .group_by(PARTITION)
        .agg(row.hash().sort().alias("rows"))
        for frame in (rows, stored)
    )
    changed = pl.concat([new.join(old, on=on, how="anti"), old.join(new, on=on, how="anti")])
    return set(earlier).difference(tables.collect(changed, table)[PARTITION])


def _records(intake: Intake, reading: Reading) -> pl.DataFrame:
    """Return the files of each partition; of a refused one, also those that its rows are from."""
    judgement = reading.judgement
    files, refused = judgement.files, judgement.refused_partitions
    paths = files.filter(pl.col("refusal").is_not_null())["file"]
    waiting = dict.fromkeys(paths, ()) | reading.waiting
    stamps = [
        intake.mark_to_reread(stamp, waiting[path]) if path in waiting else stamp
        for key, path in files.select(PARTITION, "file").iter_rows()
        for stamp in [reading.stamps[key, path]]
    ]
    earlier = intake.recorded.filter(
        pl.col("refusal").is_null(), pl.col(PARTITION).is_in(list(refused))
    )
    stamped = files.with_columns(pl.Series("stamp", stamps, pl.String))
    return pl.concat([stamped.select(*FILES), earlier.select(*FILES)])


def _atypical(
    intake: Intake, judgement: Judgement, published: Sequence[str]
) -> list[dict[str, object]]:
    """Return published partitions of unusual size, compared with all recorded ones."""
    tolerance = intake.spec.rows.typical
    if tolerance is None:
        return []
    earlier = intake.recorded.filter(~pl.col(PARTITION).is_in(published))
    rows = pl.concat([part.select(PARTITION, "accepted") for part in (earlier, judgement.files)])
    placed = rows.filter(~pl.col(PARTITION).str.starts_with(UNPLACED))
    counted = placed.group_by(PARTITION).agg(pl.col("accepted").sum())
    return arrivals.find_atypical(dict(counted.iter_rows()), published, tolerance)


def _find_odd_texts(
    intake: Intake, judgement: Judgement, published: Sequence[str]
) -> list[dict[str, object]]:
    """Return published texts that look like a mistake; partitions without an order have no news."""
    spec, tables, table = intake.spec, intake.storage.tables, f"{intake.spec.name}/dataset"
    counts = judgement.texts.filter(pl.col(PARTITION).is_in(published))
    if counts.is_empty() or spec.partition.by == "none" or spec.partition.values is not None:
        return texts.describe(counts, texts.NO_TALLY, spec)
    others = sorted(set(intake.accepted).difference(published))
    before = [key for key in others if key < published[0]][-texts.HISTORY :]
    between = [key for key in others if published[0] < key < published[-1]]
    stored = tables.scan(table, dataset_schema(spec))
    rows = stored.filter(pl.col(PARTITION).is_in([*before, *between])).with_columns(
        pl.lit(None, pl.String).alias("_file"), pl.lit(None, pl.Int64).alias(LINE)
    )
    earlier = texts.add_up([tables.collect(texts.tally(rows, spec), table)])
    return texts.describe(counts, earlier, spec)


def _shared_keys(
    intake: Intake, accepted: pl.LazyFrame, published: Sequence[str]
) -> list[dict[str, object]]:
    """Count the keys that are in several partitions; their rows stay, because none is wrong.

    Where the partition's column is part of the key, no key can be in two.
    """
    spec, tables, table = intake.spec, intake.storage.tables, f"{intake.spec.name}/dataset"
    if spec.partition.column in spec.key or spec.partition.by == "none" or not published:
        return []
    stored = tables.scan(table, dataset_schema(spec)).filter(~pl.col(PARTITION).is_in(published))
    keys = pl.concat(rows.select(PARTITION, *spec.key) for rows in (stored, accepted))
    partitions = keys.group_by(spec.key).agg(pl.col(PARTITION).unique().sort())
    shared = partitions.filter(pl.col(PARTITION).list.len() > 1)
    listed = shared.select(pl.col(PARTITION).list.join(", ").alias("partitions"))
    counted = tables.collect(listed.group_by("partitions").len("keys").sort("partitions"), table)
    touched = set(published)
    return [row for row in counted.to_dicts() if touched & set(row["partitions"].split(", "))]
