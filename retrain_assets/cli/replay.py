"""`retrain replay`: what other policies would have brought.

Not here: playing them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from retrain_assets.cli.base import command, here, model_named, show, storage
from retrain_assets.domain.decision.replay import Outcome
from retrain_assets.specs.model import ModelSpec, PolicySpec


@command
@click.argument("model")
@click.option("--from", "first", default="", help="First partition; all of history by default.")
@click.option("--to", "last", default="\uffff", help="Last partition.", show_default=False)
@click.option("--policies", type=click.Path(exists=True, dir_okay=False), help="YAML, one a ---.")
@click.option("--picture", type=click.Path(dir_okay=False), help="A PNG file to draw to.")
def replay(model: str, first: str, last: str, policies: str | None, picture: str | None) -> None:
    """Play policies over stored history, and touch neither ledger nor registry."""
    from retrain_assets.steps.replay import replay_policies

    chosen = model_named(model)
    tried = _policies(chosen.spec, here() / policies if policies else None)
    with _progress() as tell:
        outcome = replay_policies(chosen.state(storage()), tried, tell, first, last)
    if picture:
        from retrain_assets.reports.canvas import png
        from retrain_assets.reports.plots import replay_figure

        (here() / picture).write_bytes(png(replay_figure(outcome)))
    proposed = next(one.parts for one in tried if one.name == outcome.best)
    lines = _lines(outcome)
    if proposed:
        import yaml

        lines += ["", yaml.safe_dump(proposed, sort_keys=False).rstrip()]
    show(_shown(outcome) | {"model": model, "proposed": proposed}, "\n".join(lines))


def _policies(model: ModelSpec, file: Path | None) -> list[PolicySpec]:
    from retrain_assets.specs.model import PolicySpec, usual_policies
    from retrain_assets.specs.yaml import load_strictly, parse_spec

    if file is None:
        return usual_policies(model)
    given = [parse_spec(document, PolicySpec, ()) for document in load_strictly(file)]
    return [*usual_policies(model)[:1], *given]


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as shown:
        tasks: dict[str, Any] = {}

        def tell(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = shown.add_task(name, total=total)
            shown.update(tasks[name], completed=done)

        yield tell


def _shown(outcome: Outcome) -> dict[str, Any]:
    return {
        "metric": str(outcome.metric),
        "partitions": len(outcome.shared),
        "policies": [asdict(one) for one in outcome.standings],
        "decisions": {each.name: each.decided for each in outcome.played},
        "best": outcome.best,
        "said": outcome.said,
    }


def _lines(outcome: Outcome) -> list[str]:
    first, last = outcome.shared[0], outcome.shared[-1]
    head = ("policy", f"mean {outcome.metric}", "fits", "promotions", "gain", "interval")
    rows = [
        (
            one.name,
            f"{one.mean:.4f}",
            str(one.fits),
            str(one.promotions),
            f"{one.gain:+.4f}",
            "unknown" if one.low is None else f"{one.low:+.4f} to {one.high:+.4f}",
        )
        for one in outcome.standings
    ]
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    table = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in [head, *rows]
    )
    played = f"{len(outcome.shared)} partitions, {first} to {last}, predicted by every policy"
    return [played, *table, outcome.said]
