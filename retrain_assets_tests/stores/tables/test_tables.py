"""Partitions are replaced whole, in one commit; a stale append never lands."""

from __future__ import annotations

import multiprocessing
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.stores.place import Place
from retrain_assets.stores.tables import data_files
from retrain_assets.stores.tables.log import MAX_LISTED
from retrain_assets.stores.tables.tables import StaleTableError, StorageError, Tables

COMMIT = {"run_id": "r1"}


def rows(**values: list[int]) -> pl.DataFrame:
    keys = [key.replace("_", "-").removeprefix("d") for key, items in values.items() for _ in items]
    return pl.DataFrame({PARTITION: keys, "x": [x for items in values.values() for x in items]})


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path))


def content(tables: Tables, table: str) -> dict[str, list[int]]:
    grouped = tables.scan(table).sort("x").group_by(PARTITION).agg("x").collect()
    return dict(grouped.iter_rows())


def test_a_replacement_leaves_the_other_partitions(tables: Tables) -> None:
    tables.replace("d/t", rows(d01=[1, 2], d02=[3]), ["01", "02"], COMMIT)
    tables.replace("d/t", rows(d02=[4, 5]), ["02"], COMMIT)
    assert content(tables, "d/t") == {"01": [1, 2], "02": [4, 5]}


def test_the_same_input_twice_gives_the_same_table(tables: Tables) -> None:
    for _ in range(2):
        tables.replace("d/t", rows(d01=[1, 2]), ["01"], COMMIT)
    assert content(tables, "d/t") == {"01": [1, 2]}


def test_a_range_is_one_commit_that_carries_its_metadata(tables: Tables) -> None:
    tables.replace("d/t", rows(d01=[1]), ["01"], COMMIT)
    version = tables.replace("d/t", rows(d02=[2], d03=[3]), ["02", "03", "04"], {"run_id": "r2"})
    assert version == 1
    assert DeltaTable(tables.uri("d/t")).history(1)[0]["run_id"] == "r2"


def test_a_partition_can_become_empty_and_history_stays_readable(tables: Tables) -> None:
    tables.replace("d/t", rows(d01=[1], d02=[2]), ["01", "02"], COMMIT)
    tables.replace(
        "d/t", rows().clear().cast({PARTITION: pl.String, "x": pl.Int64}), ["01"], COMMIT
    )
    assert content(tables, "d/t") == {"02": [2]}
    assert tables.read("d/t", ["01"], version=0)["x"].to_list() == [1]


def test_rows_outside_the_replaced_partitions_are_refused(tables: Tables) -> None:
    with pytest.raises(StorageError, match="02"):
        tables.replace("d/t", rows(d01=[1], d02=[2]), ["01"], COMMIT)


def test_a_quote_in_a_key_reaches_no_predicate(tables: Tables) -> None:
    tables.replace("d/t", rows(d01=[1]), ["01"], COMMIT)
    evil = pl.DataFrame({PARTITION: ["a' OR '1'='1"], "x": [9]})
    tables.replace("d/t", evil, ["a' OR '1'='1"], COMMIT)
    assert content(tables, "d/t") == {"01": [1], "a' OR '1'='1": [9]}


def test_a_stale_append_is_refused(tables: Tables) -> None:
    assert tables.append("m/ledger", rows(d01=[1]), COMMIT, None) == 0
    assert tables.append("m/ledger", rows(d01=[2]), COMMIT, 0) == 1
    with pytest.raises(StaleTableError, match="version 0"):
        tables.append("m/ledger", rows(d01=[3]), COMMIT, 0)
    with pytest.raises(StaleTableError):
        tables.append("m/ledger", rows(d01=[3]), COMMIT, None)
    assert content(tables, "m/ledger") == {"01": [1, 2]}


def test_a_missing_data_file_is_an_error_that_names_the_table(tables: Tables) -> None:
    tables.replace("d/t", rows(d01=[1]), ["01"], COMMIT)
    for data_file in Path(tables.uri("d/t")).glob("*.parquet"):
        data_file.unlink()
    with pytest.raises(StorageError, match="d/t"):
        tables.read("d/t", ["01"])


def test_reading_an_unwritten_table_says_what_to_do(tables: Tables) -> None:
    with pytest.raises(StorageError, match="materialize"):
        tables.read("d/t", ["01"])
    assert tables.read("d/t", ["01"], schema={PARTITION: pl.String}).is_empty()


# What a replacement is held against.


