"""What a tick of `new_data` costs beside a long history: 365 days that landed, and 36,500.

Nothing is new in either. Both are ticked in turn in one process, as the daemon does (from where the
cursor says) and as it does once an hour (everything). Not here: what is done with new files.

    python benchmarks/listing.py [--ticks 15]

CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import dagster as dg
import polars as pl

from retrain_assets.orchestration.build import dataset_definitions
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.state import FILES
from retrain_assets.stores.storage import Storage

FIRST, COUNTS = date(1925, 1, 1), (365, 36_500)
SPEC = DatasetSpec.model_validate(
    {
        "name": "days",
        "landing": "days/{partition}.parquet",
        "partition": {"by": "day", "column": "day", "start": str(FIRST)},
        "columns": {"day": {"type": "date"}},
        "key": ["day"],
    }
)


def main() -> None:
    """Tick and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--ticks", type=int, default=15, help="repetitions, of which the median")
    ticks = parser.parse_args().ticks
    with ExitStack() as stack:
        instance = stack.enter_context(dg.DagsterInstance.ephemeral())
        folders = [Path(stack.enter_context(TemporaryDirectory())) for _ in COUNTS]
        sensors = [sensor(*one) for one in zip(folders, COUNTS, strict=True)]
        cursors = [tick(one, instance, None)[1] for one in sensors]
        for name, known in (("a tick", cursors), ("once an hour", [None, None])):
            pairs = list(zip(sensors, known, strict=True))
            found = [[tick(one, instance, at)[0] for one, at in pairs] for _ in range(ticks)]
            few, many = (1000 * median(row[at] for row in found) for at in (0, 1))
            ratio = median(row[1] / row[0] for row in found)
            print(f"{name:<14}{few:8.1f} ms {many:8.1f} ms   ratio {ratio:.1f}")


def sensor(root: Path, days: int) -> tuple[dg.RepositoryDefinition, dict[str, Any]]:
    """Definitions of a dataset of which so many days have landed and were read."""
    folder = root / "landing" / "days"
    folder.mkdir(parents=True)
    for number in range(days):
        path = folder / f"{FIRST + timedelta(days=number)}.parquet"
        path.touch()
        os.utime(path, (1, 1))
    storage = Storage(root)
    files = storage.source(SPEC).files()
    rows = pl.DataFrame([[file.partition, file.path, file.stamp] for file in files], orient="row")
    rows.columns = ["_landing_partition", "file", "stamp"]
    rest = {name: kind for name, kind in FILES.items() if name not in rows.columns}
    rows = rows.with_columns(pl.lit(None, kind).alias(name) for name, kind in rest.items())
    storage.tables.replace("days/files", rows.select(*FILES), rows["_landing_partition"], {})
    resources = {"storage": StorageResource(root=str(root))}
    definitions = dataset_definitions(SPEC)
    made = dg.Definitions(
        assets=definitions.assets,
        jobs=definitions.jobs,
        sensors=definitions.sensors,
        resources={**(definitions.resources or {}), **resources},
    )
    return made.get_repository_def(), resources


def tick(
    made: tuple[dg.RepositoryDefinition, dict[str, Any]],
    instance: dg.DagsterInstance,
    cursor: str | None,
) -> tuple[float, str | None]:
    """CPU seconds of one tick, and its cursor."""
    repository, resources = made
    context = dg.build_sensor_context(
        instance, cursor=cursor, repository_def=repository, resources=resources
    )
    before = process_time()
    outcome = repository.get_sensor_def("days_new_data").evaluate_tick(context)
    spent = process_time() - before
    if not (outcome.skip_message or "").endswith("all were read"):
        raise RuntimeError(outcome.skip_message)
    return spent, outcome.cursor


if __name__ == "__main__":
    main()
