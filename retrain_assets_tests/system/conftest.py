"""A project of its own with the demo in it, the real web server on it, and a browser."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import BrowserContext, Page, sync_playwright

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# What would lead a command back to the repository's own data.
SETTINGS = ("DAGSTER_HOME", "RETRAIN_STORAGE", "MLFLOW_TRACKING_URI", "SLACK_BOT_TOKEN")
DEMO_SECONDS, START_SECONDS, STOP_SECONDS, PAGE_SECONDS = 1200, 120, 20, 60


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
        env=_environment(home),
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Demo(home, **json.loads(done.stdout))


@pytest.fixture(scope="session")
def address(demo: Demo) -> Iterator[str]:
    """The web server's, on the demo's project; none of its processes outlives the fixture."""
    port = _free_port()
    log = demo.home / "webserver.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(BIN / "dagster-webserver", "--workspace", "workspace.yaml"),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            cwd=demo.home,
            env=_environment(demo.home),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(server, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        _stop(server)


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


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return {**kept, "DAGSTER_HOME": str(home)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return once the server listens, which it does when the definitions are loaded."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    pytest.fail(f"the web server did not start: {log.read_text(encoding='utf-8')[-4000:]}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, then end what is left of its process group."""
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait(STOP_SECONDS)
