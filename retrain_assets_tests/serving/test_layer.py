"""The service answers with the adaptive layer while it serves, by the same bits at every door."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import skops.io

from retrain_assets.domain.adaptation import service as test_of_layer
from retrain_assets.domain.adaptation.layer import predict_layer
from retrain_assets.serving.http.app import Service
from retrain_assets.serving.scoring.score import predict_columns
from retrain_assets.specs.adapt import AdaptSpec
from retrain_assets.specs.features import Kind
from retrain_assets.steps.decision import export, layer
from retrain_assets.steps.decision.judge import store_expected_output
from retrain_assets.steps.decision.train import predict_sample, sample
from retrain_assets.steps.features.build import read_features
from retrain_assets.steps.monitoring.adapt import adapt_partitions
from retrain_assets.steps.monitoring.in_service import Newest, put_under
from retrain_assets.steps.monitoring.predict import score_partitions
from retrain_assets_tests.domain.adaptation.test_layer import KINDS, MEMBERS, partition, states
from retrain_assets_tests.serving.http.test_predict import JSON, as_json, raw_rows
from retrain_assets_tests.serving.site import Site, listening, new_site, post, post_arrow
from retrain_assets_tests.steps.decision.test_export import read_matrix
from retrain_assets_tests.world import key

LAST = 19


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Three versions in turn, and a layer that serves from the next day on."""
    site = new_site(tmp_path_factory.mktemp("adapted"), adapt={"mode": "auto", "max_age": 1})
    expect(site, 1)
    expect(site, site.decide(*range(4, 14)).version)
    arrive(site, 16, 17)
    expect(site, site.decide(*range(6, 16)).version)
    arrive(site, 18, LAST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_of_layer, "NEEDED", 0.0)
        assert layer.act(site.state, "test") is not None
    return site


def expect(site: Site, version: int) -> None:
    """Store what a version is expected to predict, as the gate would have."""
    state, rows = site.state, sample(site.state, [key(14), key(15)])
    registered = state.registry.version(version)
    pipeline = state.registry.load(version, registered.sha256)
    store_expected_output(state, registered, predict_sample(state, pipeline, rows), rows)


def arrive(site: Site, *numbers: int) -> None:
    """Let days arrive whose law has turned, and move the layer by them."""
    site.land(*numbers, slope=-1.0)
    site.build(*numbers)
    adapt_partitions(site.state, "test")


@pytest.fixture(scope="module")
def service(adapted: Site) -> Service:
    return adapted.service()


@pytest.fixture(scope="module")
def door(service: Service) -> Iterator[httpx.Client]:
    with listening(service) as opened:
        yield opened


def test_every_door_gives_the_same_bits(
    adapted: Site, service: Service, door: httpx.Client
) -> None:
    rows = raw_rows(adapted, 15).head(30)
    answer = post(door, *as_json(rows)).json()
    assert (answer["version"], answer["state"]) == (3, key(LAST))
    values = [row["prediction"] for row in answer["predictions"]]
    alone = [post(door, row).json()["predictions"][0]["prediction"] for row in as_json(rows)[:5]]
    assert alone == values[:5]
    arrow = post_arrow(door, rows)
    assert arrow.headers["x-model-state"] == key(LAST)
    assert pl.read_ipc_stream(arrow.content)["prediction"].to_list() == values
    serving = service.models["churn"].serving
    assert serving is not None
    made = serving.maker.features(rows.to_dicts())
    version = serving.version
    newest = predict_columns(version, adapted.state, made.to_dict(as_series=False)).output
    assert (newest != np.array(values)).all()
    body = {"dataframe_split": {"columns": made.columns, "data": [list(r) for r in made.rows()]}}
    invoked = door.post("/invocations", content=json.dumps(body), headers=JSON)
    assert invoked.headers["x-model-state"] == key(LAST)
    assert invoked.json()["predictions"] == [int(value > 0.5) for value in values]
    inferred = door.post("/v2/models/churn/infer", json=tensors(as_json(rows))).json()
    assert inferred["parameters"] == {"state": key(LAST)}
    assert inferred["outputs"][0]["data"] == values
    described = door.get("/models").json()["models"][0]["layer"]
    assert described == {"state": key(LAST), "members": [3, 2, 1]}


