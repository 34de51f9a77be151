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
    """Ask for retraining when a distribution has moved."""

    measure: DriftMeasure = Field("psi", description="The statistic held against `threshold`.")
    threshold: float | None = Field(None, gt=0, description="Alert at or above this.")
    false_alarms_per_year: float | None = Field(
        None,
        gt=0,
        description="Instead of a threshold: alert where windows drawn from reference and present "
        "together are as far out so rarely. The measure is then `ks` of numbers, "
        "`jensen_shannon` of categories, and `null_share`.",
    )
    share: float = Field(
        0.0, ge=0, le=1, description="Fire when more than this share of the columns alerts."
    )
    although_performance_holds: bool = Field(
        False,
        description="Fire also where the labels of the same window have come and performance is "
        "within its bounds; else drift is then noted, and nothing is asked for.",
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
    """Ask for retraining when the realised metric is worse than it was."""

    metric: Metric = Field(description="Which metric is followed.")
    max_drop: float | None = Field(
        None, gt=0, le=1, description="Largest relative loss against the promotion's evaluation."
    )
    limit: float | None = Field(None, description="Worst absolute value that is acceptable.")
    confidence: float = Field(
        0.5,
        ge=0.5,
        lt=1,
        description="How sure the fall must be, by the spread over the window's partitions; at "
        "0.5 the mean itself decides.",
    )
    estimated: bool = Field(
        True,
        description="Of a classifier: where labels are still to come, go by the metric that its "
        "calibrated probabilities promise, once that has been right before.",
    )

    @model_validator(mode="after")
    def _at_least_one(self) -> PerformanceTrigger:
        if self.max_drop is None and self.limit is None:
            raise ValueError("give `max_drop`, `limit` or both")
        return self


class ReferenceSpec(Spec):
    """What windows are held against, where it is not what production was trained on."""

    rolling: int | None = Field(None, ge=1, description="So many partitions before the window.")
    first: str | None = Field(None, description="With `last`: always these partitions.")
    last: str | None = Field(None, description="The last of them, inclusive.")
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
    """In how many of the newest windows a signal must be seen."""

    alerts: int = Field(1, ge=1, description="In at least so many.")
    of: int = Field(1, ge=1, description="Of the newest so many windows, one a partition.")

    @model_validator(mode="after")
    def _can_be_reached(self) -> LastingSpec:
        if self.alerts > self.of:
            raise ValueError(f"alerts {self.alerts} are never met in {self.of} windows")
        return self


class TriggersSpec(Spec):
    """The triggering policy: what asks for retraining, and when it counts."""

    data_drift: DriftTrigger | None = Field(None, description="Drift of the features.")
    prediction_drift: DriftTrigger | None = Field(None, description="Drift of the output.")
    target_drift: DriftTrigger | None = Field(None, description="Drift of the target.")
    performance: PerformanceTrigger | None = Field(None, description="Fall of performance.")
    require: Literal["any", "all"] = Field(
        "any", description="Whether one of these signals is enough, or all that are given."
    )
    reference: ReferenceSpec | None = Field(
        None, description="Of drift of features and target; production's training window else."
    )
    lasting: LastingSpec = Field(LastingSpec(), description="How long a signal must be seen.")
    new_partitions: int | None = Field(
        None, ge=1, description="Mature partitions since the last decision."
    )
    spec_change: bool = Field(True, description="The model's YAML or code has changed.")
    cooldown: int = Field(
        7, ge=0, description="Mature partitions that must be new since the last decision."
    )
    back_off: int | None = Field(
        None,
        ge=1,
        description="Once so many candidates in a row that a cause asked for were not promoted, "
        "its cooldown doubles with each further one.",
    )

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the causes that are given and lie in what is monitored."""
        return tuple(name for name in SIGNALS if getattr(self, name) is not None)
