"""Draw what monitoring saw: drift by partition, what moved most, and what the adaptive layer gains.

Each day draws them for each model, so they are SVG (`svg`). Not here: what is measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.observations import FEATURE, P_VALUE, PREDICTION, TARGET
from retrain_assets.domain.drift.profile import ColumnProfile
from retrain_assets.reports.canvas import BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE, cut
from retrain_assets.reports.svg import (
    LETTER,
    LINE,
    TOP,
    Box,
    Picture,
    Plot,
    Point,
    draw_message,
)

BELOW_THRESHOLD = ("#f4f8fc", "#d6e6f4", "#a6c8e4", "#6c9fce")
REACHED_THRESHOLD = ("#fdc27c", "#f08a3c", "#d34a1c", "#86180f")
COLOURS, MULTIPLES = BELOW_THRESHOLD + REACHED_THRESHOLD, (0, 0.25, 0.5, 0.75, 1, 2, 4, 8)
JUST_BELOW = 0.999
MOST_COLUMNS, MOST_PARTITIONS = 30, 120
IDENTITY = ["role", "column"]
WATCHED, UNWATCHED = "what is watched", "psi"
SHARE_BINS, CATEGORIES, CUT = 24, 8, (0.005, 0.995)
WIDTH, MARGIN, ROW, CELL = 800, 40, 22, 48  # pixels: of a picture, and of a colour of its legend
HEADS = (GREY, BLUE, PURPLE, GREEN, ORANGE)
Sides = tuple[ColumnProfile, ColumnProfile]


class Drift(NamedTuple):
    """The cells of a heat map.

    Args:
        partitions: The newest partitions, in order.
        columns: The names of the columns, the one that drifted most in the newest partition first.
        multiples: Statistics as multiples of their threshold, of shape (columns, partitions); NaN
            where there is none. What alerts is at or above 1 and nothing else is, so that the
            colours say what was decided.
        alerts: How many columns alert in the newest partition, in words.
        bounded: Whether there is any threshold; otherwise multiples are shares of the largest.
    """

    partitions: list[str]
    columns: list[str]
    multiples: np.ndarray
    alerts: str
    bounded: bool


def draw_watched_drift(monitoring: pl.DataFrame) -> Picture:
    """Draw when which column moved, by the measure that is farthest beyond its threshold.

    Args:
        monitoring: As `draw_drift` takes it; PSI is drawn where nothing has a threshold.
    """
    farthest = select_watched(monitoring)
    if farthest.is_empty():
        return draw_drift(monitoring, UNWATCHED)
    multiples = farthest.with_columns(
        measure=pl.lit(WATCHED), statistic=pl.col("multiple"), threshold=pl.lit(1.0)
    )
    return draw_drift(multiples, WATCHED)


def select_watched(monitoring: pl.DataFrame) -> pl.DataFrame:
    """Return of each partition and column the measure that is farthest beyond its threshold.

    Args:
        monitoring: As `draw_drift` takes it.

    Returns:
        Its rows, with `multiple`: the statistic in multiples of its threshold.
    """
    bounded = monitoring.filter(
        pl.col("role").is_in([FEATURE, PREDICTION, TARGET]),
        pl.col("threshold").is_not_null(),
        pl.col("measure") != P_VALUE,
    )
    multiples = bounded.with_columns(multiple=pl.col("statistic") / pl.col("threshold"))
    ordered = multiples.sort("multiple", descending=True, nulls_last=True)
    return ordered.unique([PARTITION, *IDENTITY], keep="first", maintain_order=True)


def draw_drift(monitoring: pl.DataFrame, measure: str) -> Picture:
    """Draw when which column drifted. Only what alerts is orange to red.

    Args:
        monitoring: A row per partition, role, measure and column, with `statistic`, `threshold`
            and `alert`.
        measure: The measure of drift to show.
    """
    drift = select_drift(monitoring, measure)
    if drift is None:
        return draw_message(f"{measure}: nothing monitored yet")
    count, left = len(drift.columns), LETTER * max(map(len, drift.columns)) + 16
    height = ROW * count
    picture = Picture(WIDTH, TOP + height + 80, f"Drift by {measure}", drift.alerts)
    width, places = WIDTH - left - MARGIN, len(drift.partitions)
    plot = Plot(picture, (left, TOP), width, height, (0, places), (count, 0))
    picture.draw_boxes(PALE, (left, TOP, width, height))
    boxes: dict[str, list[Box]] = {colour: [] for colour in COLOURS}
    for row, (name, multiples) in enumerate(zip(drift.columns, drift.multiples, strict=True)):
        picture.write(name, (left - 8, TOP + ROW * row + 15), text_anchor="end")
        for first, end, colour in _list_runs(multiples):
            start = plot.at(first, row)
            boxes[colour].append((*start, plot.at(end, row)[0] - start[0], ROW - 1))
    for colour, parts in boxes.items():
        picture.draw_boxes(colour, *parts)
    plot.name_places([(place + 0.5, name) for place, name in enumerate(drift.partitions)])
    _draw_scale(picture, (8, TOP + height + 36), bounded=drift.bounded)
    return picture


def select_drift(monitoring: pl.DataFrame, measure: str) -> Drift | None:
    """Return what `draw_drift` shows; None if nothing was monitored by the measure."""
    rows = monitoring.filter(pl.col("measure") == measure)
    rows = rows.with_columns(pl.col("statistic").fill_nan(None))
    if rows.is_empty():
        return None
    partitions = rows[PARTITION].unique().sort().tail(MOST_PARTITIONS).to_list()
    rows = rows.filter(pl.col(PARTITION).is_in(partitions))
    newest = rows.filter(pl.col(PARTITION) == partitions[-1])
    columns = _rank_columns(rows, newest)
    names = [_name_row(*row) for row in columns.iter_rows()]
    alerts = f"{newest['alert'].sum()} of {newest.height} columns alert in {partitions[-1]}"
    multiples = _divide_by_threshold(rows, columns, partitions)
    return Drift(partitions, names, multiples, alerts, rows["threshold"].count() > 0)


def _rank_columns(rows: pl.DataFrame, newest: pl.DataFrame) -> pl.DataFrame:
    """Return role and column of the heat map's rows, the largest newest statistic first."""
    ranked = rows.select(IDENTITY).unique().join(newest, on=IDENTITY, how="left")
    order = ranked.sort("statistic", *IDENTITY, descending=[True, False, False], nulls_last=True)
    return order.select(IDENTITY).head(MOST_COLUMNS)