def tensors(rows: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = {"id": "INT64", "x": "FP64"}
    return {
        "inputs": [
            {
                "name": name,
                "shape": [len(rows)],
                "datatype": kinds.get(name, "BYTES"),
                "data": [row[name] for row in rows],
            }
            for name in rows[0]
        ]
    }


def test_a_batch_command_gives_what_the_service_gives(adapted: Site, door: httpx.Client) -> None:
    ((_, scored),) = score_partitions(adapted.state, [key(15)], None)
    rows = raw_rows(adapted, 15)
    answer = post(door, *as_json(rows)).json()["predictions"]
    by_id = {
        f"{key(15)}|{row['id']}": value["prediction"]
        for row, value in zip(as_json(rows), answer, strict=True)
    }
    expected = np.array([by_id[name] for name in scored["_key"]])
    np.testing.assert_allclose(scored["prediction"].to_numpy(), expected, atol=1e-12)
    assert scored["layer_state"].unique().to_list() == [key(LAST)]
    ((_, alone),) = score_partitions(adapted.state, [key(15)], 3)
    assert "layer_state" not in alone.columns
    assert (alone["prediction"] != scored["prediction"]).all()
    four = adapted.state.spec.model_copy(update={"adapt": AdaptSpec(members=4, max_age=1)})
    ((_, back),) = score_partitions(replace(adapted.state, spec=four), [key(15)], None)
    assert back["prediction"].equals(alone["prediction"]), "the state is that of five members"
    assert back["layer_state"].null_count() == back.height


def serve_by_readme(folder: Path, outputs: list[np.ndarray], readme: str) -> np.ndarray:
    """What the code of the exported README serves, which imports numpy only."""
    code = readme.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace("layer.json", str(folder / "layer.json")), names)  # noqa: S102 written here
    return np.asarray(names["serve"](outputs))


