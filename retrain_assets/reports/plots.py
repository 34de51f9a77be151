"""Draw the pictures beside the numbers: one figure a call, without any global state.

Not here: what is measured, and where pictures are stored.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.replay import Outcome
from retrain_assets.domain.drift.observations import FEATURE, P_VALUE, PREDICTION, TARGET
from retrain_assets.domain.drift.profile import ColumnProfile
from retrain_assets.domain.metrics.metrics import get_metric
from retrain_assets.reports import canvas
from retrain_assets.reports.canvas import BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE, Axes, Figure
from retrain_assets.specs.features import Kind

JUST_BELOW = 0.999
DENSITY = ("#d6e6f4", BLUE, "#0f2747")
BINS = 10
MOST_CLASSES, MOST_COLUMNS, MOST_PARTITIONS = 15, 30, 120
OTHERS = "all others"
IDENTITY = ["role", "column"]


def draw_holdout(
    kind: Kind, target: np.ndarray, prediction: np.ndarray, classes: Sequence[Any] | None = None
) -> Figure:
    """Draw a model's predictions on its holdout.

    Args:
        kind: The kind of prediction.
        target: Labels, of shape (rows,).
        prediction: Probability of label 1 (rows,), of each class (rows, classes), or a number
            (rows,), as the kind has it.
        classes: The class of each column of `prediction`, for multiclass.
    """
    if kind == "multiclass":
        return draw_confusion(target, prediction, classes if classes is not None else ())
    return (draw_reliability if kind == "binary" else draw_actual)(target, prediction)


def draw_reliability(target: np.ndarray, prediction: np.ndarray) -> Figure:
    """Draw whether predicted probabilities are what happens.

    Args:
        target: Labels, of shape (rows,): 0 and 1, or booleans.
        prediction: Predicted probability of label 1, of shape (rows,).

    Returns:
        Mean prediction against observed share in 10 equal-count bins (fewer where predictions
        tie), above the number of rows by prediction and label.
    """
    positive = np.asarray(target).astype(bool)
    figure = canvas.new_figure(6.4, 5.2)
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    predicted, observed = _average_bins(prediction, positive)
    limit = min(1.0, 1.05 * max(prediction.max(), observed.max()))
    axes.axline((0, 0), slope=1, color=GREY, linestyle="--", linewidth=1, label="ideal")
    axes.plot(predicted, observed, color=BLUE, marker="o", clip_on=False, label="observed")
    axes.set(xlim=(0, limit), ylim=(0, limit), ylabel="observed share")
    counts.hist(
        [prediction[positive], prediction[~positive]],
        bins=np.linspace(0, limit, 41),
        stacked=True,
        color=[ORANGE, PALE],
        label=["label 1", "label 0"],
    )
    counts.set(xlabel="predicted probability", ylabel="rows")
    shares = f"{prediction.mean():.1%} predicted, {positive.mean():.1%} observed"
    note = f"{len(positive):,} rows: {shares}"
    return canvas.finish(figure, "Predicted probability against observed share", note, axes, counts)


def draw_actual(target: np.ndarray, prediction: np.ndarray) -> Figure:
    """Draw predicted numbers against what they turned out to be.

    Args:
        target: Actual values, of shape (rows,).
        prediction: Predicted values, of shape (rows,).

    Returns:
        Density of rows, and the mean actual value in 10 equal-count bins of predictions. The axes
        leave out the outermost half per cent of values at each end; the figure says how many.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import LogFormatter

    figure = canvas.new_figure(6.4, 4.8)
    axes = figure.subplots()
    x_limits, y_limits = _cut_tails(prediction), _cut_tails(target)
    inside = _is_within(prediction, x_limits) & _is_within(target, y_limits)
    density = axes.hexbin(
        prediction[inside],
        target[inside],
        gridsize=(44, 22),
        extent=(*x_limits, *y_limits),
        bins="log",
        mincnt=1,
        cmap=LinearSegmentedColormap.from_list("density", DENSITY),
        linewidths=0.1,
    )
    bar = figure.colorbar(density, ax=axes, label="rows", pad=0.02)
    bar.outline.set_visible(False)
    # Powers of ten would be typeset, which looks for fonts that a machine may not have.
    bar.formatter = bar.minorformatter = LogFormatter()
    axes.axline(
        (y_limits[0], y_limits[0]), slope=1, color=INK, linestyle="--", linewidth=1, label="ideal"
    )
    axes.plot(*_average_bins(prediction, target), color=ORANGE, marker="o", label="mean actual")
    axes.set(xlim=x_limits, ylim=y_limits, xlabel="predicted", ylabel="actual")
    error = f"mean absolute error {np.abs(prediction - target).mean():.3g}"
    note = f"{len(target):,} rows, {(~inside).sum():,} beyond the axes: {error}"
    return canvas.finish(figure, "Predicted against actual", note, axes)


