"""An estimate is the metric that the probabilities promise, whatever the model makes of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from retrain_assets.domain.drift.performance_estimate import Calibration, estimate, fit_calibration
from retrain_assets.domain.metrics.metrics import evaluate

AS_IT_IS = Calibration((0.0, 0.0), 1.0)
METRICS = ("log_loss", "brier", "accuracy", "f1", "balanced_accuracy", "roc_auc")


def drawn(rows: int, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that come true, and their labels."""
    random = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-random.normal(-0.5, spread, rows)))
    return chance, (random.random(rows) < chance).astype(int)


@pytest.mark.parametrize("metric", [*METRICS, "average_precision"])
def test_where_probabilities_come_true_the_estimate_is_the_metric(metric: str) -> None:
    chance, labels = drawn(200_000, 1.5, 1)
    found = estimate(metric, chance, AS_IT_IS)  # type: ignore[arg-type]
    assert found == pytest.approx(evaluate(metric, labels, chance), abs=0.005)  # type: ignore[arg-type]


def test_two_rows_by_hand() -> None:
    chance = np.array([0.9, 0.2])
    assert estimate("accuracy", chance, AS_IT_IS) == pytest.approx((0.9 + 0.8) / 2)
    brier = (0.9 * 0.1**2 + 0.1 * 0.9**2 + 0.2 * 0.8**2 + 0.8 * 0.2**2) / 2
    assert estimate("brier", chance, AS_IT_IS) == pytest.approx(brier)


def test_two_rows_of_three_classes_by_hand() -> None:
    chance, as_it_is = np.array([[0.7, 0.2, 0.1], [0.1, 0.4, 0.5]]), Calibration((0.0,) * 3, 1.0)
    assert estimate("accuracy", chance, as_it_is) == pytest.approx((0.7 + 0.5) / 2)
    entropy = -(chance * np.log(chance)).sum() / 2
    assert estimate("log_loss", chance, as_it_is) == pytest.approx(entropy)


def test_harder_rows_are_seen_without_a_label() -> None:
    (easy, _), (hard, labels) = drawn(50_000, 3.0, 2), drawn(50_000, 0.3, 3)
    before, now = (estimate("log_loss", side, AS_IT_IS) for side in (easy, hard))
    assert now > before + 0.2
    assert now == pytest.approx(evaluate("log_loss", labels, hard), abs=0.01)


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_a_model_that_is_too_sure_or_unsure_is_calibrated_first(factor: float) -> None:
    chance, labels = drawn(100_000, 1.0, 4)
    said = 1 / (1 + np.exp(-factor * np.log(chance / (1 - chance)) - 0.3))
    fitted = fit_calibration(labels, said)
    assert fitted is not None
    assert fitted.slope == pytest.approx(1 / factor, rel=0.03)
    assert fitted.intercepts == pytest.approx((0, -0.3 / factor), abs=0.03)
    true = evaluate("log_loss", labels, said)
    assert estimate("log_loss", said, fitted) == pytest.approx(true, abs=0.01)
    assert abs(estimate("log_loss", said, AS_IT_IS) - true) > 0.02


CLASSES = ("high", "low", "middle")


@pytest.mark.parametrize("metric", ["log_loss", "accuracy", "balanced_accuracy", "f1"])
def test_of_several_classes_too_where_the_model_is_too_sure(metric: str) -> None:
    random = np.random.default_rng(5)
    logs = random.normal([0.5, 0, -0.5], 1, (100_000, 3))
    chance = np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
    places = (random.random((len(logs), 1)) > chance.cumsum(axis=1)).sum(axis=1)
    labels = np.array(CLASSES)[places]
    said = np.exp(2 * logs + [0, 0.4, 0]) / np.exp(2 * logs + [0, 0.4, 0]).sum(1, keepdims=True)
    fitted = fit_calibration(labels, said, CLASSES)
    assert fitted is not None
    assert fitted(said) == pytest.approx(chance, abs=0.03)
    true = evaluate(metric, labels, said, CLASSES)  # type: ignore[arg-type]
    assert estimate(metric, said, fitted) == pytest.approx(true, abs=0.01)  # type: ignore[arg-type]
    as_it_is = Calibration((0.0,) * 3, 1.0)
    assert abs(estimate(metric, said, as_it_is) - true) > 0.03  # type: ignore[arg-type]


def test_a_class_that_the_model_does_not_know_says_nothing_of_its_calibration() -> None:
    said = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.5, 0.5], [0.5, 0.5]])
    known = fit_calibration(np.array(["a", "a", "b", "b"]), said[:4], ["a", "b"])
    assert fit_calibration(np.array(["a", "a", "b", "b", "new"]), said, ["a", "b"]) == known


def test_what_cannot_be_told_is_none_or_nan() -> None:
    assert fit_calibration(np.ones(5), np.linspace(0.1, 0.9, 5)) is None
    assert math.isnan(estimate("log_loss", np.empty(0), AS_IT_IS))


def test_certain_and_separated_predictions_stay_finite() -> None:
    said, labels = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1])
    fitted = fit_calibration(labels, said)
    assert fitted is not None
    assert np.isfinite(fitted(said)).all()
    assert estimate("log_loss", said, fitted) == pytest.approx(0, abs=1e-6)
