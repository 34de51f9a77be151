"""Tables stay whole through kills, races, full disks and damage, and say what is wrong."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.stores.place import Place
from retrain_assets.stores.tables import data_files
from retrain_assets.stores.tables import tables as module
from retrain_assets.stores.tables.tables import StaleTableError, StorageError, Tables

_CONTEXT = multiprocessing.get_context("spawn")
_SECONDS = 60
TABLE = "d/t"
OLD = {"01": [1], "02": [2, 2], "03": [3]}
NEW = {"02": [20], "03": [], "04": [40, 41]}
WHOLE = {"01": [1], "02": [20], "04": [40, 41]}
Content = dict[str, list[int]]


def frame(content: Content) -> pl.DataFrame:
    pairs = [(key, x) for key, values in content.items() for x in values]
    return pl.DataFrame(pairs, {PARTITION: pl.String, "x": pl.Int64}, orient="row")


def replace(tables: Tables, content: Content, run: str = "r1", **named: Any) -> int:
    return tables.replace(TABLE, frame(content), list(content), {"run_id": run}, **named)


def content(tables: Tables, version: int | None = None) -> Content:
    rows = tables.collect(tables.scan(TABLE, version=version).sort(PARTITION, "x"), TABLE)
    return dict(rows.group_by(PARTITION, maintain_order=True).agg("x").iter_rows())


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    tables = Tables(str(tmp_path))
    replace(tables, OLD)
    return tables


def log_of(tables: Tables) -> Path:
    return Path(tables.uri(TABLE)) / "_delta_log"


def commit_file(tables: Tables, version: int) -> Path:
    return log_of(tables) / f"{version:020}.json"


def stored_files(tables: Tables) -> set[Path]:
    return set(Path(tables.uri(TABLE)).glob("*.parquet"))


# Children. What they patch is theirs alone.


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_before(root: str, rows: Content) -> None:
    module.write_deltalake = die  # type: ignore[assignment]
    replace(Tables(root), rows)


def die_within(root: str, rows: Content) -> None:
    """Once the first rows are written, of batches and files that hold one row each."""
    data_files._BATCH_ROWS = 1
    data_files.LAYOUT["target_file_size"] = 1
    real, calls, before = pl.DataFrame.to_arrow, iter(range(100)), stored_files(Tables(root))

    def to_arrow(self: pl.DataFrame, **named: Any) -> Any:
        if next(calls) == 3:
            while stored_files(Tables(root)) <= before:
                time.sleep(0.001)
            die()
        return real(self, **named)

    pl.DataFrame.to_arrow = to_arrow  # type: ignore[method-assign]
    replace(Tables(root), rows)


def die_at_new_file(root: str, rows: Content) -> None:
    """As soon as a new data file is there, which is before, in or after the commit."""
    tables = Tables(root)
    watch(tables)
    replace(tables, rows)
    die()


def die_after(root: str, rows: Content) -> None:
    real = module.write_deltalake
    module.write_deltalake = lambda *given, **named: (real(*given, **named), die())
    replace(Tables(root), rows)


def die_merging(root: str, rows: Content) -> None:
    data_files.MAX_SMALL_FILES = 0
    real = data_files.merge_small_files

    def merge(opened: DeltaTable, table: Place) -> None:
        watch(Tables(root))
        real(opened, table)
        die()

    data_files.merge_small_files = merge
    replace(Tables(root), rows)


def watch(tables: Tables) -> None:
    before = stored_files(tables)

    def look() -> None:
        while stored_files(tables) <= before:
            pass
        die()

    threading.Thread(target=look, daemon=True).start()


def meet(root: str, barrier: Any, said: Any, work: Callable[[Tables], int]) -> None:
    """Do some work, in which the first write waits until the other process comes to its own."""
    real = module.write_deltalake

    def write(*given: Any, **named: Any) -> None:
        module.write_deltalake = real
        barrier.wait(_SECONDS)
        real(*given, **named)

    module.write_deltalake = write
    try:
        said.put(("landed", work(Tables(root))))
    except StorageError as error:
        said.put((type(error).__name__, str(error)))


class Replacing:
    def __init__(self, run: str, rows: Content) -> None:
        self.run, self.rows = run, rows

    def __call__(self, tables: Tables) -> int:
        return replace(tables, self.rows, self.run)


class Appending:
    def __init__(self, expected: int | None) -> None:
        self.expected = expected

    def __call__(self, tables: Tables) -> int:
        return tables.append(TABLE, frame({"09": [9]}), {}, self.expected)


def replace_often(root: str, key: str) -> None:
    for value in range(6):
        replace(Tables(root), {key: [value]}, f"{key}-{value}")


def killed(work: Callable[..., None], *given: object) -> None:
    process = _CONTEXT.Process(target=work, args=given)
    process.start()
    process.join(_SECONDS)
    assert process.exitcode == -signal.SIGKILL


def race(root: str, *works: Callable[[Tables], int]) -> list[tuple[str, Any]]:
    barrier, said = _CONTEXT.Barrier(len(works)), _CONTEXT.SimpleQueue()
    processes = [_CONTEXT.Process(target=meet, args=(root, barrier, said, work)) for work in works]
    for process in processes:
        process.start()
    for process in processes:
        process.join(_SECONDS)
    return sorted(said.get() for _ in works)


# Kills (F1, F2, F24).


@pytest.mark.parametrize("death", [die_before, die_within, die_at_new_file, die_after])
def test_a_killed_range_is_there_whole_or_not_at_all_and_the_rerun_makes_it_whole(
    tables: Tables, death: Callable[..., None]
) -> None:
    killed(death, tables.root, NEW)
    left = {
        die_before: [(0, OLD)],
        die_within: [(0, OLD)],
        die_after: [(1, WHOLE)],
        die_at_new_file: [(0, OLD), (1, WHOLE)],
    }
    assert (tables.version(TABLE), content(tables)) in left[death]
    replace(tables, NEW)
    assert content(tables) == WHOLE
    assert content(tables, 0) == OLD


def test_a_kill_within_writes_files_that_nothing_reads(tables: Tables) -> None:
    before = stored_files(tables)
    killed(die_within, tables.root, {"02": list(range(50))})
    assert len(stored_files(tables) - before) > 0
    assert content(tables) == OLD


def test_a_kill_while_merging_changes_no_version(tables: Tables) -> None:
    replace(tables, {"04": [4]})
    killed(die_merging, tables.root, {"05": [5]})
    assert content(tables) == content(tables, 2) == {**OLD, "04": [4], "05": [5]}
    assert content(tables, 0) == OLD
    replace(tables, {"06": [6]})
    assert content(tables) == {**OLD, "04": [4], "05": [5], "06": [6]}


# Races (F10 to F14).


@pytest.mark.parametrize("exists", [True, False], ids=["existing", "first"])
def test_of_two_runs_on_one_partition_one_lands_and_the_other_says_why(
    tmp_path: Path, *, exists: bool
) -> None:
    tables = Tables(str(tmp_path))
    if exists:
        replace(tables, OLD)
    (failed, why), (landed, version) = race(
        tables.root, Replacing("left", {"02": [7]}), Replacing("right", {"02": [8], "03": []})
    )
    assert (failed, landed) == ("StaleTableError", "landed")
    assert version == (1 if exists else 0)
    other = "left" if content(tables)["02"] == [7] else "right"
    for part in (TABLE, "02", f"run {other}", f"version {version}", "run it again"):
        assert part in why
    assert tables.version(TABLE) == version
    assert len(content(tables)["02"]) == 1


@pytest.mark.parametrize("exists", [True, False], ids=["existing", "first"])
def test_two_runs_on_different_partitions_both_land(tmp_path: Path, *, exists: bool) -> None:
    tables = Tables(str(tmp_path))
    if exists:
        replace(tables, OLD)
    said = race(tables.root, Replacing("left", {"02": [7]}), Replacing("right", {"03": [8]}))
    assert [word for word, _ in said] == ["landed", "landed"]
    assert {version for _, version in said} == ({1, 2} if exists else {0, 1})
    assert content(tables) == {**({"01": [1]} if exists else {}), "02": [7], "03": [8]}


@pytest.mark.parametrize("exists", [True, False], ids=["existing", "first"])
def test_of_two_appends_to_one_version_one_lands(tmp_path: Path, *, exists: bool) -> None:
    tables = Tables(str(tmp_path))
    expected = tables.append(TABLE, frame({"01": [1]}), {}, None) if exists else None
    (failed, why), (landed, _) = race(tables.root, Appending(expected), Appending(expected))
    assert (failed, landed) == ("StaleTableError", "landed")
    assert f"{TABLE} is no longer at version {expected}" in why
    assert content(tables)["09"] == [9]


def test_processes_that_write_at_once_lose_nothing(tables: Tables) -> None:
    writers = [
        _CONTEXT.Process(target=replace_often, args=(tables.root, key)) for key in ("02", "03")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(_SECONDS)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert content(tables) == {"01": [1], "02": [5], "03": [5]}
    assert tables.version(TABLE) == 12


def test_losing_every_race_ends_with_table_and_version(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.write_deltalake

    def overtaken(*given: Any, **named: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_deltalake", real)
            replace(Tables(tables.root), {"01": [5]}, "other")
        real(*given, **named)

    monkeypatch.setattr(module, "write_deltalake", overtaken)
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0)
    with pytest.raises(StorageError, match=rf"{TABLE}: 02 to 04 .* version {module.ATTEMPTS}: run"):
        replace(tables, NEW)
    assert content(tables) == {**OLD, "01": [5]}


def failing_after(error: Exception) -> Callable[..., None]:
    real = module.write_deltalake

    def write(*given: Any, **named: Any) -> None:
        real(*given, **named)
        raise error

    return write


def test_a_commit_that_landed_with_an_error_is_known_again(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "write_deltalake", failing_after(DeltaError("reset by peer")))
    assert replace(tables, NEW) == 1
    assert content(tables) == WHOLE
    assert tables.append(TABLE, frame({"09": [9]}), {}, 1) == 2
    assert content(tables) == {**WHOLE, "09": [9]}


def test_the_like_commit_of_another_is_not_taken_for_ones_own(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.write_deltalake

    def overtaken(*given: Any, **named: Any) -> None:
        monkeypatch.setattr(module, "write_deltalake", real)
        replace(Tables(tables.root), {"02": [7]})
        real(*given, **named)

    monkeypatch.setattr(module, "write_deltalake", overtaken)
    with pytest.raises(StaleTableError, match="version 1"):
        replace(tables, {"02": [8]})
    assert content(tables)["02"] == [7]


def test_what_no_other_run_caused_is_not_tried_again(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def refused(*_: object, **__: object) -> None:
        calls.append(1)
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "write_deltalake", refused)
    with pytest.raises(StorageError, match=r"stays at version 0: no space left"):
        replace(tables, NEW)
    assert len(calls) == 1


# A full disk (F15).


def without_room(root: str, said: Any, free: int, rows: Content, keys: list[str]) -> None:
    """Write where no file can grow beyond a size, then again where it can."""
    tables = Tables(root)
    room = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, room[1]))
    try:
        tables.replace(TABLE, frame(rows), keys, {"run_id": "r1"})
        said.put("it landed")
    except StorageError as error:
        said.put(str(error))
    said.put((tables.version(TABLE), content(tables)))
    resource.setrlimit(resource.RLIMIT_FSIZE, room)
    said.put(tables.replace(TABLE, frame(rows), keys, {"run_id": "r1"}))


MANY = [str(key) for key in range(3_650)]
NOISE = np.random.default_rng(0).integers(0, 2**62, 20_000).tolist()


@pytest.mark.parametrize(
    ("rows", "keys"), [({"02": NOISE}, ["02"]), ({"02": [20]}, ["02", *MANY])], ids=["data", "log"]
)
def test_a_full_disk_is_told_and_harms_nothing(
    tables: Tables, rows: Content, keys: list[str]
) -> None:
    said = _CONTEXT.SimpleQueue()
    process = _CONTEXT.Process(target=without_room, args=(tables.root, said, 2**15, rows, keys))
    process.start()
    process.join(_SECONDS)
    why = said.get()
    assert f"table {TABLE} could not be written and stays at version 0" in why
    assert "File too large" in why
    assert said.get() == (0, OLD)
    assert said.get() == 1
    assert content(tables) == {**OLD, "02": sorted(rows["02"])}


# Damage to the log (F16).


def empty(path: Path) -> None:
    path.write_bytes(b"")


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def tear_between_lines(path: Path) -> None:
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:-1]))


def headless(path: Path) -> None:
    path.write_bytes(b"{}")


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.fixture
def grown(tables: Tables) -> Tables:
    """Version 12, with a checkpoint at 9."""
    for number in range(1, 13):
        replace(tables, {"02": [number], "04": [number]})
    return tables


@pytest.mark.parametrize("version", [12, 10], ids=["last", "earlier"])
@pytest.mark.parametrize("damage", [empty, tear, tear_between_lines, headless, zero])
def test_a_damaged_commit_is_named_and_taking_it_away_repairs(
    grown: Tables, damage: Callable[[Path], None], version: int
) -> None:
    damage(commit_file(grown, version))
    for attempt in (
        lambda: grown.read(TABLE, ["02"]),
        lambda: grown.version(TABLE),
        lambda: replace(grown, NEW),
    ):
        with pytest.raises(StorageError, match=rf"{TABLE}: .*{version:020}.json .*storage.md"):
            attempt()
    for number in range(version, 13):
        commit_file(grown, number).unlink()
    assert content(grown) == {**OLD, "02": [version - 1], "04": [version - 1]}
    assert replace(grown, NEW) == version
    assert content(grown) == WHOLE


@pytest.mark.parametrize("damage", [empty, tear, zero])
def test_a_damaged_checkpoint_is_named_and_the_log_does_without(
    grown: Tables, damage: Callable[[Path], None]
) -> None:
    checkpoint = log_of(grown) / f"{9:020}.checkpoint.parquet"
    damage(checkpoint)
    with pytest.raises(StorageError, match=f"{checkpoint.name} .*storage.md"):
        grown.read(TABLE, ["02"])
    checkpoint.unlink()
    (log_of(grown) / "_last_checkpoint").unlink()
    assert content(grown) == {**OLD, "02": [12], "04": [12]}
    assert replace(grown, NEW) == 13


def test_a_commit_is_not_needed_once_a_checkpoint_holds_it(grown: Tables) -> None:
    empty(commit_file(grown, 9))
    assert content(grown)["02"] == [12]
    tear(commit_file(grown, 9))
    assert replace(grown, {"02": [13]}) == 13
    assert content(grown)["02"] == [13]


def test_a_missing_commit_is_named(grown: Tables) -> None:
    commit_file(grown, 11).unlink()
    with pytest.raises(StorageError, match=f"{11:020}.json is missing"):
        grown.read(TABLE, ["02"])


def test_a_version_that_is_not_there_is_told_with_those_that_are(grown: Tables) -> None:
    with pytest.raises(StorageError, match=f"{TABLE}: it has versions 0 to 12, not 99"):
        grown.read(TABLE, ["02"], version=99)


# Damage to data (F17).


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path: Path) -> None:
    path.write_bytes(b"<html>" * 100)


def garbage_between_marks(path: Path) -> None:
    path.write_bytes(b"PAR1" + b"\xff" * (path.stat().st_size - 8) + b"PAR1")


def panic(path: Path) -> None:
    """Set the first byte that makes polars panic."""
    sound = path.read_bytes()
    for at in range(len(sound)):
        path.write_bytes(sound[:at] + b"\xc8" + sound[at + 1 :])
        try:
            pl.read_parquet(path)
        except pl.exceptions.PanicException:
            return
        except (pl.exceptions.PolarsError, OSError):
            pass
    pytest.fail("no byte makes polars panic: look for another value")


def damaged(tables: Tables, damage: Callable[[Path], None]) -> Path:
    """Of the two data files of a table, the one with partition 02."""
    (first,) = stored_files(tables)
    replace(tables, {"05": [5]})
    damage(first)
    return first


DAMAGES = [Path.unlink, empty, cut, garbage, garbage_between_marks, panic]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_data_file_is_named_with_its_partitions(
    tables: Tables, damage: Callable[[Path], None]
) -> None:
    path = damaged(tables, damage)
    named = rf"table {TABLE}: data file .*{path.name} of partitions 01 to 03 .*storage.md"
    with pytest.raises(StorageError, match=named):
        tables.read(TABLE, ["02"])
    with pytest.raises(StorageError, match=named):
        tables.collect(tables.scan(TABLE).filter(pl.col("x") > 1), TABLE)
    assert tables.read(TABLE, ["05"])["x"].to_list() == [5]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_partition_beside_damaged_rows_is_not_replaced_without_them(
    tables: Tables, damage: Callable[[Path], None]
) -> None:
    path = damaged(tables, damage)
    with pytest.raises(StorageError, match=f"stays at version 1: data file .*{path.name}"):
        replace(tables, {"02": [20]})


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_data_file_can_be_given_up_and_its_partitions_replaced(
    tables: Tables, damage: Callable[[Path], None]
) -> None:
    damaged(tables, damage).unlink(missing_ok=True)
    DeltaTable(tables.uri(TABLE)).repair()
    assert content(tables) == {"05": [5]}
    replace(tables, OLD)
    assert content(tables) == {**OLD, "05": [5]}


def test_damage_does_not_spread_by_merging(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    path = damaged(tables, cut)
    monkeypatch.setattr(data_files, "MAX_SMALL_FILES", 0)
    replace(tables, {"06": [6]})
    with pytest.raises(StorageError, match=path.name):
        tables.read(TABLE, ["02"])
    assert tables.read(TABLE, ["05", "06"])["x"].sort().to_list() == [5, 6]
