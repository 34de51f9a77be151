"""Features of a few rows without a plan: lookups by index, expressions that were parsed once.

polars takes tenths of a millisecond for the smallest query, so for single rows a feature that is
more than a column is remembered by the values that it is computed from: hours and weekdays come
again. The caller compares the result with `compute_features` first. Not here: queries that are more
than one SELECT of expressions.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import repeat
from typing import Any

import numpy as np
import polars as pl

from retrain_assets.domain.data.row_wise import select_rows
from retrain_assets.domain.data.values import keep_finite
from retrain_assets.domain.features.build import FeatureError, get_stored_type
from retrain_assets.domain.features.sql import split_select_list
from retrain_assets.serving.scoring.request import Row
from retrain_assets.specs.base import duration
from retrain_assets.specs.model import ModelSpec

Column = Sequence[Any] | pl.Series

MAX_INDEXED = 1_000_000
MAX_REMEMBERED = 50_000
_AT, _LONG_AGO = "_at", -(2**62)


class QuickFeatures:
    """Computes the features of rows.

    Args:
        spec: The model.
        columns: The columns of a row, in its order.
        joined: An empty frame of the columns that features see.
        lookups: The rows of each lookup.

    Raises:
        FeatureError: The features are not a plain SELECT of expressions, or a lookup is too large
            or has two rows for one key.
    """

    def __init__(
        self,
        spec: ModelSpec,
        columns: Sequence[str],
        joined: pl.DataFrame,
        lookups: Mapping[str, pl.DataFrame],
    ) -> None:
        items = split_select_list(spec.features.sql or "")
        if items is None or spec.features.history or [*columns] != joined.columns[: len(columns)]:
            raise FeatureError("the features are not one SELECT of expressions FROM rows")
        expressions = [pl.sql_expr(item) for item in items]
        used = {name for expression in expressions for name in expression.meta.root_names()}
        self._indexes = [_Index(name, rows, spec, columns, used) for name, rows in lookups.items()]
        visible = [*columns, *(name for index in self._indexes for name in index.names)]
        types = joined.select(expressions).schema
        self.names = list(types)
        self._expressions: list[pl.Expr] = []
        self._features: list[int | _Computed] = []
        for expression, (name, kind) in zip(expressions, types.items(), strict=True):
            stored, source = get_stored_type(name, kind, spec), expression.meta.undo_aliases()
            value = expression.cast(stored)
            self._expressions.append(keep_finite(value) if stored == pl.Float64 else value)
            if source.meta.is_column() and kind == stored:
                self._features.append(visible.index(source.meta.output_name()))
            else:
                self._features.append(_Computed(self._expressions[-1], visible, joined.schema))

    def values(self, rows: Sequence[Row]) -> list[Sequence[Any]]:
        """Return the features of rows, a column each, in the order of `names`."""
        columns: list[Sequence[Any]] = list(zip(*(row.values() for row in rows), strict=True))
        joined = [series.to_list() for index in self._indexes for series in index.find(columns)]
        columns += joined
        return [
            columns[feature] if isinstance(feature, int) else feature.values(columns)
            for feature in self._features
        ]

    def frame(self, rows: pl.DataFrame) -> list[pl.Series]:
        """Return the features of a frame of rows, in the order of `names`."""
        columns = rows.get_columns()
        joined = [series for index in self._indexes for series in index.find(columns)]
        return select_rows(pl.DataFrame([*columns, *joined]), *self._expressions).get_columns()


class _Computed:
    """A feature that is more than a column, remembered by the values it is computed from."""

    def __init__(self, expression: pl.Expr, columns: list[str], schema: pl.Schema) -> None:
        self._expression = expression
        names = sorted(set(expression.meta.root_names())) or columns[:1]
        self._places = [columns.index(name) for name in names]
        self._schema = {name: schema[name] for name in names}
        self._remembered: dict[tuple[Any, ...], Any] = {}

    def values(self, columns: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the feature of each row."""
        rows = list(zip(*(columns[place] for place in self._places), strict=True))
        # As a key, 0.0 equals -0.0, which an expression can tell apart.
        keys = [tuple(repr(value) if value == 0 else value for value in row) for row in rows]
        remembered = self._remembered
        if missing := {
            key: row for key, row in zip(keys, rows, strict=True) if key not in remembered
        }:
            if len(remembered) > MAX_REMEMBERED:
                remembered = {key: remembered[key] for key in keys if key in remembered}
                self._remembered = remembered
            frame = pl.DataFrame([*missing.values()], schema=self._schema, orient="row")
            values = select_rows(frame, self._expression).to_series()
            remembered.update(zip(missing, values, strict=True))
        return [remembered[key] for key in keys]


