"""The YAML of a `RetrainedModel`: what to predict, from what, when to retrain, what to promote.

The policies that `retrain replay` tries in place of the model's own are here too.
Not here: fitting, Dagster, and checks that need the spec of the dataset.
"""

import json
import math
import re
import sys
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Literal

from pydantic import Field, PositiveInt

from retrain_assets.specs.adapt import AdaptMode, AdaptSpec, choose_mode
from retrain_assets.specs.base import Mistakes, Name, NamedSpec, Spec
from retrain_assets.specs.features import PYTHON_REFERENCE, FeaturesSpec, LookupSpec, TargetSpec
from retrain_assets.specs.gate import GATE_ONLY, METRICS_BY_KIND, OBJECTIVE, GateSpec
from retrain_assets.specs.notify import NotifySpec
from retrain_assets.specs.resources import ResourcesSpec
from retrain_assets.specs.segments import ForEachSpec, SegmentSpec, share_budget
from retrain_assets.specs.triggers import DRIFT, POINT, BudgetSpec, TriggersSpec

CALENDARS, ADAPTED = (1, 7, 14, 28), (7, 28)
AS_IT_IS, NEVER = "as it is", "never"
_DOTTED = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+"
NO_QUANTILES = "the adaptive layer predicts means, and no quantiles: leave out `adapt`"


class DistributionSpec(Spec):
    """The values that the search draws one hyper-parameter from.

    Args:
        values: The values, one of which is drawn.
        low: Lower end of the range, inclusive.
        high: Upper end of the range, inclusive.
        log: Whether to draw uniformly in the logarithm.
        whole: Whether to draw whole numbers only.
    """

    values: list[Any] | None = Field(None, min_length=1)
    low: float | None = None
    high: float | None = None
    log: bool = False
    is_integer: bool = Field(False, alias="whole")

    def _find_mistakes(self) -> Mistakes:
        if self.values is not None:
            if self.low is not None or self.high is not None:
                yield "give either `values` or `low` and `high`"
        elif self.low is None or self.high is None or self.low >= self.high:
            yield "`low` must be below `high`"
        elif self.log and self.low <= 0:
            yield "`log` needs `low` above 0"
        elif self.is_integer and math.ceil(self.low) > math.floor(self.high):
            yield "`whole` needs a whole number between `low` and `high`"


class SearchSpec(Spec):
    """A search for hyper-parameters by optuna's TPE sampler over time-ordered folds.

    Args:
        params: What to draw from, by name of the parameter.
        budget: Number of settings that are tried.
        minutes: Time after which no further setting is tried; no limit by default.
        folds: Number of time-ordered folds that judge a setting.
        prune: Whether a setting that is worse than most on its first folds is given up.
    """

    params: dict[str, DistributionSpec] = Field(min_length=1)
    budget: int = Field(10, ge=1, le=500)
    # Left out if it is not set, so that models from before it existed keep their recipe.
    minutes: float | None = Field(None, gt=0, exclude_if=lambda value: value is None)
    folds: int = Field(3, ge=2, le=20)
    prune: bool = Field(True, exclude_if=lambda value: value is True)


class EarlyStoppingSpec(Spec):
    """The number of rounds of a boosted model, chosen at each training; then all rows are fitted.

    Args:
        rounds: The number of rounds without a better one after which it stops.
        share: Share of the training partitions, the newest, on which each round is judged.
    """

    rounds: int = Field(50, ge=1)
    share: float = Field(0.15, gt=0, lt=1)


