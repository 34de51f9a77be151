"""Metrics agree with scikit-learn's, and say so where they are undefined."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from sklearn import metrics as sklearn_metrics

from retrain_assets.domain.metrics.metrics import (
    METRICS,
    align_columns,
    block_values,
    evaluate,
    loss_increase,
    mean_over_blocks,
)
from retrain_assets.specs.gate import METRICS_BY_KIND, Metric

RANDOM = np.random.default_rng(5)
ROWS = 400
CHANCE = RANDOM.uniform(size=ROWS)
BINARY = (RANDOM.uniform(size=ROWS) < CHANCE).astype(float)
NUMBER = CHANCE + RANDOM.normal(size=ROWS)
SHARES = RANDOM.dirichlet([1, 1, 1], size=ROWS)
CLASS = np.array(["a", "b", "c"])[RANDOM.integers(0, 3, ROWS)]
WEIGHT = RANDOM.uniform(0.5, 2, ROWS)


def thresholded(function: Callable[..., float], **options: Any) -> Callable[..., float]:
    def metric(target: np.ndarray, prediction: np.ndarray, sample_weight: np.ndarray) -> float:
        if prediction.ndim == 1:
            chosen = (prediction >= 0.5).astype(float)
        else:
            chosen = np.array(["a", "b", "c"])[prediction.argmax(axis=1)]
        given = options if prediction.ndim > 1 else {}
        return function(target, chosen, sample_weight=sample_weight, **given)

    return metric


REFERENCE: dict[str, Callable[..., float]] = {
    "log_loss": sklearn_metrics.log_loss,
    "brier": sklearn_metrics.brier_score_loss,
    "roc_auc": sklearn_metrics.roc_auc_score,
    "average_precision": sklearn_metrics.average_precision_score,
    "accuracy": thresholded(sklearn_metrics.accuracy_score),
    "balanced_accuracy": thresholded(sklearn_metrics.balanced_accuracy_score),
    "f1": thresholded(sklearn_metrics.f1_score, average="macro"),
    "mae": sklearn_metrics.mean_absolute_error,
    "rmse": sklearn_metrics.root_mean_squared_error,
    "r2": sklearn_metrics.r2_score,
}
DATA = {"binary": (BINARY, CHANCE), "multiclass": (CLASS, SHARES), "regression": (NUMBER, CHANCE)}
CASES = [(kind, metric) for kind, offered in METRICS_BY_KIND.items() for metric in offered]


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_a_metric_is_what_scikit_learn_says(kind: str, metric: Metric) -> None:
    target, prediction = DATA[kind]
    expected = REFERENCE[metric](target, prediction, sample_weight=None)
    assert evaluate(metric, target, prediction) == pytest.approx(expected, rel=1e-12)
    codes = np.unique(target, return_inverse=True)[1] if kind == "multiclass" else target
    weighted = METRICS[metric].function(codes, prediction, WEIGHT)
    by_reference = REFERENCE[metric](target, prediction, sample_weight=WEIGHT)
    assert weighted == pytest.approx(by_reference, rel=1e-12)


def test_every_metric_of_the_spec_is_there_with_its_kinds() -> None:
    assert set(METRICS) == set(get_args(Metric))
    for offered in METRICS_BY_KIND.values():
        assert set(offered) <= set(METRICS)


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_a_metric_knows_which_direction_is_better(kind: str, metric: Metric) -> None:
    target, prediction = DATA[kind]
    perfect = {"binary": target, "regression": target}.get(kind)
    if perfect is None:
        perfect = (target[:, None] == np.array(["a", "b", "c"])).astype(float)
    better, worse = evaluate(metric, target, perfect), evaluate(metric, target, prediction)
    assert (better > worse) == METRICS[metric].greater_is_better
    assert loss_increase(metric, worse, better) > 0
    assert loss_increase(metric, better, worse) < 0


def test_a_certain_and_wrong_prediction_costs_much_but_not_everything() -> None:
    lost = evaluate("log_loss", np.array([1.0, 0.0]), np.array([0.0, 0.0]))
    assert lost == pytest.approx(-math.log(np.finfo(float).eps) / 2)


@pytest.mark.parametrize(
    ("metric", "target"),
    [
        ("roc_auc", [1.0, 1.0]),
        ("average_precision", [0.0, 0.0]),
        ("f1", [0.0, 0.0]),
        ("r2", [4.0, 4.0]),
    ],
)
def test_an_undefined_metric_is_null_for_its_block_only(
    metric: Metric, target: list[float]
) -> None:
    prediction = np.array([0.1, 0.2, 0.3, 0.9])
    blocks = pl.Series(["b", "b", "a", "a"])
    found = block_values(metric, np.array([*target, 0.0, 1.0]), prediction, blocks)
    assert found["value"].is_null().to_list() == [False, True]
    assert math.isnan(evaluate(metric, np.array(target), prediction[:2]))


def test_block_values_stand_in_the_order_of_blocks() -> None:
    target, prediction = np.array([0.0, 4.0, 1.0]), np.array([1.0, 2.0, 1.0])
    found = block_values("mae", target, prediction, pl.Series(["2", "1", "2"]))
    expected = {"block": ["1", "2"], "value": [2.0, 0.5], "rows": [1, 2]}
    assert_frame_equal(found, pl.DataFrame(expected))
    assert mean_over_blocks("mae", target, prediction, pl.Series(["2", "1", "2"])) == 1


def test_the_mean_over_blocks_leaves_out_undefined_ones() -> None:
    target, prediction = np.array([1.0, 1.0, 0.0, 1.0]), np.array([0.1, 0.2, 0.3, 0.9])
    blocks = pl.Series(["a", "a", "b", "b"])
    assert mean_over_blocks("roc_auc", target, prediction, blocks) == 1
    assert math.isnan(mean_over_blocks("roc_auc", target[:2], prediction[:2], blocks[:2]))


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(40)), st.sampled_from(CASES))
def test_the_order_of_rows_does_not_matter(order: list[int], case: tuple[str, Metric]) -> None:
    kind, metric = case
    target, prediction = (values[:40] for values in DATA[kind])
    mixed = evaluate(metric, target[order], prediction[order])
    assert mixed == pytest.approx(evaluate(metric, target, prediction), rel=1e-9)


def test_a_class_the_model_does_not_know_is_a_miss() -> None:
    target = np.array(["a", "new"])
    shares = np.array([[0.9, 0.1], [0.9, 0.1]])
    assert evaluate("accuracy", target, shares, ["a", "b"]) == 0.5
    expected = -(math.log(0.9) + math.log(np.finfo(float).eps)) / 2
    assert evaluate("log_loss", target, shares, ["a", "b"]) == pytest.approx(expected)


def test_probabilities_move_to_the_columns_of_other_classes() -> None:
    shares = np.array([[0.7, 0.3]])
    moved = align_columns(shares, ["b", "a"], ["a", "b", "c"])
    np.testing.assert_array_equal(moved, [[0.3, 0.7, 0.0]])


@pytest.mark.parametrize(
    ("prediction", "said"),
    [
        (np.ones(3), "3 predictions for 2 labels"),
        (np.ones((2, 3)), "3 columns of probabilities for 2 classes: give the classes"),
    ],
)
def test_shapes_that_do_not_agree_are_refused(prediction: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        evaluate("log_loss", np.array(["a", "b"]), prediction)


def test_a_relative_loss_from_nothing_is_infinite() -> None:
    assert loss_increase("mae", 0.1, 0) == math.inf
    assert loss_increase("r2", 0.1, 0) == -math.inf
    assert loss_increase("mae", 0, 0) == 0
    assert loss_increase("r2", -0.3, -0.2) == pytest.approx(0.5)
