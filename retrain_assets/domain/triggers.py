"""The triggering policy: what was seen in, whether to retrain and why out.

Pure and counted in partitions of the data, so that a replay decides what the live system decided.
Not here: computing drift or performance, asking Dagster for a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.monitoring import P_VALUE
from retrain_assets.domain.windows import elapsed

if TYPE_CHECKING:
    from collections.abc import Callable

    from retrain_assets.specs.model import DriftTrigger, ModelSpec


@dataclass(frozen=True)
class Production:
    """What the policy knows of the model in production.

    Args:
        version: Its number.
        as_of: Last partition it was decided on.
        trained_through: Last partition it was trained on.
        recipe: Digest of what it was trained with.
    """

    version: int
    as_of: str
    trained_through: str
    recipe: str


@dataclass(frozen=True)
class Pause:
    """A person wants no retraining asked for.

    Args:
        until: First partition as of which it may be asked for again.
        reason: Why.
        by: Who wants it.
    """

    until: str
    reason: str
    by: str


@dataclass(frozen=True)
class Situation:
    """Everything a decision depends on.

    Args:
        mature: Complete, label-mature partitions in order.
        needed: Partitions the training and holdout windows need together.
        recipe: Digest of what would be trained now.
        production: The model in production; None before the first.
        decided: As-of of the newest decision of the gate; None before the first.
        decided_recipe: Digest of what was trained for it.
        monitoring: Rows of the monitoring table.
        paused: What holds back any retraining, if anything does.
    """

    mature: tuple[str, ...]
    needed: int
    recipe: str
    production: Production | None
    decided: str | None
    decided_recipe: str | None
    monitoring: pl.DataFrame
    paused: Pause | None = None


@dataclass(frozen=True)
class Cause:
    """One cause of the policy, looked at: whether it asks for retraining, and why."""

    cause: str
    fired: bool
    reason: str
    as_of: str | None


@dataclass(frozen=True)
class Request:
    """The outcome: whether to retrain as of a partition, and what every cause said."""

    wanted: bool
    reason: str
    as_of: str | None
    causes: tuple[Cause, ...]

    @property
    def fired(self) -> tuple[str, ...]:
        """Names of the causes that ask for retraining."""
        return tuple(cause.cause for cause in self.causes if cause.fired)


def decide(spec: ModelSpec, situation: Situation) -> Request:
    """Look at each cause and say whether to retrain.

    Args:
        spec: The model.
        situation: What is known.

    Returns:
        The request; `wanted` is false with a reason when no cause fired, history is too short, a
        person paused it, or the last decision is more recent than `triggers.cooldown` partitions.
    """
    if len(situation.mature) < situation.needed:
        short = f"{len(situation.mature)} of {situation.needed} partitions needed have landed"
        return Request(wanted=False, reason=short, as_of=None, causes=())
    as_of = situation.mature[-1]
    causes = tuple(
        Cause(name, fired=fired, reason=reason, as_of=as_of)
        for name, rule in CAUSES.items()
        for fired, reason in [rule(spec, situation)]
    )
    fired = [cause for cause in causes if cause.fired]
    if not fired:
        return Request(wanted=False, reason="no cause has fired", as_of=as_of, causes=causes)
    reason = "; ".join(cause.reason for cause in fired)
    if situation.paused is not None and as_of < situation.paused.until:
        reason = f"{_said(situation.paused)}: {reason}"
        return Request(wanted=False, reason=reason, as_of=as_of, causes=causes)
    waiting = _cooling_down(spec, situation) or _nothing_new(spec, situation)
    # What a person has just changed is tried at once, and then waits like everything else.
    untried = situation.decided_recipe != situation.recipe
    if waiting and not (untried and any(cause.cause == "spec_change" for cause in fired)):
        return Request(wanted=False, reason=f"{waiting}: {reason}", as_of=as_of, causes=causes)
    return Request(wanted=True, reason=reason, as_of=as_of, causes=causes)


def _said(pause: Pause) -> str:
    return f"paused until {pause.until} by {pause.by} ({pause.reason})"


def _cooling_down(spec: ModelSpec, situation: Situation) -> str | None:
    if situation.decided is None:
        return None
    since = elapsed(situation.mature, situation.decided)
    # A decision is made once an as-of, however short the cooldown.
    if since >= max(spec.triggers.cooldown, 1):
        return None
    return f"{since} partitions since the last decision, cooldown is {spec.triggers.cooldown}"


def _nothing_new(spec: ModelSpec, situation: Situation) -> str | None:
    """Whether the candidate's training window would end no later than production's.

    Production may have been refitted through its as-of, while a candidate leaves out the holdout:
    until more partitions than that have come, it would be production over again.
    """
    through = situation.mature[-1 - spec.windows.holdout]
    if situation.production is None or through > situation.production.trained_through:
        return None
    return (
        f"production was trained through {situation.production.trained_through}, "
        f"a candidate would be through {through}"
    )


Verdict = tuple[bool, str]


def _no_production(_: ModelSpec, situation: Situation) -> Verdict:
    if situation.production is None:
        return True, "no model is in production yet"
    return False, f"version {situation.production.version} is in production"


def _spec_change(spec: ModelSpec, situation: Situation) -> Verdict:
    production = situation.production
    if production is None or not spec.triggers.spec_change:
        return False, "not watched" if production else "no model is in production yet"
    if production.recipe == situation.recipe:
        return False, "the spec is the one production was trained with"
    return True, f"the spec has changed since version {production.version} was trained"


def _new_partitions(spec: ModelSpec, situation: Situation) -> Verdict:
    wanted = spec.triggers.new_partitions
    if wanted is None or situation.decided is None:
        return False, "not watched" if wanted is None else "no decision yet"
    since = elapsed(situation.mature, situation.decided)
    return since >= wanted, f"{since} new partitions since the last decision, of {wanted}"


def _newest(situation: Situation, role: str) -> pl.DataFrame:
    """Rows of the newest monitored window that lies after production's as-of."""
    production = situation.production
    if production is None:
        return situation.monitoring.clear()
    rows = situation.monitoring.filter(
        pl.col("role") == role,
        pl.col("model_version") == production.version,
        pl.col("_landing_partition") > production.as_of,
        pl.col("threshold").is_not_null(),
    )
    return rows.filter(pl.col("_landing_partition") == pl.col("_landing_partition").max())


