"""A picture of what policies would have brought and cost.

Not here: playing them, and how pictures look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from retrain_assets.domain.performance import defined
from retrain_assets.reports import canvas
from retrain_assets.reports.canvas import BLUE, GREEN, GREY, INK, ORANGE, PURPLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from retrain_assets.domain.replay import Outcome

LINES, FEW_LABELS = (BLUE, GREEN, PURPLE, GREY), 4


def replay_figure(outcome: Outcome) -> Figure:
    """Cost and benefit of each policy, and when the benefit came about."""
    figure = canvas.new_figure(9.6, 4.4)
    left, right = figure.subplots(1, 2)
    sign = 1 if defined(outcome.metric).greater_is_better else -1
    ranked = sorted(outcome.standings, key=lambda one: sign * one.mean)
    for place, one in enumerate(ranked):
        colour = ORANGE if one.name == outcome.best else BLUE if one.gated else GREY
        left.plot(one.mean, place, "o" if one.gated else "s", color=colour)
        said = f"{one.fits} fits"
        left.annotate(
            said, (one.mean, place), (7, 0), textcoords="offset points", fontsize=8, va="center"
        )
    left.set_yticks(range(len(ranked)), [canvas.literal(one.name) for one in ranked])
    left.set(xlabel=f"mean {outcome.metric}")
    left.margins(x=0.2, y=0.1)
    first, *others = outcome.standings
    shown = sorted(others, key=lambda one: -one.gain)[: len(LINES)]
    for one, own in zip(shown, LINES, strict=False):
        colour = ORANGE if one.name == outcome.best else own
        gains = np.cumsum(outcome.gains(one.name))
        right.plot(gains, label=canvas.literal(one.name), color=colour)
    right.axhline(0, color=INK, linewidth=1)
    right.set(ylabel=f"summed gain over {canvas.literal(first.name)}")
    canvas.label_some(right, outcome.shared, FEW_LABELS)
    canvas.headline(figure, "What policies would have brought, the best on top", outcome.said)
    canvas.tidy(left, right)
    return figure
