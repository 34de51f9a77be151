"""The YAML becomes definitions, or a refusal that says where and what would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox

from retrain_assets import LandedDataset, RetrainedModel
from retrain_assets_tests.world import DATASET, MODEL


def document(kind: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"retrain_assets.{kind}", "attributes": attributes}


def asset_keys(text: str) -> set[str]:
    """Load a project of one YAML file and name its assets."""
    with create_defs_folder_sandbox() as sandbox:
        folder = Path(sandbox.defs_folder_path) / "mine"
        folder.mkdir(parents=True)
        (folder / "defs.yaml").write_text(text, encoding="utf-8")
        with sandbox.build_all_defs() as definitions:
            graph = definitions.resolve_asset_graph()
            return {key.to_user_string() for key in graph.get_all_asset_keys()}


def project(model: dict[str, Any] | None = None, dataset: dict[str, Any] | None = None) -> str:
    parts = [
        document("LandedDataset", DATASET | (dataset or {})),
        document("RetrainedModel", MODEL | (model or {})),
    ]
    return yaml.safe_dump_all(parts)


def refusal(text: str) -> str:
    with pytest.raises(Exception, match=r"(?s).+") as caught:
        asset_keys(text)
    reasons, error = [], caught.value
    while error is not None:
        reasons.append(str(error))
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return "\n".join(reasons)


def test_one_yaml_file_makes_datasets_and_models_in_another_project() -> None:
    assert {"customers/dataset", "churn/features", "churn/production_model"} <= asset_keys(
        project()
    )


def test_a_second_model_is_a_second_document_over_the_same_dataset() -> None:
    text = project() + "---\n" + yaml.safe_dump(document("RetrainedModel", MODEL | {"name": "two"}))
    assert {"churn/evaluation", "two/evaluation"} <= asset_keys(text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": "customer"}, "no LandedDataset named customer; there are customers"),
        ({"lookups": {"plans": {"on": ["plan"]}}}, "no LandedDataset named plans"),
        ({"windwos": {}}, "windwos"),
        ({"gate": {"metric": "rmse"}}, "rmse"),
    ],
)
def test_a_mistaken_model_is_refused(change: dict[str, Any], said: str) -> None:
    assert said in refusal(project(model=change))


def test_a_lookup_on_a_column_that_is_not_there_is_refused() -> None:
    other = DATASET | {"name": "plans"}
    text = project(model={"lookups": {"plans": {"on": ["tariff"]}}})
    text += "---\n" + yaml.safe_dump(document("LandedDataset", other))
    assert "lookups.plans: tariff not among the columns of customers" in refusal(text)


def test_a_key_that_stands_twice_is_refused_by_line() -> None:
    text = project().replace("  name: churn\n", "  name: churn\n  seed: 1\n  seed: 2\n")
    assert "'seed' stands twice" in refusal(text)


def test_the_package_offers_its_two_components() -> None:
    assert {LandedDataset.__name__, RetrainedModel.__name__} == {"LandedDataset", "RetrainedModel"}
    import retrain_assets

    with pytest.raises(AttributeError, match="nothing"):
        retrain_assets.nothing  # noqa: B018
