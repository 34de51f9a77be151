"""Draw docs/images/weeks.svg from the weeks of the demo in docs/decisions.md.

python docs/weeks.py
"""

import re
from itertools import accumulate
from pathlib import Path

HERE = Path(__file__).parent
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1a202c}.q{fill:#5b6675;font-size:12px}"
    "path{fill:none;stroke-width:2.5}.g{stroke:#a9bdd4;stroke-width:1}"
    "@media (prefers-color-scheme:dark){text{fill:#e6eaf0}.q{fill:#98a4b3}}"
)
LINES = (("never retrained", "#5b6675"), ("retrained", "#c53030"), ("with the layer", "#2b6cb0"))
TITLE = "Log loss saved since March in retrain demo, against the first version for ever"


def main() -> None:
    """Write the picture."""
    text = (HERE / "decisions.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (2013-..-..) \| (0\.\d+) \| (0\.\d+) \| (0\.\d+) \|$", text, re.MULTILINE
    )
    first = [float(row[1]) for row in rows]
    parts = [f'<path class="g" d="M50 {y}H600"/>' for y in (30, 110, 190)]
    parts += [f'<text class="q" x="8" y="{194 - 80 * n}">{0.4 * n:.1f}</text>' for n in range(3)]
    for place, (name, colour) in enumerate(LINES, 1):
        saved = [a - float(row[place]) for a, row in zip(first, rows, strict=True)]
        ends = [190 - 200 * value for value in accumulate(saved, initial=0.0)]
        points = " ".join(f"{50 + 550 * n / len(rows):.1f},{y:.1f}" for n, y in enumerate(ends))
        parts.append(f'<path stroke="{colour}" d="M{points}"/>')
        parts.append(f'<text x="606" y="{ends[-1] + 4:.0f}">{name}</text>')
    parts.append(f'<text x="50" y="0">{TITLE}</text>')
    parts += [
        f'<text class="q" x="{x}" y="214">{rows[n][0]}</text>' for x, n in ((50, 0), (530, -1))
    ]
    box = 'viewBox="0 -16 740 238" width="740" height="238"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}'
    body = "\n".join(
        [f'{head} role="img" aria-label="{TITLE}">', f"<style>{STYLE}</style>", *parts]
    )
    (HERE / "images" / "weeks.svg").write_text(f"{body}\n</svg>\n", encoding="utf-8")


if __name__ == "__main__":
    main()
