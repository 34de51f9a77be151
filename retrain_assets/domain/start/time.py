"""Guess which column says when a row happened, and the periods that the rows divide into.

Not here: what is made of a sample without any time.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from retrain_assets.domain.data.rules import partition_of
from retrain_assets.domain.start.draft import Certainty, Guess
from retrain_assets.domain.start.meaning import quote
from retrain_assets.domain.start.table import Table, ends
from retrain_assets.specs.dataset import ColumnType
from retrain_assets.specs.partition import PERIODS, PartitionSpec

LEAST_PARTITIONS = 4  # fewer cannot be divided into training and holdout
_GOOD_COUNT, _GOOD_ROWS, _LEAST_COVERAGE = 20, 30, 0.5
_SHORT_SPAN = timedelta(days=20)  # below which hours are looked at
_NAMED = re.compile(
    r"(^|_)(date|day|dt|time|timestamp|ts|created|occurred|ordered|start)", re.IGNORECASE
)
_NOT_EVENT = re.compile(
    r"birth|dob|expir|updat|modif|clos|end|due|deliver|return|arriv", re.IGNORECASE
)
_MOST_MISSING = 0.05
_SECONDS, _MILLISECONDS = (10**9, 2 * 10**9), (10**12, 2 * 10**12)


@dataclass(frozen=True)
class Periods:
    """The division of rows by time.

    Args:
        by: The period.
        keys: The partitions with rows, in order.
        typical: The median number of rows of one.
    """

    by: str
    keys: tuple[str, ...]
    typical: int


def derive_times(
    table: Table, texts: dict[str, pl.Series]
) -> Iterator[tuple[str, ColumnType, str]]:
    """Yield columns that could hold a date, as name, type and the SQL that makes them.

    Args:
        table: The sample.
        texts: Columns of text in a file with types, which may hold dates.
    """
    lower = {name.lower(): name for name in table.of_type("int")}
    year, month, day = (
        next((lower[name] for name in names if name in lower), None)
        for names in (("year", "yr"), ("month", "mnth", "mon"), ("day", "mday", "dayofmonth"))
    )
    if year and table.rows[year].drop_nulls().is_between(1800, 2200).all():
        parts = [f"'-', {quote(name)}" if name else "'-01'" for name in (month, month and day)]
        yield "date", "date", _as_date(f"CONCAT({', '.join([quote(year), *parts])})")
    for name, values in texts.items():
        if values.drop_nulls().head(100).str.contains(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}").all():
            yield f"{name}_date", "date", _as_date(f"SUBSTR({quote(name)}, 1, 10)")
    for name in table.of_type("int"):
        values = table.rows[name].drop_nulls()
        for (low, high), factor in ((_SECONDS, 1_000_000), (_MILLISECONDS, 1_000)):
            if _NAMED.search(name) and len(values) and values.is_between(low, high).all():
                moment = f"TRY_CAST({quote(name)} * {factor} AS TIMESTAMP)"
                yield f"{name}_date", "date", f"TRY_CAST({moment} AS DATE)"


def _as_date(text: str) -> str:
    """Return SQL that reads a text as a date; `DATE` is taken for a look at other rows."""
    return f"TRY_CAST(STRPTIME({text}, '%Y-%m-%d') AS DATE)"


def guess_time(table: Table, wish: str | None, target: str) -> tuple[str | None, Guess]:
    """Return the column of the time that a row happened at, if there is one, and why.

    Raises:
        ValueError: The column that is asked for has no times.
    """
    times = [name for name in table.of_type("date", "datetime") if name != target]
    if wish is not None:
        if wish not in times:
            kind, names = table.types.get(wish, "no column"), ", ".join(times) or "none"
            raise ValueError(
                f"--time {wish} is {kind}, not a date or time; those that are: {names}"
            )
        return wish, Guess("time", wish, "as asked for", "sure")
    usable = [
        name
        for name in times
        if table.share_missing(name) <= _MOST_MISSING and table.count_distinct(name) > 1
    ]
    if not usable:
        why = "no column holds a date or time" if not times else f"{times[0]} has many gaps"
        return None, Guess("time", "none", why, "unsure")
    ranked = sorted(usable, key=lambda name: _rank(table, name, times.index(name)))
    name: str = ranked[0]
    certainty: Certainty = "sure" if len(ranked) == 1 else "unsure"
    why = "the only column of times"
    if len(ranked) > 1:
        why = f"other columns of times: {', '.join(ranked[1:])}"
    return name, Guess("time", name, why, certainty)


def _rank(table: Table, name: str, place: int) -> tuple[bool, bool, bool, int]:
    is_sorted = bool(table.rows[name].drop_nulls().is_sorted())
    return bool(_NOT_EVENT.search(name)), not _NAMED.search(name), not is_sorted, place


def guess_periods(times: pl.Series) -> Periods:
    """Return the shortest period that gives enough partitions with enough rows."""
    first, last = ends(times)
    is_short = last - first < _SHORT_SPAN and times.dtype != pl.Date
    options = [_divide(times, by) for by in PERIODS if is_short or by != "hour"]
    return max(options, key=lambda periods: _rate(periods, times))


def _divide(times: pl.Series, by: str) -> Periods:
    spec = PartitionSpec.model_validate(
        {"by": by, "column": times.name, "start": PERIODS[by].example}
    )
    keys = times.drop_nulls().to_frame().select(partition_of(spec, times.name).alias("key"))
    counts = keys["key"].value_counts().sort("key")
    return Periods(by, tuple(counts["key"]), int(counts.select(pl.col("count").median()).item()))


def _rate(periods: Periods, times: pl.Series) -> float:
    """Return how well rows divide: 1 with enough partitions that have enough rows, else less."""
    period, count = PERIODS[periods.by], len(periods.keys)
    first, last = ends(times)
    span = (last - first) / period.longest + 1
    coverage = 1 if count / span >= _LEAST_COVERAGE else count / span
    rows = min(periods.typical / _GOOD_ROWS, 1)
    return float(min(count / _GOOD_COUNT, 1) * rows * coverage)
