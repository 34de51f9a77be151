"""Draw the settings that a search of hyper-parameters tried.

Not here: the search.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from retrain_assets.reports import canvas
from retrain_assets.reports.canvas import BLUE, GREY, Axes, Figure

MARKS = {"judged": (BLUE, "o"), "pruned": (GREY, "x")}
MOST_PARAMS, LOG_FROM = 3, 100


def draw_search(trials: pl.DataFrame) -> Figure:
    """Draw the loss of each setting of a search, in order and by the values that it tried.

    Args:
        trials: A row a setting, in order: `setting`, `params` as JSON, `state` and `loss`.
    """
    params = [json.loads(text) for text in trials["params"]]
    columns = {"setting": trials["setting"].to_list()}
    columns |= {name: [item.get(name) for item in params] for name in params[-1]}
    varied = [name for name, values in columns.items() if len({*map(repr, values)}) > 1]
    panels = varied[: 1 + MOST_PARAMS] or ["setting"]
    figure = canvas.new_figure(max(4.8, 2.5 * len(panels)), 3.6)
    plots = np.ravel(figure.subplots(1, len(panels), sharey=True))
    for axes, name in zip(plots, panels, strict=True):
        _draw_settings(axes, columns[name], trials, labelled=axes is plots[0])
        axes.set(xlabel=canvas.shorten(name))
        if _is_wide(columns[name]):
            axes.set_xscale("log")
    plots[0].set(ylabel="loss, mean over folds")
    complete = trials.filter(pl.col("state") == "judged").sort("loss", maintain_order=True)
    best = complete.row(0, named=True)
    note = f"best of {trials.height}: setting {best['setting']}, loss {best['loss']:.4g}"
    title = "The settings that the search tried"
    return canvas.finish(figure, title, f"{note}, {best['params']}", *plots)


def _is_wide(values: Sequence[Any]) -> bool:
    """Return whether values are positive numbers of very different size."""
    numbers = [value for value in values if isinstance(value, int | float) and value > 0]
    return len(numbers) == len(values) and max(numbers) > LOG_FROM * min(numbers)


def _draw_settings(
    axes: Axes, values: Sequence[Any], trials: pl.DataFrame, *, labelled: bool
) -> None:
    """Draw the loss by one parameter; values that are no numbers stand side by side."""
    if not all(isinstance(value, int | float | None) for value in values):
        values = [canvas.shorten(str(value)) for value in values]
    for state, (colour, mark) in MARKS.items():
        rows = [
            row
            for row, value in enumerate(values)
            if value is not None and trials["state"][row] == state
        ]
        label = state if labelled and rows else None
        places = [values[row] for row in rows]
        axes.plot(places, trials["loss"][rows], mark, color=colour, label=label)
