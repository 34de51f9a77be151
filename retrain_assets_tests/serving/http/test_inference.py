"""A client of Triton needs a new address only: packed tensors, gzip, versions and its errors."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from retrain_assets_tests.serving.http.test_predict import as_json, raw_rows
from retrain_assets_tests.serving.site import Site, post

PATH = "/v2/models/churn/infer"
KINDS = {"id": "INT64", "x": "FP64"}


@pytest.fixture(scope="module")
def rows(site: Site) -> pl.DataFrame:
    return raw_rows(site, 15).drop_nulls().head(20)


@pytest.fixture(scope="module")
def answered(client: httpx.Client, rows: pl.DataFrame) -> list[float]:
    return [row["prediction"] for row in post(client, *as_json(rows)).json()["predictions"]]


@pytest.fixture(scope="module")
def theirs(client: httpx.Client) -> Iterator[triton.InferenceServerClient]:
    opened = triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}")
    yield opened
    opened.close()


def inputs(rows: pl.DataFrame, *, packed: bool = True) -> list[triton.InferInput]:
    """The columns as tensors of their client."""
    tensors = []
    sent = as_json(rows)
    for name in rows.columns:
        kind = KINDS.get(name, "BYTES")
        values = [row[name] for row in sent]
        array = np.array(values, {"INT64": "i8", "FP64": "f8"}.get(kind, object))
        tensor = triton.InferInput(name, [len(values)], kind)
        tensor.set_data_from_numpy(array, binary_data=packed)
        tensors.append(tensor)
    return tensors


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("version", ["", "1"])
def test_a_client_of_triton_is_answered(
    theirs: triton.InferenceServerClient, rows: pl.DataFrame, answered: list[float],
    packed: bool, coding: str | None, version: str,
) -> None:  # fmt: skip
    outputs = None if packed else [triton.InferRequestedOutput("prediction", binary_data=False)]
    result = theirs.infer(
        "churn",
        inputs(rows, packed=packed),
        version,
        outputs=outputs,
        request_id="mine",
        request_compression_algorithm=coding,
    )
    assert result.as_numpy("prediction").tolist() == answered
    assert len({*result.as_numpy("id").tolist()}) == rows.height
    response = result.get_response()
    assert (response["id"], response["model_version"]) == ("mine", "1")
    assert ("data" in response["outputs"][0]) is not packed


def test_the_client_learns_what_there_is(theirs: triton.InferenceServerClient) -> None:
    assert theirs.is_server_live()
    assert theirs.is_server_ready()
    assert theirs.is_model_ready("churn")
    assert theirs.is_model_ready("churn", "1")
    assert not theirs.is_model_ready("churn", "2")
    assert theirs.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert theirs.get_model_metadata("churn", "1")["versions"] == ["1"]


def test_the_client_learns_why_it_is_refused(
    theirs: triton.InferenceServerClient, rows: pl.DataFrame
) -> None:
    with pytest.raises(InferenceServerException, match="version 1 is"):
        theirs.infer("churn", inputs(rows), "2")
    with pytest.raises(InferenceServerException, match="x"):
        theirs.infer("churn", inputs(rows.with_columns(x=pl.lit(101.0))))
    with pytest.raises(InferenceServerException, match="Not Found"):
        theirs.get_model_metadata("nope")


def body(rows: pl.DataFrame) -> tuple[bytes, int]:
    content, length = triton.InferenceServerClient.generate_request_body(inputs(rows))
    return content, length


def ask(client: httpx.Client, content: bytes, length: int, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    size = {"inference-header-content-length": str(length)}
    return client.post(PATH, content=content, headers=size | named)


def test_packed_tensors_that_are_not_what_they_say_are_refused(
    client: httpx.Client, rows: pl.DataFrame
) -> None:
    content, length = body(rows)
    assert ask(client, content, length).status_code == 200
    head: dict[str, Any] = json.loads(content[:length])

    def size(name: str, **change: Any) -> tuple[bytes, int]:
        tensors = [tensor | (change if tensor["name"] == name else {}) for tensor in head["inputs"]]
        text = json.dumps(head | {"inputs": tensors}).encode()
        return text + content[length:], len(text)

    refused = [
        (content[:-1], length),  # the last text is cut off
        (content + b"x", length),
        (content[:length] + struct.pack("<I", 2**32 - 1) + content[length + 4 :], length),
        size("x", parameters={"binary_data_size": 8 * rows.height - 1}),
        size("x", datatype="BOOL"),
        size("id", shape=[10_001]),
    ]
    answers = [ask(client, *sent) for sent in refused]
    assert [answer.status_code for answer in answers[:-1]] == [422] * (len(refused) - 1)
    assert answers[-1].status_code == 413
    assert {type(answer.json()["error"]) for answer in answers} == {str}


def test_packed_bodies_are_bounded_and_whole(client: httpx.Client, rows: pl.DataFrame) -> None:
    content, length = body(rows)
    packed = gzip.compress(content)
    coded = {"content_encoding": "gzip"}
    assert ask(client, packed, length, **coded).status_code == 200
    bomb = gzip.compress(b" " * (16 * 2**20 + 1))
    for sent, status in ((bomb, 413), (packed[:-9], 400), (packed + packed, 400), (b"{}", 400)):
        answer = ask(client, sent, length, **coded)
        assert (answer.status_code, type(answer.json()["error"])) == (status, str)
    assert ask(client, packed, length, content_encoding="br").status_code == 415
