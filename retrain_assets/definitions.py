"""Everything Dagster loads: the components in `defs/`, their resources, and the executor."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from retrain_assets.components.landed_dataset import LandedDataset
from retrain_assets.components.retrained_model import RetrainedModel
from retrain_assets.components.spec_component import check_head
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.dagster_internals import discover_config_file, load_toml_as_dict
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.yaml import load_strictly

HERE = Path(__file__).parent


def build_defs(
    resource_overrides: Mapping[str, object] | None = None, project: Path = HERE
) -> dg.Definitions:
    """The definitions of a project.

    Args:
        resource_overrides: Resources that take the place of the shared ones, as tests want.
        project: A path within it; this one's by default.

    Raises:
        SpecError: A YAML file of the project is not to be read in one way only.
    """
    component_tree(project)
    found = dg.load_from_defs_folder(path_within_project=project)
    shared = dg.Definitions(executor=dg.in_process_executor)
    merged = dg.Definitions.merge(found, shared)
    if not resource_overrides:
        return merged
    return dg.Definitions(
        assets=merged.assets,
        asset_checks=merged.asset_checks,
        schedules=merged.schedules,
        sensors=merged.sensors,
        jobs=merged.jobs,
        resources={**(merged.resources or {}), **resource_overrides},
        executor=merged.executor,
        component_tree=merged.component_tree,
    )


def component_tree(project: Path = HERE) -> dg.ComponentTree:
    """The components of a project, for their specs; its YAML has been read strictly before.

    Dagster's own reading is kept busy for ever by an alias of aliases, and what it says of a
    mistake may show a secret that stands in the line.

    Args:
        project: A path within it; this one's by default.

    Raises:
        SpecError: A file of the project is not to be read in one way only.
    """
    tree = dg.ComponentTree.for_project(project)
    for path in sorted(tree.defs_module_path.rglob("defs.y*ml")):
        for document in load_strictly(path):
            check_head(document)
    return tree


def models(project: Path = HERE) -> dict[str, Model]:
    """The models of a project, by name."""
    tree = component_tree(project)
    return {found.spec.name: found.model(tree) for found in tree.get_all_components(RetrainedModel)}


def datasets(project: Path = HERE) -> dict[str, DatasetSpec]:
    """The datasets of a project, by name."""
    found = component_tree(project).get_all_components(LandedDataset)
    return {dataset.spec.name: dataset.spec for dataset in found}


@dataclass(frozen=True)
class Location:
    """Where the definitions of a project are.

    Args:
        folder: A path within the project.
        module: What Dagster loads.
        name: As the UI shows it.
    """

    folder: Path = HERE
    module: str = "retrain_assets.definitions"
    name: str = "retrain_assets"


def location_at(start: Path) -> Location:
    """The Dagster project at or above a folder; this one where there is none."""
    config = discover_config_file(start)
    if config is None:
        return Location()
    settings = load_toml_as_dict(config)
    settings = settings if config.stem == "dg" else settings["tool"]["dg"]
    project = settings.get("project", {})
    module = project.get("code_location_target_module", f"{project.get('root_module')}.definitions")
    return Location(config.parent, module, project.get("code_location_name", config.parent.name))


@dg.definitions
def defs() -> dg.Definitions:
    """What `dagster dev` and `dg` load."""
    return build_defs()
