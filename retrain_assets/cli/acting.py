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

from retrain_assets.cli.project import datasets, execute, models, named
from retrain_assets.cli.root import command, decisions_said, show, storage

if TYPE_CHECKING:
    from retrain_assets.specs.dataset import DatasetSpec

MANY = 1000  # partitions of a range that may be meant otherwise


@command
@click.option("--fresh", is_flag=True, help="Start over: delete what an earlier demo stored.")
def demo(*, fresh: bool) -> None:
    """Let the flights of 2013 arrive week by week, and watch the loop run."""
    from retrain_assets.demo.run import run_demo

    result = run_demo(storage(), Path(os.environ["DAGSTER_HOME"]), fresh=fresh)
    where = "See all of it in the Dagster UI: make dev, then http://127.0.0.1:3000"
    show(result, f"{decisions_said(result['decisions'])}\n\n{where}")


@command
@click.argument("name")
@click.option("--from", "first", required=True, help="First partition.")
@click.option("--to", "last", required=True, help="Last partition.")
@click.option("--yes", is_flag=True, help=f"Do not ask, though it be more than {MANY} partitions.")
def backfill(name: str, first: str, last: str, *, yes: bool) -> None:
    """Ingest a dataset, or monitor a model, over a range of partitions in one run.

    A check that fails is an error, though the sound partitions beside it are published.
    """
    import dagster as dg

    from retrain_assets.orchestration.checks import failures
    from retrain_assets.orchestration.partitions import checked_range, range_tags

    known_datasets, known_models = datasets(), models()
    jobs = dict.fromkeys(known_datasets, "ingest") | dict.fromkeys(known_models, "monitor")
    job = named("dataset or model", jobs, name)
    spec = known_datasets.get(name) or known_models[name].dataset
    count = checked_range(spec.partition, first, last)
    if count > MANY and not yes:
        _ask(f"{first} to {last} are {count:,} partitions of {name}")
    if name in known_datasets:
        _let_settle(spec, first, last)
    run_id = execute(f"{name}_{job}", tags=range_tags(first, last))
    found = {"name": name, "from": first, "to": last, "partitions": count, "run_id": run_id}
    with dg.DagsterInstance.get() as instance:
        bad = list(failures(instance, run_id))
    if bad:
        raise ValueError(f"run {run_id}: {len(bad)} checks failed, first {bad[0]}")
    show(found, f"{name}: {count} partitions, {first} to {last}, in run {run_id}")


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
