"""A picture of what policies would have brought and cost.

Not here: playing them, and how pictures look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from retrain_assets.domain.performance import defined
from retrain_assets.reports import canvas
from retrain_assets.reports.canvas import BLUE, GREY, INK, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from retrain_assets.domain.replay import Outcome

MOST_LINES, FEW_LABELS = 4, 4


def replay_figure(outcome: Outcome) -> Figure:
    """Cost and benefit of each policy, and when the benefit came about."""
    figure = canvas.new_figure(9.6, 4.4)
    left, right = figure.subplots(1, 2)
    for one in outcome.standings:
        colour = ORANGE if one.name == outcome.best else BLUE if one.gated else GREY
        place = (max(one.fits, 1), one.mean)
        left.plot(*place, "o" if one.gated else "s", color=colour)
        left.annotate(
            canvas.literal(one.name), place, (5, 3), textcoords="offset points", fontsize=7
        )
    left.set(xscale="log", xlabel="fits (logarithmic)", ylabel=f"mean {outcome.metric}")
    left.margins(x=0.2, y=0.1)
    left.minorticks_off()
    fits = sorted({max(one.fits, 1) for one in outcome.standings})
    left.set_xticks(fits, [str(number) for number in fits])
    if not defined(outcome.metric).greater_is_better:
        left.invert_yaxis()
    first, *others = outcome.standings
    for one in sorted(others, key=lambda one: -one.gain)[:MOST_LINES]:
        right.plot(np.cumsum(outcome.gains(one.name)), label=canvas.literal(one.name))
    right.axhline(0, color=INK, linewidth=1)
    right.set(ylabel=f"summed gain over {canvas.literal(first.name)}")
    canvas.label_some(right, outcome.shared, FEW_LABELS)
    canvas.headline(figure, "What policies would have brought; up is better", outcome.said)
    canvas.tidy(left, right)
    return figure
