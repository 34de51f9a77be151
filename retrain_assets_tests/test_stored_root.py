"""A storage root that version 0.1 wrote still opens, and work goes on in it.

`stored/root-0.1.tar.xz` is a backup that commit 4f36398 made; its `make.py` is the script that was
run. Two versions were promoted, one was rejected, and the newest was rolled back.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from polars.testing import assert_frame_equal

from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.inspect.status import status, verify
from retrain_assets.steps.monitoring.predict import score_partitions
from retrain_assets.stores.backup import restore
from retrain_assets.stores.messages import Outbox
from retrain_assets_tests.receivers import Web, web
from retrain_assets_tests.world import DATASET, World, key, new_world

ARCHIVE = Path(__file__).parent / "stored" / "root-0.1.tar.xz"
ROWS = {
    "churn/decisions": 48,
    "churn/evaluation": 3,
    "churn/features": 800,
    "churn/ledger": 4,
    "churn/monitoring": 233,
    "churn/outbox": 7,
    "churn/performance": 20,
    "churn/prediction_log": 8,
    "churn/prediction_profile": 10,
    "churn/predictions": 400,
    "churn/profile": 60,
    "churn/reference": 12,
    "customers/dataset": 800,
    "customers/files": 20,
    "customers/quarantine": 1,
}
HEAD = "3 32af08e4f3431fbe23edb5d08789376fd25689af1ee33d47d941fa549b608e6c"
NOTIFY = {"slack": "#ml"}
CHANGES: dict[str, Any] = {
    "notify": NOTIFY,
    "windows": {"train": 6, "holdout": 4, "current": 2},
    "triggers": {
        "data_drift": {"measure": "psi", "threshold": 0.5},
        "performance": {"metric": "log_loss", "max_drop": 0.2},
        "cooldown": 3,
    },
}


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-canary")
    with web() as server:
        yield server


@pytest.fixture
def stored(tmp_path: Path, instance: dg.DagsterInstance, slack: Web) -> World:
    shutil.unpack_archive(ARCHIVE, tmp_path / "copy")
    restore(tmp_path / "copy", {"storage": tmp_path / "root"}, lambda _: None)
    dataset = DatasetSpec.model_validate(DATASET | {"notify": NOTIFY})
    world = new_world(tmp_path / "root", instance, **CHANGES)
    return replace(world, dataset=dataset, slack_url=slack.url())


def run(world: World, job: str, **config: Any) -> None:
    definition = world.definitions.resolve_job_def(f"churn_{job}")
    run_config = {"ops": {f"churn_{job}_op": {"config": config}}} if config else None
    assert definition.execute_in_process(instance=world.instance, run_config=run_config).success


def test_what_version_0_1_stored_is_read_and_work_goes_on(stored: World, slack: Web) -> None:
    tables, registry = stored.storage.tables, stored.storage.registry("churn")
    assert {name: tables.scan(name).collect().height for name in tables.names()} == ROWS
    history = stored.state.ledger.read()
    assert history.head == registry.ledger_head == HEAD
    assert verify(stored.state).startswith("the chain of 4 rows fits; ")
    assert [(row.action, row.version) for row in history.rows] == [
        ("promote", 2), ("reject", 3), ("promote", 5), ("rollback", 2),
    ]  # fmt: skip
    assert registry.alias("production") == 2
    assert [notice.sent_at is None for notice in Outbox(tables, "churn").read()] == [False] * 7

    before = tables.scan("churn/predictions").collect().sort("_landing_partition", "_key")
    days = before["_landing_partition"].unique().sort().to_list()
    ((_, again),) = score_partitions(stored.state, days, None)
    assert_frame_equal(again.sort("_landing_partition", "_key"), before)

    assert stored.settle() == [], "nothing is read, built or decided again"
    stored.land(20, rows=40, slope=-2.0)
    assert [executed.job for executed in stored.settle()] == ["customers_ingest", "churn_monitor"]
    served = tables.scan("churn/predictions").collect().filter(_landing_partition=key(20))
    assert set(served["model_version"]) == {2}
    assert status(stored.state)["reason"] == "no cause has fired"
    assert slack.posted == []

    run(stored, "retrain")
    row = stored.state.ledger.read().rows[-1]
    assert (row.action, row.candidate, row.version, row.previous) == ("promote", 6, 7, 2)
    run(stored, "rollback", to=5, reason="complaints", by="on call")
    assert registry.alias("production") == 5
    assert verify(stored.state).startswith("the chain of 6 rows fits; ")
    promoted, rolled_back = (posted.form["text"] for posted in slack.posted)
    assert "churn: version 7 is in production. better than production" in promoted
    assert rolled_back == "churn: rolled back to version 5 by on call. complaints"
