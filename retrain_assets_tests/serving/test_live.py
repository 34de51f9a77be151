"""The live stream is watched as partitions are: drift at once, performance once labels came."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import numpy as np
import pytest

from retrain_assets.domain.performance import evaluate
from retrain_assets.serving.app import Service
from retrain_assets.steps.build import stored_features
from retrain_assets_tests.serving.site import ROW, Site, listening, new_site, post
from retrain_assets_tests.serving.test_predict import as_json, raw_rows
from retrain_assets_tests.world import key


@pytest.fixture
def changing(tmp_path: Path) -> Site:
    return new_site(tmp_path)


def seen(service: Service, client: httpx.Client) -> dict[tuple[str, str, str], float]:
    """What is told of the live stream, by role, measure and column, once the log is stored."""
    service.log.flush()
    service.lives["churn"].look()
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
    labels = stored_features(changing.state, [key(15)])["gone"].to_numpy()
    predicted = np.array([row["prediction"] for row in answered])
    expected = evaluate("log_loss", labels, predicted)
    assert found["performance", "log_loss", "gone"] == pytest.approx(expected)
    assert found["volume", "rows", ""] == len(answered) + 1


def test_the_figures_tell_of_requests_versions_lookups_and_what_was_refused(
    changing: Site,
) -> None:
    service = changing.service()
    with listening(service) as client:
        post(client, ROW, ROW)
        post(client, ROW | {"x": "1"})
        client.get("/nope")
        changing.root.joinpath("artifacts").rename(changing.root / "gone")
        changing.decide(*range(2, 14))
        service.models["churn"].refresh()
        text = client.get("/metrics").text
    for line in (
        'retrain_requests_total{path="/models/churn/predict",status="200"} 1.0',
        'retrain_requests_total{path="/models/churn/predict",status="422"} 1.0',
        'retrain_requests_total{path="other",status="404"} 1.0',
        'retrain_request_seconds_count{path="/models/churn/predict"} 2.0',
        'retrain_rows_total{model="churn",version="1"} 2.0',
        'retrain_ready{model="churn"} 1.0',
    ):
        assert line in text
    for name in ("version_age_seconds", "lookup_age_seconds", "reload_failures"):
        assert f'retrain_{name}{{lookup="plans"' in text or f"retrain_{name}{{model" in text
    assert re.search(r"retrain_log_backlog_bytes [1-9]", text)
