"""The sides that `data.py` compares: one process each, on a storage root with landing files.

Each says what came of it as JSON in its last line; libraries are imported by the side that needs
them. Not here: comparing.

    python benchmarks/sides.py WHAT ROOT
"""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

import plain
import polars as pl
from retrain import dagster_home, definitions, specs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import dagster as dg

CHECKS = 9
READS = 20
Pairs = list[list[float]]


def in_turn(*calls: Callable[[], object], times: int) -> Pairs:
    """CPU seconds of each call, in turn with the others."""
    return [[seconds(call) for call in calls] for _ in range(times)]


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of a call, on all threads."""
    before = process_time()
    call()
    return process_time() - before


def attributes(root: Path) -> dict[str, dict[str, Any]]:
    """What the YAML says of each dataset and model, by name."""
    import yaml

    text = ((root / "landing").resolve().parent / "specs.yaml").read_text(encoding="utf-8")
    return {found["attributes"]["name"]: found["attributes"] for found in yaml.safe_load_all(text)}


def days(root: Path) -> list[str]:
    """The days that have landed."""
    return sorted(path.stem for path in (root / "landing/flights").iterdir())


def rules(root: Path) -> Pairs:
    """`judge`, and one pass over rows that are typed already; both must say the same."""
    from retrain_assets.domain.data.contract import judge
    from retrain_assets.stores.storage import Storage

    spec = specs_of(root)[1][0]
    source = Storage(root).source(spec)
    raw = [source.read(file) for file in source.files()]
    known = attributes(root)["flights"]
    rows = plain.read(root / "landing", known).rechunk()
    judged, (accepted, refused) = judge(raw, spec), plain.split(rows, known)
    verdicts = (
        (judged.accepted.height, judged.quarantined.height),
        (accepted.height, refused.height),
    )
    if verdicts[0] != verdicts[1]:
        raise RuntimeError(f"judge and the pass by hand do not agree: {verdicts}")
    return in_turn(lambda: judge(raw, spec), lambda: plain.split(rows, known), times=3)


def run(root: Path) -> None:
    """The shipped job over all days."""
    model, datasets = specs_of(root)
    execute(definitions(model, datasets, root), "flights_ingest", root)


def nothing(root: Path) -> None:
    """A job with as many assets and checks that does nothing."""
    import dagster as dg

    keys = [dg.AssetKey(["flights", part]) for part in ("dataset", "quarantine")]
    checks = [dg.AssetCheckSpec(f"check_{number}", asset=keys[0]) for number in range(CHECKS)]

    @dg.multi_asset(
        specs=[dg.AssetSpec(key) for key in keys],
        check_specs=checks,
        partitions_def=dg.DailyPartitionsDefinition("2013-01-01", end_date="2014-01-01"),
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def empty():  # noqa: ANN202 Dagster would read it
        for key in keys:
            yield dg.MaterializeResult(asset_key=key, metadata={"rows": 1})
        for check in checks:
            yield dg.AssetCheckResult(passed=True, asset_key=keys[0], check_name=check.name)

    job = dg.define_asset_job("nothing", selection=[empty])
    made = dg.Definitions(assets=[empty], jobs=[job], executor=dg.in_process_executor)
    execute(made, "nothing", root)


def execute(made: dg.Definitions, job: str, root: Path) -> None:
    """Execute a job over all days, with the shipped instance settings."""
    import dagster as dg

    from retrain_assets.orchestration.dagster_internals.ticks import InProcessDaemon
    from retrain_assets.orchestration.partitions import range_tags

    first, *_, last = days(root)
    with dg.DagsterInstance.from_config(str(dagster_home(root))) as instance:
        InProcessDaemon(made, instance).execute(job, range_tags(first, last), {})


def script(root: Path) -> None:
    """Read the files and write the table."""
    from deltalake import write_deltalake

    write_deltalake(root / "delta", pl.read_parquet(root / "landing/flights/*.parquet"))


def commits(root: Path) -> Mapping[str, Pairs]:
    """Commit day by day and all at once, then read a day and everything of each."""
    from retrain_assets.stores.tables.tables import Tables

    rows = plain.read(root / "landing", attributes(root)["flights"]).drop("_file")
    parts = rows.partition_by(plain.DAY, as_dict=True)
    tables, keys, said = Tables(str(root / "delta")), days(root), {"run_id": "benchmark"}

    def each() -> None:
        for key in keys:
            tables.replace("t/many", parts[(key,)], [key], said)

    def once() -> None:
        tables.replace("t/one", rows, keys, said)

    def one(table: str) -> pl.DataFrame:
        return tables.read(table, keys[len(keys) // 2 :][:1])

    def everything(table: str) -> pl.DataFrame:
        return tables.scan(table).collect()

    found = {"committing": in_turn(each, once, times=1)}
    for title, read in {"reading one day": one, "reading all": everything}.items():
        if read("t/many").height != read("t/one").height:
            raise RuntimeError(f"{title}: the two tables do not hold the same")
        sides = partial(read, "t/many"), partial(read, "t/one")
        found[title] = in_turn(*sides, times=READS)
    return found


def ingest(root: Path) -> dict[str, float]:
    """Ingest of all days in batches."""
    from retrain_assets.steps.data.ingest import ingest as shipped
    from retrain_assets.stores.storage import Storage

    flights, *_ = specs_of(root)[1]
    done = shipped(Storage(root), flights, days(root), "benchmark")
    return {
        "rows": int(done.reading.judgement.files["accepted"].sum()),
        "peak_megabytes": peak_megabytes(),
    }


def eager_ingest(root: Path) -> dict[str, float]:
    """Read all, judge all, write."""
    from deltalake import write_deltalake

    known = attributes(root)["flights"]
    accepted, refused = plain.split(plain.read(root / "landing", known), known)
    for name, rows in {"accepted": accepted, "refused": refused}.items():
        write_deltalake(root / "eager" / name, rows)
    return {"rows": accepted.height, "peak_megabytes": peak_megabytes()}


def lookups(root: Path) -> None:
    """Ingest what features need beside the flights."""
    from retrain_assets.steps.data.ingest import ingest as shipped
    from retrain_assets.stores.storage import Storage

    _, weather, planes = specs_of(root)[1]
    shipped(Storage(root), weather, days(root), "benchmark")
    shipped(Storage(root), planes, ["all"], "benchmark")


def features(root: Path) -> dict[str, float]:
    """Features of all days in batches."""
    from retrain_assets.steps.features.build import build_features as shipped
    from retrain_assets.stores.storage import Storage

    state = specs_of(root)[0].state(Storage(root))
    shipped(state, days(root), "benchmark")
    stored = state.tables.scan(state.table("features")).select(pl.len()).collect().item()
    return {"rows": stored, "peak_megabytes": peak_megabytes()}


def eager_features(root: Path) -> dict[str, float]:
    """Read all, join all, write."""
    from deltalake import write_deltalake

    known = attributes(root)
    names = ("flights", "weather", "planes")
    stored = {name: pl.read_delta(str(root / "delta" / name / "dataset")) for name in names}
    made = plain.build_features(stored, known["flight_delay"])
    write_deltalake(root / "eager/features", made)
    return {"rows": made.height, "peak_megabytes": peak_megabytes()}


def peak_megabytes() -> float:
    """The most memory that this process has held at once (`VmHWM` of Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    if found is None:
        raise RuntimeError("/proc/self/status has no VmHWM: memory is measured on Linux only")
    return int(found[1]) / 1024


SIDES: dict[str, Callable[[Path], object]] = {
    side.__name__: side
    for side in (
        *(rules, run, nothing, script, commits),
        *(ingest, eager_ingest, lookups, features, eager_features),
    )
}


if __name__ == "__main__":
    print(json.dumps(SIDES[sys.argv[1]](Path(sys.argv[2]))))
