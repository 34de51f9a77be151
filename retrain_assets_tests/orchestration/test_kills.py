"""A run that is killed leaves nothing half done, and what runs next ends as if it had not been."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from retrain_assets.orchestration.partitions import range_tags
from retrain_assets_tests.killing import Point, kill_at
from retrain_assets_tests.world import World, customers, key, new_world

REPLACE = "retrain_assets.stores.tables.tables:Tables.replace"
DATASET = dg.AssetKey(["customers", "dataset"])
TABLES = {
    "dataset": ["_landing_partition", "id", "x"],
    "quarantine": ["_file", "_line", "_row"],
    "files": ["file", "sha256", "accepted", "quarantined"],
}
Content = dict[str, list[tuple[object, ...]]]


def content(world: World) -> Content:
    tables = world.storage.tables
    return {
        name: sorted(
            tables.scan(f"customers/{name}", dict.fromkeys(columns, pl.String))
            .select(columns)
            .collect()
            .iter_rows()
        )
        for name, columns in TABLES.items()
    }


def recorded(root: Path) -> dg.DagsterInstance:
    """An instance whose runs are kept on disk."""
    (root / "dagster").mkdir(exist_ok=True)
    quiet = {"telemetry": {"enabled": False}}
    return dg.DagsterInstance.local_temp(str(root / "dagster"), overrides=quiet)


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[World]:
    """A world in which day 0 was ingested already."""
    with recorded(tmp_path) as instance:
        world = new_world(tmp_path, instance)
        world.land(0)
        run_job(tmp_path, "customers_ingest", 0, 0)
        yield world


def run_job(root: Path, job: str, first: int, last: int) -> None:
    with recorded(root) as instance:
        world = new_world(root, instance)
        tags = range_tags(key(first), key(last))
        world.daemon.execute(job, tags, {})


def deliver(world: World) -> None:
    """A corrected day, new days, and rows to be refused."""
    world.land(1, 2, 3)
    broken = customers(0).with_columns(
        pl.when(pl.col("id") < 2).then(999.0).otherwise("x").alias("x")
    )
    broken.write_csv(world.root / "landing" / "customers" / f"{key(0)}.csv")


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """What the same deliveries come to when nothing is killed."""
    root = tmp_path_factory.mktemp("unharmed")
    with recorded(root) as instance:
        world = new_world(root, instance)
        deliver(world)
        run_job(root, "customers_ingest", 0, 3)
        return content(world)


def passed_checks(world: World) -> int:
    events = world.instance.get_event_records(
        dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    )
    return len(events)


POINTS = {
    Point("retrain_assets.domain.data.contract:judge"): "old",
    Point("retrain_assets.steps.data.ingest:judge_volume"): "old",
    Point(REPLACE, 1): "old",
    Point(REPLACE, 2): "old",
    Point(REPLACE, 2, after=True): "new",
    Point(REPLACE, 3, after=True): "new",
}


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_an_ingest_that_is_killed_is_repaired_by_the_next(
    lasting: World, unharmed: Content, point: Point
) -> None:
    before = content(lasting)["dataset"]
    materialized, checked = (
        lasting.instance.get_materialized_partitions(DATASET),
        passed_checks(lasting),
    )
    deliver(lasting)
    kill_at(point, run_job, lasting.root, "customers_ingest", 0, 3)
    new = POINTS[point] == "new"
    assert content(lasting)["dataset"] == (unharmed["dataset"] if new else before)
    assert lasting.instance.get_materialized_partitions(DATASET) == materialized
    assert passed_checks(lasting) == checked
    run_job(lasting.root, "customers_ingest", 0, 3)
    assert content(lasting) == unharmed
    assert lasting.instance.get_materialized_partitions(DATASET) == {key(n) for n in range(4)}


def features(world: World) -> list[tuple[object, ...]]:
    columns = ["_landing_partition", "_key", "x", "_source"]
    return sorted(world.storage.tables.scan("churn/features").select(columns).collect().rows())


MONITOR_POINTS = {
    Point("retrain_assets.steps.features.rows:build_features"): "old",
    Point(REPLACE, 1): "old",
    Point(REPLACE, 1, after=True): "new",
    Point("retrain_assets.steps.monitoring.monitor:_Watcher.observe"): "new",
}


@pytest.mark.parametrize("point", MONITOR_POINTS, ids=str)
def test_features_that_are_killed_keep_their_earlier_content_and_are_built_again(
    lasting: World, point: Point
) -> None:
    run_job(lasting.root, "churn_monitor", 0, 0)
    before = features(lasting)
    deliver(lasting)
    run_job(lasting.root, "customers_ingest", 0, 3)
    kill_at(point, run_job, lasting.root, "churn_monitor", 0, 3)
    assert (features(lasting) == before) is (MONITOR_POINTS[point] == "old")
    assert [done.job for done in lasting.settle()] == ["churn_monitor"]
    repaired = features(lasting)
    run_job(lasting.root, "churn_monitor", 0, 3)
    assert features(lasting) == repaired
    assert {row[0] for row in repaired} == {key(n) for n in range(4)}
    assert lasting.settle() == []


def retrain(root: Path) -> None:
    with recorded(root) as instance:
        new_world(root, instance).daemon.execute("churn_retrain", {}, {})


def test_a_version_that_was_registered_by_a_run_that_died_is_the_one_that_is_judged(
    lasting: World,
) -> None:
    lasting.land(*range(1, 24))
    run_job(lasting.root, "customers_ingest", 0, 23)
    run_job(lasting.root, "churn_monitor", 0, 16)
    retrain(lasting.root)
    run_job(lasting.root, "churn_monitor", 17, 23)
    kill_at(
        Point("retrain_assets.stores.registry.registry:ModelRegistry.log_version", after=True),
        retrain,
        lasting.root,
    )
    registry = lasting.storage.registry("churn")
    (orphan,) = [found for found in registry.versions() if found.tags["as_of"] == key(23)]
    assert registry.alias("candidate") != orphan.version
    retrain(lasting.root)
    assert lasting.state.ledger.read().rows[-1].candidate == orphan.version
    assert [found.tags["role"] for found in registry.versions()].count("gated") == 2
