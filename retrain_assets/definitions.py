"""Everything Dagster loads: the components in `defs/`, their resources, and the executor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from retrain_assets.orchestration.sensors import run_failed_sensor

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent


def build_defs(resource_overrides: Mapping[str, object] | None = None) -> dg.Definitions:
    """The definitions of this project.

    Args:
        resource_overrides: Resources that take the place of the shared ones, as tests want.
    """
    found = dg.load_from_defs_folder(path_within_project=HERE)
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


def component_tree() -> dg.ComponentTree:
    """The components of this project, for their specs."""
    return dg.ComponentTree.for_project(HERE)


@dg.definitions
def defs() -> dg.Definitions:
    """What `dagster dev` and `dg` load."""
    return build_defs()
