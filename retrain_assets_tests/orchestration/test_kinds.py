"""Multiclass and regression models run the same loop, with weights and with a search."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from retrain_assets.domain.model import estimator
from retrain_assets.serving.http.app import list_predictions
from retrain_assets.serving.http.formats import (
    Inference,
    Tensor,
    arrow_answer,
    inference_answer,
    invocation_answer,
)
from retrain_assets.serving.scoring.score import score
from retrain_assets.serving.scoring.served_model import ServedModel
from retrain_assets.steps.decision import journal
from retrain_assets.steps.decision.train import fit_model, sample
from retrain_assets.steps.inspect.card import _explain
from retrain_assets.steps.inspect.needs import summarize
from retrain_assets.steps.inspect.report import render_report, report
from retrain_assets.steps.inspect.reproduce import reproduce
from retrain_assets.steps.inspect.status import answer, overview
from retrain_assets.steps.monitoring.intervals import read_timeline
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
        "intervals": {"coverage": 0.8},
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
        check_explanation(world)
    else:
        check_intervals(world, predicted)
        check_alarm_of_intervals(world)


def check_explanation(world: World) -> None:
    """Check that the card says what moves predictions, and compares it with the version before."""
    state, row = world.state, world.state.ledger.read().production
    assert row is not None
    pipeline = state.registry.load(row.version, row.sha256)
    rows = sample(state, [key(number) for number in range(16, 19)])
    figure, text, changes = _explain(state, pipeline, rows, row.candidate)
    assert figure.axes
    assert f"version {row.candidate} on the same rows" in text
    by_feature = {change["feature"]: change for change in changes}
    assert by_feature["x"]["now"] > by_feature["plan"]["now"]
    assert by_feature["x"]["low"] < by_feature["x"]["change"] < by_feature["x"]["high"]


def check_alarm_of_intervals(world: World) -> None:
    """Check that status, list of needs and page say that intervals contain too few labels."""
    assert "intervals" not in "".join(answer(overview(world.state))["how it does"])
    rows = monitored(world, "intervals").filter(measure="coverage")
    missed = rows.with_columns(alert=True, statistic=pl.lit(0.25))
    table, keys = "churn/monitoring", rows["_landing_partition"]
    others = world.storage.tables.scan(table).filter(pl.col("_landing_partition").is_in(keys))
    both = pl.concat([others.filter(pl.col("measure") != "coverage").collect(), missed])
    world.storage.tables.replace(table, both, keys, {})
    text = (
        f"the intervals of version 2 contain 25.0% of the labels of {key(16)} to {key(18)}, "
        "and are meant to contain 80.0%"
    )
    assert answer(overview(world.state))["how it does"][-1] == text
    assert summarize(world.state)["why"] == text
    assert text in render_report(report(world.state))


def check_intervals(world: World, predicted: pl.DataFrame) -> None:
    """Check that coverage is that of the half-widths, and that serving gives the next of them."""
    watched = monitored(world, "intervals").sort("_landing_partition")
    half_widths = watched.filter(measure="half_width").select("_landing_partition", "statistic")
    assert half_widths["_landing_partition"].to_list() == [key(number) for number in range(16, 19)]
    errors = predicted.join(half_widths, on="_landing_partition").select(
        ((pl.col("prediction") - pl.col("label")).abs() <= pl.col("statistic")).mean()
    )
    coverage = watched.row(by_predicate=pl.col("measure") == "coverage", named=True)
    assert coverage["statistic"] == pytest.approx(errors.item())
    assert (coverage["threshold"], coverage["alert"]) == (0.8, False)
    model = ServedModel(world.state, world.root / "copies", print)
    (world.root / "copies").mkdir()
    assert model.refresh()
    row = world.state.ledger.read().production
    timeline = row and read_timeline(world.state, world.state.ledger.read(), row)
    assert model.serving is not None
    assert timeline is not None
    assert model.serving.half_width == timeline.next
    rows = model.serving.maker.stored_rows(2)
    scored = score(model, rows)
    low, high = list_predictions("request", scored)[0]["interval"]
    assert (low + high) / 2 == pytest.approx(scored.output[0])
    assert high - low == pytest.approx(2 * (timeline.next or 0.0))
    frame = pl.read_ipc_stream(arrow_answer(scored, "request"))
    assert frame.columns == ["id", "prediction", "low", "high"]
    asked = Inference(inputs=[Tensor(name="x", shape=[1], datatype="FP64", data=[0.5])])
    predictions = list_predictions("request", scored)
    tensors, _ = inference_answer("churn", "request", asked, scored, predictions)
    assert [tensor["name"] for tensor in tensors["outputs"]] == [
        *("prediction", "id", "low", "high"),
    ]
    ends = frame.select("low", "high").to_dict(as_series=False)
    assert invocation_answer(scored) == {"predictions": scored.output.tolist(), **ends}


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


def test_what_a_search_tried_is_kept_and_not_tried_again(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = deepcopy(KINDS["regression"])
    parts["estimator"]["search"] |= {"minutes": 60, "budget": 30}
    clock = iter(range(0, 10**6, 900))  # each setting takes a quarter of an hour
    monkeypatch.setattr(journal, "perf_counter", lambda: next(clock))
    world = new_world(tmp_path, instance, **parts)
    world.land(*range(16))
    world.settle()
    registry = world.storage.registry("churn")
    version = registry.version(1)
    assert {"search.csv", "search.png", "spec.json", "holdout.png"} <= {
        found.path for found in registry.client.list_artifacts(version.run_id)
    }
    assert len(registry.text(version, "search.csv").splitlines()) == 1 + 4
    refit = registry.client.get_run(registry.version(2).run_id)
    assert refit.data.tags["mlflow.parentRunId"] == version.run_id

    fits, fit_recipe = [], estimator._fit_recipe
    monkeypatch.setattr(
        estimator, "_fit_recipe", lambda *given: fits.append(given) or fit_recipe(*given)
    )
    features = int(version.tags["features_version"])
    again = fit_model(world.state, [*json.loads(version.tags["trained_on"])], features, resume=True)
    assert len(fits) == 1, "only the best setting was fitted, on all rows"
    assert again.search is not None
    assert again.search.write_csv() == registry.text(version, "search.csv")
    assert reproduce(world.state, 1).identical
    assert len(fits) == 1 + 4 * 2 + 1, "each setting is fitted again on each of its folds"


def monitored(world: World, role: str) -> Any:
    rows = world.storage.tables.scan("churn/monitoring").collect()
    return rows.filter(role=role)
