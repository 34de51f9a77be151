"""The demo with and without workers of Dask: the same decisions, and the same bytes stored.

    python benchmarks/demo.py [--to 2013-04-30] [--sides 0 2]

Each side is a process with a root of its own and plays the demo until a day, as `retrain demo --to`
does. With workers, batches are of at most `--values` values, since a whole delivery of the demo
fits into one, and one item alone is computed without workers. Compared are the decisions, the
digest of each fitted model, and a digest of each column of each table; left out are times, names of
runs, and digests of model files, which hold the time of the fit. Pictures are not compared. Not
here: a cluster that loses workers (system tests).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import polars as pl

from retrain_assets.cli.base import write_settings
from retrain_assets.demo.run import run_demo
from retrain_assets.steps.features import rows
from retrain_assets.stores import engine as engines
from retrain_assets.stores.storage import storage_from

OWN = (
    r"time|run|_at$|seconds|sha256|made_from|^by$"  # columns that differ from one play to the next
)


def main() -> None:
    """Play all sides and compare them with the first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--to", default="2013-04-30")
    parser.add_argument("--sides", nargs="*", default=["0", "2"])
    parser.add_argument("--values", type=int, default=200_000)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side is not None:
        print(json.dumps(play(int(options.side), options.to, options.values)))
        return
    results = []
    for side in options.sides:
        arguments = ["--to", options.to, "--values", str(options.values), "--side", side]
        started, before = time.perf_counter(), sum(os.times()[2:4])
        command = [sys.executable, __file__, *arguments]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        wall, cpu = time.perf_counter() - started, sum(os.times()[2:4]) - before
        results.append(json.loads(output.splitlines()[-1]))
        counts = f"items on workers {results[-1].pop('items')}"
        print(f"{side} workers: {wall:.0f} s, {cpu:.0f} CPU s, {counts}", flush=True)
    for result in results[1:]:
        for name, values in result.items():
            first = results[0][name]
            unequal = [key for key in values.keys() | first if values.get(key) != first.get(key)]
            print(f"{name}: {len(values)}, unequal: {unequal or 'none'}")
            for key in unequal if name == "decisions" else ():
                print(f"  {first.get(key)}\n  {values.get(key)}")


def play(workers: int, last: str, values: int) -> dict[str, Any]:
    """Play the demo, and return what is compared."""
    from distributed import LocalCluster

    counts: Counter[str] = Counter()
    compute: Callable[..., Iterator[Any]] = engines.DaskEngine._map  # noqa: SLF001

    def count(self: Any, function: Any, items: Iterable[Any]) -> Iterator[Any]:
        for value in compute(self, function, items):
            counts[getattr(function, "func", function).__qualname__] += 1
            yield value

    with TemporaryDirectory(prefix="retrain-demo-") as folder:
        root = Path(folder)
        os.environ.update({"RETRAIN_STORAGE": str(root / "data"), "DAGSTER_HOME": folder})
        write_settings(root)
        if not workers:
            return compare(root, last, counts)
        options = {"host": "127.0.0.1", "dashboard_address": None, "silence_logs": 50}
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, **options) as cluster,
            patch.object(rows, "BATCH_VALUES", values),
            patch.object(engines.DaskEngine, "_map", count),
        ):
            os.environ["RETRAIN_ENGINE"] = cluster.scheduler_address.replace("tcp", "dask")
            return compare(root, last, counts)


def compare(root: Path, last: str, counts: Counter[str]) -> dict[str, Any]:
    """Play the demo, and return decisions, digests of tables and of models, and the counts."""
    storage = storage_from(os.environ, root)
    decisions = run_demo(storage, root, lambda _: None, last=last, fresh=False)["decisions"]
    names = "action", "as_of", "version", "reason"
    versions = {
        f"{item.name} {item.version}": storage.registry(item.name).content(item)
        for item in storage.registry("").versions_of_all()
    }
    return {
        "decisions": {
            f"{number} {row['model']}": {name: row[name] for name in names}
            for number, row in enumerate(decisions)
        },
        "models": versions,
        "columns": dict(digest_columns(root / "data" / "delta")),
        "items": dict(counts),
    }


def digest_columns(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield a digest of each column of each table."""
    for path in sorted(folder.glob("**/_delta_log")):
        table = pl.read_delta(str(path.parent))
        stored = table.select(~pl.selectors.matches(OWN))
        lines = pl.Series([json.dumps(row, default=str) for row in stored.to_dicts()])
        ordered = stored[lines.arg_sort().to_list()] if table.height else stored
        for column in ordered.columns:
            values = json.dumps(ordered[column].to_list(), default=str)
            yield f"{path.parent.relative_to(folder)} {column}", sha256(values.encode()).hexdigest()


if __name__ == "__main__":
    main()
