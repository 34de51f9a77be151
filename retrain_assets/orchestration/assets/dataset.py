"""The assets of a `LandedDataset`: landing files in, accepted rows and quarantine out.

Not here: what a sound row is, and the order in which tables are committed.
"""

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import polars as pl

from retrain_assets.orchestration import checks, metadata
from retrain_assets.orchestration.metadata import DATASET_TAG, ROWS
from retrain_assets.orchestration.partitions import partitions_definition, requested_partitions
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.data.ingest import CHECKED_RULES, Ingestion, ingest
from retrain_assets.steps.data.pull import Pulled, land_all, pull

DESCRIPTIONS = {
    "schema_matches": "Every value is of its column's type and every row of its file's partition.",
    "required_values_present": "No row was refused for a missing value.",
    "values_within_range": "No row was refused for a value out of range or far out.",
    "categories_allowed": "No row was refused for a value or pattern that is not allowed.",
    "keys_unique": "No row was refused for a key that is there twice.",
    "volume_within_range": "Every partition has as many rows as `rows` allows and is typical.",
    "outlier_share_within_range": "No column has more outliers than `outliers` allows.",
    "texts_look_usual": "No category is new, and no text looks like a mistake.",
    "accepted_rows_pass_great_expectations": "What is published passes the expectation suite.",
    "every_row_accounted_for": "Rows read = rows accepted + rows quarantined, in each file.",
}


OUTPUTS = {
    "dataset": (
        "Rows that keep the contract; a partition is replaced whole.",
        {"deltalake", "polars"},
    ),
    "quarantine": ("Rows and files that were refused, each with every reason.", {"deltalake"}),
}


def landing_key(spec: DatasetSpec) -> dg.AssetKey:
    """Return the key of the asset that stands for what has landed."""
    return dg.AssetKey([spec.name, "landing"])


def landing_asset(spec: DatasetSpec) -> dg.AssetSpec | dg.AssetsDefinition:
    """Return the asset that stands for the delivered files; one that pulls them from a database."""
    files = f"`{spec.bucket or 'landing'}/{spec.pattern}`"
    text = f"Files delivered as {files}; never changed or deleted."
    if spec.table:
        text = f"The {spec.format.title()} table `{spec.table}`, which others write."
    if spec.is_pulled:
        text = f"New rows of {spec.place}, as files {files}."
    properties: dict[str, Any] = {
        "key": landing_key(spec),
        "group_name": spec.name,
        "owners": spec.owners,
        "tags": {DATASET_TAG: spec.name},
        "kinds": {"sql" if spec.sql else spec.format.replace("delta", "deltalake")},
        "description": text,
    }
    deps = [upstream_key(spec)] if spec.asset else []
    if spec.sql:
        return _pulled_asset(spec, properties | {"deps": deps})
    return (
        _loaded_asset(spec, properties) if spec.is_pulled else dg.AssetSpec(deps=deps, **properties)
    )


def upstream_key(spec: DatasetSpec) -> dg.AssetKey:
    """Return the key of the asset that a dataset depends on."""
    return dg.AssetKey((spec.asset or "").split("/"))


def _pulled_asset(spec: DatasetSpec, properties: dict[str, Any]) -> dg.AssetsDefinition:
    @dg.asset(pool=f"{spec.name}_pull", **properties)
    def _pull(storage: StorageResource) -> dg.MaterializeResult[None]:
        return _describe(pull(storage.open(), spec, os.environ))

    return _pull


def _loaded_asset(spec: DatasetSpec, properties: dict[str, Any]) -> dg.AssetsDefinition:
    """Return the asset that lands what the IO manager of its upstream asset loads."""
    # All partitions are loaded at once, though some may not exist yet.
    rows = dg.AssetIn(upstream_key(spec), metadata={"allow_missing_partitions": True})

    @dg.asset(ins={"rows": rows}, pool=f"{spec.name}_pull", **properties)
    def _load(storage: StorageResource, rows: Any) -> dg.MaterializeResult[None]:
        return _describe(land_all(storage.open(), spec, rows))

    return _load


def _describe(pulled: Pulled) -> dg.MaterializeResult[None]:
    files = ", ".join(pulled.files) or "none"
    return dg.MaterializeResult(metadata={"rows": pulled.rows, "files": files})


