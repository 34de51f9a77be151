"""The rows of earlier partitions that the features of a partition look back on.

Not here: computing features.
"""

from dataclasses import dataclass

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.windows import mature_partitions, take_before
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
        """Return what rows of a partition look back on, sorted by partition and key.

        It is the `features.history` partitions that exist strictly before. While a row is
        predicted its own partition has not landed yet, so a label is final, and shown, where
        `labels.delay` partitions lie between; other columns `known: later` are null.

        Args:
            key: The partition, landed or still to come.
        """
        past = take_before(self.landed, key, self.spec.features.history)
        final = pl.col(PARTITION).is_in(mature_partitions(past, self.spec.labels.delay))
        return (
            self.rows.filter(pl.col(PARTITION).is_in(past))
            .with_columns(pl.when(final).then(name) for name in list_later(self.dataset))
            .sort(PARTITION, *self.dataset.key)
            .rechunk()  # sums of floats depend on the chunks
        )


def list_later(dataset: DatasetSpec) -> list[str]:
    """Return the columns that are not known when predicting."""
    return [name for name, column in dataset.columns.items() if column.timing == "later"]