class EstimatorSpec(Spec, populate_by_name=True):
    """The estimator that is fitted.

    Args:
        class: A class, such as `sklearn.svm.SVC` or `lightgbm.LGBMClassifier`.
        python: `module:function` that returns an unfitted estimator.
        params: Arguments of the class or function.
        search: Search at each training; `params` are tried first.
        early_stopping: How the number of rounds of a boosted model is chosen.
        threads: Number of threads that a fit may use.
        trusted: Your classes and functions, as `module.Class`, that a stored model may hold.
    """

    class_: str | None = Field(None, alias="class", pattern=f"^{_DOTTED}$")
    python: str | None = Field(None, pattern=PYTHON_REFERENCE)
    params: dict[str, Any] = Field({})
    search: SearchSpec | None = None
    # Left out if it is not set, so that models from before it existed keep their recipe.
    early_stopping: EarlyStoppingSpec | None = Field(None, exclude_if=lambda value: value is None)
    threads: int = Field(1, ge=1, le=256)
    trusted: list[str] = Field([], exclude_if=lambda value: not value)

    def _find_mistakes(self) -> Mistakes:
        if (self.class_ is None) == (self.python is None):
            yield "give either `class` or `python`"
        for path in (path for path in self.trusted if not may_trust(path)):
            yield (
                f"trusted: {path!r} is not a class or function of a module of yours or of an "
                "installed package: write module.Class"
            )


def may_trust(path: str) -> bool:
    """Return whether `estimator.trusted` may name a type: not of Python, and not of the platform.

    What these hold that a model needs is loaded anyway, and the rest could run any command.
    """
    top = path.partition(".")[0]
    return (
        re.fullmatch(_DOTTED, path) is not None
        and top not in sys.stdlib_module_names
        and top != "retrain_assets"
    )


class GrowingSpec(Spec):
    """A training window that grows with history.

    Args:
        least: Number of partitions that suffice for a first model; by default as many as in the
            holdout.
        most: Number of newest partitions that a model is fitted on at most; no limit by default.
    """

    least: int | None = Field(None, ge=1)
    most: int | None = Field(None, ge=1)

    def _find_mistakes(self) -> Mistakes:
        if self.least is not None and self.most is not None and self.most < self.least:
            yield f"most {self.most} is below least {self.least}"


class WindowsSpec(Spec):
    """Lengths of windows, in partitions that exist; the defaults fit partitions by day.

    Args:
        train: Number of partitions that a model is fitted on; `all` takes what there is, and grows.
        also: Shorter training windows, each of which makes one more candidate.
        holdout: Number of newest partitions, on which models are compared.
        current: Number of newest partitions that are watched for drift.
    """

    train: PositiveInt | Literal["all"] | GrowingSpec = 60
    also: list[PositiveInt] = Field([], max_length=5)
    holdout: int = Field(14, ge=1)
    current: int = Field(7, ge=1)

    @property
    def growing(self) -> GrowingSpec | None:
        """Return how the training window grows; None if its length is fixed."""
        if isinstance(self.train, int):
            return None
        return GrowingSpec() if self.train == "all" else self.train

    @property
    def least(self) -> int:
        """Return the length of the shortest training window, `also` apart."""
        if isinstance(self.train, int):
            return self.train
        return (self.growing and self.growing.least) or self.holdout

    @property
    def needed(self) -> int:
        """Return how many mature partitions a first model needs, with the holdout."""
        return self.least + self.holdout

    def take(self, keys: Sequence[str], more: int = 0) -> Sequence[str]:
        """Return the newest partitions that a training window may have, and so many more."""
        longest = self.growing.most if self.growing else self.least
        return keys if longest is None else keys[-(longest + more) :]

    def _find_mistakes(self) -> Mistakes:
        if len({*self.also}) < len(self.also) or max(self.also, default=0) >= self.least:
            yield f"`also` holds different windows, each below `train` ({self.least})"


class LabelsSpec(Spec):
    """The time after which the target can be trusted.

    Args:
        delay: Number of later partitions after which a label is final.
    """

    delay: int = Field(0, ge=0)


class OutliersSpec(Spec):
    """Rows whose features lie far out, by an isolation forest on production's training window.

    Args:
        rate: Share of the training rows that counts as far out.
        max_share: Above this share of rows, the check warns.
        action: `flag` marks the rows; `quarantine` also keeps them out of training.
    """

    rate: float = Field(0.001, gt=0, lt=0.5)
    max_share: float = Field(0.02, ge=0, le=1)
    action: Literal["flag", "quarantine"] = "flag"


