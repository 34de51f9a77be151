"""The layer learns in shadow: a state a partition, made again when what it came from changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import dagster as dg
import numpy as np
import polars as pl
import pytest

from retrain_assets.domain.adaptation import service
from retrain_assets.domain.adaptation.layer import predict_layer, read_state
from retrain_assets.reports.monitoring_plots import draw_adaptation
from retrain_assets.specs.model import AdaptSpec, ModelSpec
from retrain_assets.steps.decision import layer as decide_layer
from retrain_assets.steps.decision.promote import DecisionError, roll_back
from retrain_assets.steps.decision.train import Output, predict_sample, sample
from retrain_assets.steps.inspect.lineage import lineage
from retrain_assets.steps.inspect.report import render_report, report
from retrain_assets.steps.inspect.status import describe_layer, overview, status
from retrain_assets.steps.inspect.weeks import compare_weeks
from retrain_assets.steps.monitoring import adapt, members
from retrain_assets.steps.monitoring.in_service import OldStateError, put_under, read_newest
from retrain_assets.steps.upkeep.messages import list_decisions
from retrain_assets.stores.ledger import Ledger
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


def test_each_week_says_what_no_retraining_retraining_and_the_layer_cost(lived: World) -> None:
    weeks, losses = compare_weeks(lived.state), adapt.read_losses(lived.state)
    assert [week["from"] for week in weeks] == losses["_landing_partition"].to_list()[::7]
    first, last = weeks[0], weeks[-1]
    for name, column in (("retraining", "loss_newest"), ("layer", "loss_layer")):
        assert first[name] == pytest.approx(losses[column][:7].mean())
    assert first["never"] == pytest.approx(first["retraining"], rel=1e-9)
    assert last["never"] > last["retraining"] + 0.1, "the law has turned"
    history = lived.state.ledger.read()
    assert history.production is not None
    refused = replace(history.production, action="hold")  # a candidate before the first promotion
    with patch.object(Ledger, "read", return_value=replace(history, rows=(refused, *history.rows))):
        assert compare_weeks(lived.state) == weeks


def test_the_picture_names_the_heads_and_is_the_same_each_time(lived: World) -> None:
    rows = adapt.read_losses(lived.state)
    picture = draw_adaptation(rows).content
    assert picture == draw_adaptation(rows).content
    heads = [name for name in rows.columns if name.startswith("weight_")]
    assert heads
    assert all(f">{head[7:].replace('_', ' ')}<" in picture for head in heads)
    assert f"on {rows.height} partitions through" in picture


def test_a_version_that_was_rolled_back_from_is_no_member(copy: World) -> None:
    newest = copy.state.ledger.read().production
    assert newest is not None
    assert newest.previous is not None
    roll_back(copy.state, newest.previous, "a test", "on call")
    versions = [row.version for row in copy.state.ledger.read().members_at("9999")]
    assert newest.version not in versions
    assert versions[0] == newest.previous


AUTO = CHANGES | {"adapt": "auto"}


@pytest.fixture(scope="module")
def serving(lived: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The same world where the layer has been let in, and has served three more days."""
    root = tmp_path_factory.mktemp("serving") / "root"
    shutil.copytree(lived.root, root)
    with dg.DagsterInstance.ephemeral() as instance, pytest.MonkeyPatch.context() as patch:
        world = new_world(root, instance, **AUTO)
        patch.setattr(service, "NEEDED", 0.0)
        row = decide_layer.act(world.state, "run")
        assert row is not None
        assert (row.action, row.seen_through) == ("adapt", key(LAST - 1))
        patch.undo()
        world.land(*range(LAST, LAST + 3), slope=-1.0)
        world.settle()
        yield world


def test_a_day_is_predicted_by_the_state_that_was_to_serve_it(serving: World) -> None:
    rows, states = table(serving, "predictions"), table(serving)
    rows = rows.filter(pl.col("_landing_partition") >= key(LAST))
    assert rows["prediction"].equals(rows["adapted"])
    assert (rows["prediction"] != rows["newest"]).all()
    for place, part in enumerate(rows.partition_by("_landing_partition", maintain_order=True)):
        name = key(LAST + place - 1 - DELAY)
        assert part["layer_state"].unique().to_list() == [name]
        (text,) = states.filter(pl.col("_landing_partition") == name)["state"]
        older = table(serving, "member_predictions").join(
            part, on=["_landing_partition", "_key"], how="semi", maintain_order="left"
        )
        members = [part["newest"].to_numpy(), older["prediction"].to_numpy()]
        outputs = np.stack([members[0], *[members[1]] * 4], axis=1)
        assert predict_layer(read_state(text), outputs).tolist() == part["prediction"].to_list()
    before = table(serving, "predictions").filter(pl.col("_landing_partition") < key(LAST))
    assert before["prediction"].equals(before["newest"].fill_null(before["prediction"]))


