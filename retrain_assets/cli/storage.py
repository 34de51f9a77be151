"""The commands that keep the storage root: backup, restore and vacuum.

Not here: how files are copied and removed.
"""

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from retrain_assets.cli.base import command, show, start_folder, storage
from retrain_assets.specs.base import number_of
from retrain_assets.steps.upkeep.vacuum import vacuum as remove_files
from retrain_assets.stores.backup import back_up
from retrain_assets.stores.backup import restore as bring_back

folder = click.argument("folder", type=click.Path(path_type=Path))


@command
@folder
def backup(folder: Path) -> None:
    """Copy the storage root and Dagster's state into a new FOLDER; runs may go on meanwhile."""
    files = back_up(_parts(), start_folder() / folder, partial(click.echo, err=True))
    show({"folder": str(folder), "files": files}, f"{folder} holds {number_of(files, 'file')}")


@command
@folder
def restore(folder: Path) -> None:
    """Bring a backup back to the storage root, which must be empty, and verify each table."""
    tables = bring_back(start_folder() / folder, _parts(), partial(click.echo, err=True))
    message = f"{number_of(tables, 'table')} restored, with what was written"
    show({"folder": str(folder), "tables": tables}, message)


@command
@click.option("--keep-days", type=click.IntRange(1), default=7, help="Younger files stay; 7.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
def vacuum(keep_days: int, *, dry_run: bool) -> None:
    """Remove table files that neither the newest data nor a registered version needs."""
    tables = remove_files(storage(), hours=24 * keep_days, dry_run=dry_run)
    freed, files = sum(table.bytes for table in tables), sum(table.files for table in tables)
    lines = []
    for table in tables:
        line = f"{table.table}: {number_of(table.files, 'file')}, {table.bytes:,} bytes"
        if table.kept:
            line += f", keeps versions {', '.join(map(str, table.kept))}"
        if table.missing:
            line += f", versions {', '.join(map(str, table.missing))} are lost"
        lines.append(line)
    lines.append(
        f"{'would free' if dry_run else 'freed'} {freed:,} bytes in {number_of(files, 'file')}"
    )
    totals = {"dry_run": dry_run, "bytes": freed, "files": files}
    show({**totals, "tables": [asdict(table) for table in tables]}, "\n".join(lines))


def _parts() -> dict[str, Path]:
    """Return the storage root, and Dagster's state where it lies elsewhere."""
    root, state = storage().root, Path(os.environ["DAGSTER_HOME"], "data", "dagster").resolve()
    return {"storage": root} if state.is_relative_to(root) else {"storage": root, "dagster": state}
