"""Dagster's own scaffolder writes the YAML of a model from a sample."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from dagster.components.component_scaffolding import scaffold_object

from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.yaml import load_strictly
from retrain_assets_tests.domain.start.test_guess import orders


def scaffold(folder: Path, **params: str) -> Path:
    place = folder / "defs" / "lateness"
    kind = "retrain_assets.RetrainedModel"
    scaffold_object(place, kind, json.dumps(params), "yaml", folder)
    return place / "defs.yaml"


def test_a_sample_becomes_yaml_and_the_first_delivery(tmp_path: Path) -> None:
    orders(12).write_csv(tmp_path / "orders.csv")
    (tmp_path / "workspace.yaml").touch()
    file = scaffold(tmp_path, sample=str(tmp_path / "orders.csv"), target="late")
    dataset, model = load_strictly(file)
    assert dataset.value["attributes"]["name"] == "orders"
    assert ModelSpec.model_validate(model.value["attributes"]).name == "lateness"
    assert (tmp_path / "data" / "landing" / "orders" / "orders.csv").exists()
    with pytest.raises(click.ClickException, match="is there already"):
        scaffold(tmp_path, sample=str(tmp_path / "orders.csv"), target="late")


def test_a_sample_that_cannot_land_leaves_no_yaml(tmp_path: Path) -> None:
    orders(12).write_csv(tmp_path / "orders.csv")
    (tmp_path / "workspace.yaml").touch()
    landed = tmp_path / "data" / "landing" / "orders" / "orders.csv"
    landed.parent.mkdir(parents=True)
    landed.write_text("something else", encoding="utf-8")
    with pytest.raises(click.ClickException, match="is there already: name the dataset"):
        scaffold(tmp_path, sample=str(tmp_path / "orders.csv"), target="late")
    assert list(tmp_path.rglob("defs.yaml")) == []


def test_without_a_sample_it_writes_an_empty_document(tmp_path: Path) -> None:
    (document,) = load_strictly(scaffold(tmp_path))
    assert document.value["type"] == "retrain_assets.RetrainedModel"
