"""The YAML of the gate: by which metric, how sure, and what else must not get worse.

Not here: computing any of it.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, model_validator

from retrain_assets.specs.base import Spec
from retrain_assets.specs.features import PYTHON_REFERENCE, Kind

Metric = Literal[
    "log_loss",
    "brier",
    "roc_auc",
    "average_precision",
    "accuracy",
    "balanced_accuracy",
    "f1",
    "mae",
    "rmse",
    "r2",
]
_OF_NUMBERS: tuple[Metric, ...] = ("mae", "rmse", "r2")
METRICS_BY_KIND: dict[Kind, tuple[Metric, ...]] = {
    "binary": tuple(name for name in get_args(Metric) if name not in _OF_NUMBERS),
    "multiclass": ("log_loss", "accuracy", "balanced_accuracy", "f1"),
    "regression": _OF_NUMBERS,
}
GateMetric = Metric | Literal["cost", "pinball", "python"]
GATE_ONLY: dict[Kind, tuple[GateMetric, ...]] = {
    "binary": ("cost", "python"),
    "multiclass": ("python",),
    "regression": ("pinball", "python"),
}
CUT = ("accuracy", "balanced_accuracy", "f1", "cost")


class CostSpec(Spec):
    """The cost of each outcome of a binary model, in any currency; a profit is a negative cost."""

    false_positive: float = Field(description="Predicted 1, was 0.")
    false_negative: float = Field(description="Predicted 0, was 1.")
    true_positive: float = Field(0.0, description="Predicted 1, was 1.")
    true_negative: float = Field(0.0, description="Predicted 0, was 0.")

    @model_validator(mode="after")
    def _mistakes_cost(self) -> CostSpec:
        if self.false_positive <= self.true_negative or self.false_negative <= self.true_positive:
            raise ValueError("a mistake must cost more than being right")
        return self

    @property
    def threshold(self) -> float:
        """The probability from which predicting 1 is the cheaper."""
        alarm = self.false_positive - self.true_negative
        return alarm / (alarm + self.false_negative - self.true_positive)


class GuardSpec(Spec):
    """A limit, and what happens if it is exceeded."""

    action: Literal["warn", "block"] = Field(
        "block", description="`block` rejects the candidate, `warn` only adds a warning."
    )
    limit: float = Field(ge=0, description="The largest value that is accepted.")


class GuardsSpec(Spec):
    """What must not get worse, compared with production, even if the metric gets better."""

    calibration: GuardSpec | None = Field(
        None, description="Growth of the calibration error, beyond its interval."
    )
    negative_flips: GuardSpec | None = Field(
        None, description="Share of rows that production predicts right and the candidate wrong."
    )
    latency: GuardSpec | None = Field(
        None, description="Time of one row and of a batch, as a multiple of production's."
    )
    size: GuardSpec | None = Field(
        None, description="Bytes of the model, as a multiple of production's."
    )
    skew: Literal["warn", "block"] | None = Field(
        None, description="A new process must predict the same for every row of the holdout."
    )


class MarginSpec(Spec):
    """How much worse a candidate may be."""

    margin: float = Field(gt=0, description="In the metric's own unit.")


class NotWorseSpec(Spec):
    """Promote a candidate that is shown to be worse by no more than a margin."""

    not_worse: MarginSpec = Field(description="The margin.")


# What a model is for, of all that the gate goes by.
OBJECTIVE = ("metric", "threshold", "cost", "quantile", "python", "greater_is_better")


class GateSpec(Spec):
    """What a candidate must show on the holdout, in order to replace production."""

    metric: GateMetric = Field(description="The metric that candidates are compared by.")
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Probability from which a binary prediction counts as 1, for `accuracy`, "
        "`balanced_accuracy`, `f1` and `cost`; by default 0.5, for `cost` the cheapest.",
    )
    cost: CostSpec | None = Field(
        None, description="For `metric: cost`, which is the mean cost of a row."
    )
    quantile: float | None = Field(
        None, gt=0, lt=1, description="For `metric: pinball`: the quantile that is predicted."
    )
    python: str | None = Field(
        None,
        pattern=PYTHON_REFERENCE,
        description="For `metric: python`: `module:function` from arrays of labels (for "
        "multiclass, their column numbers) and predictions to a number, NaN if undefined.",
    )
    greater_is_better: bool = Field(False, description="For `metric: python`.")
    promote_when: Literal["better"] | NotWorseSpec = Field(
        "better", description="`better`, or `not_worse: {margin: …}`."
    )
    confidence: float = Field(
        0.9, gt=0.5, lt=1, description="Confidence of the two-sided interval."
    )
    false_promotions_per_year: float | None = Field(
        None,
        gt=0,
        description="Instead of `confidence`: how many candidates that are no better may be "
        "promoted per year of data, if there are as many as `triggers.cooldown` allows.",
    )
    min_gain: float = Field(0.0, ge=0, description="Smallest gain that is worth a promotion.")
    min_blocks: int = Field(
        5,
        ge=2,
        description="Fewest blocks of the holdout (partitions, or `blocks` of the model).",
    )
    guards: GuardsSpec = Field(GuardsSpec(), description="What else must not get worse.")
    slices: list[str] = Field([], description="Features whose single values are compared too.")
    max_slice_loss: float = Field(
        0.1, gt=0, le=1, description="Largest relative loss on a slice, beyond its interval."
    )

    @property
    def bound(self) -> float:
        """What the interval of the gain must lie above."""
        return (
            self.min_gain if self.promote_when == "better" else -self.promote_when.not_worse.margin
        )

    @model_validator(mode="after")
    def _parts_agree(self) -> GateSpec:
        for part, metric in (("cost", "cost"), ("quantile", "pinball"), ("python", "python")):
            if (getattr(self, part) is None) == (self.metric == metric):
                raise ValueError(f"`{part}` and `metric: {metric}` go together")
        if self.threshold is not None and self.metric not in CUT:
            raise ValueError(f"`threshold` goes with {', '.join(CUT)}, not with {self.metric}")
        if self.promote_when != "better" and self.min_gain:
            raise ValueError("`min_gain` goes with `promote_when: better`")
        if self.false_promotions_per_year and "confidence" in self.model_fields_set:
            raise ValueError("give either `confidence` or `false_promotions_per_year`")
        return self

    def confidence_at(self, per_year: float, cooldown: int) -> float:
        """The confidence of each gate.

        Each gate is allowed its share of the year's false promotions; that these may depend on
        each other does not matter to how many are expected.

        Args:
            per_year: Partitions a year.
            cooldown: Least number of partitions from one gate to the next.
        """
        if self.false_promotions_per_year is None:
            return self.confidence
        level = self.false_promotions_per_year * max(cooldown, 1) / per_year
        return 1 - 2 * min(level, 0.25)
