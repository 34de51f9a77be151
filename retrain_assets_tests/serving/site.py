"""A storage root with a model in production, and the service on it behind a real socket.

Days and lookups are written straight into their tables; everything after that is the shipped steps.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import uvicorn

from retrain_assets.domain.data.rules import dataset_schema
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.serving.http.app import Service, build_app
from retrain_assets.serving.http.formats import ARROW
from retrain_assets.serving.http.guard import Limits
from retrain_assets.serving.metrics import Metrics
from retrain_assets.serving.prediction_log import PredictionLog
from retrain_assets.serving.run import new_service
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.decision.train import fit_model, register
from retrain_assets.steps.features.build import build_features, build_profiles
from retrain_assets.steps.monitoring.monitor import monitor
from retrain_assets.steps.monitoring.predict import predict_partitions
from retrain_assets.steps.state import FILES, ModelState
from retrain_assets.stores.ledger import Action, LedgerRow
from retrain_assets.stores.storage import Storage
from retrain_assets_tests.world import DATASET, MODEL, customers, key

TEST_NOTE = "a test"
COLUMNS: dict[str, Any] = {
    "day": {"type": "date", "required": True},
    "at": {"type": "datetime"},
    "id": {"type": "int", "required": True, "min": 0},
    "x": {"type": "float", "min": -100, "max": 100},
    "plan": {"type": "category", "required": True},
    "left": {"type": "int", "min": 0, "max": 1, "known": "later"},
}
# Files have local times, while requests may also have times with an offset.
READ = DATASET["read"] | {"date_format": {"at": "%Y-%m-%dT%H:%M:%S"}}
PLANS: dict[str, Any] = {
    "name": "plans",
    "landing": "plans/plans.csv",
    "partition": {"by": "none"},
    "columns": {
        "plan": {"type": "category", "required": True},
        "price": {"type": "float"},
    },
    "key": ["plan"],
}
USAGE: dict[str, Any] = {
    "name": "usage",
    "landing": "usage/usage.csv",
    "partition": {"by": "none"},
    "columns": {
        "plan": {"type": "category", "required": True},
        "at": {"type": "datetime", "required": True},
        "load": {"type": "float"},
    },
    "key": ["plan", "at"],
}
SQL = """
SELECT x, plan, plans_price AS price, usage_load AS load, -- a comment, with a comma
  CASE WHEN x > 0 THEN 'up, or not' ELSE 'down' END AS side, EXTRACT(ISODOW FROM day) AS weekday
