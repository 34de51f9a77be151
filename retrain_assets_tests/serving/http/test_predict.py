"""Raw rows in, predictions out: the same as batch gives, and all that is refused (B40 to B43)."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from retrain_assets.domain.model.estimator import predict
from retrain_assets.serving.http.guard import Limits
from retrain_assets.serving.run import serve
from retrain_assets.serving.scoring import quick_features, score
from retrain_assets.serving.scoring.rows import FeatureMaker, LookupRows
from retrain_assets.steps.features.build import read_features
from retrain_assets_tests.serving.site import (
    COLUMNS,
    PLANS,
    ROW,
    Site,
    listening,
    new_site,
    plans,
    post,
    post_arrow,
    wait_until,
)
from retrain_assets_tests.world import key

PATH = "/models/churn/predict"
PRICE = {"price": {"type": "float"}}
LINEAR = {"class": "sklearn.linear_model.LogisticRegression"}
JSON = {"content-type": "application/json"}


def raw_rows(site: Site, number: int) -> pl.DataFrame:
    """Rows of a day as they landed, in the order of the features table."""
    rows = site.storage.tables.read("customers/dataset", [key(number)])
    named = pl.concat_str(
        pl.col("day").cast(pl.String), pl.col("id").cast(pl.String), separator="|"
    )
    return rows.sort(named).drop("left", "_landing_partition")


def as_json(rows: pl.DataFrame) -> list[dict[str, Any]]:
    times = pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    return rows.with_columns(times, pl.col("day").cast(pl.String)).to_dicts()


@pytest.fixture(scope="module")
def expected(site: Site) -> np.ndarray:
    row = site.state.ledger.read().production
    assert row is not None
    pipeline = site.storage.registry("churn").load(row.version, row.sha256)
    stored = read_features(site.state, [key(15)]).select(site.state.feature_names)
    return predict(pipeline, "binary", stored)


@pytest.mark.parametrize("rows", [1, 7, 120])
def test_predictions_are_those_of_batch(
    site: Site, client: httpx.Client, expected: np.ndarray, rows: int
) -> None:
    answered = post(client, *as_json(raw_rows(site, 15))[:rows])
    assert answered.status_code == 200
    found = answered.json()
    assert (found["model"], found["version"]) == ("churn", 1)
    values = [row["prediction"] for row in found["predictions"]]
    np.testing.assert_allclose(values, expected[:rows], atol=1e-9)
    assert len({row["id"] for row in found["predictions"]}) == rows


def test_both_quick_forms_are_used(client: httpx.Client, site: Site) -> None:
    (described,) = client.get("/models").json()["models"]
    assert "a quick form, within" in described["prediction"]
    serving = site.service().models["churn"].serving
    assert serving is not None
    assert serving.maker.quick is not None


TIMES = ["2020-01-20T09:30:00Z", "2020-01-20T09:30:00", "2020-01-20T23:10:00+13:45", None]


def test_many_rows_are_answered_as_each_alone(client: httpx.Client) -> None:
    known = ["basic", "plus", "none"]
    rows = [
        ROW | {"id": n, "at": TIMES[n % 4], "plan": known[n % 3], "x": n / 7 - 3 if n % 5 else None}
        for n in range(100)
    ]
    alone = [post(client, row).json()["predictions"][0] for row in rows]
    together = post(client, *rows).json()["predictions"]
    for one, other in zip(alone, together, strict=True):
        assert {**one, "id": ""} == {**other, "id": ""}


@pytest.mark.parametrize(
    "wrong",
    [
        {"at": "0001-01-01T00:00:00+10:00"},
        {"at": "9999-12-31T23:00:00-10:00"},
        {"x": 101},
        {"id": 1.5},
    ],
)
def test_a_row_among_many_is_refused_as_it_is_alone(
    client: httpx.Client, wrong: dict[str, Any]
) -> None:
    (fault,) = post(client, ROW | wrong).json()["error"]["rows"]
    refused = post(client, *[ROW] * 70, ROW | wrong)
    assert refused.status_code == 422
    assert refused.json()["error"]["rows"] == [fault | {"row": 70}]


@pytest.mark.parametrize(
    "changes",
    [
        {"estimator": LINEAR},
        {"estimator": {"class": "sklearn.ensemble.RandomForestClassifier"}},
        {
            "features": {"sql": "SELECT plan, avg AS price FROM rows JOIN (SELECT plan AS p, "
                         "MAX(plans_price) AS avg FROM rows GROUP BY plan) s ON plan = p"},
            "lookups": {"plans": {"on": ["plan"]}},
        },
        {
            "features": {"sql": "SELECT x, past FROM rows LEFT JOIN (SELECT plan AS p, AVG(x) AS "
                         "past FROM history GROUP BY plan) h ON plan = p", "history": 2},
            "lookups": {},
        },
    ],
    ids=["linear", "forest", "subquery", "history"],
)  # fmt: skip
def test_other_models_predict_as_in_batch_too(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    site = new_site(tmp_path_factory.mktemp("other"), **changes)
    row = site.state.ledger.read().production
    assert row is not None
    pipeline = site.storage.registry("churn").load(row.version, row.sha256)
    stored = read_features(site.state, [key(15)]).select(site.state.feature_names)
    raw = raw_rows(site, 15)
    with listening(site.service()) as client:
        found = post(client, *as_json(raw)).json()
        framed = pl.read_ipc_stream(io.BytesIO(post_arrow(client, raw).content))
    values = [row["prediction"] for row in found["predictions"]]
    np.testing.assert_allclose(framed["prediction"], values, atol=1e-12)
    np.testing.assert_allclose(values, predict(pipeline, "binary", stored), atol=1e-9)


def test_a_panic_of_polars_is_answered_and_the_next_request_is_served(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(*_: Any) -> None:
        raise pl.exceptions.PanicException("index out of bounds")

    with listening(site.service(limits=Limits(seconds=3))) as client:
        client.headers["connection"] = "close"  # as the service does after what it did not foresee
        with monkeypatch.context() as broken:
            broken.setattr(score, "require_serving", panic)
            for found in (post(client), post_arrow(client, raw_rows(site, 15))):
                assert (found.status_code, found.json()["error"]["code"]) == (500, "failed")
        assert post(client).status_code == 200


def test_what_is_remembered_is_forgotten_without_a_fault(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [ROW | {"x": number / 7} for number in range(8)]
    wanted = [post(client, row).json()["predictions"][0]["prediction"] for row in rows]
    monkeypatch.setattr(quick_features, "MAX_REMEMBERED", 0)
    found = post(client, *rows, ROW | {"x": 5.25})
    assert found.status_code == 200
    assert [row["prediction"] for row in found.json()["predictions"]][:8] == wanted


def test_values_that_features_can_tell_apart_are_remembered_apart(site: Site) -> None:
    features = {"sql": "SELECT CAST(x AS VARCHAR) AS written FROM rows"}
    maker = FeatureMaker(Site(site.root, {"features": features, "lookups": {}}).state, {})
    rows = [maker.stored_rows(1)[0] | {"x": x} for x in (0.0, -0.0, None, 0.0)]
    assert maker.prepare(rows[2:]) is None
    assert maker.quick is not None
    expected = [("0.0",), ("-0.0",), (None,), ("0.0",)]
    assert maker.features(rows).rows() == expected
    assert [*zip(*maker.quick.values(rows), strict=True)] == expected


def test_a_lookup_by_a_derived_column_is_joined_by_polars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COLUMNS, "tier", {"type": "category", "expression": "plan"})
    monkeypatch.setitem(PLANS, "columns", {"tier": PLANS["columns"]["plan"]} | PRICE)
    monkeypatch.setitem(PLANS, "key", ["tier"])
    features = {"sql": "SELECT x, plans_price AS price FROM rows"}
    site = Site(tmp_path, {"features": features, "lookups": {"plans": {"on": ["tier"]}}})
    priced = LookupRows(0, datetime.now(UTC), pl.DataFrame({"tier": ["plus"], "price": [2.5]}))
    maker = FeatureMaker(site.state, {"plans": priced})
    at = datetime(2020, 1, 20, 9, 30, tzinfo=UTC)
    row = ROW | {"day": at.date(), "at": at}
    assert maker.prepare([row]) is not None
    assert maker.quick is None
    assert maker.features([row]).rows() == [(0.5, 2.5)]


def test_a_category_never_seen_is_answered_with_a_flag(client: httpx.Client) -> None:
    (found,) = post(client, ROW | {"plan": "gold"}).json()["predictions"]
    assert found["unseen"] == ["plan"]
    (known,) = post(client).json()["predictions"]
    assert "unseen" not in known


def test_times_without_offset_are_local_to_the_dataset(client: httpx.Client) -> None:
    naive = post(client, ROW | {"at": "2020-01-20T09:30:00"}).json()
    assert (
        naive["predictions"][0]["prediction"] == post(client).json()["predictions"][0]["prediction"]
    )


def without(name: str) -> dict[str, Any]:
    return {column: value for column, value in ROW.items() if column != name}


@pytest.mark.parametrize(
    ("row", "column"),
    [
        (without("x"), "x"),
        (ROW | {"y": 1}, "y"),
        (ROW | {"left": 1}, "left"),
        (ROW | {"id": "1"}, "id"),
        (ROW | {"id": True}, "id"),
        (ROW | {"id": 1.5}, "id"),
        (ROW | {"id": 2**70}, "id"),
        (ROW | {"id": -1}, "id"),
        (ROW | {"x": 101}, "x"),
        (ROW | {"x": False}, "x"),
        (ROW | {"x": float("nan")}, "x"),
        (ROW | {"x": float("inf")}, "x"),
        (ROW | {"plan": None}, "plan"),
        (ROW | {"plan": 3}, "plan"),
        (ROW | {"day": "2020-02-30"}, "day"),
        (ROW | {"day": 18262}, "day"),
        (ROW | {"at": "1579512600"}, "at"),
        (ROW | {"at": "0001-01-01T00:00:00+14:00"}, "at"),
    ],
)
def test_a_row_that_breaks_the_contract_is_named(
    client: httpx.Client, row: dict[str, Any], column: str
) -> None:
    answered = post(client, ROW, row)
    assert answered.status_code == 422
    error = answered.json()["error"]
    assert error["code"] == "invalid_rows"
    assert [(fault["row"], fault["column"]) for fault in error["rows"]] == [(1, column)]


def test_a_number_beyond_all_bounds_is_refused(client: httpx.Client) -> None:
    body = json.dumps({"rows": [ROW]}).replace("0.5", "1e999")
    assert client.post(PATH, content=body, headers=JSON).status_code == 422


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "not_json"),
        (b"{", 400, "not_json"),
        (b"\xff\xfe", 400, "not_json"),
        (b"[" * 100_000, 400, "not_json"),
        (json.dumps({"rows": [ROW]}).replace('"x"', '"id": 1, "x"').encode(), 400, "key_twice"),
        (json.dumps({"rows": [ROW] * 70}).encode()[:-1] + b', "rows": []}', 422, "no_rows"),
        (b'{"rows": []}', 422, "no_rows"),
        (b'{"rows": {}}', 422, "invalid_rows"),
        (b"[]", 422, "invalid_rows"),
        (b"null", 422, "invalid_rows"),
        (b'{"rows": [1]}', 422, "invalid_rows"),
    ],
)
def test_a_body_that_is_no_rows_is_refused(
    client: httpx.Client, body: bytes, status: int, code: str
) -> None:
    answered = client.post(PATH, content=body, headers=JSON)
    assert (answered.status_code, answered.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", None])
def test_another_content_type_is_refused(client: httpx.Client, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    assert client.post(PATH, content=b"{}", headers=headers).status_code == 415


@pytest.mark.parametrize(
    "path", ["/models/nope/predict", "/models/..%2fchurn/predict", "/models/%00/predict", "/nope"]
)
def test_an_unknown_model_or_path_is_not_found(client: httpx.Client, path: str) -> None:
    answered = client.post(path, content=b"{}", headers=JSON)
    assert (answered.status_code, answered.json()["error"]["code"]) == (404, "not_found")


def test_a_lookup_is_refreshed_when_its_table_changes_and_its_age_is_told(tmp_path: Any) -> None:
    priced = {"features": {"sql": "SELECT x, plans_price AS price FROM rows"}, "estimator": LINEAR}
    site = new_site(tmp_path, **priced)
    service = site.service()
    model = service.models["churn"]
    with listening(service) as client:
        before = post(client).json()["predictions"][0]["prediction"]
        (first,) = client.get("/models").json()["models"]
        site.store(site.model.lookups["plans"], plans(plus=9.0, basic=9.0))
        assert model.refresh()
        after = post(client).json()["predictions"][0]["prediction"]
        (second,) = client.get("/models").json()["models"]
    assert before != after
    ages = [found["lookups"]["plans"] for found in (first, second)]
    assert [found["version"] for found in ages] == [0, 1]
    assert all(found["age_seconds"] >= 0 for found in ages)
    assert not model.refresh()


def test_bounds_on_rows_and_bytes(site: Site) -> None:
    service = site.service(limits=Limits(rows=2, body_bytes=5_000))
    with listening(service) as client:
        assert post(client, ROW, ROW).status_code == 200
        assert post(client, ROW, ROW, ROW).json()["error"]["code"] == "too_many_rows"
        large = client.post(PATH, content=b" " * 5_001, headers=JSON)
        chunked = client.post(PATH, content=iter([b" " * 1_000] * 6), headers=JSON)
        zipped = post(client, headers={"content-encoding": "gzip"})
    assert (large.status_code, chunked.status_code, zipped.status_code) == (413, 413, 415)


def test_a_body_that_does_not_come_times_out(site: Site) -> None:
    import socket

    service = site.service(limits=Limits(body_seconds=0.2))
    with listening(service) as client:
        with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as slow:
            slow.sendall(
                b"POST /models/churn/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"
            )
            assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
        assert post(client).status_code == 200


def test_an_answer_that_is_not_found_in_time_is_given_up(site: Site) -> None:
    with listening(site.service(limits=Limits(seconds=0.0))) as client:
        refused = post(client)
        assert (refused.status_code, refused.json()["error"]["code"]) == (504, "too_slow")


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(site: Site) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address alr"):
            serve(site.storage, {}, "127.0.0.1", port, (), print)


def test_keys_are_asked_for_everywhere_but_at_the_probes(site: Site) -> None:
    with listening(site.service(keys=("one", "two"))) as client:
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        for headers in ({}, {"authorization": "Bearer nope"}, {"x-api-key": ""}):
            refused = post(client, headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert client.get("/models", headers=headers).status_code == 401
            assert client.get("/nope", headers=headers).status_code == 401
        for headers in ({"authorization": "Bearer one"}, {"x-api-key": "two"}):
            assert post(client, headers=headers).status_code == 200


def test_more_requests_than_are_taken_at_once_are_told_to_come_back(site: Site) -> None:
    import socket

    with listening(site.service(limits=Limits(concurrency=1))) as client:
        with socket.create_connection(
            (client.base_url.host, client.base_url.port or 0)
        ) as open_one:
            open_one.sendall(
                b"POST /models/churn/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"
            )
            wait_until(lambda: post(client).status_code == 503)
            assert post(client).headers["retry-after"] == "1"
        wait_until(lambda: post(client).status_code == 200)


def test_reasons_are_the_features_that_moved_a_row_most(client: httpx.Client) -> None:
    rows = [ROW, ROW | {"x": -1.1 - 2.2, "plan": "pro", "id": 2}, ROW | {"x": None, "id": 3}]
    answered = client.post(PATH, params={"reasons": 20}, json={"rows": rows}).json()["predictions"]
    effects = [[reason["effect"] for reason in row["reasons"]] for row in answered]
    for values in effects:
        assert values == sorted(values, key=lambda effect: -abs(effect))
    # Between rows, effects add up to the difference of the sums before the link.
    logits = [np.log(row["prediction"] / (1 - row["prediction"])) for row in answered]
    sums = [sum(values) for values in effects]
    np.testing.assert_allclose(np.diff(sums), np.diff(logits), atol=1e-9)
    by_feature = {reason["feature"]: reason for reason in answered[0]["reasons"]}
    assert by_feature["x"]["value"] == 0.5
    assert by_feature["x"]["text"].startswith("how much is used is 0.5, which ")
    other, missing = (
        {reason["feature"]: reason for reason in row["reasons"]}["x"] for row in answered[1:]
    )
    assert other["text"].startswith("how much is used is -3.3, which ")
    assert missing["text"].startswith("how much is used is missing, which ")
    three = client.post(PATH, params={"reasons": 3}, json={"rows": rows}).json()["predictions"]
    assert [row["reasons"] for row in three] == [row["reasons"][:3] for row in answered]
    assert "reasons" not in post(client, ROW).json()["predictions"][0]


@pytest.mark.parametrize("count", ["21", "-1", "x", "²", "1" * 5000])
def test_another_number_of_reasons_is_refused(client: httpx.Client, count: str) -> None:
    refused = client.post(PATH, params={"reasons": count}, json={"rows": [ROW]})
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "reasons"
