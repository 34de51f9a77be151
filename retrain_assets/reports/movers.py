"""Draw what moved from summaries alone: which column when, and the farthest then and now.

Not here: which they are, and how pictures look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.observations import FEATURE, P_VALUE, PREDICTION, TARGET
from retrain_assets.domain.drift.profile import ColumnProfile
from retrain_assets.reports import canvas
from retrain_assets.reports.canvas import GREY, ORANGE
from retrain_assets.reports.plots import draw_drift

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WATCHED, UNWATCHED = "what is watched", "psi"
BINS, CATEGORIES, CUT = 24, 8, (0.005, 0.995)


def draw_watched_drift(monitoring: pl.DataFrame) -> Figure:
    """Draw when which column moved, by the measure that is farthest beyond its threshold.

    Args:
        monitoring: As `draw_drift` takes it; PSI is drawn where nothing has a threshold.
    """
    bounded = monitoring.filter(
        pl.col("role").is_in([FEATURE, PREDICTION, TARGET]),
        pl.col("threshold").is_not_null(),
        pl.col("measure") != P_VALUE,
    )
    if bounded.is_empty():
        return draw_drift(monitoring, UNWATCHED)
    multiple = pl.col("statistic") / pl.col("threshold")
    multiples = bounded.with_columns(
        measure=pl.lit(WATCHED), statistic=multiple, threshold=pl.lit(1.0)
    ).sort("statistic", descending=True, nulls_last=True)
    farthest = multiples.unique([PARTITION, "role", "column"], keep="first", maintain_order=True)
    return draw_drift(farthest, WATCHED)


def draw_movers(
    reference: Mapping[str, ColumnProfile],
    current: Mapping[str, ColumnProfile],
    moved: Sequence[Mapping[str, Any]],
) -> Figure:
    """Draw distributions of some columns in the reference and in the window.

    Args:
        reference: Summaries by column.
        current: The same of the window.
        moved: Of each column `column`, `measure`, `statistic`, `threshold` and `effect`.
    """
    rows = [row for row in moved if row["column"] in reference and row["column"] in current]
    if not rows:
        return canvas.draw_message("nothing is held against a threshold yet")
    figure = canvas.new_figure(8.0, 3.2)
    plots = figure.subplots(1, len(rows), squeeze=False)[0]
    for axes, row in zip(plots, rows, strict=True):
        sides = reference[row["column"]], current[row["column"]]
        (_draw_numbers if sides[0].kind == "numeric" else _draw_categories)(axes, *sides)
        title = f"{canvas.shorten(row['column'])}\n{canvas.shorten(row['effect'] or '')}"
        axes.set_title(title, fontsize=9, loc="left")
    first = rows[0]
    note = f"farthest: {first['column']}, {first['measure']} {first['statistic']:.3g}"
    note += f" against a threshold of {first['threshold']:.3g}"
    for axes in plots[1:]:  # one legend is enough
        for artist in (*axes.patches, *axes.containers):
            artist.set_label("_")
    canvas.draw_headline(figure, "What moved most: then (grey) and now (orange)", note)
    canvas.tidy(*plots)
    return figure


def _draw_numbers(axes: Axes, before: ColumnProfile, now: ColumnProfile) -> None:
    """Draw shares in even bins over the bulk of both sides."""
    sketches = [side.sketch for side in (before, now) if side.sketch and side.filled]
    if not sketches:
        return
    ends = np.array([sketch.get_quantiles(list(CUT)) for sketch in sketches])
    low, high = ends.min(), ends.max()
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    for side, colour, name in ((before, GREY, "then"), (now, ORANGE, "now")):
        if side.sketch and side.filled:
            shares = np.array(side.sketch.get_pmf(edges))[1:-1]
            axes.stairs(shares, edges, color=colour, fill=colour == GREY, alpha=0.8, label=name)
    axes.set_ylabel("share", fontsize=8)


def _draw_categories(axes: Axes, before: ColumnProfile, now: ColumnProfile) -> None:
    """Draw shares of the most frequent values of either side."""
    sides = [
        {name: rows / max(side.filled, 1) for name, rows in (side.counts or {}).items()}
        for side in (before, now)
    ]
    larger = {name: max(side.get(name, 0) for side in sides) for name in {*sides[0], *sides[1]}}
    names = sorted(larger, key=lambda name: (-larger[name], name))[:CATEGORIES]
    places = np.arange(len(names))
    looks = ((-0.2, GREY, "then"), (0.2, ORANGE, "now"))
    for side, (shift, colour, label) in zip(sides, looks, strict=True):
        shares = [side.get(key, 0) for key in names]
        axes.bar(places + shift, shares, 0.4, color=colour, label=label)
    axes.set_xticks(places, [canvas.shorten(name, 12) for name in names], rotation=40, ha="right")
