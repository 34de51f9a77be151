"""What no one needs of the tables is removed, and what a registered version needs never is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from pydantic import ValidationError

from retrain_assets.steps.inspect.reproduce import Reproduction, reproduce
from retrain_assets.steps.upkeep.vacuum import HOURS, Vacuumed, VacuumError, vacuum
from retrain_assets.stores.storage import Storage
from retrain_assets.stores.tables import data_files
from retrain_assets.stores.tables.tables import StorageError
from retrain_assets_tests.world import World, new_world

TABLES = ("customers/dataset", "churn/features")


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose two versions were trained on data that have been corrected twice since."""
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("grown"), instance)
        for days in (range(6), range(6, 16)):
            world.land(*days)
            world.settle()
        for shift in (0.1, 0.2):
            world.land(3, 7, shift=shift)
            world.settle()
        yield world


@pytest.fixture
def storage(grown: World, tmp_path: Path) -> Storage:
    """A copy of its tables, beside the same registry."""
    shutil.copytree(grown.root / "delta", tmp_path / "delta")
    return Storage(tmp_path, grown.storage.mlflow_uri)


def files(storage: Storage) -> dict[Path, int]:
    found = (storage.root / "delta").rglob("*")
    return {path: path.stat().st_size for path in found if path.is_file()}


def needed(storage: Storage) -> dict[str, set[int]]:
    tags = [found.tags for found in storage.registry("churn").versions()]
    names = ("customers_version", "features_version")
    return {
        table: {int(one[name]) for one in tags} for table, name in zip(TABLES, names, strict=True)
    }


def rows(storage: Storage, table: str, version: int) -> pl.DataFrame:
    found = storage.tables.scan(table, version=version).sort(pl.all())
    return storage.tables.collect(found, table, version)


def test_every_registered_version_is_still_built_again_from_data_that_are_the_same(
    grown: World, storage: Storage
) -> None:
    wanted = needed(storage)
    assert all(max(wanted[table]) < (storage.tables.version(table) or 0) for table in TABLES)
    before = {(t, v): rows(storage, t, v) for t in TABLES for v in wanted[t]}
    removed = vacuum(storage, hours=0)
    assert {(one.table, one.kept) for one in removed if one.kept} == {
        (table, tuple(sorted(wanted[table]))) for table in TABLES
    }
    for (table, version), was in before.items():
        assert rows(storage, table, version).equals(was)
    state = grown.model.state(storage)
    for number in (1, 2):
        again = reproduce(state, number)
        assert again == Reproduction(identical=True, differences=())


def test_what_no_one_needs_is_gone_and_the_bytes_freed_are_those_that_were_taken(
    storage: Storage,
) -> None:
    stray = storage.root / "delta" / "churn" / "features" / "part-of-a-killed-run.parquet"
    stray.write_bytes(bytes(1_000))
    before = files(storage)
    told = vacuum(storage, hours=0, dry_run=True)
    assert files(storage) == before
    removed = vacuum(storage, hours=0)
    assert removed == told
    gone = {path: size for path, size in before.items() if not path.exists()}
    assert stray in gone
    assert sum(one.bytes for one in removed) == sum(gone.values())
    assert sum(one.files for one in removed) == len(gone)
    assert not [path for path in gone if "_delta_log" in path.parts or "ledger" in path.parts]
    unneeded = set(range(storage.tables.version(TABLES[1]) or 0)) - needed(storage)[TABLES[1]]
    with pytest.raises(StorageError, match=r"churn/features: data file .* is unreadable"):
        rows(storage, TABLES[1], max(unneeded))
    storage.tables.verify(TABLES[1])
    assert sum(one.files for one in vacuum(storage, hours=0)) == 0


def test_small_files_are_merged_by_it_and_by_no_dry_run(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "MAX_SMALL_FILES", 0)
    versions = {name: storage.tables.version(name) for name in TABLES}
    before = files(storage)
    vacuum(storage, dry_run=True)
    assert files(storage) == before
    vacuum(storage)
    assert all(storage.tables.version(name) == (versions[name] or 0) + 1 for name in TABLES)
    assert before.keys() <= files(storage).keys()  # what was merged was given up just now


