"""The causes that may ask for retraining: what each looks for in what is known.

The signal says what is done. Drift of what comes in is noted, and asks for nothing, as long as the
labels of the same window show that performance holds; a fall of performance asks for a candidate;
where labels are still to come, the estimate stands in for them once it has been right. Not here:
whether anything is asked for in the end.
"""

import math
from collections.abc import Callable

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.situation import HeldCandidate, Situation
from retrain_assets.domain.drift.observations import (
    ESTIMATED,
    FEATURE,
    P_VALUE,
    PERFORMANCE,
    TARGET,
    is_beyond,
)
from retrain_assets.domain.drift.observations import PREDICTION as OUTPUT
from retrain_assets.domain.windows import count_since
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.triggers import DriftTrigger, LastingSpec

Rule = Callable[[ModelSpec, Situation], "Verdict"]

Verdict = tuple[bool, str]
WINDOW = "window_to"  # labels come later: a window ends before its row
NOT_WATCHED = (False, "not watched")
LONGEST_WAIT = 2  # for a held candidate, in holdout windows


def _no_production(_: ModelSpec, situation: Situation) -> Verdict:
    if situation.production is None:
        return True, "no model is in production yet"
    return False, f"version {situation.production.version} is in production"


def _spec_change(spec: ModelSpec, situation: Situation) -> Verdict:
    production = situation.production
    if production is None or not spec.triggers.spec_change:
        return (False, "no model is in production yet") if production is None else NOT_WATCHED
    if production.recipe == situation.recipe:
        return False, "the spec is the one production was trained with"
    spec_part = production.recipe.partition(".")[0]
    what = "the user's code" if situation.recipe.startswith(f"{spec_part}.") else "the spec"
    return True, f"{what} has changed since version {production.version} was trained"


def _new_partitions(spec: ModelSpec, situation: Situation) -> Verdict:
    wanted = spec.triggers.new_partitions
    if wanted is None or situation.last_decision is None:
        return NOT_WATCHED if wanted is None else (False, "no decision yet")
    since = count_since(situation.mature, situation.last_decision)
    return since >= wanted, f"{since} new partitions since the last decision, of {wanted}"


def find_awaited_candidate(spec: ModelSpec, situation: Situation) -> HeldCandidate | None:
    """The held candidate, unless it would take so long that a newer one had better be tried."""
    held = situation.held_candidate
    return held if held and held.more_partitions <= LONGEST_WAIT * spec.windows.holdout else None


def explain_wait(situation: Situation, held: HeldCandidate) -> str | None:
    """Why a held candidate is still to wait."""
    come = count_since(situation.mature, situation.last_decision or "")
    more = held.more_partitions
    reason = f"version {held.version} is held until {more} more partitions, {come} have come"
    return reason if come < more else None


def _held(spec: ModelSpec, situation: Situation) -> Verdict:
    held = situation.held_candidate
    if held is None:
        return False, "no candidate is held"
    if find_awaited_candidate(spec, situation) is None:
        said = f"version {held.version} would take {held.more_partitions} more partitions"
        return False, f"{said}, over {LONGEST_WAIT} windows.holdout: it is not waited for"
    come = (
        f"the {held.more_partitions} partitions that version {held.version} was held for have come"
    )
    waiting = explain_wait(situation, held)
    return waiting is None, waiting or come


def _since(situation: Situation, role: str) -> pl.DataFrame:
    """What was monitored since production's as-of, of each window what was said of it last."""
    production = situation.production
    if production is None:
        return situation.monitoring.clear()
    return situation.monitoring.filter(
        pl.col("role") == role,
        pl.col("model_version") == production.version,
        pl.col(PARTITION) > production.as_of,
        pl.col("threshold").is_not_null(),
        pl.col(PARTITION) == pl.col(PARTITION).max().over("role", "model_version", WINDOW),
    ).sort(PARTITION, maintain_order=True)


def _lasting(
    spec: LastingSpec, rows: pl.DataFrame, rule: Callable[[pl.DataFrame], Verdict]
) -> Verdict | None:
    """What the newest windows say; None without one."""
    windows = rows.partition_by(PARTITION, maintain_order=True)[-spec.of :]
    found = [rule(window) for window in windows]
    if not found:
        return None
    said, count = found[-1][1], sum(fired for fired, _ in found)
    if spec.of > 1:
        said = f"{said}; so in {count} of {len(found)} windows, {spec.alerts} needed"
    return count >= spec.alerts, said


def _drift(role: str, trigger: DriftTrigger | None, spec: ModelSpec, seen: Situation) -> Verdict:
    if trigger is None:
        return NOT_WATCHED
    rows, rate = _since(seen, role), trigger.false_alarms_per_year
    if rate is not None:
        rows = rows.filter(
            (pl.col("measure") == P_VALUE).any().over(PARTITION)
        )  # since it is asked for
        found = _lasting(spec.triggers.lasting, rows, lambda window: _calibrated(window, rate))
        return found or (False, "no whole window since what production was trained on")
    rows = rows.filter(pl.col("measure") == trigger.measure)
    found = _lasting(spec.triggers.lasting, rows, lambda window: _beyond(window, role, trigger))
    return found or (False, "nothing monitored since production was promoted")


