"""The demo: files land, sensors are ticked, and what they ask for runs. Nothing else is called.

Not here: anything a real deployment would not do, but for the files.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from retrain_assets.definitions import build_defs, models
from retrain_assets.demo.flights import Flights
from retrain_assets.orchestration.dagster_internals.ticks import InProcessDaemon
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.stores.storage import Storage

FIRST_DELIVERY_DAYS = 74
DELIVERY_DAYS = 14
LAST_DAY = "2013-08-31"
STORED = ("landing", "delta", "artifacts", "mlflow.db", "dagster")
GROUPS = {"flights", "weather", "planes", "flight_delay", "arrival_delay"}


class ForeignDataError(RuntimeError):
    """Starting over would delete what is not the demo's."""


def run_demo(storage: Storage, home: Path, *, fresh: bool) -> dict[str, Any]:
    """Let the flights of 2013 land, first 74 days at once, then two weeks at a time.

    Args:
        storage: Where everything is kept.
        home: Where Dagster's settings are.
        fresh: Delete what an earlier demo stored.

    Returns:
        `days` that have landed, and the `decisions` of all models in the order they were made.
    """
    if fresh:
        start_over(storage)
    flights = Flights.load()
    days = [day for day in flights.days if day <= LAST_DAY]
    (storage.root / "dagster").mkdir(parents=True, exist_ok=True)
    resource = StorageResource(root=str(storage.root), tracking_uri=storage.mlflow_uri)
    with dg.DagsterInstance.from_config(str(home)) as instance, _progress() as progress:
        daemon = InProcessDaemon(build_defs({"storage": resource}), instance)
        _deliver(storage, flights, days, daemon, progress)
    rows = [
        {"model": name, **row.for_people()}
        for name, model in models().items()
        for row in model.state(storage).ledger.read().rows
    ]
    return {"days": len(days), "decisions": sorted(rows, key=lambda row: str(row["time"]))}


def _deliver(
    storage: Storage,
    flights: Flights,
    days: Sequence[str],
    daemon: InProcessDaemon,
    progress: Progress,
) -> None:
    """Drop the files of one delivery after the other, letting the sensors settle after each."""
    task = progress.add_task("first delivery", total=len(days))
    flights.drop_planes(storage.landing)
    later = range(FIRST_DELIVERY_DAYS, len(days), DELIVERY_DAYS)
    for delivery in [days[:FIRST_DELIVERY_DAYS], *(days[n : n + DELIVERY_DAYS] for n in later)]:
        flights.drop(storage.landing, delivery)
        progress.update(task, description=f"{delivery[-1]}: sensors")
        for run in daemon.settle():
            progress.update(task, description=f"{delivery[-1]}: {run.job}")
        progress.update(task, advance=len(delivery))


def start_over(storage: Storage) -> None:
    """Delete what an earlier demo stored, and nothing else.

    Raises:
        ForeignDataError: The root holds other datasets or models, whose runs and registry entries
            lie in the same databases.
    """
    groups = [path for part in ("landing", "delta") for path in (storage.root / part).glob("*")]
    foreign = sorted({path.name for path in groups} - GROUPS)
    if foreign:
        raise ForeignDataError(
            f"{storage.root} also holds {', '.join(foreign)}, which is not the demo's: "
            "nothing was deleted; let RETRAIN_STORAGE name another folder"
        )
    for name in STORED:
        path = storage.root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _progress() -> Progress:
    return Progress(
        TextColumn("[bold]{task.description:<44}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} days"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
