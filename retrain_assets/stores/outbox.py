"""The outbox of a model or dataset: what people are to be told, and what became of it.

One small table that is replaced whole by each change, made on the version that was read; what it
held before is in the table's history. Not here: what a change is.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.messages import Notice
from retrain_assets.stores.tables import PARTITION, StaleTableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from retrain_assets.stores.tables import Tables

ATTEMPTS = 10
_TEXTS = ("id", "kind", "subject", "text", "cause", "fields", "channel", "message", "error")
SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys((PARTITION, *_TEXTS), pl.String()),
    **dict.fromkeys(("time", "since", "sent"), pl.Datetime("us", "UTC")),
    "attempts": pl.Int64(),
    "wait": pl.Float64(),
}


@dataclass(frozen=True)
class Outbox:
    """The outbox of one model or dataset, named by `subject`."""

    tables: Tables
    subject: str

    def read(self) -> list[Notice]:
        """All notices, oldest first."""
        return self._read(self.tables.version(self._table))

    def change(self, make: Callable[[Sequence[Notice]], list[Notice]]) -> list[Notice]:
        """Replace the notices by what is made of them; nothing is written where that is the same.

        Args:
            make: Is called again where another process has changed them meanwhile.

        Returns:
            What the outbox holds then.

        Raises:
            StorageError: The table cannot be read or written, or others were faster each time.
        """
        for _ in range(ATTEMPTS):
            base = self.tables.version(self._table)
            notices = self._read(base)
            made = make(notices)
            if made == notices:
                return made
            records = [asdict(notice) | {PARTITION: self.subject} for notice in made]
            rows = pl.DataFrame(records, schema=SCHEMA)
            with suppress(StaleTableError):
                self.tables.replace(self._table, rows, [self.subject], {}, base=base)
                return made
        raise StaleTableError(f"table {self._table}: others changed it {ATTEMPTS} times")

    @property
    def _table(self) -> str:
        return f"{self.subject}/outbox"

    def _read(self, version: int | None) -> list[Notice]:
        if version is None:
            return []
        rows = self.tables.scan(self._table, version=version).drop(PARTITION)
        found = self.tables.collect(rows, self._table, version)
        return [Notice(**record) for record in found.iter_rows(named=True)]
