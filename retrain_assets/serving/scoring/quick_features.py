"""Features of a few rows without a plan: lookups by index, expressions that were parsed once.

polars takes tenths of a millisecond for the smallest query, so a feature that is more than a column
is remembered by the values it is made of: hours and weekdays come again. Whoever uses this holds it
against `compute_features` first. Not here: queries that are more than one SELECT of expressions.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import repeat
from operator import itemgetter
from typing import Any

import numpy as np
import polars as pl

from retrain_assets.domain.features.build import FeatureError, get_stored_type
from retrain_assets.domain.features.sql import split_select_list
from retrain_assets.serving.scoring.request import Row
from retrain_assets.specs.base import duration
from retrain_assets.specs.features import LookupSpec
from retrain_assets.specs.model import ModelSpec

Find = Callable[[Row], tuple[Any, ...]]

MOST_INDEXED = 1_000_000
REMEMBERED = 50_000
_AT, _LONG_AGO = "_at", -(2**62)


class Quick:
    """Makes features of rows.

    Args:
        spec: The model.
        own: The columns of a row, in its order.
        joined: An empty frame of the columns that features see.
        lookups: Rows of each lookup.

    Raises:
        FeatureError: The features are not a plain SELECT of expressions, or a lookup is too large
            or has two rows for one key.
    """

    def __init__(
        self,
        spec: ModelSpec,
        own: Sequence[str],
        joined: pl.DataFrame,
        lookups: Mapping[str, pl.DataFrame],
    ) -> None:
        items = split_select_list(spec.features.sql or "")
        if items is None or spec.features.history or [*own] != joined.columns[: len(own)]:
            raise FeatureError("the features are not one SELECT of expressions FROM rows")
        expressions = [pl.sql_expr(item) for item in items]
        seen = {name for found in expressions for name in found.meta.root_names()}
        columns, self._finders, self._indexes = list(own), [], []
        for name, rows in lookups.items():
            if rows.height > MOST_INDEXED:
                raise FeatureError(f"lookup {name} has over {MOST_INDEXED:,} rows")
            wanted = [column for column in rows.columns if f"{name}_{column}" in seen]
            self._finders.append(_finder(rows, spec.lookups[name], wanted))
            self._indexes.append(_Index(rows, spec.lookups[name], wanted))
            columns += [f"{name}_{column}" for column in wanted]
        typed = joined.select(expressions).schema
        self.names = list(typed)
        self._features: list[int | _Computed] = []
        for found, (name, kind) in zip(expressions, typed.items(), strict=True):
            stored, source = get_stored_type(name, kind, spec), found.meta.undo_aliases()
            if source.meta.is_column() and kind == stored:
                self._features.append(columns.index(source.meta.output_name()))
            else:
                self._features.append(_Computed(found.cast(stored), columns, joined.schema))

    def values(self, rows: Sequence[Row]) -> list[Sequence[Any]]:
        """The features of rows, a column each, in the order of `names`."""
        columns = list(zip(*(row.values() for row in rows), strict=True))
        for find in self._finders:
            columns += zip(*map(find, rows), strict=True)
        return [
            columns[found] if isinstance(found, int) else found.of(columns)
            for found in self._features
        ]

    def frame(self, rows: pl.DataFrame) -> list[pl.Series]:
        """The features of a frame of rows, in the order of `names`."""
        columns = rows.get_columns()
        for index in self._indexes:
            columns += index.find(rows)
        return [
            columns[found].alias(name) if isinstance(found, int) else found.series(columns)
            for found, name in zip(self._features, self.names, strict=True)
        ]


class _Computed:
    """A feature that is more than a column, remembered by the values it is made of."""

    def __init__(self, expression: pl.Expr, columns: list[str], schema: pl.Schema) -> None:
        self._expression = expression
        names = sorted(set(expression.meta.root_names())) or columns[:1]
        self._used = {name: columns.index(name) for name in names}
        self._schema = {name: schema[name] for name in names}
        self._known: dict[tuple[Any, ...], Any] = {}
        self._whole = np.empty(0, np.int64), pl.Series()

    def series(self, columns: list[pl.Series]) -> pl.Series:
        """The feature of each row of a frame."""
        frame = pl.DataFrame([columns[n].alias(name) for name, n in self._used.items()])
        ((name, kind), *more), counts = self._schema.items(), frame.null_count().row(0)
        if more or any(counts) or not (kind.is_integer() or kind.is_temporal()):
            return frame.select(self._expression).to_series()
        wanted, (known, values) = frame[name].cast(pl.Int64).to_numpy(), self._whole
        places = known.searchsorted(wanted)
        if not known.size or (known.take(places, mode="clip") != wanted).any():
            known = np.union1d(known if known.size < REMEMBERED else wanted, wanted)
            frame = pl.DataFrame([pl.Series(name, known).cast(kind)])
            values = frame.select(self._expression).to_series()
            self._whole = known, values
            places = known.searchsorted(wanted)
        return values[pl.Series(places.astype(np.uint32))]

    def of(self, columns: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The feature of each row."""
        keys = list(zip(*(columns[place] for place in self._used.values()), strict=True))
        known = self._known
        if missing := [key for key in dict.fromkeys(keys) if key not in known]:
            if len(known) > REMEMBERED:
                known = self._known = {key: known[key] for key in keys if key in known}
            frame = pl.DataFrame(missing, schema=self._schema, orient="row")
            known.update(zip(missing, frame.select(self._expression).to_series(), strict=True))
        return [known[key] for key in keys]


