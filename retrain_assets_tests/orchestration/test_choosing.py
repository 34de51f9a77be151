"""Candidates on several windows are fitted, judged and decided on as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from retrain_assets.specs.model import PolicySpec
from retrain_assets.steps.decision.evaluate import read_evaluation
from retrain_assets.steps.decision.promote import decide_candidate
from retrain_assets.steps.decision.train import list_candidates, plan, train_candidates
from retrain_assets.steps.inspect import status
from retrain_assets.steps.inspect.reproduce import reproduce
from retrain_assets.steps.replay import replay_policies
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.registry.registry import ModelRegistry
from retrain_assets_tests.killing import Point, kill_at
from retrain_assets_tests.world import World, key, new_world

TURN, ASKED = 16, 25  # the day the law changes, and the as-of of the decision after it
SPEC = {
    "windows": {"train": 10, "also": [4], "holdout": 6, "current": 3},
    "triggers": {"new_partitions": 10, "cooldown": 6},
}


def registry(world: World) -> ModelRegistry:
    return world.storage.registry("churn")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with a first model, and one after its law has turned."""
    with dg.DagsterInstance.ephemeral() as instance:
        made = new_world(tmp_path_factory.mktemp("choosing"), instance, **SPEC)
        made.land(*range(TURN))
        made.settle()
        made.land(*range(TURN, ASKED + 1), slope=-2.0)
        made.settle()
        yield made


@pytest.fixture
def decided(world: World) -> LedgerRow:
    return world.state.ledger.read().rows[1]


def test_the_gate_chooses_the_window_that_serves_best(world: World, decided: LedgerRow) -> None:
    usual, short = list_candidates(registry(world), registry(world).version(decided.candidate or 0))
    assert [usual.tags["train_from"], usual.tags["train_to"]] == [key(10), key(19)]
    assert [short.tags["train_from"], short.tags["train_to"]] == [key(16), key(19)]
    assert (decided.action, decided.candidate) == ("promote", short.version)
    assert registry(world).alias("candidate") == short.version
    for said in ("chosen of 2: ", f"version {usual.version} of 10 partitions PROMOTE, gain 1,"):
        assert said in decided.reason


def test_each_is_judged_surer_for_being_one_of_two(world: World, decided: LedgerRow) -> None:
    found = read_evaluation(world.state, decided.candidate or 0, decided.previous)
    assert found is not None
    assert found.evidence["comparison"]["confidence"] == pytest.approx(0.95)


def test_the_refit_is_on_the_window_that_was_chosen(world: World, decided: LedgerRow) -> None:
    assert decided.data_range == (key(22), key(25))
    assert reproduce(world.state, decided.version).identical


def test_each_fit_has_a_run_of_its_own_below_that_of_the_first(
    world: World, decided: LedgerRow
) -> None:
    usual, short = list_candidates(registry(world), registry(world).version(decided.candidate or 0))
    run = registry(world).client.get_run(short.run_id)
    assert run.data.tags["mlflow.parentRunId"] == usual.run_id
    assert run.info.status == "FINISHED"


def test_what_a_plan_costs_counts_each_fit(world: World) -> None:
    assert status.plan(world.state, None)["cost"]["fits"] == 3


def test_a_replay_chooses_the_same_and_counts_all_fits(world: World) -> None:
    played = replay_policies(world.state, [PolicySpec(name="now")], lambda *_: None).results[0]
    rows = world.state.ledger.read().rows
    assert list(played.decisions) == [(row.as_of, row.action) for row in rows]
    assert played.fits == len(registry(world).versions()) == 6


def take(root: Path) -> None:
    """Fit for a decision a day earlier."""
    world = new_world(root, dg.DagsterInstance.ephemeral(), **SPEC)
    registry(world).prepare()
    client = registry(world).client
    run = client.create_run(client.get_experiment_by_name("churn").experiment_id).info.run_id
    train_candidates(world.state, plan(world.state, key(24), ["x"]), lambda: run)


def test_a_run_that_is_killed_between_two_fits_leaves_the_first_to_the_next(world: World) -> None:
    count = len(registry(world).versions())
    kill_at(
        Point("retrain_assets.steps.decision.train:_register_candidate", after=True),
        take,
        world.root,
    )
    assert len(registry(world).versions()) == count + 1
    take(world.root)
    take(world.root)
    assert len(registry(world).versions()) == count + 2
    assert registry(world).alias("candidate") == count + 1


def test_what_was_decided_is_not_decided_again_for_the_others(
    world: World, decided: LedgerRow
) -> None:
    usual, _ = list_candidates(registry(world), registry(world).version(decided.candidate or 0))
    registry(world).set_alias("candidate", usual.version)
    again = decide_candidate(world.state, "run", lambda: "")
    assert again == decided
    assert len(world.state.ledger.read().rows) == 2
