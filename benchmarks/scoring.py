"""What `retrain score` takes for ten million rows: seconds, and the most memory held at once.

The rows of the demo's days (`make demo` first) are repeated until there are enough, in a folder of
its own that is removed again; ledger and model are the demo's. Not here: serving over HTTP.

    python benchmarks/scoring.py [--model arrival_delay] [--rows 10000000]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from retrain_assets.steps.state import ModelState

DAYS_A_COMMIT = 8


def main() -> None:
    """Repeat the rows, score them in a process of its own, and print what that took."""
    from retrain_assets.definitions import models
    from retrain_assets.stores.storage import storage_from

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="arrival_delay")
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    storage = storage_from(os.environ, Path.cwd())
    state = models()[options.model].state(storage)
    with TemporaryDirectory(dir=storage.root) as folder:
        days = repeat(state, storage.root, Path(folder), options.rows)
        measure(options.model, days, Path(folder), storage.mlflow_uri)


def repeat(state: ModelState, demo: Path, root: Path, wanted: int) -> list[str]:
    """A storage root with the demo's days, each with its rows many times.

    Returns:
        The days.
    """
    from retrain_assets.steps.state import FILES
    from retrain_assets.stores.tables.tables import Tables

    ledger = f"delta/{state.spec.name}/ledger"
    shutil.copytree(demo / ledger, root / ledger)
    tables, built = Tables(str(root / "delta")), sorted(state.built())
    name, total = state.table("features"), state.tables.scan(state.table("features"))
    times = -(-wanted // total.select(pl.len()).collect().item())
    for at in range(0, len(built), DAYS_A_COMMIT):
        keys = built[at : at + DAYS_A_COMMIT]
        rows = pl.concat([state.tables.read(name, keys)] * times)
        tables.replace(name, rows, keys, {})
        counts = rows["_landing_partition"].value_counts(name="rows").rows()
        files = [
            {"_landing_partition": key, "sha256": key, "accepted": count} for key, count in counts
        ]
        seen = pl.DataFrame(files, schema=FILES)
        tables.replace(f"{state.dataset.name}/files", seen, keys, {})
    return built


def measure(model: str, days: list[str], root: Path, tracking: str) -> None:
    """Score all days, and print rows, seconds and the peak of memory."""
    out = root / "scores.parquet"
    environment = os.environ | {"RETRAIN_STORAGE": str(root), "MLFLOW_TRACKING_URI": tracking}
    command = [sys.executable, "-m", "retrain_assets.cli", "score", model]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--from", days[0], "--to", days[-1], "--out", str(out)], env=environment
    )
    _, status, used = os.wait4(process.pid, 0)
    took = time.perf_counter() - started
    if status:
        raise SystemExit(f"retrain score ended with {os.waitstatus_to_exitcode(status)}")
    rows = pl.scan_parquet(out).select(pl.len()).collect().item()
    size, peak = out.stat().st_size / 1e6, used.ru_maxrss / 1024
    print(
        f"{rows:,} rows in {took:.0f} s, at most {peak:,.0f} MiB of memory, {size:.0f} MB written"
    )


if __name__ == "__main__":
    main()
