"""A small world to run the loop in: customers who leave, a law that can change, files that land.

`x` raises the odds of leaving; from `turn` on it lowers them (concept drift) or moves (covariate
shift). Not a fake: the definitions are the shipped ones, on real files and tables.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import numpy as np
import polars as pl

from retrain_assets.orchestration.assets import upkeep
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.build import dataset_definitions, model_definitions
from retrain_assets.orchestration.dagster_internals.ticks import Executed, InProcessDaemon
from retrain_assets.orchestration.resources import Channels, StorageResource
from retrain_assets.reports import canvas
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.decision import judge
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.registry import model_check, registry
from retrain_assets.stores.registry.model_file import ModelFileError
from retrain_assets.stores.storage import Storage

# Processes that a test starts inherit the folder from the one that runs the tests.
SHARED = Path(os.environ.get("RETRAIN_TESTS") or tempfile.mkdtemp(prefix="retrain-tests-"))
os.environ["RETRAIN_TESTS"] = str(SHARED)
START = date(2020, 1, 1)
DATASET: dict[str, Any] = {
    "name": "customers",
    "landing": "customers/{partition}.csv",
    "partition": {"by": "day", "column": "day", "start": "2020-01-01", "end": "2020-04-30"},
    "columns": {
        "day": {"type": "date", "required": True},
        "id": {"type": "int", "required": True, "min": 0},
        "x": {
            "type": "float",
            "min": -100,
            "max": 100,
            "description": "how often the customer called",
        },
        "plan": {"type": "category", "allowed": ["basic", "plus", "pro"]},
        "left": {"type": "int", "min": 0, "max": 1, "known": "later"},
    },
    "key": ["day", "id"],
    "read": {"settle": "0s"},
}
MODEL: dict[str, Any] = {
    "name": "churn",
    "dataset": "customers",
    "features": {"sql": "SELECT x, plan FROM rows"},
    "target": {"column": "gone", "expression": '"left"', "kind": "binary"},
    "estimator": {"class": "sklearn.linear_model.LogisticRegression"},
    "windows": {"train": 10, "holdout": 6, "current": 3},
    "triggers": {
        "data_drift": {"measure": "psi", "threshold": 0.5},
        "performance": {"metric": "log_loss", "max_drop": 0.2},
        "cooldown": 6,
    },
    "gate": {"metric": "log_loss", "min_blocks": 4, "min_gain": 0.0},
    "adapt": "off",
}


def key(number: int) -> str:
    """The partition key of a day, counted from 0."""
    return (START + timedelta(days=number)).isoformat()


def customers(number: int, rows: int = 120, slope: float = 2.0, shift: float = 0.0) -> pl.DataFrame:
    """One day of customers; the same number always gives the same rows."""
    random = np.random.default_rng(number)
    x = random.normal(shift, 1.0, rows)
    left = random.random(rows) < 1 / (1 + np.exp(-slope * x))
    return pl.DataFrame(
        {
            "day": [key(number)] * rows,
            "id": np.arange(rows),
            "x": x.round(6),
            "plan": random.choice(["basic", "plus", "pro"], rows),
            "left": left.astype(int),
        }
    )


class PlainDaemon(InProcessDaemon):
    """A daemon whose runs draw no pictures and write no report, which takes half their time."""

    def execute(self, job_name: str, *arguments: Any) -> str:
        with (
            patch.object(canvas, "to_png", lambda _: b"not drawn"),
            patch.object(upkeep, "_describe_report", lambda *_: {"report": "not written"}),
        ):
            return super().execute(job_name, *arguments)


@dataclass
class World:
    """A storage root, the definitions on it, and a daemon that ticks them."""

    root: Path
    instance: dg.DagsterInstance
    dataset: DatasetSpec
    spec: ModelSpec
    slack_url: str = ""

    @property
    def storage(self) -> Storage:
        return Storage(self.root)

    @property
    def model(self) -> Model:
        return Model(self.spec, self.dataset, {})

    @property
    def state(self) -> ModelState:
        return self.model.state(self.storage)

    @property
    def definitions(self) -> dg.Definitions:
        merged = dg.Definitions.merge(
            dataset_definitions(self.dataset), model_definitions(self.model)
        )
        return dg.Definitions(
            assets=merged.assets,
            asset_checks=merged.asset_checks,
            jobs=merged.jobs,
            sensors=merged.sensors,
            schedules=merged.schedules,
            resources={
                "storage": StorageResource(root=str(self.root)),
                "channels": Channels(slack_url=self.slack_url),
            },
            executor=dg.in_process_executor,
        )

    @property
    def daemon(self) -> InProcessDaemon:
        return PlainDaemon(self.definitions, self.instance)

    def land(self, *numbers: int, **law: Any) -> None:
        """Deliver days."""
        folder = self.root / "landing" / "customers"
        folder.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            customers(number, **law).write_csv(folder / f"{key(number)}.csv")

    def settle(self) -> list[Executed]:
        """Let the sensors run what they ask for."""
        return list(self.daemon.settle())


def new_world(root: Path, instance: dg.DagsterInstance, **changes: Any) -> World:
    """A world whose model's YAML is changed."""
    spec = ModelSpec.model_validate(MODEL | changes)
    return World(root, instance, DatasetSpec.model_validate(DATASET), spec)


create_database, check_file = registry._create_database, model_check.check_file


def copy_database(database: Path) -> None:
    """Copy an empty MLflow database to its place, since MLflow takes seconds to create one."""
    if not database.exists():
        create_database(SHARED / "mlflow.db")
        part = database.with_name(f"{database.name}.{os.getpid()}.part")
        shutil.copyfile(SHARED / "mlflow.db", part)
        with suppress(FileExistsError):
            os.link(part, database)
        part.unlink()


def check_here(
    model: Path, sha256: str, example: Path, kind: Any, trusted: Sequence[str] = ()
) -> model_check.CheckResult:
    """Check a model file in this process, since a new one takes seconds to import its library."""
    try:
        detail = model_check.compare_with_example(model, sha256, example, kind, trusted)
    except (ModelFileError, ValueError, OSError) as error:
        return model_check.CheckResult(False, str(error), 0.0)
    return model_check.CheckResult(True, detail, 0.0)


# test_registry.py and test_guards.py test the ones that are replaced here.
registry._create_database = copy_database
model_check.check_file = judge.check_file = check_here
model_check.prepare_check = lambda: None