def _name_row(role: str, column: str) -> str:
    return cut(column if role in ("feature", column) else f"{column} ({role})")


def _divide_by_threshold(
    rows: pl.DataFrame, columns: pl.DataFrame, partitions: Sequence[str]
) -> np.ndarray:
    """Return statistics in multiples of their threshold, of shape (columns, partitions).

    A statistic without a threshold is held against the largest that there is.
    """
    largest = rows["threshold"].max() or rows["statistic"].max() or 1.0
    multiple = pl.col("statistic") / pl.col("threshold").fill_null(largest)
    decided = pl.when("alert").then(multiple.clip(1)).otherwise(multiple.clip(0, JUST_BELOW))
    cells = rows.with_columns(decided.alias("multiple")).pivot(
        PARTITION, partitions, index=IDENTITY, values="multiple", aggregate_function="max"
    )
    ordered = columns.join(cells, on=IDENTITY, how="left", maintain_order="left")
    return ordered.select(partitions).to_numpy()


def _list_runs(multiples: np.ndarray) -> Iterator[tuple[int, int, str]]:
    """Yield the first place, the end and the colour of neighbours of one colour, but for NaN."""
    levels = np.searchsorted(MULTIPLES, multiples, side="right") - 1
    levels[np.isnan(multiples)] = -1
    starts = [0, *(np.flatnonzero(np.diff(levels)) + 1).tolist(), len(levels)]
    for first, end in pairwise(starts):
        if levels[first] >= 0:
            yield first, end, COLOURS[levels[first]]


