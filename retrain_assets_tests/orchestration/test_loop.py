"""The loop on a small world: files land, sensors ask, models are promoted, held, rolled back."""

from __future__ import annotations

import dagster as dg
import polars as pl
import pytest

from retrain_assets.orchestration.decision_assets import AS_OF_TAG
from retrain_assets.steps.decide import DecisionError, reconcile, roll_back
from retrain_assets.steps.monitor import monitor
from retrain_assets_tests.world import World, key, new_world

PRODUCTION = "production"


def decisions(world: World) -> list[tuple[str, tuple[str, ...]]]:
    return [(row.action, row.causes) for row in world.state.ledger.read().rows]


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with a first model in production."""
    instance = dg.DagsterInstance.ephemeral()
    world = new_world(tmp_path_factory.mktemp("settled"), instance)
    world.land(*range(16))
    world.settle()
    return world


def test_the_first_model_is_promoted_when_there_is_enough_history(settled: World) -> None:
    assert decisions(settled) == [("promote", ("no_production",))]
    row = settled.state.ledger.read().rows[0]
    assert row.as_of == key(15)
    assert row.data_range == (key(6), key(15))
    assert settled.storage.registry("churn").alias(PRODUCTION) == row.version
    assert row.version != row.candidate


def test_a_version_records_what_it_is_a_function_of(settled: World) -> None:
    row = settled.state.ledger.read().rows[0]
    tags = settled.storage.registry("churn").version(row.version).tags
    assert tags["dataset_version"] == tags["customers_version"] == "0"
    for name in ("spec_digest", "code_digest", "lock_digest", "seed", "threads", "as_of", "parent"):
        assert tags[name], name


def test_settled_sensors_ask_for_nothing(settled: World) -> None:
    assert settled.settle() == []
    assert len(decisions(settled)) == 1