def _drifted(role: str, trigger: DriftTrigger | None, situation: Situation) -> Verdict:
    if trigger is None:
        return False, "not watched"
    newest = _newest(situation, role)
    if trigger.false_alarms_per_year is not None:
        return _calibrated(newest, trigger.false_alarms_per_year)
    rows = newest.filter(pl.col("measure") == trigger.measure)
    if rows.is_empty():
        return False, "nothing monitored since production was promoted"
    alerts = rows.filter("alert").sort("statistic", descending=True)
    share = alerts.height / rows.height
    worst = ", ".join(
        f"{column} {statistic:.2f}"
        for column, statistic in alerts.select("column", "statistic").head(3).iter_rows()
    )
    said = f"{trigger.measure} at or above {trigger.threshold:g} on {alerts.height} of "
    said += f"{rows.height} {role} columns" + (f" ({worst})" if worst else "")
    return alerts.height > 0 and share > trigger.share, said


def _calibrated(newest: pl.DataFrame, a_year: float) -> Verdict:
    """What the p-value of all columns says, and which column lies farthest beyond its threshold."""
    whole = newest.filter(pl.col("measure") == P_VALUE)
    if whole.is_empty():
        return False, "no whole window since what production was trained on"
    p_value, allowed, fired = whole.select("statistic", "threshold", "alert").row(0)
    farthest = newest.filter(pl.col("measure") != P_VALUE).sort(
        pl.col("statistic") / pl.col("threshold"), descending=True
    )
    column, measure, statistic, threshold = farthest.select(
        "column", "measure", "statistic", "threshold"
    ).row(0)
    return fired, (
        f"p {p_value:.2g} against {allowed:.2g} ({a_year:g} false alarms a year), farthest "
        f"{column}: {measure} {statistic:.3g}, threshold {threshold:.3g}"
    )


def _performance(spec: ModelSpec, situation: Situation) -> Verdict:
    if spec.triggers.performance is None:
        return False, "not watched"
    rows = _newest(situation, "performance")
    if rows.is_empty():
        return False, "no realised performance since production was promoted"
    row = rows.row(0, named=True)
    said = f"{row['measure']} {row['statistic']:.4g}, limit {row['threshold']:.4g}"
    return bool(row["alert"]), f"{said}, at promotion {row['baseline']:.4g}"


CAUSES: dict[str, Callable[[ModelSpec, Situation], Verdict]] = {
    "no_production": _no_production,
    "performance": _performance,
    "data_drift": lambda spec, seen: _drifted("feature", spec.triggers.data_drift, seen),
    "prediction_drift": lambda spec, seen: _drifted(
        "prediction", spec.triggers.prediction_drift, seen
    ),
    "target_drift": lambda spec, seen: _drifted("target", spec.triggers.target_drift, seen),
    "new_partitions": _new_partitions,
    "spec_change": _spec_change,
}