FROM rows
"""
TREES = {
    "class": "sklearn.ensemble.HistGradientBoostingClassifier",
    "params": {"max_iter": 12, "min_samples_leaf": 5},
}
SERVED: dict[str, Any] = MODEL | {
    "lookups": {
        "plans": {"on": ["plan"]},
        "usage": {"on": ["plan"], "as_of": "at", "lag": "1h", "tolerance": "1d"},
    },
    "features": {"sql": SQL},
    "descriptions": {"x": "how much is used"},
    "estimator": TREES,
}
ROW = {"day": "2020-01-20", "at": "2020-01-20T09:30:00Z", "id": 1, "x": 0.5, "plan": "plus"}
# A new process needs a minute to load a model where the machine is busy.
SETTLED_SECONDS = 120.0


def plans(**changed: float) -> pl.DataFrame:
    prices = {"basic": 1.0, "plus": 2.5, "pro": 9.0} | changed
    return pl.DataFrame({"plan": list(prices), "price": list(prices.values())})


def usage(days: int = 40) -> pl.DataFrame:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    found = [
        {"plan": plan, "at": start + timedelta(hours=7 * n), "load": (n % 11) / 10 + len(plan)}
        for plan in ("basic", "plus")
        for n in range(days * 3)
    ]
    return pl.DataFrame(found)


@dataclass
class Site:
    """A storage root, and one model on it."""

    root: Path
    changes: dict[str, Any] = field(default_factory=dict)
    tracking_uri: str | None = None

    @cached_property
    def storage(self) -> Storage:
        return Storage(self.root, self.tracking_uri)

    @cached_property
    def model(self) -> Model:
        lookups = {found["name"]: DatasetSpec.model_validate(found) for found in (PLANS, USAGE)}
        spec = ModelSpec.model_validate(SERVED | self.changes)
        wanted = {name: lookups[name] for name in spec.lookups}
        dataset = DatasetSpec.model_validate(DATASET | {"columns": COLUMNS, "read": READ})
        return Model(spec, dataset, wanted)

    @property
    def state(self) -> ModelState:
        return self.model.state(self.storage)

    def land(self, *numbers: int, **law: Any) -> None:
        """Days of customers, as ingest would have stored them."""
        parts = []
        for number in numbers:
            hours = pl.duration(hours=pl.col("id") % 24)
            at = pl.col("day").str.to_datetime(time_zone="UTC") + hours
            parts.append(
                customers(number, **law).with_columns(at=at, day=pl.col("day").str.to_date())
            )
        rows = pl.concat(parts)
        self.store(
            self.model.dataset, rows.with_columns(_landing_partition=pl.col("day").cast(pl.String))
        )

    def store(self, spec: DatasetSpec, rows: pl.DataFrame) -> None:
        """Rows of a dataset."""
        if "_landing_partition" not in rows.columns:
            day = pl.col(spec.partition.column or "").cast(pl.Date).cast(pl.String)
            key = pl.lit("all") if spec.partition.by == "none" else day
            rows = rows.with_columns(_landing_partition=key)
        schema = dataset_schema(spec)
        stored = rows.select(pl.col(name).cast(kind) for name, kind in schema.items())
        keys = stored["_landing_partition"].unique().to_list()
        digest = str(stored.hash_rows().sum())
        accepted = {"sha256": digest, "accepted": 1}
        files = pl.DataFrame([{"_landing_partition": k, **accepted} for k in keys], schema=FILES)
        tables = self.storage.tables
        tables.replace(f"{spec.name}/dataset", stored, keys, {"run_id": "test"})
        tables.replace(f"{spec.name}/files", files, keys, {"run_id": "test"})

    def build(self, *numbers: int) -> None:
        """Features, profile, predictions and monitoring of days."""
        keys = [key(number) for number in numbers]
        for step in (build_features, build_profiles):
            step(self.state, keys, "test")
        predict_partitions(self.state, keys, "test")
        monitor(self.state, keys, "test")

    def decide(self, *numbers: int, action: Action = "promote") -> LedgerRow:
        """A version trained on days, with a decision on it."""
        state, registry = self.state, self.storage.registry("churn")
        registry.prepare()
        experiment = registry.client.get_experiment_by_name("churn").experiment_id
        run = registry.client.create_run(experiment).info.run_id
        trained = fit_model(state, [key(number) for number in numbers])
        found = register(state, run, trained, tags={}, metrics={}, pictures={})
        registry.client.set_terminated(run)
        history = state.ledger.read()
        row = LedgerRow(
            time=datetime.now(UTC),
            as_of=key(numbers[-1]),
            seen_through=key(numbers[-1]),
            action=action,
            version=found.version,
            candidate=found.version,
            previous=history.production.version if history.production else None,
            reason=TEST_NOTE,
            causes=(),
            data_range=(key(numbers[0]), key(numbers[-1])),
            metrics={"log_loss": 0.4},
            by=TEST_NOTE,
            sha256=found.sha256,
            recipe=state.spec.recipe,
        )
        state.ledger.append(row, history)
        return row

    def roll_back(self, row: LedgerRow) -> None:
        """An earlier version back into production."""
        history = self.state.ledger.read()
        self.state.ledger.append(_as(row, "rollback"), history)

    def service(self, told: Callable[[str], None] = lambda _: None, **changes: Any) -> Service:
        """The service, whose models have looked once."""
        made = new_service(self.storage, {"churn": self.state}, (), told)
        backlog = changes.pop("backlog_bytes", made.limits.backlog_bytes)
        log = PredictionLog(self.root / "serving" / "log", {"churn": self.state}, backlog)
        metrics = Metrics(made.models, made.monitors, log)
        made = replace(made, log=log, metrics=metrics, **changes)
        for model in made.models.values():
            model.refresh()
        return made


def new_site(root: Path, **changes: Any) -> Site:
    """A site with version 1 in production, trained on 12 of 16 days."""
    site = Site(root, changes)
    site.store(DatasetSpec.model_validate(PLANS), plans())
    site.store(DatasetSpec.model_validate(USAGE), usage())
    site.land(*range(16))
    site.build(*range(16))
    site.decide(*range(12))
    return site


@contextmanager
def listening(service: Service) -> Iterator[httpx.Client]:
    """The service in a thread of its own, on a free port; a client with its address."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        config = uvicorn.Config(build_app(service), log_level="error", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
        thread.start()
        wait_until(lambda: server.started)
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        try:
            with httpx.Client(base_url=address, timeout=SETTLED_SECONDS) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def wait_until(holds: Callable[[], Any]) -> None:
    """Return once something holds; fail where it does not come to that."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def post(client: httpx.Client, *rows: dict[str, Any], **options: Any) -> httpx.Response:
    """Ask for predictions of raw rows."""
    content = json.dumps({"rows": rows or [ROW]})
    headers = {"content-type": "application/json"} | options.pop("headers", {})
    return client.post("/models/churn/predict", content=content, headers=headers, **options)


def post_arrow(client: httpx.Client, rows: pl.DataFrame, **options: Any) -> httpx.Response:
    """Ask for predictions of a frame of raw rows."""
    content = rows.write_ipc_stream(None, **options).getvalue()
    return client.post("/models/churn/predict", content=content, headers={"content-type": ARROW})


def limits(**changes: Any) -> Limits:
    return Limits(**changes)


def _as(row: LedgerRow, action: Action) -> LedgerRow:
    return replace(row, action=action, time=datetime.now(UTC))
