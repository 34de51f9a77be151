"""What people ask of a model: its status and history, as plain values.

Not here: printing them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.triggers import decide
from retrain_assets.domain.drift.observations import (
    ESTIMATED,
    FEATURE,
    P_VALUE,
    PERFORMANCE,
    PREDICTION,
    TARGET,
)
from retrain_assets.domain.windows import split
from retrain_assets.steps.decision.policy import list_requests
from retrain_assets.steps.state import MONITORING_SCHEMA, ModelState, data_digest, landed_rows
from retrain_assets.stores.ledger import LedgerError
from retrain_assets.stores.registry.registry import ModelRegistry

SHOWN, MOVED = 10, 3


def status(state: ModelState) -> dict[str, Any]:
    """The model now: production, the last decision, what is stale, and what each trigger says.

    `stale` lists partitions that production was trained on and that were corrected since.
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
        "staging": history.staged.version if history.staged else None,
        "last_decision": last.for_people() if last else None,
        "stale": stale(state),
        "staleness": staleness(state),
        "wanted": wish.retrain,
        "reason": wish.reason,
        "triggers": [asdict(cause) for cause in wish.causes],
        "performance": performance(state),
        "moved": moved(state),
        "decisions": list_requests(state, SHOWN // 2),
    }


def newest(state: ModelState, *roles: str) -> pl.DataFrame:
    """What was monitored of the newest partition and has a threshold."""
    wanted = pl.col("role").is_in(roles) & pl.col("threshold").is_not_null()
    held = state.stored("monitoring", MONITORING_SCHEMA, wanted)
    return held.filter(pl.col(PARTITION) == pl.col(PARTITION).max())


def performance(state: ModelState) -> list[dict[str, Any]]:
    """Realised and estimated performance of the newest windows that have one."""
    shown = ("role", "measure", "statistic", "low", "high", "threshold", "baseline", "alert")
    rows = newest(state, PERFORMANCE, ESTIMATED)
    return rows.select(*shown, "model_version", "window_from", "window_to").to_dicts()


def moved(state: ModelState) -> list[dict[str, Any]]:
    """The columns that lie farthest from the reference, then and now, for their threshold."""
    rows = newest(state, FEATURE, PREDICTION, TARGET).filter(pl.col("measure") != P_VALUE)
    ranked = rows.sort(pl.col("statistic") / pl.col("threshold"), descending=True)
    shown = ("column", "role", "measure", "statistic", "threshold", "alert", "effect")
    farthest = ranked.unique("column", keep="first", maintain_order=True).head(MOVED)
    return farthest.select(shown).to_dicts()


def plan(state: ModelState, last_seconds: float | None) -> dict[str, Any]:
    """What would happen now: whether a cause fires, on which windows, at what cost.

    Args:
        state: The model.
        last_seconds: How long the newest retraining took, if there was one.
    """
    wish, mature, spec = decide(state.spec, state.situation()), state.mature(), state.spec
    enough = len(mature) >= spec.windows.train + spec.windows.holdout
    windows = asdict(split(mature, spec.windows)) if enough else {}
    rows = landed_rows(state.tables, state.dataset.name)
    search, candidates = (
        spec.estimator.search,
        0 if wish.held_version else 1 + len(spec.windows.also),
    )
    return {
        "model": spec.name,
        "wanted": wish.retrain,
        "reason": wish.reason,
        "as_of": wish.as_of,
        "triggers": [asdict(cause) for cause in wish.causes],
        "windows": {name: [keys[0], keys[-1]] for name, keys in windows.items() if name != "as_of"},
        "cost": {
            "train_rows": sum(rows.get(key, 0) for key in windows.get("train", ())),
            "holdout_rows": sum(rows.get(key, 0) for key in windows.get("holdout", ())),
            "fits": candidates * (1 + (search.budget * search.folds if search else 0)) + spec.refit,
            "last_seconds": last_seconds,
        },
    }


def stale(state: ModelState) -> list[str]:
    """Partitions in production's training range whose data are not those it was trained on."""
    now, sources = state.ledger.read().production, state.sources()
    if now is None or not now.trained_on:
        return []
    trained = state.trained_on(tuple(sources), now.data_range)
    return [key for key in trained if now.trained_on.get(key) != data_digest(sources[key])]


def staleness(state: ModelState) -> str:
    """What production was trained on and what has become of it, in a sentence."""
    now, corrected = state.ledger.read().production, stale(state)
    if now is None:
        return "nothing is in production"
    datasets = ", ".join(f"{name} v{version}" for name, version in now.datasets.items())
    said = f"version {now.version} was trained on {datasets or 'data of no known version'}"
    if not corrected:
        return f"{said}; none of its partitions was corrected since"
    listed = ", ".join(corrected[:SHOWN]) + (", …" if len(corrected) > SHOWN else "")
    return f"{said}; {len(corrected)} of its partitions were corrected since: {listed}"


def verify(state: ModelState, registry: ModelRegistry) -> str:
    """Hold the ledger against itself and against the head that the registry keeps.

    Returns:
        What was found, where all fits.

    Raises:
        LedgerError: A row was changed or is missing; the message names the first.
    """
    history, kept, name = state.ledger.read(), registry.ledger_head, state.spec.name
    missing = f"row {kept.partition(' ')[0]} was changed, or is missing with those after it"
    wrong = history.misfit or (missing if kept and not history.has(kept) else "")
    if wrong:
        raise LedgerError(
            f"model {name}: the ledger does not fit: {wrong}; the registry keeps head "
            f"{kept or '(none)'}, the ledger's is {history.head or '(none)'}: look at the history "
            f"of table {state.ledger.table} and restore the version before the change"
        )
    if not kept and history.rows:
        raise LedgerError(f"model {name}: the registry keeps no head of the ledger to compare with")
    return f"{len(history.rows)} rows fit; the registry keeps head {kept or '(none)'}"


def history(state: ModelState) -> list[dict[str, object]]:
    """Every decision, oldest first."""
    return [row.for_people() for row in state.ledger.read().rows]


def as_table(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Decisions as a table of text, what is nested as JSON."""
    flat = [
        {
            name: json.dumps(value) if isinstance(value, list | dict) else value
            for name, value in row.items()
        }
        for row in rows
    ]
    return pl.DataFrame(flat, infer_schema_length=None)