def draw_confusion(target: np.ndarray, probabilities: np.ndarray, classes: Sequence[Any]) -> Figure:
    """Draw which classes are taken for which.

    Args:
        target: Actual class of each row, of shape (rows,).
        probabilities: Of each class, of shape (rows, classes); the highest is the prediction.
        classes: The class of each column of `probabilities`.

    Returns:
        Per cent of each actual class that is predicted as each class. A class that the model does
        not know has a row all the same; beyond 15, the rarer classes are shown as one.
    """
    actual, columns = [str(label) for label in target], [str(name) for name in classes]
    predicted = [columns[best] for best in probabilities.argmax(axis=1)]
    names = _list_classes(actual, columns)
    percent = _count_percent(actual, predicted, names)
    figure = canvas.new_figure(4.6 + 0.3 * len(names), 2.6 + 0.3 * len(names))
    axes = figure.subplots()
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(percent):
        if value >= 1:
            colour = "white" if value > 55 else INK  # noqa: PLR2004 where the blue turns dark
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour)
    labels = [canvas.shorten(name) for name in names]
    axes.set_xticks(range(len(names)), labels, **canvas.SLANTED)
    axes.set(xlabel="predicted", ylabel="actual")
    right = f"{np.mean(np.equal(actual, predicted)):.1%} right"
    note = f"{len(actual):,} rows, {right}; numbers are per cent of each actual class"
    canvas.tidy_cells(axes, names)
    return canvas.finish(figure, "Predicted against actual class", note)


def draw_gains(
    blocks: Sequence[str], gains: Sequence[float], gain: float, low: float, high: float, title: str
) -> Figure:
    """Draw whether the candidate is better, and how sure that is.

    Args:
        blocks: Names of the holdout's blocks, in order.
        gains: How much better the candidate is on each; above zero is better.
        gain: How much better it is overall.
        low: Lower end of the confidence interval of `gain`.
        high: Upper end.
        title: What it comes to, in a sentence.
    """
    values = np.asarray(gains, dtype=float)
    figure = canvas.new_figure(7.2, 3.8)
    axes = figure.subplots()
    axes.axhspan(low, high, color=PALE, alpha=0.7, label=f"interval {low:+.3g} to {high:+.3g}")
    axes.axhline(gain, color=INK, linestyle="--", linewidth=1.2, label=f"overall {gain:+.3g}")
    axes.axhline(0, color=INK, linewidth=1)
    axes.bar(range(len(values)), values, color=np.where(values > 0, BLUE, ORANGE), width=0.7)
    axes.set(ylabel="gain of the candidate", xlim=(-0.6, len(values) - 0.4))
    canvas.label_some(axes, blocks)
    better = f"better in {(values > 0).sum()} of {len(values)} blocks"
    return canvas.finish(figure, title, f"{_describe_gain(low, high)}; {better}", axes)


def draw_drift(monitoring: pl.DataFrame, measure: str) -> Figure:
    """Draw when which column drifted.

    Args:
        monitoring: A row per partition, role, measure and column, with `statistic`, `threshold`
            and `alert`.
        measure: The measure of drift to show.

    Returns:
        The 30 columns that drifted most in the newest partition, over the newest 120 partitions,
        in multiples of their threshold. Only what alerts is orange to red.
    """
    rows = monitoring.filter(pl.col("measure") == measure)
    rows = rows.with_columns(pl.col("statistic").fill_nan(None))
    if rows.is_empty():
        return canvas.draw_message(f"{measure}: nothing monitored yet")
    partitions = rows[PARTITION].unique().sort().tail(MOST_PARTITIONS).to_list()
    rows = rows.filter(pl.col(PARTITION).is_in(partitions))
    newest = rows.filter(pl.col(PARTITION) == partitions[-1])
    columns = _rank_columns(rows, newest)
    figure = canvas.new_figure(8.0, 2.0 + 0.22 * columns.height)
    axes = figure.subplots()
    multiples = _divide_by_threshold(rows, columns, partitions)
    canvas.draw_multiples(axes, multiples, bounded=rows["threshold"].count() > 0)
    canvas.label_some(axes, partitions)
    alerts = f"{newest['alert'].sum()} of {newest.height} columns alert in {partitions[-1]}"
    canvas.tidy_cells(axes, [_name_row(*row) for row in columns.iter_rows()])
    return canvas.finish(figure, f"Drift by {measure}", alerts)


