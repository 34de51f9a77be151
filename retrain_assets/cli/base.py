"""What all commands share: where they work, how they fail and what they print.

The project a command is about: its datasets and models by name, and its jobs.

Not here: any command.
"""

import json
import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from retrain_assets.definitions import Location
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.specs.base import SpecError
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.storage import Storage, project_root, storage_from

COLOURS = {"promote": "green", "reject": "red", "hold": "yellow", "rollback": "magenta"}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="retrain-assets")
def main() -> None:
    """Keep tabular models fresh."""
    root = project_root(Path.cwd())
    click.get_current_context().obj = Path.cwd()
    os.environ.setdefault("DAGSTER_HOME", str(root))
    # Relative paths of dagster.yaml follow the current directory.
    os.chdir(root)


def command(
    run: Callable[..., None], group: click.Group = main, name: str | None = None
) -> click.Command:
    """A command of a group: its errors are one line, and it takes `--json`, which `show` heeds."""

    @wraps(run)
    def wrapped(*args: Any, as_json: bool, **kwargs: Any) -> None:
        del as_json
        one_line(run)(*args, **kwargs)

    made = group.command(name)(wrapped)
    option = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON and nothing else.")
    made.params.append(option)
    return made


def one_line(command: Callable[..., None]) -> Callable[..., None]:
    """Errors that people can act on become one line; others keep their traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (click.Abort, click.exceptions.Exit):  # RuntimeErrors without a word
            raise
        except (ValueError, RuntimeError, LookupError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except Exception as error:
            # Dagster wraps a mistake in the YAML in a drawing of the whole project.
            if isinstance(error.__cause__, SpecError):
                raise click.ClickException(str(error.__cause__)) from error
            from sqlalchemy.exc import OperationalError

            if isinstance(error, OperationalError):
                raise click.ClickException(f"Dagster's database: {error.orig}") from error
            raise

    return wrapped


def storage() -> Storage:
    """The storage that the environment names, `data/` of the project by default."""
    return storage_from(os.environ, Path.cwd())


def here() -> Path:
    """The folder that the command was given in, which relative paths start from."""
    return Path(click.get_current_context().find_root().obj)


def is_json() -> bool:
    """Whether results are for machines."""
    return bool(click.get_current_context().params["as_json"])


def show(value: object, said: str) -> None:
    """Print a result: the value as JSON with `--json`, else what is said of it."""
    click.echo(json.dumps(value, indent=2, default=str) if is_json() else said)


def decisions_said(rows: list[dict[str, Any]]) -> str:
    """Two lines a decision: what, and why."""
    width = max((len(row["model"]) for row in rows), default=0)
    lines = []
    for row in rows:
        head = (
            f"{row['as_of']}  {row['model']:<{width}}  {row['action']:<8}  version {row['version']}"
        )
        styled = click.style(head, fg=COLOURS.get(row["action"]), bold=True)
        lines += [
            f"{styled}  because of {', '.join(row['causes'])}",
            f"            {row['reason']}",
        ]
    return "\n".join(lines)


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
    from retrain_assets.orchestration.dagster_internals.ticks import InProcessDaemon

    place = location()
    with dg.DagsterInstance.get() as instance, Console(stderr=True).status(f"{job} …"):
        definitions = build_defs(project=place.folder)
        daemon = InProcessDaemon(definitions, instance, place.module, place.name)
        return daemon.execute(job, tags or {}, run_config or {})


def location() -> Location:
    """The Dagster project of the current folder; the one of this package where there is none."""
    from retrain_assets.definitions import location_at

    return location_at(Path.cwd())
