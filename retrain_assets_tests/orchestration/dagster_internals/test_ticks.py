"""A sensor whose newest tick failed is known to commands, for as long as it is the newest."""

import time
from pathlib import Path

import dagster as dg
from dagster._core.remote_origin import RemoteInstigatorOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    TickData,
    TickStatus,
)
from dagster._utils.error import SerializableErrorInfo

from retrain_assets.orchestration.dagster_internals.ticks import failed_runs, failed_ticks
from retrain_assets_tests.world import World


def test_a_sensor_is_failed_until_a_tick_succeeds(world: World, tmp_path: Path) -> None:
    instance = dg.DagsterInstance.local_temp(str(tmp_path))
    states = {
        name: InstigatorState(
            RemoteInstigatorOrigin(world.daemon.origin, name),
            InstigatorType.SENSOR,
            InstigatorStatus.RUNNING,
        )
        for name in ("customers_new_data", "churn_data_ready", "other_new_data")
    }

    def tick(name: str, error: str | None) -> None:
        state = states[name]
        instance.create_tick(
            TickData(
                state.instigator_origin_id,
                name,
                InstigatorType.SENSOR,
                TickStatus.FAILURE if error else TickStatus.SKIPPED,
                time.time(),
                selector_id=state.selector_id,
                error=SerializableErrorInfo(error, [], "KeyError") if error else None,
            )
        )

    for name, state in states.items():
        instance.add_instigator_state(state)
        tick(name, f"builtins.KeyError: '{name}'\n")
    tick("churn_data_ready", None)
    names = ("churn", "customers")
    assert dict(failed_ticks(instance, names)) == {
        "customers_new_data": "KeyError: 'customers_new_data'"
    }
    tick("customers_new_data", None)
    assert dict(failed_ticks(instance, names)) == {}


def test_a_job_whose_newest_run_failed_is_named(instance: dg.DagsterInstance) -> None:
    job = dg.job(name="churn_retrain")(lambda: None)
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.FAILURE)
    why = f"run {run.run_id[:8]}: no reason was recorded"
    assert dict(failed_runs(instance, ("churn", "customers"))) == {"churn_retrain": why}
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.SUCCESS)
    assert dict(failed_runs(instance, ("churn", "customers"))) == {}
    pull = dg.job(name="customers_pull")(lambda: None)
    instance.create_run_for_job(pull, status=dg.DagsterRunStatus.FAILURE)
    assert dict(failed_runs(instance, ("churn", "customers"))).keys() == {"customers_pull"}
