"""The card of a version says what it was made from, how good it is, why, and how to go back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from scipy.stats import t

from retrain_assets.domain.model.estimator import predict
from retrain_assets.steps.decision.promote import roll_back
from retrain_assets.steps.decision.train import sample
from retrain_assets.steps.inspect.card import card, write_card
from retrain_assets.stores.place import Folder
from retrain_assets_tests.world import World, key, new_world

GATE = {
    "metric": "log_loss",
    "min_blocks": 4,
    "slices": ["plan"],
    "guards": {"calibration": {"limit": 0.05}},
}
TURN = 16


@pytest.fixture(scope="module")
def replaced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A first model, and the one that took its place after the law had turned."""
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("replaced"), instance, gate=GATE)
        world.land(*range(TURN))
        world.settle()
        for number in range(TURN, 40):
            world.land(number, slope=-2.0)
            world.settle()
            if len([r for r in world.state.ledger.read().rows if r.action == "promote"]) > 1:
                break
        yield world


def of(world: World, version: int) -> dict[str, str]:
    """The parts of a card by their heading, as text."""
    made = card(world.state, version)
    _, *parts = re.split("<h2>", made)
    return {part.partition("</h2>")[0]: unescape(part.partition("</h2>")[2]) for part in parts}


def test_a_promoted_version_has_all_parts(replaced: World) -> None:
    row = replaced.state.ledger.read().rows[-1]
    parts = of(replaced, row.version)
    assert list(parts) == [
        *("Decisions", "Holdout", "The gate", "Slices", "Calibration", "Importance"),
        *("The drift before it", "What it was made from", "Build it again, go back"),
    ]
    assert row.reason in parts["Decisions"]
    assert row.because in parts["Decisions"]
    assert f"Version {row.candidate} on 720 rows of 6 partitions" in parts["Holdout"]
    for shown in ("calibration error", "<img ", row.reason):
        assert shown in parts["The gate"]
    for shown in ("`loss` is how much worse the candidate is", "<td>basic</td>"):
        assert shown in parts["Slices"]
    for head in ("Calibration", "Importance", "The drift before it"):
        assert parts[head].count("<img ") == 1
    assert f"<td>train_to</td><td>{row.data_range[1]}</td>" in parts["What it was made from"]
    last = parts["Build it again, go back"]
    assert f"retrain reproduce churn {row.version}:" in last
    assert f"retrain rollback churn --reason WHY: from it, back to version {row.previous}" in last
    assert "--to" not in last
    first = of(replaced, row.previous or 0)["Build it again, go back"]
    assert f"retrain rollback churn --to {row.previous} --reason WHY: back to it" in first
    assert "rollback" not in of(replaced, row.candidate or 0)["Build it again, go back"]


def test_metrics_stand_with_intervals_that_hold_them(replaced: World) -> None:
    row = replaced.state.ledger.read().rows[-1]
    cells = re.findall(
        r"<td>(\w+)</td><td>([\d.]+)</td><td>([\d.]+)</td><td>([\d.]+)</td>",
        of(replaced, row.version)["Holdout"],
    )
    found = {name: tuple(map(float, values)) for name, *values in cells}
    assert found.keys() == row.metrics.keys()
    for name, (value, low, high) in found.items():
        assert value == pytest.approx(row.metrics[name], rel=1e-3)
        assert low < value < high
    registry, last = replaced.storage.registry("churn"), row.as_of
    holdout = [day for day in replaced.state.mature() if day <= last][-6:]
    rows = sample(replaced.state, holdout)
    gated = registry.version(row.candidate or 0)
    output = predict(registry.load(gated.version, gated.sha256), "binary", rows.features)
    right = pl.DataFrame(
        {"day": rows.partitions, "right": (output >= 0.5) == rows.target.to_numpy()}
    )
    days = right.group_by("day").agg(pl.col("right").mean())["right"]
    mean, half = days.mean(), t.ppf(0.975, 5) * days.std() / len(days) ** 0.5
    assert found["accuracy"] == pytest.approx((mean, mean - half, mean + half), rel=1e-3)


def test_the_first_was_held_against_nothing_but_the_trivial_one(replaced: World) -> None:
    parts = of(replaced, 1)
    assert "better than the trivial predictor" in parts["The gate"]


def test_what_is_written_by_people_is_shown_and_not_run(replaced: World) -> None:
    bad = "<script>alert(1)</script>"
    now = replaced.state.ledger.read().rows[-1]
    roll_back(replaced.state, None, bad, "<b>on call</b>")
    made = card(replaced.state, now.previous or 0)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in made
    assert "&lt;b&gt;on call&lt;/b&gt;" in made
    assert "<script" not in made
    assert "<b>" not in made


def test_the_run_leaves_cards_of_candidate_and_refit_in_mlflow_and_beside_the_reports(
    replaced: World,
) -> None:
    row, registry = replaced.state.ledger.read().rows[0], replaced.storage.registry("churn")
    for number in (row.candidate, row.version):
        path = Path(str(replaced.storage.cards / "churn" / f"card-{number}.html"))
        text = path.read_text(encoding="utf-8")
        assert f"<title>churn, version {number}</title>" in text
        assert registry.text(registry.version(number or 0), path.name) == text
    asked = dg.AssetKey(["churn", "production_model"])
    event = replaced.instance.get_latest_materialization_event(asked)
    assert event is not None
    assert event.asset_materialization is not None
    shown = event.asset_materialization.metadata["card"].value
    assert Path(str(shown)).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_card_can_be_written_of_a_version_on_which_nothing_was_decided(
    replaced: World, tmp_path: Path
) -> None:
    ledger = replaced.root / "delta" / "churn" / "ledger"
    ledger.rename(tmp_path / "ledger")
    try:
        path = Path(write_card(replaced.state, 1, Folder(tmp_path)))
    finally:
        (tmp_path / "ledger").rename(ledger)
    made = path.read_text(encoding="utf-8")
    assert "Nothing was decided on it yet." in made
    assert f"{key(TURN - 6)} to {key(TURN - 1)}, none of which" in made