class _Index:
    """Finds the rows of a lookup, which polars' join takes five times as long for.

    A row of the lookup has a code: the number of its key, and within the key the rank of the moment
    from which it is known.

    Raises:
        FeatureError: The lookup is too large or has two rows for one key.
    """

    def __init__(
        self,
        name: str,
        rows: pl.DataFrame,
        model: ModelSpec,
        columns: Sequence[str],
        used: set[str],
    ) -> None:
        if rows.height > MAX_INDEXED:
            raise FeatureError(f"lookup {name} has over {MAX_INDEXED:,} rows")
        spec, places = model.lookups[name], {column: n for n, column in enumerate(columns)}
        joined = [*spec.on, spec.as_of] if spec.as_of else spec.on
        if derived := [column for column in joined if column not in places]:
            raise FeatureError(f"lookup {name} is joined by derived columns: {', '.join(derived)}")
        self._key = [places[column] for column in spec.on]
        self._time = None if spec.as_of is None else places[spec.as_of]
        lag = _micros(duration(spec.lag))
        self._max_age = _micros(duration(spec.tolerance)) - lag if spec.tolerance else math.inf
        moments = _moments(None if spec.as_of is None else rows[spec.as_of], rows.height)
        rows = rows.with_columns(pl.Series(_AT, moments) + lag)
        rows = rows.drop_nulls(spec.on).filter(pl.col(_AT) != _LONG_AGO + lag)
        keys, at = rows.select(spec.on).rows(), rows[_AT].to_numpy()
        self._numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        self._times, rank = np.unique(at, return_inverse=True)
        self._width = len(self._times) + 1
        codes = np.array([self._numbers[key] for key in keys], np.int64) * self._width + rank
        order = codes.argsort()
        if repeated := rows.height - len(np.unique(codes)):
            raise FeatureError(
                f"{repeated} rows of lookup {name} share {', '.join(spec.on)} with another row"
            )
        # The first row belongs to no key and holds nulls.
        self._codes = np.insert(codes[order], 0, -2 * self._width)
        self._at = np.insert(at[order], 0, 0)
        values = rows.select(
            pl.col(column).alias(f"{name}_{column}")
            for column in rows.columns
            if f"{name}_{column}" in used
        )
        self.names, self._values = values.columns, pl.concat([values.clear(1), values[order]])

    def find(self, columns: Sequence[Column]) -> list[pl.Series]:
        """Return the used columns of the lookup for each row; null where nothing matches."""
        keys, count = zip(*(columns[place] for place in self._key), strict=True), len(columns[0])
        numbers = np.fromiter(map(self._numbers.get, keys, repeat(-1)), np.int64, count)
        first = numbers * self._width
        at = _moments(None if self._time is None else columns[self._time], count)
        places = self._codes.searchsorted(first + self._times.searchsorted(at, side="right")) - 1
        matches = self._codes[places] >= first
        matches &= at - self._at[places] <= self._max_age
        rows = pl.Series((places * matches).astype(np.uint32))
        return [values[rows] for values in self._values.get_columns()]


def _moments(times: Column | None, count: int) -> np.ndarray:
    """Return times as microseconds since 1970: long ago for null, zeros without times."""
    if times is None:
        return np.zeros(count, np.int64)
    if not isinstance(times, pl.Series):
        return np.array([_moment(time) for time in times], np.int64)
    moments = times.cast(pl.Datetime("us", "UTC")).cast(pl.Int64)
    return (moments.fill_null(_LONG_AGO) if moments.null_count() else moments).to_numpy()


def _moment(time: date | None) -> int:
    if time is None:
        return _LONG_AGO
    if not isinstance(time, datetime):
        time = datetime(time.year, time.month, time.day, tzinfo=UTC)
    return round(time.timestamp() * 1e6)


def _micros(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
