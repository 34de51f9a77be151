"""What the checks of `<m>/features` say, and the rows they name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from retrain_assets.domain.data.row_checks import MASK
from retrain_assets.domain.features.build import FeatureError
from retrain_assets.orchestration.partitions import range_tags
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.features.build import build_features
from retrain_assets_tests.steps.features.test_build import in_production, landed, stored
from retrain_assets_tests.world import DATASET, World, key, new_world

Found = dict[str, dg.AssetCheckEvaluation]


def checked(world: World, first: int, last: int) -> Found:
    done = world.definitions.resolve_job_def("churn_monitor").execute_in_process(
        instance=world.instance,
        tags=range_tags(key(first), key(last)),
        asset_selection=[dg.AssetKey(["churn", "features"])],
    )
    return {found.check_name: found for found in done.get_asset_check_evaluations()}


def cases(found: dg.AssetCheckEvaluation) -> list[Any]:
    where = found.metadata["where"]
    assert isinstance(where, dg.TableMetadataValue)
    return [record.data for record in where.records]


def test_a_model_without_outliers_says_so(world: World) -> None:
    landed(world, 0, 1)
    found = checked(world, 0, 1)["outlier_share_within_range"]
    assert found.passed
    assert found.description == "the model has no `outliers`: none are looked for"


def test_outliers_beyond_the_bound_are_named_by_partition(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance, outliers={"rate": 0.01, "max_share": 0.5})
    landed(world, *range(6))
    before = checked(world, 0, 5)["outlier_share_within_range"]
    assert before.passed
    assert before.description == "0 of 6 partitions came when a model was in production"
    in_production(world, 0, 5, 5)
    landed(world, 6)
    landed(world, 7, shift=6.0)
    after = checked(world, 5, 7)["outlier_share_within_range"]
    assert (after.passed, after.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert after.description == "2 of 3 partitions came when a model was in production"
    (case,) = cases(after)
    assert (case["partition"], case["share"]) == (key(7), 1.0)


def test_rows_without_features_are_named_and_a_partition_of_them_alone_stops_no_other(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    sql = "SELECT x, (CASE WHEN id = 9 OR x > 40 THEN plan ELSE '1' END)::INT AS n FROM rows"
    world = new_world(tmp_path, instance, features={"sql": sql})
    landed(world, 0)
    landed(world, 1, shift=60.0)
    found = checked(world, 0, 0)["rows_have_features"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    (case,) = cases(found)
    assert (case["partition"], case["key"]) == (key(0), f"{key(0)}|9")
    assert case["reason"].startswith("conversion from `str` to `i32` failed in column ")
    with pytest.raises(FeatureError, match="features of all rows fail, such as those of row "):
        build_features(world.state, [key(1)], "run")
    landed(world, 2)
    done = world.definitions.resolve_job_def("churn_monitor").execute_in_process(
        instance=world.instance, tags=range_tags(key(0), key(2))
    )
    assert done.success
    for table in ("features", "profile"):
        assert set(stored(world, f"churn/{table}")["_landing_partition"]) == {key(0), key(2)}
    assert not world.state.list_unbuilt(world.state.sources())
    landed(world, 1, shift=61.0)
    assert world.state.list_unbuilt(world.state.sources()) == [key(1)]


def test_of_a_refused_row_nothing_personal_is_shown(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    sql = "SELECT x, (CASE WHEN id = 9 THEN plan ELSE '1' END)::INT AS n FROM rows"
    world = new_world(tmp_path, instance, features={"sql": sql})
    columns = world.dataset.model_dump(by_alias=True)["columns"]
    columns = {name: column | {"personal": name == "id"} for name, column in columns.items()}
    world = replace(world, dataset=DatasetSpec.model_validate(DATASET | {"columns": columns}))
    landed(world, 0)
    (row,) = build_features(world.state, [key(0)], "run").refused
    reason = "not shown, since it may hold a personal value"
    assert row == {"partition": key(0), "key": MASK, "reason": reason}


def test_rows_unlike_training_and_an_odd_balance_are_named(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    target = {"column": "gone", "expression": '"left"', "kind": "binary"}
    world = new_world(tmp_path, instance, target=target | {"positive_share": [0.3, 0.7]})
    landed(world, 0, 1, 2)
    done = world.definitions.resolve_job_def("churn_monitor").execute_in_process(
        instance=world.instance, tags=range_tags(key(0), key(2))
    )
    assert all(found.passed for found in done.get_asset_check_evaluations())
    in_production(world, 0, 2, 2)
    landed(world, 3, shift=9.0)
    found = checked(world, 3, 3)
    (unlike,) = cases(found["features_match_training"])
    assert (unlike["partition"], unlike["column"]) == (key(3), "x")
    (odd,) = cases(found["target_balance_within_range"])
    assert odd["share"] == pytest.approx(1.0, abs=0.05)
