"""The YAML of the gate: by which metric a candidate is judged, how surely, and what else counts.

Not here: computing metrics, and judging candidates.
"""

import math
from typing import Literal, get_args

from pydantic import Field

from retrain_assets.specs.base import Mistakes, Spec
from retrain_assets.specs.features import PYTHON_REFERENCE, Kind

_Regression = Literal["mae", "rmse", "r2"]
_Binary = Literal[
    "log_loss", "brier", "roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1"
]
Metric = Literal[_Binary, _Regression]
METRICS_BY_KIND: dict[Kind, tuple[Metric, ...]] = {
    "binary": get_args(_Binary),
    "multiclass": ("log_loss", "accuracy", "balanced_accuracy", "f1"),
    "regression": get_args(_Regression),
}
GateMetric = Literal[Metric, "cost", "pinball", "python"]
GATE_ONLY: dict[Kind, tuple[GateMetric, ...]] = {
    "binary": ("cost", "python"),
    "multiclass": ("python",),
    "regression": ("pinball", "python"),
}
CUT = ("accuracy", "balanced_accuracy", "f1", "cost")
ERRORS = ("log_loss", "brier", "mae", "rmse", "pinball", "cost", "python")  # the rest end at 1
WORTH = 0.005  # of the loss: the smallest improvement that is worth a promotion by default


class CostSpec(Spec):
    """The cost of each outcome of a binary model, in any one currency. A gain is negative.

    Args:
        false_positive: Cost of predicting 1 where the label is 0.
        false_negative: Cost of predicting 0 where the label is 1.
        true_positive: Cost of predicting 1 where the label is 1.
        true_negative: Cost of predicting 0 where the label is 0.
    """

    false_positive: float
    false_negative: float
    true_positive: float = 0.0
    true_negative: float = 0.0

    def _find_mistakes(self) -> Mistakes:
        if self.false_positive <= self.true_negative or self.false_negative <= self.true_positive:
            yield "a mistake must cost more than being right"

    @property
    def threshold(self) -> float:
        """Return the probability from which predicting 1 is cheaper."""
        alarm = self.false_positive - self.true_negative
        return alarm / (alarm + self.false_negative - self.true_positive)


class GuardSpec(Spec):
    """A bound, and what happens when it is exceeded.

    Args:
        action: `block` refuses the candidate; `warn` only reports the excess.
        limit: The largest value that is accepted.
    """

    action: Literal["warn", "block"] = "block"
    limit: float = Field(ge=0)


class GuardsSpec(Spec):
    """Bounds on what a better candidate may cost, compared with production.

    Args:
        calibration: Bound on the growth of the calibration error beyond its interval.
        negative_flips: Bound on the share of rows that only the candidate predicts wrong.
        latency: Bound on the time to predict, as a multiple of production's.
        size: Bound on the size, as a multiple of production's.
        explanation_shift: Bound on how far the mean |SHAP| of a feature may move, as a share of
            all that moves production.
        skew: What to do if the candidate, loaded in a new process, predicts other values.
    """

    calibration: GuardSpec | None = None
    negative_flips: GuardSpec | None = None
    latency: GuardSpec | None = None
    size: GuardSpec | None = None
    # Left out if it is not set, so that gates from before it existed keep their digest.
    explanation_shift: GuardSpec | None = Field(None, exclude_if=lambda value: value is None)
    skew: Literal["warn", "block"] | None = None


class MarginSpec(Spec):
    """A loss that still counts as not worse.

    Args:
        margin: The acceptable loss, in the unit of the metric.
    """

    margin: float = Field(gt=0)


class NotWorseSpec(Spec):
    """Promote a candidate that is shown to be worse by no more than a margin.

    Args:
        not_worse: How much worse still counts as not worse.
    """

    not_worse: MarginSpec


# The fields of the gate that say what a model is for.
OBJECTIVE = ("metric", "threshold", "cost", "quantile", "python", "greater_is_better")


