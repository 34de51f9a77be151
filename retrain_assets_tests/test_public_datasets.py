"""The data sets of docs/datasets.md are adopted by their YAML alone."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
import yaml

from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.data.ingest import ingest
from retrain_assets.steps.data.intake import Intake
from retrain_assets.stores.storage import Storage

TEXT = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(yaml|csv)\n(.*?)```", re.DOTALL)
BLOCKS = [content for _, content in BLOCK.findall(TEXT)]
PAIRS = {
    attributes["name"]: (attributes, lines)
    for described, lines in zip(BLOCKS[::2], BLOCKS[1::2], strict=True)
    if (attributes := yaml.safe_load(described)["attributes"])
}


@pytest.mark.parametrize("name", PAIRS)
def test_every_row_of_a_public_data_set_is_accepted(tmp_path: Path, name: str) -> None:
    attributes, lines = PAIRS[name]
    spec, storage = DatasetSpec.model_validate(attributes), Storage(tmp_path)
    name = str(spec.landing).replace("*", "1").replace("{partition}", spec.partition.example)
    path = storage.landing / name
    path.parent.mkdir(parents=True)
    path.write_text(lines, encoding="utf-8")
    intake = Intake(storage, spec)
    keys = sorted(intake.keys(intake.unread))
    done = ingest(storage, spec, keys, "run")
    rows = done.rows_by_partition(done.requested)
    assert (rows["accepted"].sum(), rows["quarantined"].sum()) == (3, 0)
    assert done.published == tuple(keys)


def test_words_for_no_value_are_no_values(tmp_path: Path) -> None:
    nulls = {"adult": "workclass", "credit": "MonthlyIncome", "air": "CO(GT)"}
    for name, column in nulls.items():
        test_every_row_of_a_public_data_set_is_accepted(tmp_path / name, name)
        rows = Storage(tmp_path / name).tables.scan(f"{name}/dataset").collect()
        assert rows[column].null_count() == 1
        assert rows.select(pl.all().null_count()).sum_horizontal().item() >= 1
