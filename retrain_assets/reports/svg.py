"""Draw what each run of monitoring draws, as SVG: three milliseconds a picture, by matplotlib 250.

Nothing in a picture is loaded or run, and all text is escaped. Not here: what is drawn, and the
pictures that are drawn once for a version (`canvas`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil
from typing import Any

from retrain_assets.reports.canvas import GREY, GRID, INK, MOST_LABELS, cut
from retrain_assets.reports.timeline import round_values

LETTER, SMALL, LINE = 6.6, 11, 16  # pixels: of a letter, its size, and a line of text
TOP = 56  # below the headline and the note
Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, width and height


class Picture:
    """A picture with a headline and a note below it.

    Args:
        width: Of the picture, in pixels.
        height: Of the picture.
        title: One line.
        note: One line of smaller letters.
    """

    def __init__(self, width: float, height: float, title: str, note: str = "") -> None:
        self.width, self.height = width, height
        self.parts: list[str] = []
        self.write(cut(title, int(width / 9)), (8, 20), font_size=15, font_weight="bold")
        self.write(cut(note, int(width / 7)), (8, 40), font_size=12, fill=GREY)

    def draw(self, tag: str, text: str = "", **attributes: Any) -> None:
        """Add an element.

        Args:
            tag: Its name.
            text: What is written in it.
            **attributes: Its attributes, with `_` for `-`.
        """
        named = (
            f'{name.replace("_", "-")}="{_format(value)}"' for name, value in attributes.items()
        )
        # Other letters would make the whole picture no XML.
        shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
        self.parts.append(f"<{' '.join([tag, *named])}>{escape(shown)}</{tag}>")

    def write(self, text: str, at: Point, **looks: Any) -> None:
        """Write a line of text."""
        self.draw("text", text, x=at[0], y=at[1], **({"font_size": SMALL, "fill": INK} | looks))

    def draw_path(self, points: Iterable[Point], **looks: Any) -> None:
        """Draw a line through points, filled where the looks say so."""
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.draw("polyline", points=joined, **({"fill": "none"} | looks))

    def draw_boxes(self, colour: str, *boxes: Box) -> None:
        """Draw rectangles of one colour."""
        sides = (tuple(map(_format, box)) for box in boxes)
        paths = (f"M{x},{y}h{width}v{height}h-{width}z" for x, y, width, height in sides)
        self.draw("path", d="".join(paths), fill=colour)

    def draw_legend(self, colours: Sequence[tuple[str, str]], left: float, top: float) -> None:
        """Name colours beside each other, in as many lines as they need."""
        place = left
        for colour, name in colours:
            width = 16 + LETTER * len(name) + 16
            if place + width > self.width:
                place, top = left, top + LINE
            self.draw_boxes(colour, (place, top - 9, 10, 10))
            self.write(name, (place + 16, top))
            place += width

    @property
    def content(self) -> str:
        """Return the file of the picture."""
        size = f'width="{self.width:g}" height="{self.height:g}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
        ground = '<rect width="100%" height="100%" fill="white"></rect>'
        return "\n".join([head, ground, *self.parts, "</svg>\n"])


@dataclass(frozen=True)
class Plot:
    """A part of a picture in which values have places.

    Args:
        picture: The picture.
        corner: The upper left corner.
        width: Of the part, in pixels.
        height: Of the part.
        x: The lowest and the highest value from left to right.
        y: The same from bottom to top.
    """

    picture: Picture
    corner: Point
    width: float
    height: float
    x: Point
    y: Point

    def at(self, x: float, y: float) -> Point:
        """Return the place of values."""
        right, up = (
            (value - low) / ((high - low) or 1) for value, (low, high) in ((x, self.x), (y, self.y))
        )
        return self.corner[0] + self.width * right, self.corner[1] + self.height * (1 - up)

    def draw_line(self, points: Iterable[Point], **looks: Any) -> None:
        """Draw a line through values, filled where the looks say so."""
        self.picture.draw_path((self.at(*point) for point in points), **looks)

    def draw_heights(self, name: str) -> None:
        """Draw a quiet grid of round heights, and the name of their unit above the plot."""
        left, top = self.corner
        self.picture.write(name, (left, top - 6), fill=GREY)
        for value in round_values(*self.y):
            self.draw_line([(self.x[0], value), (self.x[1], value)], stroke=GRID)
            end = (left - 6, self.at(0, value)[1] + 4)
            self.picture.write(f"{value:.6g}", end, text_anchor="end")

    def draw_widths(self) -> None:
        """Name round values below the plot."""
        self.name_places([(value, f"{value:.6g}") for value in round_values(*self.x)])

    def name_places(self, names: Sequence[tuple[float, str]]) -> None:
        """Name a few values below the plot, evenly spaced and the last among them."""
        longest = max((len(name) for _, name in names), default=1)
        most = max(1, min(MOST_LABELS, int(self.width / (LETTER * longest + 8))))
        for value, name in names[:: -max(1, ceil(len(names) / most))]:
            x, y = self.at(value, self.y[0])
            self.picture.write(name, (x, y + LINE), text_anchor="middle")


def draw_message(text: str) -> Picture:
    """Return a picture that says why there is nothing to draw."""
    return Picture(640, TOP, "", text)


def _format(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escape(str(value))
