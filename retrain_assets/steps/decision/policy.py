"""Ask for retraining, record what was asked and why, and let a person hold requests back.

The table `decisions` answers why a retraining was asked for as of a partition, and why it was not.
Not here: the rules that decide this (`domain.decision.triggers`).
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.situation import Pause, Request
from retrain_assets.domain.decision.triggers import decide
from retrain_assets.steps.state import ModelState, data_digest, digest

CAUSE, REQUEST = ("cause", "fired", "reason"), ("wanted", "said", "production", "seen_from", "data")
SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys((PARTITION, *CAUSE, *REQUEST), pl.String()),
    **dict.fromkeys(("fired", "wanted"), pl.Boolean()),
    "production": pl.Int64(),
}


def record_request(state: ModelState) -> Request:
    """Apply the triggers as of now, and store the request.

    A request that asked for a candidate is never overwritten. Any other is replaced by what is
    decided later as of the same partition, such as after a change of the spec.
    """
    situation = state.situation()
    request = decide(state.spec, situation)
    if (as_of := request.as_of) is None:
        return request
    built, windows = state.built(), state.spec.windows
    more = windows.holdout + state.spec.monitoring_span
    first = windows.take([key for key in built if key <= as_of], more)[0]
    shared = {
        PARTITION: as_of,
        "wanted": request.retrain,
        "said": request.reason,
        "production": situation.production.version if situation.production else None,
        "seen_from": first,
        "data": _digest_data(built, first, as_of),
    }
    rows = pl.DataFrame([shared | asdict(cause) for cause in request.causes], schema=SCHEMA)
    stored = state.stored("decisions", SCHEMA, pl.col(PARTITION) == as_of)
    if not stored["wanted"].any() and not rows.equals(stored.select(SCHEMA.keys())):
        state.tables.replace(state.table("decisions"), rows, [as_of], {"as_of": as_of})
    return request


def list_requests(state: ModelState, last: int) -> list[dict[str, Any]]:
    """List the newest requests for which a cause had fired, newest first.

    Each states whether a candidate was asked for, why or why not, and whether data that it was
    based on have been corrected since.
    """
    built = state.built()
    fired = state.stored("decisions", SCHEMA).filter(pl.col("fired").any().over(PARTITION))
    newest = fired.filter(pl.col(PARTITION).rank("dense", descending=True) <= last)
    requests = newest.group_by(PARTITION).agg(
        pl.col("cause").filter("fired"), pl.exclude("cause").first()
    )
    return [
        {
            "as_of": row[PARTITION],
            "wanted": row["wanted"],
            "reason": row["said"],
            "causes": row["cause"],
            "outdated": row["data"] != _digest_data(built, row["seen_from"], row[PARTITION]),
        }
        for row in requests.sort(PARTITION, descending=True).iter_rows(named=True)
    ]


def pause(state: ModelState, until: str, reason: str, by: str) -> Pause:
    """Prevent requests for retraining as of any partition before one.

    Raises:
        ValueError: `until` is not a partition of the dataset.
    """
    if (why := state.dataset.partition.explain_misfit(until)) is not None:
        raise ValueError(f"until: {until!r} is not a partition of {state.dataset.name}: {why}")
    pause_ = Pause(until, reason, by)
    state.ledger.write_pause(pause_, {"action": "pause", **_as_of(state), **asdict(pause_)})
    return pause_


def resume(state: ModelState, reason: str, by: str) -> Pause | None:
    """End the present pause.

    Returns:
        The pause that was ended; None if there was none.
    """
    pause_ = state.ledger.read_pause()
    if pause_ is not None:
        notes = {"action": "resume", "reason": reason, "by": by}
        state.ledger.write_pause(None, {**_as_of(state), **notes})
    return pause_


def _as_of(state: ModelState) -> dict[str, str]:
    """Return the newest partition that is monitored as a note, by which a time line is drawn."""
    return {"as_of": max(state.built(), default="")}


def _digest_data(built: Mapping[str, str], first: str, last: str) -> str:
    """Return the digest of the data of the partitions that a request is based on."""
    return digest(*(f"{key}:{data_digest(built[key])}" for key in built if first <= key <= last))
