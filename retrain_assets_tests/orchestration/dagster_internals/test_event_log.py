"""Batched events end up in the databases exactly as Dagster's own storage would have put them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import click
import dagster as dg
import pytest
import yaml

from retrain_assets.cli.base import one_line
from retrain_assets.orchestration.dagster_internals import event_log
from retrain_assets.orchestration.dagster_internals.event_log import BatchingEventLog
from retrain_assets.orchestration.partitions import range_tags

DAYS = dg.DailyPartitionsDefinition("2020-01-01", end_date="2020-03-01")
LOCKED = {"runs", "schedules", "index"}
LONGER_THAN_DAGSTER_WAITS = 6.0
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
        "module": "retrain_assets.orchestration.dagster_internals.event_log",
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


def recorded(folder: Path) -> dg.DagsterInstance:
    """An instance as dagster.yaml has it, set up already."""
    storage = {
        "module": "retrain_assets.orchestration.dagster_internals.event_log",
        "class": "BatchingSqliteStorage",
        "config": {"base_dir": str(folder / "base")},
    }
    settings = {"telemetry": {"enabled": False}, "storage": {"custom": storage}}
    (folder / "dagster.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return dg.DagsterInstance.from_config(str(folder))


@contextmanager
def locked(folder: Path, seconds: float) -> Iterator[Timer]:
    """All of Dagster's databases are being written by somebody else for a while."""
    files = [path for path in (folder / "base").rglob("*.db") if path.stem in LOCKED]
    assert {path.stem for path in files} == LOCKED
    held = [sqlite3.connect(path, check_same_thread=False, isolation_level=None) for path in files]
    for connection in held:
        connection.execute("BEGIN EXCLUSIVE")
    letting_go = Timer(seconds, lambda: [connection.execute("COMMIT") for connection in held])
    letting_go.start()
    try:
        yield letting_go
    finally:
        letting_go.cancel()
        letting_go.join()
        for connection in held:
            connection.close()


def write(instance: dg.DagsterInstance) -> None:
    instance.create_run_for_job(dg.job(name="some")(lambda: None))
    instance.report_runless_asset_event(dg.AssetMaterialization("a"))
    instance.schedule_storage.purge_ticks("some", "some", 0.0)  # type: ignore[union-attr]


def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    with recorded(tmp_path) as instance:
        write(instance)
        with locked(tmp_path, LONGER_THAN_DAGSTER_WAITS) as letting_go:
            write(instance)
            assert letting_go.finished.is_set()
        assert instance.get_runs_count() == 2


def test_a_database_that_stays_locked_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "SQLITE_BUSY_TIMEOUT_SECONDS", 0.2)
    with recorded(tmp_path) as instance:
        write(instance)
        with locked(tmp_path, 60), pytest.raises(click.ClickException) as refused:
            one_line(write)(instance)
    assert refused.value.message == "Dagster's database: database is locked"
