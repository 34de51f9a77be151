"""The page of a model shows all that happened to it, and runs nothing that people wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.orchestration.assets.upkeep import report_asset
from retrain_assets.orchestration.resources import RESOURCES, StorageResource
from retrain_assets.steps.decision import policy
from retrain_assets.steps.inspect import status
from retrain_assets.steps.inspect.report import (
    _list_drift,
    render_models,
    render_report,
    report,
)
from retrain_assets.steps.state import MONITORING_SCHEMA
from retrain_assets_tests.world import World, key, new_world

LANDED = 18
BAD = '<script>alert("1")</script>'
PLAIN = ("kind", "role", "action", "measure", "since")  # words of the platform, not of people


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An exclusion, a correction, two pauses, a refused file, and a law that has turned."""
    bad = [{"first": key(3), "last": key(4), "reason": "a strike"}]
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("eventful"), instance, exclude=bad)
        world.land(*range(LANDED))
        world.settle()
        policy.pause(world.state, key(90), "an audit", "ann")
        policy.resume(world.state, "it is done", "bob")
        policy.pause(world.state, key(60), "a holiday", "ann")
        world.land(LANDED - 1, rows=130)
        world.land(*range(LANDED, LANDED + 8), slope=-2.0)
        refused = world.root / "landing" / "customers" / f"{key(50)}.csv"
        refused.write_text("a,b\n1,2\n", encoding="utf-8")
        world.settle()
        yield world


@pytest.fixture(scope="module")
def told(eventful: World) -> dict[str, Any]:
    return report(eventful.state)


def texts(told: dict[str, Any], kind: str) -> list[str]:
    return [event["text"] for event in told["events"] if event["kind"] == kind]


def test_all_that_happened_has_a_sentence(told: dict[str, Any]) -> None:
    (promotion,) = told["history"]
    assert texts(told, "promote") == [
        f"as of {key(LANDED - 1)}: promote version {promotion['version']}: {promotion['reason']}"
    ]
    assert told["why"] == promotion
    assert texts(told, "excluded") == [f"excluded: {key(3)} to {key(4)}: a strike"]
    ended, present = texts(told, "pause")
    assert ended == f"paused until {key(90)} by ann: an audit; resume by bob: it is done"
    assert present == f"paused until {key(60)} by ann: a holiday"
    (corrected,) = texts(told, "corrected")
    assert corrected.startswith(f"the data of {key(LANDED - 1)} were corrected after version ")
    assert "a first model is needed" in texts(told, "asked")[0]
    pause = next(event for event in told["events"] if event["kind"] == "pause")
    assert pause["first"] == pause["last"] == key(LANDED - 1)


def test_what_waits_for_a_person_has_a_command(told: dict[str, Any]) -> None:
    waiting = {row["command"]: row["text"] for row in told["waiting"]}
    assert "a holiday" in waiting["retrain resume churn --reason WHY"]
    refused = waiting["retrain quarantine customers"]
    assert refused == "customers refused 1 file"
    assert "it lacks" in told["datasets"][0]["refusal"]
    assert told["next"]["as_of"] == key(60)
    assert told["datasets"][0]["refused_files"] == 1


def test_the_page_draws_each_event_where_it_happened(told: dict[str, Any]) -> None:
    page = render_report(told)
    shown = [unescape(text) for text in re.findall("<title>([^<]*)</title>", page)]
    for event in told["events"]:
        assert any(event["text"] in text for text in shown), event
    for row in told["course"]:
        assert any(row["text"] in text for text in shown)
    assert page.count('<polyline class="line performance"') >= 1
    assert page.count('<polyline class="line estimated"') >= 1
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert not re.search(r"url\(|@import|https?:", page.replace("http-equiv", ""))


def poison(value: Any, name: str = "") -> Any:
    """Return a value whose every text of people begins with a script."""
    if isinstance(value, dict):
        return {key: poison(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [poison(item, name) for item in value]
    return BAD + value if isinstance(value, str) and name not in PLAIN else value


def test_no_text_of_people_runs(told: dict[str, Any]) -> None:
    poisoned = poison(told)
    page = render_report(poisoned, models="../", cards="cards/")
    assert "<script" not in page
    assert page.count("&lt;script") > 100
    assert "<script" not in render_models([poisoned])


def test_the_page_of_a_model_without_data_says_so(world: World) -> None:
    told = report(world.state)
    assert (told["production"], told["next"]["partitions"]) == (None, 16)
    assert "No data have landed yet." in render_report(told)
    assert "0 of 16 partitions needed have landed" in render_models([status.overview(world.state)])


def test_the_asset_writes_the_page_and_links_it(
    eventful: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = report_asset(eventful.model)
    resources = RESOURCES | {"storage": StorageResource(root=str(eventful.root))}
    done = dg.materialize([asset], resources=resources)
    (event,) = done.asset_materializations_for_node(asset.node_def.name)
    path = Path(str(event.metadata["report"].value))
    assert str(path) == eventful.storage.report("churn")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert str(event.metadata["in production"].value).startswith("version ")
    assert "\nnow: " in str(event.metadata["next"].value)
    monkeypatch.setenv("RETRAIN_SERVE_URL", "http://models.example/")
    linked = eventful.model.asset("monitoring", "")["metadata"]["report"]
    assert linked == dg.MetadataValue.url("http://models.example/models/churn")


def test_a_report_that_fails_stops_no_run(eventful: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrain_assets.steps.inspect.report.report", lambda _: 1 / 0)
    asset = report_asset(eventful.model)
    resources = RESOURCES | {"storage": StorageResource(root=str(eventful.root))}
    done = dg.materialize([asset], resources=resources)
    (event,) = done.asset_materializations_for_node(asset.node_def.name)
    assert event.metadata["report"].value == "not written, see the log of the run"


def test_a_column_that_cannot_be_measured_does_not_count_as_moved(
    eventful: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = status.read_newest(eventful.state, "feature").with_columns(
        statistic=pl.when(pl.col("column") != "x").then("statistic")
    )
    assert rows.height > 1
    monkeypatch.setattr(status, "read_newest", lambda *_: rows)
    assert [row["column"] for row in status.list_moved_columns(eventful.state)] == ["plan"]


def test_the_column_that_is_farthest_in_the_newest_partition_stands_first() -> None:
    def row(partition: str, column: str, statistic: float) -> dict[str, Any]:
        figures = {"statistic": statistic, "threshold": 1.0, "baseline": 0.0}
        names = {PARTITION: partition, "role": "feature", "measure": "psi", "column": column}
        return names | figures | {"alert": statistic >= 1}

    days = [("a", 1.9), ("a", 1.1), ("b", 1.2), ("b", 1.6)]
    rows = [row(f"2020-01-0{n % 2 + 1}", *values) for n, values in enumerate(days)]
    first, second = _list_drift(pl.DataFrame(rows, schema=MONITORING_SCHEMA))
    assert (first["column"], second["column"]) == ("b", "a")
    (run,) = second["runs"]
    assert run["text"].startswith("2020-01-01 to 2020-01-02, at the farthest: ")


def test_the_report_is_plain_values(told: dict[str, Any]) -> None:
    assert json.loads(json.dumps(told, allow_nan=False))["model"] == "churn"
