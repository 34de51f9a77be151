"""What workers of Dask cost and save: features and profiles of ten million rows.

Each step builds 365 partitions in its own process, with workers of Dask on loopback, and with a
pool of processes of Python's own library. The rows of features travel to the process that commits
them, of profiles only small summaries. Each line is a process of its own over the same root; equal
digests are equal tables.

    python benchmarks/engine.py [--rows 10000000] [--days 365] [--sides 0 1 2 4 pool2]
    python benchmarks/engine.py --rows 1000000 5000000 10000000 50000000 --sides 0    # 15 GB

CPU seconds are those of the step's process and of all it started; memory is the peak of the step's
process alone. Not here: what is lost when a worker is killed, which the system tests show.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from year import RUN

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.features.build import build_features, build_profiles
from retrain_assets.steps.state import FILES
from retrain_assets.stores.engine import Engine, engine_from
from retrain_assets.stores.storage import Storage

NUMBERS = [f"x{number}" for number in range(10)]
STEPS: dict[str, Callable[..., object]] = {"features": build_features, "profile": build_profiles}
DATASET: dict[str, Any] = {
    "name": "events",
    "landing": "events/{partition}.parquet",
    "partition": {"by": "day", "column": "day", "start": "2020-01-01", "end": "2024-12-31"},
    "columns": {
        "day": {"type": "date"},
        "id": {"type": "int"},
        "kind": {"type": "category"},
        **{name: {"type": "float"} for name in NUMBERS},
        "bought": {"type": "int", "known": "later"},
    },
    "key": ["day", "id"],
}
MODEL: dict[str, Any] = {
    "name": "buyers",
    "dataset": "events",
    "features": {
        "sql": "SELECT kind, x0 * x1 AS product, LN(ABS(x2) + 1) AS size, x3 - x4 AS difference, "
        "x5, x6, x7, x8, x9 FROM rows"
    },
    "target": {"column": "buys", "expression": '"bought"', "kind": "binary"},
    "estimator": {"class": "sklearn.linear_model.LogisticRegression"},
    "windows": {"train": 60, "holdout": 30, "current": 7},
    "triggers": {},
    "gate": {"metric": "log_loss"},
}


def main() -> None:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000_000])
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--sides", nargs="*", default=["0", "1", "2", "4", "pool2"])
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side is not None:
        print(json.dumps(measure(options.root, *options.side)))
        return
    print("rows      step      workers  wall s  CPU s  peak MB of the step  digest of the table")
    for rows in options.rows:
        with TemporaryDirectory(prefix="retrain-benchmark-") as folder:
            store(Path(folder), rows, options.days)
            for step, side in product(STEPS, options.sides):
                command = [sys.executable, __file__, "--side", step, side, "--root", folder]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
                print(f"{rows:8}  {json.loads(output.splitlines()[-1])}", flush=True)


def store(root: Path, rows: int, days: int) -> None:
    """Store the accepted rows of all days, as ingest would have."""
    tables, random = Storage(root).tables, np.random.default_rng(0)
    keys = [(date(2020, 1, 1) + timedelta(days=number)).isoformat() for number in range(days)]
    count = rows // days
    for first in range(0, days, 30):
        part = keys[first : first + 30]
        size = count * len(part)
        frame = pl.DataFrame(
            {
                PARTITION: np.repeat(part, count),
                "id": np.arange(size),
                "kind": random.choice(["a", "b", "c", "d"], size),
                **{name: random.normal(size=size) for name in NUMBERS},
                "bought": random.integers(0, 2, size),
            }
        ).with_columns(day=pl.col(PARTITION).str.to_date())
        tables.replace("events/dataset", frame, part, {})
    records = pl.DataFrame(
        {PARTITION: keys, "file": keys, "sha256": keys, "accepted": [count] * days}
    )
    empty = pl.DataFrame(schema=FILES)
    tables.replace("events/files", pl.concat([empty, records], how="diagonal_relaxed"), keys, {})


@dataclass(frozen=True)
class Pool:
    """An engine of processes of this machine, without Dask: none is replaced when it is lost."""

    executor: ProcessPoolExecutor

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield the value of each item; all items are in flight at once."""
        return self.executor.map(function, items)

    def describe(self) -> str:
        """Return where items are computed, in words."""
        return "by a pool of processes"


@contextmanager
def start(side: str, root: Path) -> Iterator[Engine]:
    """Start a pool of processes, or workers of Dask, and yield the engine; for 0 this process."""
    if side.startswith("pool"):
        context = get_context("spawn")
        with ProcessPoolExecutor(int(side.removeprefix("pool")), mp_context=context) as executor:
            yield Pool(executor)
        return
    if side == "0":
        yield engine_from(None, root)
        return
    from distributed import LocalCluster

    options = {"host": "127.0.0.1", "dashboard_address": None, "silence_logs": 50}
    with LocalCluster(n_workers=int(side), threads_per_worker=1, **options) as cluster:
        yield engine_from(cluster.scheduler_address.replace("tcp", "dask"), root)


def measure(root: Path, step: str, side: str) -> str:
    """Build all partitions of a step on one side, and describe what that took."""
    model = Model(ModelSpec.model_validate(MODEL), DatasetSpec.model_validate(DATASET), {})
    started, before = time.perf_counter(), sum(os.times()[:4])
    with start(side, root) as engine:
        state = model.state(Storage(root, engine=engine))
        STEPS[step](state, tuple(state.sources()), RUN)
        wall = time.perf_counter() - started
        memory = peak_memory()
    cpu = sum(os.times()[:4]) - before  # the workers have ended and are counted
    rows = state.tables.scan(state.table(step)).select(pl.struct(pl.all()).hash().sum()).collect()
    return f"{step:8}  {side:>7}  {wall:6.1f}  {cpu:5.1f}  {memory:19.0f}  {rows.item():x}"


def peak_memory() -> float:
    """Return the most MB that this process has held; `ru_maxrss` begins with its parent's."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