def test_only_partitions_replaced_since_the_base_are_stale(tables: Tables) -> None:
    assert tables.replace("d/t", rows(d01=[1], d02=[2]), ["01", "02"], COMMIT, base=None) == 0
    assert tables.replace("d/t", rows(d01=[5]), ["01"], {"run_id": "r7"}, base=0) == 1
    with pytest.raises(
        StaleTableError, match=r"d/t: 1 partition, such as 01, .* run r7 .* 1 after"
    ):
        tables.replace("d/t", rows(d01=[6], d02=[6]), ["01", "02"], COMMIT, base=0)
    with pytest.raises(StaleTableError, match="after version None"):
        tables.replace("d/t", rows(d02=[6]), ["02"], COMMIT, base=None)
    assert tables.replace("d/t", rows(d02=[6]), ["02"], COMMIT, base=0) == 2
    assert content(tables, "d/t") == {"01": [5], "02": [6]}


def test_a_commit_tells_which_of_ten_years_of_days_it_replaced(tables: Tables) -> None:
    days = [f"{day:04}" for day in range(3_650)]
    many = pl.DataFrame({PARTITION: days, "x": range(3_650)})
    tables.replace("d/t", many, days, COMMIT)
    tables.replace("d/t", many.head(3_000), days[:3_000], COMMIT)
    assert tables.replace("d/t", rows(d3001=[7]), ["3001"], COMMIT, base=0) == 2
    with pytest.raises(StaleTableError, match="such as 2999"):
        tables.replace("d/t", rows(d2999=[7]), ["2999"], COMMIT, base=0)
    log = Path(tables.uri("d/t")) / "_delta_log"
    assert max(path.stat().st_size for path in log.iterdir()) < 2**18


def test_a_commit_of_very_many_partitions_counts_as_one_of_all(tables: Tables) -> None:
    tables.replace("d/t", rows(d01=[1]), ["01"], COMMIT)
    tables.replace("d/t", rows(d02=[1]), ["02", *map(str, range(100, 100 + MAX_LISTED))], COMMIT)
    with pytest.raises(StaleTableError, match="01"):
        tables.replace("d/t", rows(d01=[1]), ["01"], COMMIT, base=0)


# What rows become.

KINDS = pl.DataFrame(
    {
        PARTITION: ["01", "02", "02"],
        "float": [1.5, None, -0.0],
        "int": pl.Series([1, None, 3], dtype=pl.Int8),
        "flag": [True, None, False],
        "date": [date(2013, 1, 1), None, date(1, 1, 1)],
        "time": [datetime(2013, 1, 1, tzinfo=UTC), None, datetime(1, 1, 1, tzinfo=UTC)],
        "category": pl.Series(["a", None, "b"], dtype=pl.Categorical),
        "enum": pl.Series(["a", None, "b"], dtype=pl.Enum(["a", "b"])),
        "sketch": [b"1", None, b""],
        "list": [["a"], None, []],
        "struct": [[{"rule": "range", "line": 1}], None, []],
    }
)


def test_rows_from_memory_and_from_disk_are_stored_alike(tables: Tables, tmp_path: Path) -> None:
    KINDS.write_parquet(tmp_path / "spilled.parquet")
    tables.replace("d/memory", KINDS, ["01", "02"], COMMIT)
    tables.replace("d/disk", pl.scan_parquet(tmp_path / "spilled.parquet"), ["01", "02"], COMMIT)
    stored, spilled = (tables.read(table, ["01", "02"]) for table in ("d/memory", "d/disk"))
    expected = KINDS.with_columns(pl.col("category", "enum").cast(pl.String))
    assert_frame_equal(stored.sort(PARTITION, "float"), expected.sort(PARTITION, "float"))
    assert_frame_equal(spilled.sort(PARTITION, "float"), expected.sort(PARTITION, "float"))


@pytest.mark.parametrize("keys", [["01", "02"], ["01", None]])
def test_lazy_rows_outside_the_replaced_partitions_are_refused(
    tables: Tables, keys: list[str | None]
) -> None:
    tables.replace("d/t", rows(d01=[1], d02=[2]), ["01", "02"], COMMIT)
    lazy = pl.LazyFrame({PARTITION: keys, "x": [8, 9]})
    with pytest.raises(StorageError, match=f"d/t: 1 partition .* such as {keys[1]!r}"):
        tables.replace("d/t", lazy, ["01"], COMMIT)
    assert content(tables, "d/t") == {"01": [1], "02": [2]}


def peak_of_writing(root: str, spilled: str, said: Any) -> None:
    lazy = pl.scan_parquet(f"{spilled}/*.parquet")
    keys = lazy.select(pl.col(PARTITION).unique()).collect()[PARTITION]
    Tables(root).replace("d/t", lazy, keys, COMMIT)
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    said.put(int(kilobytes) / 1024)


