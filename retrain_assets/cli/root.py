"""What all commands share: where they work, how they fail and what they print.

Not here: any command.
"""

from __future__ import annotations

import json
import os
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrain_assets.specs.base import SpecError
from retrain_assets.stores.storage import Storage, project_root, storage_from

if TYPE_CHECKING:
    from collections.abc import Callable

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
