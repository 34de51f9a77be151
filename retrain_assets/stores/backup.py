"""Back up everything that is stored while work goes on, and restore it.

Delta logs are copied first, so that each file they name is copied after; then all other files; then
the sqlite databases, each as one transaction sees it. So a database may record more than the tables
hold, which the next run repairs, and never less. A copy and what it is made of can be in folders or
object stores. Not here: databases elsewhere, which have their own backups.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import NullPool, create_engine, inspect, text

from retrain_assets.stores.place import Folder, Place, place_at
from retrain_assets.stores.tables.tables import Tables

MANIFEST, STORAGE = "backup.json", "storage"
WORK = "work"  # the part that takes what an object store cannot hold
_SETTINGS = {WORK: "RETRAIN_WORK", "dagster": "DAGSTER_HOME"}  # that place a part elsewhere
_LOCAL = ("mlflow.db", "dagster/", "serving/", ".")
_LOG, _JOURNALS = "/_delta_log/", (".db-wal", ".db-shm", ".db-journal")
Root = Path | str
# The columns in which MLflow's database has full paths.
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


class BackupError(RuntimeError):
    """A copy cannot be made or restored; the message says what would do."""


def back_up(parts: Mapping[str, Root], target: Root, tell: Callable[[str], None]) -> int:
    """Copy folders, or places in object stores, into a new one.

    Args:
        parts: Folders or URIs by name; `storage` is the storage root. Empty ones are left out.
        target: The folder or URI of the copy; new or empty.
        tell: Prints what is being copied.

    Returns:
        How many files were copied.

    Raises:
        BackupError: The target is not empty, or lies in what is to be copied.
        PlaceError: A store does not answer.
    """
    roots = {name: _absolute(root) for name, root in parts.items()}
    for root in roots.values():
        if f"{_absolute(target)}/".startswith(f"{root}/"):
            raise BackupError(f"{target} lies in {root}, which it would copy: name another")
    copy, copied, content = place_at(target), 0, {}
    _refuse_content(copy)
    for name, root in roots.items():
        place = place_at(parts[name])
        files = [file for file in list_files(place) if not file.endswith(_JOURNALS)]
        files.sort(key=lambda file: (file.endswith(".db"), _LOG not in file))
        if files:
            tell(f"{name}: {len(files)} files of {root}")
            copied += sum(copy_file(place, file, copy / name) for file in files)
            content[name] = root
    copy.write(MANIFEST, json.dumps(content, indent=2).encode())
    return copied


def restore(
    source: Root,
    parts: Mapping[str, Root],
    tell: Callable[[str], None],
    database: str | None = None,
) -> int:
    """Restore a copy, also to other places than it was made from.

    Args:
        source: The folder or URI of the copy.
        parts: The folders or URIs to restore to, by name; new or empty.
        tell: Prints what is being done.
        database: URI of MLflow's database, if that is PostgreSQL and restored already.

    Returns:
        How many tables were read and hold what was written.

    Raises:
        BackupError: The copy is not complete, a place is not empty, or nothing says where a part
            goes.
        StorageError: A file of a table is damaged; the message names it.
        PlaceError: A store does not answer.
    """
    copy = place_at(source)
    if copy.find(MANIFEST) is None:
        raise BackupError(f"{source} is not a finished backup: it has no {MANIFEST}")
    old_roots: dict[str, str] = json.loads(copy.read(MANIFEST))
    if missing := sorted(old_roots.keys() - parts.keys()):
        settings = " and ".join(_SETTINGS[name] for name in missing)
        raise BackupError(f"{source} also holds {', '.join(missing)}: set {settings}")
    needed = [*old_roots, *(name for name in parts if name == WORK and name not in old_roots)]
    for name in needed:
        _refuse_content(place_at(parts[name]))
    moved = {old: _absolute(parts[name]) for name, old in old_roots.items()}
    if database:
        _relocate(database, moved)
    for name in old_roots:
        target = place_at(parts[name])
        tell(f"{name}: to {target}")
        for file in (copy / name).files():
            is_misplaced = not target.is_local and WORK in parts and file.name.startswith(_LOCAL)
            copy_file(copy / name, file.name, place_at(parts[WORK]) if is_misplaced else target)
    for name in needed:
        folder = place_at(parts[name])
        if isinstance(folder, Folder) and (records := folder.path / "mlflow.db").is_file():
            _relocate(f"sqlite:///{records}", moved)
    tables = Tables(str(place_at(parts[STORAGE]) / "delta"))
    for name in (names := tables.names()):
        tell(f"verify {name}")
        tables.verify(name)
    return len(names)


def list_files(place: Place) -> list[str]:
    """Return the names of all files, listed such that no commit names one that is not listed."""
    logs = [file.name for file in place.files() if _LOG in f"/{file.name}"]
    return [*logs, *(file.name for file in place.files() if _LOG not in f"/{file.name}")]


def _absolute(root: Root) -> str:
    return str(root.resolve()) if isinstance(root, Path) else root.rstrip("/")


def _refuse_content(place: Place) -> None:
    names = {file.name.partition("/")[0] for file in place.files()} | {*place.folders()}
    if names := names - {"README.md"}:
        some = ", ".join(sorted(names)[:3])
        raise BackupError(f"{place} is not empty, it holds {some}: name a new folder")


def copy_file(source: Place, name: str, target: Place) -> bool:
    """Copy a file, unless it was removed since it was listed, as temporary files are."""
    if name.endswith(".db") and isinstance(source, Folder):
        target.write(name, _read_database(source.path / name))
        return True
    with suppress(FileNotFoundError):
        if isinstance(source, Folder) and isinstance(target, Folder):
            (target.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source.path / name, target.path / name)  # with its time
        else:
            target.write(name, source.read(name))
        return True
    return False


def _read_database(path: Path) -> bytes:
    """Return a database as one transaction sees it."""
    with TemporaryDirectory() as folder:
        part = Path(folder) / path.name
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(part)) as copy:
            source.backup(copy)
        return part.read_bytes()


def _relocate(uri: str, roots: Mapping[str, str]) -> None:
    """Replace the paths in MLflow's database by those of the restored places.

    Raises:
        BackupError: The database has no tables of MLflow.
    """
    with create_engine(uri, poolclass=NullPool).begin() as connection:
        if not inspect(connection).has_table("experiments"):
            raise BackupError(
                "the database holds no records of MLflow: run `pg_restore` with its dump first"
            )
        for (old, new), (table, column) in product(roots.items(), PLACES):
            statement = (
                f"UPDATE {table} SET {column} = :new || substr({column}, :length) "  # noqa: S608 constants
                f"WHERE substr({column}, 1, :length) = :old"
            )
            values = {"new": new, "old": f"{old}/", "length": len(old) + 1}
            connection.execute(text(statement), values)
