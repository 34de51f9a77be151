"""The ledger: every decision on a model, append-only, each made on the version that was read.

The ledger decides which version is in production; the registry's alias only follows it. Each row
carries the digest of the one before, so that a row that is rewritten or lost no longer fits; the
digest of the newest, the head, is kept elsewhere too.

Whether a person holds back the retraining of a model, and why.

Not here: making a decision, moving the
alias, and keeping the head.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Literal

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.situation import Pause
from retrain_assets.errors import PermanentError
from retrain_assets.stores.tables.tables import Tables

Action = Literal["promote", "hold", "reject", "stage", "rollback", "approve", "adopt"]
IN_PRODUCTION: tuple[Action, ...] = ("promote", "rollback", "approve", "adopt")
GATED: tuple[Action, ...] = ("promote", "hold", "reject", "stage")
_TEXTS = ("as_of", "seen_through", "action", "reason", "causes", "data_from", "data_to", "metrics")
_MORE_TEXTS = (
    "by",
    "sha256",
    "recipe",
    "because",
    "datasets",
    "trained_on",
    "previous_sha256",
    "gate",
)
SCHEMA: dict[str, pl.DataType] = {
    "time": pl.Datetime("us", "UTC"),
    **dict.fromkeys(("number", "version", "candidate", "previous", "more"), pl.Int64()),
    **dict.fromkeys((*_TEXTS, *_MORE_TEXTS), pl.String()),
}
# Values that no column type holds, kept as JSON.
AS_JSON = ("causes", "metrics", "datasets", "trained_on")


class LedgerError(PermanentError):
    """The ledger is not what was written; the message names the first row that does not fit."""


@dataclass(frozen=True)
class LedgerRow:
    """One decision.

    Args:
        time: When it was recorded (wall clock, for people; nothing is decided by it).
        as_of: Last partition the decision looked at.
        seen_through: Last partition that had landed; the version serves the partitions after it.
        action: What was decided.
        version: The version in production from then on, or the one that was refused.
        candidate: The version that stood before the gate (`version` is its refit), if any.
        previous: The version in production before.
        reason: One sentence.
        causes: What asked for it.
        data_range: First and last partition `version` was trained on.
        metrics: Holdout metrics by name.
        by: Who or what decided.
        sha256: Digest of the model file of `version`.
        recipe: Digest of the spec that `version` was trained with.
        because: Why it was asked for, in words.
        datasets: Version of each dataset's table that `version` was trained on.
        trained_on: Digest of the data of each partition that `version` was trained on.
        gate: Digest of the gate that decided; None of a row that was written without one.
        more: Of a hold, how many further partitions it would probably take; None where unknown.
    """

    time: datetime
    as_of: str
    seen_through: str
    action: Action
    version: int
    candidate: int | None
    previous: int | None
    reason: str
    causes: tuple[str, ...]
    data_range: tuple[str, str]
    metrics: dict[str, float]
    by: str
    sha256: str
    recipe: str
    because: str = ""
    datasets: Mapping[str, int] = field(default_factory=dict)
    trained_on: Mapping[str, str] = field(default_factory=dict)
    more: int | None = None
    gate: str | None = None

    def for_people(self) -> dict[str, object]:
        """The row as `retrain history --json` prints it."""
        shown = asdict(self)
        shown.update(time=self.time.isoformat(), data_range=list(self.data_range))
        shown["causes"] = list(self.causes)
        del shown["trained_on"], shown["gate"]  # for programs: a line a partition, and a digest
        return shown


@dataclass(frozen=True)
class History:
    """The ledger as it was read.

    Args:
        rows: Oldest first.
        version: The table version they stand at; None where nothing was decided yet.
        digests: Of each row with all before it.
        misfit: What is wrong with the first row that does not fit; empty where all fit.
    """

    rows: tuple[LedgerRow, ...]
    version: int | None
    digests: tuple[str, ...] = ()
    misfit: str = ""

    @property
    def head(self) -> str:
        """Number and digest of the newest row; empty where there is none."""
        return f"{len(self.digests) - 1} {self.digests[-1]}" if self.digests else ""

    def has(self, head: str) -> bool:
        """Whether the ledger once ended at a head that was kept, and has only grown since."""
        number, _, digest = head.partition(" ")
        return dict(enumerate(self.digests)).get(int(number)) == digest

    @property
    def production(self) -> LedgerRow | None:
        """The row that put the version now in production there."""
        return next((row for row in reversed(self.rows) if row.action in IN_PRODUCTION), None)

    @property
    def production_version(self) -> int | None:
        """Return the number of the version now in production."""
        return self.production.version if self.production else None

    def production_at(self, partition: str) -> LedgerRow | None:
        """The row whose version was in production when a partition arrived."""
        earlier = (row for row in self.rows if row.seen_through < partition)
        return next((row for row in reversed(tuple(earlier)) if row.action in IN_PRODUCTION), None)

    @property
    def staged(self) -> LedgerRow | None:
        """The row that put a version up for approval, unless production has changed since."""
        newest = (row for row in reversed(self.rows) if row.action in (*IN_PRODUCTION, "stage"))
        row = next(newest, None)
        return row if row and row.action == "stage" else None

    @property
    def decided(self) -> LedgerRow | None:
        """The newest decision of the gate, or the adoption that it goes on from."""
        found = (row for row in reversed(self.rows) if row.action in (*GATED, "adopt"))
        return next(found, None)

    def decision_on(self, *candidates: int) -> LedgerRow | None:
        """The decision of the gate on a candidate, or one of several, if it was made."""
        return next((row for row in self.rows if row.candidate in candidates), None)


@dataclass(frozen=True)
class Ledger:
    """The ledger of one model."""

    tables: Tables
    model: str

    @property
    def table(self) -> str:
        """Where the ledger is stored."""
        return f"{self.model}/ledger"

    def read(self) -> History:
        """All rows, oldest first, at one version of the table."""
        version = self.tables.version(self.table)
        if version is None:
            return History((), None)
        scanned = self.tables.scan(self.table, version=version).sort("number")
        records = self.tables.collect(scanned, self.table, version).to_dicts()
        digests, misfit = _chained(records)
        return History(tuple(map(_row, records)), version, digests, misfit)

    def append(self, row: LedgerRow, decided_on: History) -> History:
        """Record a decision made on the ledger as it was read.

        Raises:
            StaleTableError: Somebody else decided meanwhile; read the ledger and decide again.
        """
        record = asdict(row) | {
            "number": len(decided_on.rows),
            **{name: json.dumps(getattr(row, name), sort_keys=True) for name in AS_JSON},
            "data_from": row.data_range[0],
            "data_to": row.data_range[1],
            "previous_sha256": decided_on.digests[-1] if decided_on.digests else "",
        }
        del record["data_range"]
        frame = pl.DataFrame([record], schema=SCHEMA)
        commit = {"action": row.action, "version": str(row.version)}
        version = self.tables.append(self.table, frame, commit, decided_on.version)
        (stored,) = frame.to_dicts()
        digests = (*decided_on.digests, _digest(stored, stored["previous_sha256"]))
        return History((*decided_on.rows, row), version, digests, decided_on.misfit)


def _chained(records: Sequence[dict[str, object]]) -> tuple[tuple[str, ...], str]:
    """Digests of stored rows, and what is wrong with the first that does not fit."""
    digests, before, misfit = [], "", ""
    for number, record in enumerate(records):
        if record["number"] != number:
            misfit = misfit or f"row {number} is missing: row {record['number']} stands there"
        if record["previous_sha256"] != before:
            where = f"row {number - 1} or one before it" if number else "row 0"
            misfit = misfit or f"{where} is not what row {number} was written after"
        before = _digest(record, before)
        digests.append(before)
    return tuple(digests), misfit


def _digest(record: Mapping[str, object], before: str) -> str:
    # Nulls are left out, so that a column added later changes no digest.
    told = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in record.items()
        if value is not None
    }
    told["previous_sha256"] = before
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _row(record: dict[str, object]) -> LedgerRow:
    apart = ("number", "data_from", "data_to", "previous_sha256")
    fields = {name: value for name, value in record.items() if name not in apart}
    fields |= {name: json.loads(str(record[name])) for name in AS_JSON}
    fields["causes"] = tuple(fields["causes"])  # type: ignore[arg-type]
    fields["data_range"] = (record["data_from"], record["data_to"])
    return LedgerRow(**fields)  # type: ignore[arg-type]


def reversible(rows: Sequence[LedgerRow]) -> tuple[int, ...]:
    """Versions that were in production and can be rolled back to, newest first."""
    served = [row.version for row in rows if row.action in IN_PRODUCTION]
    return tuple(dict.fromkeys(reversed(served)))


SCHEMA_pauses = dict.fromkeys((PARTITION, "until", "reason", "by"), pl.String())


@dataclass(frozen=True)
class Pauses:
    """The pause of one model.

    Args:
        tables: Where it is kept.
        model: Name of the model.
    """

    tables: Tables
    model: str

    def read(self) -> Pause | None:
        """The pause that stands; None where there is none."""
        table = f"{self.model}/pause"
        rows = self.tables.collect(self.tables.scan(table, SCHEMA_pauses).drop(PARTITION), table)
        return Pause(**rows.row(0, named=True)) if rows.height else None

    def write(self, pause: Pause | None, commit: Mapping[str, str]) -> None:
        """Replace the pause that stands, by none where it is to end.

        Args:
            pause: What is to stand.
            commit: Who wants it and why, for the table's history.
        """
        rows = [{PARTITION: self.model, **asdict(pause)}] if pause else []
        frame = pl.DataFrame(rows, schema=SCHEMA_pauses)
        self.tables.replace(f"{self.model}/pause", frame, [self.model], commit)