def test_memory_does_not_grow_with_the_rows_that_are_streamed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(100_000, 6))
    part = pl.DataFrame(noise, [f"x{n}" for n in range(6)])
    spawn, peaks = multiprocessing.get_context("spawn"), []
    for files in (15, 60):
        folder = tmp_path / f"spilled-{files}"
        folder.mkdir()
        for n in range(files):
            named = part.select(pl.lit(f"{n:02}").alias(PARTITION), pl.all())
            named.write_parquet(folder / f"{n:02}.parquet", compression="lz4")
        said = spawn.SimpleQueue()
        arguments = (str(tmp_path / f"root-{files}"), str(folder), said)
        process = spawn.Process(target=peak_of_writing, args=arguments)
        process.start()
        process.join()
        peaks.append(said.get())
    more = 45 * part.estimated_size("mb")
    assert peaks[1] - peaks[0] < more / 4, f"{peaks} MB, where the rows are {more:.0f} MB more"


# What is on disk.


def live_files(tables: Tables, table: str) -> int:
    return len(DeltaTable(tables.uri(table)).file_uris())


def test_small_files_are_merged_now_and_then_and_every_version_stays_as_it_was(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "MAX_SMALL_FILES", 8)
    expected: dict[str, list[int]] = {}
    told, files = {}, []
    for n in range(40):
        key = f"{n % 30:02}"
        version = tables.replace("d/t", rows(**{f"d{key}": [n, n]}), [key], COMMIT)
        told[version], expected = expected | {key: [n, n]}, expected | {key: [n, n]}
        files.append(live_files(tables, "d/t"))
    assert max(files) <= 9
    history = DeltaTable(tables.uri("d/t")).history()
    merged = [commit for commit in history if commit["operation"] == "OPTIMIZE"]
    assert 2 <= len(merged) <= 40 // 7
    for version, then in told.items():
        rows_then = tables.collect(tables.scan("d/t", version=version), "d/t", version)
        assert dict(rows_then.sort("x").group_by(PARTITION).agg("x").iter_rows()) == then


def test_a_merge_makes_no_partition_stale(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.replace("d/t", rows(d01=[1]), ["01"], COMMIT)
    monkeypatch.setattr(data_files, "MAX_SMALL_FILES", 0)
    assert tables.replace("d/t", rows(d02=[2]), ["02"], COMMIT) == 1
    assert tables.version("d/t") == 2
    assert tables.replace("d/t", rows(d01=[3]), ["01"], COMMIT, base=1) == 3


def test_a_lost_merge_is_left_to_the_next_commit(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.replace("d/t", rows(d01=[1]), ["01"], COMMIT)
    monkeypatch.setattr(data_files, "MAX_SMALL_FILES", 0)
    real = data_files.merge_small_files

    def overtaken(opened: DeltaTable, table: Place) -> None:
        monkeypatch.setattr(data_files, "merge_small_files", lambda *_: None)
        Tables(tables.root).replace("d/t", rows(d01=[9]), ["01"], COMMIT)
        real(opened, table)

    monkeypatch.setattr(data_files, "merge_small_files", overtaken)
    assert tables.replace("d/t", rows(d02=[2]), ["02"], COMMIT) == 1
    assert tables.version("d/t") == 2
    assert content(tables, "d/t") == {"01": [9], "02": [2]}


def test_an_appended_table_gets_checkpoints_and_no_version_of_its_own(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "MAX_SMALL_FILES", 0)
    expected = None
    for n in range(21):
        expected = tables.append("m/ledger", rows(d01=[n]), COMMIT, expected)
        assert expected == n == tables.version("m/ledger")
    log = Path(tables.uri("m/ledger")) / "_delta_log"
    assert {path.name[:20].lstrip("0") for path in log.glob("*.checkpoint.parquet")} == {"9", "19"}
    assert len(list(log.glob("*.json"))) == 21
    assert content(tables, "m/ledger") == {"01": list(range(21))}


def test_nothing_that_a_version_needs_expires(tables: Tables) -> None:
    tables.replace("d/t", rows(d01=[1]), ["01"], COMMIT)
    settings = DeltaTable(tables.uri("d/t")).metadata().configuration
    assert settings["delta.enableExpiredLogCleanup"] == "false"
    for name in ("logRetention", "deletedFileRetention"):
        assert settings[f"delta.{name}Duration"] == "interval 36500 days"


def test_a_partition_of_a_wide_table_needs_no_file_but_its_own(tables: Tables) -> None:
    wide = pl.DataFrame({f"x{n}": [float(n)] for n in range(40)} | {PARTITION: ["01"]})
    tables.replace("d/t", wide, ["01"], COMMIT)
    (other,) = Path(tables.uri("d/t")).glob("*.parquet")
    for value in (6.0, 7.0):
        other.unlink(missing_ok=True)
        changed = wide.with_columns(pl.lit("02").alias(PARTITION), x0=pl.lit(value))
        tables.replace("d/t", changed, ["02"], COMMIT)
    assert tables.read("d/t", ["02"])["x0"].to_list() == [7.0]
