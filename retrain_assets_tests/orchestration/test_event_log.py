"""Batched events end up in the databases exactly as Dagster's own storage would have put them."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from retrain_assets.orchestration.event_log import BatchingEventLog
from retrain_assets.orchestration.partitions import range_tags

DAYS = dg.DailyPartitionsDefinition("2020-01-01", end_date="2020-03-01")
SPECS = [dg.AssetSpec("a"), dg.AssetSpec("b", deps=["a"])]


@dg.multi_asset(
    specs=SPECS,
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[dg.AssetCheckSpec("sound", asset="a")],
)
def both() -> Any:
    yield dg.MaterializeResult("a", metadata={"rows": 1})
    yield dg.MaterializeResult("b", metadata={"rows": 2})
    yield dg.AssetCheckResult(asset_key="a", check_name="sound", passed=True)


def newest(instance: dg.DagsterInstance, key: dg.AssetKey) -> Any:
    event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization.metadata


def stored(folder: Path, storage: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    folder.mkdir()
    settings = {"telemetry": {"enabled": False}, "storage": storage}
    (folder / "dagster.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        tags = range_tags("2020-01-01", "2020-02-29")
        result = dg.materialize([both], instance=instance, tags=tags)
        keys = [dg.AssetKey("a"), dg.AssetKey("b")]
        asked = {
            "success": result.success,
            "partitions": [sorted(instance.get_materialized_partitions(key)) for key in keys],
            "newest": [newest(instance, key) for key in keys],
            "events": [entry.dagster_event_type for entry in instance.all_logs(result.run_id)],
        }
    with sqlite3.connect(folder / "base" / "history" / "runs" / "index.db") as index:
        counts = {
            table: index.execute(query).fetchall()
            for table, query in {
                "events": "SELECT dagster_event_type, partition, count(*) FROM event_logs "
                "GROUP BY 1, 2 ORDER BY 1, 2",
                "checks": "SELECT check_name, partition, execution_status, count(*) "
                "FROM asset_check_executions GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
                "assets": "SELECT asset_key FROM asset_keys ORDER BY 1",
                "tags": "SELECT key, count(*), count(DISTINCT value) "
                "FROM asset_event_tags GROUP BY 1",
            }.items()
        }
    return asked, counts


def test_a_range_is_stored_as_dagsters_own_storage_stores_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = str(tmp_path / "{}" / "base")
    own = {"sqlite": {"base_dir": base.format("own")}}
    custom = {
        "module": "retrain_assets.orchestration.event_log",
        "class": "BatchingSqliteStorage",
        "config": {"base_dir": base.format("batched")},
    }
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "0")
    expected = stored(tmp_path / "own", own)
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "1000")
    batches = []
    plain = BatchingEventLog.store_event_batch
    monkeypatch.setattr(
        BatchingEventLog,
        "store_event_batch",
        lambda log, events: (batches.append(len(events)), plain(log, events))[1],
    )
    found = stored(tmp_path / "batched", {"custom": custom})
    assert found[1] == expected[1]
    assert {**found[0], "events": sorted(map(str, found[0]["events"]))} == {
        **expected[0],
        "events": sorted(map(str, expected[0]["events"])),
    }
    assert len(found[0]["partitions"][0]) == 60
    assert max(batches) >= 60
