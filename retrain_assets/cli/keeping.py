"""Commands for all that is stored: copy it, bring it back, remove what no one needs.

Not here: copying and removing.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click

from retrain_assets.cli.project import model_named
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


@click.command()
@click.argument("model")
@as_json
@one_line
def rebuild(model: str, *, as_json: bool) -> None:
    """Register again, from ledger and artifacts, what MLflow has lost of MODEL."""
    from retrain_assets.steps.rebuild import rebuild as step

    state = model_named(model).state(opened := storage())
    versions = step(state, opened.registry(model))
    if as_json:
        print_json({"model": model, "versions": versions})
    else:
        click.echo(f"{model}: {len(versions)} versions are registered, {versions[-1]} the newest")


@click.command()
@click.option("--keep-days", type=click.IntRange(1), default=7, help="Younger files stay; 7.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@as_json
@one_line
def vacuum(keep_days: int, *, dry_run: bool, as_json: bool) -> None:
    """Remove files of tables that neither the newest data nor a registered version needs."""
    from dataclasses import asdict

    from retrain_assets.steps.vacuum import vacuum as step

    done = step(storage(), hours=24 * keep_days, dry_run=dry_run)
    freed, files = sum(one.bytes for one in done), sum(one.files for one in done)
    if as_json:
        tables = [asdict(one) for one in done]
        print_json({"dry_run": dry_run, "bytes": freed, "files": files, "tables": tables})
        return
    for one in done:
        kept = f", keeps versions {', '.join(map(str, one.kept))}" if one.kept else ""
        lost = f", versions {', '.join(map(str, one.missing))} are lost" if one.missing else ""
        click.echo(f"{one.table}: {one.files} files, {one.bytes:,} bytes{kept}{lost}")
    click.echo(f"{'would free' if dry_run else 'freed'} {freed:,} bytes in {files} files")


def _parts() -> dict[str, Path]:
    """The storage root; and Dagster's state, where it is not below that."""
    root, state = storage().root, Path(os.environ["DAGSTER_HOME"], "data", "dagster").resolve()
    return {"storage": root} if state.is_relative_to(root) else {"storage": root, "dagster": state}


COMMANDS = (backup, restore, rebuild, vacuum)
