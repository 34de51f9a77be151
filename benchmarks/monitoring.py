"""What watching a partition costs: from stored profiles, and by others from the rows.

    python benchmarks/monitoring.py [--others PYTHON] [--rows 1000000]

Flights of 2013 drawn with replacement until there are enough rows; 90 reference days have three
times as many as the current one. `--others` is an interpreter that has evidently and nannyml. CPU
seconds, imports apart. Not here: whether alarms are right (`decisions.py`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from year import built, features

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.measures import MEASURES, compare
from retrain_assets.domain.drift.profile import build_profile, merge

if TYPE_CHECKING:
    from collections.abc import Callable

DAYS, TIMES, ROUNDS = 90, 3, 5
OTHERS = Path(__file__).with_name("others.py")


def drawn(rows: pl.DataFrame, many: int, days: int, seed: int) -> pl.DataFrame:
    """Rows drawn with replacement, spread over days."""
    random = np.random.default_rng(seed)
    day = pl.Series(PARTITION, np.arange(many) % days).cast(pl.String)
    return rows[random.integers(0, rows.height, many)].with_columns(day)


def seconds(work: Callable[[], Any]) -> float:
    """Least CPU seconds of several rounds."""
    taken = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--others", help="An interpreter that has evidently and nannyml.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="Of the current day.")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="retrain-benchmark-") as folder:
        rows = features(built(Path(folder) / "storage")).drop(PARTITION)
        before = drawn(rows, TIMES * options.rows, DAYS, 1)
        now = drawn(rows, options.rows, 1, 2)
        reference, current = build_profile(before), build_profile(now)
        print(f"{before.height:,} rows of {DAYS} days against {now.height:,}, {rows.width} columns")
        watching = seconds(lambda: list(compare(merge(reference), merge(current))))
        print(f"from profiles, {len(MEASURES)} measures: {1000 * watching:.1f} ms CPU")
        building, pass_ = seconds(lambda: build_profile(now)), seconds(now.describe)
        print(f"building a profile: {building:.2f} s CPU, polars' describe {pass_:.2f} s CPU")
        if options.others:
            for name, taken in others(options.others, Path(folder), before, now).items():
                print(f"{name}: {taken:.1f} s CPU, {taken / watching:,.0f} times")


def others(python: str, folder: Path, before: pl.DataFrame, now: pl.DataFrame) -> dict[str, float]:
    """CPU seconds of each of the others, by name."""
    files = [folder / name for name in ("before.parquet", "now.parquet")]
    for rows, file in zip((before, now), files, strict=True):
        rows.drop(PARTITION).write_parquet(file)
    done = subprocess.run([python, OTHERS, *files], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
