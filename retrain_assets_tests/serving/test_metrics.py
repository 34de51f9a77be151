"""The files for Prometheus and Grafana, tried by promtool and on a Prometheus that scrapes us."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from retrain_assets_tests.serving.http.test_predict import as_json, raw_rows
from retrain_assets_tests.serving.site import ROW, Site, listening, post, wait_until

pytestmark = pytest.mark.system
DEPLOY = Path(__file__).parents[2] / "deploy"


def test_every_rule_fires_when_it_should_and_only_then() -> None:
    folder = DEPLOY / "prometheus"
    for arguments in (["test", "rules", "rules_test.yml"], ["check", "config", "prometheus.yml"]):
        done = subprocess.run(
            ["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    rules = yaml.safe_load((folder / "rules.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    tested = (folder / "rules_test.yml").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in rules if rule["alert"] not in tested] == []


@contextmanager
def scraping(target: httpx.URL, folder: Path) -> Iterator[httpx.Client]:
    """A Prometheus of its own process, with the shipped configuration on another target."""
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    config = yaml.safe_load(text) | {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}
    }
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"{target.host}:{target.port}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copy(DEPLOY / "prometheus" / "rules.yml", folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen(
        [
            *("prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"),
            f"--web.listen-address={address}",
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=10) as client:
            yield client
    finally:
        process.terminate()
        process.wait(20)


def asked(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    try:
        found = client.get("/api/v1/query", params={"query": query})
    except httpx.TransportError:
        return []  # it is starting
    if found.status_code == 503:
        return []
    assert found.json()["status"] == "success", f"{query}: {found.text}"
    return list(found.json()["data"]["result"])


def test_a_prometheus_sees_the_service_its_drift_and_what_the_dashboard_shows(
    site: Site, tmp_path: Path
) -> None:
    service = site.service()
    rows = as_json(raw_rows(site, 15))
    with listening(service) as client, scraping(client.base_url, tmp_path) as prometheus:
        post(client, *rows)
        post(client, *(row | {"x": 40.0 + row["id"] / 100} for row in rows))
        service.log.flush()
        service.monitors["churn"].observe()
        wait_until(lambda: asked(prometheus, 'retrain_live_alert{column="x"} == 1'))
        wait_until(lambda: asked(prometheus, 'ALERTS{alertname="RetrainLiveDrift"}'))
        (ready,) = asked(prometheus, 'retrain_ready{model="churn"}')
        assert ready["value"][1] == "1"
        groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
        dashboard = json.loads((DEPLOY / "grafana" / "retrain.json").read_text(encoding="utf-8"))
        for panel in dashboard["panels"]:
            (target,) = panel["targets"]

            def shown(expression: str = target["expr"]) -> bool:
                post(client, ROW)
                return bool(asked(prometheus, expression))

            wait_until(shown)