class ExcludedSpec(Spec):
    """Partitions known to be bad, such as an outage: neither trained on nor a reference.

    Args:
        first: First partition left out.
        last: Last partition left out, inclusive.
        reason: The reason, which the history shows.
    """

    first: str
    last: str
    reason: str = Field(min_length=1, max_length=200)

    def _find_mistakes(self) -> Mistakes:
        if self.last < self.first:
            yield f"last {self.last!r} is before first {self.first!r}"


class IntervalsSpec(Spec):
    """Intervals around the predictions of a regression, by split conformal inference.

    Args:
        coverage: Share of the labels that the intervals are to contain.
        false_alarms_per_year: Acceptable false alarms a year that they contain fewer.
    """

    coverage: float = Field(0.9, ge=0.5, lt=1)
    false_alarms_per_year: float = Field(1.0, gt=0)


class ModelSpec(NamedSpec):
    """One model that is kept fresh.

    Args:
        dataset: The `LandedDataset` whose rows are predicted.
        for_each: One more model for each value of a column, from the same YAML.
        segment: The rows with one value of a column, instead of all.
        lookups: Datasets that are joined to each row, by name.
        features: How rows become features.
        target: What is predicted.
        weight: SQL over the dataset's columns that gives the weight of a row.
        estimator: The estimator that is fitted.
        windows: Lengths of the windows.
        exclude: Partitions that are known to be bad.
        blocks: SQL that names the block of a row, for intervals; partitions by default.
        outliers: How rows that lie far out are found.
        labels: When labels are final.
        intervals: The intervals that a regression gives beside its predictions.
        descriptions: Words for features, which the reasons of a prediction use.
        budget: What retraining may cost, from which windows and triggers follow.
        triggers: When to retrain.
        gate: When to promote a candidate.
        approval: `manual` lets a candidate that passes wait for `retrain approve`.
        watch: What to do when the version before is better: `auto` rolls back to it.
        adapt: The adaptive layer: its mode or settings; `auto`, at a label delay over 3 `shadow`.
        refit: Whether a promoted model is fitted again with the holdout.
        schedule: Cron schedule on which the triggers are evaluated; null for never.
        notify: Who is told of decisions.
        resources: CPU and memory of the runs, and of the pods that serve, on Kubernetes.
        seed: Seed of all random numbers.
    """

    dataset: Name
    # Left out if they are not set, so that models from before they existed keep their recipe.
    for_each: ForEachSpec | None = Field(None, exclude_if=lambda value: value is None)
    segment: SegmentSpec | None = Field(None, exclude_if=lambda value: value is None)
    lookups: dict[Name, LookupSpec] = Field({})
    features: FeaturesSpec
    target: TargetSpec
    weight: str | None = None
    estimator: EstimatorSpec
    windows: WindowsSpec = WindowsSpec()
    exclude: list[ExcludedSpec] = Field([])
    blocks: str | None = None
    outliers: OutliersSpec | None = None
    labels: LabelsSpec = LabelsSpec()
    intervals: IntervalsSpec | None = None
    descriptions: dict[str, str] = Field({})
    budget: BudgetSpec | None = Field(None, exclude_if=lambda value: value is None)
    triggers: TriggersSpec = TriggersSpec()
    gate: GateSpec
    approval: Literal["auto", "manual"] = "auto"
    watch: Literal["auto", "notify", "off"] = "notify"
    adapt: AdaptMode | AdaptSpec | None = None
    refit: bool = True
    schedule: str | None = Field("0 6 * * 1", pattern="^[\\d*,/A-Za-z-]+( [\\d*,/A-Za-z-]+){4}$")
    notify: NotifySpec = NotifySpec()
    resources: ResourcesSpec = ResourcesSpec()
    seed: int = Field(0, ge=0, lt=2**31)

    @property
    def layer(self) -> AdaptSpec:
        """Return the settings of the adaptive layer."""
        if isinstance(self.adapt, AdaptSpec):
            return self.adapt
        return AdaptSpec(mode=self.adapt or choose_mode(self.labels.delay, self.gate.metric))

    def members(self) -> "list[ModelSpec]":
        """Return the models of this YAML: itself, and with `for_each` those of the segments.

        They share the alarms and promotions that are accepted in a year.
        """
        if self.for_each is None:
            return [self]
        values = self.for_each.values or ()
        count = len(values) + 1
        shares: dict[str, Any] = {
            "gate": share_budget(self.gate, "false_promotions_per_year", count),
            "intervals": share_budget(self.intervals, "false_alarms_per_year", count),
            "triggers": self.triggers.model_copy(
                update={
                    name: share_budget(getattr(self.triggers, name), "false_alarms_per_year", count)
                    for name in DRIFT
                }
            ),
            "for_each": None,
        }
        segments = self.for_each.segments(self.name, values)
        return [
            self.model_copy(update=shares),
            *(self.model_copy(update={**shares, "name": n, "segment": s}) for n, s in segments),
        ]

    @property
    def group(self) -> str:
        """Return the name of the YAML of a segment's model; its own of any other."""
        return (self.segment and self.segment.pooled) or self.name

    @property
    def fits_per_decision(self) -> int:
        """Return how many fits a decision needs that promotes."""
        search = self.estimator.search
        trials = search.budget * search.folds if search else 0
        return (1 + len(self.windows.also)) * (1 + trials) + self.refit

    @property
    def monitoring_span(self) -> int:
        """Return how many partitions the monitoring of one looks at: its window, and labels."""
        return self.windows.current + self.labels.delay

    @property
    def features_recipe(self) -> str:
        """Return a digest of what determines the features table, apart from data and code."""
        parts = ("dataset", "lookups", "features", "target", "weight", "blocks", "outliers")
        digest = self._digest(*parts)
        rows = self.segment and json.dumps([digest, self.segment.column, self.segment.value])
        return sha256(rows.encode()).hexdigest()[:16] if rows else digest

    @property
    def recipe(self) -> str:
        """Return a digest of what determines a model and its purpose, apart from data and code.

        The metric of the gate is part of it, since another objective may need another model.
        """
        fit = self._digest("estimator", "windows", "labels", "seed", "refit", "exclude")
        objective = self.gate.model_dump_json(include=set(OBJECTIVE))
        return sha256(f"{self.features_recipe}{fit}{objective}".encode()).hexdigest()[:16]

    @property
    def gate_digest(self) -> str:
        """Return a digest of the gate, by which a candidate is judged."""
        return self._digest("gate")

    def _digest(self, *parts: str) -> str:
        text = self.model_dump_json(include=set(parts))
        return sha256(text.encode()).hexdigest()[:16]

    def _find_mistakes(self) -> Mistakes:
        kind, trigger = self.target.kind, self.triggers.performance
        offered: tuple[str, ...] = METRICS_BY_KIND[kind]
        metrics = [("gate.metric", self.gate.metric, (*offered, *GATE_ONLY[kind]))]
        if trigger:
            metrics.append(("triggers.performance.metric", trigger.metric, offered))
        if self.gate.threshold is not None and kind != "binary":
            yield "gate.threshold: only a binary model has one: leave it out"
        if self.gate.guards.negative_flips is not None and kind == "regression":
            yield "gate.guards.negative_flips: not of a regression: leave it out"
        if self.gate.guards.calibration is not None and kind == "multiclass":
            yield "gate.guards.calibration: not of multiclass: leave it out"
        if self.intervals is not None and kind != "regression":
            yield f"intervals: a {kind} model gives probabilities instead: leave it out"
        for field, metric, names in metrics:
            if metric not in names:
                yield (f"{field}: {metric!r} does not judge a {kind} model: use {', '.join(names)}")
        if trigger and trigger.confidence > POINT and self.windows.current == 1:
            yield (
                "triggers.performance.confidence: a window of one partition has no spread: raise "
                "windows.current, or leave it out"
            )
        if self.dataset in self.lookups:
            yield f"lookups.{self.dataset}: a dataset cannot be its own lookup"
        yield from self._find_mistakes_of_parts()

    def _find_mistakes_of_parts(self) -> Mistakes:
        if self.layer.mode != "off" and self.gate.metric == "pinball":
            yield f"adapt: {NO_QUANTILES}"
        if self.for_each is None:
            return
        if self.segment is not None:
            yield "for_each: a segment has no segments: leave out one of both"
        try:
            [*self.for_each.segments(self.name, self.for_each.values or ())]
        except ValueError as error:
            yield f"for_each.values: {error}"


