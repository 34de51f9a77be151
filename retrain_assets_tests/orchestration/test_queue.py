"""dagster.yaml as Dagster reads it: what waits for what, and what is tried again."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.instance.config import PoolGranularity, dagster_instance_config
from dagster._utils.tags import TagConcurrencyLimitsCounter

from retrain_assets.definitions import build_defs

ROOT = Path(__file__).parents[2]
SETTINGS = yaml.safe_load((ROOT / "dagster.yaml").read_text(encoding="utf-8"))
WORK = ("flights_ingest", "flight_delay_monitor", "flight_delay_retrain")
OPERATIONS = ("approve", "rollback", "pause", "resume", "plan")


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return build_defs().get_repository_def()


def runs(repository: dg.RepositoryDefinition, *jobs: str) -> list[dg.DagsterRun]:
    return [dg.DagsterRun(name, tags=dict(repository.get_job(name).tags)) for name in jobs]


def test_dagster_takes_the_settings() -> None:
    config, _ = dagster_instance_config(str(ROOT))
    assert config["telemetry"] == {"enabled": False}
    assert config["run_retries"]["retry_on_asset_or_op_failure"] is False


def test_no_rollback_waits_for_a_training(repository: dg.RepositoryDefinition) -> None:
    limits = SETTINGS["concurrency"]["runs"]
    full = runs(repository, *WORK)
    assert len(full) == limits["max_concurrent_runs"] - 1
    counter = TagConcurrencyLimitsCounter(limits["tag_concurrency_limits"], full)
    assert all(counter.is_blocked(run) for run in full), "a fourth of these waits"
    for operation in runs(repository, *(f"flight_delay_{name}" for name in OPERATIONS)):
        assert not counter.is_blocked(operation)
        assert int(operation.tags["dagster/priority"]) > 0


def test_one_work_a_model_or_dataset_at_a_time(repository: dg.RepositoryDefinition) -> None:
    assert PoolGranularity(SETTINGS["concurrency"]["pools"]["granularity"]) is PoolGranularity.RUN
    assert SETTINGS["concurrency"]["pools"]["default_limit"] == 1
    pools = {
        name: {node.definition.pool for node in repository.get_job(name).graph.nodes}
        for name in (*WORK, *(f"flight_delay_{name}" for name in OPERATIONS))
    }
    assert pools["flights_ingest"] == {"flights_ingest"}
    # The check of both whether production is current reads only.
    for name in ("flight_delay_retrain", "flight_delay_monitor"):
        assert pools[name] == {name, None}
    assert all(pools[f"flight_delay_{name}"] == {None} for name in OPERATIONS)
