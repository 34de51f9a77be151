"""Features of a few rows without a plan: lookups by index, expressions that were parsed once.

polars takes tenths of a millisecond for the smallest query, so a feature that is more than a column
is remembered by the values it is made of: hours and weekdays come again. Whoever uses this holds it
against `row_features` first. Not here: queries that are more than one SELECT of expressions.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from datetime import UTC, date, datetime, timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import polars as pl

from retrain_assets.domain.features import (
    FeatureError,
    join_prepared,
    prepare_lookup,
    stored_type,
)
from retrain_assets.domain.queries import select_list
from retrain_assets.specs.base import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from retrain_assets.serving.contract import Row
    from retrain_assets.specs.features import LookupSpec
    from retrain_assets.specs.model import ModelSpec

    Find = Callable[[Row], tuple[Any, ...]]

MOST_INDEXED = 1_000_000
REMEMBERED = 50_000


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
        items = select_list(spec.features.sql or "")
        if items is None or spec.features.history or [*own] != joined.columns[: len(own)]:
            raise FeatureError("the features are not one SELECT of expressions FROM rows")
        expressions = [pl.sql_expr(item) for item in items]
        seen = {name for found in expressions for name in found.meta.root_names()}
        columns, self._finders = list(own), []
        self._specs, self._lookups = spec.lookups, {}
        for name, rows in lookups.items():
            if rows.height > MOST_INDEXED:
                raise FeatureError(f"lookup {name} has over {MOST_INDEXED:,} rows")
            wanted = [column for column in rows.columns if f"{name}_{column}" in seen]
            self._finders.append(_finder(rows, spec.lookups[name], wanted))
            prepared = prepare_lookup(rows, name, spec.lookups[name])
            self._lookups[name] = prepared.select(
                pl.col(n) for n in prepared.columns if n in seen or not n.startswith(f"{name}_")
            )
            columns += [f"{name}_{column}" for column in wanted]
        typed = joined.select(expressions).schema
        self.names = list(typed)
        self._features: list[int | _Computed] = []
        self._expressions: list[pl.Expr] = []
        for found, (name, kind) in zip(expressions, typed.items(), strict=True):
            stored, source = stored_type(name, kind, spec), found.meta.undo_aliases()
            self._expressions.append(found.cast(stored))
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

    def frame(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The features of a frame of rows."""
        return join_prepared(rows, self._lookups, self._specs).select(self._expressions)


class _Computed:
    """A feature that is more than a column, remembered by the values it is made of."""

    def __init__(self, expression: pl.Expr, columns: list[str], schema: pl.Schema) -> None:
        self._expression = expression
        names = sorted(set(expression.meta.root_names())) or columns[:1]
        self._places = [columns.index(name) for name in names]
        self._schema = {name: schema[name] for name in names}
        self._known: dict[tuple[Any, ...], Any] = {}

    def of(self, columns: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The feature of each row."""
        keys = list(zip(*(columns[place] for place in self._places), strict=True))
        known = self._known
        if missing := [key for key in dict.fromkeys(keys) if key not in known]:
            if len(known) > REMEMBERED:
                known = self._known = {}
            frame = pl.DataFrame(missing, schema=self._schema, orient="row")
            known.update(zip(missing, frame.select(self._expression).to_series(), strict=True))
        return [known[key] for key in keys]


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
