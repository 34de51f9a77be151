"""The metric the gate judges by, with what its YAML says of it: threshold, costs, own code.

Not here: metrics without parameters, and comparing two models.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from retrain_assets.domain.metrics import (
    THRESHOLD,
    Function,
    accuracy,
    balanced_accuracy,
    f1,
    mean_of,
)
from retrain_assets.domain.performance import METRICS, MetricDef
from retrain_assets.specs.gate import METRICS_BY_KIND

if TYPE_CHECKING:
    from collections.abc import Callable

    from retrain_assets.specs.features import Kind
    from retrain_assets.specs.gate import CostSpec, GateSpec
    from retrain_assets.specs.triggers import PerformanceTrigger

_CUT: dict[str, Callable[[float], Function]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
}


class MeasureError(ValueError):
    """The user's own metric cannot be used; the message says why."""


def followed(trigger: PerformanceTrigger, gate: GateSpec) -> MetricDef:
    """The metric that is followed: the gate's own where it is the same, as the baseline is too."""
    return judged_by(gate) if gate.metric == trigger.metric else METRICS[trigger.metric]


def judged_by(gate: GateSpec) -> MetricDef:
    """The metric that decides.

    Raises:
        MeasureError: `gate.python` cannot be imported.
    """
    name = gate.metric
    if name == "cost" and gate.cost is not None:
        cut = gate.cost.threshold if gate.threshold is None else gate.threshold
        return MetricDef(
            name, ("binary",), greater_is_better=False, function=mean_of(_cost(gate.cost, cut))
        )
    if name == "pinball" and gate.quantile is not None:
        return MetricDef(
            name,
            ("regression",),
            greater_is_better=False,
            function=mean_of(_pinball(gate.quantile)),
        )
    if name == "python" and gate.python is not None:
        return MetricDef(name, tuple(METRICS_BY_KIND), gate.greater_is_better, _own(gate.python))
    found = METRICS[name]  # type: ignore[index]  # the spec holds the others to their parts
    if name in _CUT and gate.threshold is not None:
        return replace(found, function=_CUT[name](gate.threshold))
    return found


def offered(kind: Kind, gate: GateSpec) -> list[MetricDef]:
    """Every metric of a kind of model, as its gate has it, and the one that decides."""
    own = judged_by(gate)
    every = [METRICS[name] for name in METRICS_BY_KIND[kind]]
    return [*(metric for metric in every if metric.name != own.name), own]


def _cost(cost: CostSpec, cut: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    by_outcome = np.array(
        [[cost.true_negative, cost.false_positive], [cost.false_negative, cost.true_positive]]
    )
    return lambda target, prediction: by_outcome[
        (target > THRESHOLD).astype(int), (prediction >= cut).astype(int)
    ]


def _pinball(quantile: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda target, prediction: np.maximum(
        quantile * (target - prediction), (quantile - 1) * (target - prediction)
    )


def _own(reference: str) -> Function:
    module, _, name = reference.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise MeasureError(f"gate.python: {reference} cannot be imported: {error}") from error

    def metric(
        target: np.ndarray,
        prediction: np.ndarray,
        weight: np.ndarray | None = None,  # noqa: ARG001 the protocol's
    ) -> float:
        value = function(target, prediction)
        if not np.isscalar(value):
            raise MeasureError(f"gate.python: {reference} gave {type(value).__name__}, no number")
        return float(value)  # type: ignore[arg-type]

    return metric
