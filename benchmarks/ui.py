"""What Dagster's UI takes to show many models, in a real browser on a real web server.

    python benchmarks/ui.py [--forms for_each segments assets] [--models 200 1000]

The forms are those of `segments.py`: `for_each` is what is offered; with `segments`, the partitions
of each asset are days x segments; with `assets`, each model has assets of its own. Shown are the
graph of assets, and the partitions of an asset that has them for each model, each twice, of which
the second counts. Seconds are those until the page shows what it is about; CPU seconds are those of
the web server with its code server. Needs Chromium and playwright. Not here: runs.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import psutil
from engine import DATASET, MODEL
from playwright.sync_api import Page, sync_playwright

from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.build import dataset_definitions, model_definitions
from retrain_assets.orchestration.dagster_internals import disable_dagster_warnings
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec

CHROMIUM, LONGEST = "/usr/bin/chromium", 120_000
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
SETTINGS = "telemetry: {enabled: false}\nnux: {enabled: false}\n"
GRAPH, PARTITIONS = "graph", "partitions"


def main() -> None:
    """Open the pages of each form and print what that took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--forms", nargs="*", default=["for_each", "segments", "assets"])
    parser.add_argument("--models", type=int, nargs="*", default=[200, 1000])
    parser.add_argument("--pictures", type=Path, help="the folder that gets a picture of each page")
    options = parser.parse_args()
    print("form      models  start s (CPU s)  graph s (CPU s)  partitions s (CPU s)", flush=True)
    for form in options.forms:
        for count in options.models:
            print(f"{form:8}  {count:6}  {measure(form, count, options.pictures)}", flush=True)


def definitions() -> dg.Definitions:
    """Return the definitions that the web server loads."""
    form, count = os.environ["UI_FORM"], int(os.environ["UI_MODELS"])
    partition = {**DATASET["partition"], "start": "2024-01-01", "end": "2024-12-30"}  # 365 days
    dataset = DatasetSpec.model_validate({**DATASET, "partition": partition})
    names = [f"kind {number}" for number in range(count)]
    with disable_dagster_warnings():
        if form == "segments":
            return dg.Definitions(assets=[*_segments(names)])
        many = {"for_each": {"column": "kind", "values": names}} if form == "for_each" else {}
        specs = [MODEL | many]
        if form == "assets":
            specs += [MODEL | {"name": f"buyers_{number}"} for number in range(1, count)]
        models = (Model(ModelSpec.model_validate(spec), dataset, {}) for spec in specs)
        parts = (model_definitions(model) for model in models)
        return dg.Definitions.merge(dataset_definitions(dataset), *parts)


def _segments(names: list[str]) -> list[dg.AssetsDefinition]:
    """Return assets whose partitions are days x segments."""
    day = dg.DailyPartitionsDefinition(start_date="2024-01-01", end_date="2024-12-31")
    segment = dg.StaticPartitionsDefinition(names)
    both = dg.MultiPartitionsDefinition({"day": day, "segment": segment})
    keys = [dg.AssetKey(["buyers", name]) for name in ("features", "monitoring")]
    return [
        dg.asset(key=key, partitions_def=both, group_name="buyers")(lambda: None) for key in keys
    ]


def measure(form: str, count: int, pictures: Path | None) -> str:
    """Start the web server, open the pages, and describe what that took."""
    with TemporaryDirectory(prefix="retrain-ui-") as folder:
        root, port = Path(folder), 3999
        (root / "dagster.yaml").write_text(SETTINGS, encoding="utf-8")
        environment = os.environ | {"UI_FORM": form, "UI_MODELS": str(count)}
        environment |= {"DAGSTER_HOME": folder, "RETRAIN_STORAGE": f"{folder}/data"}
        paths = str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = os.pathsep.join(paths)  # for `engine`
        program = Path(sys.executable).with_name("dagster-webserver")
        command = [program, "-f", __file__, "-a", "definitions", "--port", str(port)]
        with (root / "log").open("wb") as log:
            started = time.monotonic()
            server = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
            watched = psutil.Process(server.pid)
            try:
                return open_pages(watched, form, count, (started, port, pictures))
            finally:
                for process in (*watched.children(recursive=True), watched):
                    process.terminate()
                server.wait(30)


def open_pages(server: psutil.Process, form: str, count: int, place: tuple[Any, ...]) -> str:
    """Open each page twice."""
    started, port, pictures = place
    asset = {"for_each": "production_model", "segments": "monitoring", "assets": "monitoring"}
    group = "/locations/ui.py:definitions/asset-groups/buyers"
    pages = {GRAPH: group, PARTITIONS: f"/assets/buyers/{asset[form]}?view=partitions"}
    texts = {GRAPH: "monitoring", PARTITIONS: "Missing ("}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1800, "height": 1100})
        page.set_default_timeout(LONGEST)
        wait_for(page, f"http://127.0.0.1:{port}/assets")
        results = [f"{time.monotonic() - started:6.1f} ({cpu_seconds(server):.1f})"]
        for name, address in pages.items():
            for _ in range(2):
                before, began = cpu_seconds(server), time.monotonic()
                page.goto(f"http://127.0.0.1:{port}{address}")
                page.get_by_text(texts[name], exact=name == GRAPH).first.wait_for()
                took = time.monotonic() - began, cpu_seconds(server) - before
            results.append(f"{took[0]:6.1f} ({took[1]:.1f})")
            if pictures:
                page.screenshot(path=pictures / f"{form}_{count}_{name}.png")
        browser.close()
    return "  ".join(results)


def wait_for(page: Page, address: str) -> None:
    """Open a page as soon as the web server answers."""
    deadline = time.monotonic() + LONGEST / 1000
    while time.monotonic() < deadline:
        try:
            page.goto(address)
        except Exception:  # noqa: BLE001 it does not listen yet
            time.sleep(0.5)
        else:
            return
    raise TimeoutError("the web server does not answer")


def cpu_seconds(server: psutil.Process) -> float:
    """Return CPU seconds of a web server and of its code server."""
    processes = (server, *server.children(recursive=True))
    return sum(sum(process.cpu_times()[:2]) for process in processes)


if __name__ == "__main__":
    main()
