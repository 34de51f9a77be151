"""Performance without labels: what a metric would be if the calibrated probabilities came true.

Confidence-based estimation: Bialek, Kuberski, Perrakis and Bifet, "Estimating Model Performance
Under Covariate Shift Without Labels", 2024 (arXiv 2401.08348). Each prediction counts as each class
with its calibrated probability, so every metric of a classifier has an estimate. It sees that rows
have become harder, and is blind to concept drift: where what follows from the same features has
changed, the probabilities are wrong and so is the estimate. Not here: what is done about an
estimate, and whether it has been right before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from retrain_assets.domain.metrics import metrics
from retrain_assets.domain.metrics.metrics import MetricDef
from retrain_assets.specs.gate import Metric

Floats = NDArray[np.float64]

RIDGE = 1e-6  # on all parameters: keeps the slope finite where the labels are separated


@dataclass(frozen=True)
class Calibration:
    """The worth of a classifier's probabilities, measured on rows it had not seen.

    The softmax of an intercept a class plus the slope times the log probability. Source: Cox, "Two
    further applications of a model for binary regression", Biometrika 45, 1958, of two classes;
    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017
    (arXiv 1706.04599), of more.

    Args:
        intercepts: Of each class, the first one 0.
        slope: 1 with intercepts of 0 where the probabilities came true.
    """

    intercepts: Sequence[float]
    slope: float

    def __call__(self, probability: np.ndarray) -> Floats:
        """Return probabilities that come true, of shape (rows, classes), of the model's own."""
        from scipy.special import softmax

        logs = _take_log(probability)
        return np.asarray(softmax(np.asarray(self.intercepts) + self.slope * logs, axis=1))


def fit_calibration(
    target: np.ndarray, probability: np.ndarray, classes: Sequence[Any] | None = None
) -> Calibration | None:
    """Fit a calibration by maximum likelihood.

    Args:
        target: Labels of unseen rows, of shape (rows,).
        probability: Predictions, as `metrics.align_labels` takes them.
        classes: Class of each column, for multiclass.

    Returns:
        The calibration; None where all labels are of one class.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    places, _ = metrics.align_labels(target, probability, classes)
    rows = places != metrics.UNKNOWN_CLASS
    logs, places = _take_log(probability[rows]), places[rows].astype(np.int64)
    if len(np.unique(places)) < 2:  # noqa: PLR2004 there is nothing to tell apart
        return None
    came_true = np.eye(logs.shape[1])[places]

    def surprise(parameters: Floats) -> tuple[float, Floats]:
        """Return the mean surprise of the labels, and its gradient."""
        predicted = log_softmax(np.append(0, parameters[1:]) + parameters[0] * logs, axis=1)
        off = np.exp(predicted) - came_true
        gradient = np.append((off * logs).sum(axis=1).mean(), off.mean(axis=0)[1:])
        value = RIDGE / 2 * parameters @ parameters - (predicted * came_true).sum(axis=1).mean()
        return float(value), gradient + RIDGE * parameters

    start = np.append(1.0, np.zeros(logs.shape[1] - 1))
    slope, *intercepts = minimize(surprise, start, jac=True, method="BFGS").x.tolist()
    return Calibration((0.0, *intercepts), slope)


def estimate(metric: Metric | MetricDef, probability: np.ndarray, calibrated: Calibration) -> float:
    """Return what the metric of some predictions would be.

    Args:
        metric: Of a classifier.
        probability: Predictions, as `metrics.align_labels` takes them.
        calibrated: What such predictions were worth.

    Returns:
        The value; NaN without a row, or where the metric is undefined.
    """
    if not len(probability):
        return math.nan
    chance = calibrated(probability)
    rows, classes = chance.shape
    each_class = (classes, *(1 for _ in probability.shape[1:]))
    return metrics.get_metric(metric).function(
        np.repeat(np.arange(classes), rows), np.tile(probability, each_class), chance.T.ravel()
    )


def estimate_blocks(
    metric: Metric | MetricDef, probability: np.ndarray, blocks: pl.Series, calibrated: Calibration
) -> pl.DataFrame:
    """Return what the metric of each block would be, as `block_values` gives what it is."""
    return metrics.compute_by_block(
        blocks, lambda rows: estimate(metric, probability[rows], calibrated)
    )


def _take_log(probability: np.ndarray) -> Floats:
    """Return the logarithm for each class, of shape (rows, classes)."""
    if probability.ndim == 1:
        probability = np.stack([1 - probability, probability], axis=1)
    return np.asarray(np.log(np.clip(probability.astype(np.float64), metrics.SMALLEST, 1)))
