"""The live stream is watched as partitions are: drift at once, performance once labels came."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import httpx
import numpy as np
import polars as pl
import pytest

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.metrics.metrics import evaluate
from retrain_assets.orchestration.messages import of_model, tell
from retrain_assets.orchestration.resources import Channels
from retrain_assets.serving.http.app import Service
from retrain_assets.serving.live_monitoring import LiveMonitor
from retrain_assets.steps.decision.evaluate import CALIBRATION, SCHEMA
from retrain_assets.steps.features.build import read_features
from retrain_assets_tests.receivers import web
from retrain_assets_tests.serving.http.test_predict import as_json, raw_rows
from retrain_assets_tests.serving.scoring.test_served_model import model_file
from retrain_assets_tests.serving.site import ROW, USAGE, Site, listening, new_site, post
from retrain_assets_tests.world import key


@pytest.fixture
def changing(tmp_path: Path) -> Site:
    return new_site(tmp_path)


def seen(service: Service, client: httpx.Client) -> dict[tuple[str, str, str], float]:
    """What is told of the live stream, by role, measure and column, once the log is stored."""
    service.log.flush()
    service.monitors["churn"].observe()
    line = r'retrain_live\{column="(.*)",measure="(.*)",model="churn",role="(.*)"\} (.*)'
    found = re.findall(line, client.get("/metrics").text)
    return {(role, measure, column): float(value) for column, measure, role, value in found}


def test_a_stream_unlike_training_is_told_once(changing: Site) -> None:
    told: list[str] = []
    service = changing.service(told.append)
    rows = as_json(raw_rows(changing, 15))
    with listening(service) as client:
        post(client, *rows)
        assert seen(service, client)["feature", "psi", "x"] < 0.5
        assert not [line for line in told if "live feature x" in line]
    service = changing.service(told.append)
    with listening(service) as client:
        for _ in range(3):
            post(client, *(row | {"x": 40.0 + row["id"] / 100} for row in rows))
        assert seen(service, client)["feature", "psi", "x"] > 0.5
        assert 'retrain_live_alert{column="x",measure="psi"' in client.get("/metrics").text
        seen(service, client)
    assert len([line for line in told if "churn: live feature x: psi is" in line]) == 1


def test_labels_that_have_landed_give_the_live_performance(changing: Site) -> None:
    service = changing.service()
    with listening(service) as client:
        answered = post(client, *as_json(raw_rows(changing, 15))).json()["predictions"]
        post(client, ROW)  # whose label has not come
        found = seen(service, client)
    labels = read_features(changing.state, [key(15)])["gone"].to_numpy()
    predicted = np.array([row["prediction"] for row in answered])
    expected = evaluate("log_loss", labels, predicted)
    assert found["performance", "log_loss", "gone"] == pytest.approx(expected)
    assert found["volume", "rows", ""] == len(answered) + 1


def test_what_the_probabilities_promise_is_told_before_a_label_comes(changing: Site) -> None:
    state = changing.state
    too_sure = {CALIBRATION: {"intercepts": [0, 0.1], "slope": 0.5}}
    judged = {PARTITION: "1", "candidate": 1, "evidence": json.dumps(too_sure)}
    rows = pl.DataFrame([judged], schema=SCHEMA)
    state.tables.replace(state.table("evaluation"), rows, ["1"], {"run_id": "test"})
    told: list[str] = []
    service = changing.service(told.append)
    with listening(service) as client:
        answered = post(client, *as_json(raw_rows(changing, 15))).json()["predictions"]
        found = seen(service, client)
    said = np.array([row["prediction"] for row in answered])
    chance = 1 / (1 + np.exp(-0.1) * ((1 - said) / said) ** 0.5)
    promised = -(chance * np.log(said) + (1 - chance) * np.log(1 - said)).mean()
    assert found["estimated", "log_loss", "gone"] == pytest.approx(promised)
    assert [line for line in told if "live estimated gone: log_loss is" in line]


def test_the_figures_tell_of_requests_versions_lookups_and_what_was_refused(
    changing: Site,
) -> None:
    service = changing.service()
    with listening(service) as client:
        post(client, ROW, ROW)
        post(client, ROW | {"x": "1"})
        client.get("/nope")
        changing.decide(*range(2, 14))
        model_file(changing, 2).unlink()
        service.models["churn"].refresh()
        text = client.get("/metrics").text
    for line in (
        'retrain_requests_total{path="/models/churn/predict",status="200"} 1.0',
        'retrain_requests_total{path="/models/churn/predict",status="422"} 1.0',
        'retrain_requests_total{path="other",status="404"} 1.0',
        'retrain_request_seconds_count{path="/models/churn/predict"} 2.0',
        'retrain_rows_total{model="churn",version="1"} 2.0',
        'retrain_ready{model="churn"} 1.0',
        'retrain_reload_failures{model="churn"} 1.0',
    ):
        assert line in text
    assert 'retrain_version_age_seconds{model="churn"}' in text
    assert 'retrain_lookup_age_seconds{lookup="plans",model="churn"}' in text
    assert re.search(r"retrain_log_backlog_bytes [1-9]", text)


def test_what_the_service_sees_go_wrong_is_told_to_people_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    """Live performance beyond its bound, a version that is refused, a lookup that is stale."""
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-canary")
    partition = {"by": "day", "column": "at", "start": "2020-01-01"}
    for name, value in {"partition": partition, "expected": "6h"}.items():
        monkeypatch.setitem(USAGE, name, value)
    site = new_site(tmp_path, notify={"slack": "#ml"})
    service, now = site.service(), datetime.now(UTC)

    def told(later: timedelta = timedelta(0)) -> list[str]:
        monitor = LiveMonitor(service.models["churn"], print)
        monitor.observations = service.monitors["churn"].observations
        monitor.store_troubles(now + later)
        with web() as slack:
            channels, subject = Channels(slack_url=slack.url()), of_model(site.model)
            clock = lambda: now + timedelta(days=1, hours=len(told_so_far))  # noqa: E731
            tell(subject, site.storage, channels, instance, clock)
            found = [line for sent in slack.posted for line in sent.form["text"].split("\n")]
        told_so_far.extend(found)
        return found

    told_so_far: list[str] = []
    told()
    with listening(service) as client:
        rows = as_json(raw_rows(site, 15))
        post(client, *(row | {"x": -row["x"] * 20} for row in rows))  # confident, and wrong
        seen(service, client)
        site.decide(*range(2, 14))
        model_file(site, 2).unlink()
        service.models["churn"].refresh()
        text = client.get("/metrics").text
    assert f'retrain_lookup_bound_seconds{{lookup="usage",model="churn"}} {30 * 3600.0}' in text
    assert 'lookup_bound_seconds{lookup="plans"' not in text
    found = told()
    assert any(line.startswith("churn: live log_loss is ") for line in found)
    assert any("churn: model churn version 2 is not served" in line for line in found)
    assert not any("stale" in line for line in found)
    (stale,) = told(later=timedelta(hours=31))
    assert stale.startswith("churn: lookup usage is stale since ")
    assert told(later=timedelta(hours=31)) == []
