"""Remove files of tables that nobody needs, and none that a registered version was made from.

Logs are never changed: every version stays in them, and can be read if its files still exist. The
ledger keeps all its versions. Not here: which files a version of a table consists of.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from retrain_assets.stores.storage import Storage
from retrain_assets.stores.tables.tables import StorageError

HOURS = 7 * 24
LEDGER, RECORDED = "/ledger", "_version"  # ends of names: of the ledger's table, of tags


class VacuumError(RuntimeError):
    """Nothing was removed; the message says why and what would do."""


@dataclass(frozen=True)
class Vacuumed:
    """The files that were removed of one table.

    Args:
        table: `<group>/<table>`.
        kept: Versions that registered models need, beside the newest.
        missing: Versions that they need and that were lost before.
        files: How many files were removed.
        bytes: The size of these.
    """

    table: str
    kept: tuple[int, ...]
    missing: tuple[int, ...]
    files: int
    bytes: int


def vacuum(
    storage: Storage,
    groups: Collection[str] | None = None,
    hours: int = HOURS,
    *,
    dry_run: bool = False,
) -> list[Vacuumed]:
    """Merge small files, and remove those that neither the newest nor a needed version names.

    Args:
        storage: The storage with the tables.
        groups: Datasets and models whose tables are cleaned; all by default.
        hours: Files replaced within the last hours stay, for those who still read or write them.
        dry_run: Whether to return only what would be removed.

    Raises:
        VacuumError: Any table is damaged, or the registry does not belong to the ledgers.
    """
    newest = _newest_versions(storage)
    needed, results = _needed_versions(storage, newest), []
    for name in newest:
        if name.endswith(LEDGER) or (groups and name.partition("/")[0] not in groups):
            continue
        versions = sorted(needed[name])
        present = [version for version in versions if version <= newest[name]]
        if not dry_run:
            storage.tables.merge(name)
        files = storage.tables.unneeded_files(name, present, hours)
        freed = sum(file.size_bytes for file in files)
        for file in () if dry_run else files:
            storage.tables.place(name).delete(file.name)
        missing = tuple(versions[len(present) :])
        results.append(Vacuumed(name, tuple(present), missing, len(files), freed))
    return results


def _newest_versions(storage: Storage) -> dict[str, int]:
    """Return the newest version of each table.

    Raises:
        VacuumError: Some tables are damaged; all are named.
    """
    versions, damaged = {}, []
    for name in storage.tables.names():
        try:
            versions[name] = storage.tables.version(name) or 0
        except StorageError as error:
            damaged.append(str(error))
    if damaged:
        raise VacuumError(f"nothing was removed: {'; '.join(damaged)}")
    return versions


def _needed_versions(storage: Storage, newest: dict[str, int]) -> dict[str, set[int]]:
    """Return the versions of tables that are recorded on registered models, all of them readable.

    Raises:
        VacuumError: A version in production is not registered, so others may be missing too.
    """
    needed, registered = defaultdict(set), set()
    for version in storage.registry("").versions_of_all():
        registered.add((version.name, version.version))
        for tag, number in version.tags.items():
            stem = tag.removesuffix(RECORDED)
            for table in (f"{stem}/dataset", f"{version.name}/{stem}"):
                if tag.endswith(RECORDED) and number.isdecimal() and table in newest:
                    needed[table].add(int(number))
    for model in (name.removesuffix(LEDGER) for name in newest if name.endswith(LEDGER)):
        row = storage.ledger(model).read().production
        if row is not None and (model, row.version) not in registered:
            raise VacuumError(
                f"nothing was removed: model {model} has version {row.version} in production, "
                "which the registry does not have: is MLFLOW_TRACKING_URI that of these tables?"
            )
    for table, versions in needed.items():
        for needed_version in versions.intersection(range(newest[table] + 1)):
            storage.tables.scan(table, version=needed_version)
    return needed
