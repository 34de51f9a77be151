"""Everything Dagster loads: the components in `defs/`, their resources, and the executor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from retrain_assets.orchestration.sensors import run_failed_sensor

if TYPE_CHECKING:
    from collections.abc import Mapping


def build_defs(
    resource_overrides: Mapping[str, object] | None = None, project: Path | None = None
) -> dg.Definitions:
    """The definitions of a project.

    Args:
        resource_overrides: Resources that take the place of the shared ones, as tests want.
        project: A folder of the project; this repository's by default.
    """
    found = dg.load_from_defs_folder(path_within_project=project or Path(__file__).parent)
    shared = dg.Definitions(sensors=[run_failed_sensor()], executor=dg.in_process_executor)
    merged = dg.Definitions.merge(found, shared)
    if not resource_overrides:
        return merged
    return dg.Definitions(
        assets=merged.assets,
        schedules=merged.schedules,
        sensors=merged.sensors,
        jobs=merged.jobs,
        resources={**(merged.resources or {}), **resource_overrides},
        executor=merged.executor,
        component_tree=merged.component_tree,
    )


def component_tree(project: Path | None = None) -> dg.ComponentTree:
    """The components of a project, for their specs."""
    return dg.ComponentTree.for_project(project or Path(__file__).parent)


@dg.definitions
def defs() -> dg.Definitions:
    """What `dagster dev` and `dg` load."""
    return build_defs()
