"""Features of a row: the same code for training, batch and a single row.

Lookups are joined as they were known when predicting, then the model's own SQL or function sees
only columns that are known by then. Not here: reading tables, encoding for an estimator.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.rules import dataset_schema
from retrain_assets.specs.base import duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from retrain_assets.specs.dataset import DatasetSpec
    from retrain_assets.specs.features import LookupSpec
    from retrain_assets.specs.model import ModelSpec

PARTITION, KEY, WEIGHT = "_landing_partition", "_key", "_weight"
_ORDER, _KNOWN_AT = "_order", "_known_at"


class FeatureError(ValueError):
    """Rows cannot be made into features; the message names the model, column and remedy."""


def join_lookups(
    rows: pl.DataFrame, lookups: Mapping[str, pl.DataFrame], specs: Mapping[str, LookupSpec]
) -> pl.DataFrame:
    """Add the columns of each lookup as `<lookup>_<column>`; null where nothing matches.

    Args:
        rows: The rows that are predicted, in any order, which is kept.
        lookups: Rows of each lookup, by its name.
        specs: How each is joined.

    Raises:
        FeatureError: A lookup has two rows for one key, so that a join would multiply rows.
    """
    for name, spec in specs.items():
        joined = (
            _join_as_of(rows, lookups[name], name, spec)
            if spec.as_of
            else _join_equal(rows, lookups[name], name, spec)
        )
        if joined.height != rows.height:
            raise FeatureError(
                f"lookup {name}: {', '.join(spec.on)} does not name one row "
                f"({joined.height} rows after the join, {rows.height} before): "
                "join on its key, or give `as_of`"
            )
        rows = joined
    return rows


def _prefixed(lookup: pl.DataFrame, name: str, on: list[str]) -> pl.DataFrame:
    wanted = [c for c in lookup.columns if c not in on and not c.startswith("_")]
    return lookup.select(*on, *(pl.col(column).alias(f"{name}_{column}") for column in wanted))


def _join_equal(
    rows: pl.DataFrame, lookup: pl.DataFrame, name: str, spec: LookupSpec
) -> pl.DataFrame:
    right = _prefixed(lookup, name, spec.on)
    return rows.join(right, on=spec.on, how="left", maintain_order="left")


def _join_as_of(
    rows: pl.DataFrame, lookup: pl.DataFrame, name: str, spec: LookupSpec
) -> pl.DataFrame:
    time, lag = spec.as_of or "", duration(spec.lag)
    right = _prefixed(lookup, name, spec.on).with_columns(
        (pl.col(f"{name}_{time}") + lag).alias(_KNOWN_AT)
    )
    joined = (
        rows.with_row_index(_ORDER)
        .sort(time)
        .join_asof(
            right.drop_nulls(_KNOWN_AT).sort(_KNOWN_AT),
            left_on=time,
            right_on=_KNOWN_AT,
            by=spec.on,
            strategy="backward",
            tolerance=duration(spec.tolerance) - lag if spec.tolerance else None,
            check_sortedness=False,
        )
    )
    return joined.sort(_ORDER).drop(_ORDER, _KNOWN_AT, strict=False)


def row_features(
    rows: pl.DataFrame,
    lookups: Mapping[str, pl.DataFrame],
    spec: ModelSpec,
    dataset: DatasetSpec,
) -> pl.DataFrame:
    """The features alone, row by row in the order given.

    Args:
        rows: Rows of the dataset; columns that are `known: later` may be missing and are not read.
        lookups: Rows of each lookup.
        spec: The model.
        dataset: The dataset's contract.

    Raises:
        FeatureError: The SQL or function fails, drops rows, or gives a type no model can use.
    """
    later = [name for name, column in dataset.columns.items() if column.known == "later"]
    known = rows.drop(later, strict=False)
    joined = join_lookups(known, lookups, spec.lookups)
    try:
        features = _apply(joined, spec)
    except pl.exceptions.PolarsError as error:
        raise FeatureError(f"model {spec.name}: features: {error}") from error
    if features.height != rows.height:
        raise FeatureError(
            f"model {spec.name}: features has {features.height} rows for {rows.height}: "
            "give one row of features a row"
        )
    return features.select(_stored(name, dtype, spec) for name, dtype in features.schema.items())


def build_features(
    rows: pl.DataFrame,
    lookups: Mapping[str, pl.DataFrame],
    spec: ModelSpec,
    dataset: DatasetSpec,
) -> pl.DataFrame:
    """Features, target and row identity of labelled rows, as the features table stores them.

    Returns:
        `_landing_partition`, `_key` (the dataset's key joined by `|`), the features, the target
        (null where it is not known) and, where the model has weights, `_weight`; sorted by
        partition and key, so that the same rows give the same model.

    Raises:
        FeatureError: As `row_features`, or target and features share a name.
    """
    features = row_features(rows, lookups, spec, dataset)
    if spec.target.column in features.columns:
        raise FeatureError(
            f"model {spec.name}: the target {spec.target.column} is among its own features"
        )
    identity = rows.select(
        PARTITION,
        pl.concat_str([pl.col(c).cast(pl.String) for c in dataset.key], separator="|").alias(KEY),
    )
    frames = [identity, features, _target(rows, spec)]
    if spec.weight is not None:
        frames.append(rows.select(pl.sql_expr(spec.weight).cast(pl.Float64).alias(WEIGHT)))
    return pl.concat(frames, how="horizontal").sort(PARTITION, KEY)


def feature_names(
    spec: ModelSpec, dataset: DatasetSpec, lookups: Mapping[str, DatasetSpec]
) -> tuple[str, ...]:
    """Names of the features, found by making those of no rows at all.

    A table cannot tell, since it keeps the columns of earlier specs.
    """
    rows = pl.DataFrame(schema=dataset_schema(dataset))
    joined = {name: pl.DataFrame(schema=dataset_schema(found)) for name, found in lookups.items()}
    return tuple(row_features(rows, joined, spec, dataset).columns)


def _apply(rows: pl.DataFrame, spec: ModelSpec) -> pl.DataFrame:
    if spec.features.sql is not None:
        return pl.SQLContext(rows=rows).execute(spec.features.sql, eager=True)
    module, _, function = (spec.features.python or "").partition(":")
    result = getattr(import_module(module), function)(rows)
    if not isinstance(result, pl.DataFrame):
        found = type(result).__name__
        raise FeatureError(f"model {spec.name}: {spec.features.python} returned {found}, no frame")
    return result


def _target(rows: pl.DataFrame, spec: ModelSpec) -> pl.DataFrame:
    target = spec.target
    value = pl.sql_expr(target.expression) if target.expression else pl.col(target.column)
    stored = pl.String if target.kind == "multiclass" else pl.Float64
    return rows.select(value.cast(stored).alias(target.column))


def _stored(name: str, dtype: pl.DataType, spec: ModelSpec) -> pl.Expr:
    """One storage type a kind, so that a batch of another width never changes the schema."""
    column = pl.col(name)
    if dtype.is_integer():
        return column.cast(pl.Int64)
    if dtype.is_float() or dtype.is_decimal():
        return column.cast(pl.Float64)
    if dtype == pl.Boolean:
        return column
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    raise FeatureError(
        f"model {spec.name}: feature {name} is of type {dtype}: make it a number, text or boolean"
    )
