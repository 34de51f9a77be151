"""Clients of other servers need a new address only; OpenAPI tells the truth."""

from __future__ import annotations

import io
import json
from datetime import datetime
from typing import Any

import httpx
import polars as pl
import pytest
import schemathesis
from hypothesis import Phase, given, settings
from pydantic_core import to_json
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from retrain_assets.domain.data.values import moment
from retrain_assets.serving.http.formats import ARROW, read_arrow
from retrain_assets.serving.scoring.request import Contract, RequestError
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets_tests.serving.http.test_predict import JSON, as_json, raw_rows
from retrain_assets_tests.serving.site import COLUMNS, READ, ROW, Site, post
from retrain_assets_tests.world import DATASET


@pytest.fixture(scope="module")
def rows(site: Site) -> pl.DataFrame:
    return raw_rows(site, 15).head(20)


@pytest.fixture(scope="module")
def answered(client: httpx.Client, rows: pl.DataFrame) -> list[float]:
    return [row["prediction"] for row in post(client, *as_json(rows)).json()["predictions"]]


def features(site: Site, rows: pl.DataFrame) -> pl.DataFrame:
    serving = site.service().models["churn"].serving
    assert serving is not None
    return serving.maker.features(rows.to_dicts())


def invoked(client: httpx.Client, body: Any, path: str = "/invocations") -> httpx.Response:
    return client.post(path, content=json.dumps(body), headers=JSON)


@pytest.mark.parametrize("path", ["/invocations", "/models/churn/invocations"])
@pytest.mark.parametrize("form", ["split", "records", "inputs", "instances"])
def test_mlflows_forms_give_what_its_own_model_gives(
    site: Site, client: httpx.Client, rows: pl.DataFrame, form: str, path: str
) -> None:
    made = features(site, rows)
    bodies = {
        "split": {
            "dataframe_split": {"columns": made.columns, "data": [list(r) for r in made.rows()]}
        },
        "records": {"dataframe_records": made.to_dicts()},
        "inputs": {"inputs": made.to_dict(as_series=False)},
        "instances": {"instances": made.to_dicts()},
    }
    found = invoked(client, bodies[form], path)
    assert found.status_code == 200, found.text
    row = site.state.ledger.read().production
    assert row is not None
    pipeline = site.storage.registry("churn").load(row.version, row.sha256)
    assert found.json()["predictions"] == pipeline.predict(made).tolist()
    assert found.headers["x-model-version"] == "1"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"dataframe_records": []}, 422),
        ({"dataframe_records": [{"x": 1.0}]}, 422),
        ({"inputs": {"x": [1.0]}}, 422),
        ({"dataframe_split": {"columns": ["x"], "data": [["1"]]}}, 422),
        ({"dataframe_records": [{"x": 1}], "inputs": {"x": [1]}}, 422),
        ([1], 422),
    ],
)
def test_what_is_none_of_mlflows_forms_is_refused(
    client: httpx.Client, body: Any, status: int
) -> None:
    assert invoked(client, body).status_code == status


FULL = {"x": 0.5, "plan": "plus", "price": 2.5, "load": 4.0, "side": "up, or not", "weekday": 1}
ODD = ["true", "NaN", "Infinity", "1e999", "1" + 400 * "0", '"1"', "[1]", "{}"]


@pytest.mark.parametrize("form", ["split", "records", "inputs", "instances"])
@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_number_is_refused_in_mlflows_forms_too(
    client: httpx.Client, form: str, odd: str
) -> None:
    rows = [FULL, FULL | {"price": "ODD"}]
    body = {
        "split": {
            "dataframe_split": {"columns": [*FULL], "data": [[*row.values()] for row in rows]}
        },
        "records": {"dataframe_records": rows},
        "inputs": {"inputs": {name: [row[name] for row in rows] for name in FULL}},
        "instances": {"instances": rows},
    }[form]
    content = json.dumps(body).replace('"ODD"', odd)
    found = client.post("/invocations", content=content, headers=JSON)
    assert found.status_code == 422, found.text
    (fault,) = found.json()["error"]["rows"]
    assert (fault["row"], fault["column"]) == (1, "price")
    sound = client.post("/invocations", content=content.replace(odd, "null"), headers=JSON)
    assert sound.status_code == 200, sound.text


