"""The ledger: every decision on a model, append-only, each made on the version that was read.

The ledger decides which version is in production; the registry's alias only follows it. Each row
has the digest of the one before, so that a row that is rewritten or lost no longer fits; the digest
of the newest, the head, is stored elsewhere too. Beside it stands the pause, by which a person
holds back retraining. Not here: making a decision, moving the alias, and storing the head.
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
from retrain_assets.domain.json_text import read_metrics, write_json
from retrain_assets.errors import PermanentError
from retrain_assets.stores.tables.tables import Tables

Action = Literal[
    "promote", "hold", "reject", "stage", "rollback", "approve", "adopt", "adapt", "withdraw",
    "rename", "retire",
]  # fmt: skip
IN_PRODUCTION: tuple[Action, ...] = ("promote", "rollback", "approve", "adopt")
OF_LAYER: tuple[Action, ...] = ("adapt", "withdraw")  # it begins or ends to serve
OF_MODEL: tuple[Action, ...] = ("rename", "retire")
GATED: tuple[Action, ...] = ("promote", "hold", "reject", "stage")
_TEXTS = (
    *("as_of", "seen_through", "action", "reason", "causes", "data_from", "data_to", "metrics"),
    *("by", "sha256", "recipe", "because", "datasets", "trained_on", "previous_sha256", "gate"),
)
SCHEMA: dict[str, pl.DataType] = {
    "time": pl.Datetime("us", "UTC"),
    **dict.fromkeys(("number", "version", "candidate", "previous", "more"), pl.Int64()),
    **dict.fromkeys(_TEXTS, pl.String()),
}
PAUSE_SCHEMA = dict.fromkeys((PARTITION, "until", "reason", "by"), pl.String())
# Values that no column type holds, stored as JSON.
AS_JSON = ("causes", "metrics", "datasets", "trained_on")
Identity = tuple[str, int | None]  # of the content of a table


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
        """Return the row as `retrain history --json` prints it."""
        row = asdict(self) | {"time": self.time.isoformat(), "causes": list(self.causes)}
        del row["trained_on"], row["gate"]  # for programs: a line a partition, and a digest
        return row | {"data_range": list(self.data_range)}


@dataclass(frozen=True)
class History:
    """The ledger as it was read.

    Args:
        rows: Oldest first.
        version: The table version they stand at; None if nothing was decided yet.
        digests: Of each row with all before it.
        misfit: What is wrong with the first row that does not fit; empty if all fit.
    """

    rows: tuple[LedgerRow, ...]
    version: int | None
    digests: tuple[str, ...] = ()
    misfit: str = ""

    @property
    def head(self) -> str:
        """Return number and digest of the newest row; empty if there is none."""
        return f"{len(self.digests) - 1} {self.digests[-1]}" if self.digests else ""

    def has(self, head: str) -> bool:
        """Return whether the ledger once ended at a stored head, and has only grown since."""
        number, _, digest = head.partition(" ")
        return dict(enumerate(self.digests)).get(int(number)) == digest

    @property
    def production(self) -> LedgerRow | None:
        """Return the row that put the present version into production."""
        return next((row for row in reversed(self.rows) if row.action in IN_PRODUCTION), None)

    @property
    def production_version(self) -> int | None:
        """Return the number of the version now in production."""
        return self.production.version if self.production else None

    def production_at(self, partition: str) -> LedgerRow | None:
        """Return the row whose version was in production when a partition arrived."""
        changes = (row for row in reversed(self.rows) if row.action in IN_PRODUCTION)
        return next((row for row in changes if row.seen_through < partition), None)

    @property
    def on_versions(self) -> tuple[LedgerRow, ...]:
        """Return the decisions on versions, without those on the adaptive layer or the model."""
        return tuple(row for row in self.rows if row.action not in (*OF_LAYER, *OF_MODEL))

    @property
    def layer(self) -> LedgerRow | None:
        """Return the row by which the adaptive layer began or ended to serve last."""
        return next((row for row in reversed(self.rows) if row.action in OF_LAYER), None)

    @property
    def is_adapted(self) -> bool:
        """Return whether the adaptive layer is to serve what comes next."""
        return self.layer is not None and self.layer.action == "adapt"

    def adapts_at(self, partition: str) -> bool:
        """Return whether the adaptive layer was to serve when a partition arrived."""
        rows = (row for row in reversed(self.rows) if row.action in OF_LAYER)
        row = next((row for row in rows if row.seen_through < partition), None)
        return row is not None and row.action == "adapt"

    def members_at(self, partition: str) -> list[LedgerRow]:
        """Return the rows of the versions that were in production until a partition, newest first.

        A version that was rolled back from is not among them until it comes again.
        """
        members: list[LedgerRow] = []
        for row in self.rows:
            if row.action in IN_PRODUCTION and row.seen_through < partition:
                outdated = {row.version, *([row.previous] if row.action == "rollback" else [])}
                members = [row, *(item for item in members if item.version not in outdated)]
        return members

    @property
    def staged(self) -> LedgerRow | None:
        """Return the row that staged a version, unless production has changed since."""
        actions = (*IN_PRODUCTION, "stage")
        row = next((row for row in reversed(self.rows) if row.action in actions), None)
        return row if row and row.action == "stage" else None

    @property
    def decided(self) -> LedgerRow | None:
        """Return the newest decision of the gate, or the adoption after the last of them."""
        actions = (*GATED, "adopt")
        return next((row for row in reversed(self.rows) if row.action in actions), None)

    def decision_on(self, *candidates: int) -> LedgerRow | None:
        """Return the decision of the gate on any of some candidates, if it was made."""
        return next((row for row in self.rows if row.candidate in candidates), None)


@dataclass(frozen=True)
class Ledger:
    """The ledger of one model.

    Args:
        tables: All tables.
        model: The model.
        newest: What was read last, by the identity of the table then; a step reads it many times.
    """

    tables: Tables
    model: str
    newest: dict[Identity, History] = field(default_factory=dict, compare=False, repr=False)

    @property
    def table(self) -> str:
        """Return the name of the ledger's table."""
        return f"{self.model}/ledger"

    def read(self) -> History:
        """Return all rows, oldest first, at one version of the table."""
        # A table in memory, or one that is not there, has no identity beside its version.
        identity: Identity | None = self.tables.identity(self.table)
        identity = identity or ("", self.tables.version(self.table))
        if identity not in self.newest:
            self.newest.clear()
            self.newest[identity] = self._read(identity[1])
        return self.newest[identity]

    def _read(self, version: int | None) -> History:
        if version is None:
            return History((), None)
        scanned = self.tables.scan(self.table, version=version).sort("number")
        records = self.tables.collect(scanned, self.table, version).to_dicts()
        digests, misfit = _check_chain(records)
        return History(tuple(map(_row, records)), version, digests, misfit)

    def append(self, row: LedgerRow, decided_on: History) -> History:
        """Record a decision made on the ledger as it was read.

        Raises:
            StaleTableError: Somebody else decided meanwhile; read the ledger and decide again.
        """
        record = asdict(row) | {
            "number": len(decided_on.rows),
            **{name: write_json(getattr(row, name)) for name in AS_JSON},
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

    def read_pause(self) -> Pause | None:
        """Return the present pause; None if there is none."""
        table = f"{self.model}/pause"
        rows = self.tables.collect(self.tables.scan(table, PAUSE_SCHEMA).drop(PARTITION), table)
        return Pause(**rows.row(0, named=True)) if rows.height else None

    def list_pauses(self) -> list[dict[str, str]]:
        """Return the notes of every pause and of its end, oldest first, as they were written."""
        commits = self.tables.list_commits(f"{self.model}/pause")
        return [commit for commit in reversed(commits) if "reason" in commit]

    def write_pause(self, pause: Pause | None, commit: Mapping[str, str]) -> None:
        """Replace the present pause, by none if it is to end.

        Args:
            pause: The new pause.
            commit: Who wants it and why, for the table's history.
        """
        rows = [{PARTITION: self.model, **asdict(pause)}] if pause else []
        frame = pl.DataFrame(rows, schema=PAUSE_SCHEMA)
        self.tables.replace(f"{self.model}/pause", frame, [self.model], commit)


def _check_chain(records: Sequence[dict[str, object]]) -> tuple[tuple[str, ...], str]:
    """Return digests of stored rows, and what is wrong with the first that does not fit."""
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
    present = {name: value for name, value in record.items() if value is not None}
    present["previous_sha256"] = before
    return sha256(
        json.dumps(present, sort_keys=True, default=datetime.isoformat).encode()
    ).hexdigest()


def _row(record: dict[str, object]) -> LedgerRow:
    apart = ("number", "data_from", "data_to", "previous_sha256")
    fields = {name: value for name, value in record.items() if name not in apart}
    fields |= {name: json.loads(str(record[name])) for name in AS_JSON}
    fields["metrics"] = read_metrics(str(record["metrics"]))
    fields["causes"] = tuple(fields["causes"])  # type: ignore[arg-type]
    fields["data_range"] = (record["data_from"], record["data_to"])
    return LedgerRow(**fields)  # type: ignore[arg-type]


def list_reversible(rows: Sequence[LedgerRow]) -> tuple[int, ...]:
    """Return versions that were in production and can be rolled back to, newest first."""
    served = [row.version for row in rows if row.action in IN_PRODUCTION]
    return tuple(dict.fromkeys(reversed(served)))
