"""What a person looks at after monitoring: what moved, when, and whether it asks for retraining.

Not here: how any of it is drawn, or decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from retrain_assets.domain.features import PARTITION
from retrain_assets.domain.monitoring import FEATURE, P_VALUE, PREDICTION, TARGET
from retrain_assets.domain.triggers import decide
from retrain_assets.orchestration import checks
from retrain_assets.steps import report
from retrain_assets.steps.monitor import then_and_now

if TYPE_CHECKING:
    from retrain_assets.steps.state import ModelState

WATCHED, UNWATCHED = "what is watched", "psi"


def pictures(state: ModelState, key: str) -> dict[str, Any]:
    """Metadata of monitoring.

    Args:
        state: The model.
        key: The newest partition that was monitored.
    """
    from retrain_assets.reports.movers import movers_figure
    from retrain_assets.reports.plots import drift_heatmap, markdown

    table = state.table("monitoring")
    rows = state.tables.collect(state.tables.scan(table), table)
    held = _held(rows)
    drawn = drift_heatmap(held, WATCHED) if held.height else drift_heatmap(rows, UNWATCHED)
    wish = decide(state.spec, state.situation())
    said = [{"cause": one.cause, "fired": one.fired, "reason": one.reason} for one in wish.causes]
    return {
        "drift": dg.MetadataValue.md(markdown(drawn)),
        "moved": dg.MetadataValue.md(
            markdown(movers_figure(*then_and_now(state, key), report.moved(state)))
        ),
        "retrain": wish.reason,
        "causes": checks.table(said),
    }


def _held(rows: pl.DataFrame) -> pl.DataFrame:
    """Of each column what lies farthest beyond its threshold, in multiples of that."""
    multiple = pl.col("statistic") / pl.col("threshold")
    held = rows.filter(
        pl.col("role").is_in([FEATURE, PREDICTION, TARGET]),
        pl.col("threshold").is_not_null(),
        pl.col("measure") != P_VALUE,
    ).with_columns(measure=pl.lit(WATCHED), statistic=multiple, threshold=pl.lit(1.0))
    farthest = held.sort("statistic", descending=True, nulls_last=True)
    return farthest.unique([PARTITION, "role", "column"], keep="first", maintain_order=True)
