"""What the triggering policy decided as of each partition, kept with what every cause said.

The table `policy` answers why a model was retrained, and why it was not. Not here: the policy.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import polars as pl

from retrain_assets.domain.triggers import decide
from retrain_assets.stores.tables import PARTITION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from retrain_assets.domain.triggers import Request
    from retrain_assets.steps.state import ModelState

SCHEMA: dict[str, pl.DataType] = {
    PARTITION: pl.String(),
    "cause": pl.String(),
    "fired": pl.Boolean(),
    "reason": pl.String(),
    "wanted": pl.Boolean(),
    "said": pl.String(),
    "production": pl.Int64(),
    "data": pl.String(),
}


def recorded(state: ModelState) -> Request:
    """Decide as of now, and keep the decision.

    What asked for a candidate stays as it was decided; anything else is replaced by what is decided
    later as of the same partition, such as after a changed spec.
    """
    situation = state.situation()
    wish = decide(state.spec, situation)
    if wish.as_of is None:
        return wish
    table, production = state.table("policy"), situation.production
    kept = _read(state).filter(pl.col(PARTITION) == wish.as_of)
    fixed = {
        PARTITION: wish.as_of,
        "wanted": wish.wanted,
        "said": wish.reason,
        "production": production.version if production else None,
        "data": data_digest_of(state.built(), wish.as_of, _length(state)),
    }
    rows = pl.DataFrame(
        [
            fixed | {"cause": one.cause, "fired": one.fired, "reason": one.reason}
            for one in wish.causes
        ],
        schema=SCHEMA,
    )
    if not kept["wanted"].any() and not rows.equals(kept.select(SCHEMA.keys())):
        state.tables.replace(table, rows, [wish.as_of], {"as_of": wish.as_of})
    return wish


def decisions(state: ModelState, last: int) -> list[dict[str, Any]]:
    """The newest decisions that a cause had fired for, newest first.

    Each says whether a candidate was asked for, why or why not, and whether data it looked at have
    been corrected since.
    """
    rows, built, found = _read(state), state.built(), []
    fired = rows.filter(pl.col("fired").any().over(PARTITION))
    parts = fired.partition_by(PARTITION, as_dict=True)
    for (key,) in sorted(parts, reverse=True)[:last]:
        part = parts[key,]
        first = part.row(0, named=True)
        found.append(
            {
                "as_of": key,
                "wanted": first["wanted"],
                "reason": first["said"],
                "causes": part.filter("fired")["cause"].to_list(),
                "outdated": first["data"] != data_digest_of(built, str(key), _length(state)),
            }
        )
    return found


def data_digest_of(built: Mapping[str, str], as_of: str, length: int) -> str:
    """Digest of the content of the partitions that a decision looked at."""
    seen = [f"{key}:{built[key]}" for key in built if key <= as_of][-length:]
    return sha256("|".join(seen).encode()).hexdigest()[:16]


def _length(state: ModelState) -> int:
    windows = state.spec.windows
    return windows.train + windows.holdout + state.spec.looked_back


def _read(state: ModelState) -> pl.DataFrame:
    table = state.table("policy")
    return state.tables.collect(state.tables.scan(table, SCHEMA), table)
