"""Asset checks as Dagster shows them, and the help of each check for when it fails.

Dagster shows the help with the check, and docs/operations.md lists it. Not here: what is checked.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from warnings import catch_warnings

import dagster as dg

from retrain_assets.specs.base import number_of

CHECK_HELP: dict[str, str] = {
    "intervals_hold": "The intervals become wider after each partition whose labels they miss too "
    "often. If the alarm stays, errors grow faster than that: train a new version.",
    "not_worse_than_before": "With `watch: auto`, the version before is already in production "
    "again. Otherwise run `retrain rollback`, unless the data since the promotion were unusual.",
    "all_segments_monitored": "The named models were left out of the run, the others are complete. "
    "The sensor asks for them again. Mend what the reason names; `retrain backfill` builds all.",
    "schema_matches": "Look at the file and the row in the table. If the file was cut off or has "
    "wrong columns, have it delivered again. If a column is new or has a new type, change the "
    "YAML.",
    "required_values_present": "Ask whoever delivers the data why the values are missing. "
    "`retrain quarantine` lists the refused rows. A corrected file replaces its partition.",
    "values_within_range": "If the values are wrong, have the file delivered again. If the range "
    "is too narrow, widen it in the YAML.",
    "categories_allowed": "If the value is correct but new, add it to `allowed` in the YAML and "
    "materialize the partition again. Otherwise have the file corrected.",
    "keys_unique": "A row was delivered twice, or two rows with the same key differ: have the file "
    "corrected. Keys that occur in several partitions are only a warning.",
    "volume_within_range": "Ask whether the delivery is complete. A refused partition keeps its "
    "earlier rows. If the number of rows is correct, widen `rows` in the YAML.",
    "outlier_share_within_range": "Look at the named column or partition: a unit may have changed, "
    "or a sensor may be broken. The rows are used, unless the YAML has `action: quarantine`.",
    "texts_look_usual": "The rows are used. If a text is a mistake, have the file corrected, or "
    "set `normalise: [nfc, strip]` for its column. If `allowed` lists all categories, others are "
    "refused.",
    "accepted_rows_pass_great_expectations": "The table shows which expectation failed for which "
    "partitions. These partitions keep their earlier rows until the file is corrected.",
    "every_row_accounted_for": "Rows were lost between reading and storing. This is a fault of the "
    "platform: keep the file, stop the sensor of the dataset, and report the fault.",
    "rows_have_features": "The named rows are left out, the others are used. Have the values "
    "corrected, or change the features: TRY_CAST to a number gives null for such a value.",
    "features_match_training": "The data are used all the same. If the change is permanent, "
    "retrain the model. If it is a mistake, have the data corrected.",
    "target_balance_within_range": "Check that the labels are final and complete: `labels.delay` "
    "may be too short.",
    "no_data_drift": "Run `retrain plan`. It shows whether the YAML makes this drift a cause of "
    "retraining. If performance holds, you need not do anything.",
    "no_prediction_drift": "Compare it with data drift and performance. Prediction drift alone is "
    "a reason to look, not a reason to act.",
    "no_target_drift": "Check whether labels arrived late or their definition changed. If not, "
    "wait: the triggers decide whether to retrain.",
    "performance_holds": "You can wait: the triggers start a retraining, and the gate decides on "
    "the new candidate. If the present model does harm, run `retrain rollback`.",
    "loads_and_predicts": "The version is not used. The message names the difference: another "
    "version of a library than in training, or a damaged file. Run the retrain job again.",
    "candidate_beats_production": "You need not do anything: production stays. The reason states "
    "how sure the result is, and how many more partitions would probably settle it.",
    "no_slice_regresses": "Production stays. The table shows how much worse the candidate is on "
    "each slice. Check whether the training rows represent that slice well.",
    "alias_matches_ledger": "Somebody moved the alias by hand, or MLflow did not answer. "
    "Materialize `production_model` again: this sets the alias as the ledger requires.",
    "trained_on_current_data": "The named partitions were corrected after the training. If they "
    "matter, start the retrain job by hand. In any case, the next retraining uses the new data.",
}

MAX_ROWS_SHOWN = 100
BY_PARTITION = "RETRAIN_PARTITIONED_CHECKS"  # Dagster calls such checks a preview
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def spec(
    key: dg.AssetKey,
    name: str,
    text: str,
    partitions: dg.PartitionsDefinition[str] | None = None,
    *,
    blocking: bool = False,
) -> dg.AssetCheckSpec:
    """Return the check of an asset, with its help in the description.

    Args:
        key: The asset.
        name: Name of the check.
        text: What is true when it passes.
        partitions: Those of the asset, for each of which `spread` yields a result of its own; they
            count where `RETRAIN_PARTITIONED_CHECKS` is set.
        blocking: Whether a failure stops what depends on the asset.
    """
    description = f"{text} When red: {CHECK_HELP[name]}"
    parts = partitions if os.environ.get(BY_PARTITION) else None
    with catch_warnings(category=dg.PreviewWarning, action="ignore"):  # who sets it knows
        return dg.AssetCheckSpec(
            name, asset=key, description=description, blocking=blocking, partitions_def=parts
        )


def spread(
    context: dg.AssetExecutionContext, results: Iterable[dg.AssetCheckResult]
) -> Iterator[Any]:
    """Yield results as they are, or of a partitioned check one for each partition of the run."""
    specs = {(check.asset_key, check.name): check for check in context.assets_def.check_specs}
    for item in results:
        check = specs[item.asset_key, item.check_name]
        if check.partitions_def is None:
            yield item
            continue
        yield dg.Output(None, check.get_python_identifier())
        for partition in context.partition_keys:
            yield _select(item, check, partition)


def _select(
    item: dg.AssetCheckResult, check: dg.AssetCheckSpec, partition: str
) -> dg.AssetCheckEvaluation:
    """Return the result for a partition: it fails where a record names it, or none names any."""
    where = item.metadata.get("where")
    records = list(where.records) if isinstance(where, dg.TableMetadataValue) else []
    cases = [entry for entry in records if entry.data.get("partition", partition) == partition]
    is_cut = len(records) == MAX_ROWS_SHOWN  # then others may have failed too
    return dg.AssetCheckEvaluation(
        check_name=check.name,
        asset_key=check.asset_key,
        passed=item.passed or bool(records and not cases and not is_cut),
        metadata={"records": len(cases)}
        | ({"where": table([x.data for x in cases])} if cases else {}),
        severity=item.severity,
        description=item.description,
        partition=partition,
    )


def table(records: Sequence[Mapping[str, object]]) -> dg.TableMetadataValue:
    """Return at most `MAX_ROWS_SHOWN` records as a table, every value as text or number."""
    rows = [
        dg.TableRecord({key: _cell(value) for key, value in record.items()})
        for record in records[:MAX_ROWS_SHOWN]
    ]
    columns = [
        dg.TableColumn(name, "float" if isinstance(value, float) else "string")
        for name, value in (rows[0].data if rows else {}).items()
    ]
    return dg.MetadataValue.table(rows, schema=dg.TableSchema(columns))


def _cell(value: object) -> int | float | str:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return value if isinstance(value, (int, str)) else "" if value is None else str(value)


def result(
    name: str,
    key: dg.AssetKey,
    failures: Sequence[Mapping[str, object]],
    *,
    severity: dg.AssetCheckSeverity = ERROR,
    message: str = "",
    passed: bool | None = None,
) -> dg.AssetCheckResult:
    """Return the result of a check.

    Args:
        name: Name of the check: a proposition, which is true when the check passes.
        key: The asset that the check is about.
        failures: Where the proposition does not hold, one record each.
        severity: Severity of a failure.
        message: One sentence for people.
        passed: Whether the check passes, if the records are evidence rather than failures.
    """
    metadata: dict[str, int | dg.TableMetadataValue] = {"records": len(failures)}
    if failures:
        metadata["where"] = table(failures)
    return dg.AssetCheckResult(
        passed=not failures if passed is None else passed,
        check_name=name,
        asset_key=key,
        severity=severity,
        description=message or None,
        metadata=metadata,
    )


warn = partial(result, severity=WARN)


def failures(instance: dg.DagsterInstance, run_id: str) -> Iterator[str]:
    """Yield one line with the first case for each check of a run that failed as an error."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        event = entry.dagster_event
        check = event.asset_check_evaluation_data if event else None
        if check and not check.passed and check.severity == ERROR:
            where = check.metadata.get("where")
            first = where.records[0].data if isinstance(where, dg.TableMetadataValue) else {}
            yield f"{check.asset_key.to_user_string()} {check.check_name}: {_describe(first)}"


def _describe(record: Mapping[str, object]) -> str:
    """Return a record of a check in words; of refused rows, the first of them."""
    if "rule" not in record:
        return ", ".join(f"{name} {record[name]}" for name in record if record[name] != "")
    if record["rule"] == "file":
        return f"{record['file']} is refused: {record['value']}"
    rows = number_of(int(str(record["rows"])), "row")
    fault = f"{record['value']!r} breaks the rule {record['rule']}"
    fault = f"column {record['column']}: {fault}" if record["column"] else fault
    place = f"the first on line {record['line']} of {record['file']}"
    return f"{rows} of {record['partition']} refused, {place}: {fault}"
