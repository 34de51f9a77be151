"""From landing files to tables: read, judge, audit, publish.

Quarantine is committed first, then the accepted rows of the sound partitions, then the list of
files, each in one commit whatever the number of partitions; a kill in between is repaired when the
same partitions are ingested again. Not here: the rules, and Dagster.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.contract import FILES_SCHEMA, judge, refuse_partitions
from retrain_assets.stores.expectations import Audit, audit
from retrain_assets.stores.landing import Landing
from retrain_assets.stores.tables import PARTITION

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from retrain_assets.domain.contract import Judgement
    from retrain_assets.specs.dataset import DatasetSpec
    from retrain_assets.stores.landing import LandingFile
    from retrain_assets.stores.storage import Storage
    from retrain_assets.stores.tables import Tables

CHECKED_RULES: dict[str, tuple[str, ...]] = {
    "schema_matches": ("parse", "type", "partition", "file"),
    "required_values_present": ("required",),
    "values_within_range": ("range",),
    "categories_allowed": ("allowed",),
    "keys_unique": ("key",),
}


class NothingLandedError(RuntimeError):
    """None of the partitions asked for has a file."""


@dataclass(frozen=True)
class Ingestion:
    """What one ingest did.

    Args:
        requested: Partitions that were asked for and have files.
        published: Those whose rows were committed.
        refused: Why the others were not, by partition.
        judgement: Accepted and quarantined rows, and what became of each file.
        audit: What Great Expectations said of the accepted rows.
        version: Version of the dataset after the commit; None where nothing was ever published.
    """

    requested: tuple[str, ...]
    published: tuple[str, ...]
    refused: dict[str, str]
    judgement: Judgement
    audit: Audit
    version: int | None

    @property
    def accepted_rows(self) -> int:
        """Rows published."""
        return self.judgement.accepted.height

    @property
    def quarantined_rows(self) -> int:
        """Rows and whole files refused."""
        return self.judgement.quarantined.height

    @property
    def files(self) -> int:
        """Files read."""
        return self.judgement.files.height

    def refusals_by_partition(self, rules: Collection[str]) -> list[dict[str, str | int]]:
        """How many rows or files were refused for these rules, and one example a partition."""
        reasons = self.judgement.quarantined.explode("_reasons").unnest("_reasons")
        grouped = (
            reasons.filter(pl.col("rule").is_in(list(rules)))
            .sort(PARTITION, "_file", "_line")
            .group_by(PARTITION, maintain_order=True)
            .agg(
                pl.len().alias("rows"),
                pl.col("_file", "_line", "rule", "column", "value").first(),
            )
        )
        names = {PARTITION: "partition", "_file": "file", "_line": "line"}
        return grouped.rename(names).to_dicts()

    def findings(self, *, volume: bool) -> list[dict[str, str]]:
        """Expectations that failed: those on volume, or all others."""
        return [
            {
                "expectation": finding.expectation,
                "column": finding.column or "",
                "partitions": ", ".join(finding.partitions[:10]),
                "observed": finding.observed,
            }
            for finding in self.audit.findings
            if not finding.passed and finding.is_volume is volume
        ]

    def unaccounted(self) -> list[dict[str, object]]:
        """Accepted files whose rows do not add up."""
        lost = pl.col("rows_read") != pl.col("accepted") + pl.col("quarantined")
        return self.judgement.files.filter(pl.col("refusal").is_null() & lost).to_dicts()


def ingest(
    storage: Storage, spec: DatasetSpec, partitions: Sequence[str], run_id: str
) -> Ingestion:
    """Take in whatever has landed of some partitions.

    Args:
        storage: Where files and tables are.
        spec: The dataset.
        partitions: Keys; those without a file are left as they are.
        run_id: Written on every commit.

    Raises:
        NothingLandedError: None of the partitions has a file.
    """
    landing, asked = Landing(storage.landing, spec), set(partitions)
    files = [file for file in landing.files() if file.partition in asked]
    requested = tuple(sorted({file.partition for file in files}))
    if not requested:
        raise NothingLandedError(
            f"dataset {spec.name}: no file for {partitions[0]} to {partitions[-1]} "
            f"matches {spec.landing} below {storage.landing}"
        )
    judgement = judge(landing.read(files), spec)
    audited = audit(judgement.accepted, spec)
    judgement = refuse_partitions(judgement, audited.refusals())
    refused = judgement.refused_partitions
    published = tuple(key for key in requested if key not in refused)
    commit = {
        "run_id": run_id,
        "asset": spec.name,
        "partitions": f"{requested[0]}..{requested[-1]}",
        "files": sha256("+".join(judgement.files["sha256"].sort()).encode()).hexdigest()[:16],
    }
    tables = storage.tables
    tables.replace(f"{spec.name}/quarantine", judgement.quarantined, requested, commit)
    if published:
        tables.replace(f"{spec.name}/dataset", judgement.accepted, published, commit)
    _record_files(tables, spec, files, judgement, requested, commit)
    version = tables.version(f"{spec.name}/dataset")
    return Ingestion(requested, published, refused, judgement, audited, version)


def _record_files(
    tables: Tables,
    spec: DatasetSpec,
    files: Sequence[LandingFile],
    judgement: Judgement,
    requested: Sequence[str],
    commit: dict[str, str],
) -> None:
    """List the files of each partition; of a refused one, also those that its rows came from."""
    stamps = pl.DataFrame(
        {"file": [file.path for file in files], "stamp": [file.stamp for file in files]},
        schema={"file": pl.String, "stamp": pl.String},
    )
    listed = judgement.files.join(stamps, on="file", how="left")
    earlier = tables.read(f"{spec.name}/files", judgement.refused_partitions, listed.schema)
    kept = earlier.filter(pl.col("refusal").is_null()).select(listed.columns)
    tables.replace(f"{spec.name}/files", pl.concat([listed, kept]), requested, commit)


def ingested(tables: Tables, dataset: str) -> set[tuple[str, str]]:
    """The (path, stamp) of every file that was read, accepted or refused."""
    schema = {**FILES_SCHEMA, "stamp": pl.String()}
    files = tables.scan(f"{dataset}/files", schema).select("file", "stamp").collect()
    return set(files.iter_rows())
