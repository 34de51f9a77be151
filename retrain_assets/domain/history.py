"""What the features of a row may look back on: rows of the partitions before its own.

Not here: reading those rows, and what features make of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.rules import PARTITION
from retrain_assets.domain.windows import before, mature_partitions

if TYPE_CHECKING:
    from retrain_assets.specs.dataset import DatasetSpec
    from retrain_assets.specs.model import ModelSpec


@dataclass(frozen=True)
class History:
    """Rows of the dataset, without lookups, from which each partition is shown those before it.

    Args:
        rows: Of all partitions that are looked back on, and perhaps others; in any order.
        landed: All partitions of the dataset that have landed, in order.
        spec: The model.
        dataset: Its dataset.
    """

    rows: pl.DataFrame
    landed: tuple[str, ...]
    spec: ModelSpec
    dataset: DatasetSpec

    def before(self, key: str) -> pl.DataFrame:
        """What rows of a partition look back on, sorted by partition and key.

        It is the `features.history` partitions that exist strictly before. While a row is
        predicted its own partition has not landed yet, so a label is final, and shown, where
        `labels.delay` partitions lie between; other columns `known: later` are null.

        Args:
            key: The partition, landed or still to come.
        """
        past = before(self.landed, key, self.spec.features.history)
        final = pl.col(PARTITION).is_in(mature_partitions(past, self.spec.labels.delay))
        columns = self.dataset.columns.items()
        return (
            self.rows.filter(pl.col(PARTITION).is_in(past))
            .with_columns(
                pl.when(final).then(name) for name, column in columns if column.known == "later"
            )
            .sort(PARTITION, *self.dataset.key)
            .rechunk()  # sums of floats depend on the chunks
        )
