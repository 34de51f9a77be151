"""Commands that change the YAML of a project: rename and retire.

Not here: what they do (`steps/upkeep/lifecycle.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import click
import dagster as dg

from retrain_assets import definitions
from retrain_assets.cli import base
from retrain_assets.cli.base import command, show
from retrain_assets.cli.decide import by_option, reason_option
from retrain_assets.components.components import RetrainedModel
from retrain_assets.domain.start.meaning import slug
from retrain_assets.orchestration import tick as passes
from retrain_assets.orchestration.dagster_internals import NOT_FINISHED_STATUSES
from retrain_assets.orchestration.dagster_internals.ticks import has_daemon
from retrain_assets.steps.upkeep import lifecycle
from retrain_assets.stores.project import list_parts

yes_option = click.option("--yes", is_flag=True, help="Do not ask before anything is changed.")


@command
@click.argument("name")
@reason_option
@by_option
@yes_option
def retire(name: str, *, yes: bool, **why: str) -> None:
    """End the work on a model, or on a dataset that no model uses; what is stored stays."""
    change = _plan(name, **why)
    lines = lifecycle.describe_retirement(change)
    _confirm(f"{name} retires", lines, yes=yes)
    with _alone():
        lifecycle.retire(base.storage(), change)
    value = {"name": name, "kind": change.part.kind, "action": "retire", "notes": lines, **why}
    show(value, f"{change.part.kind} {name} is retired; {_RELOAD}")


@command
@click.argument("name")
@click.argument("new")
@reason_option
@by_option
@yes_option
def rename(name: str, new: str, *, yes: bool, **why: str) -> None:
    """Give a model or dataset another name, with its tables, versions and pages.

    If it is killed, the same command goes on where that one ended.
    """
    if slug(new) != new:
        raise ValueError(f"{new!r} is not a name for a model or dataset: use {slug(new)}")
    change = _plan(name, **why)
    if change.part.attributes.get("for_each"):
        raise ValueError(
            f"{name} has `for_each`, and the tables and versions of its segments have names of "
            "their own: leave its name, or retire it and start another"
        )
    lines = lifecycle.describe_renaming(change, base.storage(), new)
    _confirm(f"{name} becomes {new}", lines, yes=yes)
    with _alone():
        lifecycle.rename(base.storage(), change, new)
    kind = change.part.kind
    value = {"name": name, "kind": kind, "action": "rename", "new": new, "notes": lines, **why}
    show(value, f"{kind} {name} is {new} now; {_RELOAD}")


_RELOAD = "start Dagster and servers of predictions again, so that they read the YAML"


def _plan(name: str, reason: str, by: str) -> lifecycle.Change:
    """Return the change of a model or dataset, whose YAML may be parked by a killed command."""
    folder = definitions.location_at(base.start_folder()).folder
    if folder == definitions.HERE:
        raise LookupError("no project of yours is in this folder or above it: go to your project")
    tree = definitions.component_tree(base.location().folder)
    parts = [*list_parts(tree.defs_module_path)]
    part = base.get("model or dataset", {part.name: part for part in parts}, name)
    reason, by = (" ".join(text.split()) for text in (reason, by))
    models = tree.get_all_components(RetrainedModel) if part.attributes.get("for_each") else []
    segments = [sorted(model.names - {name}) for model in models if model.spec.name == name]
    return lifecycle.Change(part, parts, reason, by, *segments)


def _confirm(statement: str, lines: list[str], *, yes: bool) -> None:
    click.echo("\n".join([f"{statement}:", *(f"  {line}" for line in lines)]), err=True)
    if not yes:
        base.ask(statement)


@contextmanager
def _alone() -> Iterator[None]:
    """Hold off ticks; nothing else may work on the names that change.

    Raises:
        ValueError: A daemon or a run is at work.
    """
    root = base.storage()
    with passes.alone(root.work, place=root.place), base.open_instance() as instance:
        if has_daemon(instance):
            raise ValueError(
                "Dagster's daemon is running, and works with the present names: stop it (or "
                "`dagster dev`), wait 90 s for its last sign of life to end, and run this again"
            )
        if runs := instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES), limit=1):
            raise ValueError(f"run {runs[0].run_id} of {runs[0].job_name} is not finished: wait")
        yield