def _draw_scale(picture: Picture, corner: Point, *, bounded: bool) -> None:
    """Draw the colours of multiples, and name their ends."""
    colours = COLOURS if bounded else BELOW_THRESHOLD
    left, top = corner
    for number, colour in enumerate(colours):
        picture.draw_boxes(colour, (left + CELL * number, top, CELL, 10))
        picture.write(f"{MULTIPLES[number]:g}", (left + CELL * number, top + 24))
    unit = "multiples of the threshold: an alert from 1 on" if bounded else "share of the largest"
    picture.write(unit, (left + CELL * len(colours) + 12, top + 10), fill=GREY)


def draw_movers(
    reference: Mapping[str, ColumnProfile],
    current: Mapping[str, ColumnProfile],
    moved: Sequence[Mapping[str, Any]],
) -> Picture:
    """Draw distributions of some columns in the reference and in the window.

    Args:
        reference: Summaries by column.
        current: The same of the window.
        moved: Of each column `column`, `measure`, `statistic`, `threshold` and `effect`.
    """
    rows = [row for row in moved if row["column"] in reference and row["column"] in current]
    if not rows:
        return draw_message("nothing is held against a threshold yet")
    note = f"farthest: {cut(rows[0]['column'])}, {rows[0]['measure']} {rows[0]['statistic']:.3g}"
    note += f" against a threshold of {rows[0]['threshold']:.3g}"
    picture = Picture(WIDTH, 330, "What moved most: then (grey) and now (orange)", note)
    part = WIDTH / len(rows)
    for number, row in enumerate(rows):
        corner, width = (part * number + MARGIN, TOP + 52), part - MARGIN - 16
        for line, text in enumerate((row["column"], row["effect"] or "")):
            at = (corner[0], TOP + 8 + LINE * line)
            picture.write(cut(text, int(width / LETTER)), at, font_size=12)
        sides = reference[row["column"]], current[row["column"]]
        (_draw_numbers if sides[0].kind == "numeric" else _draw_categories)(
            picture, corner, width, sides
        )
    picture.draw_legend([(GREY, "then"), (ORANGE, "now")], MARGIN, picture.height - 10)
    return picture


def bin_numbers(sides: Sides) -> tuple[np.ndarray, list[np.ndarray]] | None:
    """Return edges of even bins over the bulk of both sides, and the shares of each; None if empty.

    A side without values has no shares.
    """
    sketches = [side.sketch if side.filled else None for side in sides]
    ends = [sketch.get_quantiles(list(CUT)) for sketch in sketches if sketch]
    if not ends:
        return None
    low, high = np.min(ends), np.max(ends)
    edges = np.linspace(low, high if high > low else low + 1, SHARE_BINS + 1)
    parts = [
        np.array(sketch.get_pmf(edges))[1:-1] if sketch else np.array([]) for sketch in sketches
    ]
    return edges, parts


def _draw_numbers(picture: Picture, corner: Point, width: float, sides: Sides) -> None:
    """Draw shares of bins as steps."""
    if (bins := bin_numbers(sides)) is None:
        return
    edges, parts = bins
    highest = max(part.max(initial=0) for part in parts) or 1.0
    plot = Plot(picture, corner, width, 150, (edges[0], edges[-1]), (0, 1.05 * highest))
    plot.draw_heights("share")
    for part, looks in zip(parts, ({"fill": "#9aa6b8"}, {"stroke": ORANGE}), strict=True):
        heights = np.repeat([0, *part, 0], 2)[1:-1] if part.size else ()
        plot.draw_line(zip(np.repeat(edges, 2), heights, strict=False), **looks)
    plot.draw_widths()


