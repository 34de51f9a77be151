"""An alert is what reaches the bound, in the metric's own direction."""

from __future__ import annotations

import math

import polars as pl
import pytest

from retrain_assets.domain.drift.observations import (
    FEATURE,
    PERFORMANCE,
    compute_bound,
    observe_drift,
    observe_performance,
)
from retrain_assets.domain.drift.profile import build_profile, merge
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.triggers import DriftTrigger, PerformanceTrigger


def model(metric: str, kind: str = "binary", **trigger: float) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "m",
            "dataset": "d",
            "features": {"sql": "SELECT 1"},
            "target": {"column": "y", "kind": kind},
            "estimator": {"class": "sklearn.linear_model.LogisticRegression"},
            "gate": {"metric": metric},
            "triggers": {"performance": {"metric": metric, **trigger}},
        }
    )


@pytest.mark.parametrize(
    ("metric", "max_drop", "limit", "baseline", "worst"),
    [
        ("log_loss", 0.1, None, 0.5, 0.55),
        ("log_loss", 0.1, 0.52, 0.5, 0.52),
        ("log_loss", None, 0.6, 0.5, 0.6),
        ("roc_auc", 0.1, None, 0.8, 0.72),
        ("roc_auc", 0.1, 0.75, 0.8, 0.75),
        ("r2", 0.5, None, -0.2, -0.3),
        ("roc_auc", 0.1, 0.75, math.nan, 0.75),
        ("log_loss", 0.1, 0.52, math.nan, 0.52),
    ],
)
def test_the_tighter_bound_counts(
    metric: str, max_drop: float | None, limit: float | None, baseline: float, worst: float
) -> None:
    trigger = PerformanceTrigger.model_validate(
        {"metric": metric, "max_drop": max_drop, "limit": limit}
    )
    assert compute_bound(trigger, baseline) == pytest.approx(worst)


def test_without_a_value_at_promotion_no_relative_bound_is_passed() -> None:
    found = observe_performance(model("roc_auc", max_drop=0.1), PERFORMANCE, [(0.1, 50)], math.nan)
    assert found is not None
    assert math.isnan(found.threshold or 0)
    assert not found.alert


def test_realised_performance_weighs_partitions_by_their_rows() -> None:
    found = observe_performance(
        model("log_loss", max_drop=0.1), PERFORMANCE, [(0.4, 300), (0.8, 100)], baseline=0.5
    )
    assert found is not None
    assert (found.statistic, found.alert) == (0.5, False)
    worse = observe_performance(
        model("log_loss", max_drop=0.1), PERFORMANCE, [(0.4, 100), (0.8, 300)], baseline=0.5
    )
    assert worse is not None
    assert worse.alert


def test_a_metric_that_is_better_when_greater_alerts_below_its_bound() -> None:
    found = observe_performance(
        model("roc_auc", max_drop=0.1), PERFORMANCE, [(0.7, 10)], baseline=0.8
    )
    assert found is not None
    assert found.alert


VALUES = [(0.50, 100), (0.60, 100), (0.70, 100)]


def test_the_interval_of_the_mean_is_students_over_partitions() -> None:
    found = observe_performance(model("log_loss", max_drop=0.1), PERFORMANCE, VALUES, baseline=0.5)
    assert found is not None
    half = 2.919986 * 0.1 / 3**0.5  # t of two degrees of freedom at 95 %, each side 5 %
    assert (found.low, found.high) == (pytest.approx(0.6 - half), pytest.approx(0.6 + half))
    (value, rows) = VALUES[0]
    alone = observe_performance(
        model("log_loss", max_drop=0.1), PERFORMANCE, [(value, rows)], baseline=0.5
    )
    assert alone is not None
    assert (alone.low, alone.high) == (None, None)


@pytest.mark.parametrize(("confidence", "alerts"), [(0.5, True), (0.75, True), (0.9, False)])
def test_a_fall_alerts_only_when_it_is_as_sure_as_was_asked(
    confidence: float, *, alerts: bool
) -> None:
    spec = model("log_loss", max_drop=0.1, confidence=confidence)
    found = observe_performance(spec, PERFORMANCE, VALUES, baseline=0.5)
    assert found is not None
    assert found.alert is alerts


def test_no_labelled_rows_is_no_observation() -> None:
    assert (
        observe_performance(model("log_loss", max_drop=0.1), PERFORMANCE, [(0.4, 0)], baseline=0.5)
        is None
    )


def test_only_the_measure_that_is_watched_has_a_threshold() -> None:
    def summed(values: list[float | None]) -> dict[str, object]:
        frame = pl.DataFrame({"_landing_partition": ["1"] * len(values), "x": values})
        return merge(build_profile(frame.cast({"x": pl.Float64})))  # type: ignore[return-value]

    trigger = DriftTrigger(measure="ks", threshold=0.5)
    far = list(observe_drift(FEATURE, trigger, summed([1.0, 2.0, 3.0]), summed([7.0, 8.0, 9.0])))  # type: ignore[arg-type]
    assert {found.measure: found.alert for found in far if found.threshold} == {"ks": True}
    of_numbers = {"ks", "psi", "jensen_shannon", "null_share", "wasserstein"}
    assert {found.measure for found in far} == of_numbers
    empty = list(observe_drift(FEATURE, trigger, summed([1.0, 2.0]), summed([None, None])))  # type: ignore[arg-type]
    assert {(found.measure, found.statistic) for found in empty} == {("null_share", 1.0)}
