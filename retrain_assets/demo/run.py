"""The demo: files land, sensors are ticked, and what they ask for runs. Nothing else is called.

Not here: anything a real deployment would not do, but for the files.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from retrain_assets.definitions import build_defs, models
from retrain_assets.demo.flights import Flights
from retrain_assets.orchestration.dagster_internals.ticks import InProcessDaemon
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.stores.place import Folder
from retrain_assets.stores.storage import Storage

FIRST_DELIVERY_DAYS = 74
DELIVERY_DAYS = 14
LAST_DAY = "2013-08-31"
PARTS = ("landing", "delta", "artifacts")
SETTLE_SECONDS = 6  # longer than `read.settle` of the demo's datasets
GROUPS = {"flights", "weather", "planes", "flight_delay", "arrival_delay"}


class ForeignDataError(RuntimeError):
    """Starting over would delete what is not the demo's."""


def run_demo(
    storage: Storage, home: Path, tell: Callable[[dict[str, Any]], None], *, fresh: bool
) -> dict[str, Any]:
    """Let the flights of 2013 land, first 74 days at once, then two weeks at a time.

    Args:
        storage: Where everything is kept.
        home: Where Dagster's settings are.
        tell: Takes each decision as it is made, where no terminal shows the progress.
        fresh: Delete what an earlier demo stored.

    Returns:
        `days` that have landed, and the `decisions` of all models in the order they were made.
    """
    if fresh:
        start_over(storage)
    flights = Flights.load()
    days = [day for day in flights.days if day <= LAST_DAY]
    (storage.work / "dagster").mkdir(parents=True, exist_ok=True)
    places = {"root": str(storage.root), "work": str(storage.work)}
    resource = StorageResource(**places, tracking_uri=storage.mlflow_uri)
    with dg.DagsterInstance.from_config(str(home)) as instance, _progress() as progress:
        daemon = InProcessDaemon(build_defs({"storage": resource}), instance)
        names = tuple(models())
        count = len(_list_decisions(storage, names))
        for _ in _deliver(storage, flights, days, daemon, progress):
            decisions = _list_decisions(storage, names)
            for row in decisions[count:] if not progress.console.is_terminal else ():
                tell(row)
            count = len(decisions)
    return {"days": len(days), "decisions": _list_decisions(storage, names)}


def _list_decisions(storage: Storage, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the decisions of all models in the order they were made."""
    ledgers = {name: storage.ledger(name).read() for name in names}
    rows = [
        {"model": name, **row.for_people()} for name, read in ledgers.items() for row in read.rows
    ]
    return sorted(rows, key=lambda row: str(row["time"]))


def _deliver(
    storage: Storage,
    flights: Flights,
    days: Sequence[str],
    daemon: InProcessDaemon,
    progress: Progress,
) -> Iterator[None]:
    """Drop one delivery after the other, let the sensors settle, and yield after each decision."""
    task = progress.add_task("first delivery", total=len(days))
    later = range(FIRST_DELIVERY_DAYS, len(days), DELIVERY_DAYS)
    for delivery in [days[:FIRST_DELIVERY_DAYS], *(days[n : n + DELIVERY_DAYS] for n in later)]:
        with storage.deliver() as landing:
            flights.drop_planes(landing)
            flights.drop(landing, delivery)
        if not storage.place.is_local:
            time.sleep(SETTLE_SECONDS)  # an object is as old as its upload
        progress.update(task, description=f"{delivery[-1]}: sensors")
        for run in daemon.settle():
            progress.update(task, description=f"{delivery[-1]}: {run.job}")
            if run.job.endswith("_retrain"):
                yield
        progress.update(task, advance=len(delivery))


def start_over(storage: Storage) -> None:
    """Delete what an earlier demo stored, and nothing else.

    Raises:
        ForeignDataError: The root holds other datasets or models, whose runs and registry entries
            lie in the same databases.
    """
    places = [storage.place / part for part in PARTS]
    groups = {file.name.partition("/")[0] for place in places[:2] for file in place.files()}
    foreign = sorted(groups - GROUPS)
    if foreign:
        raise ForeignDataError(
            f"{storage.root} also holds {', '.join(foreign)}, which is not the demo's: "
            "nothing was deleted; let RETRAIN_STORAGE name another folder"
        )
    for place in (*places, Folder(storage.work / "dagster")):
        place.clear()
    storage.place.delete("mlflow.db")


def _progress() -> Progress:
    return Progress(
        TextColumn("[bold]{task.description:<44}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} days"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