class GateSpec(Spec):
    """The evidence on the holdout that a candidate needs to replace production.

    Args:
        metric: The metric that decides.
        threshold: Probability from which a prediction counts as 1; by default 0.5, or with `cost`
            the cheapest one.
        cost: With `metric: cost`: the costs whose mean is compared.
        quantile: With `metric: pinball`: the predicted quantile.
        python: With `metric: python`: `module:function` of arrays.
        greater_is_better: With `metric: python`: whether greater is better.
        promote_when: `better`; `unless_worse` promotes what is not shown to be worse; `not_worse`
            promotes what is shown not to be worse by more than a margin.
        confidence: Confidence of the interval of the gain.
        false_promotions_per_year: Instead of `confidence`: acceptable false promotions a year.
        min_gain: Smallest improvement worth a promotion, in the unit of the metric; by default
            0.5 % of production's loss.
        min_blocks: Smallest number of blocks in the holdout to decide on.
        guards: What else must not get worse.
        slices: Features by whose values the metric must not get worse.
        max_slice_loss: Largest relative loss in a slice; a larger one counts if its interval
            excludes zero.
    """

    metric: GateMetric
    threshold: float | None = Field(None, gt=0, lt=1)
    cost: CostSpec | None = None
    quantile: float | None = Field(None, gt=0, lt=1)
    python: str | None = Field(None, pattern=PYTHON_REFERENCE)
    greater_is_better: bool = False
    promote_when: Literal["better", "unless_worse"] | NotWorseSpec = "better"
    confidence: float = Field(0.9, gt=0.5, lt=1)
    false_promotions_per_year: float | None = Field(None, gt=0)
    min_gain: float | None = Field(None, ge=0)
    min_blocks: int = Field(5, ge=2)
    guards: GuardsSpec = GuardsSpec()
    slices: list[str] = Field([])
    max_slice_loss: float = Field(0.1, gt=0, le=1)

    def get_bound(self, loss: float) -> float:
        """Return the bound that the interval of the gain must lie above.

        Args:
            loss: Of what the candidate is compared with.
        """
        if self.promote_when == "unless_worse":
            return -math.inf
        if isinstance(self.promote_when, NotWorseSpec):
            return -self.promote_when.not_worse.margin
        return WORTH * loss if self.min_gain is None else self.min_gain

    def get_loss(self, value: float) -> float:
        """Return how far a value of the metric is from the best one."""
        return abs(value if self.metric in ERRORS else 1 - value)

    def _find_mistakes(self) -> Mistakes:
        for part, metric in (("cost", "cost"), ("quantile", "pinball"), ("python", "python")):
            if (getattr(self, part) is None) == (self.metric == metric):
                yield f"`{part}` and `metric: {metric}` go together"
        if self.threshold is not None and self.metric not in CUT:
            yield f"`threshold` goes with {', '.join(CUT)}, not with {self.metric}"
        if self.promote_when != "better" and self.min_gain:
            yield "`min_gain` goes with `promote_when: better`"
        if self.false_promotions_per_year and self.promote_when == "unless_worse":
            yield (
                "`false_promotions_per_year` does not go with `promote_when: unless_worse`, which "
                "promotes what may be no better: give `confidence`"
            )
        if self.false_promotions_per_year and self.chooses("confidence"):
            yield "give either `confidence` or `false_promotions_per_year`"

    def confidence_at(self, per_year: float, cooldown: int) -> float:
        """Return the confidence of each gate.

        Each gate gets its share of the year's false promotions. Gates may depend on each other,
        since that does not change how many false promotions are expected.

        Args:
            per_year: Number of partitions in a year.
            cooldown: Smallest number of partitions from one gate to the next.
        """
        if self.false_promotions_per_year is None:
            return self.confidence
        level = self.false_promotions_per_year * max(cooldown, 1) / per_year
        return 1 - 2 * min(level, 0.25)
