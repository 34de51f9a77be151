"""After a promotion, the version before it is judged on the same partitions; it may come back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from retrain_assets.steps.decision.policy import pause
from retrain_assets.steps.monitoring.watch import summarize
from retrain_assets.steps.upkeep.messages import find_regression
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets_tests.world import World, key, new_world

TURNED, LATEST, DAYS = 16, 40, 28
NOT_WORSE = dg.AssetCheckKey(dg.AssetKey(["churn", "monitoring"]), "not_worse_than_before")


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The law has turned, and a version that knows it is in production; nothing more is trained."""
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("promoted"), instance)
        world.land(*range(TURNED))
        world.settle()
        for number in range(TURNED, LATEST):
            world.land(number, slope=-2.0)
            world.settle()
            if [row.action for row in rows(world)].count("promote") > 1:
                break
        pause(world.state, key(120), "a test", "on call")
        yield world


def lived(
    promoted: World, folder: Path, instance: dg.DagsterInstance, watch: str, slope: float
) -> World:
    """What comes of it when ten more days land under a law."""
    shutil.copytree(promoted.root, folder / "copy")
    world = new_world(folder / "copy", instance, watch=watch)
    world.land(*range(landed(world), landed(world) + DAYS), slope=slope)
    world.settle()
    return world


def landed(world: World) -> int:
    return len(list((world.root / "landing" / "customers").iterdir()))


def rows(world: World) -> list[LedgerRow]:
    return list(world.state.ledger.read().rows)


def check(world: World) -> dg.AssetCheckEvaluation:
    found = world.instance.event_log_storage.get_latest_asset_check_execution_by_key([NOT_WORSE])
    event = found[NOT_WORSE].event
    assert event is not None
    assert event.dagster_event is not None
    return event.dagster_event.asset_check_evaluation_data


def test_a_version_that_holds_stays_and_is_said_to(
    promoted: World, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = lived(promoted, tmp_path, instance, "auto", slope=-2.0)
    assert [row.action for row in rows(world)] == [row.action for row in rows(promoted)]
    found = summarize(world.state)
    assert found is not None
    assert (found.partitions, found.is_worse, found.loss < 0) == (DAYS, False, True)
    assert check(world).passed
    assert "is better than version" in (check(world).description or "")


def test_when_the_version_before_is_better_it_comes_back_with_the_evidence(
    promoted: World, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = lived(promoted, tmp_path, instance, "auto", slope=2.0)
    last, now = rows(world)[-1], rows(promoted)[-1]
    assert (last.action, last.version, last.previous) == ("rollback", now.previous, now.version)
    assert last.by == "the watch"
    assert f"version {now.version} is worse than version {now.previous} before it" in last.reason
    assert world.storage.registry("churn").alias("production") == now.previous
    assert summarize(world.state) is None, "what was rolled back to is watched against nothing"
    assert len(rows(world)) == len(rows(promoted)) + 1


def test_notify_tells_once_and_changes_nothing(
    promoted: World, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = lived(promoted, tmp_path, instance, "notify", slope=2.0)
    assert len(rows(world)) == len(rows(promoted))
    assert not check(world).passed
    (event,) = find_regression(world.state)
    assert event.kind == "worse_than_before"
    assert "retrain rollback churn --reason WHY" in event.text


def test_off_looks_at_nothing(
    promoted: World, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = lived(promoted, tmp_path, instance, "off", slope=2.0)
    assert check(world).passed
    assert world.storage.tables.version("churn/watch") is None


def test_a_corrected_partition_is_judged_anew(
    promoted: World, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = lived(promoted, tmp_path, instance, "notify", slope=-2.0)
    before = summarize(world.state)
    world.land(landed(world) - DAYS, slope=2.0)
    world.settle()
    after = summarize(world.state)
    assert before is not None
    assert after is not None
    assert after.partitions == before.partitions
    assert after.loss > before.loss
