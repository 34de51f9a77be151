"""Remove what no one needs of the tables, and nothing that a registered version was made from.

Logs are never touched: every version stays in them, and can be read where its files are still
there. The ledger keeps all it ever was. Not here: which files a version of a table consists of.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from retrain_assets.stores.ledger import Ledger
from retrain_assets.stores.storage import Storage
from retrain_assets.stores.tables.tables import StorageError

HOURS = 7 * 24
LEDGER, RECORDED = "/ledger", "_version"  # ends of names: of the ledger's table, of tags


class VacuumError(RuntimeError):
    """Nothing was removed; the message says why and what would do."""


@dataclass(frozen=True)
class Vacuumed:
    """What was removed of one table.

    Args:
        table: `<group>/<table>`.
        kept: Versions that registered models need, beside the newest.
        missing: Versions that they need and that were gone before.
        files: How many files were removed.
        bytes: What these took.
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
        storage: Where the tables are.
        groups: Datasets and models whose tables are looked at; all by default.
        hours: What was given up later than this before now stays, for who still reads or writes it.
        dry_run: Whether to say only what would be removed.

    Raises:
        VacuumError: Any table is damaged, or the registry is not that of the ledgers.
    """
    newest = _newest(storage)
    needed, done = _needed(storage, newest), []
    for name in newest:
        if name.endswith(LEDGER) or (groups and name.partition("/")[0] not in groups):
            continue
        wanted = sorted(needed[name])
        kept = [version for version in wanted if version <= newest[name]]
        if not dry_run:
            storage.tables.merge(name)
        paths = storage.tables.unneeded_files(name, kept, hours)
        freed = sum(path.stat().st_size for path in paths)
        for path in () if dry_run else paths:
            path.unlink()
        done.append(Vacuumed(name, tuple(kept), tuple(wanted[len(kept) :]), len(paths), freed))
    return done


def _newest(storage: Storage) -> dict[str, int]:
    """The newest version of each table, all of which are whole.

    Raises:
        VacuumError: One is not; all are named.
    """
    found, damaged = {}, []
    for name in storage.tables.names():
        try:
            found[name] = storage.tables.version(name) or 0
        except StorageError as error:
            damaged.append(str(error))
    if damaged:
        raise VacuumError(f"nothing was removed: {'; '.join(damaged)}")
    return found


def _needed(storage: Storage, newest: dict[str, int]) -> dict[str, set[int]]:
    """The versions of tables that are recorded on registered versions, each of them readable.

    Raises:
        VacuumError: What is in production is not registered, so neither may be what else is needed.
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
        row = Ledger(storage.tables, model).read().production
        if row is not None and (model, row.version) not in registered:
            raise VacuumError(
                f"nothing was removed: model {model} has version {row.version} in production, "
                "which the registry does not have: is MLFLOW_TRACKING_URI that of these tables?"
            )
    for table, versions in needed.items():
        for known in versions.intersection(range(newest[table] + 1)):
            storage.tables.scan(table, version=known)
    return needed
