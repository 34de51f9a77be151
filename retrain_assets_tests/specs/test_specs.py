"""A mistake in the YAML is refused before anything runs, and the message names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import retrain_assets
from retrain_assets.specs.base import SpecError, load_strictly
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec

DATASET: dict[str, Any] = {
    "name": "d",
    "landing": "d/{partition}.csv",
    "partition": {"by": "day", "column": "day", "start": "2013-01-01"},
    "columns": {"day": {"type": "date"}, "x": {"type": "float"}, "c": {"type": "category"}},
    "key": ["day"],
}
MODEL: dict[str, Any] = {
    "name": "m",
    "dataset": "d",
    "features": {"sql": "SELECT x FROM rows"},
    "target": {"column": "y", "kind": "binary"},
    "estimator": {"class": "sklearn.linear_model.LogisticRegression"},
    "gate": {"metric": "log_loss"},
}


def test_the_examples_are_sound() -> None:
    assert DatasetSpec.model_validate(DATASET).format == "csv"
    assert ModelSpec.model_validate(MODEL).windows.train == 60


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"nam": "d"}, "nam"),
        ({"name": "../x"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 300}, "name"),
        ({"landing": "../{partition}.csv"}, "landing"),
        ({"landing": "/etc/{partition}.csv"}, "landing"),
        ({"landing": "d/{partition}.xlsx"}, "xlsx"),
        ({"delta": "s3://bucket/table"}, "either"),
        ({"key": ["missing"]}, "missing"),
        ({"columns": {}}, "columns"),
        ({"columns": {**DATASET["columns"], "_x": {"type": "int"}}}, "_x"),
        ({"columns": {**DATASET["columns"], "x": {"type": "flaot"}}}, "type"),
        ({"columns": {**DATASET["columns"], "x": {"type": "float", "min": 2, "max": 1}}}, "min"),
        ({"columns": {**DATASET["columns"], "x": {"type": "float", "min": "nan"}}}, "finite"),
        ({"columns": {**DATASET["columns"], "c": {"type": "category", "min": 1}}}, "min"),
        ({"columns": {**DATASET["columns"], "x": {"type": "int", "allowed": ["a"]}}}, "allowed"),
        ({"partition": {"by": "day"}}, "column"),
        ({"partition": {**DATASET["partition"], "column": "x"}}, "x"),
        ({"partition": {**DATASET["partition"], "timezone": "Mars/Base"}}, "Mars/Base"),
        ({"partition": {**DATASET["partition"], "start": "2013-02-30"}}, "2013-02-30"),
        ({"partition": {**DATASET["partition"], "end": "2012-01-01"}}, "2012-01-01"),
        ({"quarantine": {"max_fraction": 1.5}}, "max_fraction"),
    ],
)
def test_a_mistaken_dataset_is_refused_by_field(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        DatasetSpec.model_validate(DATASET | change)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"features": {}}, "sql"),
        ({"features": {"python": "not a reference"}}, "python"),
        ({"gate": {"metric": "rmse"}}, "rmse"),
        ({"gate": {"metric": "log_loss", "confidence": 1.2}}, "confidence"),
        ({"target": {"column": "y", "kind": "binary", "positive_share": [0.6, 0.1]}}, "range"),
        ({"windows": {"train": 0}}, "train"),
        ({"lookups": {"w": {"on": ["x"], "lag": "1 hour"}}}, "duration"),
        ({"lookups": {"w": {"on": ["x"], "lag": "1h"}}}, "as_of"),
        ({"lookups": {"w": {"on": ["x"], "as_of": "t", "lag": "2h", "tolerance": "1h"}}}, "below"),
        ({"lookups": {"d": {"on": ["x"]}}}, "own lookup"),
        ({"estimator": {"class": "os.system"}}, "class"),
        ({"estimator": {}}, "class"),
        ({"triggers": {"data_drift": {"threshold": "nan"}}}, "threshold"),
        ({"triggers": {"data_drift": {"threshold": -1}}}, "threshold"),
        ({"triggers": {"performance": {"metric": "log_loss"}}}, "max_drop"),
        ({"triggers": {"performance": {"metric": "mae", "max_drop": 0.1}}}, "mae"),
        ({"schedule": "every monday"}, "schedule"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_mistaken_model_is_refused_by_field(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        ModelSpec.model_validate(MODEL | change)


def test_a_bare_on_key_is_understood_as_dagster_reads_it() -> None:
    spec = ModelSpec.model_validate(MODEL | {"lookups": {"w": {True: ["x"]}}})
    assert spec.lookups["w"].on == ["x"]


def test_the_recipe_changes_with_what_is_fitted_and_with_nothing_else() -> None:
    recipe = ModelSpec.model_validate(MODEL).recipe
    assert ModelSpec.model_validate(MODEL | {"seed": 1}).recipe != recipe
    assert ModelSpec.model_validate(MODEL | {"notify": {"slack": "#x"}}).recipe == recipe


def test_strict_reading_keeps_words_that_yaml_1_1_makes_booleans(tmp_path: Path) -> None:
    path = tmp_path / "defs.yaml"
    path.write_text("on: [NO, yes, off]\nday: 2013-01-01\nreal: true\n", encoding="utf-8")
    assert load_strictly(path) == [{"on": ["NO", "yes", "off"], "day": "2013-01-01", "real": True}]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3.*'a' stands twice"),
        ("- a\n", "list"),
        ("1: x\n", "line 1.*not text"),
        ("a: !!python/object/apply:os.system [ls]\n", "python"),
        ("a: [1\n", "line 2"),
    ],
)
def test_strict_reading_refuses_by_line(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "defs.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=named):
        load_strictly(path)


def test_every_shipped_document_is_sound_and_every_field_described() -> None:
    paths = sorted((Path(retrain_assets.__file__).parent / "defs").glob("*/defs.yaml"))
    documents = [document for path in paths for document in load_strictly(path)]
    classes = {"LandedDataset": DatasetSpec, "RetrainedModel": ModelSpec}
    names = [
        classes[item["type"].partition(".")[2]].model_validate(item["attributes"]).name
        for item in documents
    ]
    assert {"flights", "weather", "planes", "flight_delay"} <= set(names)
    for schema in (DatasetSpec.model_json_schema(), ModelSpec.model_json_schema()):
        for part in (schema, *schema["$defs"].values()):
            undescribed = [n for n, f in part["properties"].items() if "description" not in f]
            assert undescribed == [], part["title"]
