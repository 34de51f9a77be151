"""Status, plan and history of a model, as plain values.

Not here: printing them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.triggers import decide
from retrain_assets.domain.drift import observations
from retrain_assets.domain.metrics.metrics import write_json
from retrain_assets.domain.windows import split
from retrain_assets.specs.base import number_of
from retrain_assets.steps.decision.policy import list_requests
from retrain_assets.steps.state import (
    MONITORING_SCHEMA,
    ModelState,
    data_digest,
    landed_rows,
    landing_files,
)
from retrain_assets.stores.ledger import LedgerError

MOST_PARTITIONS, MOST_DECISIONS, MOST_COLUMNS = 10, 5, 3


def status(state: ModelState) -> dict[str, Any]:
    """Return the model now: production, the last decision, stale partitions and triggers.

    `stale` lists partitions that production was trained on and that were corrected since, and
    `refused` the number of files and of other rows that each dataset of the model has refused.
    """
    history = state.ledger.read()
    now = history.production
    last = history.rows[-1] if history.rows else None
    wish, stale = decide(state.spec, state.situation()), list_stale(state)
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
        "stale": stale,
        "staleness": describe_staleness(state, stale),
        "wanted": wish.retrain,
        "reason": wish.reason,
        "triggers": [asdict(cause) for cause in wish.causes],
        "performance": performance(state),
        "moved": list_moved_columns(state),
        "decisions": list_requests(state, MOST_DECISIONS),
        "refused": count_refused(state),
    }


def count_refused(state: ModelState) -> dict[str, dict[str, int]]:
    """Return the refused files, and refused rows of other files, of each dataset that has some."""
    counts = {}
    for name in (state.dataset.name, *state.lookups):
        records = landing_files(state.tables, name)
        is_file = pl.col("refusal").is_not_null()
        rows = int(records.filter(~is_file)["quarantined"].sum())
        files = records.filter(is_file)["file"].n_unique()
        if files or rows:
            counts[name] = {"files": files, "rows": rows}
    return counts


def read_newest(state: ModelState, *roles: str) -> pl.DataFrame:
    """Return the rows of monitoring that have a threshold, of the newest partition."""
    watched = pl.col("role").is_in(roles) & pl.col("threshold").is_not_null()
    rows = state.stored("monitoring", MONITORING_SCHEMA, watched)
    return rows.filter(pl.col(PARTITION) == pl.col(PARTITION).max())


def performance(state: ModelState) -> list[dict[str, Any]]:
    """Return realised and estimated performance of the newest windows that have one."""
    columns = ("role", "measure", "statistic", "low", "high", "threshold", "baseline", "alert")
    rows = read_newest(state, observations.PERFORMANCE, observations.ESTIMATED)
    return rows.select(*columns, "model_version", "window_from", "window_to").to_dicts()


def list_moved_columns(state: ModelState) -> list[dict[str, Any]]:
    """Return the columns that lie farthest from the reference, relative to their threshold."""
    roles = observations.FEATURE, observations.PREDICTION, observations.TARGET
    rows = read_newest(state, *roles).filter(pl.col("measure") != observations.P_VALUE)
    ranked = rows.sort(pl.col("statistic") / pl.col("threshold"), descending=True)
    columns = ("column", "role", "measure", "statistic", "threshold", "alert", "effect")
    farthest = ranked.unique("column", keep="first", maintain_order=True).head(MOST_COLUMNS)
    return farthest.select(columns).to_dicts()


def plan(state: ModelState, last_seconds: float | None) -> dict[str, Any]:
    """Return what would happen now: whether a cause fires, on which windows, at what cost.

    Args:
        state: The model.
        last_seconds: How long the newest retraining took, if there was one.
    """
    wish, mature, spec = decide(state.spec, state.situation()), state.mature(), state.spec
    enough = len(mature) >= spec.windows.train + spec.windows.holdout
    windows = asdict(split(mature, spec.windows)) if enough else {}
    rows = landed_rows(state.tables, state.dataset.name)
    candidates = 0 if wish.held_version else 1 + len(spec.windows.also)
    search = spec.estimator.search
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


def list_stale(state: ModelState) -> list[str]:
    """Return the partitions of production's training range whose data were corrected since."""
    now, sources = state.ledger.read().production, state.sources()
    if now is None or not now.trained_on:
        return []
    trained = state.trained_on(tuple(sources), now.data_range)
    return [key for key in trained if now.trained_on.get(key) != data_digest(sources[key])]


def describe_staleness(state: ModelState, corrected: list[str]) -> str:
    """Return what production was trained on, and which of it was corrected since, as text."""
    now = state.ledger.read().production
    if now is None:
        return "nothing is in production"
    datasets = ", ".join(f"{name} v{version}" for name, version in now.datasets.items())
    origin = f"version {now.version} was trained on {datasets or 'data of no known version'}"
    if not corrected:
        return f"{origin}; none of its partitions was corrected since"
    listing = ", ".join(corrected[:MOST_PARTITIONS] + ["…"] * (len(corrected) > MOST_PARTITIONS))
    return f"{origin}; {len(corrected)} of its partitions were corrected since: {listing}"


def verify(state: ModelState) -> str:
    """Compare the ledger with itself and with the head that the registry keeps.

    Returns:
        A sentence, where all fits.

    Raises:
        LedgerError: A row was changed or is missing; the message names the first.
    """
    history, head, name = state.ledger.read(), state.registry.ledger_head, state.spec.name
    missing = f"row {head.partition(' ')[0]} was changed, or is missing with those after it"
    wrong = history.misfit or (missing if head and not history.has(head) else "")
    if wrong:
        raise LedgerError(
            f"model {name}: the ledger does not fit: {wrong}; the registry keeps head "
            f"{head or '(none)'}, the ledger's is {history.head or '(none)'}: look at the history "
            f"of table {state.ledger.table} and restore the version before the change"
        )
    if not head and history.rows:
        raise LedgerError(f"model {name}: the registry keeps no head of the ledger to compare with")
    rows = number_of(len(history.rows), "row")
    return f"the chain of {rows} fits; the registry keeps head {head or '(none)'}"


def history(state: ModelState) -> list[dict[str, object]]:
    """Return every decision, oldest first."""
    return [row.for_people() for row in state.ledger.read().rows]


def as_table(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Return decisions as a table of text, nested values as JSON."""
    flat = [
        {
            name: write_json(value) if isinstance(value, list | dict) else value
            for name, value in row.items()
        }
        for row in rows
    ]
    return pl.DataFrame(flat, infer_schema_length=None)
