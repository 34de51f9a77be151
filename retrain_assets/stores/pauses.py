"""Whether a person holds back the retraining of a model, and why.

One row that is replaced; who wanted what before is in the table's history. Not here: what a pause
means for the triggering policy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.situation import Pause
from retrain_assets.stores.tables import PARTITION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from retrain_assets.stores.tables import Tables

SCHEMA = dict.fromkeys((PARTITION, "until", "reason", "by"), pl.String())


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
        rows = self.tables.collect(self.tables.scan(table, SCHEMA).drop(PARTITION), table)
        return Pause(**rows.row(0, named=True)) if rows.height else None

    def write(self, pause: Pause | None, commit: Mapping[str, str]) -> None:
        """Replace the pause that stands, by none where it is to end.

        Args:
            pause: What is to stand.
            commit: Who wants it and why, for the table's history.
        """
        rows = [{PARTITION: self.model, **asdict(pause)}] if pause else []
        frame = pl.DataFrame(rows, schema=SCHEMA)
        self.tables.replace(f"{self.model}/pause", frame, [self.model], commit)
