"""A renaming or retirement that cannot be done changes nothing."""

from pathlib import Path

import pytest
import yaml

from retrain_assets.steps.upkeep.lifecycle import Change, rename
from retrain_assets.stores.project import list_parts
from retrain_assets.stores.storage import Storage
from retrain_assets_tests.world import DATASET, MODEL


def test_a_file_that_cannot_be_changed_is_refused_before_anything_has_moved(tmp_path: Path) -> None:
    for kind, attributes in (("LandedDataset", DATASET), ("RetrainedModel", MODEL)):
        file = tmp_path / "defs" / attributes["name"] / "defs.yaml"
        file.parent.mkdir(parents=True)
        component = {"type": f"retrain_assets.{kind}", "attributes": attributes}
        file.write_text(yaml.safe_dump(component), encoding="utf-8")
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("dataset: customers", "dataset:\n    customers"), encoding="utf-8")
    storage, parts = Storage(tmp_path / "data"), [*list_parts(tmp_path / "defs")]
    table = storage.root / "delta" / "customers" / "dataset"
    table.mkdir(parents=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (part,) = (part for part in parts if part.kind == "dataset")
    with pytest.raises(ValueError, match="write `dataset: customers` on one line"):
        rename(storage, Change(part, parts, "a test", "me"), "clients")
    assert table.is_dir()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
