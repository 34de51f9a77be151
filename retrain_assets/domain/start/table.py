"""The typed rows of a sample, and what the guesses ask of them.

Not here: any guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from retrain_assets.specs.dataset import ColumnType

MOST_ROWS = 50_000  # on which associations are computed
_BINS = 64
_MOST_MISSING = 0.2  # of the values of a part of a sum
_ROWS_A_PART = 3  # by which a sum is told from chance


@dataclass(frozen=True)
class Table:
    """The rows of a sample as their types, in the order of the file.

    Args:
        rows: The columns of the contract, and `_line`.
        types: The type of each column.
    """

    rows: pl.DataFrame
    types: Mapping[str, ColumnType]

    def of_type(self, *kinds: ColumnType) -> list[str]:
        """Return the columns of some types, in the order of the file."""
        return [name for name, kind in self.types.items() if kind in kinds]

    def share_missing(self, name: str) -> float:
        """Return the share of rows without a value."""
        return self.rows[name].null_count() / max(1, self.rows.height)

    def count_distinct(self, name: str) -> int:
        """Return the number of different values."""
        return self.rows[name].drop_nulls().n_unique()

    def is_identified_by(self, names: Sequence[str]) -> bool:
        """Tell if no two rows have the same values in some columns."""
        return self.count_keys(names) == self.rows.height

    def count_keys(self, names: Sequence[str]) -> int:
        """Return how many different combinations of values some columns have."""
        return int(self.rows.select(pl.struct(names).hash().n_unique()).item())

    def thin(self) -> pl.DataFrame:
        """Return rows spread evenly over the sample, as many as associations are computed on."""
        return self.rows.gather_every(-(-self.rows.height // MOST_ROWS))


def ends(values: pl.Series) -> tuple[Any, Any]:
    """Return the least and the largest value; None where there is no value."""
    return values.min(), values.max()


def count_rarest(values: pl.Series) -> int:
    """Return how often the rarest value stands in a column; 0 where there is no value."""
    counts: list[int] = values.drop_nulls().value_counts()["count"].to_list()
    return min(counts, default=0)


def compute_strength(cause: pl.Series, effect: pl.Series) -> float:
    """Return how well a column alone predicts another, out of sample.

    The values of `cause` are put into at most 64 bins; half of the rows, drawn at random, give the
    mean of a number or the most frequent value of a class in each bin, and the other half is
    predicted by it.

    Returns:
        For a number the share of variance that is explained, else the share of mistakes of the
        most frequent class that is avoided; 1 is perfect, 0 or less is nothing.
    """
    rows = pl.DataFrame({"bin": _bin(cause), "effect": effect}).drop_nulls("effect")
    rows = rows.sample(fraction=1.0, shuffle=True, seed=0)
    first, second = rows[: rows.height // 2], rows[rows.height // 2 :]
    if first.is_empty():
        return 0.0
    if effect.dtype.is_numeric():
        middle, fit = first["effect"].mean(), pl.col("effect").mean()
    else:
        middle, fit = first["effect"].mode().sort()[0], pl.col("effect").mode().sort().first()
    fitted = first.group_by("bin").agg(fit.alias("fitted"))
    joined = second.join(fitted, on="bin", how="left", nulls_equal=True, maintain_order="left")
    guessed, real = joined["fitted"].fill_null(middle), joined["effect"]
    linear = 0.0
    if cause.dtype.is_numeric() and effect.dtype.is_numeric():
        linear = pl.select(pl.corr(cause, effect)).item() or 0.0  # a line needs no bins
    return max(_skill(guessed, real, middle), linear**2)


def _skill(guessed: pl.Series, real: pl.Series, middle: Any) -> float:
    if real.dtype.is_numeric():
        error, spread = ((real - guessed) ** 2).sum(), ((real - middle) ** 2).sum()
    else:
        error, spread = (real != guessed).sum(), (real != middle).sum()
    return 1 - error / spread if spread else 0.0


def _bin(values: pl.Series) -> pl.Series:
    """Put numbers and times into bins of equally many values, and rare texts into one."""
    if values.dtype.is_temporal():
        values = values.to_physical()
    if values.n_unique() <= _BINS:
        return values.cast(pl.String)
    if values.dtype.is_numeric():
        return (values.rank("dense") * _BINS // (values.n_unique() + 1)).cast(pl.String)
    texts = values.cast(pl.String).rename("text")
    frequent = texts.drop_nulls().value_counts().sort("count", "text", descending=True)["text"]
    is_rare = ~pl.col("text").is_in(frequent.head(_BINS).to_list())
    return texts.to_frame().select(pl.when(is_rare).then(pl.lit("")).otherwise("text")).to_series()


def find_sum(table: Table, target: str, names: Sequence[str]) -> list[str]:
    """Return the columns of which a number is a weighted sum, but for rounding; usually none.

    Several sums may give the same number, such as parts and parts of these; all are found.

    Args:
        table: The sample.
        target: The number.
        names: Columns of numbers that may be parts of it.
    """
    used = [name for name in names if table.share_missing(name) <= _MOST_MISSING]
    rows = table.thin().select(target, *used).drop_nulls().cast(pl.Float64)
    if not used or rows.height < _ROWS_A_PART * len(used):
        return []
    effect = rows[target].to_numpy()

    def misses(parts: Sequence[str]) -> bool:
        matrix = np.column_stack([rows.select(parts).to_numpy(), np.ones(rows.height)])
        scale = np.abs(matrix).max(axis=0)
        scale[scale == 0] = 1
        solution, *_ = np.linalg.lstsq(matrix / scale, effect, rcond=None)
        residual = effect - matrix / scale @ solution
        return bool(residual.var() > 1e-6 * effect.var())  # as by rounding to 3 digits

    if effect.var() == 0 or misses(used):
        return []
    parts = list(used)
    strength = rows.select(pl.corr(name, target).abs().fill_nan(0).alias(name) for name in used)
    for name in sorted(used, key=lambda name: float(strength[name].item())):  # the weakest first
        without = [part for part in parts if part != name]
        if without and not misses(without):
            parts = without
    return [*parts, *find_sum(table, target, [name for name in used if name not in parts])]
