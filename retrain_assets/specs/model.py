"""The YAML of a `RetrainedModel`: what to predict, from what, when to retrain, what to promote.

The policies that `retrain replay` tries in place of the model's own are here too.
Not here: fitting, Dagster, and checks that need the spec of the dataset.
"""

import math
from hashlib import sha256
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, PositiveInt, model_validator

from retrain_assets.specs.base import Name, NamedSpec, Spec
from retrain_assets.specs.features import PYTHON_REFERENCE, FeaturesSpec, LookupSpec, TargetSpec
from retrain_assets.specs.gate import GATE_ONLY, METRICS_BY_KIND, OBJECTIVE, GateSpec
from retrain_assets.specs.notify import NotifySpec
from retrain_assets.specs.triggers import POINT, TriggersSpec

CALENDARS = (1, 7, 14, 28)
AS_IT_IS, NEVER = "as it is", "never"


class DistributionSpec(Spec):
    """The values that the search draws one hyper-parameter from."""

    values: list[Any] | None = Field(
        None, min_length=1, description="The values, one of which is drawn."
    )
    low: float | None = Field(None, description="Lower end of the range, inclusive.")
    high: float | None = Field(None, description="Upper end of the range, inclusive.")
    log: bool = Field(False, description="Whether to draw uniformly in the logarithm.")
    whole: bool = Field(False, description="Whether to draw whole numbers only.")

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.values is not None:
            if self.low is not None or self.high is not None:
                raise ValueError("give either `values` or `low` and `high`")
            return self
        if self.low is None or self.high is None or self.low >= self.high:
            raise ValueError("`low` must be below `high`")
        if self.log and self.low <= 0:
            raise ValueError("`log` needs `low` above 0")
        if self.whole and math.ceil(self.low) > math.floor(self.high):
            raise ValueError("`whole` needs a whole number between `low` and `high`")
        return self


class SearchSpec(Spec):
    """A search for hyper-parameters by optuna's TPE sampler over time-ordered folds."""

    params: dict[str, DistributionSpec] = Field(
        min_length=1, description="What to draw from, by name of the parameter."
    )
    budget: int = Field(10, ge=1, le=500, description="Number of settings that are tried.")
    folds: int = Field(
        3, ge=2, le=20, description="Number of time-ordered folds that judge a setting."
    )


class EstimatorSpec(Spec):
    """The scikit-learn estimator that is fitted."""

    model_config = ConfigDict(populate_by_name=True)

    class_: str | None = Field(
        None,
        alias="class",
        pattern="^sklearn(\\.[A-Za-z_][A-Za-z0-9_]*){2,}$",
        description="A class, such as `sklearn.svm.SVC`.",
    )
    python: str | None = Field(
        None,
        pattern=PYTHON_REFERENCE,
        description="`module:function` that returns an unfitted estimator.",
    )
    params: dict[str, Any] = Field({}, description="Arguments of the class or function.")
    search: SearchSpec | None = Field(
        None, description="Search at each training; `params` are tried first."
    )
    threads: int = Field(
        1, ge=1, le=256, description="Number of OpenMP and BLAS threads that a fit may use."
    )

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.class_ is None) == (self.python is None):
            raise ValueError("give either `class` or `python`")
        return self


class WindowsSpec(Spec):
    """Lengths of windows, in partitions that exist."""

    train: int = Field(60, ge=1, description="Number of partitions that a model is fitted on.")
    also: list[PositiveInt] = Field(
        [],
        max_length=5,
        description="Shorter training windows, each of which makes one more candidate.",
    )
    holdout: int = Field(
        14, ge=1, description="Number of newest partitions, on which models are compared."
    )
    current: int = Field(
        7, ge=1, description="Number of newest partitions that are watched for drift."
    )

    @model_validator(mode="after")
    def _check_also(self) -> Self:
        if len({*self.also}) < len(self.also) or max(self.also, default=0) >= self.train:
            raise ValueError(f"`also` holds different windows, each below `train` ({self.train})")
        return self


class LabelsSpec(Spec):
    """The time after which the target can be trusted."""

    delay: int = Field(
        0, ge=0, description="Number of later partitions after which a label is final."
    )


class OutliersSpec(Spec):
    """Rows whose features lie far out, by an isolation forest on production's training window."""

    rate: float = Field(
        0.001, gt=0, lt=0.5, description="Share of the training rows that counts as far out."
    )
    max_share: float = Field(
        0.02, ge=0, le=1, description="Above this share of rows, the check warns."
    )
    action: Literal["flag", "quarantine"] = Field(
        "flag", description="`flag` marks the rows; `quarantine` also keeps them out of training."
    )


class ExcludedSpec(Spec):
    """Partitions known to be bad, such as an outage: neither trained on nor a reference."""

    first: str = Field(description="First partition left out.")
    last: str = Field(description="Last partition left out, inclusive.")
    reason: str = Field(
        min_length=1, max_length=200, description="The reason, which the history shows."
    )

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.last < self.first:
            raise ValueError(f"last {self.last!r} is before first {self.first!r}")
        return self


