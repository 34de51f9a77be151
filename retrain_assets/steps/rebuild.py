"""Register again, from ledger, records and artifacts, what MLflow has lost.

Not here: bringing back the ledger or the artifacts themselves, of which backups are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain_assets.steps.beside import beside
from retrain_assets.steps.decide import reconcile
from retrain_assets.steps.train import CANDIDATE
from retrain_assets.stores.ledger import LedgerError
from retrain_assets.stores.models import DIGEST_TAG, RegistryError
from retrain_assets.stores.version_records import (
    PLACEHOLDER,
    damage,
    free_places,
    hold_place,
    read_records,
    register_again,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from retrain_assets.steps.state import ModelState
    from retrain_assets.stores.ledger import History
    from retrain_assets.stores.models import ModelRegistry
    from retrain_assets.stores.version_records import VersionRecord


def rebuild(state: ModelState, registry: ModelRegistry) -> list[int]:
    """Register all versions again under their numbers, and set aliases and the ledger's head.

    What an earlier rebuild that was interrupted has registered is gone on from.

    Returns:
        The versions.

    Raises:
        LedgerError: A row of the ledger was changed or is missing.
        RegistryError: A record or file is missing or was changed, or the registry has other
            versions; nothing was written.
    """
    history, records = state.ledger.read(), read_records(registry)
    if history.misfit:
        raise LedgerError(f"model {registry.name}: the ledger does not fit: {history.misfit}")
    wrong = list(_wrong(registry, history, records))
    if wrong or not records:
        listed = "; ".join(wrong) or "there is no record of any version"
        raise RegistryError(
            f"model {registry.name} cannot be rebuilt: {listed}: restore that from a backup"
        )
    begun = _begun(registry, records)
    registry.prepare()
    for number in range(begun + 1, max(records) + 1):
        known = records.get(number)
        given = register_again(registry, known) if known else hold_place(registry)
        if given != number:
            raise RegistryError(
                f"model {registry.name}: version {number} became {given}, as something else "
                "registers versions: stop the daemon, move MLflow's database away, run again"
            )
    free_places(registry)
    if registry.alias(CANDIDATE) is None:
        registry.set_alias(CANDIDATE, _candidate(registry, history))
    reconcile(registry, history)
    return list(records)


def _wrong(
    registry: ModelRegistry, history: History, records: Mapping[int, VersionRecord]
) -> Iterator[str]:
    """What is missing or was changed of the versions that records and ledger name."""
    decided = {row.version: row.sha256 for row in history.rows}
    named = {number for row in history.rows for number in (row.version, row.candidate) if number}
    yield from (
        f"version {number}: its record versions/{number}.json is missing"
        for number in sorted(named.difference(records))
    )
    for number, record in records.items():
        yield from damage(registry, record, decided.get(number, record.tags[DIGEST_TAG]))


def _begun(registry: ModelRegistry, records: Mapping[int, VersionRecord]) -> int:
    """The last version that an interrupted rebuild has registered; 0 where none was begun.

    Raises:
        RegistryError: The registry has versions, or lacks some, as no rebuild leaves it.
    """
    there = {found.version: found.tags for found in registry.versions()}
    last = max(there, default=0)
    wanted = {n: records[n].tags if n in records else PLACEHOLDER for n in {*there, *records}}
    alien = [n for n in sorted(there) if not wanted[n].items() <= there[n].items()]
    lacking = [n for n in records if n < last and n not in there]
    if alien or lacking:
        said = f"version {alien[0]} is another one" if alien else f"version {lacking[0]} is missing"
        raise RegistryError(
            f"model {registry.name}: MLflow has versions already, of which {said}: a rebuild "
            "wants an empty registry: stop the daemon, move MLflow's database away, run again"
        )
    return last


def _candidate(registry: ModelRegistry, history: History) -> int | None:
    """The newest version made for the gate, or the one of its decision that the gate took."""
    newest = registry.find({"role": "gated"})
    if newest is None:
        return None
    together = [found.version for found in beside(registry, newest)]
    made = history.decision_on(*together)
    return made.candidate if made else together[0]
