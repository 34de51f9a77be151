"""The flights of 2013 with their features built, for benchmarks that start from there.

Not here: what is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain_assets.definitions import datasets, models
from retrain_assets.demo.flights import Flights
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.steps.data.ingest import ingest
from retrain_assets.steps.features import build
from retrain_assets.stores.storage import Storage

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from retrain_assets.steps.state import ModelState

RUN = "benchmark"


def built(folder: Path) -> ModelState:
    """A storage root with all days landed, ingested and made into features."""
    storage, flights, known = Storage(folder), Flights.load(), datasets()
    flights.drop(storage.landing, flights.days)
    flights.drop_planes(storage.landing)
    for name, keys in (("flights", flights.days), ("weather", flights.days), ("planes", ("all",))):
        ingest(storage, known[name], keys, RUN)
    state = models()["flight_delay"].state(storage)
    build.build_features(state, tuple(state.sources()), RUN)
    return state


def features(state: ModelState, *further: str) -> pl.DataFrame:
    """Partition, features and what else is named, of all rows."""
    table = state.tables.scan(state.table("features"))
    return table.select(PARTITION, *state.feature_names, *further).collect()
