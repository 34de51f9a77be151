"""The YAML of the triggering policy: which causes ask for retraining, and when they count.

Not here: looking at what was monitored, and deciding.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from retrain_assets.specs.base import Spec
from retrain_assets.specs.gate import Metric

DriftMeasure = Literal[
    "psi", "ks", "jensen_shannon", "null_share", "unseen_share", "wasserstein", "chi_squared"
]
UNBOUNDED = ("psi", "wasserstein", "chi_squared")
SIGNALS = ("performance", "data_drift", "prediction_drift", "target_drift")
POINT = 0.5  # confidence at which the mean itself decides


class DriftTrigger(Spec):
    """Retrain when a distribution has changed."""

    measure: DriftMeasure = Field(
        "psi", description="The measure that is compared with `threshold`."
    )
    threshold: float | None = Field(None, gt=0, description="A column alerts at or above this.")
    false_alarms_per_year: float | None = Field(
        None,
        gt=0,
        description="Instead of a threshold: alert if chance alone gives so large a difference no "
        "more often than this. The measures are then `ks` for numbers, `jensen_shannon` for "
        "categories, and `null_share`.",
    )
    share: float = Field(
        0.0, ge=0, le=1, description="Fire if more than this share of the columns alerts."
    )
    although_performance_holds: bool = Field(
        False,
        description="Fire even if the labels of the same window show that performance holds; "
        "otherwise such drift is only recorded.",
    )

    @model_validator(mode="after")
    def _can_be_reached(self) -> DriftTrigger:
        if (self.threshold is None) == (self.false_alarms_per_year is None):
            raise ValueError("give either `threshold` or `false_alarms_per_year`")
        if self.threshold is None:
            if self.share or "measure" in self.model_fields_set:
                raise ValueError("`measure` and `share` go with `threshold` only")
        elif self.measure not in UNBOUNDED and self.threshold > 1:
            raise ValueError(f"threshold {self.threshold:g} is never met: {self.measure} ends at 1")
        return self


class PerformanceTrigger(Spec):
    """Retrain when performance is worse than at the promotion."""

    metric: Metric = Field(description="The metric that is monitored.")
    max_drop: float | None = Field(
        None, gt=0, le=1, description="Largest relative loss since the evaluation at the promotion."
    )
    limit: float | None = Field(None, description="Worst value that is acceptable.")
    confidence: float = Field(
        0.5,
        ge=0.5,
        lt=1,
        description="How sure the fall must be, given the spread over the window's partitions; at "
        "0.5 the mean alone decides.",
    )
    estimated: bool = Field(
        True,
        description="For classifiers: while labels are missing, use the metric estimated from "
        "calibrated probabilities, if earlier estimates were accurate.",
    )

    @model_validator(mode="after")
    def _at_least_one(self) -> PerformanceTrigger:
        if self.max_drop is None and self.limit is None:
            raise ValueError("give `max_drop`, `limit` or both")
        return self


class ReferenceSpec(Spec):
    """What windows are compared with, if not with production's training window."""

    rolling: int | None = Field(None, ge=1, description="This many partitions before the window.")
    first: str | None = Field(None, description="With `last`: always the partitions from here on.")
    last: str | None = Field(None, description="The last of these, inclusive.")
    season: Literal["month", "weekday"] | None = Field(
        None, description="All earlier partitions of the same months, or days of the week."
    )

    @model_validator(mode="after")
    def _is_one(self) -> ReferenceSpec:
        if (self.first is None) != (self.last is None):
            raise ValueError("`first` and `last` go together")
        if sum(given is not None for given in (self.rolling, self.first, self.season)) != 1:
            raise ValueError("give one of `rolling`, `first` with `last`, and `season`")
        return self


class LastingSpec(Spec):
    """In how many of the newest windows a signal must fire."""

    alerts: int = Field(1, ge=1, description="In at least this many windows.")
    of: int = Field(1, ge=1, description="Of this many newest windows; each partition ends one.")

    @model_validator(mode="after")
    def _can_be_reached(self) -> LastingSpec:
        if self.alerts > self.of:
            raise ValueError(f"alerts {self.alerts} are never met in {self.of} windows")
        return self


class TriggersSpec(Spec):
    """When to retrain."""

    data_drift: DriftTrigger | None = Field(None, description="Drift of the features.")
    prediction_drift: DriftTrigger | None = Field(None, description="Drift of the predictions.")
    target_drift: DriftTrigger | None = Field(None, description="Drift of the target.")
    performance: PerformanceTrigger | None = Field(None, description="Fall of performance.")
    require: Literal["any", "all"] = Field(
        "any",
        description="Whether `any` of these signals is enough, or `all` that are set must fire.",
    )
    reference: ReferenceSpec | None = Field(
        None,
        description="For drift of features and target; by default production's training window.",
    )
    lasting: LastingSpec = Field(
        LastingSpec(), description="In how many windows a signal must fire."
    )
    new_partitions: int | None = Field(
        None, ge=1, description="This many mature partitions since the last decision."
    )
    spec_change: bool = Field(
        True, description="The YAML, or your code behind a `python:` field, has changed."
    )
    cooldown: int = Field(
        7, ge=0, description="Wait for this many new mature partitions after a decision."
    )
    back_off: int | None = Field(
        None,
        ge=1,
        description="When this many candidates in a row from one cause were not promoted, its "
        "cooldown doubles, and again with each further one.",
    )

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the causes that are given and lie in what is monitored."""
        return tuple(name for name in SIGNALS if getattr(self, name) is not None)
