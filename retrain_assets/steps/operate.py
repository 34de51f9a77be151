"""What a person decides: to approve, to roll back, to hold retraining back, to let it go on.

Not here: what the gate decides, and telling people.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from retrain_assets.domain.situation import Pause
from retrain_assets.steps.decide import DecisionError, reconcile, seen_through
from retrain_assets.stores.ledger import reversible

if TYPE_CHECKING:
    from retrain_assets.steps.state import ModelState
    from retrain_assets.stores.ledger import Action, History, LedgerRow
    from retrain_assets.stores.models import ModelRegistry


def approve(
    state: ModelState, registry: ModelRegistry, version: int, reason: str, by: str
) -> LedgerRow:
    """Put the version that waits for approval into production.

    Args:
        state: The model.
        registry: Its versions.
        version: The version.
        reason: Why, for the ledger.
        by: Who approves.

    Raises:
        DecisionError: Another version waits, or none.
    """
    history = state.ledger.read()
    staged = history.staged
    if staged is None or staged.version != version:
        waits = f"version {staged.version} does" if staged else "none does"
        raise DecisionError(
            f"model {state.spec.name}: version {version} does not wait for approval: {waits}"
        )
    return _serve(state, registry, history, staged, action="approve", reason=reason, by=by)


def roll_back(
    state: ModelState, registry: ModelRegistry, to: int | None, reason: str, by: str
) -> LedgerRow:
    """Put an earlier version back into production.

    One that was killed once it stood in the ledger is finished, and not followed by another.

    Args:
        state: The model.
        registry: Its versions.
        to: The version; the one before the present by default.
        reason: Why, for the ledger.
        by: Who asks.

    Raises:
        DecisionError: There is no such version to go back to; the message lists those there are.
    """
    history = state.ledger.read()
    last = history.rows[-1] if history.rows else None
    again = last is not None and last.action == "rollback" and to in (None, last.version)
    if last is not None and again and reconcile(registry, history):
        return last
    served = reversible(history.rows)
    if history.production is None or (len(served) < 2 and to is None):  # noqa: PLR2004 now and before
        raise DecisionError(f"model {state.spec.name}: no earlier version to roll back to")
    now = history.production
    target = to if to is not None else next(v for v in served if v != now.version)
    if target == now.version or target not in served:
        others = ", ".join(str(version) for version in served if version != now.version)
        raise DecisionError(
            f"model {state.spec.name}: cannot roll back to version {target}: "
            f"version {now.version} is in production, earlier ones are {others or 'none'}"
        )
    then = next(row for row in reversed(history.rows) if row.version == target)
    return _serve(state, registry, history, then, action="rollback", reason=reason, by=by)


def pause(state: ModelState, until: str, reason: str, by: str) -> Pause:
    """Let no retraining be asked for as of any partition before one.

    Raises:
        ValueError: `until` is no partition of the dataset.
    """
    if not state.dataset.partition.is_key(until):
        raise ValueError(f"until: {until!r} is no partition of {state.dataset.name}")
    made = Pause(until, reason, by)
    state.pauses.write(made, {"action": "pause", **asdict(made)})
    return made


def resume(state: ModelState, reason: str, by: str) -> Pause | None:
    """End the pause that stands.

    Returns:
        The pause that stood; None where there was none.
    """
    stood = state.pauses.read()
    if stood is not None:
        state.pauses.write(None, {"action": "resume", "reason": reason, "by": by})
    return stood


def _serve(
    state: ModelState,
    registry: ModelRegistry,
    history: History,
    then: LedgerRow,
    *,
    action: Action,
    reason: str,
    by: str,
) -> LedgerRow:
    """Put the version of an earlier row into production, once it has answered elsewhere.

    Raises:
        DecisionError: A clean process cannot load it, or it predicts something else than it did.
    """
    found = replace(registry.version(then.version), sha256=then.sha256)
    tried = registry.check_in_clean_process(found, state.spec.target.kind)
    if not tried.passed:
        raise DecisionError(
            f"model {state.spec.name}: version {then.version} does not answer, production stays: "
            f"{tried.detail}"
        )
    partitions, now = state.mature(), history.production
    row = replace(
        then,
        time=datetime.now(UTC),
        as_of=partitions[-1] if partitions else then.as_of,
        seen_through=seen_through(state),
        action=action,
        previous=now.version if now else None,
        reason=reason,
        causes=("request",),
        because="",
        by=by,
    )
    reconcile(registry, state.ledger.append(row, history))
    return row
