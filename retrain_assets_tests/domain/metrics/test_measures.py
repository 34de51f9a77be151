"""What the YAML of the gate says of its metric is what it judges by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import mean_pinball_loss, median_absolute_error

from retrain_assets.domain.metrics.metrics import MeasureError, get_gate_metric
from retrain_assets.specs.gate import GateSpec

LABELS = np.array([0, 0, 1, 1, 1])
CHANCE = np.array([0.1, 0.4, 0.2, 0.35, 0.9])
COST = {"false_positive": 5.0, "false_negative": 45.0}


def value(**gate: Any) -> float:
    return get_gate_metric(GateSpec.model_validate(gate)).function(LABELS, CHANCE)


def test_a_threshold_moves_what_counts_as_predicted() -> None:
    assert value(metric="accuracy") == pytest.approx(3 / 5)
    assert value(metric="accuracy", threshold=0.3) == pytest.approx(3 / 5)
    assert value(metric="f1", threshold=0.3) == pytest.approx(2 * 2 / (3 + 3))
    assert value(metric="balanced_accuracy", threshold=0.3) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert value(metric="balanced_accuracy", threshold=0.15) == pytest.approx((1 + 1 / 2) / 2)


def test_costs_are_means_in_their_currency_at_the_cheapest_threshold() -> None:
    assert value(metric="cost", cost=COST) == pytest.approx((5 + 5) / 5)  # from 0.1 on
    assert value(metric="cost", cost=COST, threshold=0.3) == pytest.approx((5 + 45) / 5)
    paid = COST | {"true_positive": -10.0}
    assert value(metric="cost", cost=paid, threshold=0.5) == pytest.approx((45 + 45 - 10) / 5)


def test_pinball_is_the_loss_of_a_quantile() -> None:
    expected = mean_pinball_loss(LABELS, CHANCE, alpha=0.9)
    assert value(metric="pinball", quantile=0.9) == pytest.approx(expected)


def test_a_metric_of_ones_own_is_called_with_labels_and_predictions() -> None:
    gate = {"metric": "python", "python": "sklearn.metrics:median_absolute_error"}
    assert value(**gate) == median_absolute_error(LABELS, CHANCE)
    assert get_gate_metric(GateSpec(**gate, greater_is_better=True)).greater_is_better


def test_a_metric_of_ones_own_that_cannot_be_used_is_named() -> None:
    with pytest.raises(MeasureError, match=r"gate.python: nowhere:at_all cannot be imported"):
        value(metric="python", python="nowhere:at_all")
    with pytest.raises(MeasureError, match=r"numpy:subtract must return one number, and returned"):
        value(metric="python", python="numpy:subtract")


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"metric": "cost"}, "`cost` and `metric: cost` go together"),
        ({"metric": "mae", "quantile": 0.5}, "`quantile` and `metric: pinball` go together"),
        ({"metric": "log_loss", "threshold": 0.4}, "not with log_loss"),
        ({"metric": "cost", "cost": COST | {"false_positive": 0.0}}, "a mistake must cost more"),
        ({"metric": "mae", "confidence": 0.9, "false_promotions_per_year": 1.0}, "give either"),
        (
            {"metric": "mae", "min_gain": 0.1, "promote_when": {"not_worse": {"margin": 0.1}}},
            "`min_gain` goes with",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_refused(gate: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        GateSpec.model_validate(gate)


def test_a_years_false_promotions_are_shared_out_to_its_gates() -> None:
    gate = GateSpec(metric="mae", false_promotions_per_year=1.0)
    # A gate a week is 52 a year: one in 52 may be promoted without being better, on one side.
    assert gate.confidence_at(364, 7) == pytest.approx(1 - 2 / 52)
    assert gate.confidence_at(364, 0) == pytest.approx(1 - 2 / 364)
    assert gate.confidence_at(4, 1) == 0.5
    assert GateSpec(metric="mae", confidence=0.8).confidence_at(364, 7) == 0.8


def test_an_f1_without_any_1_is_undefined() -> None:
    found = get_gate_metric(GateSpec(metric="f1", threshold=0.95)).function(LABELS * 0, CHANCE)
    assert math.isnan(found)
