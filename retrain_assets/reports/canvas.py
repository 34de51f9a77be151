"""Give every picture the same look: white ground, one headline, literal names, small PNG files.

A figure belongs to its caller: nothing here is global. Not here: what is drawn.
"""

from collections.abc import Sequence
from io import BytesIO
from textwrap import wrap
from typing import Any

import numpy as np

Axes = Any  # of matplotlib, which is heavy and untyped
Figure = Any

BLUE, ORANGE, GREY, PALE, INK = "#2b6cb0", "#dd6b20", "#718096", "#cbd5e0", "#1a202c"
GREEN, PURPLE, GRID = "#2f855a", "#6b46c1", "#e2e8f0"
LINE_POINTS, LETTERS_AN_INCH = 14, 14.5
TITLE_WIDTH, NAME_WIDTH = 80, 40
NOTE: dict[str, Any] = {"xycoords": "figure fraction", "textcoords": "offset points", "va": "top"}
NOTE |= {"fontsize": 9, "color": GREY, "annotation_clip": False}
MOST_LABELS = 7
SLANTED: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
PALETTE_COLOURS = 128


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches of 100 pixels."""
    from matplotlib import figure

    return figure.Figure((width, height), dpi=100, layout="constrained", facecolor="white")


def to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file with a palette: a third of the size, always the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = BytesIO()
    # This method keeps a colour that few pixels have, such as that of the best policy.
    palette = image.quantize(PALETTE_COLOURS, Image.Quantize.MAXCOVERAGE)
    palette.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def finish(figure: Figure, title: str, note: str, *plots: Axes) -> Figure:
    """Put a title and a note above a figure, give plots a quiet grid and one legend of labels.

    Args:
        figure: The figure, with its plots.
        title: At most two lines.
        note: At most four lines below the title.
        plots: The plots that get a grid.
    """
    lines = wrap(title, TITLE_WIDTH, max_lines=2, placeholder=" …")
    width = int(LETTERS_AN_INCH * figure.get_figwidth())
    notes = wrap(note, width, max_lines=4, placeholder=" …")
    # The empty last lines make the layout leave room for the note below the title.
    text = _escape("\n".join([*lines, *("" for _ in notes)]))
    figure.suptitle(text, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    below = (0, -6 - LINE_POINTS * len(lines))
    label = figure.axes[0].annotate(_escape("\n".join(notes)), (0.01, 1), xytext=below, **NOTE)
    label.set_in_layout(False)
    for axes in plots:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(color=GRID, linewidth=0.7)
        axes.tick_params(labelsize=8, length=3)
    if any(axes.get_legend_handles_labels()[0] for axes in plots):
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def tidy_cells(axes: Axes, names: Sequence[str]) -> None:
    """Give an image of cells its row names, and a line between one row and the next."""
    axes.spines[:].set_visible(False)
    axes.set_facecolor(PALE)
    axes.set_yticks(range(len(names)), [shorten(name) for name in names])
    axes.set_yticks(np.arange(1, len(names)) - 0.5, minor=True)
    axes.grid(which="minor", axis="y", color="white", linewidth=1)
    axes.tick_params(which="both", labelsize=8, length=0)


def label_some(axes: Axes, names: Sequence[str], most: int = MOST_LABELS) -> None:
    """Name a few places of the x axis, evenly spaced and the last among them."""
    step = -(-len(names) // most)
    places = range(len(names) - 1, -1, -step)
    labels = [shorten(names[place]) for place in places]
    is_long = max(map(len, labels)) > len("2013-01-01")
    axes.set_xticks(places, labels, **(SLANTED if is_long else {}))


def shorten(text: str, width: int = NAME_WIDTH) -> str:
    """Return text from the data on one line, shortened in the middle, never as mathematics.

    Args:
        text: Such as the name of a column.
        width: Most characters that are shown.
    """
    return _escape(cut(text, width))


def cut(text: str, width: int = NAME_WIDTH) -> str:
    """Return text on one line, shortened in the middle."""
    line = " ".join(text.split())
    if len(line) > width:
        tail = width // 3
        line = f"{line[: width - tail - 1]}…{line[-tail:]}"
    return line


def _escape(text: str) -> str:
    return text.replace("$", r"\$")
