"""Everything Dagster loads: the components in `defs/`, their resources, and the executor.

Not here: what a component makes of its YAML.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import dagster as dg

from retrain_assets.components import components
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.dagster_internals import (
    disable_dagster_warnings,
    discover_config_file,
    load_toml_as_dict,
)
from retrain_assets.specs.base import SpecError
from retrain_assets.specs.dataset import DatasetSpec

HERE = Path(__file__).parent


def build_defs(
    resource_overrides: Mapping[str, object] | None = None, project: Path = HERE
) -> dg.Definitions:
    """Return the definitions of a project.

    Args:
        resource_overrides: Resources that take the place of the shared ones, for tests.
        project: A path within it; this one's by default.

    Raises:
        SpecError: The YAML of the project is mistaken.
    """
    with disable_dagster_warnings():  # about the betas that its components use themselves
        tree = component_tree(project)
        # Of the folder: the whole tree would describe every component type as JSON besides.
        loaded = tree.build_defs(tree.defs_module_path)
    return dg.Definitions(
        assets=loaded.assets,
        asset_checks=loaded.asset_checks,
        schedules=loaded.schedules,
        sensors=loaded.sensors,
        jobs=loaded.jobs,
        resources={**(loaded.resources or {}), **(resource_overrides or {})},
        executor=dg.in_process_executor,
        component_tree=loaded.component_tree,
    )


def component_tree(project: Path = HERE) -> dg.ComponentTree:
    """Return the components of a project, for their specs; its YAML has been read strictly before.

    An alias of aliases keeps Dagster's own reading busy for ever, and its messages about a mistake
    may show a secret that stands in the line.

    Args:
        project: A path within it; this one's by default.

    Raises:
        SpecError: A file cannot be read in one way only, or does not fit its spec.
    """
    if project == HERE:  # which has no settings of a project beside it once it is installed
        module = import_module("retrain_assets.defs")
        tree = dg.ComponentTree(
            defs_module=module, project_root=HERE.parent, code_location_name="retrain_assets"
        )
    else:
        tree = dg.ComponentTree.for_project(project)
    if messages := [*components.list_refusals(tree.defs_module_path)]:
        raise SpecError("\n".join(messages))
    return tree


def models(project: Path = HERE) -> dict[str, Model]:
    """Return the models of a project by name, unless a part of its YAML is mistaken."""
    tree = _checked_tree(project)
    retrained = tree.get_all_components(components.RetrainedModel)
    groups = [component.model(tree) for component in retrained]
    return {name: member for group in groups for name, member in group.members.items()}


def component_of(model: str, project: Path = HERE) -> components.RetrainedModel:
    """Return the component of a model that has segments, or of any other."""
    retrained = _checked_tree(project).get_all_components(components.RetrainedModel)
    return next(component for component in retrained if component.spec.name == model)


def datasets(project: Path = HERE) -> dict[str, DatasetSpec]:
    """Return the datasets of a project by name, unless a part of its YAML is mistaken."""
    return components.dataset_specs(_checked_tree(project))


def _checked_tree(project: Path) -> dg.ComponentTree:
    """Return the components of a project after the checks that also loading makes."""
    tree = component_tree(project)
    for component in tree.get_all_components(components.SpecComponent):  # type: ignore[type-abstract]
        component.check(tree)
    return tree


@dataclass(frozen=True)
class Location:
    """The place of a project's definitions.

    Args:
        folder: A path within the project.
        module: The module that Dagster loads.
        name: The name that the UI shows.
    """

    folder: Path = HERE
    module: str = "retrain_assets.definitions"
    name: str = "retrain_assets"


def location_at(start: Path) -> Location:
    """Return the Dagster project at or above a folder; this one where there is none."""
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
    """Return what `dagster dev` and `dg` load."""
    return build_defs()
