"""Multiclass and regression models run the same loop, with weights and with a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from retrain_assets_tests.world import World, key, new_world

LEVEL = "CASE WHEN x > 0.5 THEN 'high' WHEN x < -0.5 THEN 'low' ELSE 'middle' END"
KINDS: dict[str, dict[str, Any]] = {
    "multiclass": {
        "target": {"column": "level", "expression": LEVEL, "kind": "multiclass"},
        "estimator": {
            "class": "sklearn.ensemble.HistGradientBoostingClassifier",
            "params": {"max_iter": 20},
        },
        "triggers": {"performance": {"metric": "accuracy", "max_drop": 0.2}},
        "gate": {"metric": "log_loss", "min_blocks": 4, "slices": ["plan"]},
    },
    "regression": {
        "target": {"column": "twice", "expression": "2 * x + 1", "kind": "regression"},
        "weight": "1 + id % 2",
        "estimator": {
            "class": "sklearn.linear_model.Ridge",
            "search": {
                "params": {
                    "alpha": {"low": 0.01, "high": 100, "log": True},
                    "fit_intercept": {"values": [True, False]},
                },
                "budget": 4,
                "folds": 2,
            },
        },
        "triggers": {"performance": {"metric": "mae", "limit": 0.5}},
        "gate": {"metric": "mae", "min_blocks": 4},
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_trained_promoted_and_watched(
    kind: str, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance, **KINDS[kind])
    world.land(*range(16))
    world.settle()
    world.land(*range(16, 19))
    world.settle()
    (row,) = world.state.ledger.read().rows
    assert (row.action, row.causes) == ("promote", ("no_production",))
    predicted = world.storage.tables.scan("churn/predictions").collect()
    assert predicted.height == 3 * 120
    realised = monitored(world, "performance")
    assert realised["alert"].to_list() == [False]
    assert realised["statistic"].item() == pytest.approx(
        predicted.select((predicted["prediction"] == predicted["label"]).mean()).item()
        if kind == "multiclass"
        else (predicted["prediction"] - predicted["label"]).abs().mean()
    )
    assert monitored(world, "prediction").height > 0
    promised = monitored(world, "estimated")
    assert promised.height == (kind == "multiclass")
    if kind == "multiclass":
        assert promised["statistic"].item() == pytest.approx(realised["statistic"].item(), abs=0.05)


def test_a_class_that_first_appears_in_the_holdout_is_promoted_with_the_refit(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    new = f"x > 1 AND day > DATE '{key(13)}'"
    late = f"CASE WHEN {new} THEN 'new' WHEN x < 0 THEN 'low' ELSE 'up' END"
    target = {"column": "level", "expression": late, "kind": "multiclass"}
    world = new_world(tmp_path, instance, **KINDS["multiclass"] | {"target": target})
    world.land(*range(16))
    world.settle()
    (row,) = world.state.ledger.read().rows
    assert row.action == "promote"
    refit = world.storage.registry("churn").load(row.version, row.sha256)
    assert list(refit.classes_) == ["low", "new", "up"]
    assert world.storage.registry("churn").version(row.version).metrics["distance_to_gated"] > 0


def test_a_hold_counts_partitions_where_a_partition_has_several_blocks(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    gate = {"metric": "log_loss", "min_blocks": 60}
    world = new_world(tmp_path, instance, gate=gate, blocks="id % 4")
    world.land(*range(16))
    world.settle()
    (row,) = world.state.ledger.read().rows
    assert (row.action, row.more) == ("hold", 9)  # four blocks a day: 36 more of them
    assert "some 9 more partitions would probably do" in row.reason


def test_what_a_search_tried_is_kept_with_the_version(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance, **KINDS["regression"])
    world.land(*range(16))
    world.settle()
    registry = world.storage.registry("churn")
    run = registry.version(1).run_id
    assert {"search.csv", "spec.json", "holdout.png"} <= {
        found.path for found in registry.client.list_artifacts(run)
    }
    refit = registry.client.get_run(registry.version(2).run_id)
    assert refit.data.tags["mlflow.parentRunId"] == run


def monitored(world: World, role: str) -> Any:
    rows = world.storage.tables.scan("churn/monitoring").collect()
    return rows.filter(role=role)
