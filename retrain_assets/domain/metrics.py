"""The formula of each metric, of labels, predictions and row weights.

Predictions are as `performance` says. Not here: names, directions, blocks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

THRESHOLD = 0.5  # from which a probability counts as a prediction of 1
SMALLEST = float(np.finfo(np.float64).eps)  # probability below which log_loss stops growing
UNKNOWN_CLASS = -1


class Function(Protocol):
    """A metric of labels, predictions and optional row weights; NaN where it is undefined.

    Labels of multiclass are places in the columns of the prediction.
    """

    def __call__(
        self, target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None = None
    ) -> float:
        """The value on these rows."""


def mean_of(values: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Function:
    """A metric that is the weighted mean of one value a row."""

    def metric(
        target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None = None
    ) -> float:
        return float(np.average(values(target, prediction), weights=weight))

    return metric


def surprise(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Minus the logarithm of the probability given to what happened."""
    if prediction.ndim == 1:
        given = np.where(target > THRESHOLD, prediction, 1 - prediction)
    else:
        given = prediction[np.arange(len(target)), target]
        given = np.where(target == UNKNOWN_CLASS, 0.0, given)
    return np.asarray(-np.log(np.clip(given, SMALLEST, 1)))


def chosen(prediction: np.ndarray, threshold: float) -> np.ndarray:
    """The predicted class."""
    likeliest = prediction.argmax(axis=1) if prediction.ndim > 1 else prediction >= threshold
    return np.asarray(likeliest)


def rmse(target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The root of the mean squared error."""
    return math.sqrt(np.average((prediction - target) ** 2, weights=weight))


def r2(target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The share of the variance that is explained; NaN of a constant target."""
    total = np.average((target - np.average(target, weights=weight)) ** 2, weights=weight)
    if total == 0:
        return math.nan
    return float(1 - np.average((prediction - target) ** 2, weights=weight) / total)


def _found_by_score(
    target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weight of the 1s and of the 0s at or above each distinct prediction, the highest first."""
    order = np.argsort(-prediction)
    weights = np.ones(len(order)) if weight is None else weight[order]
    ones, scores = target[order] > THRESHOLD, prediction[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    return np.cumsum(weights * ones)[ends], np.cumsum(weights * ~ones)[ends]


def roc_auc(target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The chance that a 1 is above a 0, ties counting half; NaN with one class."""
    ones, zeros = _found_by_score(target, prediction, weight)
    if ones[-1] == 0 or zeros[-1] == 0:
        return math.nan
    ones, zeros = np.append(0, ones) / ones[-1], np.append(0, zeros) / zeros[-1]
    return float(np.trapezoid(ones, zeros))


def average_precision(
    target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """The mean precision at each 1; NaN without one."""
    ones, zeros = _found_by_score(target, prediction, weight)
    if ones[-1] == 0:
        return math.nan
    precision = ones / np.maximum(ones + zeros, np.finfo(np.float64).tiny)
    return float(np.diff(ones, prepend=0) @ precision / ones[-1])


def _by_class(
    target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None, threshold: float
) -> tuple[np.ndarray, ...]:
    """Weight of the rows of each class that are right, predicted and there; class -1 is first."""
    true = target.astype(np.int64) + 1
    said = chosen(prediction, threshold).astype(np.int64) + 1
    classes = 1 + (2 if prediction.ndim == 1 else prediction.shape[1])
    weights = np.ones(len(true)) if weight is None else weight
    right = np.bincount(true, weights * (true == said), classes)
    return right, np.bincount(said, weights, classes), np.bincount(true, weights, classes)


def f1(threshold: float) -> Function:
    """Binary, or the mean over the classes that occur."""

    def metric(
        target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None = None
    ) -> float:
        right, said, true = _by_class(target, prediction, weight, threshold)
        counted = slice(2, None) if prediction.ndim == 1 else slice(None)
        occurs = (said + true)[counted] > 0
        values = 2 * right[counted][occurs] / (said + true)[counted][occurs]
        return float(values.mean()) if occurs.any() else math.nan

    return metric


def balanced_accuracy(threshold: float) -> Function:
    """The mean over the classes that occur of the share that is found; NaN with one class."""

    def metric(
        target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None = None
    ) -> float:
        right, _, true = _by_class(target, prediction, weight, threshold)
        occurs = true > 0
        return float((right[occurs] / true[occurs]).mean()) if occurs.sum() > 1 else math.nan

    return metric


def accuracy(threshold: float) -> Function:
    """The share of rows whose class is found."""
    return mean_of(lambda target, prediction: chosen(prediction, threshold) == target)
