"""What a person sees of the demo in Dagster's UI, in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from retrain_assets_tests.system.conftest import PAGE_SECONDS, Demo

pytestmark = pytest.mark.system
expect.set_options(timeout=PAGE_SECONDS * 1000)

ASSETS = (
    *("features", "profile", "predictions", "monitoring", "adaptation"),
    *("candidate_model", "evaluation", "production_model", "report", "replay", "storage"),
)


def test_the_graph_of_a_model_shows_its_assets_and_their_datasets(page: Page) -> None:
    page.goto("/locations/retrain_assets/asset-groups/flight_delay")
    nodes = page.locator("svg foreignObject")
    for name in ASSETS:
        expect(nodes.get_by_text(name, exact=True)).to_be_visible()
    expect(nodes.get_by_text("dataset", exact=True)).to_have_count(3)  # flights, weather, planes
    expect(nodes).to_have_count(len(ASSETS) + 3)
    expect(nodes.get_by_text("Materialized", exact=True)).to_have_count(4)  # the unpartitioned


def test_the_partitions_of_a_dataset_are_the_days_that_landed(page: Page, demo: Demo) -> None:
    page.goto("/assets/flights/dataset?view=partitions")
    expect(page.get_by_text(f"Materialized ({demo.days})")).to_be_visible()
    expect(page.get_by_text("Failed (0)")).to_be_visible()
    expect(page.get_by_text(f"Missing ({365 - demo.days})")).to_be_visible()


def test_a_check_that_failed_says_where_in_a_table(page: Page) -> None:
    page.goto("/assets/flight_delay/monitoring?view=checks&checkDetail=no_data_drift")
    table = page.get_by_role("table").filter(has_text="threshold")
    for heading in ("partition", "measure", "column", "statistic", "threshold"):
        expect(table.get_by_text(heading, exact=True).first).to_be_visible()
    expect(table.get_by_text("psi", exact=True).first).to_be_visible()


@pytest.mark.parametrize(
    ("asset", "place"), [("monitoring", 0), ("monitoring", 1), ("evaluation", 0)]
)
def test_a_plot_is_drawn_from_the_metadata(page: Page, asset: str, place: int) -> None:
    page.goto(f"/assets/flight_delay/{asset}")
    page.get_by_text("[Show Markdown]").nth(place).click()
    plot = page.locator("img[src^='data:image/']")
    expect(plot).to_be_visible()
    assert plot.evaluate("image => image.naturalWidth") > 0


def test_the_decision_is_told_with_its_reason(page: Page, demo: Demo) -> None:
    last = demo.last_decision("flight_delay")
    page.goto("/assets/flight_delay/production_model")
    for said in ("action", "reason"):
        expect(page.get_by_text(str(last[said]), exact=True).first).to_be_visible()


@pytest.mark.parametrize(
    ("job", "sensor"),
    [
        ("flights_ingest", "flights_new_data"),
        ("flight_delay_monitor", "flight_delay_data_ready"),
        ("flight_delay_retrain", "flight_delay_retrain_wanted"),
    ],
)
def test_runs_name_the_sensor_that_asked_for_them(page: Page, job: str, sensor: str) -> None:
    page.goto(f"/runs?q[0]=job:{job}")
    runs = page.get_by_role("link", name=job, exact=True)
    expect(runs.first).to_be_visible()
    expect(page.get_by_role("link", name=sensor, exact=True)).to_have_count(runs.count())


def test_the_page_of_a_model_fits_any_window_and_tells_each_decision(
    page: Page, demo: Demo
) -> None:
    file = demo.home / "data" / "reports" / "flight_delay.html"
    for width in (1200, 400):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"file://{file}")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    last = demo.last_decision("flight_delay")
    told = page.locator("svg.mark title").all_text_contents()
    assert any(str(last["reason"]) in text for text in told)
    actions = ("promote", "approve", "adopt", "rollback")
    decisions = (row for row in demo.decisions if row["model"] == "flight_delay")
    *_, served = (row["version"] for row in decisions if row["action"] in actions)
    expect(page.get_by_text(f"version {served}", exact=True)).to_be_visible()
