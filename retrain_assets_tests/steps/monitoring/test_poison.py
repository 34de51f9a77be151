"""One poisoned row is one row: everything else is as it would be without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from retrain_assets.domain.model.estimator import predict
from retrain_assets.steps.monitoring import predict as step
from retrain_assets_tests.world import World, key, new_world

DAYS = 18
# The row with id 3 of each day has an infinite feature, the one with id 5 a label of 0 / 0, and the
# one with id 7 an infinite weight. For the one with id 9, the features fail.
POISON: dict[str, Any] = {
    "features": {
        "sql": "SELECT x / (id - 3) AS ratio, x, plan, "
        "LENGTH(CASE WHEN id = 9 THEN 'x' ELSE '1' END::INT || plan) AS length FROM rows"
    },
    "target": {"column": "gone", "expression": '"left" * (id - 5) / (id - 5)', "kind": "binary"},
    "weight": "1 / (id - 7)",
}


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("poisoned"), instance, **POISON)
        world.land(*range(DAYS))
        world.settle()
        world.land(DAYS)
        world.settle()
        yield world


def read(world: World, table: str) -> pl.DataFrame:
    return world.storage.tables.scan(f"churn/{table}").collect()


def test_a_value_that_is_not_finite_is_null_and_stops_nothing(poisoned: World) -> None:
    features = read(poisoned, "features").filter(_landing_partition=key(DAYS)).sort("_key")
    place = {name: number for number, name in enumerate(features["_key"])}
    third, fifth, seventh = (place[f"{key(DAYS)}|{number}"] for number in (3, 5, 7))
    assert f"{key(DAYS)}|9" not in place
    assert len(place) == len(read(poisoned, "../customers/dataset")) // (DAYS + 1) - 1
    assert features["ratio"].is_null().arg_true().to_list() == [third]
    assert features["gone"].is_null().arg_true().to_list() == [fifth]
    assert features["_weight"][seventh] == 0
    assert features["ratio"].is_finite().sum() == features.height - 1
    assert read(poisoned, "monitoring")["_landing_partition"].max() == key(DAYS)
    predictions = read(poisoned, "predictions").filter(_landing_partition=key(DAYS))
    assert predictions.height == features.height
    assert predictions["prediction"].is_finite().all()
    performance = read(poisoned, "performance").filter(
        _landing_partition=key(DAYS), role="performance"
    )
    assert performance["rows"].to_list() == [features.height - 1]
    assert performance["value"].is_finite().all()


def test_a_prediction_that_is_not_finite_is_null_and_leaves_the_rest_as_it_is(
    poisoned: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: read(poisoned, name) for name in ("predictions", "performance")}

    def spoil(*args: Any, strict: bool = True) -> np.ndarray:
        output = predict(*args, strict=strict)
        output[0] = np.nan
        return output

    monkeypatch.setattr(step, "predict", spoil)
    step.predict_partitions(poisoned.state, [key(DAYS)], "run")
    monkeypatch.undo()
    newest = read(poisoned, "predictions").filter(_landing_partition=key(DAYS))
    expected = before["predictions"].filter(_landing_partition=key(DAYS))
    assert newest["prediction"].is_null().arg_true().to_list() == [0]
    assert_frame_equal(newest[1:], expected[1:])
    rows = read(poisoned, "performance").filter(_landing_partition=key(DAYS), role="performance")
    assert rows["value"].is_not_null().all()
    step.predict_partitions(poisoned.state, [key(DAYS)], "run")
    for name, table in before.items():
        assert_frame_equal(read(poisoned, name), table, check_row_order=False)
