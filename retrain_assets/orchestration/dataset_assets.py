"""The assets of a `LandedDataset`: landing files in, accepted rows and quarantine out.

Not here: what a sound row is, and the order in which tables are committed.
"""

        opened, asked = storage.open(), requested_partitions(context)
        done = ingest(opened, spec, asked, context.run_id, time.time_ns())
        read: dict[str, Any] = {"files_read": done.files}
        if done.ignored:
            read["ignored"] = checks.table(done.ignored)
        context.log_event(dg.AssetMaterialization([spec.name, "landing"], metadata=read))
        tables = {key: about(opened.tables, "/".join(key.path)) for key in (dataset, quarantine)}
        yield from _materializations(context, asked, done, tables)
        yield from _check_results(spec, done, dataset)

    return _ingest


def _materializations(
    context: dg.AssetExecutionContext,
    asked: tuple[str, ...],
    done: Ingestion,
    tables: Mapping[dg.AssetKey, dict[str, Any]],
) -> Iterator[dg.MaterializeResult[None]]:
    """Record the partitions that were published, and no others."""
    shared: dict[str, Any] = {
        "files": done.files,
        "expectations": dg.MetadataValue.path(done.page),
    }
    if done.refused:
        refused = [{"partition": key, "reason": why} for key, why in done.refused.items()]
        shared["refused"] = checks.table(refused)
    if done.found.extra:
        extra = [{"file": path, "columns": ", ".join(x)} for path, x in done.found.extra.items()]
        shared["columns_ignored"] = checks.table(extra)
    for key, table in tables.items():
        own = "accepted" if key.path[-1] == "dataset" else "quarantined"
        published = done.published if own == "accepted" else done.requested
        rows = done.rows_by_partition(published).with_columns(pl.col(own).alias(ROWS))
        metadata = {**table, **shared}
        if set(published) == set(asked):
            add_series(context, key, rows)
            yield dg.MaterializeResult(asset_key=key, metadata=metadata)
            continue
        for partition, numbers in series(rows).items():
            found = {**metadata, **numbers}
            context.log_event(dg.AssetMaterialization(key, partition=partition, metadata=found))


def _check_results(
    spec: DatasetSpec, done: Ingestion, dataset: dg.AssetKey
) -> Iterator[dg.AssetCheckResult]:
    bound = f"{spec.quarantine.max_fraction:.0%}"
    for name, rules in CHECKED_RULES.items():
        cases = done.refusals_by_partition(rules)
        refused = sorted(cases, key=lambda case: case["partition"] not in done.refused)
        shared = done.shared_keys if name == "keys_unique" else []
        above = any(record["partition"] in done.refused for record in refused)
        yield checks.result(
            name,
            dataset,
            refused or shared,
            severity=checks.ERROR if above else checks.WARN,
            said=f"{sum(int(record['rows']) for record in refused)} rows or files refused for this "
            f"reason; a file above {bound} is refused whole"
            + (f"; keys in several partitions: {len(shared)} pairs" if shared else ""),
        )
    volume = done.findings(volume=True)
    yield checks.result(
        "volume_within_range",
        dataset,
        volume or done.atypical,
        severity=checks.ERROR if volume else checks.WARN,
        said=str(spec.rows),
    )
    yield checks.result(
        "outlier_share_within_range", dataset, done.outlying(spec), severity=checks.WARN
    )
    yield checks.result(
        "accepted_rows_pass_great_expectations",
        dataset,
        done.findings(volume=False),
        said=f"{done.found.audit.rows_audited} of {done.found.audit.rows} rows audited, "
        f"{len(done.found.audit.findings)} expectations",
    )
    yield checks.result("every_row_accounted_for", dataset, done.unaccounted())
