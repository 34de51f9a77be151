"""Copies of all that is stored which go together, taken while work goes on, and their return.

Delta logs are copied first, so that each file they name is copied after; then all other files; then
the sqlite databases, each as one transaction sees it. So a database may know of more than the
tables hold, which is made up for by the next run, and never of less. Not here: databases and object
stores elsewhere, which have backups of their own.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from retrain_assets.stores.tables.tables import Tables

MANIFEST, STORAGE = "backup.json", "storage"
_LOG, _DATABASES = "_delta_log", (".db", ".db-wal", ".db-shm", ".db-journal")
# Where MLflow's database names folders, which it does in full.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


class BackupError(RuntimeError):
    """A copy cannot be made or brought back; the message says what would do."""


def back_up(parts: Mapping[str, Path], target: Path, tell: Callable[[str], None]) -> int:
    """Copy folders into a new one.

    Args:
        parts: Folders by name; `storage` is the storage root. One that is not there is left out.
        target: Where the copy goes; not there yet, or empty.
        tell: Is told what is being copied.

    Returns:
        How many files were copied.

    Raises:
        BackupError: The target is not empty, or lies in what is to be copied.
    """
    for folder in parts.values():
        if target.resolve().is_relative_to(folder.resolve()):
            raise BackupError(f"{target} lies in {folder}, which it would copy: name another")
    _refuse_content(target)
    parts = {name: folder for name, folder in parts.items() if folder.is_dir()}
    copied = 0
    for name, folder in parts.items():
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        plain = [path for path in files if not path.name.endswith(_DATABASES)]
        ordered = sorted(plain, key=lambda path: _LOG not in path.parts)
        databases = [path for path in files if path.suffix == ".db"]
        tell(f"{name}: {len(ordered)} files and {len(databases)} databases of {folder}")
        copied += sum(_copied(path, target / name / path.relative_to(folder)) for path in ordered)
        for path in databases:
            _copy_database(path, target / name / path.relative_to(folder))
        copied += len(databases)
    roots = {name: str(folder.resolve()) for name, folder in parts.items()}
    (target / MANIFEST).write_text(json.dumps(roots, indent=2), encoding="utf-8")
    return copied


def restore(source: Path, parts: Mapping[str, Path], tell: Callable[[str], None]) -> int:
    """Bring a copy back, also to other folders than it was made from.

    Args:
        source: The copy.
        parts: Where its folders go, by name; not there yet, or empty.
        tell: Is told what is being done.

    Returns:
        How many tables were read and hold what was written.

    Raises:
        BackupError: The copy is not whole, or there is something already.
        StorageError: A file of a table is damaged; the message names it.
    """
    manifest = source / MANIFEST
    if not manifest.is_file():
        raise BackupError(f"{source} is no finished backup: it has no {MANIFEST}")
    roots = json.loads(manifest.read_text(encoding="utf-8"))
    for name in roots:
        _refuse_content(parts[name])
    for name, was in roots.items():
        tell(f"{name}: to {parts[name]}")
        shutil.copytree(source / name, parts[name], dirs_exist_ok=True)
        _relocate(parts[name] / "mlflow.db", was, str(parts[name].resolve()))
    return _verified(parts[STORAGE] / "delta", tell)


def _verified(delta: Path, tell: Callable[[str], None]) -> int:
    tables = Tables(str(delta))
    for name in (names := tables.names()):
        tell(f"verify {name}")
        tables.verify(name)
    return len(names)


def _refuse_content(folder: Path) -> None:
    there = sorted(path.name for path in folder.glob("*") if path.name != "README.md")
    if there:
        some = ", ".join(there[:3])
        raise BackupError(f"{folder} is not empty, it holds {some}: name a new folder")


def _copied(path: Path, to: Path) -> bool:
    """Copy a file, unless it was removed since it was listed, as temporary ones are."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copy2(path, to)
    except FileNotFoundError:
        return False
    return True


def _copy_database(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as there, closing(sqlite3.connect(to)) as copy:
        there.backup(copy)


def _relocate(database: Path, was: str, now: str) -> None:
    """Let MLflow's database name the folders where they are now."""
    if was == now or not database.is_file():
        return
    with closing(sqlite3.connect(database)) as opened, opened:
        for table, column in _PLACES:
            opened.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 constants
                f"WHERE substr({column}, 1, ?) = ?",
                (now, len(was) + 1, len(was) + 1, f"{was}/"),
            )