class _Index:
    """Finds rows of a lookup for a whole frame, which polars' join takes five times as long for.

    A row of it is a number: that of its key, and within it that of the moment it is known from.
    """

    def __init__(self, rows: pl.DataFrame, spec: LookupSpec, wanted: list[str]) -> None:
        self._on, self._as_of = spec.on, spec.as_of
        lag = duration(spec.lag) if spec.as_of else timedelta()
        reach = duration(spec.tolerance) - lag if spec.as_of and spec.tolerance else None
        self._reach = math.inf if reach is None else _micros(reach)
        held = rows.with_columns((self._moments(rows) + _micros(lag)).alias(_AT))
        held = held.drop_nulls([*spec.on, _AT])
        keys, at = held.select(spec.on).rows(), held[_AT].to_numpy()
        self._numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        self._times, rank = np.unique(at, return_inverse=True)
        self._width = len(self._times) + 1
        codes = np.array([self._numbers[key] for key in keys], np.int64) * self._width + rank
        order = codes.argsort()
        # Before all of them a row that is for none, of nulls.
        self._codes = np.insert(codes[order], 0, -2 * self._width)
        self._at = np.insert(at[order], 0, 0)
        chosen = held.select(wanted)
        self._values = pl.concat([chosen.clear(1), chosen[order]]).get_columns()

    def find(self, rows: pl.DataFrame) -> list[pl.Series]:
        """The wanted columns of the lookup, of each row; null where nothing matches."""
        keys = zip(*(rows[name].to_list() for name in self._on), strict=True)
        numbers = np.fromiter(map(self._numbers.get, keys, repeat(-1)), np.int64, rows.height)
        first = numbers * self._width
        moments = self._moments(rows)
        if moments.null_count():
            moments = moments.fill_null(_LONG_AGO)
        at = moments.to_numpy()
        known = self._times.searchsorted(at, side="right")
        places = self._codes.searchsorted(first + known) - 1
        fits = self._codes[places] >= first
        fits &= at - self._at[places] <= self._reach
        chosen = pl.Series((places * fits).astype(np.uint32))
        return [values[chosen] for values in self._values]

    def _moments(self, rows: pl.DataFrame) -> pl.Series:
        if self._as_of is None:
            return pl.zeros(rows.height, pl.Int64, eager=True)
        return rows[self._as_of].cast(pl.Datetime("us", "UTC")).cast(pl.Int64)


def _finder(rows: pl.DataFrame, spec: LookupSpec, wanted: list[str]) -> Find:
    """From a row to some values of the row of a lookup that belongs to it."""
    keys, values = rows.select(spec.on).rows(), rows.select(wanted).rows()
    nothing = (None,) * len(wanted)
    key_of = _getter(spec.on)
    if spec.as_of is None:
        known = [(key, found) for key, found in zip(keys, values, strict=True) if None not in key]
        one = dict(known)
        _refuse_twice(len(known) - len(one), spec)
        return lambda row: one.get(key_of(row), nothing)
    as_of, lag = spec.as_of, _micros(duration(spec.lag))
    reach = math.inf if spec.tolerance is None else _micros(duration(spec.tolerance)) - lag
    known_at = rows[as_of].cast(pl.Datetime("us", "UTC")).to_physical().to_list()
    timed = [
        (at, key, found)
        for at, key, found in zip(known_at, keys, values, strict=True)
        if None not in (at, *key)
    ]
    index: dict[tuple[Any, ...], tuple[list[int], list[tuple[Any, ...]]]] = {}
    for at, key, found in sorted(timed, key=itemgetter(0)):
        times, series = index.setdefault(key, ([], []))
        times.append(at + lag)
        series.append(found)
    _refuse_twice(sum(len(times) - len(set(times)) for times, _ in index.values()), spec)

    def find(row: Row) -> tuple[Any, ...]:
        if row[as_of] is None or (found := index.get(key_of(row))) is None:
            return nothing
        moment, (times, series) = _moment(row[as_of]), found
        newest = bisect_right(times, moment) - 1
        return series[newest] if newest >= 0 and moment - times[newest] <= reach else nothing

    return find


def _getter(names: list[str]) -> Find:
    if len(names) > 1:
        return itemgetter(*names)
    (name,) = names
    return lambda row: (row[name],)


def _refuse_twice(count: int, spec: LookupSpec) -> None:
    if count:
        raise FeatureError(f"{count} rows of a lookup share {', '.join(spec.on)} with another")


def _micros(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def _moment(at: date) -> int:
    """Microseconds, which compare ten times as fast as times of two libraries' UTC."""
    if not isinstance(at, datetime):
        at = datetime(at.year, at.month, at.day, tzinfo=UTC)
    return round(at.timestamp() * 1e6)
