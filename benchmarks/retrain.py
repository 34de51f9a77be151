"""What orchestration costs: the full retrain of the flights against `bare.py`, in pairs.

The orchestrated side is the shipped jobs, asked for by the shipped sensors, in one fresh process on
a fresh storage root with Dagster's own database: ingest of three datasets, monitoring of the year,
retrain. Both sides read the same landing files and the same YAML. Not here: what either side does.

    python benchmarks/retrain.py [--pairs 5] [--scale 10] [--only NAME …]

CPU seconds are those of a process and all it started, so other work on the machine moves them
little.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import dagster as dg

    from retrain_assets.orchestration.assets.monitoring import Model
    from retrain_assets.specs.dataset import DatasetSpec

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
SPECS = PROJECT / "retrain_assets/defs/flight_delay/defs.yaml"
MODEL = "flight_delay"
TARGETS = {1: 1.25, 10: 1.05}
LOAD_TARGET = 1.5
FLIGHT_NUMBERS = 10_000
# What the platform sets for itself.
SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE", "MLFLOW_DISABLE_TELEMETRY": "true"}
APART = ("import of Dagster", "import of Great Expectations", "clean-process check")
CHILD = (str(HERE / "retrain.py"), "--child")
IMPORTS = """
import os, sys
sys.path.insert(0, {here!r})
import bare
seconds = [sum(os.times()[:4])]
import dagster; seconds.append(sum(os.times()[:4]))
import great_expectations; seconds.append(sum(os.times()[:4]))
print(seconds)
"""
DEFINITIONS = "from retrain_assets.definitions import build_defs; build_defs().get_repository_def()"
BUSY = "while True: pass"


def main() -> None:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pairs", type=int, default=5, help="repetitions, of which the median")
    parser.add_argument("--scale", type=int, default=1, help="times the flights")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, root = options.child
        print(json.dumps(CHILDREN[what](Path(root))))
        return
    for name in options.only:
        SECTIONS[name](options)


def compare_retrain(options: argparse.Namespace) -> None:
    """Pairs of both sides, in turn, on the same files."""
    with TemporaryDirectory(prefix="retrain-benchmark-") as folder:
        work = Path(folder)
        land(work, options.scale)
        pairs = [one_pair(work, number) for number in range(options.pairs)]
    report(pairs, options.scale)


def land(work: Path, scale: int) -> None:
    """Deliver all files, and the YAML that allows for as many flights."""
    import polars as pl
    import yaml

    from retrain_assets.demo.flights import Flights
    from retrain_assets.specs.yaml import load_strictly

    def repeated(day: pl.DataFrame) -> pl.DataFrame:
        number = pl.col("flight")
        copies = [day.with_columns(number + copy * FLIGHT_NUMBERS) for copy in range(scale)]
        # Copies one after the other would take next to nothing on disk.
        return pl.concat(copies).sample(fraction=1, shuffle=True, seed=0)

    flights = Flights.load()
    scaled = replace(flights, flights={key: repeated(d) for key, d in flights.flights.items()})
    scaled.drop(work / "landing", flights.days)
    scaled.drop_planes(work / "landing")
    documents = [document.value for document in load_strictly(SPECS)]
    found = {document["attributes"]["name"]: document["attributes"] for document in documents}
    found["flight_delay"]["refit"] = True  # the shipped policy has none, and both fits are measured
    found["flights"]["rows"]["max"] *= scale
    found["flights"]["columns"]["flight"]["max"] = FLIGHT_NUMBERS * scale - 1
    (work / "specs.yaml").write_text(yaml.safe_dump_all(documents), encoding="utf-8")


def one_pair(work: Path, number: int) -> dict[str, float]:
    """CPU seconds of the bare script, of the orchestrated run and of what is shown apart."""
    landing, bare, root = (work / name for name in ("landing", f"bare-{number}", f"full-{number}"))
    bare.mkdir()
    root.mkdir()
    (root / "landing").symlink_to(landing)
    script = [str(HERE / "bare.py"), str(landing), str(bare), str(work / "specs.yaml")]
    bare_seconds, bare_said = cpu_seconds(script, SETTINGS)
    seconds, said = cpu_seconds([*CHILD, "retrain", str(root)])
    for side, verdict in (("the script", bare_said), ("the platform", said)):
        if not verdict["promoted"]:
            raise RuntimeError(f"{side} did not promote, so it has not refitted: {verdict}")
    shutil.rmtree(bare)
    shutil.rmtree(root)
    _, stamps = cpu_seconds(["-c", IMPORTS.format(here=str(HERE))])
    apart = [*(after - before for before, after in pairwise(stamps)), said["clean_process_check"]]
    found = {"bare": bare_seconds, "orchestrated": seconds, **dict(zip(APART, apart, strict=True))}
    shown = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    print(f"pair {number + 1}: {shown}", file=sys.stderr)
    return found


def report(pairs: Sequence[Mapping[str, float]], scale: int) -> None:
    """Medians, and the ratio with and without what is shown apart."""
    print(f"\nretrain, {scale}x the flights, median of {len(pairs)}, CPU seconds")
    for name in ("bare", "orchestrated", *APART):
        print(f"  {name:<32}{median(pair[name] for pair in pairs):8.2f}")
    target = f"target {TARGETS[scale]:.2f}" if scale in TARGETS else ""
    without = [pair["orchestrated"] - sum(pair[name] for name in APART) for pair in pairs]
    ratios = [pair["orchestrated"] / pair["bare"] for pair in pairs]
    others = [rest / pair["bare"] for rest, pair in zip(without, pairs, strict=True)]
    print(f"  {'ratio, everything':<32}{median(ratios):8.2f}  {target}")
    print(f"  {'ratio, without those three':<32}{median(others):8.2f}  {target}")


def compare_load(options: argparse.Namespace) -> None:
    """Loading the definitions against importing Dagster alone."""
    found = [
        (cpu_seconds(["-c", "import dagster"])[0], cpu_seconds(["-c", DEFINITIONS])[0])
        for _ in range(options.pairs)
    ]
    report_two("loading the definitions", ("import dagster", "definitions"), found)
    print(f"  {'target':<32}{LOAD_TARGET:8.2f}")


def compare_busy(options: argparse.Namespace) -> None:
    """One fit alone against the same fit while two other processes want the cores."""
    with TemporaryDirectory(prefix="retrain-benchmark-") as folder:
        land(Path(folder), 1)
        cpu_seconds([*CHILD, "retrain", folder])
        found = [
            (cpu_seconds([*CHILD, "fit", folder])[1], fit_beside_loops(folder))
            for _ in range(options.pairs)
        ]
    report_two("one fit", ("alone", "beside two busy loops"), found)


def compare_reproduced(options: argparse.Namespace) -> None:
    """Each version of one retraining, built again in a process of its own."""
    with TemporaryDirectory(prefix="retrain-benchmark-") as folder:
        land(Path(folder), options.scale)
        cpu_seconds([*CHILD, "retrain", folder])
        seconds, found = cpu_seconds([*CHILD, "reproduce", folder])
    print(f"\nreproduce, {options.scale}x the flights: {seconds:.1f} CPU seconds for all versions")
    for number, differences in found.items():
        print(f"  version {number}: {'; '.join(differences) or 'identical bit for bit'}")


def fit_beside_loops(folder: str) -> float:
    """CPU seconds of a fit while two processes do nothing but spin."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2)]
    try:
        return float(cpu_seconds([*CHILD, "fit", folder])[1])
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def report_two(title: str, names: Sequence[str], found: Sequence[tuple[float, float]]) -> None:
    """Medians of two things, and of how many times the first the second takes."""
    print(f"\n{title}, median of {len(found)}, CPU seconds")
    for name, seconds in zip(names, zip(*found, strict=True), strict=True):
        print(f"  {name:<32}{median(seconds):8.2f}")
    print(f"  {'ratio':<32}{median(second / first for first, second in found):8.2f}")


