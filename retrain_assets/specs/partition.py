"""The YAML of partitions: how rows divide into the unit that is replaced, watched and resampled.

Everything about a period of time is here: how its keys are written, and when it begins.
Not here: Dagster's partitions, and which partitions exist.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator

from retrain_assets.specs.base import Mistakes, Spec, hint

ALL = "all"
# A value names a folder, a run tag and a word of a predicate; Dagster reserves `...` for ranges.
_VALUE = re.compile(r"(?!.*\.\.)[A-Za-z0-9](?:[A-Za-z0-9_ .+-]{0,61}[A-Za-z0-9_+-])?")
_MOST_VALUES = 10_000
_YEARS = range(1900, 2200)


@dataclass(frozen=True)
class Period:
    """A period of time that rows are partitioned by.

    Args:
        key_format: The format of a key, for strftime.
        example: A key.
        length: The length of the period, as polars truncates times to it.
        shortest: The shortest time that it lasts.
        longest: The longest time that it lasts, apart from daylight saving.
        cron: The cron schedule on which it begins.
        per_year: The number of periods in a year.
        near: The number of periods within which two of them are near each other.
    """

    key_format: str
    example: str
    length: str
    shortest: timedelta
    longest: timedelta
    cron: str
    per_year: float
    near: int

    @property
    def per_week(self) -> int:
        """Return how many whole periods a week has; 1 for longer periods."""
        return max(1, int(self.per_year // 52))

    @property
    def form(self) -> str:
        """Return the form of a key as a regular expression."""
        return re.sub(r"[0-9]", "[0-9]", self.example)

    def begins(self, key: str) -> datetime | None:
        """Return the naive local time at which a partition begins, or None for an invalid key."""
        return _begins(self, key)

    def following(self, key: str) -> str:
        """Return the key after this one."""
        return _following(self, key)


# The same keys are asked about again and again, and each answer parses a date.
@lru_cache(maxsize=2**15)
def _begins(period: Period, key: str) -> datetime | None:
    if re.fullmatch(period.form, key) is None:
        return None
    try:
        begin = datetime.strptime(key, period.key_format)  # noqa: DTZ007 local by definition
    except ValueError:
        return None
    exists = begin.year in _YEARS and (period.length != "1w" or begin.weekday() == 0)
    return begin if exists else None


@lru_cache(maxsize=2**15)
def _following(period: Period, key: str) -> str:
    begin = datetime.strptime(key, period.key_format)  # noqa: DTZ007 local by definition
    return (begin + period.longest).strftime(period.key_format)


_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
PERIODS: dict[str, Period] = {
    "hour": Period("%Y-%m-%dT%H", "2013-01-31T07", "1h", _HOUR, _HOUR, "0 * * * *", 8766, 24),
    "day": Period("%Y-%m-%d", "2013-01-31", "1d", _DAY, _DAY, "0 0 * * *", 365.25, 7),
    "week": Period("%Y-%m-%d", "2013-01-28", "1w", 7 * _DAY, 7 * _DAY, "0 0 * * 1", 52.18, 4),
    "month": Period("%Y-%m", "2013-01", "1mo", 28 * _DAY, 31 * _DAY, "0 0 1 * *", 12, 3),
    "year": Period("%Y", "2013", "1y", 365 * _DAY, 366 * _DAY, "0 0 1 1 *", 1, 2),
}


class PartitionSpec(Spec):
    """The division of rows and files into partitions, which are replaced and monitored as units.

    Args:
        by: A `week` is named by its Monday; `none` replaces the whole dataset.
        column: The column that names the partition of a row.
        start: First partition, such as `2013-01-01` or `000`.
        end: Last partition, if the dataset gets no more.
        values: Values that make partitions, taken in alphabetical order.
        timezone: IANA time zone in which periods begin.
    """

    by: Literal["hour", "day", "week", "month", "year", "value", "none"]
    column: str | None = None
    start: str | None = None
    end: str | None = None
    values: list[str] | None = Field(None, min_length=1, max_length=_MOST_VALUES)
    timezone: str = "UTC"

    @property
    def period(self) -> Period | None:
        """Return the period of time, or None where partitions are values or do not exist."""
        return PERIODS.get(self.by)

    @property
    def example(self) -> str:
        """Return a key that messages can name."""
        return (self.values or [self.start or ALL])[0]

    @property
    def per_week(self) -> int:
        """Return how many partitions count as a week: seven where they are no periods."""
        return self.period.per_week if self.period else 7

    def is_key(self, key: str) -> bool:
        """Tell if a text is the key of a partition: in its exact form, and within the spec."""
        if self.by == "none":
            return key == ALL
        if self.values is not None:
            return key in self.values
        if self.period is None:
            has_form = key.isascii() and key.isdigit() and len(key) == len(self.start or "")
        else:
            has_form = self.period.begins(key) is not None
        return has_form and (self.start or key) <= key <= (self.end or key)

    def explain_misfit(self, key: str) -> str | None:
        """Return why a text is no key of a partition, or what one looks like; None for a key."""
        if self.is_key(key):
            return None
        if self.period is None or self.period.begins(key) is None:
            return f"write it as {self.example}"
        is_early = key < (self.start or key)
        return f"it is before {self.start}" if is_early else f"it is after {self.end}"

    def limits(self, *, is_timed: bool) -> dict[str, Any]:
        """Return the limits of values that lie in a partition, as pydantic names limits.

        Args:
            is_timed: The values are datetimes and not dates.
        """
        if self.values is not None:
            return {"enum": self.values}
        if self.period is None:
            return {"ge": int(self.start or 0), "le": int(self.end or 0)}
        begin = self.period.begins(self.start or "") or datetime.min  # noqa: DTZ901 never
        end = datetime(_YEARS.stop, 1, 1)  # noqa: DTZ001 local by definition
        if self.end is not None:
            following = self.period.following(self.end)
            end = datetime.strptime(following, self.period.key_format)  # noqa: DTZ007 as above
        last = end - timedelta(microseconds=1)
        if is_timed:
            zone = ZoneInfo(self.timezone)
            return {"ge": begin.replace(tzinfo=zone), "le": last.replace(tzinfo=zone)}
        return {"ge": begin.date(), "le": last.date()}

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (LookupError, ValueError, OSError) as error:
            near = hint(value, available_timezones())
            raise ValueError(f"{value!r} is not an IANA time zone{near}") from error
        return value

    @field_validator("values")
    @classmethod
    def _check_values(cls, value: list[str] | None) -> list[str] | None:
        for text in value or ():
            if text == ALL or _VALUE.fullmatch(text) is None:
                raise ValueError(
                    f"{text!r} cannot name a partition: use up to 63 letters, digits and _ . + -, "
                    f"and not {ALL}"
                )
        return None if value is None else sorted(set(value))

    def _find_mistakes(self) -> Mistakes:
        names = [n for n in ("column", "start", "end", "values") if getattr(self, n) is not None]
        required, optional = self._fields
        if missing := [name for name in required if name not in names]:
            yield f"partitions by {self.by} need {' and '.join(missing)}"
        if excess := [name for name in names if name not in (*required, *optional)]:
            yield f"partitions by {self.by} do not take {' or '.join(excess)}"
        if self.by == "hour" and self.timezone != "UTC":
            yield f"hours are counted in UTC, since {self.timezone} may have an hour twice a year"
        for bound in (end for end in (self.start, self.end) if end is not None):
            if self.period is not None and self.period.begins(bound) is None:
                yield (
                    f"{bound!r} is not a valid {'Monday' if self.by == 'week' else self.by} from "
                    f"{_YEARS[0]} to {_YEARS[-1]}: write it as {self.period.example}"
                )
            if self.period is None and not (bound.isascii() and bound.isdigit()):
                yield f"{bound!r} is not a whole number: write it as 000, or give `values`"
        if self.start is not None and self.end is not None:
            yield from self._find_range_mistakes(self.start, self.end)

    def _find_range_mistakes(self, start: str, end: str) -> Mistakes:
        if self.period is None and len(start) != len(end):
            yield f"start {start!r} and end {end!r} need equally many digits"
        if end < start:
            yield f"end {end} is before start {start}"
        if self.period is None and int(end) - int(start) >= _MOST_VALUES:
            yield f"{start} to {end} are more than {_MOST_VALUES:,} partitions"

    @property
    def _fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the fields that are required, and those that are optional."""
        if self.by == "none":
            return (), ()
        if self.period is not None:
            return ("column", "start"), ("end",)
        return ("column", "values") if self.values is not None else ("column", "start", "end"), ()
