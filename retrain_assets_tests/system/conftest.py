"""A project of its own with the demo in it, the real web server on it, and a browser."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import BrowserContext, Page, sync_playwright

from retrain_assets_tests.system.processes import BIN, Processes, environment, free_port

ROOT = Path(__file__).parents[2]
CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DEMO_SECONDS, PAGE_SECONDS = 1200, 60


@dataclass(frozen=True)
class Demo:
    """A project folder in which the demo has run."""

    home: Path
    days: int
    decisions: list[dict[str, object]]

    def last_decision(self, model: str) -> dict[str, object]:
        return [row for row in self.decisions if row["model"] == model][-1]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    home = tmp_path_factory.mktemp("home")
    settings = yaml.safe_load((ROOT / "dagster.yaml").read_text(encoding="utf-8"))
    # A new browser is otherwise greeted by a dialog that covers the page.
    settings["nux"] = {"enabled": False}
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (home / "workspace.yaml").write_bytes((ROOT / "workspace.yaml").read_bytes())
    done = subprocess.run(
        [BIN / "retrain", "demo", "--json"],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answer = json.loads(done.stdout)
    return Demo(home, answer["days"], answer["decisions"])


@pytest.fixture(scope="session")
def address(demo: Demo) -> Iterator[str]:
    """The web server's, on the demo's project; none of its processes outlives the fixture."""
    port = free_port()
    processes = Processes(demo.home)
    try:
        processes.start(
            *("webserver", "dagster-webserver", "--workspace", "workspace.yaml"),
            *("--host", "127.0.0.1", "--port", str(port)),
        )
        processes.listening("webserver", port)
        yield f"http://127.0.0.1:{port}"
    finally:
        processes.stop()


@pytest.fixture(scope="session")
def browser(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("browser"),
            executable_path=CHROMIUM,
            args=FLAGS,
            base_url=address,
            # In a smaller window Dagster draws this graph without the states of its assets.
            viewport={"width": 1800, "height": 1100},
        )
        context.set_default_timeout(PAGE_SECONDS * 1000)
        try:
            yield context
        finally:
            context.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("RETRAIN_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def page(
    browser: BrowserContext, screenshots: Path, request: pytest.FixtureRequest
) -> Iterator[Page]:
    """A new page; what it shows at the end of the test is kept as a picture."""
    opened = browser.new_page()
    try:
        yield opened
        picture = screenshots / f"{request.node.name}.png"
        opened.screenshot(path=picture, animations="disabled")
    finally:
        opened.close()
