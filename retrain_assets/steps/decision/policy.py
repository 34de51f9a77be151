"""What the triggering policy decided as of each partition, kept with what every cause said.

The table `decisions` answers why a model was retrained, and why it was not. Not here: the policy.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.situation import Request
from retrain_assets.domain.decision.triggers import decide
from retrain_assets.steps.state import ModelState, data_digest, digest

SCHEMA: dict[str, pl.DataType] = {
    PARTITION: pl.String(),
    "cause": pl.String(),
    "fired": pl.Boolean(),
    "reason": pl.String(),
    "wanted": pl.Boolean(),
    "said": pl.String(),
    "production": pl.Int64(),
    "seen_from": pl.String(),
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
    built, production = state.built(), situation.production
    seen_from = _seen_from(state, built, wish.as_of)
    fixed = {
        PARTITION: wish.as_of,
        "wanted": wish.wanted,
        "said": wish.reason,
        "production": production.version if production else None,
        "seen_from": seen_from,
        "data": _seen(built, seen_from, wish.as_of),
    }
    rows = pl.DataFrame(
        [
            fixed | {"cause": one.cause, "fired": one.fired, "reason": one.reason}
            for one in wish.causes
        ],
        schema=SCHEMA,
    )
    kept = state.stored("decisions", SCHEMA, pl.col(PARTITION) == wish.as_of)
    if not kept["wanted"].any() and not rows.equals(kept.select(SCHEMA.keys())):
        state.tables.replace(state.table("decisions"), rows, [wish.as_of], {"as_of": wish.as_of})
    return wish


def decisions(state: ModelState, last: int) -> list[dict[str, Any]]:
    """The newest decisions that a cause had fired for, newest first.

    Each says whether a candidate was asked for, why or why not, and whether data it looked at have
    been corrected since.
    """
    built, found = state.built(), []
    fired = state.stored("decisions", SCHEMA).filter(pl.col("fired").any().over(PARTITION))
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
                "outdated": first["data"] != _seen(built, first["seen_from"], str(key)),
            }
        )
    return found


def _seen_from(state: ModelState, built: Mapping[str, str], as_of: str) -> str:
    """The first partition that a decision looks at."""
    windows = state.spec.windows
    length = windows.train + windows.holdout + state.spec.monitoring_span
    return [key for key in built if key <= as_of][-length:][0]


def _seen(built: Mapping[str, str], first: str, last: str) -> str:
    """Digest of the data of the partitions that a decision looked at."""
    return digest(*(f"{key}:{data_digest(built[key])}" for key in built if first <= key <= last))
