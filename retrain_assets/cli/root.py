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
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="retrain-assets")
def main() -> None:
    """Keep tabular models fresh."""
    root = project_root(Path.cwd())
    click.get_current_context().obj = Path.cwd()
    os.environ.setdefault("DAGSTER_HOME", str(root))
    # Relative paths of dagster.yaml follow the current directory.
    os.chdir(root)


def one_line(command: Callable[..., None]) -> Callable[..., None]:
    """Errors that people can act on become one line; others keep their traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except click.Abort:  # a RuntimeError without a word
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


def print_json(value: object) -> None:
    """Print a result for machines."""
    click.echo(json.dumps(value, indent=2, default=str))


def print_decisions(rows: list[dict[str, Any]]) -> None:
    """Two lines a decision: what, and why."""
    width = max((len(row["model"]) for row in rows), default=0)
    for row in rows:
        head = (
            f"{row['as_of']}  {row['model']:<{width}}  {row['action']:<8}  version {row['version']}"
        )
        click.echo(click.style(head, fg=COLOURS.get(row["action"]), bold=True), nl=False)
        click.echo(f"  because of {', '.join(row['causes'])}")
        click.echo(f"            {row['reason']}")
