"""What data costs on its way in: row rules, a year's ingest, many commits, ten million rows.

Each side runs in a process of its own on the same landing files, in turn with the other. Not here:
what the sides do, which is in `sides.py`, and training, which `retrain.py` measures.

    python benchmarks/data.py [--quick] [--pairs 5] [--only NAME …]
    python benchmarks/data.py --only memory [--rows 10000000]

CPU seconds and peak memory are those of a process and, but for memory, of all it started.
"""

from __future__ import annotations

import argparse
import shutil
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from retrain import cpu_seconds, land

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SIDES = str(Path(__file__).resolve().parent / "sides.py")
DAYS, QUICK_DAYS = 365, 30
YEAR_OF_FLIGHTS = 336_776
IMPORT = """
import json, os, dagster, polars
before = sum(os.times()[:4])
import great_expectations
print(json.dumps(sum(os.times()[:4]) - before))
"""


def main() -> None:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pairs", type=int, default=5, help="repetitions, of which the median")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of memory, beside a quarter")
    parser.add_argument("--only", nargs="*", choices=SECTIONS)
    parser.add_argument("--quick", action="store_true", help="a month, once: does it still run?")
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.rows = 1, YEAR_OF_FLIGHTS
    # Memory takes minutes and gigabytes of disk, so it is asked for by name.
    usual = [name for name in SECTIONS if options.quick or name != "memory"]
    for name in options.only or usual:
        SECTIONS[name](options)


@contextmanager
def landed(options: argparse.Namespace, scale: int = 1) -> Iterator[Path]:
    """A folder in which the year has landed, or its first month."""
    with TemporaryDirectory(prefix="retrain-benchmark-") as folder:
        work = Path(folder)
        land(work, scale)
        for name in ("flights", "weather"):
            for path in sorted((work / "landing" / name).iterdir())[days(options) :]:
                path.unlink()
        yield work


def days(options: argparse.Namespace) -> int:
    """How many days land."""
    return QUICK_DAYS if options.quick else DAYS


@contextmanager
def storage_root(work: Path) -> Iterator[Path]:
    """An empty storage root with the landing files."""
    root = work / "root"
    root.mkdir()
    (root / "landing").symlink_to(work / "landing")
    yield root
    shutil.rmtree(root)


def run(what: str, root: Path) -> tuple[float, Any]:
    """CPU seconds of a side's process, and what it says."""
    return cpu_seconds([SIDES, what, str(root)])


def alone(what: str, work: Path) -> tuple[float, Any]:
    """The same on a storage root of its own."""
    with storage_root(work) as root:
        return run(what, root)


def report(title: str, names: Sequence[str], found: Sequence[Sequence[float]]) -> None:
    """Medians of several things, and how many times the last each takes."""
    print(f"\n{title}, median of {len(found)}, CPU seconds and ratio to the last")
    for at, name in enumerate(names):
        ratio = median(row[at] / row[-1] for row in found)
        print(f"  {name:<36}{median(row[at] for row in found):10.3f}{ratio:8.2f}")


def compare_rules(options: argparse.Namespace) -> None:
    """Judging a year against one pass of polars by hand."""
    with landed(options) as work:
        found = [pair for _ in range(options.pairs) for pair in alone("rules", work)[1]]
    report("row rules (target 1.5)", ("judge", "one polars pass by hand"), found)


def compare_year(options: argparse.Namespace) -> None:
    """One run over all days against a script, and against a run that does nothing."""
    found = []
    with landed(options) as work:
        for _ in range(options.pairs):
            ingest, script, nothing = (
                alone(what, work)[0] for what in ("run", "script", "nothing")
            )
            imported = cpu_seconds(["-c", IMPORT])[1]
            found.append((ingest, ingest - imported, imported, script, nothing))
    names = ("ingest", "without that import", "import of Great Expectations")
    others = ("script: read, one write_deltalake", "run that does nothing")
    report(f"{days(options)} days in one run (target 2)", (*names, *others), found)


def compare_commits(options: argparse.Namespace) -> None:
    """A table made by one commit a day against the same made by one."""
    with landed(options) as work:
        found = alone("commits", work)[1]
    for title, pairs in found.items():
        report(f"{title}, {days(options)} days", ("one commit a day", "one commit"), pairs)


def compare_memory(options: argparse.Namespace) -> None:
    """Peak memory and CPU of ingest and features, in batches and all at once."""
    print(f"\nmemory, {days(options)} days (target 0.5, and flat)")
    print(f"  {'':<20}{'rows':>12}{'peak MB':>10}{'ratio':>8}{'CPU s':>10}{'ratio':>8}")
    scales = {max(1, round(part * options.rows / YEAR_OF_FLIGHTS)) for part in (0.25, 1)}
    for scale in sorted(scales):
        with landed(options, scale) as work, storage_root(work) as root:
            run("lookups", root)
            for step in ("ingest", "features"):
                names = (step, f"eager {step}")
                found = [run(name.replace(" ", "_"), root) for name in names]
                shown = [(said["peak_megabytes"], seconds) for seconds, said in found]
                for name, figures, (_, said) in zip(names, shown, found, strict=True):
                    print(f"  {name:<20}{said['rows']:>12,}", end="")
                    for figure, eager in zip(figures, shown[1], strict=True):
                        print(f"{figure:>10.1f}{figure / eager:>8.2f}", end="")
                    print()


SECTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "rules": compare_rules,
    "year": compare_year,
    "commits": compare_commits,
    "memory": compare_memory,
}


if __name__ == "__main__":
    main()
