"""Tables survive races, kills, full disks and damage: one commit or none, and a clear error."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from retrain_assets.stores import tables as module
from retrain_assets.stores.tables import PARTITION, StaleTableError, StorageError, Tables
from retrain_assets_tests.killing import Point, kill_at

WRITE = "retrain_assets.stores.tables:write_deltalake"


def rows(key: str, *values: int) -> pl.DataFrame:
    return pl.DataFrame({PARTITION: [key] * len(values), "x": values})


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    made = Tables(str(tmp_path))
    made.replace("d/t", pl.concat([rows("a", 1), rows("b", 2)]), ["a", "b"], {"run_id": "first"})
    return made


def content(tables: Tables, version: int | None = None) -> dict[str, list[int]]:
    found = tables.scan("d/t", version=version).sort("x").group_by(PARTITION).agg("x").collect()
    return dict(sorted(found.iter_rows()))


def replace_one(root: str, key: str, value: int, run: str) -> int:
    return Tables(root).replace("d/t", rows(key, value), [key], {"run_id": run})


def meanwhile(monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], object]) -> None:
    """Let other writers act, one after the other, just before each write."""
    real, waiting = module.write_deltalake, list(acts)

    def interrupted(*given: Any, **named: Any) -> None:
        if waiting:
            act = waiting.pop(0)
            with monkeypatch.context() as undone:
                undone.setattr(module, "write_deltalake", real)
                act()
        real(*given, **named)

    monkeypatch.setattr(module, "write_deltalake", interrupted)


def test_two_runs_on_different_partitions_of_one_file_both_land(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, lambda: replace_one(tables.root, "b", 9, "other"))
    assert replace_one(tables.root, "a", 8, "mine") == 2
    assert content(tables) == {"a": [8], "b": [9]}


def test_of_two_runs_on_one_partition_the_later_fails_and_names_the_other(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, lambda: replace_one(tables.root, "a", 9, "other"))
    with pytest.raises(StaleTableError, match=r"d/t: a of 1 .* by run other in version 1 after"):
        replace_one(tables.root, "a", 8, "mine")
    assert content(tables) == {"a": [9], "b": [2]}


def test_what_was_read_before_another_run_replaced_it_is_not_written(tables: Tables) -> None:
    base = tables.version("d/t")
    replace_one(tables.root, "a", 9, "other")
    with pytest.raises(StaleTableError, match="by run other"):
        tables.replace("d/t", rows("a", 8), ["a"], {"run_id": "mine"}, base=base)
    tables.replace("d/t", rows("b", 7), ["b"], {"run_id": "mine"}, base=base)
    assert content(tables) == {"a": [9], "b": [7]}


def test_two_runs_that_make_the_table_both_land(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, lambda: replace_one(str(tmp_path), "a", 1, "other"))
    replace_one(str(tmp_path), "b", 2, "mine")
    assert content(Tables(str(tmp_path))) == {"a": [1], "b": [2]}


def test_a_conflict_beyond_the_attempts_names_table_and_version(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [
        lambda number=number: replace_one(tables.root, "b", number, f"other {number}")
        for number in range(module.ATTEMPTS)
    ]
    meanwhile(monkeypatch, *others)
    with pytest.raises(StorageError, match=r"d/t: a to a could not be written at version 5"):
        replace_one(tables.root, "a", 8, "mine")
    assert content(tables) == {"a": [1], "b": [4]}


def test_a_commit_that_landed_with_an_error_is_recognised(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.write_deltalake

    def lost_answer(*given: Any, **named: Any) -> None:
        real(*given, **named)
        raise OSError("connection reset")

    monkeypatch.setattr(module, "write_deltalake", lost_answer)
    assert replace_one(tables.root, "a", 8, "mine") == 1
    assert DeltaTable(tables.uri("d/t")).version() == 1
    assert content(tables) == {"a": [8], "b": [2]}


def test_an_error_of_another_kind_is_not_tried_again(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def refused(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "write_deltalake", refused)
    with pytest.raises(StorageError, match=r"make room.*no space left"):
        replace_one(tables.root, "a", 8, "mine")
    assert len(calls) == 1


def _replace_all(root: str, key: str) -> None:
    for value in range(6):
        replace_one(root, key, value, f"{key}{value}")


def test_processes_that_write_at_once_lose_nothing(tables: Tables) -> None:
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=_replace_all, args=(tables.root, key)) for key in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert content(tables) == {"a": [5], "b": [5]}
    assert DeltaTable(tables.uri("d/t")).version() == 12


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_around_the_commit_leaves_one_whole_version(tables: Tables, after: bool) -> None:
    before = content(tables)
    kill_at(Point(WRITE, after=after), replace_one, tables.root, "a", 8, "mine")
    assert content(tables) == ({"a": [8], "b": [2]} if after else before)
    replace_one(tables.root, "a", 8, "mine")
    assert content(tables) == {"a": [8], "b": [2]}


def _replace_much(root: str, bytes_free: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_free, bytes_free))
    much = pl.DataFrame({PARTITION: ["a"] * 200_000, "x": range(200_000)})
    with pytest.raises(StorageError, match=r"d/t: a to a could not be written .* make room"):
        Tables(root).replace("d/t", much, ["a"], {"run_id": "mine"})


def test_a_full_disk_is_told_and_harms_nothing(tables: Tables) -> None:
    before = content(tables)
    context = multiprocessing.get_context("forkserver")
    writer = context.Process(target=_replace_much, args=(tables.root, 50_000))
    writer.start()
    writer.join(60)
    assert writer.exitcode == 0
    assert content(tables) == before
    replace_one(tables.root, "a", 8, "mine")
    assert content(tables) == {"a": [8], "b": [2]}


def newest_file(tables: Tables, pattern: str) -> Path:
    return max(Path(tables.uri("d/t")).glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def gone(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def garbage(path: Path) -> None:
    path.write_bytes(b"PAR1" + b"\xff" * (path.stat().st_size - 8) + b"PAR1")


@pytest.mark.parametrize("damaged", [gone, truncated, garbage])
def test_a_damaged_data_file_is_named_with_its_partitions(
    tables: Tables, damaged: Callable[[Path], None]
) -> None:
    replace_one(tables.root, "c", 3, "third")
    path = newest_file(tables, "*.parquet")
    damaged(path)
    with pytest.raises(StorageError, match=f"{path.name} with partitions c to c cannot be read"):
        tables.read("d/t", ["a", "c"])
    assert tables.read("d/t", ["a"])["x"].to_list() == [1]


def test_a_page_that_makes_polars_panic_is_an_error_like_any_other(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(*_: object, **__: object) -> None:
        raise pl.exceptions.PanicException("range end out of bounds")

    monkeypatch.setattr(pl.LazyFrame, "collect", panic)
    with pytest.raises(StorageError, match=r"d/t: .*out of bounds"):
        tables.read("d/t", ["a"])


@pytest.mark.parametrize("content_left", [b"", b'{"commitInfo":{"timest'])
def test_a_torn_last_commit_is_an_error_and_not_older_rows(
    tables: Tables, content_left: bytes
) -> None:
    replace_one(tables.root, "a", 8, "mine")
    newest_file(tables, "_delta_log/*.json").write_bytes(content_left)
    with pytest.raises(StorageError, match=r"d/t: .*00001\.json .*docs/storage\.md"):
        tables.read("d/t", ["a"])


def test_small_files_are_merged_and_every_version_stays(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SMALL_FILES", 5)
    expected = {0: content(tables)}
    for number in range(25):
        version = replace_one(tables.root, f"k{number:02}", number, f"run {number}")
        expected[version] = content(tables)
    table = DeltaTable(tables.uri("d/t"))
    assert len(table.file_uris()) <= 6
    assert {version: content(tables, version) for version in expected} == expected
    log = Path(tables.uri("d/t")) / "_delta_log"
    assert len(list(log.glob("*.checkpoint.parquet"))) >= 2
    assert len(list(log.glob("*.json"))) == table.version() + 1
    assert len(content(tables)) == 27


def test_a_merge_that_loses_its_race_is_left_to_the_next(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SMALL_FILES", 0)
    real = DeltaTable.optimize.fget
    assert real is not None

    def raced(table: DeltaTable) -> Any:
        with monkeypatch.context() as undone:
            undone.setattr(module, "MAX_SMALL_FILES", 99)
            undone.setattr(DeltaTable, "optimize", property(real))
            replace_one(tables.root, "a", 9, "other")
        return real(table)

    monkeypatch.setattr(DeltaTable, "optimize", property(raced))
    replace_one(tables.root, "b", 8, "mine")
    assert content(tables) == {"a": [9], "b": [8]}


def test_a_lazy_frame_is_written_like_a_frame(tables: Tables, tmp_path: Path) -> None:
    for number in range(3):
        rows("a", number).write_parquet(tmp_path / f"{number}.parquet")
    lazy = pl.scan_parquet(tmp_path / "*.parquet").filter(pl.col("x") > 0)
    tables.replace("d/t", lazy, ["a"], {"run_id": "mine"})
    assert content(tables) == {"a": [1, 2], "b": [2]}
    with pytest.raises(StorageError, match=r"rows of \['a'\] not among \['b'\]"):
        tables.replace("d/t", lazy, ["b"], {"run_id": "mine"})
