"""One flight scores exactly as in its batch, also with a lookup missing or a category unseen."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import retrain_assets
from retrain_assets.domain.data.rules import dataset_schema
from retrain_assets.domain.features.build import build_features, compute_features, list_features
from retrain_assets.domain.model.estimator import fit, predict
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.yaml import load_strictly

DEFS = Path(retrain_assets.__file__).parent / "defs" / "flight_delay" / "defs.yaml"
ROWS = 600


@pytest.fixture(scope="module")
def trained() -> tuple[Any, ModelSpec, DatasetSpec, pl.DataFrame, dict[str, pl.DataFrame]]:
    """The shipped flight model, fitted on made-up flights of the shipped contract."""
    *datasets, attributes = (document.value["attributes"] for document in load_strictly(DEFS))
    specs = {found["name"]: DatasetSpec.model_validate(found) for found in datasets}
    spec, dataset = ModelSpec.model_validate(attributes), specs["flights"]
    flights, lookups = made_up(specs)
    table = build_features(flights, lookups, spec, dataset)
    joined = {name: specs[name] for name in spec.lookups}
    rows = table.select(list_features(spec, dataset, joined))
    fitted = fit(spec, rows, table["delayed"], table["_landing_partition"])
    return fitted.pipeline, spec, dataset, flights, lookups


def made_up(specs: dict[str, DatasetSpec]) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    random = np.random.default_rng(0)
    start = datetime(2013, 1, 1, 12, tzinfo=UTC)
    times = [start + timedelta(minutes=int(minute)) for minute in random.integers(0, 720, ROWS)]
    flights = pl.DataFrame(
        {
            "_landing_partition": ["2013-01-01"] * ROWS,
            "flight_date": [date(2013, 1, 1)] * ROWS,
            "time_hour": times,
            "carrier": random.choice(["AA", "B6", "UA"], ROWS),
            "flight": np.arange(ROWS),
            "tailnum": [f"N{number % 40}" for number in range(ROWS)],
            "origin": random.choice(["EWR", "JFK"], ROWS),
            "dest": random.choice(["ATL", "ORD", "SFO"], ROWS),
            "distance": random.integers(200, 2500, ROWS),
            "sched_dep_time": random.integers(600, 2200, ROWS),
            "sched_arr_time": random.integers(600, 2200, ROWS),
            "arr_delay": random.normal(10, 30, ROWS),
        }
    )
    hours = [start + timedelta(hours=hour) for hour in range(-8, 8)]
    weather = pl.DataFrame(
        {"origin": ["EWR"] * 16, "time_hour": hours, "temp": random.normal(40, 10, 16)}
    )
    planes = pl.DataFrame({"tailnum": [f"N{n}" for n in range(20)], "seats": list(range(50, 70))})
    frames = {"flights": flights, "weather": weather, "planes": planes}
    whole = {name: _completed(frame, specs[name]) for name, frame in frames.items()}
    return whole.pop("flights"), whole


def _completed(frame: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    schema = dataset_schema(spec)
    if "_landing_partition" not in frame.columns:
        frame = frame.with_columns(_landing_partition=pl.lit("all"))
    missing = [pl.lit(None, dtype).alias(n) for n, dtype in schema.items() if n not in frame]
    return frame.with_columns(missing).select(pl.col(n).cast(t) for n, t in schema.items())


def test_one_row_scores_exactly_as_in_its_batch(trained: Any) -> None:
    pipeline, spec, dataset, flights, lookups = trained
    unseen = flights.head(30).with_columns(
        dest=pl.lit("XXX"), tailnum=pl.lit("N-none"), origin=pl.lit("LGA")
    )
    batch = pl.concat([flights.tail(30), unseen])
    together = predict(pipeline, spec.target.kind, compute_features(batch, lookups, spec, dataset))
    alone = [
        predict(
            pipeline, spec.target.kind, compute_features(batch[n], lookups, spec, dataset)
        ).item()
        for n in range(batch.height)
    ]
    assert alone == together.tolist()
    assert len(set(alone)) > 20


def test_a_category_never_seen_is_scored_as_missing(trained: Any) -> None:
    pipeline, spec, dataset, flights, lookups = trained
    rows = flights.head(3).with_columns(dest=pl.Series(["ATL", "XXX", "YYY"]))
    features = compute_features(rows, lookups, spec, dataset)
    absent = features.with_columns(dest=pl.lit(None, pl.String))
    scored = predict(pipeline, spec.target.kind, features)
    assert scored[1:].tolist() == predict(pipeline, spec.target.kind, absent)[1:].tolist()
