"""The causes that may ask for retraining, each a rule over the facts of a situation.

Drift of features, output or target asks for nothing as long as the labels of the same window show
that performance holds; a fall of performance asks for a candidate; as long as labels are missing,
the estimate of performance counts, once it has been reliable. Not here: whether a request follows
from the answers (`triggers`).
"""

import math
from collections.abc import Callable
from functools import partial

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.situation import Answer, HeldCandidate, Situation
from retrain_assets.domain.drift import observations
from retrain_assets.domain.windows import count_since
from retrain_assets.specs.base import number_of
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.triggers import DriftTrigger, LastingSpec

Rule = Callable[[ModelSpec, Situation], Answer]
WINDOW = "window_to"  # labels come later: a window ends before its row
NOT_WATCHED = Answer(False, "not watched")
NO_PRODUCTION = "a first model is needed"
LONGEST_WAIT = 2  # for a held candidate, in holdout windows


def _no_production(_: ModelSpec, situation: Situation) -> Answer:
    if situation.production is None:
        return Answer(True, NO_PRODUCTION)
    return Answer(False, f"version {situation.production.version} is in production")


def _spec_change(spec: ModelSpec, situation: Situation) -> Answer:
    production = situation.production
    if production is None:
        return Answer(False, NO_PRODUCTION)
    if not spec.triggers.spec_change:
        return NOT_WATCHED
    if production.recipe == situation.recipe:
        return Answer(False, "the YAML is the one that production was trained with")
    spec_part = production.recipe.partition(".")[0]
    what = "the user's code" if situation.recipe.startswith(f"{spec_part}.") else "the YAML"
    return Answer(True, f"{what} has changed since version {production.version} was trained")


def _new_partitions(spec: ModelSpec, situation: Situation) -> Answer:
    threshold = spec.triggers.new_partitions
    if threshold is None:
        return NOT_WATCHED
    if situation.last_decision is None:
        return Answer(False, "nothing has been decided yet")
    since = count_since(situation.mature, situation.last_decision)
    count = number_of(since, "new partition")
    reason = f"{count} since the last decision, and {threshold} are needed"
    return Answer(since >= threshold, reason)


def find_awaited_candidate(spec: ModelSpec, situation: Situation) -> HeldCandidate | None:
    """Return the held candidate, unless its wait is so long that a newer one is tried instead."""
    candidate, longest = situation.held_candidate, LONGEST_WAIT * spec.windows.holdout
    return candidate if candidate and candidate.more_partitions <= longest else None


def explain_wait(situation: Situation, candidate: HeldCandidate) -> str | None:
    """Return why a held candidate has to wait longer, or None if its partitions have come."""
    more = candidate.more_partitions
    count = count_since(situation.mature, situation.last_decision or "")
    reason = f"version {candidate.version} is held until {more} more partitions have come"
    return f"{reason}, and {count} have come so far" if count < more else None


def _held(spec: ModelSpec, situation: Situation) -> Answer:
    candidate = situation.held_candidate
    if candidate is None:
        return Answer(False, "no candidate is held")
    more = candidate.more_partitions
    if find_awaited_candidate(spec, situation) is None:
        reason = f"version {candidate.version} would need {more} more partitions, which is more"
        longest = f"than {LONGEST_WAIT} times `windows.holdout`"
        return Answer(False, f"{reason} {longest}, so it is not waited for")
    if wait := explain_wait(situation, candidate):
        return Answer(False, wait)
    reason = f"the {more} partitions that version {candidate.version} was held for have come"
    return Answer(True, reason)


def _rows_since(situation: Situation, role: str) -> pl.DataFrame:
    """Return what was monitored since production's as-of, the newest row of each window."""
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


def _apply_to_windows(
    spec: LastingSpec, rows: pl.DataFrame, rule: Callable[[pl.DataFrame], Answer]
) -> Answer | None:
    """Return the answer over the newest windows; None without a window."""
    windows = rows.partition_by(PARTITION, maintain_order=True)[-spec.of :]
    answers = [rule(window) for window in windows]
    if not answers:
        return None
    reason, count = answers[-1].reason, sum(answer.fired for answer in answers)
    if spec.of > 1:
        share = f"{count} of {len(answers)} windows"
        reason += f"; this holds in {share}, and must hold in {spec.alerts}"
    return Answer(count >= spec.alerts, reason)


def _drift(
    role: str, trigger: DriftTrigger | None, spec: ModelSpec, situation: Situation
) -> Answer:
    if trigger is None:
        return NOT_WATCHED
    rows, rate = _rows_since(situation, role), trigger.false_alarms_per_year
    if rate is None:
        rows = rows.filter(pl.col("measure") == trigger.measure)
        rule = partial(_compare_with_threshold, role=role, trigger=trigger)
        missing = "nothing has been monitored since production was promoted"
    else:  # rows from before the rate was asked for have no p-value
        rows = rows.filter((pl.col("measure") == observations.P_VALUE).any().over(PARTITION))
        rule = partial(_compare_with_rate, trigger=trigger)
        missing = "no window lies wholly after what production was trained on"
    return _apply_to_windows(spec.triggers.lasting, rows, rule) or Answer(False, missing)


def _harmful_drift(
    role: str, trigger: DriftTrigger | None, spec: ModelSpec, situation: Situation
) -> Answer:
    """Answer as `_drift`, but do not fire where performance is shown to hold."""
    answer = _drift(role, trigger, spec, situation)
    if trigger is None or not answer.fired or trigger.although_performance_holds:
        return answer
    newest = _rows_since(situation, role)[WINDOW].max()
    rows = _rows_since(situation, observations.PERFORMANCE).filter(pl.col(WINDOW) == newest)
    for row in rows.iter_rows(named=True):
        measure, statistic = row["measure"], row["statistic"]
        if not observations.is_beyond(measure, statistic, row["threshold"]):
            holds = f"drift does not count while performance holds ({measure} {statistic:.4g})"
            return Answer(False, f"{holds}: {answer.reason}")
    return answer


