"""Rows that models are made from are the rows that were written, to the bit."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.stores.tables import data_files
from retrain_assets.stores.tables.tables import StorageError, Tables

COMMIT = {"run_id": "r"}


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    made = Tables(str(tmp_path))
    for key in ("a", "b"):
        rows = pl.DataFrame({PARTITION: [key] * 50, "x": [n / 7 for n in range(50)]})
        made.replace("d/t", rows, [key], COMMIT)
    return made


def file_of(tables: Tables, key: str) -> Path:
    actions = pl.DataFrame(DeltaTable(tables.uri("d/t")).get_add_actions(flatten=True))
    return Path(tables.uri("d/t")) / actions.filter(pl.col(f"min.{PARTITION}") == key)["path"][0]


def seal_of(tables: Tables, key: str) -> Path:
    file = file_of(tables, key)
    return file.parent / "_seals" / file.name


def test_every_flipped_bit_is_noticed_and_its_file_and_partitions_named(tables: Tables) -> None:
    file = file_of(tables, "b")
    sound = file.read_bytes()
    for place in range(0, len(sound), len(sound) // 60):
        file.write_bytes(sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :])
        with pytest.raises(StorageError, match=f"{file.name} of partitions b to b is not what was"):
            tables.read("d/t", ["a", "b"])
    assert tables.read("d/t", ["a"]).height == 50
    with pytest.raises(StorageError, match="b to b"):
        tables.verify("d/t")
    file.write_bytes(sound)
    tables.verify("d/t")


def test_a_file_that_a_kill_left_unsealed_is_sealed_by_the_next_commit(tables: Tables) -> None:
    seal_of(tables, "a").unlink()
    assert tables.read("d/t", ["a"]).height == 50
    tables.replace("d/t", pl.DataFrame({PARTITION: ["c"], "x": [1.0]}), ["c"], COMMIT)
    assert seal_of(tables, "a").exists()


def test_merged_files_are_sealed_too_and_old_versions_still_hold(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "MAX_SMALL_FILES", 1)
    tables.replace("d/t", pl.DataFrame({PARTITION: ["c"], "x": [1.0]}), ["c"], COMMIT)
    assert len(DeltaTable(tables.uri("d/t")).file_uris()) == 1
    assert seal_of(tables, "a").exists()
    for version in (0, 1, None):
        tables.verify("d/t", None, version)
        assert tables.read("d/t", ["a"], version=version).height == 50


@pytest.mark.parametrize("most_small_files", [0, 100])
def test_rows_with_damage_are_not_copied_to_a_file_with_a_new_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_small_files: int
) -> None:
    tables = Tables(str(tmp_path))
    rows = pl.DataFrame({PARTITION: ["a"] * 50 + ["b"] * 50, "x": [n / 7 for n in range(100)]})
    tables.replace("d/t", rows, ["a", "b"], COMMIT)
    file = file_of(tables, "a")
    sound = file.read_bytes()
    file.write_bytes(sound[:80] + bytes([sound[80] ^ 4]) + sound[81:])
    monkeypatch.setattr(data_files, "MAX_SMALL_FILES", most_small_files)
    with pytest.raises(StorageError, match="of partitions a to b is not what was written"):
        tables.replace("d/t", rows.filter(pl.col(PARTITION) == "a"), ["a"], COMMIT)
    tables.replace("d/t", pl.DataFrame({PARTITION: ["c"], "x": [1.0]}), ["c"], COMMIT)
    with pytest.raises(StorageError, match="of partitions a to b is not what was written"):
        tables.read("d/t", ["b"])
    file.write_bytes(sound)
    assert tables.read("d/t", ["a", "b", "c"]).height == 101


def test_what_was_never_written_has_nothing_to_verify(tmp_path: Path) -> None:
    Tables(str(tmp_path)).verify("d/t")