def draw_importance(losses: dict[str, float], note: str) -> Figure:
    """Draw what each feature is worth, the most first.

    Args:
        losses: By feature, how much worse predictions are without it.
        note: How that was measured.
    """
    most = sorted(losses.items(), key=lambda item: item[1])[-MOST_COLUMNS:]
    figure = canvas.new_figure(6.4, 1.6 + 0.22 * len(most))
    axes = figure.subplots()
    axes.barh(range(len(most)), [loss for _, loss in most], color=BLUE)
    axes.set_yticks(range(len(most)), [canvas.shorten(name) for name, _ in most])
    return canvas.finish(figure, "What each feature is worth", note, axes)


def to_markdown(figure: Figure) -> str:
    """Return a figure as a picture within Markdown, with nothing to fetch."""
    return f"![figure](data:image/png;base64,{b64encode(canvas.to_png(figure)).decode()})"


def _average_bins(prediction: np.ndarray, actual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean prediction and mean actual value in bins of equal size; ties stay together."""
    shares = np.arange(1, BINS + 1) / BINS
    ends = np.unique(np.quantile(prediction, shares, method="inverted_cdf"))
    place = np.searchsorted(ends, prediction)
    rows = np.bincount(place)
    return np.bincount(place, prediction) / rows, np.bincount(place, actual) / rows


def _cut_tails(values: np.ndarray) -> tuple[float, float]:
    """Return the range without half a per cent at each end, never of zero width."""
    low, high = np.quantile(values, [0.005, 0.995], method="inverted_cdf")
    return (low, high) if low < high else (low - 1, high + 1)


def _is_within(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (limits[0] <= values) & (values <= limits[1])


def _list_classes(actual: Sequence[str], columns: Sequence[str]) -> list[str]:
    names = [*columns, *sorted(set(actual) - set(columns))]
    if len(names) <= MOST_CLASSES:
        return names
    frequent = {name for name, _ in Counter(actual).most_common(MOST_CLASSES)}
    return [*(name for name in names if name in frequent), OTHERS]


def _count_percent(
    actual: Sequence[str], predicted: Sequence[str], names: Sequence[str]
) -> np.ndarray:
    """Return how much of each actual class (rows) is predicted as which; unnamed counts last."""
    place = {name: position for position, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)))
    for (row, column), count in Counter(zip(actual, predicted, strict=True)).items():
        counts[place.get(row, -1), place.get(column, -1)] += count
    rows = counts.sum(axis=1, keepdims=True)
    percent = np.full_like(counts, np.nan)
    np.divide(100 * counts, rows, out=percent, where=rows > 0)
    return percent


def _describe_gain(low: float, high: float) -> str:
    if low > 0:
        return "better: the interval lies above zero"
    return "worse: the interval lies below zero" if high < 0 else "can't tell: zero is within"


def _rank_columns(rows: pl.DataFrame, newest: pl.DataFrame) -> pl.DataFrame:
    """Return role and column of the heat map's rows, the largest newest statistic first."""
    ranked = rows.select(IDENTITY).unique().join(newest, on=IDENTITY, how="left")
    order = ranked.sort("statistic", *IDENTITY, descending=[True, False, False], nulls_last=True)
    return order.select(IDENTITY).head(MOST_COLUMNS)


def _name_row(role: str, column: str) -> str:
    return column if role in ("feature", column) else f"{column} ({role})"


def _divide_by_threshold(
    rows: pl.DataFrame, columns: pl.DataFrame, partitions: Sequence[str]
) -> np.ndarray:
    """Return statistics in multiples of their threshold, of shape (columns, partitions).

    What alerts is at or above 1 and nothing else is, so that the colours say what was decided; a
    statistic without a threshold is held against the largest that there is.
    """
    largest = rows["threshold"].max() or rows["statistic"].max() or 1.0
    multiple = pl.col("statistic") / pl.col("threshold").fill_null(largest)
    decided = pl.when("alert").then(multiple.clip(1)).otherwise(multiple.clip(0, JUST_BELOW))
    cells = rows.with_columns(decided.alias("multiple")).pivot(
        PARTITION, partitions, index=IDENTITY, values="multiple", aggregate_function="max"
    )
    ordered = columns.join(cells, on=IDENTITY, how="left", maintain_order="left")
    return ordered.select(partitions).to_numpy()


LINES, FEW_LABELS = (BLUE, GREEN, PURPLE, GREY), 4


def draw_replay(outcome: Outcome) -> Figure:
    """Draw cost and benefit of each policy, and when the benefit came about."""
    figure = canvas.new_figure(9.6, max(4.4, 1.8 + 0.24 * len(outcome.standings)))
    means, gains = figure.subplots(1, 2)
    metric = get_metric(outcome.metric)
    ranked = sorted(outcome.standings, key=lambda standing: metric.gain(standing.mean, 0.0))
    offset: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "va": "center"}
    for place, policy in enumerate(ranked):
        colour = ORANGE if policy.name == outcome.best else BLUE if policy.gated else GREY
        fill = colour if policy.name in outcome.leaders else "none"
        marker = "o" if policy.gated else "s"
        means.plot(policy.mean, place, marker, color=colour, markerfacecolor=fill)
        means.annotate(f"{policy.fits} fits", (policy.mean, place), (7, 0), **offset)
    means.set_yticks(range(len(ranked)), [canvas.shorten(policy.name) for policy in ranked])
    means.set(xlabel=f"mean {outcome.metric}")
    means.margins(x=0.2, y=0.1)
    first, *rest = outcome.standings
    best = sorted(rest, key=lambda standing: -standing.gain)[: len(LINES)]
    for policy, line in zip(best, LINES, strict=False):
        colour, label = ORANGE if policy.name == outcome.best else line, canvas.shorten(policy.name)
        gains.plot(np.cumsum(outcome.gains(policy.name)), label=label, color=colour)
    gains.axhline(0, color=INK, linewidth=1)
    gains.set(ylabel=f"summed gain over {canvas.shorten(first.name)}")
    canvas.label_some(gains, outcome.shared, FEW_LABELS)
    title = "What policies would have brought, the best on top (hollow: shown to be worse than it)"
    return canvas.finish(figure, title, outcome.summary, means, gains)


