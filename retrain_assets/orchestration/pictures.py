"""What a person looks at after monitoring: what moved, when, and whether it asks for retraining.

Not here: how any of it is drawn, or decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from retrain_assets.domain.triggers import decide
from retrain_assets.orchestration import checks
from retrain_assets.steps import report
from retrain_assets.steps.monitor import then_and_now

if TYPE_CHECKING:
    from retrain_assets.steps.state import ModelState


def pictures(context: dg.AssetExecutionContext, state: ModelState, key: str) -> dict[str, Any]:
    """Metadata of monitoring; what was monitored is stored by now, and stands without it.

    Args:
        context: Of the run, which logs why there is none.
        state: The model.
        key: The newest partition that was monitored.
    """
    try:
        return _pictures(state, key)
    except Exception:  # a run that failed here would not be asked for again
        context.log.exception("no pictures of %s", key)
        return {"pictures": "not drawn, see the log of the run"}


def _pictures(state: ModelState, key: str) -> dict[str, Any]:
    from retrain_assets.reports.movers import movers_figure, watched_heatmap
    from retrain_assets.reports.plots import markdown

    table = state.table("monitoring")
    rows = state.tables.collect(state.tables.scan(table), table)
    wish = decide(state.spec, state.situation())
    said = [{"cause": one.cause, "fired": one.fired, "reason": one.reason} for one in wish.causes]
    return {
        "drift": dg.MetadataValue.md(markdown(watched_heatmap(rows))),
        "moved": dg.MetadataValue.md(
            markdown(movers_figure(*then_and_now(state, key), report.moved(state)))
        ),
        "retrain": wish.reason,
        "causes": checks.table(said),
    }
