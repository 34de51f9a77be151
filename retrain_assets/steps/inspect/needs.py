"""What each of many models needs most, in a line, as plain values.

Not here: the whole answer about one model (`status`), and printing.
"""

from typing import Any

import polars as pl

from retrain_assets.domain.decision.triggers import decide
from retrain_assets.domain.drift import observations
from retrain_assets.steps.inspect import status
from retrain_assets.steps.monitoring import watch
from retrain_assets.steps.state import ModelState, Snapshot

# From what a person has to do to what runs by itself.
NEEDS = ("approval", "rollback", "retraining", "performance", "drift", "version", "nothing")


def summarize(state: ModelState) -> dict[str, Any]:
    """Return what a model needs most and why, the version in production, and a rank among equals.

    The smaller the rank, the more it is needed.
    """
    state = Snapshot.of(state)
    need, why, rank = _find_need(state)
    version = state.ledger.read().production_version
    return {"model": state.spec.name, "need": need, "why": why, "version": version, "rank": rank}


def _find_need(state: ModelState) -> tuple[str, str, float]:
    history, comparison = state.ledger.read(), watch.summarize(state)
    if history.staged:
        return "approval", f"version {history.staged.version} waits for approval", 0
    if comparison and comparison.is_worse:
        return "rollback", comparison.sentence, 0
    request = decide(state.spec, state.situation())
    if request.retrain:
        return "retraining", request.reason, 0
    if history.production is None:
        return "version", request.reason, 0
    coverage = status.list_coverage(state, history.production_version)
    alarms = [status.describe_performance(row) for row in status.performance(state) if row["alert"]]
    alarms += [status.describe_coverage(row) for row in coverage if row["alert"]]
    if alarms:
        return "performance", alarms[0], 0
    return _find_drift(state) or ("nothing", request.reason, 0)


def _find_drift(state: ModelState) -> tuple[str, str, float] | None:
    roles = observations.FEATURE, observations.PREDICTION, observations.TARGET
    alerts = status.read_newest(state, *roles).filter("alert")
    columns = alerts.filter(pl.col("measure") != observations.P_VALUE)
    if alerts.is_empty():
        return None
    ranked = columns.sort(pl.col("statistic") / pl.col("threshold"), descending=True)
    why = "; ".join(map(status.describe_drift, ranked.head(1).to_dicts()))
    return "drift", why or "the columns together are beyond their rate", -float(alerts.height)
