"""What a better candidate must not cost: calibration, flips, time, size, other reasons.

Each guard compares candidate and production, and is a bound from the YAML. Not here: taking times
and sizes, slices, and the verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from retrain_assets.domain.metrics.intervals import estimate
from retrain_assets.domain.metrics.metrics import THRESHOLD, MetricDef, predict_class
from retrain_assets.specs.gate import GuardSpec

BINS = 10


@dataclass(frozen=True)
class GuardResult:
    """The result of one guard.

    Args:
        guard: Its name in the YAML.
        action: What failing it leads to.
        passed: Whether the candidate is within the bound.
        detail: The figures, in a few words.
    """

    guard: str
    action: Literal["warn", "block"]
    passed: bool
    detail: str

    def record(self) -> dict[str, object]:
        """Return the result as it is stored."""
        return {"said" if name == "detail" else name: value for name, value in vars(self).items()}


def check_calibration(
    spec: GuardSpec,
    target: np.ndarray,
    candidate: np.ndarray,
    production: np.ndarray,
    blocks: pl.Series,
    confidence: float,
) -> GuardResult:
    """Fail where the calibration error is shown to have grown by more than the limit.

    Args:
        spec: The limit, in the unit of the target (of a binary model, a share).
        target: Labels, of shape (rows,).
        candidate: Predictions, of shape (rows,).
        production: Predictions, of shape (rows,).
        blocks: The block of each row.
        confidence: Of the two-sided interval over blocks.
    """
    metric = MetricDef("calibration", greater_is_better=False, function=calibration_error)
    result = estimate(metric, target, candidate, production, blocks)
    _, high = result.interval(confidence)
    return GuardResult(
        "calibration",
        spec.action,
        not high < -spec.limit,
        f"calibration error {result.candidate:.3g} against {result.production:.3g} of production, "
        f"at least {max(0.0, -high):.3g} more, limit {spec.limit:g}",
    )


def calibration_error(
    target: np.ndarray,
    prediction: np.ndarray,
    weight: np.ndarray | None = None,  # noqa: ARG001 the protocol's
) -> float:
    """Return the mean distance of label and prediction over ten bins of equal size."""
    order = np.argsort(prediction, kind="stable")
    parts = np.array_split((prediction - target)[order], BINS)
    return float(sum(abs(part.sum()) for part in parts) / len(order))


def check_negative_flips(
    spec: GuardSpec,
    labels: np.ndarray,
    candidate: np.ndarray,
    production: np.ndarray,
    threshold: float | None,
) -> GuardResult:
    """Fail where too many rows that production had right are wrong now.

    Args:
        spec: The limit, a share of the rows.
        labels: As the metrics take them.
        candidate: Predictions of a classifier.
        production: Predictions, of the same shape.
        threshold: From which a binary prediction counts as 1; 0.5 by default.
    """
    cut = THRESHOLD if threshold is None else threshold
    ours, theirs = (predict_class(side, cut) == labels for side in (candidate, production))
    share = float((theirs & ~ours).mean())
    detail = f"{share:.2%} of rows that production had right are wrong now, limit {spec.limit:.2%}"
    return GuardResult("negative_flips", spec.action, share <= spec.limit, detail)


def check_explanation(spec: GuardSpec, changes: Sequence[Mapping[str, Any]]) -> GuardResult:
    """Fail where a feature is shown to move predictions by another share than in production.

    Args:
        spec: The limit, a share of the sum of the means of all features in production.
        changes: Of each feature its mean |SHAP| `now` and `before`, and the ends `low` and `high`
            of the interval of their difference, from `compare_moves`.
    """
    total = sum(change["before"] for change in changes) or 1.0

    def least(change: Mapping[str, Any]) -> float:
        return float(max(change["low"], -change["high"], 0.0) / total)

    worst = max(changes, key=least)
    detail = (
        f"mean |SHAP| of {worst['feature']} is {worst['now']:.3g}, in production "
        f"{worst['before']:.3g}; they differ by at least {least(worst):.1%} of the sum over all "
        f"features in production, limit {spec.limit:.1%}"
    )
    return GuardResult("explanation_shift", spec.action, least(worst) <= spec.limit, detail)


def check_ratio(
    name: str, spec: GuardSpec, candidate: dict[str, float], production: dict[str, float]
) -> GuardResult:
    """Fail where a cost is more than the limit times that of production.

    Args:
        name: Of the guard.
        spec: The limit, a ratio.
        candidate: Costs by what they are of, such as `one row`.
        production: The same of production.
    """
    worst = max(candidate, key=lambda of: candidate[of] / production[of])
    times = candidate[worst] / production[worst]
    detail = f"{worst}: {times:.2f} times {production[worst]:.3g} of production"
    detail += f", limit {spec.limit:g}"
    return GuardResult(name, spec.action, times <= spec.limit, detail)