def test_what_was_given_up_lately_stays_and_so_do_the_tables_of_others(storage: Storage) -> None:
    assert {one.files for one in vacuum(storage, hours=HOURS)} == {0}
    assert {one.table.partition("/")[0] for one in vacuum(storage, ["customers"], 0)} == {
        "customers"
    }


@pytest.mark.parametrize("table", TABLES)
def test_an_empty_last_commit_is_named_with_its_repair_and_nothing_is_changed(
    storage: Storage, table: str
) -> None:
    version = storage.tables.version(table)
    commit = storage.root / "delta" / table / "_delta_log" / f"{version:020}.json"
    commit.write_bytes(b"")
    before = files(storage)
    said = rf"nothing was removed: table {table}: {commit} is empty or torn; docs/storage.md says"
    with pytest.raises(VacuumError, match=said):
        vacuum(storage, hours=0)
    assert files(storage) == before


def test_where_the_registry_is_not_that_of_the_tables_nothing_is_removed(storage: Storage) -> None:
    before = files(storage)
    other = Storage(storage.root)
    with pytest.raises(VacuumError, match="churn has version 2 in production, which the registry"):
        vacuum(other, hours=0)
    assert files(storage) == before


def test_a_table_that_was_started_over_is_told_to_lack_what_a_version_needs(
    storage: Storage,
) -> None:
    shutil.rmtree(storage.root / "delta" / TABLES[1])
    frame = pl.DataFrame({"_landing_partition": ["2020-01-01"]})
    storage.tables.replace(TABLES[1], frame, ["2020-01-01"], {})
    (found,) = (one for one in vacuum(storage, hours=0) if one.table == TABLES[1])
    lost = tuple(sorted(needed(storage)[TABLES[1]] - {0}))
    assert found == Vacuumed(TABLES[1], found.kept, lost, 0, 0)
    assert lost


def test_the_job_leaves_what_it_freed_on_the_asset(grown: World, storage: Storage) -> None:
    shutil.copy(grown.root / "mlflow.db", storage.root)
    world = replace(grown, root=storage.root)
    age(storage, timedelta(hours=25))
    told = vacuum(storage, hours=24, dry_run=True)
    job = world.definitions.resolve_job_def("churn_vacuum")
    with pytest.raises(ValidationError, match="greater than or equal to 24"):
        job.execute_in_process(instance=world.instance, run_config=kept_for(hours=23))
    config = kept_for(hours=24)
    done = job.execute_in_process(instance=world.instance, run_config=config)
    (made,) = done.asset_materializations_for_node("churn__storage")
    freed, removed = (made.metadata[name].value for name in ("freed_bytes", "removed_files"))
    assert freed == sum(one.bytes for one in told) > 0
    assert removed == sum(one.files for one in told)
    records, _ = made.metadata["tables"].value
    assert {record.data["table"] for record in records} == {one.table for one in told}


def kept_for(hours: int) -> dict[str, Any]:
    return {"ops": {"churn__storage": {"config": {"hours": hours}}}}


def age(storage: Storage, by: timedelta) -> None:
    """Make all that was written and given up older."""
    for path in files(storage):
        if path.suffix == ".json" and path.parent.name == "_delta_log":
            times = r'("(?:deletionTimestamp|modificationTime)":)(\d+)'
            earlier = partial(_minus, round(by.total_seconds() * 1_000))
            path.write_text(re.sub(times, earlier, path.read_text()))
        os.utime(path, (path.stat().st_mtime - by.total_seconds(),) * 2)


def _minus(milliseconds: int, found: re.Match[str]) -> str:
    return f"{found[1]}{int(found[2]) - milliseconds}"


def test_the_command_says_what_it_would_free(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_STORAGE", str(storage.root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", storage.mlflow_uri)
    command = [sys.executable, "-m", "retrain_assets.cli", "vacuum", "--dry-run"]
    shown = subprocess.run([*command, "--json"], capture_output=True, check=True)
    told = [asdict(one) for one in vacuum(storage, dry_run=True)]
    assert json.loads(shown.stdout) == {
        "dry_run": True,
        "bytes": 0,
        "files": 0,
        "tables": json.loads(json.dumps(told)),
    }
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert "customers/dataset: 0 files, 0 bytes, keeps versions 1\n" in said
    assert said.endswith("would free 0 bytes in 0 files\n")
