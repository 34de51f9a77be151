"""Whenever a retraining is killed, what runs next ends as if it had never been killed."""

from __future__ import annotations

import multiprocessing
import shutil
from collections import Counter
from pathlib import Path
from random import Random
from time import monotonic

import dagster as dg
import pytest

from retrain_assets.orchestration.partitions import range_tags
from retrain_assets.steps.inspect.status import verify
from retrain_assets.steps.upkeep.messages import list_decisions
from retrain_assets_tests.orchestration.test_kills import recorded
from retrain_assets_tests.world import World, key, new_world

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["retrain_assets_tests.world", "mlflow.sklearn"])
KILLS, FEW = 100, 4
SECONDS = 120


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root on which there is nothing left to do but to retrain."""
    return watched(tmp_path_factory.mktemp("ready"))


def watched(root: Path) -> Path:
    with recorded(root) as instance:
        world = new_world(root, instance)
        world.land(*range(16))
        for job in ("customers_ingest", "churn_monitor"):
            world.daemon.execute(job, range_tags(key(0), key(15)), {})
    return root


def retrain(root: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        new_world(root, instance).daemon.execute("churn_retrain", {}, {})


def killed_after(seconds: float, root: Path) -> bool:
    """Whether a retraining was killed before it came to its end."""
    process = _CONTEXT.Process(target=retrain, args=(root,))
    process.start()
    process.join(seconds)
    killed = process.is_alive()
    process.kill()
    process.join(SECONDS)
    return killed


def state_of(world: World) -> tuple[object, ...]:
    """What must be as in a run that was never killed."""
    registry, history = world.storage.registry("churn"), world.state.ledger.read()
    assert verify(world.state).startswith("the chain of 1 row fits")
    (row,) = history.rows
    tags = [(v.tags["candidate_id"], v.tags["role"]) for v in registry.versions()]
    assert max(Counter(tags).values()) == 1, "a version was registered twice for one decision"
    told = [event.id for event in list_decisions(world.state)]
    return row.action, registry.alias("production") == row.version, len(tags), told


def soak(ready: Path, folder: Path, kills: int) -> None:
    random = Random(6)  # noqa: S311 moments, not secrets
    started = monotonic()
    shutil.copytree(ready, folder / "whole")
    assert not killed_after(SECONDS, folder / "whole")
    whole = monotonic() - started
    with dg.DagsterInstance.ephemeral() as instance:
        expected = state_of(new_world(folder / "whole", instance))
        assert expected == ("promote", True, 2, ["ledger:0"])
        for number in range(kills):
            root = folder / str(number)
            shutil.copytree(ready, root)
            killed_after(random.uniform(0.05, 1.0) * whole, root)
            retrain(root)
            assert state_of(new_world(root, instance)) == expected, f"kill {number}"
            shutil.rmtree(root)


@pytest.mark.system
def test_kills_at_any_moment_of_a_retraining_leave_nothing_half_done(
    ready: Path, tmp_path: Path
) -> None:
    soak(ready, tmp_path, FEW)


@pytest.mark.soak
def test_a_hundred_kills_at_any_moment_of_a_retraining_leave_nothing_half_done(
    ready: Path, tmp_path: Path
) -> None:
    soak(ready, tmp_path, KILLS)
