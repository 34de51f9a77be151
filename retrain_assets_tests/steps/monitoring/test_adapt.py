"""The layer learns in shadow: a state a partition, made again when what it came from changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import numpy as np
import polars as pl
import pytest

from retrain_assets.domain.adaptation.layer import read_state
from retrain_assets.reports.canvas import to_png
from retrain_assets.reports.plots import draw_adaptation
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.decision.promote import roll_back
from retrain_assets.steps.decision.train import Output
from retrain_assets.steps.inspect.report import render_report, report
from retrain_assets.steps.inspect.status import status
from retrain_assets.steps.monitoring import adapt, members
from retrain_assets_tests.world import MODEL, World, key, new_world

TURN, SECOND, LAST, DELAY = 17, 30, 34, 1
CHANGES = {"adapt": "shadow", "labels": {"delay": DELAY}, "refit": False}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose law has turned and whose versions have followed."""
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("lived"), instance, **CHANGES)
        world.land(*range(TURN))
        world.settle()
        for first, last in ((TURN, SECOND), (SECOND, LAST)):
            world.land(*range(first, last), slope=-2.0)
            world.settle()
        yield world


@pytest.fixture
def copy(lived: World, tmp_path: Path, instance: dg.DagsterInstance) -> World:
    shutil.copytree(lived.root, tmp_path / "copy")
    return new_world(tmp_path / "copy", instance, **CHANGES)


def table(world: World, name: str = "adaptation") -> pl.DataFrame:
    rows = world.storage.tables.scan(f"churn/{name}").collect()
    return rows.sort("_landing_partition", maintain_order=True)


def test_each_partition_with_final_labels_has_a_state_and_losses(lived: World) -> None:
    rows, history = table(lived), lived.state.ledger.read()
    first = history.rows[0].seen_through
    mature = [item for item in lived.state.mature() if item > first]
    assert rows["_landing_partition"].to_list() == mature
    assert mature[-1] == key(LAST - 1 - DELAY)
    assert rows["rows"].unique().to_list() == [120]
    assert [row.action for row in history.rows] == ["promote", "promote"]
    assert set(rows["members"]) == {"[1]", "[2, 1]"}
    for row in rows.iter_rows(named=True):
        versions = [item.version for item in history.members_at(row["_landing_partition"])]
        assert json.loads(row["members"]) == versions
        assert versions[0] == history.production_at(row["_landing_partition"]).version
    weights = rows.select(pl.sum_horizontal(adapt.WEIGHTS)).to_series().to_numpy()
    assert weights == pytest.approx(np.ones(len(rows)))
    assert [read_state(text).partitions for text in rows["state"]] == list(range(1, len(rows) + 1))


def test_the_loss_of_the_newest_is_what_monitoring_measured(lived: World) -> None:
    measured = table(lived, "performance").filter(role="performance", metric="log_loss")
    rows = table(lived).join(measured, on="_landing_partition")
    assert rows.height == table(lived).height
    assert rows["loss_newest"].to_numpy() == pytest.approx(rows["value"].to_numpy(), rel=1e-9)


def test_nothing_is_made_again_without_a_change(lived: World) -> None:
    version = lived.storage.tables.version("churn/adaptation")
    result = adapt.adapt_partitions(lived.state, "again")
    assert result.partitions == ()
    assert lived.storage.tables.version("churn/adaptation") == version