def test_what_is_exported_predicts_the_same_without_this_platform(
    adapted: Site, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    value = export.export(adapted.state, folder)
    assert value == {"model": "churn", "state": key(LAST), "members": [3, 2, 1]}
    features = read_features(adapted.state, [key(15)])
    outputs = []
    for version in value["members"]:
        matrix = read_matrix(folder / str(version), features)
        file = folder / str(version) / "model.skops"
        types = skops.io.get_untrusted_types(file=file)
        assert not [name for name in types if "retrain" in name]
        outputs.append(skops.io.load(file, trusted=types).predict_proba(matrix)[:, 1])
    served = serve_by_readme(folder, outputs, (folder / "README.md").read_text())
    ((_, scored),) = score_partitions(adapted.state, [key(15)], None)
    by_key = dict(zip(features["_key"], served, strict=True))
    expected = [by_key[name] for name in scored["_key"]]
    np.testing.assert_allclose(scored["prediction"].to_numpy(), expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="out exists: name a new folder"):
        export.export(adapted.state, folder)


def test_the_export_has_the_members_that_answer_and_no_others(
    adapted: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = adapted.state.spec
    four = spec.model_copy(update={"adapt": AdaptSpec(members=4, max_age=1)})
    value = export.export(replace(adapted.state, spec=four), tmp_path / "alone")
    assert (value["state"], value["members"]) == (None, [3]), "the state is that of five members"
    missing = iter([["a feature"], []])
    monkeypatch.setattr(export.train, "list_missing_features", lambda *_: next(missing))
    value = export.export(adapted.state, tmp_path / "two")
    facts = json.loads((tmp_path / "two" / "layer.json").read_text())
    assert (facts["members"], facts["roles"]) == ([3, 1], [0, 1, 1, 1, 1])
    assert not (tmp_path / "two" / "2").exists()
    assert value["state"] == key(LAST)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_formula_is_the_one_that_serves(kind: Kind, tmp_path: Path) -> None:
    *_, state = states(kind, 4)
    outputs, _ = partition(kind, 7)
    outputs[3, 1], outputs[5] = np.nan, outputs[5] * 1e-9
    model: Any = SimpleNamespace(spec=SimpleNamespace(target=SimpleNamespace(kind=kind)))
    members: Any = (None,) * MEMBERS
    facts = export._describe(model, Newest("", state, members))
    (tmp_path / "layer.json").write_text(json.dumps(facts))
    served = serve_by_readme(tmp_path, [*outputs.swapaxes(0, 1)], export.README)
    np.testing.assert_allclose(served, predict_layer(state, outputs), rtol=1e-12, atol=1e-12)


def test_each_row_of_the_log_names_version_and_state(
    adapted: Site, service: Service, door: httpx.Client
) -> None:
    rows = raw_rows(adapted, 15).head(3)
    ids = [post(door, *as_json(rows)).json()["predictions"][0]["id"]]
    ids.append(pl.read_ipc_stream(post_arrow(door, rows).content)["id"][0])
    service.log.flush()
    logged = adapted.storage.tables.scan("churn/prediction_log").collect()
    for name in ids:
        row = logged.filter(_id=name).row(0, named=True)
        assert (row["_version"], row["_state"]) == (3, key(LAST))


def test_a_member_that_gives_no_number_leaves_the_newest_alone(
    adapted: Site, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = service.models["churn"].serving
    assert serving is not None
    assert serving.layer is not None
    features = serving.maker.features(serving.maker.stored_rows(2)).to_dict(as_series=False)
    inputs = serving.version, adapted.state, features
    older = serving.layer.older[0]
    assert older.quick is not None
    values = np.array([0.5, np.nan])
    monkeypatch.setattr(older.quick, "predict", lambda *_, **__: values)
    scored = predict_columns(*inputs, serving.layer)
    alone = predict_columns(*inputs)
    assert scored.output[0] != alone.output[0]
    assert scored.output[1] == alone.output[1]
    assert scored.states == [key(LAST), None]
    assert scored.part(1, 2).states == [None]


def test_a_service_follows_states_versions_and_the_end_of_the_layer(adapted: Site) -> None:
    texts: list[str] = []
    service = adapted.service(texts.append)
    model = service.models["churn"]

    def state() -> str | None:
        model.refresh()
        assert model.serving is not None
        return model.serving.layer and model.serving.layer.newest.name

    assert state() == key(LAST)
    assert "churn: the newest version answers with the adaptive layer" in texts
    arrive(adapted, LAST + 1)
    assert state() == key(LAST + 1)
    row = adapted.decide(*range(8, 18))
    expect(adapted, row.version)
    assert state() == key(LAST + 1)
    assert model.serving is not None
    assert model.serving.version.number == row.version
    assert model.serving.layer is not None
    assert [member.number for member in model.serving.layer.older] == [3, 2, 1]
    for number in (LAST + 2, LAST + 3):  # nothing moves the layer
        adapted.land(number)
        adapted.build(number)
    assert state() is None
    assert "2 more partitions are final (adapt.max_age is 1)" in model.troubles["layer"]
    assert state() is None
    assert "layer" in model.troubles, "it is told for as long as it lasts"
    arrive(adapted, LAST + 4)
    assert state() == key(LAST + 4)
    assert "layer" not in model.troubles
    history = adapted.state.ledger.read()
    assert layer._record(adapted.state, history, "a test", "on call") is not None
    assert state() is None
    assert model.troubles == {}
    assert put_under(adapted.state, pl.DataFrame(), pl.Series([]), output := object()) is output  # type: ignore[arg-type]
