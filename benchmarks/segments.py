"""What Dagster takes to load many models: assets of each, `for_each`, or segments as partitions.

    python benchmarks/segments.py [--models 1 50 200] [--days 365]

Each line is a process of its own. "make" is the making of all definitions of the models; "resolve"
is what the code server does before the UI and the daemon see them. With `segments`, the partitions
of one asset are days x segments, and "resolve" is the listing of their keys for one picture of the
UI; `for_each` is what is offered: days of what is monitored, and models of what is decided. With
`tick`, "make" is a tick of the sensor `data_ready` and "resolve" one of `retrain_wanted`, when each
model asked for nothing and no table has changed since. Not here: what the models compute.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
from engine import DATASET, MODEL

from retrain_assets.orchestration import sensors
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.build import dataset_definitions, model_definitions
from retrain_assets.orchestration.partitions import partitions_definition
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.stores.storage import Storage

TABLES = "features", "profile", "predictions", "monitoring", "adaptation", "ledger", "requests"


def main() -> None:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", type=int, nargs="*", default=[1, 50, 200])
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--forms", nargs="*", default=[*FORMS])
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        form, count = options.side
        print(json.dumps(FORMS[form](int(count), options.days)))
        return
    print("form      models  make CPU s  resolve CPU s  peak MB")
    for form in options.forms:
        for count in options.models:
            command = [sys.executable, __file__, "--days", str(options.days), "--side", form]
            output = subprocess.run([*command, str(count)], check=True, stdout=subprocess.PIPE)
            made, resolved, memory = json.loads(output.stdout.splitlines()[-1])
            print(f"{form:8}  {count:6}  {made:10.2f}  {resolved:13.2f}  {memory:7.0f}")


def load_assets(count: int, _: int) -> list[float]:
    """Load assets, jobs and sensors of each model."""
    dataset, before = DatasetSpec.model_validate(DATASET), _cpu()
    specs = [ModelSpec.model_validate({**MODEL, "name": f"buyers_{i}"}) for i in range(count)]
    parts = [model_definitions(Model(spec, dataset, {})) for spec in specs]
    made = _cpu()
    merged = dg.Definitions.merge(dataset_definitions(dataset), *parts)
    merged.get_repository_def().load_all_definitions()
    return [made - before, _cpu() - made, _memory()]


def load_for_each(count: int, _: int) -> list[float]:
    """Load one YAML with so many segments."""
    dataset, before = DatasetSpec.model_validate(DATASET), _cpu()
    each = {"column": "kind", "values": [f"kind {i}" for i in range(count)]}
    spec = ModelSpec.model_validate({**MODEL, "for_each": each})
    parts = dataset_definitions(dataset), model_definitions(Model(spec, dataset, {}))
    made = _cpu()
    dg.Definitions.merge(*parts).get_repository_def().load_all_definitions()
    return [made - before, _cpu() - made, _memory()]


def list_segments(count: int, days: int) -> list[float]:
    """List the partitions of one asset."""
    dataset, before = DatasetSpec.model_validate(DATASET), _cpu()
    partition = dataset.partition.model_copy(update={"start": "2020-01-01", "end": None})
    day: Any = partitions_definition(partition)
    day = dg.StaticPartitionsDefinition(day.get_partition_keys()[:days])
    segment = dg.StaticPartitionsDefinition([f"store_{number}" for number in range(count)])
    both = dg.MultiPartitionsDefinition({"day": day, "segment": segment})
    made = _cpu()
    both.subset_with_all_partitions().serialize()
    return [made - before, _cpu() - made, _memory()]


def tick(count: int, _: int) -> list[float]:
    """Tick both sensors of a YAML with so many segments, when nothing is new."""
    dataset, each = DatasetSpec.model_validate(DATASET), {"column": "kind", "values": []}
    each["values"] = [f"kind {i}" for i in range(count)]
    model = Model(ModelSpec.model_validate({**MODEL, "for_each": each}), dataset, {})
    with TemporaryDirectory(prefix="retrain-tick-") as folder:
        storage, quiet = Storage(Path(folder)), sensors.Quiet()
        for name, table in product((dataset.name, *model.members), TABLES):
            Path(folder, "delta", name, table, "_delta_log").mkdir(parents=True)
        time.sleep(1.5)  # a stamp counts a second after the commit
        states = [member.state(storage) for member in model.members.values()]
        for state, stamp in quiet.pass_over(states):
            quiet[state.spec.name] = stamp, "nothing is new"
        before, context = _cpu(), dg.build_sensor_context()
        ranges = sensors._find_ranges([model], storage, quiet)  # noqa: SLF001
        ready = _cpu()
        asked = sensors._retraining(model, "buyers_retrain", context, storage, quiet)  # noqa: SLF001
        if ranges or not isinstance(asked, dg.SkipReason):
            raise RuntimeError("a sensor found something")
        return [ready - before, _cpu() - ready, _memory()]


def _cpu() -> float:
    return sum(os.times()[:4])


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


FORMS = {
    "assets": load_assets,
    "segments": list_segments,
    "for_each": load_for_each,
    "tick": tick,
}

if __name__ == "__main__":
    main()
