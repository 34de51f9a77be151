"""Draw the pictures beside the numbers: one figure a call, without any global state.

Not here: what is measured, where pictures are stored, and those of monitoring
(`monitoring_plots`), which are drawn each day.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from retrain_assets.domain.decision.replay import Outcome
from retrain_assets.domain.metrics.metrics import get_metric
from retrain_assets.reports import canvas
from retrain_assets.reports.canvas import BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE, Figure
from retrain_assets.specs.features import Kind

DENSITY = ("#d6e6f4", BLUE, "#0f2747")
BINS = 10
MOST_CLASSES, MOST_COLUMNS = 15, 30
OTHERS = "all others"


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
