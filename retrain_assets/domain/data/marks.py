"""Marks of rows that depend on the other rows of their partition: repeated, conflicting, far out.

Rows come in chunks, however many there are, and only a few numbers of each row are held at once.
Not here: what follows from a mark (`rules.py`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import CONFLICTING, PARTITION, REPEATED, WHOLE, far_out
from retrain_assets.specs.dataset import DatasetSpec

Chunks = Callable[[], Iterable[pl.DataFrame]]
_KEYS, _ROWS = ("_key_1", "_key_2"), ("_row_1", "_row_2")
_FIRST, _PLACE = "_first", "_place"


@dataclass(frozen=True)
class Marks:
    """The facts of all rows that are needed to mark one of them.

    Args:
        keys: The hashes of keys that several rows of a partition may have.
        versions: For each different row with such a key, the place of its first copy among all
            rows, and how many different rows that could be read in full have its key.
        centres: By partition, median and scale of each column with `outliers`.
    """

    keys: pl.Series
    versions: pl.DataFrame
    centres: pl.DataFrame

    def mark(self, rows: pl.DataFrame, first: int, spec: DatasetSpec) -> pl.DataFrame:
        """Add the marks to a chunk of rows, of which the first has the place `first` of all."""
        flags = {name: np.zeros(rows.height, dtype=bool) for name in (REPEATED, CONFLICTING)}
        if not self.keys.is_empty():
            shared = _hash_keys(rows, spec).is_in(self.keys.implode())
            part = _fingerprints(rows.with_row_index(_PLACE, first).filter(shared), spec)
            matched = part.join(self.versions, on=_ROWS, how="left", maintain_order="left")
            is_first = pl.col(_PLACE) == pl.col(_FIRST)
            repeated = pl.col(WHOLE) & (pl.col("versions") == 1) & ~is_first
            conflicting = pl.col(WHOLE) & (pl.col("versions") > 1)
            marked = matched.select(repeated.alias(REPEATED), conflicting.alias(CONFLICTING))
            for name, flag in flags.items():
                flag[shared.to_numpy()] = marked[name].to_numpy()
        return _mark_outliers(rows.hstack(pl.DataFrame(flags)), self.centres, spec)


def find_marks(chunks: Chunks, spec: DatasetSpec) -> Marks:
    """Gather what marks depend on, in two passes over all rows at most.

    Of equal rows all but the first are repeated. Rows that differ under one key are all
    conflicting, since nothing says which is right. Rows that could not be read in full are not
    compared. Rows are compared by hashes of 128 bits, which two different ones share less than once
    in 10^24 files of five million rows.
    """
    columns = [name for name, column in spec.columns.items() if column.outliers is not None]
    hashes, values = [], []
    for rows in chunks():
        hashes.append(_hash_keys(rows, spec).to_numpy())
        if columns:
            values.append(rows.select(PARTITION, pl.col(columns).cast(pl.Float64)))
    ordered = np.concatenate(hashes)
    hashes.clear()
    ordered.sort()
    keys = pl.Series(ordered[1:][ordered[1:] == ordered[:-1]], dtype=pl.UInt64).unique()
    del ordered
    centres = _find_centres(pl.concat(values), columns) if columns else pl.DataFrame()
    return Marks(keys, _find_versions(chunks, keys, spec), centres)


def _hash_keys(rows: pl.DataFrame, spec: DatasetSpec) -> pl.Series:
    """Return a hash of each row's partition and key; equal by chance, more rows are compared."""
    return rows.select(pl.struct(PARTITION, *spec.key).hash()).to_series()


def _fingerprints(rows: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    key, row = pl.struct(PARTITION, *spec.key), pl.struct(PARTITION, WHOLE, *spec.columns)
    seeds = range(1, 3)
    return rows.select(
        _PLACE,
        WHOLE,
        *(key.hash(seed).alias(name) for seed, name in zip(seeds, _KEYS, strict=True)),
        *(row.hash(seed).alias(name) for seed, name in zip(seeds, _ROWS, strict=True)),
    )


def _find_versions(chunks: Chunks, keys: pl.Series, spec: DatasetSpec) -> pl.DataFrame:
    """Return the different rows among those whose key may be shared."""
    place = pl.col(_PLACE).min().alias(_FIRST)
    parts, first = [], 0
    for rows in chunks() if len(keys) else ():
        numbered = rows.with_row_index(_PLACE, first)
        shared = numbered.filter(_hash_keys(rows, spec).is_in(keys.implode()))
        distinct = _fingerprints(shared, spec).group_by(*_ROWS, *_KEYS, WHOLE).agg(place)
        parts.append(distinct)
        first += rows.height
    if not parts:
        return pl.DataFrame()
    different = pl.concat(parts).group_by(*_ROWS, *_KEYS, WHOLE).agg(pl.col(_FIRST).min())
    versions = pl.col(WHOLE).sum().over(_KEYS).alias("versions")
    return different.select(*_ROWS, _FIRST, versions)


def _find_centres(values: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """Return the median and the scale of each column, by partition.

    The scale is 1.4826 MAD, the median absolute deviation, which estimates the standard deviation
    of a normal distribution; where more than half of the values are equal, so that MAD is 0, it is
    1.2533 times the mean absolute deviation (Iglewicz and Hoaglin 1993). All values that could be
    read are among those compared.
    """
    figures = []
    for name in columns:
        distance = (pl.col(name) - pl.col(name).median()).abs()
        spread, fallback = distance.median() * 1.4826, distance.mean() * 1.2533
        scale = pl.when(spread > 0).then(spread).otherwise(fallback)
        figures += [pl.col(name).median().alias(f"_median_{name}"), scale.alias(f"_scale_{name}")]
    return values.group_by(PARTITION).agg(figures)


def _mark_outliers(rows: pl.DataFrame, centres: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """Flag values by their robust z-score, |x - median| / scale, within their partition."""
    if not centres.width:
        return rows
    joined = rows.join(centres, on=PARTITION, how="left", maintain_order="left")
    for name, column in spec.columns.items():
        if column.outliers is not None:
            distance = (pl.col(name).cast(pl.Float64) - pl.col(f"_median_{name}")).abs()
            is_far = distance > column.outliers.robust_z * pl.col(f"_scale_{name}")
            joined = joined.with_columns(is_far.alias(far_out(name)))
    return joined.drop(name for name in centres.columns if name != PARTITION)