class PolicySpec(Spec):
    """A policy to replay: parts of the model's YAML that replace its own.

    Args:
        name: Name of the policy.
        every: Instead of triggers and gate: fit and serve after this many partitions.
        triggers: Triggers in place of the model's.
        gate: Gate in place of the model's.
        windows: Windows in place of the model's.
        refit: Value of `refit` in place of the model's.
        adapt: With `every`: whether the adaptive layer serves in place of the newest version;
            else the mode of the layer in place of the model's.
    """

    name: str = Field(min_length=1, max_length=60)
    interval: int | None = Field(None, alias="every", ge=1)
    triggers: TriggersSpec | None = None
    gate: GateSpec | None = None
    windows: WindowsSpec | None = None
    refit: bool | None = None
    adapt: bool | AdaptMode = False

    @property
    def parts(self) -> dict[str, Any]:
        """Return the parts that are replaced, as they are written in YAML."""
        exclude = {"name", "interval", *(("adapt",) if isinstance(self.adapt, bool) else ())}
        return self.model_dump(exclude_unset=True, exclude=exclude, exclude_none=True)

    def _find_mistakes(self) -> Mistakes:
        if self.adapt is True and self.interval is None:
            yield "`adapt` goes with `every`: elsewhere, write `adapt: auto`"
        if isinstance(self.adapt, str) and self.interval is not None:
            yield "`adapt` is true or false with `every`"

    def of(self, model: ModelSpec) -> ModelSpec:
        """Return the model under this policy, which promotes without anybody's approval."""
        fields = model.model_dump() | {"approval": "auto"}
        return ModelSpec.model_validate(fields | self.parts)


