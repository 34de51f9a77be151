"""From raw rows to features: the code of training, with what is looked up held in memory.

`RowMaker.features` is `row_features` on the lookups as they are now. For a few rows most of its
time goes into planning joins and SQL, so `Quick` looks values up in indexes and evaluates the
expressions of the SELECT, which were parsed once; it is used only after it gave the same features
for stored rows. Not here: encoding features for a model.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import polars as pl

from retrain_assets.domain.derived import derive
from retrain_assets.domain.features import (
    PARTITION,
    FeatureError,
    join_lookups,
    row_features,
    stored_type,
)
from retrain_assets.domain.queries import select_list
from retrain_assets.domain.rules import BROKEN, LINE, STORED, partition_of
from retrain_assets.specs.base import duration
from retrain_assets.steps.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from retrain_assets.serving.contract import Row
    from retrain_assets.specs.features import LookupSpec
    from retrain_assets.steps.state import ModelState

QUICK_ROWS = 2_000  # above, joining frames is faster
MOST_INDEXED = 1_000_000
TRIED = 200


@dataclass(frozen=True)
class Held:
    """A lookup in memory.

    Args:
        version: Of its table.
        changed: When that version was committed.
        rows: What features can see of it.
    """

    version: int
    changed: datetime
    rows: pl.DataFrame


class RowMaker:
    """Features of raw rows, on one state of the lookups.

    Args:
        state: The model.
        held: Its lookups.

    Raises:
        FeatureError: A lookup has two rows for one key.
    """

    def __init__(self, state: ModelState, held: Mapping[str, Held]) -> None:
        self.state, self.held = state, held
        self.quick: Quick | None = None
        columns = state.dataset.columns.items()
        self._schema = {
            name: STORED[column.type]
            for name, column in columns
            if column.known == "before" and column.expression is None
        }
        self._past: dict[tuple[int | None, str], pl.DataFrame] = {}

    def features(self, rows: Sequence[Row]) -> pl.DataFrame:
        """Features of rows in the order given, as `row_features` makes them.

        Raises:
            FeatureError: The model's SQL or function fails on them.
        """
        frame = self._typed(rows)
        if not self.state.spec.features.history:
            return self._made(frame, None)
        parts = frame.with_row_index("_order").partition_by(PARTITION)
        made = [
            self._made(part.drop("_order"), self._before(part[PARTITION][0])).with_columns(
                part["_order"]
            )
            for part in parts
        ]
        return pl.concat(made).sort("_order").drop("_order")

    def prepare(self, rows: Sequence[Row]) -> str | None:
        """Use the quick way from now on if it does and gives the same for these rows.

        Returns:
            Why it is not used; None where it is.
        """
        try:
            quick, wanted = Quick(self), self.features(rows)
            made = [tuple(values) for row in rows for values in quick.values([row])]
        except (ValueError, pl.exceptions.PolarsError) as error:
            return str(error)
        for row, (given, expected) in enumerate(zip(made, wanted.rows(), strict=True)):
            if repr(given) != repr(expected):
                return f"stored row {row} gives {given} instead of {expected}"
        self.quick = quick if quick.names == tuple(wanted.columns) else None
        return None

    def stored_rows(self) -> list[Row]:
        """Raw rows of the newest stored partition, as a request would hold them."""
        maker = Rows(self.state)
        newest = list(maker.counts)[-1:]
        rows = maker._dataset(newest)  # noqa: SLF001 the same rows that features are made of
        return rows.select(*self._schema).sample(min(TRIED, rows.height), seed=0).to_dicts()

    def _made(self, rows: pl.DataFrame, history: pl.DataFrame | None) -> pl.DataFrame:
        lookups = {name: held.rows for name, held in self.held.items()}
        return row_features(rows, lookups, self.state.spec, self.state.dataset, history)

    def _typed(self, rows: Sequence[Row]) -> pl.DataFrame:
        dataset = self.state.dataset
        frame = pl.DataFrame(rows, schema=self._schema)
        if len(dataset.file_columns) < len(dataset.columns):
            later = [pl.lit(None, STORED[c.type]).alias(n) for n, c in dataset.file_columns.items()]
            missing = [found for found in later if found.meta.output_name() not in frame.columns]
            broken = pl.lit(None, pl.String).alias(BROKEN)
            found = derive(frame.with_row_index(LINE, 1).with_columns(broken, *missing), dataset)
            frame = found.select(n for n, c in dataset.columns.items() if c.known == "before")
        key = partition_of(dataset.partition, dataset.partition.column or "")
        return frame.select(key.alias(PARTITION), pl.all())

    def _before(self, key: str) -> pl.DataFrame | None:
        """What rows of a partition look back on; read again when the dataset changes."""
        at = (self.state.tables.version(f"{self.state.dataset.name}/dataset"), key)
        if at not in self._past:
            history = Rows(self.state).history([key])
            self._past = {at: history.before(key)} if history else {}
        return self._past.get(at)


class Quick:
    """Features of a few rows without a plan.

    Args:
        maker: Whose lookups and spec it uses.

    Raises:
        FeatureError: The features are not a plain SELECT of expressions.
    """

    def __init__(self, maker: RowMaker) -> None:
        spec, self._maker = maker.state.spec, maker
        items = select_list(spec.features.sql or "")
        derived = any(column.expression for column in maker.state.dataset.columns.values())
        if items is None or spec.features.history or derived:
            raise FeatureError("the features are not one SELECT of expressions FROM rows")
        if any(held.rows.height > MOST_INDEXED for held in maker.held.values()):
            raise FeatureError(f"a lookup has over {MOST_INDEXED:,} rows")
        empty = join_lookups(
            maker._typed([]),  # noqa: SLF001 of one module
            {name: held.rows.head(0) for name, held in maker.held.items()},
            spec.lookups,
        ).drop(PARTITION)
        expressions = [pl.sql_expr(item) for item in items]
        typed = empty.select(expressions).schema
        self.names = tuple(typed)
        computed: list[pl.Expr] = []
        places = []
        for found, (name, kind) in zip(expressions, typed.items(), strict=True):
            stored, source = stored_type(name, kind, spec), found.meta.undo_aliases()
            if source.meta.is_column() and kind == stored:
                places.append(empty.columns.index(source.meta.output_name()))
            else:
                places.append(empty.width + len(computed))
                computed.append(found.alias(name).cast(stored))
        # Most features are a column as it is, and polars is asked for the others alone.
        self._computed, self._features = computed, itemgetter(*places, 0)
        used = sorted({name for found in computed for name in found.meta.root_names()})
        self._schema = {name: empty.schema[name] for name in used}
        self._used = itemgetter(*(empty.columns.index(name) for name in used), 0)
        self._finders = [
            _finder(maker.held[name].rows, lookup) for name, lookup in spec.lookups.items()
        ]

    def values(self, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
        """The features of each row, in the order of `names`."""
        # Always one place more, since an itemgetter of one gives no tuple.
        joined = [sum((find(row) for find in self._finders), tuple(row.values())) for row in rows]
        if self._computed:
            used = [self._used(values)[:-1] for values in joined]
            made = pl.DataFrame(used, schema=self._schema, orient="row").select(self._computed)
            joined = [values + more for values, more in zip(joined, made.rows(), strict=True)]
        return [self._features(values)[:-1] for values in joined]


def _finder(rows: pl.DataFrame, spec: LookupSpec) -> Callable[[Row], tuple[Any, ...]]:
    """From a row to the values that a lookup adds to it."""
    wanted = [name for name in rows.columns if name not in spec.on and not name.startswith("_")]
    keys, values = rows.select(spec.on).rows(), rows.select(wanted).rows()
    nothing = (None,) * len(wanted)
    on = spec.on
    if spec.as_of is None:
        known = [(key, found) for key, found in zip(keys, values, strict=True) if None not in key]
        index = dict(known)
        _refuse_twice(len(known) - len(index), spec)
        return lambda row: index.get(tuple(row[name] for name in on), nothing)
    lag = duration(spec.lag)
    reach = duration(spec.tolerance) - lag if spec.tolerance else None
    times: dict[tuple[Any, ...], list[datetime]] = {}
    series: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    place = wanted.index(spec.as_of)
    both = zip(keys, values, strict=True)
    timed = [(key, found) for key, found in both if None not in (*key, found[place])]
    for key, found in sorted(timed, key=lambda pair: pair[1][place]):
        times.setdefault(key, []).append(_moment(found[place]) + lag)
        series.setdefault(key, []).append(found)

    _refuse_twice(sum(len(found) - len(set(found)) for found in times.values()), spec)

    def as_of(row: Row) -> tuple[Any, ...]:
        key, at = tuple(row[name] for name in on), row[spec.as_of or ""]
        if at is None or key not in times:
            return nothing
        moment, known = _moment(at), times[key]
        newest = bisect_right(known, moment) - 1
        if newest < 0 or (reach is not None and moment - known[newest] > reach):
            return nothing
        return series[key][newest]

    return as_of


def _refuse_twice(count: int, spec: LookupSpec) -> None:
    if count:
        raise FeatureError(f"{count} rows of a lookup share {', '.join(spec.on)} with another")


def _moment(at: date) -> datetime:
    return at if isinstance(at, datetime) else datetime(at.year, at.month, at.day, tzinfo=UTC)
