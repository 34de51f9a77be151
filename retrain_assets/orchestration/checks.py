"""Asset checks as Dagster shows them: a proposition, whether it holds, and a table of where not.

Not here: what is checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from retrain_assets.orchestration.when_red import WHEN_RED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MAX_ROWS_SHOWN = 100
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def spec(key: dg.AssetKey, name: str, text: str, *, blocking: bool = False) -> dg.AssetCheckSpec:
    """A check of an asset, which says what to do when it fails."""
    described = f"{text} When red: {WHEN_RED[name]}"
    return dg.AssetCheckSpec(name, asset=key, description=described, blocking=blocking)


def table(records: Sequence[Mapping[str, object]]) -> dg.TableMetadataValue:
    """Records as a table in the UI; at most `MAX_ROWS_SHOWN`, every value as text or number."""
    shown = [
        dg.TableRecord({key: _cell(value) for key, value in record.items()})
        for record in records[:MAX_ROWS_SHOWN]
    ]
    columns = [
        dg.TableColumn(name, "float" if isinstance(value, float) else "string")
        for name, value in (shown[0].data if shown else {}).items()
    ]
    return dg.MetadataValue.table(shown, schema=dg.TableSchema(columns))


def _cell(value: object) -> int | float | str:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return value if isinstance(value, (int, str)) else str(value)


def result(
    name: str,
    key: dg.AssetKey,
    failures: Sequence[Mapping[str, object]],
    *,
    severity: dg.AssetCheckSeverity = ERROR,
    said: str = "",
    passed: bool | None = None,
) -> dg.AssetCheckResult:
    """The outcome of a check.

    Args:
        name: The proposition, true when it passes.
        key: The asset it is about.
        failures: Where it does not hold, one record each; none means it passed.
        severity: Of a failure.
        said: One sentence for people.
        passed: Given where the records are evidence rather than failures.
    """
    holds = not failures if passed is None else passed
    metadata: dict[str, int | dg.TableMetadataValue] = {"records": len(failures)}
    if failures:
        metadata["where"] = table(failures)
    return dg.AssetCheckResult(
        passed=holds,
        check_name=name,
        asset_key=key,
        severity=severity,
        description=said or None,
        metadata=metadata,
    )


def failures(instance: dg.DagsterInstance, run_id: str) -> Iterator[str]:
    """What the checks of a run found beyond a warning, a line each with the first case."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        event = entry.dagster_event
        if event is None or (found := event.asset_check_evaluation_data).passed:
            continue
        if found.severity == ERROR:
            where = found.metadata.get("where")
            first = where.records[0].data if isinstance(where, dg.TableMetadataValue) else {}
            case = ", ".join(f"{name} {value}" for name, value in first.items())
            yield f"{found.asset_key.to_user_string()} {found.check_name}: {case}"
