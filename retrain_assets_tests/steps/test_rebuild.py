"""What MLflow lost is registered again as it was; what was changed meanwhile is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from retrain_assets.steps.operate import roll_back
from retrain_assets.steps.rebuild import rebuild
from retrain_assets.steps.report import status, verify
from retrain_assets.steps.reproduce import Reproduction, reproduce
from retrain_assets.stores.ledger import LedgerError
from retrain_assets.stores.models import ModelRegistry, RegistryError
from retrain_assets.stores.version_records import read_records
from retrain_assets_tests.killing import Point, kill_at
from retrain_assets_tests.world import World, new_world

ALIASES = ("candidate", "staging", "production")
AGAIN = "retrain_assets.steps.rebuild:register_again"


def registry(world: World) -> ModelRegistry:
    return world.storage.registry("churn")


def kept(world: World) -> dict[str, Any]:
    """What the registry says, apart from the ids that MLflow makes up."""
    there = registry(world)
    runs = [there.client.get_run(found.run_id).data for found in there.versions()]
    return {
        "versions": [(found.version, found.tags, found.metrics) for found in there.versions()],
        "texts": [there.text(found, "spec.json") for found in there.versions()],
        "params": [run.params for run in runs],
        "aliases": {alias: there.alias(alias) for alias in ALIASES},
        "head": there.ledger_head,
    }


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with two promotions, a candidate refused, and a rollback. Tests only read it."""
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("lived"), instance)
        world.land(*range(16))
        world.settle()
        for first in range(16, 36, 4):
            world.land(*range(first, first + 4), slope=-2.0)
            world.settle()
        roll_back(world.state, registry(world), None, "it is too bold", "the team")
        yield world


@pytest.fixture
def lost(lived: World, tmp_path: Path) -> World:
    """The same in another folder, where MLflow's database is gone."""
    root = tmp_path / "lost"
    shutil.copytree(lived.root, root, ignore=shutil.ignore_patterns("mlflow.db*"))
    return replace(lived, root=root)


def test_versions_aliases_and_head_are_as_they_were(lived: World, lost: World) -> None:
    before, actions = kept(lived), [row.action for row in lived.state.ledger.read().rows]
    assert actions.count("promote") >= 2, "the world must have been promoted in twice"
    assert actions[-1] == "rollback"
    made = rebuild(lost.state, there := registry(lost))
    assert made == sorted(version for version, *_ in before["versions"])
    assert kept(lost) == before
    for found in there.versions():
        assert there.client.get_run(found.run_id).data.metrics == found.metrics
        assert there.file(found.uri, "MLmodel") == registry(lived).file(
            registry(lived).version(found.version).uri, "MLmodel"
        )
    assert verify(lost.state, registry(lost)) == verify(lived.state, registry(lived))
    assert status(lost.state) == status(lived.state)
    assert rebuild(lost.state, registry(lost)) == made, "nothing is left to be done"
    assert kept(lost) == before


def test_the_loop_goes_on_from_it(lived: World, lost: World) -> None:
    newest = rebuild(lost.state, registry(lost))[-1]
    found = reproduce(lost.state, registry(lost), newest)
    assert found == Reproduction(identical=True, differences=())
    row = roll_back(lost.state, registry(lost), None, "bold is better", "the team")
    assert registry(lost).alias("production") == row.version
    with dg.DagsterInstance.ephemeral() as instance:
        on = replace(lost, instance=instance)
        on.spec = lived.spec.model_copy(update={"seed": 9})
        on.daemon.execute("churn_retrain", {}, {})
    assert registry(lost).alias("candidate") == newest + 1
    assert max(read_records(registry(lost))) == registry(lost).versions()[0].version


@pytest.mark.parametrize("name", ["model.skops", "spec.json", "record"])
def test_a_file_that_is_missing_or_was_changed_is_named_and_nothing_is_written(
    lost: World, name: str
) -> None:
    record = read_records(registry(lost))[2]
    folder = lost.root / "artifacts" / "churn"
    if name == "record":
        path, said = folder / "versions" / "2.json", "version 2: its record versions/2.json is"
        path.unlink()
    else:
        path = folder / next(file for file in record.files if file.endswith(name))
        path.write_bytes(path.read_bytes() + b" ")
        said = f"version 2: {path} has sha256"
    before = sorted(lost.root.rglob("*"))
    with pytest.raises(RegistryError, match="cannot be rebuilt") as refused:
        rebuild(lost.state, registry(lost))
    assert said in str(refused.value)
    assert sorted(lost.root.rglob("*")) == before


def test_a_record_that_was_changed_with_its_file_is_held_against_the_ledger(lost: World) -> None:
    record = read_records(registry(lost))[2]
    folder = lost.root / "artifacts" / "churn"
    other = folder / read_records(registry(lost))[1].model_file
    shutil.copy(other, folder / record.model_file)
    path = folder / "versions" / "2.json"
    first = read_records(registry(lost))[1].tags["sha256"]
    path.write_text(path.read_text().replace(record.tags["sha256"], first))
    with pytest.raises(RegistryError, match=r"version 2: .*model\.skops has sha256"):
        rebuild(lost.state, registry(lost))


def test_a_ledger_that_was_changed_is_not_rebuilt_from(
    lost: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = replace(lost.state.ledger.read(), misfit="row 1 is missing")
    monkeypatch.setattr("retrain_assets.stores.ledger.Ledger.read", lambda _: history)
    with pytest.raises(LedgerError, match="row 1 is missing"):
        rebuild(lost.state, registry(lost))


def test_a_registry_that_went_on_without_its_past_is_refused(lost: World) -> None:
    there = registry(lost)
    there.prepare()
    there.client.create_model_version("churn", "elsewhere")
    with pytest.raises(RegistryError, match=r"of which version 1 is another one: a rebuild wants"):
        rebuild(lost.state, there)
    assert [found.uri for found in there.versions()] == ["elsewhere"]


def test_a_number_that_nothing_knows_of_is_left_out(lost: World) -> None:
    records = lost.root / "artifacts" / "churn" / "versions"
    last = max(read_records(registry(lost)))
    path = records / f"{last + 2}.json"
    text = (records / f"{last}.json").read_text()
    path.write_text(text.replace(f'"version": {last}', f'"version": {last + 2}'))
    kill_at(Point("retrain_assets.steps.rebuild:free_places"), work, lost.root)
    assert rebuild(lost.state, registry(lost)) == [*range(1, last + 1), last + 2]
    numbers = [found.version for found in registry(lost).versions()]
    assert numbers == [last + 2, *range(last, 0, -1)]
    assert rebuild(lost.state, registry(lost))[-1] == last + 2


def work(root: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(root, instance)
        rebuild(world.state, registry(world))


@pytest.mark.parametrize(
    "point",
    [
        Point("mlflow:MlflowClient.create_model_version", 2),
        Point(AGAIN, 2, after=True),
        Point("retrain_assets.stores.models:ModelRegistry.set_alias", 2),
    ],
    ids=str,
)
def test_a_rebuild_that_was_killed_is_gone_on_with(lived: World, lost: World, point: Point) -> None:
    kill_at(point, work, lost.root)
    work(lost.root)
    assert kept(lost) == kept(lived)
