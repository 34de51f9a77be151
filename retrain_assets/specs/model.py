"""The YAML of a `RetrainedModel`: what to predict, from what, when to retrain, what to promote.

Not here: fitting, Dagster, and checks that need the dataset's own spec.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Literal

from pydantic import ConfigDict, Field, PositiveInt, model_validator

from retrain_assets.specs.base import Name, NamedSpec, Spec
from retrain_assets.specs.features import (
    PYTHON_REFERENCE,
    FeaturesSpec,
    LookupSpec,
    TargetSpec,
)
from retrain_assets.specs.gate import GATE_ONLY, METRICS_BY_KIND, OBJECTIVE, GateSpec
from retrain_assets.specs.notify import NotifySpec
from retrain_assets.specs.triggers import POINT, TriggersSpec


class DistributionSpec(Spec):
    """The distribution from which the search draws one hyper-parameter."""

    values: list[Any] | None = Field(None, min_length=1, description="Draw one of these.")
    low: float | None = Field(None, description="Lower end, inclusive.")
    high: float | None = Field(None, description="Upper end, inclusive.")
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
    """Random search for hyper-parameters, over folds in the order of time."""

    params: dict[str, DistributionSpec] = Field(
        min_length=1, description="The distribution of each hyper-parameter."
    )
    budget: int = Field(10, ge=1, le=500, description="Number of settings that are tried.")
    folds: int = Field(3, ge=2, le=20, description="Number of folds.")


class EstimatorSpec(Spec):
    """The scikit-learn estimator that is fitted."""

    model_config = ConfigDict(populate_by_name=True)

    class_: str | None = Field(
        None,
        alias="class",
        pattern=r"^sklearn(\.[A-Za-z_][A-Za-z0-9_]*){2,}$",
        description="A scikit-learn class, such as `sklearn.linear_model.LogisticRegression`.",
    )
    python: str | None = Field(
        None,
        pattern=PYTHON_REFERENCE,
        description="`module:function` that returns an unfitted scikit-learn estimator.",
    )
    params: dict[str, Any] = Field({}, description="Arguments of the estimator.")
    search: SearchSpec | None = Field(
        None, description="Search for hyper-parameters at each training."
    )
    threads: int = Field(1, ge=1, le=256, description="OpenMP and BLAS threads of a fit.")

    @model_validator(mode="after")
    def _exactly_one(self) -> EstimatorSpec:
        if (self.class_ is None) == (self.python is None):
            raise ValueError("give either `class` or `python`")
        return self


class WindowsSpec(Spec):
    """Lengths of the windows, counted in partitions that exist."""

    train: int = Field(60, ge=1, description="Partitions that a model is fitted on.")
    also: list[PositiveInt] = Field(
        [],
        max_length=5,
        description="Further, shorter training windows, each with a candidate of its own. The gate "
        "promotes the best that passes, and asks each for a higher confidence.",
    )
    holdout: int = Field(14, ge=1, description="Newest partitions, on which models are compared.")
    current: int = Field(7, ge=1, description="Newest partitions, which are monitored.")

    @model_validator(mode="after")
    def _others_are_shorter(self) -> WindowsSpec:
        if len({*self.also}) < len(self.also) or max(self.also, default=0) >= self.train:
            raise ValueError(f"`also` holds different windows, each below `train` ({self.train})")
        return self


class LabelsSpec(Spec):
    """When the target can be trusted."""

    delay: int = Field(
        0, ge=0, description="Newer partitions after which the label of a row is final."
    )


class OutliersSpec(Spec):
    """Rows with unusual features, by an isolation forest on production's training window."""

    rate: float = Field(
        0.001, gt=0, lt=0.5, description="Share of the training rows that counts as unusual."
    )
    max_share: float = Field(
        0.02, ge=0, le=1, description="Above this share in a partition, the check warns."
    )
    action: Literal["flag", "quarantine"] = Field(
        "flag", description="`flag` marks the rows; `quarantine` also keeps them out of training."
    )


class ExcludedSpec(Spec):
    """Partitions known to be bad, such as an outage: not used for training or as reference."""

    first: str = Field(description="First partition left out.")
    last: str = Field(description="Last partition left out, inclusive.")
    reason: str = Field(min_length=1, max_length=200, description="Why; shown in history.")

    @model_validator(mode="after")
    def _is_a_range(self) -> ExcludedSpec:
        if self.last < self.first:
            raise ValueError(f"last {self.last!r} is before first {self.first!r}")
        return self


