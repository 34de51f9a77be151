"""What a run leaves for people: rows, columns, and numbers of each partition to draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from retrain_assets.orchestration.metadata import link_mlflow_run, round_number
from retrain_assets_tests.world import World, key, new_world


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with a model in production and four days after it."""
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("watched"), instance)
        for days in (range(16), range(16, 20)):
            world.land(*days)
            world.settle()
        yield world


def left_on(world: World, asset: str, partition: str | None = None) -> dict[str, Any]:
    """The newest metadata of an asset, or of one of its partitions."""
    records = world.instance.fetch_materializations(
        dg.AssetRecordsFilter(
            dg.AssetKey(asset.split("/")), asset_partitions=[partition] if partition else None
        ),
        limit=1,
    ).records
    return {name: value.value for name, value in records[0].asset_materialization.metadata.items()}


@pytest.mark.parametrize(
    ("asset", "columns"),
    [
        ("customers/dataset", {"id", "x", "plan", "left"}),
        ("churn/features", {"x", "plan", "gone"}),
        ("churn/predictions", {"prediction", "model_version", "label"}),
    ],
)
def test_a_table_tells_its_rows_and_columns(watched: World, asset: str, columns: set[str]) -> None:
    found = left_on(watched, asset, key(19))
    assert found["dagster/table_name"] == asset
    assert found["dagster/row_count"] == watched.storage.tables.describe(asset).rows
    assert found["dagster/partition_row_count"] == 120
    listed = {column.name: column for column in found["dagster/column_schema"].columns}
    assert columns <= listed.keys()
    assert "partition" in listed["_landing_partition"].description
    if asset == "customers/dataset":
        assert listed["x"].description == "how often the customer called"
        assert not listed["day"].constraints.nullable
        assert "one of" in listed["plan"].constraints.other[0]


def test_each_partition_has_numbers_of_its_own(watched: World) -> None:
    first, last = (left_on(watched, "churn/features", key(day)) for day in (3, 19))
    assert 0 < first["target"] < 1
    assert first["target"] != last["target"]


def test_monitoring_is_drawn_as_shares_of_the_thresholds(watched: World) -> None:
    found = left_on(watched, "churn/monitoring", key(19))
    rows = watched.storage.tables.scan("churn/monitoring").collect()
    worst = rows.filter(_landing_partition=key(19), role="feature", measure="psi")["statistic"]
    assert found["feature_drift"] == pytest.approx(worst.max() / 0.5, rel=1e-3)
    assert 0 < found["log_loss"] < 2


def test_a_refused_day_leaves_its_counts_on_the_others(world: World) -> None:
    world.land(0, 1)
    broken = world.root / "landing" / "customers" / f"{key(1)}.csv"
    broken.write_text("<html>")
    world.settle()
    assert left_on(world, "customers/dataset", key(0))["dagster/partition_row_count"] == 120
    assert left_on(world, "customers/quarantine", key(1))["dagster/partition_row_count"] == 1


def test_a_run_is_linked_where_mlflow_has_a_server() -> None:
    assert link_mlflow_run("https://mlflow.example.org/", "ab").value == (
        "https://mlflow.example.org/#/runs/ab"
    )
    assert "mlflow ui --backend-store-uri sqlite:///x" in str(
        link_mlflow_run("sqlite:///x", "ab").value
    )
    for uri in ("postgresql://u:hidden@db/mlflow", "https://u:hidden@mlflow.example.org"):
        assert "//u:***@" in str(link_mlflow_run(uri, "ab").value)


def test_numbers_are_rounded_and_counts_are_not() -> None:
    assert (round_number(0.123456), round_number(336776)) == (0.1235, 336776)