def _acted_on(role: str, trigger: DriftTrigger | None, spec: ModelSpec, seen: Situation) -> Verdict:
    """Drift, unless it is known to do no harm."""
    fired, said = _drift(role, trigger, spec, seen)
    if trigger is None or not fired or trigger.although_performance_holds:
        return fired, said
    newest = _since(seen, role)[WINDOW].max()
    for row in _since(seen, PERFORMANCE).filter(pl.col(WINDOW) == newest).iter_rows(named=True):
        measure, statistic = row["measure"], row["statistic"]
        if not is_beyond(measure, statistic, row["threshold"]):
            return False, f"noted, while {measure} {statistic:.4g} holds: {said}"
    return fired, said


def _beyond(window: pl.DataFrame, role: str, trigger: DriftTrigger) -> Verdict:
    reached = pl.col("statistic") >= trigger.threshold
    alerts = window.filter(reached).sort("statistic", descending=True)
    worst = ", ".join(
        f"{column} {statistic:.2f}"
        for column, statistic in alerts.select("column", "statistic").head(3).iter_rows()
    )
    said = f"{trigger.measure} at or above {trigger.threshold:g} on {alerts.height} of "
    said += f"{window.height} {role} columns" + (f" ({worst})" if worst else "")
    return alerts.height > 0 and alerts.height / window.height > trigger.share, said


def _calibrated(window: pl.DataFrame, a_year: float) -> Verdict:
    """What the p-value of all columns says, and which column lies farthest beyond its threshold."""
    whole = window.filter(pl.col("measure") == P_VALUE)
    p_value, allowed, fired = whole.select("statistic", "threshold", "alert").row(0)
    farthest = window.filter(pl.col("measure") != P_VALUE).sort(
        pl.col("statistic") / pl.col("threshold"), descending=True
    )
    said = f"p {p_value:.2g} against {allowed:.2g} ({a_year:g} false alarms a year)"
    for row in farthest.head(1).iter_rows(named=True):
        said += f", farthest {row['column']}: {row['measure']} {row['statistic']:.3g}"
        said += f", threshold {row['threshold']:.3g}"
    return fired, said


def _performance(spec: ModelSpec, seen: Situation) -> Verdict:
    if spec.triggers.performance is None:
        return NOT_WATCHED
    followed = pl.col("measure") == spec.triggers.performance.metric
    rows = _since(seen, PERFORMANCE).filter(followed)
    realised = _lasting(spec.triggers.lasting, rows, _fallen)
    if realised and realised[0]:
        moved, _ = _drift(FEATURE, spec.triggers.data_drift, spec, seen)
        still = spec.triggers.data_drift is not None and not moved
        told = "; data drift has not fired, so what follows may have changed" if still else ""
        return True, realised[1] + told
    promised = _since(seen, ESTIMATED).filter(followed)
    later = promised.filter(pl.col(WINDOW) > (rows[WINDOW].max() or ""))
    estimated = _lasting(spec.triggers.lasting, later, _fallen)
    if estimated and estimated[0]:
        right, told = estimate_is_reliable(promised, rows)
        acted = "" if right else ", so it is not acted on"
        return right, f"estimated without labels: {estimated[1]}; the estimate {told}{acted}"
    return realised or (False, "no realised performance since production was promoted")


def _fallen(window: pl.DataFrame) -> Verdict:
    row = window.row(0, named=True)
    between = f" ({row['low']:.4g} to {row['high']:.4g})" if row["low"] is not None else ""
    said = f"{row['measure']} {row['statistic']:.4g}{between}, limit {row['threshold']:.4g}"
    if math.isnan(row["threshold"]):
        return False, (
            f"{said}: {row['measure']} is undefined on the holdout of the promotion, so no fall "
            "can be told; a `limit`, a longer holdout or another metric would do"
        )
    return bool(row["alert"]), f"{said}, at promotion {row['baseline']:.4g}"


def estimate_is_reliable(estimated: pl.DataFrame, realised: pl.DataFrame) -> Verdict:
    """Whether estimates were nearer to what came than the fall that counts.

    Args:
        estimated: Monitored rows of estimated performance of one version.
        realised: Of its realised performance.

    Returns:
        Whether the mean error of the windows that have both is less than what lies between
        performance at promotion and its bound; and a clause that says so.
    """
    both = estimated.join(realised, on=WINDOW, suffix="_realised")
    if both.is_empty():
        return False, "was not held against labels yet"
    error, counts = both.select(
        (pl.col("statistic") - pl.col("statistic_realised")).abs().mean(),
        (pl.col("threshold") - pl.col("baseline")).abs().mean().alias("counts"),
    ).row(0)
    said = f"was off by {error:.2g} in {both.height} windows, a fall of {counts:.2g} counts"
    return error < counts, said


CAUSES: dict[str, Rule] = {
    "no_production": _no_production,
    "performance": _performance,
    "data_drift": lambda spec, seen: _acted_on(FEATURE, spec.triggers.data_drift, spec, seen),
    "prediction_drift": lambda spec, seen: _acted_on(
        OUTPUT, spec.triggers.prediction_drift, spec, seen
    ),
    "target_drift": lambda spec, seen: _acted_on(TARGET, spec.triggers.target_drift, spec, seen),
    "held": _held,
    "new_partitions": _new_partitions,
    "spec_change": _spec_change,
}
