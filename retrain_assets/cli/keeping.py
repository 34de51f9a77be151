"""Commands for all that is stored: copy it, bring it back, remove what no one needs.

Not here: copying and removing.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click

from retrain_assets.cli.project import model_named
from retrain_assets.cli.root import command, here, show, storage

folder = click.argument("folder", type=click.Path(path_type=Path))


@command
@folder
def backup(folder: Path) -> None:
    """Copy the storage root and Dagster's state into a new FOLDER, while work goes on."""
    from retrain_assets.stores.backup import back_up

    files = back_up(_parts(), here() / folder, partial(click.echo, err=True))
    show({"folder": str(folder), "files": files}, f"{files:,} files are in {folder}")


@command
@folder
def restore(folder: Path) -> None:
    """Bring a backup back to the storage root, which must be empty, and verify each table."""
    from retrain_assets.stores.backup import restore as bring_back

    tables = bring_back(here() / folder, _parts(), partial(click.echo, err=True))
    said = f"{tables} tables are restored, and hold what was written"
    show({"folder": str(folder), "tables": tables}, said)


@command
@click.argument("model")
def rebuild(model: str) -> None:
    """Register again, from ledger and artifacts, what MLflow has lost of MODEL."""
    from retrain_assets.steps.rebuild import rebuild as step

    state = model_named(model).state(opened := storage())
    versions = step(state, opened.registry(model))
    said = f"{model}: {len(versions)} versions are registered, {versions[-1]} the newest"
    show({"model": model, "versions": versions}, said)


@command
@click.option("--keep-days", type=click.IntRange(1), default=7, help="Younger files stay; 7.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
def vacuum(keep_days: int, *, dry_run: bool) -> None:
    """Remove files of tables that neither the newest data nor a registered version needs."""
    from dataclasses import asdict

    from retrain_assets.steps.vacuum import vacuum as step

    done = step(storage(), hours=24 * keep_days, dry_run=dry_run)
    freed, files = sum(one.bytes for one in done), sum(one.files for one in done)
    lines = []
    for one in done:
        kept = f", keeps versions {', '.join(map(str, one.kept))}" if one.kept else ""
        lost = f", versions {', '.join(map(str, one.missing))} are lost" if one.missing else ""
        lines.append(f"{one.table}: {one.files} files, {one.bytes:,} bytes{kept}{lost}")
    lines.append(f"{'would free' if dry_run else 'freed'} {freed:,} bytes in {files} files")
    totals = {"dry_run": dry_run, "bytes": freed, "files": files}
    show({**totals, "tables": [asdict(one) for one in done]}, "\n".join(lines))


def _parts() -> dict[str, Path]:
    """The storage root; and Dagster's state, where it is not below that."""
    root, state = storage().root, Path(os.environ["DAGSTER_HOME"], "data", "dagster").resolve()
    return {"storage": root} if state.is_relative_to(root) else {"storage": root, "dagster": state}
