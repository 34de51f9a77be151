"""Commands that copy all that is stored, and bring it back.

Not here: copying.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click

from retrain_assets.cli.root import as_json, one_line, print_json, storage

folder = click.argument("folder", type=click.Path(path_type=Path))


@click.command()
@folder
@as_json
@click.pass_obj
@one_line
def backup(here: Path, folder: Path, *, as_json: bool) -> None:
    """Copy the storage root and Dagster's state into a new FOLDER, while work goes on."""
    from retrain_assets.stores.backup import back_up

    files = back_up(_parts(), here / folder, partial(click.echo, err=True))
    if as_json:
        print_json({"folder": str(folder), "files": files})
    else:
        click.echo(f"{files:,} files are in {folder}")


@click.command()
@folder
@as_json
@click.pass_obj
@one_line
def restore(here: Path, folder: Path, *, as_json: bool) -> None:
    """Bring a backup back to the storage root, which must be empty, and verify each table."""
    from retrain_assets.stores.backup import restore as bring_back

    tables = bring_back(here / folder, _parts(), partial(click.echo, err=True))
    if as_json:
        print_json({"folder": str(folder), "tables": tables})
    else:
        click.echo(f"{tables} tables are restored, and hold what was written")


def _parts() -> dict[str, Path]:
    """The storage root; and Dagster's state, where it is not below that."""
    root, state = storage().root, Path(os.environ["DAGSTER_HOME"], "data", "dagster").resolve()
    return {"storage": root} if state.is_relative_to(root) else {"storage": root, "dagster": state}


COMMANDS = (backup, restore)
