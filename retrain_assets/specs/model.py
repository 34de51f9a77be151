"""The YAML of a `RetrainedModel`: what to predict, from what, when to retrain, what to promote.

Not here: fitting, Dagster, and checks that need the dataset's own spec.
"""

from __future__ import annotations

import re
from datetime import timedelta
from hashlib import sha256
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from retrain_assets.specs.base import Name, Spec

Kind = Literal["binary", "multiclass", "regression"]
DriftMeasure = Literal["psi", "ks", "jensen_shannon", "null_share", "unseen_share"]
Metric = Literal[
    "log_loss", "brier", "roc_auc", "average_precision", "accuracy", "f1", "mae", "rmse", "r2"
]
METRICS_BY_KIND: dict[Kind, tuple[Metric, ...]] = {
    "binary": ("log_loss", "brier", "roc_auc", "average_precision", "accuracy", "f1"),
    "multiclass": ("log_loss", "accuracy", "f1"),
    "regression": ("mae", "rmse", "r2"),
}
_DURATION = re.compile(r"^(\d+)([smhd])$")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
PYTHON_REFERENCE = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


def duration(text: str) -> timedelta:
    """`3h` as a timedelta; units are s, m, h, d.

    Raises:
        ValueError: The text is not a whole number followed by a unit.
    """
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration: write 90m, 3h or 2d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _let_a_bare_on_pass(schema: dict[str, Any]) -> None:
    """`dg check` holds the YAML against this schema after YAML 1.1 has made `on` a boolean."""
    schema["additionalProperties"] = True
    schema["required"].remove("on")


class LookupSpec(Spec):
    """A dataset whose columns are joined to each row, as they were known when predicting."""

    model_config = ConfigDict(json_schema_extra=_let_a_bare_on_pass)

    on: list[str] = Field(
        min_length=1, description="Columns equal in both datasets; always needed."
    )
    as_of: str | None = Field(
        None, description="Time column of both: the newest earlier row of the lookup is taken."
    )
    lag: str = Field("0s", description="How long after its time a lookup row becomes known.")
    tolerance: str | None = Field(None, description="Older lookup rows than this are not used.")
    lateness: int = Field(
        1, ge=0, description="Newer partitions of the dataset after which it is not waited for."
    )

    @model_validator(mode="before")
    @classmethod
    def _yaml_turns_on_into_true(cls, value: object) -> object:
        # YAML 1.1, which Dagster's loader speaks, reads a bare `on` as a boolean.
        if isinstance(value, dict):
            return {"on" if key is True else key: item for key, item in value.items()}
        return value

    @field_validator("lag", "tolerance")
    @classmethod
    def _is_a_duration(cls, value: str | None) -> str | None:
        if value is not None:
            duration(value)
        return value

    @model_validator(mode="after")
    def _time_options_need_as_of(self) -> LookupSpec:
        if self.as_of is None and (self.tolerance is not None or duration(self.lag)):
            raise ValueError("`lag` and `tolerance` need `as_of`")
        if self.tolerance is not None and duration(self.tolerance) < duration(self.lag):
            raise ValueError(f"tolerance {self.tolerance} is below lag {self.lag}: nothing matches")
        return self


