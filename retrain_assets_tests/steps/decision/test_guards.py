"""Each planted bad model is better by the metric, and refused by one guard alone."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import expit, logit
from sklearn.pipeline import Pipeline

from retrain_assets.components.code_check import find_code_mistakes
from retrain_assets.domain.decision.gate import Verdict, compare, compare_slices, decide
from retrain_assets.domain.decision.guards import GuardResult, calibration_error
from retrain_assets.domain.metrics.metrics import get_gate_metric
from retrain_assets.domain.model.pipeline import build_pipeline
from retrain_assets.specs.gate import GateSpec
from retrain_assets.specs.model import EstimatorSpec, ModelSpec
from retrain_assets.steps.decision import judge
from retrain_assets.steps.decision.judge import run_guards
from retrain_assets.steps.decision.train import Output, Sample
from retrain_assets_tests.world import MODEL, check_file

DAYS, ROWS = 10, 400
RANDOM = np.random.default_rng(4)
X = RANDOM.normal(size=(DAYS * ROWS, 2))
PLAN = RANDOM.choice(["basic", "pro"], len(X), p=[0.9, 0.1])
TRUE = expit(X.sum(axis=1))
LABELS = (RANDOM.random(len(X)) < TRUE).astype(np.int64)
DAY = pl.Series([f"{day:02}" for day in range(DAYS) for _ in range(ROWS)])
WEAK = expit(X[:, 0] * 0.9)  # production does not see the second column
GATE: dict[str, Any] = {
    "metric": "roc_auc",
    "slices": ["plan"],
    "guards": {
        "calibration": {"limit": 0.02},
        "negative_flips": {"limit": 0.2},
        "latency": {"limit": 50.0},
        "size": {"limit": 3.0},
        "skew": "block",
    },
}


class Slow(Pipeline):
    """A model that sleeps before it predicts."""

    def predict_proba(self, X: Any, **given: Any) -> Any:  # noqa: N803 scikit-learn's
        time.sleep(0.1)
        return super().predict_proba(X, **given)


@pytest.fixture(scope="module")
def rows() -> Sample:
    features = pl.DataFrame({"x": X[:, 0], "y": X[:, 1]})
    return Sample(features, pl.Series("gone", LABELS), DAY, DAY, None, {})


def fitted(rows: Sample, of: str, **params: Any) -> Pipeline:
    spec = EstimatorSpec.model_validate({"class": f"sklearn.{of}", "params": params})
    return build_pipeline(spec, rows.features.schema, 0).fit(rows.features[:1000], LABELS[:1000])


@pytest.fixture(scope="module")
def small(rows: Sample) -> Pipeline:
    return fitted(rows, "linear_model.LogisticRegression")


def refusals(rows: Sample, candidate: Output, production: Output) -> tuple[list[str], str]:
    """Names of the guards that fail, slices among them, and the verdict."""
    gate = GateSpec.model_validate(GATE)
    both = LABELS, candidate.values, production.values
    found = compare(get_gate_metric(gate), *both, DAY, gate.confidence)
    sliced = pl.DataFrame({"plan": PLAN})
    slices = compare_slices(gate, get_gate_metric(gate), sliced, *both, DAY)
    guards = list(run_guards(gate, "binary", rows, candidate, production))
    assert found.low > 0, "the planted model is better by the metric"
    names = [guard.guard for guard in guards if not guard.passed]
    names += ["slices"] * any(result.regresses for result in slices)
    return names, decide(gate, found, found, slices, guards).verdict


def test_a_better_model_passes_every_guard(rows: Sample, small: Pipeline) -> None:
    assert refusals(rows, Output(small, TRUE), Output(small, WEAK)) == ([], Verdict.PROMOTE)


def test_a_miscalibrated_model_is_refused(rows: Sample, small: Pipeline) -> None:
    overconfident = expit(3 * logit(TRUE))
    found = refusals(rows, Output(small, overconfident), Output(small, WEAK))
    assert found == (["calibration"], Verdict.REJECT)


def test_a_model_that_loses_a_slice_is_refused(rows: Sample, small: Pipeline) -> None:
    # The score of the few is that of another row: calibrated on the whole, and worthless there.
    lost = np.where(PLAN == "pro", np.roll(TRUE, 1), TRUE)
    names, verdict = refusals(rows, Output(small, lost), Output(small, WEAK))
    assert names == ["slices"]
    assert verdict is Verdict.REJECT


def test_a_slow_model_is_refused(rows: Sample, small: Pipeline) -> None:
    slow = Slow(small.steps)
    gate = GateSpec.model_validate({"metric": "roc_auc", "guards": {"latency": {"limit": 2.0}}})
    (found,) = run_guards(gate, "binary", rows, Output(slow, TRUE), Output(small, WEAK))
    assert (found.guard, found.passed) == ("latency", False)
    assert found.detail.startswith("seconds of ")


def moved_by(rows: Sample, weights: tuple[float, float], leaves: int = 7) -> Output:
    """A boosted model of a score in which the two features have these weights."""
    params = {"max_iter": 30, "max_leaf_nodes": leaves}
    spec = EstimatorSpec.model_validate(
        {"class": "sklearn.ensemble.HistGradientBoostingClassifier", "params": params}
    )
    some = X[:1000]
    labels = (some @ weights + RANDOM.normal(size=len(some)) > 0).astype(np.int64)
    pipeline = build_pipeline(spec, rows.features.schema, 0)
    return Output(pipeline.fit(rows.features[:1000], labels), TRUE)


def test_a_model_whose_reasons_are_others_is_refused(rows: Sample, small: Pipeline) -> None:
    def check(limit: float, candidate: Output, production: Output) -> GuardResult:
        guards = {"explanation_shift": {"limit": limit}}
        gate = GateSpec.model_validate({"metric": "roc_auc", "guards": guards})
        (result,) = run_guards(gate, "binary", rows, candidate, production)
        return result

    both, first = moved_by(rows, (1, 1)), moved_by(rows, (1, 0))
    assert not check(0.3, both, first).passed
    assert check(0.3, both, first).detail.startswith("mean |SHAP| of y ")
    assert check(2.0, both, first).passed
    assert check(0.3, both, moved_by(rows, (1, 1), 6)).passed
    unexplained = check(0.05, both, Output(small, WEAK))
    assert (unexplained.action, unexplained.passed) == ("warn", False)
    assert "LogisticRegression does not see the features themselves" in unexplained.detail


def test_a_guard_on_reasons_needs_an_estimator_that_has_some() -> None:
    gate = {"metric": "log_loss", "guards": {"explanation_shift": {"limit": 0.3}}}
    linear = {"class": "sklearn.linear_model.LogisticRegression"}
    spec = ModelSpec.model_validate(MODEL | {"gate": gate, "estimator": linear})
    ((loc, why),) = find_code_mistakes(spec)
    assert (loc[-1], "has no SHAP values here" in why) == ("explanation_shift", True)
    boosted = {"class": "sklearn.ensemble.HistGradientBoostingClassifier"}
    spec = ModelSpec.model_validate(MODEL | {"gate": gate, "estimator": boosted})
    assert [*find_code_mistakes(spec)] == []
    assert "explanation_shift" not in GateSpec(metric="log_loss").model_dump_json()


def test_a_large_model_is_refused(rows: Sample, small: Pipeline) -> None:
    large = fitted(rows, "ensemble.HistGradientBoostingClassifier", max_iter=50)
    gate = GateSpec.model_validate({"metric": "roc_auc", "guards": {"size": {"limit": 3.0}}})
    (found,) = run_guards(gate, "binary", rows, Output(large, TRUE), Output(small, WEAK))
    assert not found.passed
    (found,) = run_guards(gate, "binary", rows, Output(small, TRUE), Output(large, WEAK))
    assert found.passed


def test_a_model_that_flips_what_was_right_is_refused(rows: Sample, small: Pipeline) -> None:
    gate = GateSpec.model_validate(
        {"metric": "accuracy", "guards": {"negative_flips": {"limit": 0.01}}}
    )
    wrong = np.where(np.arange(len(X)) % 40 == 0, 1.0 - LABELS, LABELS)
    right = np.where(np.arange(len(X)) % 3 == 1, 1.0 - LABELS, LABELS)
    (found,) = run_guards(gate, "binary", rows, Output(small, wrong), Output(small, right))
    assert not found.passed
    assert found.detail == "1.68% of rows that production had right are wrong now, limit 1.00%"


def test_a_model_that_another_process_cannot_repeat_is_refused(
    rows: Sample, small: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "check_file", check_file)
    gate = GateSpec.model_validate({"metric": "roc_auc", "guards": {"skew": "block"}})
    slow = Output(Slow(small.steps), TRUE)
    (found,) = run_guards(gate, "binary", rows, slow, Output(small, WEAK))
    assert (found.guard, found.passed) == ("skew", False)


def test_a_guard_that_warns_is_told_and_refuses_nothing() -> None:
    gate = GateSpec(metric="roc_auc")
    found = compare("roc_auc", LABELS, TRUE, WEAK, DAY, 0.9)
    guard = GuardResult("size", "warn", passed=False, detail="bytes: 4 times")
    decision = decide(gate, found, found, (), [guard])
    assert decision.verdict is Verdict.PROMOTE
    assert decision.reason.endswith("; warning: bytes: 4 times")


def test_the_calibration_error_is_the_distance_in_the_bins() -> None:
    assert calibration_error(np.repeat([0.0, 1.0], 50), np.repeat([0.1, 0.8], 50)) == (
        pytest.approx(0.15)
    )