def rank_categories(sides: Sides) -> list[tuple[str, list[float]]]:
    """Return the most frequent values of either side, with their shares in both."""
    shares = [
        {name: rows / max(side.filled, 1) for name, rows in (side.counts or {}).items()}
        for side in sides
    ]
    pairs = {name: [side.get(name, 0.0) for side in shares] for name in {*shares[0], *shares[1]}}
    return sorted(pairs.items(), key=lambda item: (-max(item[1]), item[0]))[:CATEGORIES]


def _draw_categories(picture: Picture, corner: Point, width: float, sides: Sides) -> None:
    """Draw shares of values as bars."""
    ranked = rank_categories(sides)
    highest = max((max(pair) for _, pair in ranked), default=0.0) or 1.0
    plot = Plot(picture, corner, width, 150, (0, len(ranked)), (0, 1.05 * highest))
    plot.draw_heights("share")
    bar = 0.4 * width / max(1, len(ranked))
    for place, (name, pair) in enumerate(ranked):
        for share, shift, colour in zip(pair, (0.1, 0.5), (GREY, ORANGE), strict=True):
            at = plot.at(place + shift, share)
            picture.draw_boxes(colour, (*at, bar, plot.at(0, 0)[1] - at[1]))
        x, y = plot.at(place + 0.6, 0)
        slant = f"rotate(-40 {x:.1f} {y + 14:.1f})"
        picture.write(cut(name, 12), (x, y + 14), text_anchor="end", transform=slant)


def draw_adaptation(rows: pl.DataFrame) -> Picture:
    """Draw what the adaptive layer gains over the newest version alone, and how it mixes heads.

    Args:
        rows: A row a partition, in order: `loss_layer`, `loss_newest`, and `weight_<head>` of each
            head.
    """
    if rows.is_empty():
        return draw_message("no partition with final labels has moved the layer yet")
    newest = rows.tail(MOST_PARTITIONS)
    keys, gain = newest[PARTITION].to_list(), newest["loss_newest"] - newest["loss_layer"]
    means = f"mean gain {gain.sum() / newest.height:.3g} on {newest.height} partitions"
    title = "The adaptive layer against the newest version alone"
    picture = Picture(WIDTH, 490, title, f"{means} through {keys[-1]}")
    width, ends = WIDTH - 2 * MARGIN - 20, (0, max(1, newest.height - 1))
    sums = [0.0, *gain.cum_sum().fill_nan(None).forward_fill().fill_null(0.0)]
    low, high = min(sums), max(sums)
    bounds = (low, high) if low < high else (-1.0, 1.0)
    gains = Plot(picture, (MARGIN + 20, TOP + 22), width, 150, ends, bounds)
    gains.draw_heights("summed gain of the layer: loss of the newest less its own")
    gains.draw_line([(0, 0), (ends[1], 0)], stroke=INK)
    gains.draw_line(enumerate(sums[1:]), stroke=ORANGE, stroke_width=2)
    weights = Plot(picture, (MARGIN + 20, TOP + 212), width, 150, ends, (0, 1))
    weights.draw_heights("weight of heads")
    weights.name_places([*enumerate(keys)])
    _draw_weights(weights, newest.select(pl.col("^weight_.*$")))
    return picture


def _draw_weights(plot: Plot, weights: pl.DataFrame) -> None:
    """Draw weights as areas above each other, and name them below the plot."""
    below = np.zeros(weights.height)
    names = [name.removeprefix("weight_").replace("_", " ") for name in weights.columns]
    for column, colour in zip(weights.iter_columns(), HEADS, strict=False):
        above = below + column.fill_null(0.0).to_numpy()
        outline = [*enumerate(above), *reversed([*enumerate(below)])]
        plot.draw_line(outline, fill=colour, stroke=colour)
        below = above
    left, top = plot.corner
    plot.picture.draw_legend([*zip(HEADS, names, strict=False)], left, top + plot.height + 44)
