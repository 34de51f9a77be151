"""HTML pages that need no server and no network, and that run no script.

Not here: the content of a page.
"""

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from retrain_assets.reports import canvas
from retrain_assets.reports.svg import Picture

Piece = str | list[dict[str, object]] | Picture | canvas.Figure

_TEMPLATES = Environment(
    loader=PackageLoader("retrain_assets.reports"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


_DATE = re.compile(r"\b\d{4}-\d{2}(?:-\d{2})?\b")


def mark_up(text: object) -> Markup:
    """Return a sentence as HTML: escaped, commands in backticks as code, dates kept on one line."""
    parts = re.split("`([^`]+)`", str(text))
    marked = [
        Markup("<code>{}</code>").format(part)
        if number % 2
        else Markup(_DATE.sub(r'<span class="short">\g<0></span>', escape(part)))  # noqa: S704
        for number, part in enumerate(parts)
    ]
    return Markup().join(marked)


_TEMPLATES.filters["prose"] = mark_up


def render(template: str, **values: object) -> str:
    """Return a page from a template of this folder; all text in the values is escaped."""
    return _TEMPLATES.get_template(template).render(values)


def to_uri(picture: Picture | canvas.Figure) -> str:
    """Return the address of an image that holds the picture itself."""
    if isinstance(picture, Picture):
        kind, content = "svg+xml", picture.content.encode()
    else:
        kind, content = "png", canvas.to_png(picture)
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def to_markdown(picture: Picture | canvas.Figure) -> str:
    """Return a picture within Markdown, with nothing to fetch."""
    return f"![picture]({to_uri(picture)})"


def render_page(title: str, body: str) -> str:
    """Return a page of a title, which is escaped here, and a body, which is HTML."""
    return render("page.html", title=escape(title), body=body)


def render_sections(parts: Mapping[str, Sequence[Piece]]) -> str:
    """Return headings, each over sentences, tables and pictures; all text is escaped here.

    Args:
        parts: The pieces below each heading; a heading without any is left out. A table is a list
            of records of the same keys.
    """
    filled = {heading: [piece for piece in pieces if piece] for heading, pieces in parts.items()}
    return "\n".join(
        "\n".join([f"<h2>{escape(heading)}</h2>", *map(_render_piece, pieces)])
        for heading, pieces in filled.items()
        if pieces
    )


def _render_piece(piece: Piece) -> str:
    if isinstance(piece, str):
        return f"<p>{escape(piece)}</p>"
    if isinstance(piece, list):
        head = _render_row("th", piece[0])
        rows = "".join(
            f"\n{_render_row('td', map(_render_cell, record.values()))}" for record in piece
        )
        return f"<table>{head}{rows}\n</table>"
    return f'<img src="{to_uri(piece)}" alt="">'


def _render_row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _render_cell(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(" ", "minutes")
    return f"{value:.4g}" if isinstance(value, float) else str("" if value is None else value)