@pytest.mark.parametrize(
    ("columns", "more"), [([*FULL], [1.0]), ([*FULL, "x"], [1.0]), ([*FULL, "y"], [])]
)
def test_a_split_names_each_value_once(
    client: httpx.Client, columns: list[str], more: list[float]
) -> None:
    body = {"dataframe_split": {"columns": columns, "data": [[*FULL.values(), *more]]}}
    assert invoked(client, body).status_code == 422


def tensors(rows: pl.DataFrame) -> list[dict[str, Any]]:
    kinds = {"id": "INT64", "x": "FP64"}
    found = as_json(rows)
    return [
        {
            "name": name,
            "shape": [rows.height],
            "datatype": kinds.get(name, "BYTES"),
            "data": [row[name] for row in found],
        }
        for name in rows.columns
    ]


def test_the_open_inference_protocol_is_spoken(
    client: httpx.Client, rows: pl.DataFrame, answered: list[float]
) -> None:
    assert client.get("/v2").json()["name"] == "retrain_assets"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json()["ready"] is True
    assert client.get("/v2/models/churn/ready").json() == {"name": "churn", "ready": True}
    known = client.get("/v2/models/churn").json()
    assert known["versions"] == ["1"]
    assert {column["name"]: column["datatype"] for column in known["inputs"]} == {
        "day": "BYTES", "at": "BYTES", "id": "INT64", "x": "FP64", "plan": "BYTES",
    }  # fmt: skip
    body = {"id": "mine", "inputs": tensors(rows), "outputs": [{"name": "prediction"}]}
    found = invoked(client, body, "/v2/models/churn/infer").json()
    assert (found["model_name"], found["model_version"], found["id"]) == ("churn", "1", "mine")
    prediction, ids = found["outputs"]
    assert prediction == {
        "name": "prediction", "shape": [20], "datatype": "FP64", "data": answered,
    }  # fmt: skip
    assert len(set(ids["data"])) == 20


@pytest.mark.parametrize(
    "change", ["short", "twice", "unknown", "type", "none", "datatype", "whole", "shape"]
)
def test_tensors_that_are_no_rows_are_refused(
    client: httpx.Client, rows: pl.DataFrame, change: str
) -> None:
    inputs = tensors(rows)
    if change == "short":
        inputs[0]["data"] = inputs[0]["data"][1:]
    elif change == "twice":
        inputs.append(inputs[0])
    elif change == "unknown":
        inputs[0]["name"] = "days"
    elif change == "type":
        inputs[0]["data"] = [1] * 20
    elif change == "datatype":
        inputs[0]["datatype"] = "FP64"
    elif change == "whole":
        next(found for found in inputs if found["name"] == "x")["datatype"] = "INT64"
    elif change == "shape":
        inputs[0]["shape"] = [20, 3]
    else:
        inputs = []
    assert invoked(client, {"inputs": inputs}, "/v2/models/churn/infer").status_code == 422


def arrow(client: httpx.Client, content: bytes) -> httpx.Response:
    return client.post("/models/churn/predict", content=content, headers={"content-type": ARROW})


def stream(rows: pl.DataFrame, **options: Any) -> bytes:
    return rows.write_ipc_stream(None, **options).getvalue()


def test_arrow_gives_what_json_gives(
    client: httpx.Client, rows: pl.DataFrame, answered: list[float]
) -> None:
    plan = pl.col("plan").cast(pl.Categorical)
    for sent in (rows, rows.with_columns(plan, pl.col("at").dt.replace_time_zone(None))):
        found = arrow(client, stream(sent))
        assert found.status_code == 200, found.text
        assert found.headers["x-model-version"] == "1"
        frame = pl.read_ipc_stream(io.BytesIO(found.content))
        assert frame["prediction"].to_list() == answered
        assert frame["id"].n_unique() == 20


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"x": pl.lit(101.0)}, "x"),
        ({"x": pl.lit(float("nan"))}, "x"),
        ({"x": pl.lit("1")}, "x"),
        ({"id": pl.lit(1.5)}, "id"),
        ({"id": pl.lit(value=True)}, "id"),
        ({"id": pl.lit(2**63, pl.UInt64)}, "id"),
        ({"plan": pl.lit(None, pl.String)}, "plan"),
        ({"plan": pl.lit(None)}, "plan"),
        ({"day": pl.lit("2020-01-01")}, "day"),
        ({"at": pl.lit(-(2**63)).cast(pl.Datetime("us", "UTC"))}, "at"),
        ({"at": pl.lit(253_402_300_800 * 10**6).cast(pl.Datetime("us", "UTC"))}, "at"),
        ({"more": pl.lit(1)}, "more"),
    ],
)
def test_arrow_is_held_against_the_contract_too(
    client: httpx.Client, rows: pl.DataFrame, change: dict[str, pl.Expr], column: str
) -> None:
    refused = arrow(client, stream(rows.with_columns(**change)))
    assert refused.status_code == 422
    assert column in refused.json()["error"]["message"]