def draw_adaptation(rows: pl.DataFrame) -> Figure:
    """Draw what the adaptive layer gains over the newest version alone, and how it mixes heads.

    Args:
        rows: A row a partition, in order: `loss_layer`, `loss_newest`, and `weight_<head>` of each
            head.
    """
    if rows.is_empty():
        return canvas.draw_message("no partition with final labels has moved the layer yet")
    newest = rows.tail(MOST_PARTITIONS)
    places, keys = range(newest.height), newest[PARTITION].to_list()
    figure = canvas.new_figure(8.0, 4.8)
    gains, weights = figure.subplots(2, 1, sharex=True)
    gain = newest["loss_newest"] - newest["loss_layer"]
    gains.plot(places, gain.cum_sum(), color=ORANGE, label="summed gain of the layer")
    gains.axhline(0, color=INK, linewidth=1)
    gains.set(ylabel="loss of the newest less its own")
    heads = [name for name in rows.columns if name.startswith("weight_")]
    labels = [name.removeprefix("weight_").replace("_", " ") for name in heads]
    colours = (GREY, BLUE, PURPLE, GREEN, ORANGE)
    weights.stackplot(places, newest.select(heads).to_numpy().T, labels=labels, colors=colours)
    weights.set(ylabel="weight of heads", ylim=(0, 1))
    canvas.label_some(weights, keys)
    mean = gain.sum() / newest.height
    means = f"mean gain {mean:.3g} on {newest.height} partitions through {keys[-1]}"
    title = "The adaptive layer against the newest version alone"
    return canvas.finish(figure, title, means, gains, weights)


WATCHED, UNWATCHED = "what is watched", "psi"
SHARE_BINS, CATEGORIES, CUT = 24, 8, (0.005, 0.995)


def draw_watched_drift(monitoring: pl.DataFrame) -> Figure:
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
    return canvas.finish(figure, "What moved most: then (grey) and now (orange)", note, *plots)


def _draw_numbers(axes: Axes, before: ColumnProfile, now: ColumnProfile) -> None:
    """Draw shares in even bins over the bulk of both sides."""
    sketches = [side.sketch for side in (before, now) if side.sketch and side.filled]
    if not sketches:
        return
    ends = np.array([sketch.get_quantiles(list(CUT)) for sketch in sketches])
    low, high = ends.min(), ends.max()
    edges = np.linspace(low, high if high > low else low + 1, SHARE_BINS + 1)
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
