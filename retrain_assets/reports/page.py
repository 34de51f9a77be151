"""HTML pages that need no server and no network, and that run no script.

Not here: the content of a page.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape

from retrain_assets.reports import canvas

Piece = str | list[dict[str, object]] | canvas.Figure

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<style>
body {{font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
  color: #1a202c; background: #fff}}
h1 {{font-size: 1.4rem}} h2 {{font-size: 1.1rem; margin-top: 2rem}} img {{max-width: 100%}}
td, p {{overflow-wrap: break-word}}
table {{border-collapse: collapse; width: 100%; margin-bottom: 1rem}}
th, td {{text-align: left; vertical-align: top; padding: .35rem .6rem}}
tr {{border-bottom: 1px solid #e2e8f0}}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def render_page(title: str, body: str) -> str:
    """Return a page of a title, which is escaped here, and a body, which is HTML."""
    return _PAGE.format(title=escape(title), body=body)


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
    return f'<img src="data:image/png;base64,{b64encode(canvas.to_png(piece)).decode()}" alt="">'


def _render_row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _render_cell(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(" ", "minutes")
    return f"{value:.4g}" if isinstance(value, float) else str("" if value is None else value)
