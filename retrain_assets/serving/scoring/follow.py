"""A model as it is served: the version that answers, and how it comes to be another.

What is in production is read from the ledger, lookups from their tables; either is replaced whole
once what takes its place was verified, so that a request sees one state from beginning to end. On
any doubt the old one stays and the trouble is told. Not here: answering, and deciding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from polars.exceptions import PanicException

from retrain_assets.domain.features.build import drop_replaced, get_lookup_schema
from retrain_assets.serving.scoring.rows import LookupRows, RowMaker
from retrain_assets.serving.scoring.version import Loader, RefusedError, Version
from retrain_assets.specs.base import duration
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.storage import Storage

RETRY_SECONDS = 30.0


@dataclass(frozen=True)
class Serving:
    """What answers, at one moment.

    Args:
        version: The version in production.
        maker: Makes features of rows.
        shadow: A candidate that was held, which predicts beside it, unanswered.
    """

    version: Version
    maker: RowMaker
    shadow: Version | None = None


class Followed:
    """A model that follows its ledger and its lookups.

    Args:
        state: The model.
        storage: Where MLflow is.
        folder: Where verified copies of model files are kept.
        clock: Says the time.
        tell: Takes a line for whoever runs the service.
    """

    def __init__(
        self,
        state: ModelState,
        storage: Storage,
        folder: Path,
        clock: Callable[[], datetime],
        tell: Callable[[str], None],
    ) -> None:
        self.state, self.name = state, state.spec.name
        self.serving: Serving | None = None
        self.trouble: dict[str, str] = {}
        self.failures = 0
        self._loader = Loader(state, lambda: storage.registry(self.name), folder)
        self._clock, self._tell = clock, tell
        self._refused: dict[str, tuple[LedgerRow, datetime, RefusedError]] = {}
        self.held: dict[str, LookupRows] = {}

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self.serving is not None

    def refresh(self) -> bool:
        """Look whether ledger or lookups have changed, and swap what has.

        Returns:
            Whether anything was swapped.
        """
        before = self.serving
        for what, step in (("lookups", self._look_up), ("version", self._follow)):
            try:
                step()
            except (Exception, PanicException) as error:  # noqa: BLE001 the one that answers stays
                self._failed(what, f"{self.name}: {error}")
            else:
                self.trouble.pop(what, None)
        return self.serving is not before

    def _follow(self) -> None:
        history = self.state.ledger.read()
        row = history.production
        if row is None:
            raise LookupError("nothing is in production yet")
        now = self.serving
        if now is None or _name(now.version.row) != _name(row):
            version = self._load("version", row)
            self.serving = Serving(version, self._maker())
            self._tell(
                f"{self.name}: version {version.number} answers, from {version.source}; "
                f"{version.how}"
            )
            self._loader.forget(history)
        self._follow_shadow(history.rows[-1])

    def _follow_shadow(self, last: LedgerRow) -> None:
        now, wanted = self.serving, last if last.action == "hold" else None
        if now is None or _name(now.shadow.row if now.shadow else None) == _name(wanted):
            return
        found = self._load("shadow", wanted) if wanted else None
        self.serving = replace(now, shadow=found)
        said = f"version {wanted.version} predicts in its shadow" if wanted else "no shadow"
        self._tell(f"{self.name}: {said}")

    def _load(self, role: str, row: LedgerRow) -> Version:
        """Load a version; one that was refused is tried again after a while."""
        refused = self._refused.get(role)
        if refused and _name(refused[0]) == _name(row):
            waited = (self._clock() - refused[1]).total_seconds()
            if waited < RETRY_SECONDS:
                raise refused[2]
        try:
            return self._loader.load(row)
        except RefusedError as error:
            self._refused[role] = (row, self._clock(), error)
            raise

    def _look_up(self) -> None:
        changed = False
        for name, spec in self.state.lookups.items():
            table = f"{name}/dataset"
            found = self.state.tables.describe(table)
            if found is None:
                raise LookupError(f"lookup {name} was never ingested")
            if name in self.held and self.held[name].version == found[0]:
                continue
            self.state.tables.verify(table, None, found[0])
            scanned = self.state.tables.scan(table, version=found[0]).select(
                *get_lookup_schema(spec)
            )
            rows = self.state.tables.collect(scanned, table, found[0])
            rows = drop_replaced(rows, self.state.spec.lookups[name], spec)
            self.held, changed = (
                self.held | {name: LookupRows(found[0], found[1], rows, _bound(spec))},
                True,
            )
        if changed and self.serving is not None:
            self.serving = replace(self.serving, maker=self._maker())

    def _maker(self) -> RowMaker:
        maker = RowMaker(self.state, dict(self.held))
        why = maker.prepare(maker.stored_rows())
        if why is not None:
            self._tell(f"{self.name}: features are made by polars for each request: {why}")
        return maker

    def _failed(self, what: str, message: str) -> None:
        """Tell a trouble once, for as long as it is the same."""
        if self.trouble.get(what) != message:
            self.failures += 1
            self.trouble[what] = message
            self._tell(message)


def _bound(spec: DatasetSpec) -> timedelta | None:
    """The age at which another partition of a dataset should have landed."""
    period = spec.partition.period
    if spec.expected is None or period is None:
        return None
    return period.longest + duration(spec.expected)


def _name(row: LedgerRow | None) -> tuple[int, str] | None:
    return None if row is None else (row.version, row.sha256)
