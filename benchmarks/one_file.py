"""What memory and time one large landing file takes, read, judged and stored in its own process.

The rows of the file all differ (`distinct`), repeat one row (`equal`), break a rule (`bad`), or are
of 365 days, by day (`days`) or each day's anywhere in the file (`mixed`). Not here: many files, see
`data.py`.

    python benchmarks/one_file.py parquet distinct 1000000

Peak of resident memory and CPU seconds of this process; the file is written by another one.
"""

from __future__ import annotations

import sys
from datetime import date, timedelta
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from time import process_time

import polars as pl

from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.data.ingest import ingest
from retrain_assets.stores.storage import Storage

DAY, MANY = "2013-01-05", 365
COLUMNS = {
    "day": {"type": "date", "required": True},
    "id": {"type": "int", "required": True},
    "city": {"type": "category"},
    "price": {"type": "float", "min": 0},
    "note": {"type": "text"},
}


def write(path: Path, kind: str, rows: int) -> None:
    """Write the file."""
    number = pl.col("id") * int(kind != "equal")
    days = {"days": pl.col("id") * MANY // rows, "mixed": pl.col("id") % MANY}.get(kind, pl.lit(0))
    frame = pl.DataFrame({"id": pl.int_range(rows, eager=True)}).select(
        day=pl.lit(date.fromisoformat(DAY)) + pl.duration(days=days),
        id=number,
        city=pl.concat_str(pl.lit("c"), number % 50),
        price=(number % 1000) / 8 - (1000 if kind == "bad" else 0),
        note=pl.lit("x"),
    )
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)


def main(ending: str, kind: str, rows: int) -> None:
    """Ingest one file of a kind, and print what that took."""
    is_split = kind in ("days", "mixed")
    first = date.fromisoformat(DAY)
    keys = [f"{first + timedelta(day)}" for day in range(MANY if is_split else 1)]
    spec = DatasetSpec.model_validate(
        {
            "name": "sales",
            "landing": f"sales/{'*' if is_split else '{partition}'}.{ending}",
            "partition": {"by": "day", "column": "day", "start": DAY},
            "columns": COLUMNS,
            "key": ["day", "id"],
        }
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "landing" / "sales" / f"{DAY}.{ending}"
        path.parent.mkdir(parents=True)
        writer = get_context("spawn").Process(target=write, args=(path, kind, rows))
        writer.start()
        writer.join()
        began, before = process_time(), getrusage(RUSAGE_SELF).ru_maxrss
        ingest(Storage(Path(folder)), spec, keys, "run")
        peak, seconds = getrusage(RUSAGE_SELF).ru_maxrss, process_time() - began
    print(
        f"{ending} {kind} {rows:,}: {before // 1024} MB before, {peak // 1024} MB, {seconds:.1f} s"
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