def dataset_assets(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Return the assets `<d>/dataset` and `<d>/quarantine`, which one run makes, with checks."""
    partitions = partitions_definition(spec.partition)
    dataset, _ = keys = [dg.AssetKey([spec.name, part]) for part in OUTPUTS]

    @dg.multi_asset(
        name=f"{spec.name}__ingest",
        specs=[
            dg.AssetSpec(
                key,
                deps=[landing_key(spec)],
                description=text,
                skippable=True,
                group_name=spec.name,
                owners=spec.owners,
                tags={DATASET_TAG: spec.name},
                kinds=kinds,
            )
            for key, (text, kinds) in zip(keys, OUTPUTS.values(), strict=True)
        ],
        check_specs=[
            checks.spec(dataset, name, text, partitions) for name, text in DESCRIPTIONS.items()
        ],
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=f"{spec.name}_ingest",
    )
    def _ingest(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        opened, requested = storage.open(), requested_partitions(context)
        ingestion = ingest(opened, spec, requested, context.run_id, time.time_ns())
        read: dict[str, Any] = {"files_read": ingestion.files}
        if ingestion.ignored:
            read["ignored"] = checks.table(ingestion.ignored)
        if not spec.is_pulled:
            context.log_event(dg.AssetMaterialization(landing_key(spec), metadata=read))
        described = metadata.describe_dataset(opened.tables, spec)
        tables = dict(zip(keys, described, strict=True))
        yield from _materializations(context, requested, ingestion, tables)
        yield from checks.spread(context, _check_results(spec, ingestion, dataset))

    return _ingest


def _materializations(
    context: dg.AssetExecutionContext,
    requested: tuple[str, ...],
    ingestion: Ingestion,
    tables: Mapping[dg.AssetKey, dict[str, Any]],
) -> Iterator[dg.MaterializeResult[None]]:
    """Record the partitions that were published, and no others."""
    shared: dict[str, Any] = {
        "files": ingestion.files,
        "expectations": dg.MetadataValue.path(ingestion.audit_file),
    }
    if ingestion.refused:
        refused = [{"partition": key, "reason": why} for key, why in ingestion.refused.items()]
        shared["refused"] = checks.table(refused)
    if ingestion.changes:
        shared["changes"] = checks.table(ingestion.changes)
    if ingestion.reading.extra:
        extra = [
            {"file": path, "columns": ", ".join(x)} for path, x in ingestion.reading.extra.items()
        ]
        shared["columns_ignored"] = checks.table(extra)
    for key, table in tables.items():
        column = "accepted" if key.path[-1] == "dataset" else "quarantined"
        published = ingestion.published if column == "accepted" else ingestion.requested
        rows = ingestion.rows_by_partition(published).with_columns(pl.col(column).alias(ROWS))
        if set(published) == set(requested):
            metadata.add_series(context, key, rows)
            yield dg.MaterializeResult(asset_key=key, metadata=table | shared)
            continue
        for partition, numbers in metadata.round_series(rows).items():
            entries = table | shared | numbers
            context.log_event(dg.AssetMaterialization(key, partition=partition, metadata=entries))


def _check_results(
    spec: DatasetSpec, ingestion: Ingestion, dataset: dg.AssetKey
) -> Iterator[dg.AssetCheckResult]:
    bound, audit = f"{spec.quarantine.max_fraction:.0%}", ingestion.reading.audit
    for name, rules in CHECKED_RULES.items():
        cases = ingestion.refusals_by_partition(rules)
        refused = sorted(cases, key=lambda case: case["partition"] not in ingestion.refused)
        shared = ingestion.shared_keys if name == "keys_unique" else []
        above = any(record["partition"] in ingestion.refused for record in refused)
        yield checks.result(
            name,
            dataset,
            refused or shared,
            severity=checks.ERROR if above else checks.WARN,
            message=f"{sum(int(record['rows']) for record in refused)} rows or files refused for "
            f"this reason; a file above {bound} is refused whole"
            + (f"; keys in several partitions: {len(shared)} pairs" if shared else ""),
        )
    volume = ingestion.findings(volume=True)
    yield checks.result(
        "volume_within_range",
        dataset,
        volume or ingestion.atypical,
        severity=checks.ERROR if volume else checks.WARN,
        message=str(spec.rows),
    )
    yield checks.result(
        "outlier_share_within_range", dataset, ingestion.outlying(spec), severity=checks.WARN
    )
    yield checks.warn("texts_look_usual", dataset, ingestion.odd_texts)
    yield checks.result(
        "accepted_rows_pass_great_expectations",
        dataset,
        ingestion.findings(volume=False),
        message=f"{audit.rows_audited} of {audit.rows} rows audited, "
        f"{len(audit.findings)} expectations"
        if spec.expectations
        else "the YAML has no `expectations`: the rules of the contract were judged by polars",
    )
    yield checks.result("every_row_accounted_for", dataset, ingestion.unaccounted())
