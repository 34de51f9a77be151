"""Performance without labels: what a metric would be if the calibrated probabilities came true.

Confidence-based estimation: Bialek, Kuberski, Perrakis and Bifet, "Estimating Model Performance
Under Covariate Shift Without Labels", 2024 (arXiv 2401.08348). Each prediction counts as a 1 with
its calibrated probability, and as a 0 with the rest, so every metric of a binary model has an
estimate. It sees that rows have become harder, and is blind to concept drift: where what follows
from the same features has changed, the probabilities are wrong and so is the estimate. Not here:
what is done about an estimate, and whether it has been right before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from retrain_assets.domain.metrics import SMALLEST
from retrain_assets.domain.performance import defined

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrain_assets.domain.performance import MetricDef
    from retrain_assets.specs.gate import Metric

    Floats = NDArray[np.float64]

RIDGE = 1e6  # inverse strength: keeps the slope finite where the labels are separated


@dataclass(frozen=True)
class Calibration:
    """What a model's probabilities were worth on rows it had not seen.

    Source: Cox, "Two further applications of a model for binary regression", Biometrika 45, 1958.

    Args:
        intercept: Added to the slope times the log odds.
        slope: 1 with an intercept of 0 where the probabilities came true.
    """

    intercept: float
    slope: float

    def __call__(self, probability: Floats) -> Floats:
        """Probabilities that come true, of the model's own."""
        return np.asarray(1 / (1 + np.exp(-self.intercept - self.slope * _log_odds(probability))))


def calibration(target: np.ndarray, probability: np.ndarray) -> Calibration | None:
    """Fit a calibration.

    Args:
        target: Labels of unseen rows, of shape (rows,): 0 and 1.
        probability: Predicted probability of 1, of shape (rows,).

    Returns:
        The calibration; None where all labels are of one class.
    """
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(target)) < 2:  # noqa: PLR2004 the two classes
        return None
    fitted = LogisticRegression(C=RIDGE).fit(_log_odds(probability)[:, None], target)
    return Calibration(float(fitted.intercept_[0]), float(fitted.coef_[0, 0]))


def estimate(
    metric: Metric | MetricDef,
    probability: np.ndarray,
    rows: np.ndarray,
    calibrated: Calibration,
) -> float:
    """What the metric of some predictions would be.

    Args:
        metric: Of a binary model.
        probability: Predictions, of shape (values,).
        rows: How many rows each stands for, of shape (values,).
        calibrated: What such predictions were worth.

    Returns:
        The value; NaN without a row, or where the metric is undefined.
    """
    if not rows.sum():
        return math.nan
    chance = calibrated(probability)
    labels = np.repeat([1, 0], len(rows))
    weights = np.concatenate([rows * chance, rows * (1 - chance)])
    return defined(metric).function(labels, np.tile(probability, 2), weights)


def _log_odds(probability: np.ndarray) -> Floats:
    kept = np.clip(probability.astype(np.float64), SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(kept) - np.log1p(-kept))
