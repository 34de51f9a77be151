"""Objects in a bucket land like files in a folder; what a store refuses is said without secrets."""

from __future__ import annotations

import io
import json
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from retrain_assets.domain.data.row_checks import RawRows
from retrain_assets.stores.landing.objects import ObjectFiles
from retrain_assets.stores.landing.source import Ignored, LandingError, LandingFile
from retrain_assets.stores.storage import Storage
from retrain_assets_tests.buckets import KEY_ID, SECRET, Bucket, answering, bucket, point_at, send
from retrain_assets_tests.sales import DAY, spec

CSV = b"id,day,note\n1,2013-01-31,x\n"


@pytest.fixture
def land(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with bucket("landing", monkeypatch) as made:
        yield made


def source(pattern: str = "s3://landing/sales/{partition}.csv", **changes: Any) -> ObjectFiles:
    made = Storage(Path("nowhere")).source(spec(pattern, **changes))
    assert isinstance(made, ObjectFiles)
    return made


def state(file: LandingFile | RawRows) -> tuple[str, str, int, str]:
    """Return what a file and its rows must agree on."""
    return file.path, file.partition or "", file.size_bytes, file.stamp


def test_an_object_is_a_file_named_by_its_path_in_the_bucket(land: Bucket) -> None:
    land.put(f"sales/{DAY}.csv", CSV)
    land.put(f"other/{DAY}.csv", CSV)
    (file,) = source().files()
    assert (file.path, file.partition, file.size_bytes) == (f"sales/{DAY}.csv", DAY, len(CSV))
    raw = source().read(file)
    assert raw.rows["note"].to_list() == ["x"]
    assert state(raw) == state(file)
    assert file.is_settled(timedelta(seconds=30), time.time_ns() + 60 * 10**9)
    assert not file.is_settled(timedelta(seconds=30), time.time_ns() + 10**9)


def test_every_format_goes_through_the_same_readers(land: Bucket) -> None:
    table = io.BytesIO()
    pl.DataFrame({"id": [1], "day": ["2013-01-31"], "note": ["x"]}).with_columns(
        pl.col("day").str.to_date()
    ).write_parquet(table)
    land.put(f"sales/{DAY}.parquet", table.getvalue())
    land.put(f"sales/{DAY}.jsonl", b'{"id": 1, "day": "2013-01-31", "note": "x"}\n')
    land.put("sales/2013-02-01.parquet", b"PAR1")
    for ending in ("parquet", "jsonl"):
        found = source(f"s3://landing/sales/{{partition}}.{ending}")
        assert found.read(found.files()[0]).rows["note"].to_list() == ["x"]
    packed = source("s3://landing/sales/{partition}.parquet")
    assert packed.read(packed.files()[1]).refusal is not None


def test_a_correction_of_the_same_length_in_the_same_second_has_another_stamp(land: Bucket) -> None:
    stamps = set()
    for content in (b"a", b"b", b"c"):
        land.put(f"sales/{DAY}.csv", content)
        stamps.add(source().files()[0].stamp)
    assert len(stamps) == 3


def test_an_object_replaced_since_it_was_listed_is_read_as_it_is_and_stamped_so(
    land: Bucket,
) -> None:
    land.put(f"sales/{DAY}.csv", CSV)
    listed = source().files()[0]
    land.put(f"sales/{DAY}.csv", CSV.replace(b"x", b"y"))
    raw = source().read(listed)
    assert raw.rows["note"].to_list() == ["y"]
    assert state(raw) == state(source().files()[0]) != state(listed)


def test_an_upload_in_parts_is_not_seen_before_it_is_complete(land: Bucket) -> None:
    where = {"Bucket": "landing", "Key": f"sales/{DAY}.csv"}
    upload = where | {"UploadId": land.client.create_multipart_upload(**where)["UploadId"]}
    part = land.client.upload_part(**upload, PartNumber=1, Body=CSV)
    assert source().files() == []
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    land.client.complete_multipart_upload(**upload, MultipartUpload=parts)
    (file,) = source().files()
    assert state(source().read(file)) == state(file)


def test_an_object_deleted_since_it_was_listed_is_named(land: Bucket) -> None:
    land.put(f"sales/{DAY}.csv", CSV)
    (file,) = source().files()
    land.client.delete_object(Bucket="landing", Key=file.path)
    raw = source().read(file)
    assert (raw.path, raw.refusal) == (file.path, "there is no such object: deliver it again")


def test_fifteen_hundred_objects_are_listed_page_by_page(land: Bucket) -> None:
    year = pl.date_range(pl.date(2013, 1, 1), pl.date(2013, 12, 31), eager=True)
    days = [str(day) for day in year][:300]
    land.put_many(f"sales/{day}-{part}.csv" for day in days for part in "abcde")
    found = source("s3://landing/sales/{partition}-*.csv")
    listed = found.files()
    assert [file.partition for file in listed] == sorted(days * 5)
    assert [file.path for file in found.files(days[-1])] == [file.path for file in listed[-5:]]


def listing(names: list[str], store: str) -> bytes:
    """What S3 and Google, or Azure, answer to a listing."""
    moment = "Thu, 31 Jan 2013 10:00:00 GMT" if store == "az" else "2013-01-31T10:00:00.000Z"
    one = {
        "az": "<Blob><Name>{}</Name><Properties><Last-Modified>{}</Last-Modified>"
        "<Etag>e</Etag><Content-Length>4</Content-Length><Content-Type>text/csv</Content-Type>"
        "</Properties></Blob>",
    }.get(
        store,
        "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>e</ETag><Size>4</Size>"
        "</Contents>",
    )
    body = "".join(one.format(name, moment) for name in names)
    whole = {"az": f"<EnumerationResults><Blobs>{body}</Blobs><NextMarker/></EnumerationResults>"}
    return whole.get(store, f"<ListBucketResult><Name>b</Name>{body}</ListBucketResult>").encode()


@pytest.mark.parametrize(
    ("scheme", "said"), [("s3", "start-after"), ("gs", "start-after"), ("az", "startFrom")]
)
@pytest.mark.parametrize(
    ("pattern", "offset"),
    [
        ("sales/{partition}.csv", f"sales%2F{DAY}"),
        ("sales/{partition}/x-{partition}.csv", f"sales%2F{DAY}"),
        ("sales/of-{partition}-*.csv", f"sales%2Fof-{DAY}"),
        ("sales/*/{partition}.csv", None),
    ],
)
def test_a_store_is_asked_for_names_from_the_first_partition_on(
    monkeypatch: pytest.MonkeyPatch, scheme: str, said: str, pattern: str, offset: str | None
) -> None:
    names = [pattern.replace("{partition}", day).replace("*", "x") for day in ("2013-01-30", DAY)]
    with answering(monkeypatch, lambda asked: send(asked, 200, listing(names, scheme))) as store:
        files = source(f"{scheme}://landing/{pattern}").files(DAY)
    assert [file.partition for file in files] == [DAY]
    (asked,) = store.asked
    assert "prefix=sales%2F" in asked
    assert asked.partition(f"{said}=")[2] == (offset or "")


def test_names_that_need_escaping_are_read_under_them(land: Bucket) -> None:
    land.put(f"sales/{DAY}-ü %2F#?&+.csv", CSV)
    found = source("s3://landing/sales/{partition}-*.csv")
    (file,) = found.files()
    assert found.read(file).refusal is None


def test_what_is_passed_over_is_said(land: Bucket) -> None:
    for name in ("x.csv", "2013-02-30.csv", "2014-01-01.csv", "deeper/2013-01-01.csv"):
        land.put(f"sales/{name}")
    for name in (".2013-01-01.csv", ".trash/2013-01-01.csv", "2013-01-01.csv.tmp", "a\u202e.part"):
        land.put(f"sales/{name}")
    land.put("sales/")
    ignored = Ignored()
    assert source().files(None, ignored) == []
    assert ignored.reasons == {
        "of no partition (write it as 2013-01-01)": (1, ["'sales/2013-02-30.csv'"]),
        "of no partition (it is after 2013-12-31)": (1, ["'sales/2014-01-01.csv'"]),
        "not named like sales/2013-01-01.csv": (
            3,
            ["'sales'", "'sales/deeper/2013-01-01.csv'", "'sales/x.csv'"],
        ),
        "hidden": (2, ["'sales/.2013-01-01.csv'", "'sales/.trash/2013-01-01.csv'"]),
        "temporary": (2, ["'sales/2013-01-01.csv.tmp'", "'sales/a\\u202e.part'"]),
    }


def test_an_object_above_the_bound_is_refused_before_its_body_is_downloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def body_that_never_comes(asked: BaseHTTPRequestHandler) -> None:
        if "list-type" in asked.path:
            send(asked, 200, listing([f"sales/{DAY}.csv"], "s3"))
        else:
            send(asked, 200, b"", length=10**12, Last_Modified="Thu, 31 Jan 2013 10:00:00 GMT")

    with answering(monkeypatch, body_that_never_comes):
        found = source(read={"max_bytes": 100})
        raw = found.read(found.files()[0])
    assert raw.refusal == "it has 1,000,000,000,000 bytes; read.max_bytes is 100"


def test_an_object_replaced_while_it_is_downloaded_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = CSV.replace(b"x", b"new")

    def cut_off(asked: BaseHTTPRequestHandler) -> None:
        seen = {"Last_Modified": "Thu, 31 Jan 2013 10:00:00 GMT", "ETag": '"new"'}
        if len(store.asked) == 1:
            send(asked, 200, CSV[:20], len(CSV), **seen | {"ETag": '"old"'})
            asked.connection.shutdown(socket.SHUT_RDWR)
        elif asked.headers["If-Match"] == '"old"':
            send(asked, 412, b"")
        else:
            send(asked, 200, new, **seen)

    with answering(monkeypatch, cut_off) as store:
        raw = source().read(LandingFile(f"sales/{DAY}.csv", DAY, len(CSV), "old"))
    assert raw.rows["note"].to_list() == ["new"]
    assert raw.stamp.endswith("-new")
    assert len(store.asked) == 3


def test_a_bucket_whose_objects_may_not_be_read_is_named(land: Bucket) -> None:
    land.put(f"sales/{DAY}.csv", CSV)
    (file,) = source().files()
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject"}
    policy = {"Version": "2012-10-17", "Statement": [deny | {"Resource": "arn:aws:s3:::landing/*"}]}
    land.client.put_bucket_policy(Bucket="landing", Policy=json.dumps(policy))
    with pytest.raises(LandingError, match=f"^s3://landing/sales/{DAY}.csv cannot be read: 403;"):
        source().read(file)


def test_a_bucket_that_is_not_there_is_named(land: Bucket) -> None:
    with pytest.raises(LandingError, match=r"^s3://lending/x/\{partition\}.csv cannot be listed: "):
        source("s3://lending/x/{partition}.csv").files()


@pytest.mark.parametrize(("status", "said"), [(403, "SignatureDoesNotMatch"), (503, "SlowDown")])
def test_what_a_store_refuses_is_said_in_its_word_and_with_no_secret(
    monkeypatch: pytest.MonkeyPatch, status: int, said: str
) -> None:
    body = (
        f"<Error><Code>{said}</Code><AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId>"
        f"<StringToSign>{SECRET}</StringToSign></Error>"
    ).encode()
    with answering(monkeypatch, lambda asked: send(asked, status, body)) as store:
        with pytest.raises(LandingError) as raised:
            source().files()
        assert len(store.asked) == (1 if status == 403 else 5)
    text = "".join(traceback.format_exception(raised.value))
    assert f"s3://landing/sales/{{partition}}.csv cannot be listed: {said}; see to" in text
    assert not [word for word in (KEY_ID, SECRET, "StringToSign") if word in text]


@pytest.mark.parametrize("how", ["closed", "silent"])
def test_a_store_that_does_not_answer_is_given_up_on(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        if how == "closed":
            server.close()
            point_at("http://127.0.0.1:9", monkeypatch)
        else:
            point_at(f"http://127.0.0.1:{server.getsockname()[1]}", monkeypatch)
        with pytest.raises(LandingError, match="cannot be listed: error sending request; nothing"):
            source().files()


def test_without_the_extra_an_error_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "retrain_assets.stores.landing.objects")
    with pytest.raises(RuntimeError, match=r"pip install 'retrain-assets\[objects\]'"):
        source()