class ModelSpec(NamedSpec):
    """One model, and the rules by which it is retrained."""

    dataset: Name = Field(description="The `LandedDataset` whose rows are predicted.")
    lookups: dict[Name, LookupSpec] = Field({}, description="Datasets joined to each row.")
    features: FeaturesSpec = Field(description="How rows become features.")
    target: TargetSpec = Field(description="What is predicted.")
    weight: str | None = Field(None, description="SQL over the dataset's columns: row weight.")
    estimator: EstimatorSpec = Field(description="What is fitted.")
    windows: WindowsSpec = Field(
        WindowsSpec(), description="Lengths of training window, holdout and current window."
    )
    exclude: list[ExcludedSpec] = Field([], description="Partitions known to be bad.")
    blocks: str | None = Field(
        None,
        description="SQL over the columns of the dataset that names the block of a row, if there "
        "are too few partitions for an interval; by default the partition.",
    )
    outliers: OutliersSpec | None = Field(None, description="Which rows have unusual features.")
    labels: LabelsSpec = Field(LabelsSpec(), description="When labels are final.")
    triggers: TriggersSpec = Field(TriggersSpec(), description="When to retrain.")
    gate: GateSpec = Field(description="When to promote.")
    approval: Literal["auto", "manual"] = Field(
        "auto", description="With `manual`, what passes the gate waits for `retrain approve`."
    )
    watch: Literal["auto", "notify", "off"] = Field(
        "notify",
        description="If newer data show that the version before production is better: `auto` rolls "
        "back to it, `notify` sends a message.",
    )
    refit: bool = Field(True, description="After PROMOTE, fit again through the as-of.")
    schedule: str | None = Field(
        "0 6 * * 1",
        pattern=r"^[\d*,/A-Za-z-]+( [\d*,/A-Za-z-]+){4}$",
        description="Cron schedule that also applies the triggers; null: only sensors.",
    )
    notify: NotifySpec = Field(NotifySpec(), description="Who receives messages about decisions.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of everything random.")

    @property
    def looked_back(self) -> int:
        """Partitions that what is monitored with one looks at: its window, and that of labels."""
        return self.windows.current + self.labels.delay

    @property
    def features_recipe(self) -> str:
        """Digest of what determines the features table, apart from the data and the code."""
        parts = ("dataset", "lookups", "features", "target", "weight", "blocks", "outliers")
        return self._digest(*parts)

    @property
    def recipe(self) -> str:
        """Digest of what determines a model and what it is for, apart from the data and the code.

        The gate's metric is of it, since another objective may want another model.
        """
        fitted = self._digest("estimator", "windows", "labels", "seed", "refit", "exclude")
        wanted = self.gate.model_dump_json(include=set(OBJECTIVE), by_alias=True)
        return sha256(f"{self.features_recipe}{fitted}{wanted}".encode()).hexdigest()[:16]

    def _digest(self, *parts: str) -> str:
        text = self.model_dump_json(include=set(parts), by_alias=True)
        return sha256(text.encode()).hexdigest()[:16]

    @model_validator(mode="after")
    def _parts_agree(self) -> ModelSpec:
        kind, watched = self.target.kind, self.triggers.performance
        judging: tuple[str, ...] = METRICS_BY_KIND[kind]
        chosen = [("gate.metric", self.gate.metric, (*judging, *GATE_ONLY[kind]))]
        if watched:
            chosen.append(("triggers.performance.metric", watched.metric, judging))
        if self.gate.threshold is not None and kind != "binary":
            raise ValueError("gate.threshold: only a binary model has one: leave it out")
        if self.gate.guards.negative_flips is not None and kind == "regression":
            raise ValueError("gate.guards.negative_flips: not of a regression: leave it out")
        if self.gate.guards.calibration is not None and kind == "multiclass":
            raise ValueError("gate.guards.calibration: not of multiclass: leave it out")
        for where, metric, offered in chosen:
            if metric not in offered:
                raise ValueError(
                    f"{where}: {metric!r} does not judge a {kind} model: use {', '.join(offered)}"
                )
        if watched and watched.confidence > POINT and self.windows.current == 1:
            raise ValueError(
                "triggers.performance.confidence: a window of one partition has no spread: raise "
                "windows.current, or leave it out"
            )
        if self.dataset in self.lookups:
            raise ValueError(f"lookups.{self.dataset}: a dataset cannot be its own lookup")
        return self
