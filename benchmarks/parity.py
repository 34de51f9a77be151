"""The measures of drift beside those of Evidently and NannyML, on the same rows.

    python benchmarks/parity.py --others PYTHON

January to March 2013 against the last week of April. `--others` is an interpreter that has
evidently and nannyml. Not here: what any of them costs (`monitoring.py`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
from detection import days

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.measures import MEASURES
from retrain_assets.domain.drift.profile import build_profile, merge

OTHERS = Path(__file__).with_name("others.py")
BEFORE, NOW = slice(0, 90), slice(113, 120)
COLUMNS = ("temp", "pressure", "distance", "wind_speed", "carrier", "dest")
OFFERING = ("evidently", "nannyml")
SHOWN = ("psi", "jensen_shannon", "ks", "wasserstein", "chi_squared")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--others", required=True, help="Has evidently and nannyml.")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="retrain-benchmark-") as folder:
        year = days(Path(folder) / "storage")
        sides = [pl.concat(year[part]).select(COLUMNS) for part in (BEFORE, NOW)]
        files = [Path(folder) / name for name in ("before.parquet", "now.parquet")]
        for rows, file in zip(sides, files, strict=True):
            rows.write_parquet(file)
        done = subprocess.run(
            [options.others, OTHERS, *files, "parity"], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    theirs = json.loads(done.stdout.splitlines()[-1])
    before, now = (
        merge(build_profile(side.with_columns(pl.lit("a").alias(PARTITION)))) for side in sides
    )
    print("| column | measure | here | Evidently | NannyML |")
    for column in COLUMNS:
        for measure in SHOWN:
            found = MEASURES[measure](before[column], now[column])
            if found is not None:
                told = [
                    theirs[who].get(column, {}).get(measure) for who in ("evidently", "nannyml")
                ]
                shown = " | ".join("-" if value is None else f"{value:.4g}" for value in told)
                print(f"| {column} | {measure} | {found:.4g} | {shown} |")


if __name__ == "__main__":
    main()
