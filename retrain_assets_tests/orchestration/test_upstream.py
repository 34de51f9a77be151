"""A dataset depends on an upstream asset: by its IO manager, or by a path that it writes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pytest

from retrain_assets.orchestration.assets.dataset import upstream_key
from retrain_assets.orchestration.build import dataset_definitions
from retrain_assets.orchestration.dagster_internals.ticks import InProcessDaemon
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.storage import Storage

DAYS = dg.DailyPartitionsDefinition("2024-01-02", end_date="2024-01-06")
SPEC: dict[str, Any] = {
    "name": "orders",
    "asset": "shop/orders",
    "read": {"settle": "0s"},
    "partition": {"by": "day", "column": "day", "start": "2024-01-01"},
    "columns": {"id": {"type": "int"}, "day": {"type": "date"}},
    "key": ["id"],
}


def rows(day: str, first: int) -> pl.DataFrame:
    ids = range(first, first + 3)
    return pl.DataFrame({"id": ids, "day": [day] * 3, "secret": "x"}).with_columns(
        pl.col("day").str.to_date()
    )


class Project:
    """A project with an upstream asset and a dataset."""

    def __init__(self, root: Path, instance: dg.DagsterInstance, upstream: Any, spec: Any) -> None:
        self.spec, self.upstream = DatasetSpec.model_validate(SPEC | spec), upstream
        self.root, self.instance = root, instance
        resources = {
            "storage": StorageResource(root=str(root)),
            "io_manager": dg.FilesystemIOManager(base_dir=str(root / "io")),
        }
        merged = dataset_definitions(self.spec)
        definitions = dg.Definitions(
            assets=[*(merged.assets or ()), upstream],
            asset_checks=merged.asset_checks,
            jobs=merged.jobs,
            sensors=merged.sensors,
            resources=resources,
            executor=dg.in_process_executor,
        )
        self.resources = resources
        self.daemon = InProcessDaemon(definitions, instance)

    def make(self, partition: str | None = None) -> None:
        dg.materialize(
            [self.upstream],
            partition_key=partition,
            instance=self.instance,
            resources={"io_manager": self.resources["io_manager"]},
        )

    def settle(self) -> list[str]:
        return [run.job for run in self.daemon.settle()]

    def stored(self) -> list[int]:
        path = Storage(self.root).tables
        table = path.scan("orders/dataset", {"id": pl.Int64})
        return sorted(path.collect(table.select("id"), "orders/dataset")["id"])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def test_what_an_io_manager_holds_lands_after_each_materialization(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    @dg.asset(key=["shop", "orders"], partitions_def=DAYS)
    def orders(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return rows(context.partition_key, int(context.partition_key[-1]) * 10).to_pandas()

    project = Project(tmp_path, instance, orders, {})
    assert project.settle() == []
    assert project.daemon.reasons["orders_pull_due"] == "shop/orders was never materialized"
    project.make("2024-01-03")
    assert project.settle() == ["orders_pull", "orders_ingest"]
    assert project.stored() == [30, 31, 32]
    assert project.settle() == []
    reason = project.daemon.reasons["orders_pull_due"]
    assert "has pulled; the next is due when shop/orders is new" in reason
    project.make("2024-01-02")
    assert project.settle() == ["orders_pull", "orders_ingest"]
    assert project.stored() == [20, 21, 22, 30, 31, 32]
    landed = pl.read_parquet(tmp_path / "landing" / "orders" / "all.parquet")
    assert landed.columns == ["id", "day"]


def test_files_that_an_asset_writes_are_listed_once_it_was_materialized(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    folder = tmp_path / "landing" / "orders"
    folder.mkdir(parents=True)

    @dg.asset(key=["shop", "orders"])
    def orders() -> None:
        number = len(list(folder.iterdir())) + 1
        rows(f"2024-01-0{number}", number * 10).write_parquet(folder / f"{number}.parquet")

    project = Project(tmp_path, instance, orders, {"landing": "orders/*.parquet"})
    project.make()
    assert [project.settle() for _ in range(2)] == [["orders_ingest"], []]
    reason = "shop/orders was not materialized since all was read"
    assert project.daemon.reasons["orders_new_data"] == reason
    rows("2024-01-05", 50).write_parquet(folder / "5.parquet")  # by somebody else
    assert project.settle() == []
    cursor = json.loads(project.daemon.cursors["orders_new_data"] or "")
    cursor[2] -= 3600  # once an hour all is listed whatever was materialized
    project.daemon.cursors["orders_new_data"] = json.dumps(cursor)
    assert project.settle() == ["orders_ingest"]
    project.make()
    assert project.settle() == ["orders_ingest"]
    assert project.stored() == [10, 11, 12, 30, 31, 32, 50, 51, 52]
    parents = project.daemon.repository.asset_graph.get(dg.AssetKey(["orders", "landing"]))
    assert parents.parent_keys == {upstream_key(project.spec)}


def test_a_value_that_is_no_frame_is_refused(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    @dg.asset(key=["shop", "orders"])
    def orders() -> int:
        return 3

    project = Project(tmp_path, instance, orders, {})
    project.make()
    with pytest.raises(RuntimeError, match="the asset shop/orders is int: it must be a frame"):
        project.settle()
