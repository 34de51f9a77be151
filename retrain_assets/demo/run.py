"""The demo: files land, sensors are ticked, and what they ask for runs. Nothing else is called.

Not here: anything a real deployment would not do, but for the files.
"""

import gc
import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg

from retrain_assets.definitions import build_defs, models
from retrain_assets.demo.flights import Flights, FlightsNotInstalledError
from retrain_assets.orchestration import beside
from retrain_assets.orchestration.dagster_internals.ticks import Executed, InProcessDaemon
from retrain_assets.orchestration.jobs import monitor_job
from retrain_assets.orchestration.play import Tell, settle_deliveries
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.orchestration.sensors import data_ready_sensor
from retrain_assets.stores.database import DRIVER
from retrain_assets.stores.place import Folder
from retrain_assets.stores.storage import Storage

FIRST_DELIVERY_DAYS = 74
DELIVERY_DAYS = 14
LAST_DAY = "2013-08-31"
PARTS = ("landing", "delta", "artifacts")
SETTLE_SECONDS = 6  # longer than `read.settle` of the demo's datasets
GROUPS = {"flights", "weather", "planes", "flight_delay", "arrival_delay"}
# The stages come one after the other. Within a stage, each of two processes ticks its sensors.
STAGES = (
    (("flights_new_data",), ("weather_new_data", "planes_new_data")),
    (
        ("flight_delay_data_ready", "flight_delay_retrain_wanted"),
        ("arrival_delay_data_ready", "arrival_delay_retrain_wanted"),
    ),
)


class ForeignDataError(RuntimeError):
    """Starting over would delete what is not the demo's."""


def run_demo(
    storage: Storage, home: Path, tell: Tell, *, last: str = LAST_DAY, fresh: bool
) -> dict[str, Any]:
    """Let the flights of 2013 land, first 74 days at once, then two weeks at a time.

    Args:
        storage: Where everything is kept.
        home: Where Dagster's settings are.
        tell: Takes each decision as it is made.
        last: The last day that lands.
        fresh: Delete what an earlier demo stored.

    Returns:
        `days` that have landed, and the `decisions` of all models; see `list_decisions`.
    """
    flights = Flights.load()
    if find_spec("lightgbm") is None:
        raise FlightsNotInstalledError(
            "LightGBM, which the demo's second model needs, is not installed: pip install "
            "'retrain-assets[demo]'"
        )
    if fresh:
        start_over(storage)
    days = [day for day in flights.days if day <= last]
    (storage.work / "dagster").mkdir(parents=True, exist_ok=True)
    places = str(storage.root), str(storage.work), storage.mlflow_uri, str(home)
    with beside.open_process():
        for name in (names := tuple(models())):  # MLflow takes seconds to create its database
            beside.do("retrain demo", storage.registry(name).prepare)
        settle, deliveries = partial(_settle, places), _deliver(storage, flights, days)
        try:
            decisions = settle_deliveries(storage, names, settle, deliveries, len(days), tell)
        finally:
            _open_daemon(*places).instance.dispose()
            _open_daemon.cache_clear()
    return {"days": len(days), "decisions": decisions}


def _settle(places: tuple[str, ...]) -> Iterator[Executed]:
    """Let the sensors settle, those that do not depend on each other in two processes.

    A stage begins when both have ended the one before, so decisions are as in one process.
    """
    for stage in STAGES:
        yield from _settle_beside(places, *stage)
    # What the last stage made due; the process beside this one may still draw cards.
    yield from _open_daemon(*places).settle()


def _settle_beside(
    places: tuple[str, ...], names: Sequence[str], others: Sequence[str]
) -> Iterator[Executed]:
    future = beside.submit(_settle_some, places, others)
    yield from _open_daemon(*places).settle(names)
    yield from future.result()


def _settle_some(places: tuple[str, ...], names: Sequence[str]) -> list[Executed]:
    return [*_open_daemon(*places).settle(names)]


@cache
def _open_daemon(root: str, work: str, tracking_uri: str, home: str) -> InProcessDaemon:
    """Return what ticks the sensors in this process; that of the other one ends with it."""
    resource = StorageResource(root=root, work=work, tracking_uri=tracking_uri)
    daemon = InProcessDaemon(
        build_defs({"storage": resource}), dg.DagsterInstance.from_config(home)
    )
    # A run for each model, since two processes can do these at once, and one run only in turn.
    daemon.sensors += [
        data_ready_sensor(name, [model], monitor_job(model)) for name, model in models().items()
    ]
    gc.freeze()  # a full collection would look at all that is loaded: 5 % of the CPU seconds
    return daemon


def _deliver(storage: Storage, flights: Flights, days: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Drop one delivery after the other."""
    later = range(FIRST_DELIVERY_DAYS, len(days), DELIVERY_DAYS)
    for delivery in [days[:FIRST_DELIVERY_DAYS], *(days[n : n + DELIVERY_DAYS] for n in later)]:
        with storage.deliver() as landing:
            flights.drop_planes(landing)
            flights.drop(landing, delivery)
        if not storage.place.is_local:
            time.sleep(SETTLE_SECONDS)  # an object is as old as its upload
        yield delivery[-1], len(delivery)


def start_over(storage: Storage) -> None:
    """Delete what an earlier demo stored, and nothing else.

    Raises:
        ForeignDataError: The root holds other datasets or models, whose runs and registry entries
            lie in the same databases, or those are in PostgreSQL.
    """
    if storage.mlflow_uri.startswith(DRIVER):
        raise ForeignDataError(
            "records that are in PostgreSQL are not deleted: let RETRAIN_DATABASE name a new "
            "database and RETRAIN_STORAGE a new folder"
        )
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
