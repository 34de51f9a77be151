"""Partitions are replaced whole, in one commit; a stale append never lands."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from retrain_assets.stores.tables import PARTITION, StaleTableError, StorageError, Tables

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
