"""The commands that keep the storage root: backup, restore, copy and vacuum.

Not here: how files are copied and removed.
"""

import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import click

from retrain_assets.cli.base import command, get_model, models, show, start_folder, storage
from retrain_assets.orchestration.tick import alone
from retrain_assets.specs.base import number_of
from retrain_assets.steps.upkeep.vacuum import vacuum as remove_files
from retrain_assets.stores.backup import back_up
from retrain_assets.stores.backup import restore as bring_back
from retrain_assets.stores.copies import copy_model
from retrain_assets.stores.database import DRIVER, database_from, name_driver, without_password
from retrain_assets.stores.place import is_object_uri
from retrain_assets.stores.storage import Storage, storage_from

folder = click.argument("folder")


@command
@folder
def backup(folder: str) -> None:
    """Copy the storage root and Dagster's state into a new FOLDER; runs may go on meanwhile.

    FOLDER may be a URI such as s3://bucket/backup.
    """
    parts, tell, target = _parts(), partial(click.echo, err=True), _place(folder)
    uri, then = database_from(os.environ), None
    files = back_up(parts, target, tell)
    text = f"{folder} holds {number_of(files, 'file')}"
    if uri:
        file = target / "database.dump" if isinstance(target, Path) else "database.dump"
        then = shlex.join(["pg_dump", "--format=custom", f"--file={file}", without_password(uri)])
        text += f"; the records of Dagster and MLflow are not among them, so run now:\n{then}"
    elif not _holds_mlflow(parts):
        tell("MLflow's data are elsewhere and not in the copy: back them up too")
    show({"folder": str(folder), "files": files, "then": then}, text)


@command
@folder
def restore(folder: str) -> None:
    """Bring a backup back to the storage root, which must be empty, and verify each table.

    With RETRAIN_DATABASE, restore the dump of the database first (pg_restore).
    """
    uri, tell = storage().mlflow_uri, partial(click.echo, err=True)
    database = uri if uri.startswith(DRIVER) else None
    tables = bring_back(_place(folder), _parts(), tell, database)
    message = f"{number_of(tables, 'table')} restored, with what was written"
    show({"folder": str(folder), "tables": tables}, message)


@partial(command, name="copy")
@click.argument("model")
@click.option("--from", "source", help="Folder or URI to copy from; by default the project's root.")
@click.option("--to", "target", help="Folder or URI to copy to; by default the project's root.")
@click.option("--from-mlflow", help="MLflow's database of --from; mlflow.db in a folder.")
@click.option("--to-mlflow", help="MLflow's database of --to; mlflow.db in a folder.")
def copy(
    model: str,
    source: str | None,
    target: str | None,
    from_mlflow: str | None,
    to_mlflow: str | None,
) -> None:
    """Copy MODEL with its data, versions and decisions from one storage root to another.

    The other root must not have the model, unless from an earlier copy. Stop what works on it.
    """
    spec = get_model(model)
    roots = _storage_at(source, from_mlflow), _storage_at(target, to_mlflow)
    if roots[0].root == roots[1].root:
        raise ValueError("both roots are the same: name another one with --from or --to")
    if roots[0].mlflow_uri == roots[1].mlflow_uri:
        raise ValueError(
            "both roots have one MLflow database, which holds a model once: name another with "
            "--from-mlflow or --to-mlflow"
        )
    state = spec.state(roots[0])
    datasets = {item.name: item for item in (state.dataset, *state.lookups.values())}
    landing = [
        file.path
        for dataset in datasets.values()
        if dataset.table is None and dataset.bucket is None
        for file in roots[0].source(dataset).files()
    ]
    groups = {model, *datasets}
    if not landing and groups.isdisjoint((roots[0].place / "delta").folders()):
        raise LookupError(f"{roots[0].root} holds nothing of {model}: name another with --from")
    tell = partial(click.echo, err=True)
    with alone(roots[1].work, place=roots[1].place):
        files = copy_model(model, [*datasets], landing, *roots, tell)
        for name, member in models().items():  # the segments of a YAML with `for_each`
            if member.spec.group == model != name:
                files += copy_model(name, [], [], *roots, tell)
    value = {"model": model, "from": str(roots[0].root), "to": str(roots[1].root), "files": files}
    show(value, f"{model}: {number_of(files, 'file')} copied to {roots[1].root}")


def _storage_at(root: str | None, database: str | None) -> Storage:
    """Return the storage of a root, by default the project's."""
    if root is None:
        default = storage()
        return replace(default, tracking_uri=name_driver(database)) if database else default
    place = _place(root)
    if is_object_uri(place) and not database:
        raise ValueError(
            f"{root} cannot hold MLflow's database: name it with --from-mlflow or "
            "--to-mlflow, such as sqlite:////absolute/path/mlflow.db"
        )
    settings = {"RETRAIN_STORAGE": str(place), "RETRAIN_WORK": os.environ.get("RETRAIN_WORK", "")}
    settings |= {"MLFLOW_TRACKING_URI": database or ""}
    return storage_from(settings, Path.cwd())


@command
@click.option(
    "--keep-days",
    type=click.IntRange(1),
    default=7,
    show_default=True,
    help="Files that became unused fewer days ago stay.",
)
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


def _place(folder: str) -> Path | str:
    return folder if is_object_uri(folder) else start_folder() / folder


def _parts() -> dict[str, Path | str]:
    """Return the storage root, and the folders of work and of Dagster's state if elsewhere."""
    state = Path(os.environ["DAGSTER_HOME"], "data", "dagster").resolve()
    parts: dict[str, Path | str] = {"storage": storage().root}
    for name, folder in {"work": storage().work, "dagster": state}.items():
        if not _is_in(folder, parts):
            parts[name] = folder
    return parts


def _is_in(path: Path, parts: Mapping[str, Path | str]) -> bool:
    return any(isinstance(root, Path) and path.is_relative_to(root) for root in parts.values())


def _holds_mlflow(parts: Mapping[str, Path | str]) -> bool:
    scheme, _, path = storage().mlflow_uri.partition(":///")
    return scheme == "sqlite" and _is_in(Path(path).resolve(), parts)
