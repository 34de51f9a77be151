"""HTML pages that need no server and no network, and that run nothing.

Not here: what stands on them.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

from retrain_assets.reports import canvas

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.figure import Figure

    Piece = str | list[dict[str, object]] | Figure

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<style>
body {{font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
  color: #1a202c; background: #fff}}
h1 {{font-size: 1.4rem}} h2 {{font-size: 1.1rem; margin-top: 2rem}} img {{max-width: 100%}}
a {{color: #2b6cb0}} code {{overflow-wrap: anywhere}} td, p {{overflow-wrap: break-word}}
table {{border-collapse: collapse; width: 100%; margin-bottom: 1rem}}
th, td {{text-align: left; vertical-align: top; padding: .35rem .6rem}}
tr {{border-bottom: 1px solid #e2e8f0}}
.failed {{color: #86180f; font-weight: 600; white-space: nowrap}} .passed {{color: #276749}}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def page(title: str, body: str) -> str:
    """A page of a title, which is escaped here, and a body, which is HTML."""
    return _PAGE.format(title=escape(title), body=body)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already."""
    named = "".join(f"<th>{cell}</th>" for cell in head)
    lines = (f"\n<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{named}</tr>{''.join(lines)}\n</table>"


def sections(parts: Mapping[str, Sequence[Piece]]) -> str:
    """Headings, each over sentences, tables and pictures; all of it is escaped here.

    Args:
        parts: What stands under each heading; one with nothing under it is left out. A table is
            records of the same keys.
    """
    filled = {head: [piece for piece in pieces if piece] for head, pieces in parts.items()}
    return "\n".join(
        "\n".join([f"<h2>{escape(head)}</h2>", *map(_html, pieces)])
        for head, pieces in filled.items()
        if pieces
    )


def _html(piece: Piece) -> str:
    if isinstance(piece, str):
        return f"<p>{escape(piece)}</p>"
    if isinstance(piece, list):
        rows = ([escape(_shown(value)) for value in record.values()] for record in piece)
        return table(map(escape, piece[0]), rows)
    return f'<img src="data:image/png;base64,{b64encode(canvas.png(piece)).decode()}" alt="">'


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(" ", "minutes")
    return f"{value:.4g}" if isinstance(value, float) else str("" if value is None else value)
