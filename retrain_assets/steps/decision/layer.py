"""Decide whether the adaptive layer serves, and record it in the ledger.

Not here: the test (`domain.adaptation.service`), and what the layer serves.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl

from retrain_assets.domain.adaptation.service import Standing, assess
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.steps.decision import promote
from retrain_assets.steps.monitoring.adapt import read_losses
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import Action, History, LedgerRow
from retrain_assets.stores.tables.tables import StaleTableError


def assess_layer(state: ModelState, rows: pl.DataFrame, history: History) -> Standing:
    """Judge by the losses since its last change whether the layer is to begin or end to serve."""
    if history.layer is not None:
        rows = rows.filter(pl.col(PARTITION) > history.layer.seen_through)
    losses = rows["loss_newest"].to_list(), rows["loss_layer"].to_list()
    return assess(*losses, serves=history.is_adapted, week=state.dataset.partition.per_week)


def waits_for_approval(state: ModelState, history: History, standing: Standing) -> bool:
    """Return whether the layer is to begin to serve for the first time, and a person must agree."""
    is_first = state.spec.approval == "manual" and history.layer is None
    return state.spec.layer.mode == "auto" and is_first and standing.changes


def act(state: ModelState, run_id: str) -> LedgerRow | None:
    """Let the layer begin or end to serve, if that is due; return the ledger's row of it."""
    history, mode = state.ledger.read(), state.spec.layer.mode
    if history.production is None:
        return None
    if mode != "auto":
        reason = f"the YAML has `adapt: {mode}`"
        return _record(state, history, reason, f"run {run_id}") if history.is_adapted else None
    standing = assess_layer(state, read_losses(state), history)
    if not standing.changes or waits_for_approval(state, history, standing):
        return None
    return _record(state, history, standing.sentence, f"run {run_id}")


def approve_layer(state: ModelState, reason: str, by: str) -> LedgerRow:
    """Let the layer begin to serve, if it waits for that.

    Raises:
        DecisionError: It does not wait.
    """
    history = state.ledger.read()
    standing = assess_layer(state, read_losses(state), history)
    if not waits_for_approval(state, history, standing):
        raise promote.DecisionError(
            f"model {state.spec.name}: the adaptive layer does not wait for approval. It waits "
            "only with `adapt: auto` and `approval: manual`, before it first serves, and when its "
            f"test has passed. Now: {standing.sentence}"
        )
    row = _record(state, history, f"{reason}; {standing.sentence}", by)
    if row is None:
        raise promote.DecisionError(
            f"model {state.spec.name}: another process has added a row to the ledger: try again"
        )
    return row


def _record(state: ModelState, history: History, reason: str, by: str) -> LedgerRow | None:
    """Record that the layer begins or ends to serve; None if somebody else decided meanwhile."""
    production = history.production
    assert production is not None  # noqa: S101 a layer without a version never moved
    action: Action = "withdraw" if history.is_adapted else "adapt"
    fields: dict[str, Any] = {
        "time": datetime.now(UTC),
        "as_of": max(state.mature(), default=production.as_of),
        "seen_through": max(state.built()),
        "previous": production.version,
        "causes": (),
        "because": "",
        "candidate": None,
        "more": None,
    }
    row = replace(production, **fields, action=action, reason=reason, by=by)
    try:
        return promote.commit(state, row, history)
    except StaleTableError:
        return None