def _compare_with_threshold(window: pl.DataFrame, role: str, trigger: DriftTrigger) -> Answer:
    reached = pl.col("statistic") >= trigger.threshold
    alerts = window.filter(reached).sort("statistic", descending=True)
    worst = ", ".join(
        f"{column} {statistic:.2f}"
        for column, statistic in alerts.select("column", "statistic").head(3).iter_rows()
    )
    needed = f"more than {trigger.share:.0%} are" if trigger.share else "one is"
    reason = f"{trigger.measure} is {trigger.threshold:g} or more for {alerts.height} of "
    reason += f"{window.height} {role} columns" + (f" ({worst})" if worst else "")
    reason += f", and {needed} needed"
    return Answer(alerts.height > 0 and alerts.height / window.height > trigger.share, reason)


def _compare_with_rate(window: pl.DataFrame, trigger: DriftTrigger) -> Answer:
    """Answer by the p-value of all columns, and name the column farthest above its threshold."""
    is_joint = pl.col("measure") == observations.P_VALUE
    joint = window.filter(is_joint).select("statistic", "threshold", "alert", "effect")
    p_value, limit, fired, note = joint.row(0)
    farthest = window.filter(~is_joint).sort(
        pl.col("statistic") / pl.col("threshold"), descending=True
    )
    rate = f"{trigger.false_alarms_per_year:g} false alarms a year"
    reason = f"p is {p_value:.2g}, and {limit:.2g} or less is drift ({rate})"
    for row in farthest.head(1).iter_rows(named=True):
        reason += f"; farthest is {row['column']}: {row['measure']} {row['statistic']:.3g}"
        reason += f", threshold {row['threshold']:.3g}"
    if p_value <= limit and not fired:
        reason += f"; no column is beyond the smallest effect of {trigger.smallest_effect:g}"
    return Answer(fired, f"{reason}; {note}" if note else reason)


def _performance(spec: ModelSpec, situation: Situation) -> Answer:
    trigger, lasting = spec.triggers.performance, spec.triggers.lasting
    if trigger is None:
        return NOT_WATCHED
    realised, estimated = (
        _rows_since(situation, role).filter(pl.col("measure") == trigger.metric)
        for role in (observations.PERFORMANCE, observations.ESTIMATED)
    )
    answer = _apply_to_windows(lasting, realised, _has_fallen)
    if answer and answer.fired:
        drift, note = spec.triggers.data_drift, ""
        if drift is not None and not _drift(observations.FEATURE, drift, spec, situation).fired:
            note = "; data_drift has not fired, so the relation of the features to the target may"
            note += " have changed"
        return Answer(True, answer.reason + note)
    newer = estimated.filter(pl.col(WINDOW) > (realised[WINDOW].max() or ""))
    foreseen = _apply_to_windows(lasting, newer, _has_fallen)
    if foreseen and foreseen.fired:
        fired, clause = estimate_is_reliable(estimated, realised)
        clause += "" if fired else ", so it is not acted on"
        return Answer(fired, f"estimated without labels: {foreseen.reason}; the estimate {clause}")
    missing = f"production has predicted no whole window of {spec.windows.current} partitions that"
    return answer or Answer(False, f"not known: {missing} have their labels")


def _has_fallen(window: pl.DataFrame) -> Answer:
    row = window.row(0, named=True)
    interval = f" ({row['low']:.4g} to {row['high']:.4g})" if row["low"] is not None else ""
    reason = f"{row['measure']} {row['statistic']:.4g}{interval}, limit {row['threshold']:.4g}"
    if math.isnan(row["threshold"]):
        reason += f": {row['measure']} is undefined on the holdout of the promotion, so a fall "
        reason += "cannot be seen: set a `limit`, a longer holdout or another metric"
        return Answer(False, reason)
    return Answer(bool(row["alert"]), f"{reason}, at promotion {row['baseline']:.4g}")


def estimate_is_reliable(estimated: pl.DataFrame, realised: pl.DataFrame) -> Answer:
    """Answer whether estimates were nearer to what came than the fall that counts.

    Args:
        estimated: Monitored rows of estimated performance of one version.
        realised: Of its realised performance.

    Returns:
        Whether the mean error of the windows that have both is less than what lies between
        performance at promotion and its bound; and a clause that says so.
    """
    pairs = estimated.join(realised, on=WINDOW, suffix="_realised")
    if pairs.is_empty():
        return Answer(False, "has not been compared with labels yet")
    error, bound = pairs.select(
        (pl.col("statistic") - pl.col("statistic_realised")).abs().mean(),
        (pl.col("threshold") - pl.col("baseline")).abs().mean().alias("bound"),
    ).row(0)
    windows = number_of(pairs.height, "window")
    reason = f"was wrong by {error:.2g} on average in {windows}, and a fall of {bound:.2g} counts"
    return Answer(error < bound, reason)


CAUSES: dict[str, Rule] = {
    "no_production": _no_production,
    "performance": _performance,
    "data_drift": lambda spec, situation: _harmful_drift(
        observations.FEATURE, spec.triggers.data_drift, spec, situation
    ),
    "prediction_drift": lambda spec, situation: _harmful_drift(
        observations.PREDICTION, spec.triggers.prediction_drift, spec, situation
    ),
    "target_drift": lambda spec, situation: _harmful_drift(
        observations.TARGET, spec.triggers.target_drift, spec, situation
    ),
    "held": _held,
    "new_partitions": _new_partitions,
    "spec_change": _spec_change,
}
