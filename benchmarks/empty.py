"""What Dagster alone costs: eight assets that do nothing, over the 365 partitions of a year.

Run as `python benchmarks/empty.py`: CPU seconds of three runs over the whole range, with the
project's batching storage and with Dagster's own. Not here: any work.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import yaml
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run

from retrain_assets.orchestration.dagster_internals.ticks import QUIET
from retrain_assets.orchestration.partitions import range_tags

DAYS = dg.DailyPartitionsDefinition("2013-01-01", end_date="2014-01-01")
RUNS = (("a", "b"), ("c", "d"), ("e", "f", "g", "h"))


def asset(name: str) -> dg.AssetsDefinition:
    """An asset that does nothing."""

    @dg.asset(name=name, partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    def nothing() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(metadata={"rows": 1})

    return nothing


def cpu_seconds(storage: dict[str, object]) -> float:
    """Of three runs, with the set-up of an empty database."""
    definitions = dg.Definitions(
        assets=[asset(name) for names in RUNS for name in names],
        jobs=[dg.define_asset_job(f"run_{names[0]}", selection=list(names)) for names in RUNS],
        executor=dg.in_process_executor,
    )
    repository = definitions.get_repository_def()
    before = sum(os.times()[:4])
    with TemporaryDirectory() as folder:
        text = yaml.safe_dump({"telemetry": {"enabled": False}, "storage": storage})
        (Path(folder) / "dagster.yaml").write_text(text, encoding="utf-8")
        (Path(folder) / "state").mkdir()
        with dg.DagsterInstance.from_config(folder) as instance:
            for names in RUNS:
                job = repository.get_job(f"run_{names[0]}")
                tags = range_tags("2013-01-01", "2013-12-31")
                run = instance.create_run_for_job(job, run_config=QUIET, tags=tags)
                if not execute_run(InMemoryJob(job), run, instance).success:
                    raise RuntimeError(f"run {run.run_id} failed")
    return sum(os.times()[:4]) - before


def main() -> None:
    """Print both."""
    with TemporaryDirectory() as folder:
        own = {"sqlite": {"base_dir": f"{folder}/own"}}
        batching = {
            "custom": {
                "module": "retrain_assets.orchestration.dagster_internals.event_log",
                "class": "BatchingSqliteStorage",
                "config": {"base_dir": f"{folder}/batching"},
            }
        }
        print(f"batching storage       {cpu_seconds(batching):6.2f} CPU seconds")
        os.environ["DAGSTER_EVENT_BATCH_SIZE"] = "0"
        print(f"Dagster's own storage  {cpu_seconds(own):6.2f} CPU seconds")


if __name__ == "__main__":
    main()
