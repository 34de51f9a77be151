"""Everything Dagster loads: the components in `defs/`, their resources, and the executor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from retrain_assets.components.spec_component import check_head
from retrain_assets.orchestration.sensors import run_failed_sensor
from retrain_assets.specs.reading import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    shared = dg.Definitions(sensors=[run_failed_sensor()], executor=dg.in_process_executor)
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


@dg.definitions
def defs() -> dg.Definitions:
    """What `dagster dev` and `dg` load."""
    return build_defs()
