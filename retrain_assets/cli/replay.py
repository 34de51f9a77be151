"""`retrain replay` and `retrain play`: what would have been decided on past data.

Not here: playing policies (`steps/replay.py`), and deliveries (`orchestration/play.py`).
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click
import dagster as dg
import polars as pl
import yaml
from rich.console import Console
from rich.progress import Progress

from retrain_assets.cli import base
from retrain_assets.domain.decision.replay import Outcome
from retrain_assets.orchestration.play import History
from retrain_assets.orchestration.play import play as play_history
from retrain_assets.specs.base import number_of
from retrain_assets.specs.model import PolicySpec, usual_policies
from retrain_assets.specs.yaml import load_strictly, parse_spec
from retrain_assets.steps.data.quarantine import as_lines
from retrain_assets.steps.replay import replay_policies
from retrain_assets.stores.storage import Storage


@base.command
@click.argument("model")
@click.option("--from", "first", default="", help="First partition; all of history by default.")
@click.option("--to", "last", default="\uffff", help="Last partition.", show_default=False)
@click.option(
    "--policies",
    type=click.Path(exists=True, dir_okay=False),
    help="A YAML file with one policy a document: its name, and parts of the model's YAML.",
)
@click.option("--picture", type=click.Path(dir_okay=False), help="A PNG file to draw to.")
def replay(model: str, first: str, last: str, policies: str | None, picture: str | None) -> None:
    """Show what other settings would have decided on stored history; nothing is changed."""
    entry = base.get_model(model)
    candidates = usual_policies(entry.spec)
    if policies:
        documents = load_strictly(base.start_folder() / policies)
        candidates[1:] = [parse_spec(document, PolicySpec, ()) for document in documents]
    with _progress() as tell:
        outcome = replay_policies(entry.state(base.storage()), candidates, tell, first, last)
    if picture:
        from retrain_assets.reports.canvas import to_png
        from retrain_assets.reports.plots import draw_replay

        (base.start_folder() / picture).write_bytes(to_png(draw_replay(outcome)))
    proposal = next(policy.parts for policy in candidates if policy.name == outcome.proposed)
    lines = _lines(outcome)
    if proposal:
        lines += ["", yaml.safe_dump(proposal, sort_keys=False).rstrip()]
    base.show(_value(outcome) | {"model": model, "proposed": proposal}, "\n".join(lines))


@base.command
@click.argument("model")
@click.option("--from", "first", default="", help="First partition; all of history by default.")
@click.option("--to", "last", default="\uffff", help="Last partition.", show_default=False)
@click.option("--step", type=click.IntRange(1), help="Partitions of each delivery.")
def play(model: str, first: str, last: str, step: int | None) -> None:
    """Let stored history arrive in order in a folder of its own, and show what is decided.

    The shipped sensors see each delivery, as they do in production and in the demo. Nothing of the
    project changes, and no message is sent.
    """
    entry, stored = base.get_model(model), base.storage()
    folder = stored.work / "play" / model
    target = Storage(folder)
    history = History(entry, stored, target, first, last, step)
    begin, *rest = history.deliveries
    at_once, size = (number_of(len(part), "partition") for part in (begin, rest[0]))
    text = f"{at_once} at once, up to {begin[-1]}; then {len(rest)} times {size}"
    click.echo(text, err=True)
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier play stored
    base.write_settings(folder / "dagster")

    def tell(decision: dict[str, Any]) -> None:
        click.echo(base.decision_lines([decision]), err=True)

    with dg.DagsterInstance.from_config(str(folder / "dagster")) as instance:
        decisions = play_history(history, instance, tell)
    page = target.report(model)
    text = f"{base.decision_lines(decisions)}\n\nThe page of the model, as it would be: {page}"
    base.show({"model": model, "decisions": decisions, "page": page}, text)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show bars at a terminal, and elsewhere a line at each tenth of a policy."""
    with Progress(console=Console(stderr=True)) as progress:
        tasks: dict[str, Any] = {}
        tenths: set[tuple[str, int]] = set()

        def tell(name: str, position: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=position)
            tenth = name, position * 10 // total
            if not progress.console.is_terminal and tenth not in tenths:
                tenths.add(tenth)
                click.echo(f"policy {name}: {position} of {total} partitions", err=True)

        yield tell


def _value(outcome: Outcome) -> dict[str, Any]:
    return {
        "metric": str(outcome.metric),
        "partitions": len(outcome.shared),
        "policies": [asdict(standing) for standing in outcome.standings],
        "decisions": {history.name: history.decisions for history in outcome.results},
        "best": outcome.best,
        "proposal": outcome.proposed,
        "leaders": outcome.leaders,
        "said": outcome.summary,
    }


def _lines(outcome: Outcome) -> list[str]:
    first, last = outcome.shared[0], outcome.shared[-1]
    head = ("policy", f"mean {outcome.metric}", "fits", "promotions", "gain", "interval")
    rows = [
        (
            *(s.name, f"{s.mean:.4f}", s.fits, s.promotions, f"{s.gain:+.4f}"),
            "unknown" if s.low is None else f"{s.low:+.4f} to {s.high:+.4f}",
        )
        for s in outcome.standings
    ]
    scope = f"{len(outcome.shared)} partitions, {first} to {last}, predicted by every policy"
    table = as_lines(pl.DataFrame(rows, head, orient="row"))
    return [scope, *table, outcome.summary, outcome.ranking]
