"""Back up everything that is stored while work goes on, and restore it.

Delta logs are copied first, so that each file they name is copied after; then all other files; then
the sqlite databases, each as one transaction sees it. So a database may record more than the tables
hold, which the next run repairs, and never less. Not here: databases and object stores elsewhere,
which have their own backups.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path

from retrain_assets.stores.tables.tables import Tables

MANIFEST, STORAGE = "backup.json", "storage"
_LOG, _JOURNALS = "_delta_log", (".db-wal", ".db-shm", ".db-journal")
# The columns in which MLflow's database has full paths.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


class BackupError(RuntimeError):
    """A copy cannot be made or restored; the message says what would do."""


def back_up(parts: Mapping[str, Path], target: Path, tell: Callable[[str], None]) -> int:
    """Copy folders into a new one.

    Args:
        parts: Folders by name; `storage` is the storage root. One that does not exist is left out.
        target: The folder of the copy; new or empty.
        tell: Prints what is being copied.

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
        files = [path for path in files if not path.name.endswith(_JOURNALS)]
        files.sort(key=lambda path: (path.suffix == ".db", _LOG not in path.parts))
        tell(f"{name}: {len(files)} files of {folder}")
        copied += sum(_copy(path, target / name / path.relative_to(folder)) for path in files)
    roots = {name: str(folder.resolve()) for name, folder in parts.items()}
    (target / MANIFEST).write_text(json.dumps(roots, indent=2), encoding="utf-8")
    return copied


def restore(source: Path, parts: Mapping[str, Path], tell: Callable[[str], None]) -> int:
    """Restore a copy, also to other folders than it was made from.

    Args:
        source: The copy.
        parts: The folders to restore to, by name; new or empty.
        tell: Prints what is being done.

    Returns:
        How many tables were read and hold what was written.

    Raises:
        BackupError: The copy is not complete, or a folder is not empty.
        StorageError: A file of a table is damaged; the message names it.
    """
    manifest = source / MANIFEST
    if not manifest.is_file():
        raise BackupError(f"{source} is no finished backup: it has no {MANIFEST}")
    roots = json.loads(manifest.read_text(encoding="utf-8"))
    for name in roots:
        _refuse_content(parts[name])
    for name, old_root in roots.items():
        tell(f"{name}: to {parts[name]}")
        shutil.copytree(source / name, parts[name], dirs_exist_ok=True)
        _relocate(parts[name] / "mlflow.db", old_root, str(parts[name].resolve()))
    tables = Tables(str(parts[STORAGE] / "delta"))
    for name in (names := tables.names()):
        tell(f"verify {name}")
        tables.verify(name)
    return len(names)


def _refuse_content(folder: Path) -> None:
    names = sorted(path.name for path in folder.glob("*") if path.name != "README.md")
    if names:
        some = ", ".join(names[:3])
        raise BackupError(f"{folder} is not empty, it holds {some}: name a new folder")


def _copy(path: Path, to: Path) -> bool:
    """Copy a file, unless it was removed since it was listed, as temporary files are."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".db":
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as copy:
            source.backup(copy)
        return True
    with suppress(FileNotFoundError):
        shutil.copy2(path, to)
    return to.exists()


def _relocate(database: Path, old_root: str, new_root: str) -> None:
    """Replace the paths in MLflow's database by those of the restored folders."""
    if old_root == new_root or not database.is_file():
        return
    with closing(sqlite3.connect(database)) as opened, opened:
        for table, column in _PLACES:
            opened.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 constants
                f"WHERE substr({column}, 1, ?) = ?",
                (new_root, len(old_root) + 1, len(old_root) + 1, f"{old_root}/"),
            )
