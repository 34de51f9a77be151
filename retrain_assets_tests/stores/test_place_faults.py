"""Tables in a store stay whole while writers are killed, race, and the store fails in every way."""

import multiprocessing
import random
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import polars as pl
import pytest

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.stores.place import place_at
from retrain_assets.stores.tables.tables import StorageError, Tables
from retrain_assets_tests.buckets import Relay, bucket_apart, point_at
from retrain_assets_tests.servers import running

pytestmark = pytest.mark.soak

ROOT = "s3://faults/root"
TABLE, KILLS, WRITES = "d/t", 100, 60
_CONTEXT = multiprocessing.get_context("forkserver")  # a new process would import for a second
_CONTEXT.set_forkserver_preload(["retrain_assets_tests.stores.test_place_faults"])


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with bucket_apart("faults", monkeypatch) as url:
        yield url


def write(tables: Tables, key: str, number: int) -> int:
    """Replace a partition by ten equal rows, so that a mixture of two writes shows."""
    rows = pl.DataFrame({PARTITION: [key] * 10, "x": [number] * 10})
    return tables.replace(TABLE, rows, [key], {"run_id": key})


def values(tables: Tables) -> dict[str, int]:
    """The one number of each partition."""
    tables.verify(TABLE)
    rows = tables.collect(tables.scan(TABLE), TABLE)
    groups = {key: group["x"].to_list() for (key,), group in rows.group_by(PARTITION)}
    assert all(group == group[:1] * 10 for group in groups.values()), groups
    return {str(key): group[0] for key, group in groups.items()}


def write_for_ever(key: str, reported: Any) -> None:
    tables, number = Tables(f"{ROOT}/kills"), 0
    while True:
        number += 1
        write(tables, key, number)
        reported.value = number


def write_often(key: str) -> None:
    tables = Tables(f"{ROOT}/races")
    for number in range(1, WRITES + 1):
        write(tables, key, number)


def test_no_kill_of_a_writer_loses_or_mixes_anything(store: str) -> None:
    tables, chance = Tables(f"{ROOT}/kills"), random.Random(7)  # noqa: S311
    before = write(tables, "a", 0)
    writer = None
    for _ in range(KILLS):
        number = _CONTEXT.Value("i", 0)
        writer = _CONTEXT.Process(target=write_for_ever, args=("a", number))
        writer.start()
        while number.value == 0:
            writer.join(0.01)
            assert writer.exitcode is None
        writer.join(chance.random() * 0.1)
        writer.kill()
        writer.join()
        assert values(tables)["a"] in (number.value, number.value + 1)
        version = tables.version(TABLE)
        assert version is not None
        assert version > before
        before = version
    assert write(tables, "b", 1) == before + 1


def test_two_writers_at_once_lose_nothing(store: str) -> None:
    write(Tables(f"{ROOT}/races"), "c", 0)
    writers = [_CONTEXT.Process(target=write_often, args=(key,)) for key in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    tables = Tables(f"{ROOT}/races")
    assert values(tables) == {"a": WRITES, "b": WRITES, "c": 0}
    commits = [commit["run_id"] for commit in tables.list_commits(TABLE)]
    assert (commits.count("a"), commits.count("b")) == (WRITES, WRITES)


class FailingStore(Relay):
    """A store that fails by chance."""

    share, chance = 0.0, random.Random(11)  # noqa: S311
    failures: list[str] = []  # noqa: RUF012 of the class, as the server makes an object a request

    def fault(self) -> str:
        kinds = ("500 InternalError", "503 SlowDown", "cut before", "cut after", "cut within")
        kind = self.chance.choice(kinds) if self.chance.random() < self.share else ""
        self.failures.append(kind)
        return kind


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_a_store_that_fails_loses_nothing(
    store: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Tables(f"{ROOT}/failing-{share}")
    write(sound, "a", 0)
    FailingStore.store, FailingStore.share = store, share
    monkeypatch.setattr("retrain_assets.stores.place.SECONDS", 10)
    with running(ThreadingHTTPServer(("127.0.0.1", 0), FailingStore)) as server:
        written = 0
        for number in range(1, 21 if share < 1 else 2):
            point_at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
            monkeypatch.setenv("AWS_TIMEOUT", "5s")
            try:
                write(Tables(sound.root), "a", number)
            except (StorageError, OSError):
                outcomes = {written, number}
            else:
                outcomes = {number}
            point_at(store, monkeypatch)
            monkeypatch.setenv("AWS_TIMEOUT", "20s")
            written = values(Tables(sound.root))["a"]
            assert written in outcomes
    assert {"500 InternalError", "503 SlowDown", "cut before"} <= {*FailingStore.failures}
    assert write(sound, "b", 1) == (sound.version(TABLE) or 0)
    assert place_at(ROOT).files()
