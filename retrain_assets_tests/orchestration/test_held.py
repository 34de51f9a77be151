"""What the gate held is judged again, on what came since, by the sensor's own request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from retrain_assets.specs.model import PolicySpec
from retrain_assets.steps.decision.evaluate import list_unseen_partitions, read_evaluation
from retrain_assets.steps.decision.reconsider import reconsider_held
from retrain_assets.steps.inspect import status
from retrain_assets.steps.replay import replay_policies
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.registry.registry import ModelRegistry
from retrain_assets_tests.killing import Point, kill_at
from retrain_assets_tests.world import World, key, new_world

TURN, HELD, MORE = 18, 29, 9  # the day the law changes, that of the HOLD, and what it asked for
CAUSES = {"new_partitions": 6, "cooldown": 6}


def ledger(world: World) -> tuple[LedgerRow, ...]:
    return world.state.ledger.read().rows


def registry(world: World) -> ModelRegistry:
    return world.storage.registry("churn")


def land(world: World, through: int) -> None:
    """Deliver all days that are missing, and let the sensors run what they ask for."""
    there = len(list((world.root / "landing" / "customers").glob("*.csv")))
    for number in range(there, through + 1):
        world.land(number, slope=2.0 if number < TURN else 0.8)
    world.settle()


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with a candidate that is held, one day before it is taken up again."""
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("held"), instance, triggers=CAUSES)
        world.land()
        for through in (15, 22, HELD, HELD + MORE - 1):
            land(world, through)
        yield world


@pytest.fixture(scope="module")
def settled(held: World) -> tuple[World, int]:
    """The same a day later, and how many fits there were before."""
    before = len(registry(held).versions())
    assert [row.action for row in ledger(held)] == ["promote", "promote", "hold"]
    report = status.status(held.state)
    assert report["reason"].startswith("version 5 is held until 9 more partitions have come, and 8")
    land(held, HELD + MORE)
    return held, before


def test_it_is_judged_on_the_partitions_that_have_come_since(settled: tuple[World, int]) -> None:
    world, _ = settled
    first, second = ledger(world)[-2:]
    assert (first.action, first.as_of, first.more) == ("hold", key(HELD), MORE)
    assert (second.action, second.as_of) == ("promote", key(HELD + MORE))
    assert second.causes == ("held", "new_partitions")
    looked = read_evaluation(world.state, second.candidate or 0, second.previous)
    assert looked is not None
    assert (looked.holdout_from, looked.holdout_to) == (key(HELD + 1), key(HELD + MORE))
    assert len(looked.evidence["comparison"]["block_gains"]) == MORE
    assert second.metrics != first.metrics


def test_it_is_not_fitted_again_but_for_the_refit(settled: tuple[World, int]) -> None:
    world, before = settled
    refit, again, held, *_ = registry(world).versions()
    assert len(registry(world).versions()) == before + 2
    assert (again.tags["held"], again.sha256) == (str(held.version), held.sha256)
    assert (again.tags["train_from"], again.tags["train_to"]) == (key(14), key(23))
    assert refit.tags["parent"] == str(again.version)
    assert refit.tags["train_to"] == key(HELD + MORE)
    read = [int(one.tags["customers_version"]) for one in (refit, again, held)]
    assert read == [ledger(world)[-1].datasets["customers"], read[1], read[1]]
    assert read[0] > read[1]


def test_a_replay_takes_it_up_as_the_sensor_did(settled: tuple[World, int]) -> None:
    world, _ = settled
    outcome = replay_policies(world.state, [PolicySpec(name="now")], lambda *_: None)
    decided = [(row.as_of, row.action) for row in ledger(world)]
    assert list(outcome.results[0].decisions) == decided
    assert outcome.results[0].fits == len({v.sha256 for v in registry(world).versions()})


def test_a_run_that_is_killed_leaves_the_version_to_the_next(settled: tuple[World, int]) -> None:
    world, _ = settled
    held, earlier = ledger(world)[-2].version, key(HELD + MORE - 1)
    count = len(registry(world).versions())
    kill_at(
        Point("retrain_assets.stores.registry.registry:ModelRegistry.register_again", after=True),
        take,
        world.root,
    )
    assert len(registry(world).versions()) == count + 1
    found = reconsider_held(world.state, held, earlier, ["held"])
    assert found == registry(world).versions()[0]
    assert len(registry(world).versions()) == count + 1
    assert list_unseen_partitions(world.state, found.tags) == tuple(key(n) for n in range(30, 38))


def take(root: Path) -> None:
    """Take up what was held, a day early."""
    world = new_world(root, dg.DagsterInstance.ephemeral(), triggers=CAUSES)
    reconsider_held(world.state, 5, key(HELD + MORE - 1), ["held"])


def test_what_was_held_for_want_of_partitions_is_judged_on_all_of_them(
    settled: tuple[World, int],
) -> None:
    world, _ = settled
    job = world.definitions.resolve_job_def("churn_retrain")
    assert job.execute_in_process(instance=world.instance).success
    asked = ledger(world)[-1]
    assert (asked.action, asked.more, asked.as_of) == ("hold", 4, key(38))
    land(world, 38 + 6)
    row = ledger(world)[-1]
    looked = read_evaluation(world.state, row.candidate or 0, row.previous)
    assert looked is not None
    assert "held" in row.causes
    assert registry(world).version(row.candidate or 0).tags["since"] == key(32)
    assert (looked.holdout_from, looked.holdout_to) == (key(39), key(44))