class ModelSpec(NamedSpec):
    """One model that is kept fresh."""

    dataset: Name = Field(description="The `LandedDataset` whose rows are predicted.")
    lookups: dict[Name, LookupSpec] = Field(
        {}, description="Datasets that are joined to each row, by name."
    )
    features: FeaturesSpec = Field(description="How rows become features.")
    target: TargetSpec = Field(description="What is predicted.")
    weight: str | None = Field(
        None, description="SQL over the dataset's columns that gives the weight of a row."
    )
    estimator: EstimatorSpec = Field(description="The estimator that is fitted.")
    windows: WindowsSpec = Field(WindowsSpec(), description="Lengths of the windows.")
    exclude: list[ExcludedSpec] = Field([], description="Partitions that are known to be bad.")
    blocks: str | None = Field(
        None, description="SQL that names the block of a row, for intervals; partitions by default."
    )
    outliers: OutliersSpec | None = Field(None, description="How rows that lie far out are found.")
    labels: LabelsSpec = Field(LabelsSpec(), description="When labels are final.")
    triggers: TriggersSpec = Field(TriggersSpec(), description="When to retrain.")
    gate: GateSpec = Field(description="When to promote a candidate.")
    approval: Literal["auto", "manual"] = Field(
        "auto", description="`manual` lets a candidate that passes wait for `retrain approve`."
    )
    watch: Literal["auto", "notify", "off"] = Field(
        "notify",
        description="What to do when the version before is better: `auto` rolls back to it.",
    )
    refit: bool = Field(
        True, description="Whether a promoted model is fitted again with the holdout."
    )
    schedule: str | None = Field(
        "0 6 * * 1",
        pattern="^[\\d*,/A-Za-z-]+( [\\d*,/A-Za-z-]+){4}$",
        description="Cron schedule on which the triggers are evaluated; null for never.",
    )
    notify: NotifySpec = Field(NotifySpec(), description="Who is told of decisions.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of all random numbers.")

    @property
    def monitoring_span(self) -> int:
        """Return how many partitions the monitoring of one looks at: its window, and labels."""
        return self.windows.current + self.labels.delay

    @property
    def features_recipe(self) -> str:
        """Return a digest of what determines the features table, apart from data and code."""
        parts = ("dataset", "lookups", "features", "target", "weight", "blocks", "outliers")
        return self._digest(*parts)

    @property
    def recipe(self) -> str:
        """Return a digest of what determines a model and its purpose, apart from data and code.

        The metric of the gate is part of it, since another objective may need another model.
        """
        fit = self._digest("estimator", "windows", "labels", "seed", "refit", "exclude")
        objective = self.gate.model_dump_json(include=set(OBJECTIVE), by_alias=True)
        return sha256(f"{self.features_recipe}{fit}{objective}".encode()).hexdigest()[:16]

    def _digest(self, *parts: str) -> str:
        text = self.model_dump_json(include=set(parts), by_alias=True)
        return sha256(text.encode()).hexdigest()[:16]

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        kind, trigger = self.target.kind, self.triggers.performance
        offered: tuple[str, ...] = METRICS_BY_KIND[kind]
        metrics = [("gate.metric", self.gate.metric, (*offered, *GATE_ONLY[kind]))]
        if trigger:
            metrics.append(("triggers.performance.metric", trigger.metric, offered))
        if self.gate.threshold is not None and kind != "binary":
            raise ValueError("gate.threshold: only a binary model has one: leave it out")
        if self.gate.guards.negative_flips is not None and kind == "regression":
            raise ValueError("gate.guards.negative_flips: not of a regression: leave it out")
        if self.gate.guards.calibration is not None and kind == "multiclass":
            raise ValueError("gate.guards.calibration: not of multiclass: leave it out")
        for field, metric, names in metrics:
            if metric not in names:
                raise ValueError(
                    f"{field}: {metric!r} does not judge a {kind} model: use {', '.join(names)}"
                )
        if trigger and trigger.confidence > POINT and self.windows.current == 1:
            raise ValueError(
                "triggers.performance.confidence: a window of one partition has no spread: raise "
                "windows.current, or leave it out"
            )
        if self.dataset in self.lookups:
            raise ValueError(f"lookups.{self.dataset}: a dataset cannot be its own lookup")
        return self


class PolicySpec(Spec):
    """A policy to replay: parts of the model's YAML that replace its own."""

    name: str = Field(min_length=1, max_length=60, description="Name of the policy.")
    every: int | None = Field(
        None,
        ge=1,
        description="Instead of triggers and gate: fit and serve after this many partitions.",
    )
    triggers: TriggersSpec | None = Field(None, description="Triggers in place of the model's.")
    gate: GateSpec | None = Field(None, description="Gate in place of the model's.")
    windows: WindowsSpec | None = Field(None, description="Windows in place of the model's.")
    refit: bool | None = Field(None, description="Value of `refit` in place of the model's.")

    @property
    def parts(self) -> dict[str, Any]:
        """Return the parts that are replaced, as they are written in YAML."""
        return self.model_dump(
            by_alias=True, exclude_unset=True, exclude={"name", "every"}, exclude_none=True
        )

    def of(self, model: ModelSpec) -> ModelSpec:
        """Return the model under this policy, which promotes without anybody's approval."""
        fields = model.model_dump(by_alias=True) | {"approval": "auto"}
        return ModelSpec.model_validate(fields | self.parts)


def usual_policies(model: ModelSpec) -> list[PolicySpec]:
    """Return the model's own policy, policies near it, and simple ones to compare it with.

    The simple ones are: never retrain, and retrain after so many partitions whatever happens.
    """
    own = model.triggers
    near = {
        f"new_partitions: {n}": own.model_copy(update={"new_partitions": n, "cooldown": n})
        for n in CALENDARS[1:]
    }
    if own.performance is not None and own.performance.max_drop is not None:
        for factor in (0.25, 0.5, 2.0):
            drop = round(min(1.0, own.performance.max_drop * factor), 4)
            performance = own.performance.model_copy(update={"max_drop": drop})
            near[f"max_drop: {drop:g}"] = own.model_copy(update={"performance": performance})
    return [
        PolicySpec(name=AS_IT_IS),
        *(PolicySpec(name=name, triggers=triggers) for name, triggers in near.items()),
        PolicySpec(name=NEVER, triggers=TriggersSpec()),
        *(PolicySpec(name=f"every {n}", every=n) for n in CALENDARS),
    ]