def usual_policies(model: ModelSpec) -> list[PolicySpec]:
    """Return the model's own policy, policies near it, and simple ones to compare it with.

    The simple ones are: never retrain, and retrain after so many partitions whatever happens, some
    of these with the adaptive layer too.
    """
    triggers = model.triggers
    near = {
        f"new_partitions: {n}": triggers.model_copy(update={"new_partitions": n, "cooldown": n})
        for n in CALENDARS[1:]
    }
    if triggers.performance is not None and triggers.performance.max_drop is not None:
        for factor in (0.5, 2.0):
            drop = round(min(1.0, triggers.performance.max_drop * factor), 4)
            performance = triggers.performance.model_copy(update={"max_drop": drop})
            near[f"max_drop: {drop:g}"] = triggers.model_copy(update={"performance": performance})
    adapted = ADAPTED if model.gate.metric != "pinball" else ()
    left_out = dict.fromkeys(("min_gain", "false_promotions_per_year"))
    lenient = {**left_out, "promote_when": "unless_worse"}
    gate = GateSpec.model_validate(model.gate.model_dump(exclude_unset=True) | lenient)
    return [
        PolicySpec(name=AS_IT_IS),
        *(PolicySpec(name=name, triggers=variant) for name, variant in near.items()),
        *(
            PolicySpec(
                name=f"{n}, unless_worse, adapted", triggers=near[n], gate=gate, adapt="auto"
            )
            for n in ([*near][1 : len(CALENDARS) - 1] if adapted else ())
        ),
        PolicySpec(name=NEVER, triggers=TriggersSpec()),
        *(PolicySpec(name=f"every {n}", every=n) for n in CALENDARS),
        *(PolicySpec(name=f"every {n}, adapted", every=n, adapt=True) for n in adapted),
    ]
