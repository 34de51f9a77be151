"""A folder and a bucket hold the same things in the same way, Delta tables among them."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.stores.backup import PLACES as PATHS
from retrain_assets.stores.backup import back_up, restore
from retrain_assets.stores.landing.sql import StatementError
from retrain_assets.stores.landing.topic import TopicFiles
from retrain_assets.stores.place import Place, PlaceError, describe_error, open_client, place_at
from retrain_assets.stores.storage import Storage, storage_from
from retrain_assets.stores.tables.tables import StaleTableError, StorageError, Tables
from retrain_assets_tests.buckets import SECRET, Relay, answering, bucket_apart, send
from retrain_assets_tests.servers import running
from retrain_assets_tests.steps.data.test_pull import open_shop
from retrain_assets_tests.stores.landing.test_topic import dataset as topic_dataset

ROOT = "s3://places/root"
COMMIT = {"run_id": "r"}


@pytest.fixture(scope="module", autouse=True)
def _store() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, bucket_apart("places", patch):
        yield


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_at(tmp_path if request.param == "folder" else f"{ROOT}/{tmp_path.name}/")


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """A table of three versions in the bucket; partition b is in the newest alone."""
    return grow(place_at(f"{ROOT}/{tmp_path.name}"))


def grow(place: Place) -> Tables:
    tables = Tables(str(place / "delta"))
    for number, key in enumerate(("a", "a", "b")):
        write(tables, key, number)
    return tables


def write(tables: Tables, key: str, number: int) -> int:
    rows = pl.DataFrame({PARTITION: [key], "x": [number]})
    return tables.replace("d/t", rows, [key], COMMIT)


def content(tables: Tables, version: int | None = None) -> list[int]:
    return tables.read("d/t", ["a", "b"], version=version)["x"].sort().to_list()


def test_a_place_reads_what_it_wrote_and_is_empty_once_it_is_cleared(place: Place) -> None:
    assert (place.files(), place.folders(), place.find("a/x")) == ([], [], None)
    (place / "a").write("x", b"1")
    place.write("a/x", b"22")
    assert place.write_new("b", b"3")
    assert not place.write_new("b", b"4")
    assert [(file.name, file.size_bytes) for file in place.files()] == [("a/x", 2), ("b", 1)]
    assert ((place / "a").read("x"), place.read("b"), place.folders()) == (b"22", b"3", ["a"])
    first = place.find("b")
    place.write("b", b"55")
    assert place.find("b") != first
    place.delete("b")
    place.delete("b")
    with pytest.raises(FileNotFoundError):
        place.read("b")
    place.clear()
    assert (place.files(), place.folders()) == ([], [])


def test_a_table_in_a_bucket_has_versions_names_and_one_winner(tables: Tables) -> None:
    assert tables.names() == ["d/t"]
    assert (content(tables), content(tables, 0)) == ([1, 2], [0])
    assert tables.append("d/t", pl.DataFrame({PARTITION: ["c"], "x": [3]}), COMMIT, 2) == 3
    with pytest.raises(StaleTableError):
        tables.append("d/t", pl.DataFrame({PARTITION: ["c"], "x": [3]}), COMMIT, 2)
    assert write(Tables(tables.root), "a", 5) == 4, "what another handle wrote is seen"
    assert content(tables) == [2, 5]


def test_an_opened_table_is_kept_and_no_commit_moves_one_that_is_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = grow(place)
    before = tables.scan("d/t")
    assert write(tables, "a", 9) == 3
    assert before.collect()["x"].sort().to_list() == [1, 2]
    assert content(tables) == [2, 9]
    with monkeypatch.context() as patch:
        patch.setattr("retrain_assets.stores.tables.tables.DeltaTable", None)
        assert content(tables) == [2, 9]
    place = tables.place("d/t")  # somebody repairs the log, and another process writes again
    place.delete("_delta_log/00000000000000000003.json")
    rows = pl.DataFrame({PARTITION: ["b"], "x": [7]})
    write_deltalake(str(place), rows, mode="append")
    assert content(tables) == [1, 2, 7]
    place.delete("_delta_log/00000000000000000003.json")
    assert content(tables) == [1, 2]


def test_damage_in_a_bucket_is_named(tables: Tables) -> None:
    place = tables.place("d/t")
    actions = pl.DataFrame(DeltaTable(str(place)).get_add_actions(flatten=True))
    file = actions.filter(pl.col(f"min.{PARTITION}") == "b")["path"][0]
    sound, log = place.read(file), "_delta_log/00000000000000000001.json"
    place.write(file, sound[:-30] + bytes([sound[-30] ^ 1]) + sound[-29:])
    with pytest.raises(StorageError, match=f"{place}/{file} of partitions b to b is not what was"):
        content(tables)
    place.write(file, sound)
    assert content(tables) == [1, 2]
    place.write(log, place.read(log).splitlines()[0])
    open_client.cache_clear()  # as in the next process
    with pytest.raises(StorageError, match=f"{place}/{log} is torn"):
        content(tables)


def test_unneeded_files_of_a_bucket_are_listed_with_their_digests(tables: Tables) -> None:
    files = tables.unneeded_files("d/t", [], hours=0)
    assert [file.name.partition("/")[0] for file in files][1::2] == ["_seals"]
    assert {file.name.rpartition("/")[2] for file in files} == {file.name for file in files[::2]}


def test_a_backup_goes_from_a_bucket_to_a_folder_and_to_another_bucket(
    tables: Tables, tmp_path: Path
) -> None:
    root, copy, again = f"{ROOT}/{tmp_path.name}", tmp_path / "copy", f"{ROOT}/{tmp_path.name}-2"
    place_at(root).write("landing/d/1.csv", b"x")
    assert back_up({"storage": root}, copy, print) == len(place_at(root).files())
    assert restore(copy, {"storage": again}, print) == 1
    assert content(Tables(f"{again}/delta")) == content(tables)
    assert place_at(again).read("landing/d/1.csv") == b"x"


def test_a_folder_moves_into_a_bucket_and_its_database_into_the_folder_of_work(
    tmp_path: Path,
) -> None:
    root, work, moved = tmp_path / "root", tmp_path / "work", f"{ROOT}/{tmp_path.name}"
    write(Tables(str(root / "delta")), "a", 1)
    with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        for table, column in PATHS:
            database.execute(f"CREATE TABLE {table} ({column})")
            database.execute(f"INSERT INTO {table} VALUES ('{root}/artifacts/churn')")  # noqa: S608
    back_up({"storage": root}, tmp_path / "copy", print)
    assert restore(tmp_path / "copy", {"storage": moved, "work": work}, print) == 1
    with closing(sqlite3.connect(work / "mlflow.db")) as database:
        places = [database.execute(f"SELECT {b} FROM {a}").fetchone() for a, b in PATHS]  # noqa: S608
    assert set(places) == {(f"{moved}/artifacts/churn",)}
    assert place_at(moved).folders() == ["delta"]


def test_what_is_pulled_and_what_is_read_of_a_topic_lands_in_a_bucket(tmp_path: Path) -> None:
    root, database = f"{ROOT}/{tmp_path.name}", f"sqlite:///{tmp_path}/mlflow.db"
    shop = open_shop(tmp_path, "sqlite")
    shop.storage = Storage(root, database, work_folder=tmp_path)
    assert (shop.pull(), shop.pull()) == (3, 0)
    shop.run("UPDATE orders SET amount = 11, changed = '2024-01-02 12:00:00' WHERE id = 1")
    assert shop.pull() == 1
    landed = [file.name for file in shop.storage.landing_place.files()]
    assert landed == ["orders/00000001.parquet", "orders/00000002.parquet"]
    with pytest.raises(StatementError, match="by a cursor: move them away"):
        shop.pull(cursor=None)

    files, other = (TopicFiles(f"{root}/landing", topic_dataset(), "t") for _ in range(2))
    busy = pytest.raises(RuntimeError, match=r"\.t\.topic is held by")
    with files.locked(), busy, other.locked():
        pass
    with other.locked():
        other.write(0, 0, 4, b'{"id": 1}\n')
    assert files.next_offsets() == {0: 5}


def test_a_store_that_fails_is_no_table_that_was_never_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 403, f"<Error><Code>AccessDenied</Code>{SECRET}</Error>".encode())

    with answering(monkeypatch, fail):
        for attempt in (
            lambda: Tables(ROOT).version("d/t"),
            place_at(ROOT).files,
            lambda: place_at(ROOT).read("x"),
        ):
            with pytest.raises(PlaceError, match="AccessDenied; see to the store") as failure:
                attempt()
            assert SECRET not in str(failure.value)


class ExpiringStore(Relay):
    """Takes what was issued at `/keys`, and other credentials for a number of requests."""

    left = 0
    issued: list[str] = []  # noqa: RUF012 of the class, as the server makes an object a request

    def do_issue(self) -> None:
        self.issued.append(f"ISSUED{len(self.issued)}")
        soon = datetime.now(UTC) + timedelta(minutes=1)
        keys = {"AccessKeyId": self.issued[-1], "SecretAccessKey": SECRET, "Token": "t"}
        body = json.dumps({**keys, "Expiration": f"{soon:%Y-%m-%dT%H:%M:%SZ}"}).encode()
        send(self, 200, body)

    def hand_on(self) -> None:
        if self.path == "/keys":
            self.do_issue()
        else:
            super().hand_on()

    def fault(self) -> str:
        signed = str(self.headers.get("Authorization"))
        if any(f"={key}/" in signed for key in self.issued):
            return ""
        ExpiringStore.left -= 1
        return "" if self.left >= 0 else "400 ExpiredToken"


@pytest.fixture
def expiring(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[ExpiringStore]]:
    ExpiringStore.store = os.environ["AWS_ENDPOINT_URL"]
    with running(ThreadingHTTPServer(("127.0.0.1", 0), ExpiringStore)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield ExpiringStore


def test_credentials_that_expire_in_a_commit_leave_nothing_half_done(
    tables: Tables, expiring: type[ExpiringStore]
) -> None:
    proxied, before = os.environ["AWS_ENDPOINT_URL"], 2
    errors: list[str] = []
    for left in range(0, 400, 15):
        os.environ["AWS_ENDPOINT_URL"], expiring.left, count = proxied, left, len(errors)
        try:
            write(tables, "b", left + 10)
        except (StorageError, PlaceError) as error:
            errors.append(str(error))
        os.environ["AWS_ENDPOINT_URL"] = expiring.store
        first, after = content(tables)
        assert first == 1
        assert after in (left + 10, before if len(errors) > count else None)
        before = after
        if len(errors) == count:
            break
    assert 2 < len(errors) < 26
    assert all("ExpiredToken; renew AWS_ACCESS_KEY_ID, " in error for error in errors)
    assert SECRET not in "".join(errors)


def test_credentials_that_a_machine_issues_are_renewed(
    tables: Tables, expiring: type[ExpiringStore], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("t", encoding="utf-8")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    keys = f"{os.environ['AWS_ENDPOINT_URL']}/keys"
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", keys)
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    expiring.left = 0
    write(tables, "b", 9)
    assert content(tables) == [1, 9]
    tables.place("d/t").write("x", b"1")
    assert len(expiring.issued) > 2


@pytest.mark.parametrize(
    ("store", "setting"),
    [("GCS", "GOOGLE_SERVICE_ACCOUNT"), ("MicrosoftAzure", "AZURE_STORAGE_"), ("S3", "AWS_")],
)
def test_where_a_store_gets_no_credentials_its_own_settings_are_named(
    store: str, setting: str
) -> None:
    text = f"Generic {store} error: GET http://169.254.169.254/token - status code: 403 Forbidden"
    assert describe_error(OSError(text)).startswith(f"403; no credentials: set {setting}")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("404 NoSuchBucket", "NoSuchBucket; create the bucket, or let RETRAIN_STORAGE name"),
        ("403 SignatureDoesNotMatch", "SignatureDoesNotMatch; see to AWS_ACCESS_KEY_ID"),
        ("301 PermanentRedirect", "another region: set AWS_REGION"),
        ("", "nothing answers: see to the network and to the address"),
    ],
)
def test_a_store_that_cannot_be_used_is_named_with_what_would_do(
    answer: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrain_assets.stores.place.RETRIES", 0)
    fault = f"{answer or 'cut before'}"
    relay = type("Refusing", (Relay,), {"fault": lambda _: fault})
    with running(ThreadingHTTPServer(("127.0.0.1", 0), relay)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for attempt in (
            lambda: place_at(ROOT).files(),
            lambda: place_at(ROOT).write("x", b"1"),
            lambda: Tables(ROOT).version("d/t"),
        ):
            with pytest.raises(PlaceError, match=f"{ROOT}.*: .*{reason}"):
                attempt()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "cannot hold MLflow's database: let MLFLOW_TRACKING_URI name"),
        ({"RETRAIN_STORAGE": "ftp://x", "MLFLOW_TRACKING_URI": "x"}, "use a folder or one of s3"),
        ({"RETRAIN_STORAGE": f"s3://ann:{SECRET}@places/root"}, "leave them out, and set those"),
    ],
)
def test_a_root_that_cannot_work_is_refused(
    settings: dict[str, str], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=reason) as failure:
        storage_from({"RETRAIN_STORAGE": ROOT} | settings, tmp_path)
    assert SECRET not in str(failure.value)


def test_what_needs_a_folder_says_so_and_work_stays_on_this_machine(tmp_path: Path) -> None:
    settings = {"RETRAIN_STORAGE": f"{ROOT}/", "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    storage = storage_from(settings, tmp_path)
    assert storage.work == tmp_path / "data"
    assert storage_from(settings | {"RETRAIN_WORK": str(tmp_path)}, tmp_path).work == tmp_path
    with pytest.raises(ValueError, match="needs a local folder, and RETRAIN_STORAGE is s3://"):
        _ = storage.landing
    assert Storage(tmp_path).work == tmp_path
