"""The YAML of the triggering policy: which causes ask for retraining, and when they count.

The budget, from which much of it can follow, is here too.

Not here: looking at what was monitored, and deciding.
"""

from typing import Literal

from pydantic import Field

from retrain_assets.specs.base import Mistakes, Spec
from retrain_assets.specs.gate import Metric

DriftMeasure = Literal[
    "psi", "ks", "jensen_shannon", "null_share", "unseen_share", "wasserstein", "chi_squared"
]
UNBOUNDED = ("psi", "wasserstein", "chi_squared")
DRIFT = ("data_drift", "prediction_drift", "target_drift")
SIGNALS = ("performance", *DRIFT)
POINT = 0.5  # confidence at which the mean itself decides


class DriftTrigger(Spec):
    """Ask for retraining when a distribution has moved.

    Args:
        measure: The statistic compared with `threshold`.
        threshold: Statistic from which a column alerts.
        false_alarms_per_year: Instead of `threshold`: acceptable false alarms a year.
        smallest_effect: With `false_alarms_per_year`: the smallest distance of a column that
            counts, however sure it is; 0 is no change and 1 the largest.
        share: Share of columns above which the trigger fires.
        although_performance_holds: Whether it also fires while performance holds.
    """

    measure: DriftMeasure = "psi"
    threshold: float | None = Field(None, gt=0)
    false_alarms_per_year: float | None = Field(None, gt=0)
    smallest_effect: float = Field(0.05, ge=0, le=1)
    share: float = Field(0.0, ge=0, le=1)
    although_performance_holds: bool = False

    def _find_mistakes(self) -> Mistakes:
        if (self.threshold is None) == (self.false_alarms_per_year is None):
            yield "give either `threshold` or `false_alarms_per_year`"
        if self.threshold is None:
            if self.share or self.chooses("measure"):
                yield "`measure` and `share` go with `threshold` only"
        elif self.chooses("smallest_effect"):
            yield "`smallest_effect` goes with `false_alarms_per_year` only"
        elif self.measure not in UNBOUNDED and self.threshold > 1:
            yield f"threshold {self.threshold:g} is never met: {self.measure} ends at 1"


class PerformanceTrigger(Spec):
    """Ask for retraining when the metric on real labels has become worse.

    Args:
        metric: The metric that is followed.
        max_drop: Largest loss, relative to the one at promotion.
        limit: Worst value of the metric that is acceptable.
        confidence: How certain the loss must be; at 0.5 the mean decides.
        estimated: Whether estimates of the metric are used until labels come, if they were
            reliable.
    """

    metric: Metric
    max_drop: float | None = Field(None, gt=0, le=1)
    limit: float | None = None
    confidence: float = Field(POINT, ge=POINT, lt=1)
    estimated: bool = True

    def _find_mistakes(self) -> Mistakes:
        if self.max_drop is None and self.limit is None:
            yield "give `max_drop`, `limit` or both"


class ReferenceSpec(Spec):
    """The data that windows are compared with, in place of production's training window.

    Args:
        rolling: Compare with this many partitions before the window.
        first: Compare with the partitions from this one to `last`.
        last: Last partition of the reference, inclusive.
        season: Compare with earlier partitions of the same season.
    """

    rolling: int | None = Field(None, ge=1)
    first: str | None = None
    last: str | None = None
    season: Literal["month", "weekday"] | None = None

    def _find_mistakes(self) -> Mistakes:
        if (self.first is None) != (self.last is None):
            yield "`first` and `last` go together"
        if sum(part is not None for part in (self.rolling, self.first, self.season)) != 1:
            yield "give one of `rolling`, `first` with `last`, and `season`"


class LastingSpec(Spec):
    """The number of newest windows in which a signal must alert.

    Args:
        alerts: Smallest number of windows that must alert.
        of: Number of newest windows that are looked at.
    """

    alerts: int = Field(1, ge=1)
    of: int = Field(1, ge=1)

    def _find_mistakes(self) -> Mistakes:
        if self.alerts > self.of:
            yield f"alerts {self.alerts} are never met in {self.of} windows"


class BudgetSpec(Spec):
    """The cost that retraining may have; windows, cooldown and `new_partitions` follow from it.

    Args:
        fits_per_month: Number of fits that a month may have; with `for_each`, of each model. A
            field of `windows` or `triggers` that is given stays as it is.
    """

    fits_per_month: float = Field(gt=0)


class TriggersSpec(Spec):
    """The triggering policy: what asks for retraining, and when it counts.

    Args:
        data_drift: Retrain when the features have moved.
        prediction_drift: Retrain when the predictions have moved.
        target_drift: Retrain when the target has moved.
        performance: Retrain when performance has fallen.
        require: Whether any signal suffices, or all must fire.
        reference: What drift is measured against; production's training window by default.
        lasting: In how many windows a signal must alert.
        new_partitions: Retrain after this many new mature partitions.
        spec_change: Whether to retrain when the YAML or your code behind it has changed.
        cooldown: Number of new mature partitions between decisions.
        back_off: If this many candidates of a cause in a row were not promoted, the cooldown
            doubles, and again with each further one.
    """

    data_drift: DriftTrigger | None = None
    prediction_drift: DriftTrigger | None = None
    target_drift: DriftTrigger | None = None
    performance: PerformanceTrigger | None = None
    require: Literal["any", "all"] = "any"
    reference: ReferenceSpec | None = None
    lasting: LastingSpec = LastingSpec()
    new_partitions: int | None = Field(None, ge=1)
    spec_change: bool = True
    cooldown: int = Field(7, ge=0)
    back_off: int | None = Field(None, ge=1)

    @property
    def signals(self) -> tuple[str, ...]:
        """Return the names of the causes in monitored data that the YAML has."""
        return tuple(name for name in SIGNALS if getattr(self, name) is not None)