def cpu_seconds(
    arguments: Sequence[str], settings: Mapping[str, str] | None = None
) -> tuple[float, Any]:
    """CPU seconds of a Python process with all it started, and the JSON of its last line."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env=os.environ | (settings or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments} failed:\n{done.stderr[-4000:]}")
    *_, last = done.stdout.splitlines() or ["null"]
    return spent() - before, json.loads(last)


def run_orchestrated(root: Path) -> dict[str, object]:
    """Let the sensors run everything there is to do on a storage root."""
    import dagster as dg

    from retrain_assets.orchestration.dagster_internals.ticks import InProcessDaemon
    from retrain_assets.stores.storage import Storage

    checked = time_clean_process_check()
    model, datasets = specs_of(root)
    shipped = definitions(model, datasets, root)
    with dg.DagsterInstance.from_config(str(dagster_home(root))) as instance:
        for done in InProcessDaemon(shipped, instance).settle():
            print(done.job, file=sys.stderr)
    rows = model.state(Storage(root)).ledger.read().rows
    promoted = [row.action for row in rows] == ["promote"]
    return {"promoted": promoted, "clean_process_check": sum(checked)}


def time_clean_process_check() -> list[float]:
    """A list that the CPU seconds of each clean-process check will be added to."""
    from retrain_assets.stores.registry.registry import ModelRegistry

    seconds: list[float] = []
    check: Callable[..., Any] = ModelRegistry.check_in_clean_process

    def timed(*arguments: Any) -> Any:
        before = sum(os.times()[:4])
        result = check(*arguments)
        seconds.append(sum(os.times()[:4]) - before)
        return result

    ModelRegistry.check_in_clean_process = timed  # type: ignore[assignment,method-assign]
    return seconds


def fit_once(root: Path) -> float:
    """CPU seconds of one fit on the newest training window."""
    from retrain_assets.steps.decision.train import fit_model
    from retrain_assets.stores.registry.model_file import prepare_threads
    from retrain_assets.stores.storage import Storage

    prepare_threads()
    model, _ = specs_of(root)
    state = model.state(Storage(root))
    partitions = state.mature()[-model.spec.windows.train :]
    before = sum(os.times()[:4])
    fit_model(state, partitions)
    return sum(os.times()[:4]) - before


def reproduce_all(root: Path) -> dict[int, list[str]]:
    """What differs of each version that is built again."""
    from retrain_assets.steps.inspect.reproduce import reproduce
    from retrain_assets.stores.storage import Storage

    model, _ = specs_of(root)
    storage = Storage(root)
    state, registry = model.state(storage), storage.registry(model.spec.name)
    numbers = sorted(found.version for found in registry.versions())
    return {number: list(reproduce(state, number).differences) for number in numbers}


def specs_of(root: Path) -> tuple[Model, list[DatasetSpec]]:
    """The model and the datasets of the YAML that the files landed with."""
    from retrain_assets.orchestration.assets.monitoring import Model
    from retrain_assets.specs.dataset import DatasetSpec
    from retrain_assets.specs.model import ModelSpec
    from retrain_assets.specs.yaml import load_strictly

    documents = load_strictly((root / "landing").resolve().parent / "specs.yaml")
    *datasets, model = (document.value["attributes"] for document in documents)
    named = {spec["name"]: DatasetSpec.model_validate(spec) for spec in datasets}
    spec = ModelSpec.model_validate(model)
    lookups = {name: named[name] for name in spec.lookups}
    return Model(spec, named[spec.dataset], lookups), list(named.values())


def definitions(model: Model, datasets: Sequence[DatasetSpec], root: Path) -> dg.Definitions:
    """The shipped definitions of one model and its datasets, on another storage root."""
    import dagster as dg

    from retrain_assets.orchestration.build import dataset_definitions, model_definitions
    from retrain_assets.orchestration.resources import CHANNELS, StorageResource

    parts = [*map(dataset_definitions, datasets), model_definitions(model)]
    merged = dg.Definitions.merge(*parts)
    return dg.Definitions(
        assets=merged.assets,
        asset_checks=merged.asset_checks,
        jobs=merged.jobs,
        sensors=merged.sensors,
        schedules=merged.schedules,
        resources={"storage": StorageResource(root=str(root)), "channels": CHANNELS},
        executor=dg.in_process_executor,
    )


def dagster_home(root: Path) -> Path:
    """The shipped instance settings, with all state below the storage root."""
    home = root / "home"
    home.mkdir()
    (root / "dagster").mkdir()
    shipped = (PROJECT / "dagster.yaml").read_text(encoding="utf-8")
    settings = shipped.replace("data/dagster", str(root / "dagster"))
    (home / "dagster.yaml").write_text(settings, encoding="utf-8")
    return home


CHILDREN: dict[str, Callable[[Path], object]] = {
    "retrain": run_orchestrated,
    "fit": fit_once,
    "reproduce": reproduce_all,
}
SECTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "retrain": compare_retrain,
    "load": compare_load,
    "busy": compare_busy,
    "reproduce": compare_reproduced,
}


if __name__ == "__main__":
    main()
