"""Few partitions, finer blocks and a known-bad month: the loop of a model that is fed by month."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.decision.promote import decide_candidate
from retrain_assets.steps.decision.train import plan, train_candidates
from retrain_assets.steps.inspect import status
from retrain_assets.steps.inspect.reproduce import reproduce
from retrain_assets.steps.monitoring.monitor import monitor
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.registry.registry import new_run
from retrain_assets_tests.world import DATASET, World, customers, key, new_world

MONTHLY = DATASET | {
    "landing": "customers/*.csv",
    "partition": {"by": "month", "column": "day", "start": "2020-01", "end": "2020-12"},
}
MODEL: dict[str, Any] = {
    "windows": {"train": 2, "holdout": 1, "current": 1},
    "blocks": "day",
    "exclude": [{"first": "2020-02", "last": "2020-02", "reason": "the till was broken"}],
    "gate": {"metric": "log_loss", "min_blocks": 20},
    "triggers": {
        "data_drift": {"measure": "psi", "threshold": 0.5},
        "performance": {"metric": "log_loss", "max_drop": 0.2},
        "cooldown": 1,
    },
}
MONTHS = {"2020-01": (0, 31), "2020-02": (31, 60), "2020-03": (60, 91), "2020-04": (91, 121)}
MONTHS |= {"2020-05": (121, 152), "2020-06": (152, 182)}


def land(world: World, month: str, **law: Any) -> None:
    folder = world.root / "landing" / "customers"
    folder.mkdir(parents=True, exist_ok=True)
    days = [customers(day, rows=40, **law) for day in range(*MONTHS[month])]
    pl.concat(days).write_csv(folder / f"{month}.csv")


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Half a year, of which the second month is bad. Tests only read it."""
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("months"), instance, **MODEL)
        world.dataset = DatasetSpec.model_validate(MONTHLY)
        land(world, "2020-02", shift=8.0)
        for month in ("2020-01", "2020-03", "2020-04"):
            land(world, month)
        world.settle()
        land(world, "2020-05")
        land(world, "2020-06")
        world.settle()
        yield world


def promoted(world: World) -> LedgerRow:
    (row,) = world.state.ledger.read().rows
    return row


def test_one_month_of_days_is_holdout_enough(months: World) -> None:
    row = promoted(months)
    assert (row.action, row.as_of) == ("promote", "2020-04")
    assert "on 30 blocks, 1,200 rows" in row.reason
    evidence = months.storage.tables.scan("churn/evaluation").collect()["evidence"].item()
    assert f'"2020-04|{key(91)}"' in evidence


def test_a_bad_month_is_in_no_window_and_its_reason_is_told(months: World) -> None:
    row, registry = promoted(months), months.storage.registry("churn")
    told = "without 2020-02 to 2020-02: the till was broken"
    assert row.reason.endswith(told)
    assert row.for_people()["reason"] == row.reason
    gated, refit = (registry.version(number) for number in (row.candidate or 0, row.version))
    assert (gated.tags["train_from"], gated.tags["train_to"]) == ("2020-01", "2020-03")
    assert gated.tags["excluded"] == told
    assert (refit.tags["train_from"], refit.tags["excluded"]) == ("2020-03", "")
    assert months.state.mature() == ("2020-01", "2020-03", "2020-04", "2020-05", "2020-06")


def test_a_bad_month_is_shown_and_watched_all_the_same(months: World) -> None:
    monitored = months.storage.tables.scan("churn/monitoring").collect()
    assert "2020-02" in monitored["_landing_partition"].to_list()
    assert status.status(months.state)["reason"] == "no cause has fired"
    assert status.list_stale(months.state) == []


@pytest.fixture
def other(months: World, tmp_path: Path) -> World:
    """A copy, in which a version trained on a range with the bad month is in production."""
    shutil.copytree(months.root / "delta", tmp_path / "delta")
    world = World(tmp_path, months.instance, months.dataset, months.spec)
    spanning = {"data_range": ("2020-01", "2020-04"), "version": 9, "action": "adopt"}
    row = LedgerRow(**{**vars(promoted(months)), **spanning})
    world.state.ledger.append(row, world.state.ledger.read())
    return world


def drift(world: World) -> dict[str, float]:
    keys = ["2020-02", "2020-05", "2020-06"]
    monitor(world.state, keys, "again")
    rows = world.storage.tables.scan("churn/monitoring").collect()
    found = rows.filter(measure="psi", role="feature", column="x", model_version=9)
    return dict(found.select("_landing_partition", "statistic").iter_rows())


def test_a_bad_month_is_no_reference_of_drift(other: World) -> None:
    assert all(statistic < 0.1 for statistic in drift(other).values())
    other.spec = new_world(other.root, other.instance, **MODEL | {"exclude": []}).spec
    assert all(statistic > 0.1 for statistic in drift(other).values())


def test_a_bad_month_asks_for_nothing(other: World) -> None:
    assert set(other.state.situation().monitoring["_landing_partition"]) == {"2020-05", "2020-06"}
    bad = {"first": "2020-06", "last": "2020-06", "reason": "also broken"}
    other.spec = new_world(other.root, other.instance, **MODEL | {"exclude": [bad]}).spec
    assert set(other.state.situation().monitoring["_landing_partition"]) == {"2020-05"}
    assert other.state.mature()[-1] == "2020-05"


def test_a_bad_month_is_in_no_window_but_its_own(other: World) -> None:
    wide = MODEL | {"windows": {"train": 2, "holdout": 1, "current": 2}}
    bad = {"first": "2020-05", "last": "2020-05", "reason": "also broken"}
    other.spec = new_world(other.root, other.instance, **wide | {"exclude": [bad]}).spec
    drift(other)
    rows = other.storage.tables.scan("churn/monitoring").collect()
    found = rows.filter(measure="psi", role="feature", column="x")
    windows = (
        found.select("_landing_partition", "window_from", "window_to").sort("window_to").rows()
    )
    assert windows == [("2020-05", "2020-04", "2020-05"), ("2020-06", "2020-04", "2020-06")]


def test_a_growing_window_takes_what_there_is_and_the_refit_its_holdout_too(
    months: World, tmp_path: Path
) -> None:
    ignored = shutil.ignore_patterns("ledger", "evaluation")
    shutil.copytree(months.root / "delta", tmp_path / "delta", ignore=ignored)
    windows = {"train": "all", "holdout": 1, "current": 1}
    world = new_world(tmp_path, months.instance, **MODEL | {"windows": windows})
    state = World(tmp_path, months.instance, months.dataset, world.spec).state
    assert state.situation().needed == 2
    (gated,) = train_candidates(state, plan(state, None, []), lambda: new_run(state.registry))
    assert [gated.tags[name] for name in ("train_from", "train_to", "window")] == [
        *("2020-01", "2020-05", "4")
    ]
    decide_candidate(state, "run", lambda: new_run(state.registry))
    (row,) = state.ledger.read().rows
    assert (row.action, row.data_range) == ("promote", ("2020-01", "2020-06"))
    assert reproduce(state, row.version).identical
