"""A copy taken while work goes on, brought back elsewhere, goes on where it was taken."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from retrain_assets.stores import copies
from retrain_assets.stores.backup import BackupError, back_up, copy_file, restore
from retrain_assets.stores.registry.registry import new_run
from retrain_assets.stores.tables.tables import StorageError
from retrain_assets_tests.world import World, key, new_world

Said = list[str]


@pytest.fixture
def world(tmp_path: Path, instance: dg.DagsterInstance) -> World:
    (tmp_path / "root").mkdir()
    return new_world(tmp_path / "root", instance)


def settled(world: World) -> World:
    world.land(*range(16))
    world.settle()
    return world


def test_what_is_brought_back_elsewhere_goes_on(
    world: World, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    said: Said = []
    copy, elsewhere = tmp_path / "copy", tmp_path / "elsewhere"
    back_up({"storage": settled(world).root}, copy, said.append)
    copies_itself(world, tmp_path / "prod", said)
    world.root.rename(tmp_path / "lost")
    restored = replace(world, root=elsewhere)
    tables = restore(copy, {"storage": elsewhere}, said.append)
    assert tables == len(list((elsewhere / "delta").glob("*/*/_delta_log")))
    assert "verify churn/ledger" in said

    assert restored.settle() == [], "nothing is read or decided twice"
    restored.land(16, 17)
    assert [run.job for run in restored.settle()] == ["customers_ingest", "churn_monitor"]
    served = restored.storage.tables.scan("churn/predictions").collect()
    assert {key(16), key(17)} <= set(served["_landing_partition"])
    job = restored.definitions.resolve_job_def("churn_retrain")
    assert job.execute_in_process(instance=instance).success
    assert len(restored.state.ledger.read().rows) == 2
    assert not world.root.exists(), "nothing is written where the copy was made from"


def copies_itself(world: World, root: Path, said: Said) -> None:
    """A model is copied with its history, also after kills, and never over another history."""
    prod, calls = replace(world, root=root), [0]

    def copy(fail_at: int = -1) -> int:
        def fail(*arguments: Any) -> bool:
            calls[0] += 1
            if calls[0] == fail_at:
                raise OSError("killed")
            return copy_file(*arguments)

        calls[0] = 0
        landing = [f"customers/{path.name}" for path in (world.root / "landing").glob("*/*")]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(copies, "copy_file", fail)
            roots = world.storage, prod.storage
            return copies.copy_model("churn", ["customers"], landing, *roots, said.append)

    for kill in (3, 50):
        with pytest.raises(OSError, match="killed"):
            copy(kill)
        assert prod.state.ledger.read().rows == ()
        assert prod.state.registry.versions() == []
    assert copy() > 0
    ledger, version = world.state.ledger.read(), world.state.registry.versions()[0]
    assert prod.state.ledger.read() == ledger
    assert prod.state.registry.versions() == world.state.registry.versions()
    assert prod.state.registry.ledger_head == world.state.registry.ledger_head == ledger.head
    assert prod.state.registry.alias("production") == ledger.production_version
    away, stray = world.root.rename(root.with_name("away")), root / "delta/churn/drift/x"
    prod.state.registry.load(version.version, version.sha256)
    away.rename(world.root)
    assert copy() == 0
    stray.parent.mkdir(exist_ok=True)
    stray.write_text("of another model")
    with pytest.raises(copies.CopyError, match="x is not in the root to copy from, so nothing was"):
        copy()
    stray.unlink()
    new_run(prod.state.registry)
    with pytest.raises(copies.CopyError, match="MLflow has runs of this model that the root"):
        copy()
    assert prod.state.ledger.read() == ledger


def test_a_commit_that_lands_meanwhile_leaves_the_copy_whole(world: World, tmp_path: Path) -> None:
    """The log is copied first, here with a commit made behind its back."""
    world.land(0)
    world.settle()
    copied = shutil.copy2
    landed = iter([1])

    def interrupted(path: Path, to: Path) -> object:
        result = copied(path, to)
        if "_delta_log" not in path.parts and next(landed, None):
            world.land(1)
            world.settle()
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrain_assets.stores.backup.shutil.copy2", interrupted)
        back_up({"storage": world.root}, tmp_path / "copy", lambda _: None)
    restored = replace(world, root=tmp_path / "elsewhere")
    restore(tmp_path / "copy", {"storage": restored.root}, lambda _: None)
    rows = restored.storage.tables.scan("customers/dataset").collect()
    assert set(rows["_landing_partition"]) == {key(0)}
    restored.land(1)
    restored.settle()
    rows = restored.storage.tables.scan("customers/dataset").collect()
    assert set(rows["_landing_partition"]) == {key(0), key(1)}


def test_a_copy_that_is_damaged_is_refused(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    world.land(0)
    world.settle()
    back_up({"storage": world.root}, copy, lambda _: None)
    (data,) = (copy / "storage" / "delta" / "customers" / "dataset").glob("*.parquet")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(StorageError, match=f"table customers/dataset: .*{data.name}"):
        restore(copy, {"storage": tmp_path / "elsewhere"}, lambda _: None)


def test_nothing_is_written_over(world: World, tmp_path: Path) -> None:
    world.land(0)
    parts = {"storage": world.root}
    with pytest.raises(BackupError, match=f"{world.root}, which it would copy"):
        back_up(parts, world.root / "copy", lambda _: None)
    back_up(parts, tmp_path / "copy", lambda _: None)
    with pytest.raises(BackupError, match=r"copy is not empty, it holds backup\.json"):
        back_up(parts, tmp_path / "copy", lambda _: None)
    with pytest.raises(BackupError, match="is not empty, it holds landing"):
        restore(tmp_path / "copy", parts, lambda _: None)
    (tmp_path / "copy" / "backup.json").unlink()
    with pytest.raises(BackupError, match=r"not a finished backup: it has no backup\.json"):
        restore(tmp_path / "copy", {"storage": tmp_path / "new"}, lambda _: None)


def test_the_copy_says_where_it_is_from(world: World, tmp_path: Path) -> None:
    world.land(0)
    back_up({"storage": world.root}, tmp_path / "copy", lambda _: None)
    assert json.loads((tmp_path / "copy" / "backup.json").read_text()) == {
        "storage": str(world.root)
    }
