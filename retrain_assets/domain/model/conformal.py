"""Prediction intervals of a regression by split conformal inference that adapts over time.

An interval reaches as far on both sides as a quantile of the absolute errors on rows that the model
was not trained on (Lei and others 2018, "Distribution-Free Predictive Inference for Regression",
Journal of the American Statistical Association 113). It covers as stated as long as new rows are
like those. As they change over time, the quantile's level is raised after a partition that was
covered too little, and lowered after one covered too well (Gibbs and Candès 2021, "Adaptive
Conformal Inference Under Distribution Shift", NeurIPS, arXiv 2106.00170).

Only summaries of errors come in, a block of values and weights for each partition. Not here: where
they are stored, and alarms.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

STEP = 0.1  # by how much of what a partition was covered too little the level is raised


class Errors(NamedTuple):
    """The absolute errors on a partition, of shape (values,), and the rows that each stands for."""

    values: np.ndarray
    weights: np.ndarray

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return int(self.weights.sum())

    def share_within(self, half_width: float) -> float:
        """Return the share of rows whose error is at most this; NaN without a row."""
        return (
            float(self.weights @ (self.values <= half_width)) / self.rows if self.rows else math.nan
        )


class Interval(NamedTuple):
    """The interval around each prediction of a partition.

    Args:
        half_width: How far the interval reaches on each side of the prediction.
        level: The level of the quantile that it is.
        calibration: The errors that it is a quantile of.
    """

    half_width: float
    level: float
    calibration: tuple[Errors, ...]


def adapt(
    coverage: float, before: Sequence[Errors], served: Sequence[Errors], delay: int, length: int
) -> list[Interval]:
    """Return the interval of each partition that a version has served, and of the next one.

    Args:
        coverage: The share of labels that intervals are to contain.
        before: Errors on partitions before the first that was served, in order.
        served: Errors on the partitions that were served, in order; empty without a label.
        delay: After how many later partitions the labels of one are final.
        length: How many of the newest partitions with final labels a quantile is taken of.

    Returns:
        One more than were served; its half width is NaN as long as there is no error.
    """
    intervals: list[Interval] = []
    level, labelled = coverage, [errors for errors in before if errors.rows]
    for place in range(len(served) + 1):
        final = place - max(delay, 1)  # the partition whose labels have become final
        if final >= 0 and served[final].rows:
            if intervals[final].calibration:
                share = served[final].share_within(intervals[final].half_width)
                level = min(1.0, max(0.0, level + STEP * (coverage - share)))
            labelled.append(served[final])
        calibration = tuple(labelled[-length:])
        half_width = compute_half_width(calibration, level) if calibration else math.nan
        intervals.append(Interval(half_width, level, calibration))
    return intervals


def compute_half_width(errors: Sequence[Errors], level: float) -> float:
    """Return the quantile of absolute errors, of n the smallest of rank ceil((n + 1) level).

    At a level that would need more errors it is the largest.
    """
    values, weights = (np.concatenate(parts) for parts in zip(*errors, strict=True))
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    rank = min(math.ceil((below[-1] + 1) * level), below[-1])
    return float(values[order][np.searchsorted(below, rank)])
