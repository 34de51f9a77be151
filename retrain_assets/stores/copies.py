"""Copy a model with its history to another root: its datasets, tables, files and versions.

Files are only added, in an order in which what names a file comes after it; MLflow's records follow
in one transaction, and the ledger comes last. So a copy that was stopped has decided nothing, and
the same command goes on with it. Not here: backups, which copy everything.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sql

from retrain_assets.stores.backup import PLACES, copy_file, list_files
from retrain_assets.stores.database import DRIVER
from retrain_assets.stores.place import Place
from retrain_assets.stores.storage import Storage
from retrain_assets.stores.tables.log import LOG

# MLflow's records of a model, each after those that it refers to, and the column that says whose.
_RECORDS = {
    "experiments": "name",
    "registered_models": "name",
    **dict.fromkeys(("registered_model_tags", "registered_model_aliases"), "name"),
    **dict.fromkeys(("model_versions", "model_version_tags"), "name"),
    **dict.fromkeys(("experiment_tags", "runs", "logged_models"), "experiment_id"),
    **dict.fromkeys(("metrics", "latest_metrics", "params", "tags"), "run_uuid"),
    **dict.fromkeys(("logged_model_tags", "logged_model_params"), "model_id"),
    "logged_model_metrics": "model_id",
}
_OWNERS = {"experiments": "experiment_id", "runs": "run_uuid", "logged_models": "model_id"}
# Written anew as often as anybody likes, with the same meaning.
_REWRITTEN = (f"{LOG}/_last_checkpoint", ".checkpoint.parquet", ".html", ".png")
Rows = dict[str, list[dict[str, Any]]]


class CopyError(RuntimeError):
    """A model cannot be copied; the message says what would do."""


def copy_model(
    model: str,
    datasets: Sequence[str],
    landing: Sequence[str],
    source: Storage,
    target: Storage,
    tell: Callable[[str], None],
) -> int:
    """Copy a model to a root that does not have it, or has an older copy of it.

    Args:
        model: The model.
        datasets: The datasets that it reads.
        landing: The landing files of these, below the folder where files land.
        source: The root to copy from.
        target: The root to copy to; nothing else may work on it meanwhile.
        tell: Prints what is being copied.

    Returns:
        How many files were copied; those that are there already do not count.

    Raises:
        CopyError: The target has other data, or other versions of the model.
        StorageError: A file of a table is damaged; the message names it.
        PlaceError: A store does not answer.
    """
    with _open(source, model) as opened:
        records = _read(*opened, model)  # before the files, so that each file they name is listed
    groups = [f"delta/{name}" for name in (*datasets, model)]
    files = [f"landing/{name}" for name in landing]
    artifacts = _list_artifacts(records, source.place, model)
    for folder in (*artifacts, f"reports/cards/{model}", *groups):
        files += [f"{folder}/{name}" for name in list_files(source.place / folder)]
    # The log of a table after its data, and the ledger last.
    ledger = f"delta/{model}/ledger/"
    files.sort(key=lambda name: (name.startswith(ledger), f"/{LOG}/" in name, name))
    _refuse_other_files(target.place, groups, files)
    missing = [name for name in files if not _is_there(source.place, target.place, name)]
    with _open(target, model) as opened:
        present = _read(*opened, model)
        _refuse_other_versions(records, present, target)
        tell(f"{len(missing)} of {len(files)} files, {len(records['model_versions'])} versions")
        for name in missing:
            if not name.startswith(ledger):
                copy_file(source.place, name, target.place)
        _write(*opened, records, present, (f"{source.place}/", f"{target.place}/"))
    for name in missing:
        if name.startswith(ledger):
            copy_file(source.place, name, target.place)
    for name in target.tables.names(*datasets, model):
        target.tables.verify(name)
    return len(missing)


def _list_artifacts(records: Rows, place: Place, model: str) -> set[str]:
    """Return the folders of the files of versions, which keep the name the model once had."""
    root, uris = f"{place}/", [row["artifact_location"] for row in records["experiments"]]
    folders = {uri.removeprefix(root) for uri in uris if uri.startswith(root)}
    return {f"artifacts/{model}", *folders}


def _refuse_other_files(place: Place, groups: Sequence[str], files: Sequence[str]) -> None:
    names = set(files)
    for group in groups:
        for file in (place / group).files():
            name = f"{group}/{file.name}"
            # The source may have removed data files since; its logs say what a table holds.
            if name not in names and not name.endswith((*_REWRITTEN, ".parquet")):
                raise _refusal(f"{place}/{name} is not in the root to copy from")


def _is_there(source: Place, target: Place, name: str) -> bool:
    """Tell if a file has been copied; the name of a data file is never used twice."""
    file = target.find(name)
    if file is None or (original := source.find(name)) is None:
        return False
    is_data = name.startswith("delta/") and name.endswith(".parquet")
    if file.size_bytes == original.size_bytes and (
        is_data or source.read(name) == target.read(name)
    ):
        return True
    if name.endswith(_REWRITTEN):
        return False
    raise _refusal(f"{target}/{name} is another file in the root to copy from")


def _refuse_other_versions(records: Rows, present: Rows, target: Storage) -> None:
    for table, columns in {"model_versions": ("version", "run_id"), "runs": ("run_uuid",)}.items():
        ours, theirs = (
            {tuple(row[name] for name in columns) for row in rows[table]}
            for rows in (present, records)
        )
        if ours - theirs:
            extra = f"MLflow has {table} of this model that the root to copy from does not have"
            raise _refusal(f"for {target.root}, {extra}")


def _refusal(reason: str) -> CopyError:
    return CopyError(
        f"{reason}, so nothing was copied: name another root to copy to, or take a version over "
        "with `retrain release` and `retrain adopt`"
    )


@contextmanager
def _open(storage: Storage, model: str) -> Iterator[tuple[sql.Connection, sql.MetaData]]:
    """Open MLflow's database in one transaction.

    Raises:
        CopyError: It is behind a server.
    """
    uri = storage.mlflow_uri
    if not uri.startswith(("sqlite:", DRIVER)):
        raise CopyError(
            f"MLflow's data of {storage.root} are behind a server: name its database with "
            "--from-mlflow or --to-mlflow"
        )
    _ = storage.registry(model).client  # which creates the tables
    tables = sql.MetaData()
    with sql.create_engine(uri, poolclass=sql.NullPool).begin() as connection:
        tables.reflect(connection, only=list(_RECORDS))
        yield connection, tables


def _read(connection: sql.Connection, tables: sql.MetaData, model: str) -> Rows:
    """Return all records of a model, by table."""
    owners: dict[str, list[Any]] = {"name": [model]}
    records: Rows = {}
    for name, column in _RECORDS.items():
        table = tables.tables[name]
        query = sql.select(table).where(table.c[column].in_(owners[column]))
        records[name] = [dict(row) for row in connection.execute(query).mappings()]
        if name in _OWNERS:
            owners[_OWNERS[name]] = [row[_OWNERS[name]] for row in records[name]]
    return records


def _write(
    connection: sql.Connection,
    tables: sql.MetaData,
    records: Rows,
    present: Rows,
    roots: tuple[str, str],
) -> None:
    """Replace the records of a model, with the paths and the number of the experiment there."""
    for name, column in reversed(_RECORDS.items()):
        if name != "experiments":
            table, owners = tables.tables[name], {row[column] for row in present[name]}
            connection.execute(table.delete().where(table.c[column].in_(owners)))
    number: Any = next((row["experiment_id"] for row in present["experiments"]), None)
    for name, rows in records.items():
        table = tables.tables[name]
        new = [_relocate(name, row, number, roots) for row in rows]
        if name != "experiments":
            if new:
                connection.execute(table.insert(), new)
        elif new and number is None:
            del new[0]["experiment_id"]
            number = connection.execute(table.insert().values(new[0])).inserted_primary_key[0]  # type: ignore[index]


def _relocate(
    table: str, row: dict[str, Any], number: object, roots: tuple[str, str]
) -> dict[str, Any]:
    """Return a record as it stands at the target."""
    paths = {column for name, column in PLACES if name == table}
    row = {
        column: roots[1] + value.removeprefix(roots[0])
        if column in paths and value and value.startswith(roots[0])
        else value
        for column, value in row.items()
    }
    return row | {"experiment_id": number} if "experiment_id" in row else row