NEW_YORK = {"by": "day", "column": "day", "timezone": "America/New_York", "start": "2013-01-01"}


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        ("2013-03-10T02:30:00", None),  # the clock skips it
        ("2013-11-03T01:30:00", None),  # and comes by it twice
        ("2013-03-10T03:30:00", "2013-03-10T07:30:00+00:00"),
    ],
)
def test_a_local_hour_that_is_none_or_two_is_refused_as_it_is_in_files(
    local: str, utc: str | None
) -> None:
    dataset = DATASET | {"columns": COLUMNS, "partition": NEW_YORK, "read": READ}
    contract = Contract(DatasetSpec.model_validate(dataset), 100)
    row = ROW | {"at": local}
    body, days = to_json({"rows": [row]}), pl.col("day").str.to_date()
    many = to_json({"rows": [row] * 70})
    framed = stream(
        pl.DataFrame([row]).with_columns(days, pl.lit(datetime.fromisoformat(local)).alias("at"))
    )
    in_file = moment(pl.lit(local), "datetime", "%Y-%m-%dT%H:%M:%S", "America/New_York")
    wanted = pl.select(in_file).item()
    assert (wanted and wanted.isoformat()) == utc
    for ask in (
        lambda: contract.read(body)[0]["at"],
        lambda: contract.read(many)["at"][69],
        lambda: read_arrow(framed, contract)["at"][0],
    ):
        if utc is None:
            with pytest.raises(RequestError) as refused:
                ask()
            (fault,) = refused.value.faults
            assert (fault["row"], fault["column"]) == (0, "at")
        else:
            assert ask() == wanted


def test_what_is_no_arrow_or_is_packed_is_refused(client: httpx.Client, rows: pl.DataFrame) -> None:
    sound = stream(rows)
    for broken in (b"", b"{}", sound[:100], sound[: len(sound) // 2], b"\xff" * 64):
        assert arrow(client, broken).status_code in (400, 422)
    packed = stream(rows, compression="zstd")
    assert arrow(client, packed).status_code == 415
    for place in range(0, len(sound), 29):
        harmed = bytearray(sound)
        harmed[place] ^= 0xFF
        assert arrow(client, bytes(harmed)).status_code in (200, 400, 415, 422)


def test_openapi_shows_the_columns_of_the_model_with_a_stored_row(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    content = document["paths"]["/models/churn/predict"]["post"]["requestBody"]["content"]
    shown = content["application/json"]
    row = shown["schema"]["properties"]["rows"]["items"]
    assert row["required"] == ["day", "at", "id", "x", "plan"]
    bounds = row["properties"]["x"]["anyOf"][0]
    assert (bounds["minimum"], bounds["maximum"]) == (-100.0, 100.0)
    assert client.post(
        "/models/churn/predict", content=json.dumps(shown["example"]), headers=JSON
    ).is_success


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> Any:
    return schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_service_keeps_to_its_openapi_whatever_is_sent(
    document: Any, mode: GenerationMode
) -> None:
    tried: set[str] = set()
    for found in document.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and operation.method != "post":
            continue  # nothing is sent

        @settings(max_examples=25, phases=[Phase.generate], database=None, deadline=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def holds(case: Any) -> None:
            # Not all that JSON schema allows is a row: a date has a year that there was.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])
            tried.add(case.path)

        holds()
    assert "/models/churn/predict" in tried
