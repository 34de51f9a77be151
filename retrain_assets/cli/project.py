"""The project a command is about: its datasets and models by name, and its jobs.

Not here: what a command does with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from retrain_assets.definitions import Location
    from retrain_assets.orchestration.model_assets import Model
    from retrain_assets.specs.dataset import DatasetSpec

T = TypeVar("T")


def models() -> dict[str, Model]:
    """The project's models, by name."""
    from retrain_assets import definitions

    return definitions.models(location().folder)


def datasets() -> dict[str, DatasetSpec]:
    """The project's datasets, by name."""
    from retrain_assets import definitions

    return definitions.datasets(location().folder)


def model_named(name: str) -> Model:
    """A model.

    Raises:
        LookupError: There is none of that name; the message lists those there are.
    """
    return named("model", models(), name)


def dataset_named(name: str) -> DatasetSpec:
    """A dataset; raises as `model_named`."""
    return named("dataset", datasets(), name)


def named(what: str, known: Mapping[str, T], name: str) -> T:
    """What has a name.

    Raises:
        LookupError: There is none of that name; the message lists those there are.
    """
    if name not in known:
        raise LookupError(f"no {what} named {name!r}; there are {', '.join(sorted(known))}")
    return known[name]


def execute(
    job: str,
    tags: dict[str, str] | None = None,
    run_config: dict[str, Any] | None = None,
) -> str:
    """Execute a job in this process, recorded where the UI shows it.

    Returns:
        The run's id.
    """
    import dagster as dg
    from rich.console import Console

    from retrain_assets.definitions import build_defs
    from retrain_assets.orchestration.ticks import InProcessDaemon

    place = location()
    with dg.DagsterInstance.get() as instance, Console(stderr=True).status(f"{job} …"):
        definitions = build_defs(project=place.folder)
        daemon = InProcessDaemon(definitions, instance, place.module, place.name)
        return daemon.execute(job, tags or {}, run_config or {})


def location() -> Location:
    """The Dagster project of the current folder; the one of this package where there is none."""
    from retrain_assets.definitions import location_at

    return location_at(Path.cwd())