def test_states_are_made_again_bit_for_bit_and_older_versions_predict_once(
    copy: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = table(copy), []
    shutil.rmtree(copy.root / "delta" / "churn" / "adaptation")
    monkeypatch.setattr(members, "predict", lambda *_, **__: calls.append(1))
    adapt.adapt_partitions(copy.state, "again")
    assert table(copy).equals(before)
    assert calls == []


def test_a_corrected_partition_changes_the_states_from_there_on(copy: World) -> None:
    before = table(copy)
    corrected = before["_landing_partition"][3]
    number = next(number for number in range(LAST) if key(number) == corrected)
    copy.land(number, slope=0.5)
    copy.settle()
    after = table(copy)
    same = before["state"] == after["state"]
    assert same.to_list() == [True] * 3 + [False] * (len(before) - 3)
    assert after["_landing_partition"].to_list() == before["_landing_partition"].to_list()


def test_members_that_know_other_classes_are_put_in_the_columns_of_the_newest() -> None:
    newest = Output(None, np.array([[0.2, 0.8], [0.6, 0.4]]), ["a", "b"])
    older = Output(None, np.array([[0.1, 0.3, 0.6], [0.5, 0.2, 0.3]]), ["b", "a", "c"])
    inputs = members.stack_outputs([newest, older], np.array(["b", "c"]), pl.Series([1, 2]))
    assert inputs.outputs.shape == (2, 5, 2)
    assert inputs.outputs[0, :3].tolist() == [[0.2, 0.8], [0.3, 0.1], [0.3, 0.1]]
    assert (inputs.labels.tolist(), inputs.classes) == ([1, -1], ("a", "b"))
    assert inputs.weights is not None
    assert inputs.weights.tolist() == [1.0, 2.0]


def test_a_version_with_a_new_class_begins_anew(lived: World) -> None:
    spec = ModelSpec.model_validate(MODEL | {"target": MODEL["target"] | {"kind": "multiclass"}})
    chain = adapt.Chain(replace(lived.state, spec=spec))
    outputs = np.full((4, 5, 3), 1 / 3)
    three = members.Inputs(outputs, np.array([0, 1, 2, 0]), None, ("a", "b", "c"))
    chain.move("1", [], three)
    chain.move("2", ["1"], three)
    assert [state.partitions for state in chain.states.values()] == [1, 2]
    two = members.Inputs(outputs[:, :, :2], np.array([0, 1, 1, 0]), None, ("a", "b"))
    chain.move("3", ["1", "2"], two)
    assert chain.newest is not None
    assert (chain.newest.partitions, chain.newest.classes) == (1, ("a", "b"))


def test_a_regression_is_scaled_by_its_target_and_labels_that_come_late_serve_an_older_state(
    lived: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = SimpleNamespace(target=pl.Series([0.0, 4.0]))
    monkeypatch.setattr(adapt, "sample", lambda *_: rows)
    target, gate = MODEL["target"] | {"kind": "regression"}, {"metric": "mae"}
    changes = {"target": target, "gate": gate, "triggers": {}, "labels": {"delay": 2}}
    chain = adapt.Chain(replace(lived.state, spec=ModelSpec.model_validate(MODEL | changes)))
    random, arrived = np.random.default_rng(0), list[str]()
    for day in "12345":
        outputs = random.normal(size=(9, 5))
        inputs = members.Inputs(outputs, outputs[:, 0] + 1, None, ())
        served = chain.get_served(arrived, ())
        assert served.partitions == max(0, len(arrived) - 2)
        update = chain.move(day, arrived, inputs)
        assert update.losses is not None
        assert update.losses["newest"] == pytest.approx(1.0)
        arrived.append(day)
    assert chain.newest is not None
    assert (chain.newest.deviation, chain.newest.absolute) == (2.0, True)


def test_status_says_what_the_layer_would_have_brought(lived: World) -> None:
    value = status(lived.state)["adaptation"]
    rows = table(lived)
    assert value["partitions"] == rows.height
    assert value["layer"] == pytest.approx(rows["loss_layer"].mean())
    assert "of the newest version alone" in value["said"]
    assert f"adaptive layer in shadow: {value['said']}." in render_report(report(lived.state))
    off = new_world(lived.root, lived.instance)
    assert status(off.state)["adaptation"] is None


def test_the_picture_is_the_same_each_time(lived: World) -> None:
    rows = adapt.read_losses(lived.state)
    picture = to_png(draw_adaptation(rows))
    assert picture == to_png(draw_adaptation(rows))
    assert len(picture) > 10_000


def test_a_version_that_was_rolled_back_from_is_no_member(copy: World) -> None:
    newest = copy.state.ledger.read().production
    assert newest is not None
    assert newest.previous is not None
    roll_back(copy.state, newest.previous, "a test", "on call")
    versions = [row.version for row in copy.state.ledger.read().members_at("9999")]
    assert newest.version not in versions
    assert versions[0] == newest.previous


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapt": "auto"}, "serving does not follow the adaptive layer yet"),
        (
            {
                "adapt": "shadow",
                "target": MODEL["target"] | {"kind": "regression"},
                "gate": {"metric": "pinball", "quantile": 0.9},
                "triggers": {},
            },
            "and no quantiles",
        ),
    ],
)
def test_what_the_layer_cannot_do_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSpec.model_validate(MODEL | changes)
