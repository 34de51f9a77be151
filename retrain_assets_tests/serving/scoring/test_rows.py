"""A row whose features fail is refused by its place, and slows no other row down."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import polars as pl
import pytest

from retrain_assets.serving.scoring.request import RequestError
from retrain_assets.serving.scoring.rows import FeatureMaker
from retrain_assets.serving.scoring.score import score
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets_tests.world import DATASET, customers, new_world

FAILING = "SELECT x, (CASE WHEN id = 9 THEN plan ELSE '1' END)::INT AS n FROM rows"


@pytest.mark.parametrize("is_quick", [True, False])
def test_a_row_whose_features_fail_is_answered_422(
    tmp_path: Path, instance: dg.DagsterInstance, is_quick: bool
) -> None:
    world = new_world(tmp_path, instance, features={"sql": FAILING})
    maker = FeatureMaker(world.state, {})
    rows = customers(0, rows=12).drop("left").with_columns(pl.col("day").str.to_date()).to_dicts()
    if is_quick:
        assert maker.prepare(rows) is None
        assert maker.quick is not None
    model: Any = SimpleNamespace(serving=SimpleNamespace(maker=maker), state=world.state)
    with pytest.raises(
        RequestError, match=r"features of row 1 \(counted from 0\): conversion"
    ) as info:
        score(model, rows[8:])
    assert info.value.status == 422


def test_a_request_has_no_partition_that_the_name_of_a_file_would_give(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance, features={"sql": "SELECT x, DAY(day) AS n FROM rows"})
    columns = world.dataset.model_dump(by_alias=True)["columns"]
    columns["day"] = {"type": "date", "expression": "_partition"}
    dataset = DatasetSpec.model_validate(DATASET | {"columns": columns})
    maker = FeatureMaker(replace(world, dataset=dataset).state, {})
    rows = customers(0, rows=2).select("id", "x", "plan").to_dicts()
    assert maker.features(rows)["n"].to_list() == [None, None]