class FeaturesSpec(Spec):
    """Features of one row after the joins, as SQL or as a Python function."""

    sql: str | None = Field(
        None, description="`SELECT … FROM rows`; lookup columns are `<lookup>_<column>`."
    )
    python: str | None = Field(
        None,
        pattern=PYTHON_REFERENCE,
        description="`module:function` from a polars frame of rows to one of features.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> FeaturesSpec:
        if (self.sql is None) == (self.python is None):
            raise ValueError("give either `sql` or `python`")
        return self


class TargetSpec(Spec):
    """The label: how it is made, and of what kind it is."""

    column: Name = Field(description="Name of the target in the features table.")
    expression: str | None = Field(
        None, description="SQL over the dataset's columns; the column itself by default."
    )
    kind: Kind = Field(description="The kind of prediction.")
    positive_share: list[float] = Field(
        [0.0, 1.0],
        min_length=2,
        max_length=2,
        description="Bounds on the share of positives in a partition (binary).",
    )

    @model_validator(mode="after")
    def _share_is_a_range(self) -> TargetSpec:
        low, high = self.positive_share
        if not 0 <= low <= high <= 1:
            raise ValueError(f"positive_share [{low:g}, {high:g}] is not a range within 0 and 1")
        return self


class DistributionSpec(Spec):
    """Where the search draws one hyper-parameter from."""

    values: list[Any] | None = Field(None, description="Draw one of these.")
    low: float | None = Field(None, allow_inf_nan=False, description="Lower end, inclusive.")
    high: float | None = Field(None, allow_inf_nan=False, description="Upper end, inclusive.")
    log: bool = Field(False, description="Draw uniformly in the logarithm.")
    whole: bool = Field(False, description="Round to a whole number.")

    @model_validator(mode="after")
    def _values_or_range(self) -> DistributionSpec:
        if self.values is not None:
            if self.low is not None or self.high is not None:
                raise ValueError("give either `values` or `low` and `high`")
            return self
        if self.low is None or self.high is None or self.low >= self.high:
            raise ValueError("`low` must be below `high`")
        if self.log and self.low <= 0:
            raise ValueError("`log` needs `low` above 0")
        return self


class SearchSpec(Spec):
    """Random search over time-ordered folds."""

    params: dict[str, DistributionSpec] = Field(min_length=1, description="By parameter name.")
    budget: int = Field(10, ge=1, le=500, description="Settings tried.")
    folds: int = Field(3, ge=2, le=20, description="Time-ordered folds a setting is judged on.")


class EstimatorSpec(Spec):
    """The scikit-learn estimator that is fitted."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    class_: str | None = Field(
        None,
        alias="class",
        pattern=r"^sklearn\.[\w.]+$",
        description="A scikit-learn class, such as `sklearn.linear_model.LogisticRegression`.",
    )
    python: str | None = Field(
        None,
        pattern=PYTHON_REFERENCE,
        description="`module:function` that returns an unfitted scikit-learn estimator.",
    )
    params: dict[str, Any] = Field({}, description="Arguments of the estimator.")
    search: SearchSpec | None = Field(None, description="Tune instead of reusing `params`.")
    threads: int = Field(1, ge=1, le=256, description="OpenMP and BLAS threads of a fit.")

    @model_validator(mode="after")
    def _exactly_one(self) -> EstimatorSpec:
        if (self.class_ is None) == (self.python is None):
            raise ValueError("give either `class` or `python`")
        return self


class WindowsSpec(Spec):
    """Window lengths, in partitions that exist."""

    train: int = Field(60, ge=1, description="Partitions a model is fitted on.")
    holdout: int = Field(14, ge=2, description="Newest partitions, on which models are compared.")
    current: int = Field(7, ge=1, description="Newest partitions, watched for drift.")


class LabelsSpec(Spec):
    """When the target can be trusted."""

    delay: int = Field(0, ge=0, description="Partitions until a row's label is final.")


class DriftTrigger(Spec):
    """Ask for retraining when a distribution has moved."""

    measure: DriftMeasure = Field("psi", description="The statistic compared.")
    threshold: float = Field(gt=0, allow_inf_nan=False, description="Alert at or above this.")
    share: float = Field(
        0.0, ge=0, le=1, description="Fire when more than this share of the columns alerts."
    )


class PerformanceTrigger(Spec):
    """Ask for retraining when the realised metric is worse than it was."""

    metric: Metric = Field(description="Which metric is followed.")
    max_drop: float | None = Field(
        None, gt=0, le=1, description="Largest relative loss against the promotion's evaluation."
    )
    limit: float | None = Field(
        None, allow_inf_nan=False, description="Worst absolute value that is acceptable."
    )

    @model_validator(mode="after")
    def _at_least_one(self) -> PerformanceTrigger:
        if self.max_drop is None and self.limit is None:
            raise ValueError("give `max_drop`, `limit` or both")
        return self


class TriggersSpec(Spec):
    """The triggering policy; any cause is enough."""

    data_drift: DriftTrigger | None = Field(None, description="Drift of the features.")
    prediction_drift: DriftTrigger | None = Field(None, description="Drift of the output.")
    target_drift: DriftTrigger | None = Field(None, description="Drift of the target.")
    performance: PerformanceTrigger | None = Field(None, description="Fall of performance.")
    new_partitions: int | None = Field(
        None, ge=1, description="Mature partitions since the last decision."
    )
    spec_change: bool = Field(True, description="The model's YAML or code has changed.")
    cooldown: int = Field(7, ge=0, description="Partitions between two decisions.")


class GateSpec(Spec):
    """What a candidate must show on the holdout to replace production."""

    metric: Metric = Field(description="The metric that decides.")
    confidence: float = Field(0.9, gt=0.5, lt=1, description="Of the two-sided interval.")
    min_gain: float = Field(0.0, ge=0, description="Least improvement worth a promotion.")
    min_blocks: int = Field(5, ge=2, description="Fewest holdout partitions to decide on.")
    slices: list[str] = Field([], description="Features whose values must not regress.")
    max_slice_loss: float = Field(
        0.1, gt=0, description="Largest relative loss of a slice, beyond its interval."
    )


class NotifySpec(Spec):
    """Who is told."""

    slack: str | None = Field(None, pattern=r"^[#@]?[\w.-]+$", description="Channel.")
    email: list[str] = Field([], description="Addresses.")


class ModelSpec(Spec):
    """One model that is kept fresh."""

    name: Name = Field(description="Group and first part of the asset keys.")
    dataset: Name = Field(description="The `LandedDataset` whose rows are predicted.")
    lookups: dict[Name, LookupSpec] = Field({}, description="Datasets joined to each row.")
    features: FeaturesSpec = Field(description="How rows become features.")
    target: TargetSpec = Field(description="What is predicted.")
    weight: str | None = Field(None, description="SQL over the dataset's columns: row weight.")
    estimator: EstimatorSpec = Field(description="What is fitted.")
    windows: WindowsSpec = Field(WindowsSpec(), description="Training, holdout, current.")
    labels: LabelsSpec = Field(LabelsSpec(), description="When labels are final.")
    triggers: TriggersSpec = Field(TriggersSpec(), description="When to retrain.")
    gate: GateSpec = Field(description="When to promote.")
    refit: bool = Field(True, description="Fit the promoted recipe again through the as-of.")
    schedule: str | None = Field(
        "0 6 * * 1",
        pattern=r"^[\d*,/A-Za-z-]+( [\d*,/A-Za-z-]+){4}$",
        description="Cron that wakes the policy; null for sensors only.",
    )
    notify: NotifySpec = Field(NotifySpec(), description="Who is told of decisions.")
    owners: list[str] = Field([], description="Owners shown in Dagster.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of everything random.")

    @property
    def features_recipe(self) -> str:
        """Digest of what determines the features table, apart from the data and the code."""
        return self._digest("dataset", "lookups", "features", "target", "weight")

    @property
    def recipe(self) -> str:
        """Digest of what determines a fitted model, apart from the data and the code."""
        fitted = self._digest("estimator", "windows", "labels", "seed", "refit")
        return sha256(f"{self.features_recipe}{fitted}".encode()).hexdigest()[:16]

    def _digest(self, *parts: str) -> str:
        text = self.model_dump_json(include=set(parts), by_alias=True)
        return sha256(text.encode()).hexdigest()[:16]

    @model_validator(mode="after")
    def _parts_agree(self) -> ModelSpec:
        offered = METRICS_BY_KIND[self.target.kind]
        chosen = {"gate.metric": self.gate.metric}
        if self.triggers.performance:
            chosen["triggers.performance.metric"] = self.triggers.performance.metric
        for where, metric in chosen.items():
            if metric not in offered:
                raise ValueError(
                    f"{where} {metric!r} does not judge a {self.target.kind} model: "
                    f"use {', '.join(offered)}"
                )
        if self.dataset in self.lookups:
            raise ValueError(f"{self.dataset} cannot be its own lookup")
        return self
