"""What a person decides is done by a job of the UI, recorded there, and heeded by the policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from retrain_assets.domain.decision.situation import Pause
from retrain_assets.domain.decision.triggers import decide
from retrain_assets.orchestration.jobs import CURRENCY
from retrain_assets.steps.decision.promote import DecisionError
from retrain_assets.steps.inspect.status import (
    describe_staleness,
    list_stale,
    plan,
    status,
    verify,
)
from retrain_assets.stores.ledger import LedgerError
from retrain_assets_tests.world import World, key, new_world


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with a first model in production."""
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("served"), instance)
        world.land(*range(16))
        world.settle()
        yield world


def start(world: World, operation: str, **config: Any) -> dict[str, Any]:
    """Start a job as the UI does; what it left on the production model."""
    job = world.definitions.resolve_job_def(f"churn_{operation}")
    config = {"ops": {f"churn_{operation}_op": {"config": config}}}
    done = job.execute_in_process(instance=world.instance, run_config=config)
    kinds = {"ASSET_OBSERVATION", "ASSET_MATERIALIZATION"}
    (seen,) = done.filter_events(lambda event: event.event_type_value in kinds)
    made = seen.event_specific_data
    found = getattr(made, "asset_observation", None) or made.materialization
    found = found.metadata
    return {name: value.value for name, value in found.items()}


def test_a_pause_holds_retraining_back_until_its_partition_is_there(world: World) -> None:
    seen = start(world, "pause", until=key(17), reason="audit", by="the team")
    assert (seen["operation"], seen["until"]) == ("pause", key(17))
    world.land(*range(16))
    assert [done.job for done in world.settle()] == ["customers_ingest", "churn_monitor"]
    wish = decide(world.spec, world.state.situation())
    assert not wish.retrain
    assert wish.reason == (f"paused until {key(17)} by the team (audit): a first model is needed")
    world.land(16, 17)
    assert "churn_retrain" in [done.job for done in world.settle()]


def test_a_pause_is_ended_by_a_person(world: World) -> None:
    start(world, "pause", until=key(60), reason="audit", by="the team")
    assert world.state.ledger.read_pause() == Pause(key(60), "audit", "the team")
    assert start(world, "resume", reason="done")["ended"] == f"the pause until {key(60)}"
    assert world.state.ledger.read_pause() is None
    assert start(world, "resume", reason="again")["ended"] == "there was no pause"


def test_a_pause_until_what_is_no_partition_is_refused(world: World) -> None:
    with pytest.raises(
        ValueError, match="'2020-02-30' is not a partition of customers: write it as 20"
    ):
        start(world, "pause", until="2020-02-30", reason="audit")
    assert world.state.ledger.read_pause() is None


def test_a_plan_shows_windows_and_cost_and_changes_nothing(served: World) -> None:
    before = served.storage.tables.version("churn/ledger")
    seen = start(served, "plan")
    assert (seen["wanted"], seen["reason"]) == (False, "no cause has fired")
    assert (seen["train"], seen["holdout"]) == (f"{key(0)} to {key(9)}", f"{key(10)} to {key(15)}")
    assert (seen["train_rows"], seen["holdout_rows"], seen["fits"]) == (1200, 720, 2)
    assert seen["last_seconds"] > 0
    assert served.storage.tables.version("churn/ledger") == before


def test_a_plan_without_enough_history_has_no_windows(world: World) -> None:
    found = plan(world.state, None)
    assert found["windows"] == {}
    assert found["cost"] == {"train_rows": 0, "holdout_rows": 0, "fits": 2, "last_seconds": None}


def test_production_is_stale_once_a_day_it_was_trained_on_is_corrected(world: World) -> None:
    world.land(*range(16))
    world.settle()
    row = world.state.ledger.read().rows[-1]
    assert row.because == "a first model is needed"
    assert row.datasets == {"customers": 0}
    assert list(row.trained_on) == [key(day) for day in range(6, 16)]
    assert list_stale(world.state) == []
    assert describe_staleness(world.state, list_stale(world.state)).endswith(
        "none of its partitions was corrected since"
    )

    world.land(2, 7, 9, shift=0.5)
    ran = world.settle()
    assert list_stale(world.state) == status(world.state)["stale"] == [key(7), key(9)]
    assert describe_staleness(world.state, list_stale(world.state)) == (
        "version 2 was trained on customers v0; "
        f"2 of its partitions were corrected since: {key(7)}, {key(9)}"
    )
    monitored = [done.run_id for done in ran if done.job == "churn_monitor"]
    found = [
        entry.get_dagster_event().asset_check_evaluation_data
        for run_id in monitored
        for entry in world.instance.all_logs(
            run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        )
    ]
    last = [check for check in found if check.check_name == CURRENCY][-1]
    assert not last.passed
    assert last.description == describe_staleness(world.state, list_stale(world.state))


def test_what_passed_the_gate_waits_for_approval_where_the_yaml_says_so(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance, approval="manual")
    world.land(*range(16))
    world.settle()
    registry, now = world.storage.registry("churn"), status(world.state)
    (row,) = world.state.ledger.read().rows
    assert (row.action, now["staging"], now["production"]) == ("stage", row.version, None)
    assert (registry.alias("staging"), registry.alias("production")) == (row.version, None)
    assert world.settle() == []

    with pytest.raises(DecisionError, match=f"version 1 does not wait .* version {row.version} do"):
        start(world, "approve", version=1, reason="looks good")
    start(world, "approve", version=row.version, reason="looks good", by="the board")
    approved = world.state.ledger.read().rows[-1]
    assert (approved.action, approved.by, approved.version) == ("approve", "the board", row.version)
    assert (approved.metrics, approved.trained_on) == (row.metrics, row.trained_on)
    assert (registry.alias("staging"), registry.alias("production")) == (None, row.version)
    with pytest.raises(DecisionError, match="does not wait for approval: none does"):
        start(world, "approve", version=row.version, reason="again")

    world.land(16)
    registry.set_alias("production", 1)
    world.settle()
    assert registry.alias("production") == row.version, "what monitors sets the alias again"
    served = world.storage.tables.scan("churn/predictions").collect()
    assert served.filter(_landing_partition=key(16))["model_version"].unique().to_list() == [
        row.version
    ]


def test_a_ledger_that_somebody_rewrote_is_found_out_by_the_head_the_registry_keeps(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance)
    world.land(*range(16))
    world.settle()
    registry, uri = world.storage.registry("churn"), world.storage.tables.uri("churn/ledger")
    assert registry.ledger_head == world.state.ledger.read().head
    assert verify(world.state).startswith("the chain of 1 row fits; the registry keeps head 0 ")
    forged = pl.read_delta(uri).with_columns(by=pl.lit("nobody"))
    forged.write_delta(uri, mode="overwrite")
    world.land(16)
    world.settle()  # what monitors tells no new head of such a ledger
    with pytest.raises(LedgerError, match="row 0 was changed, or is missing with those after it"):
        verify(world.state)