def test_what_is_measured_is_what_was_served(serving: World) -> None:
    served = pl.col("_landing_partition") >= key(LAST)
    measured = table(serving, "performance").filter(served, role="performance", metric="log_loss")
    rows = table(serving).join(measured, on="_landing_partition")
    assert rows.height == 3 - DELAY
    assert rows["loss_layer"].to_numpy() == pytest.approx(rows["value"].to_numpy(), rel=1e-9)
    assert (rows["loss_newest"] - rows["value"]).abs().min() > 1e-4
    value = status(serving.state)["adaptation"]
    assert (value["since"], value["waits"]) == (key(LAST - 1), False)
    assert "in service since" in describe_layer(value)


def test_a_prediction_names_members_state_and_what_it_was_made_from(serving: World) -> None:
    row = table(serving, "predictions").filter(_landing_partition=key(LAST)).row(0, named=True)
    layer = lineage(serving.state, key(LAST), row["_key"])["layer"]
    assert layer["served"] is True
    assert (layer["members"], layer["state"]) == ([2, 1], row["layer_state"])
    (made_from,) = table(serving).filter(_landing_partition=row["layer_state"])["made_from"]
    assert layer["state_made_from"] == made_from


def test_a_state_is_built_again_bit_for_bit(serving: World) -> None:
    stored, rebuilt = adapt.rebuild_state(serving.state, key(LAST))
    assert stored == rebuilt
    assert read_state(stored).partitions > 10
    with pytest.raises(LookupError, match="no state of the adaptive layer is stored after '1999'"):
        adapt.rebuild_state(serving.state, "1999")


def test_what_is_judged_is_judged_with_the_layer_under_it(serving: World) -> None:
    state, name = serving.state, key(LAST + 1)
    rows = sample(state, [name])
    production = state.ledger.read().production
    assert production is not None
    newest = predict_sample(state, state.registry.load(production.version, production.sha256), rows)
    served = put_under(state, rows.features, rows.partitions, newest, {production.version})
    stored = table(serving, "predictions").filter(_landing_partition=name)
    assert served.values.tolist() == stored.sort("_key")["prediction"].to_list()
    off = replace(state, spec=state.spec.model_copy(update={"adapt": "shadow"}))
    assert put_under(off, rows.features, rows.partitions, newest) is newest


def test_the_layer_leaves_where_it_is_worse_or_the_yaml_says_so(
    serving: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(serving.root, tmp_path / "copy")
    world = new_world(tmp_path / "copy", serving.instance, **AUTO)
    assert decide_layer.act(world.state, "run") is None
    monkeypatch.setattr(service, "NEEDED", 0.0)
    row = decide_layer.act(world.state, "run")
    assert row is not None
    assert (row.action, row.version, row.by) == ("withdraw", 2, "run run")
    assert "evidence that it is worse" in row.reason
    row = decide_layer.act(world.state, "run")
    assert row is not None
    assert row.action == "adapt"
    shadow = new_world(world.root, serving.instance, **CHANGES)
    row = decide_layer.act(shadow.state, "run")
    assert row is not None
    assert (row.action, row.reason) == ("withdraw", "the YAML has `adapt: shadow`")
    assert decide_layer.act(shadow.state, "run") is None
    events = [event.kind for event in list_decisions(world.state)]
    assert events[-4:] == ["adaptation"] * 4


def test_a_person_approves_the_first_entry(copy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = new_world(copy.root, copy.instance, **AUTO, approval="manual")
    with pytest.raises(DecisionError, match="does not wait for approval"):
        decide_layer.approve_layer(world.state, "it helps", "on call")
    monkeypatch.setattr(service, "NEEDED", 0.0)
    assert decide_layer.act(world.state, "run") is None
    (waiting,) = overview(world.state)["waiting"]
    assert waiting["command"] == "retrain approve churn --layer --by NAME --reason WHY"
    row = decide_layer.approve_layer(world.state, "it helps", "on call")
    assert (row.action, row.by) == ("adapt", "on call")
    assert row.reason.startswith("it helps; on ")


def test_a_state_that_is_too_old_serves_nothing(serving: World) -> None:
    newest = read_newest(serving.state, serving.state.ledger.read())
    assert newest is not None
    assert (newest.name, [row.version for row in newest.members]) == (key(LAST + 1), [2, 1])
    spec = serving.spec.model_copy(update={"adapt": AdaptSpec(max_age=1)})
    state = replace(serving.state, spec=spec)
    later = {**state.sources(), key(LAST + 3): "x", key(LAST + 4): "x"}
    aged = SimpleNamespace(**vars(state) | {n: getattr(state, n) for n in ("ledger", "stored")})
    aged.sources = lambda: later
    with pytest.raises(OldStateError, match="the labels of 2 more partitions are final"):
        read_newest(aged, state.ledger.read())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapt": {"mode": "auto", "members": 0}}, "greater than or equal to 1"),
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
