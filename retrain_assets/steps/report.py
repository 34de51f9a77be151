"""What people ask of a model: its status and history, as plain values.

Not here: printing them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from retrain_assets.domain.triggers import decide

if TYPE_CHECKING:
    from retrain_assets.steps.state import ModelState


def status(state: ModelState) -> dict[str, Any]:
    """The model now: production, the last decision, what is stale, and what each trigger says.

    `stale` lists partitions that production was trained on and whose datasets changed since.
    """
    history = state.ledger.read()
    now = history.production
    last = history.rows[-1] if history.rows else None
    wish = decide(state.spec, state.situation())
    return {
        "model": state.spec.name,
        "production": now
        and {
            "version": now.version,
            "since": now.time.isoformat(),
            "data_range": list(now.data_range),
            "metrics": now.metrics,
        },
        "candidate": last.candidate if last else None,
        "staging": None,
        "last_decision": last.for_people() if last else None,
        "stale": stale(state),
        "wanted": wish.wanted,
        "reason": wish.reason,
        "triggers": [asdict(cause) for cause in wish.causes],
    }


def stale(state: ModelState) -> list[str]:
    """Partitions in production's training range that are not what they were built from."""
    now, sources = state.ledger.read().production, state.sources()
    if now is None:
        return []
    built, trained = state.built(), state.trained_on(tuple(sources), now.data_range)
    return [key for key in trained if built.get(key) != sources[key]]


def history(state: ModelState) -> list[dict[str, object]]:
    """Every decision, oldest first."""
    return [row.for_people() for row in state.ledger.read().rows]
