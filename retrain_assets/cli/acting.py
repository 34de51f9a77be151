"""Commands that let data through the loop: demo, backfill.

Not here: what is done.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from retrain_assets.cli.project import datasets, execute, models
from retrain_assets.cli.root import as_json, one_line, print_decisions, print_json, storage

if TYPE_CHECKING:
    from retrain_assets.specs.dataset import DatasetSpec

MANY = 1000  # partitions of a range that may be meant otherwise


@click.command()
@click.option("--fresh", is_flag=True, help="Start over: delete what an earlier demo stored.")
@as_json
@one_line
def demo(*, fresh: bool, as_json: bool) -> None:
    """Let the flights of 2013 arrive week by week, and watch the loop run."""
    from retrain_assets.demo.run import run_demo

    result = run_demo(storage(), Path(os.environ["DAGSTER_HOME"]), fresh=fresh)
    if as_json:
        print_json(result)
        return
    print_decisions(result["decisions"])
    click.echo("\nSee all of it in the Dagster UI: make dev, then http://127.0.0.1:3000")


@click.command()
@click.argument("name")
@click.option("--from", "first", required=True, help="First partition.")
@click.option("--to", "last", required=True, help="Last partition.")
@click.option("--yes", is_flag=True, help=f"Do not ask, though it be more than {MANY} partitions.")
@as_json
@one_line
def backfill(name: str, first: str, last: str, *, yes: bool, as_json: bool) -> None:
    """Ingest a dataset, or monitor a model, over a range of partitions in one run.

    A check that fails is an error, though the sound partitions beside it are published.
    """
    import dagster as dg

    from retrain_assets.orchestration.checks import failures
    from retrain_assets.orchestration.partitions import checked_range, range_tags

    known_datasets, known_models = datasets(), models()
    jobs = dict.fromkeys(known_datasets, "ingest") | dict.fromkeys(known_models, "monitor")
    if name not in jobs:
        known = ", ".join(sorted(jobs))
        raise LookupError(f"no dataset or model named {name!r}; there are {known}")
    spec = known_datasets.get(name) or known_models[name].dataset
    count = checked_range(spec.partition, first, last)
    if count > MANY and not yes:
        _ask(f"{first} to {last} are {count:,} partitions of {name}")
    if name in known_datasets:
        _let_settle(spec, first, last)
    run_id = execute(f"{name}_{jobs[name]}", tags=range_tags(first, last))
    found = {"name": name, "from": first, "to": last, "partitions": count, "run_id": run_id}
    with dg.DagsterInstance.get() as instance:
        bad = list(failures(instance, run_id))
    if bad:
        raise ValueError(f"run {run_id}: {len(bad)} checks failed, first {bad[0]}")
    if as_json:
        print_json(found)
    else:
        click.echo(f"{name}: {count} partitions, {first} to {last}, in run {run_id}")


def _let_settle(spec: DatasetSpec, first: str, last: str) -> None:
    """Wait as long as a file that has just been written asks for, once."""
    from retrain_assets.specs.base import duration
    from retrain_assets.steps.intake import Intake

    intake = Intake(storage(), spec, first, time.time_ns())
    settled = set(intake.settled)
    new = [file for file in intake.unread if file not in settled]
    new = [file for file in new if first <= (file.partition or first) <= last]
    if new:
        click.echo(f"{new[0].path} may still be written: {spec.read.settle} of waiting", err=True)
        time.sleep(duration(spec.read.settle).total_seconds())


def _ask(said: str) -> None:
    """Go on if the person at the terminal says so.

    Raises:
        ValueError: Nobody is there to be asked.
    """
    if not sys.stdin.isatty():
        raise ValueError(f"{said}: if that is meant, say --yes")
    click.confirm(f"{said}. Go on?", abort=True, err=True)


COMMANDS = (demo, backfill)
