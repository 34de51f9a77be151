"""What rows of a partition can see of a lookup, whatever the two are cut by."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.domain.data.rules import partition_of
from retrain_assets.domain.features.lookup_partitions import LookupPartitions
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.features import LookupSpec

STARTS = {"hour": "2012-01-01T00", "day": "2012-01-01", "week": "2012-01-02", "month": "2012-01"}
STARTS |= {"year": "2012"}
VALUES = {"by": "value", "column": "shop", "values": ["north", "south", "west"]}


def dataset(name: str, by: str, column: str = "at", **partition: Any) -> DatasetSpec:
    period = {"by": by, "column": column, "start": STARTS.get(by)}
    return DatasetSpec.model_validate(
        {
            "name": name,
            "landing": f"{name}/*.csv",
            "partition": (period if by in STARTS else VALUES) | partition,
            "columns": {
                "at": {"type": "datetime"},
                "day": {"type": "date"},
                "shop": {"type": "category"},
            },
            "key": ["at"],
        }
    )


def reach(own: DatasetSpec, other: DatasetSpec, **lookup: Any) -> LookupPartitions:
    spec = LookupSpec.model_validate({"on": ["shop"], "as_of": "at"} | lookup)
    return LookupPartitions(spec, own, other)


def test_a_month_waits_for_all_its_hours_but_those_within_the_lag() -> None:
    monthly = reach(dataset("a", "month"), dataset("b", "hour"), lag="2h", tolerance="5h")
    hours = list(monthly.list_awaited("2013-02"))
    assert (hours[0], hours[-1], len(hours)) == ("2013-02-01T00", "2013-02-28T21", 28 * 24 - 2)
    landed = [
        f"2013-0{month}-{day:02}T{hour:02}"
        for month in (1, 2, 3)
        for day in range(1, 29)
        for hour in range(24)
    ]
    landed = sorted({*landed, "2013-01-31T18", "2013-01-31T19", "2013-01-31T23"})
    seen = monthly.list_visible("2013-02", landed)
    assert (seen[0], seen[-1], len(seen)) == ("2013-01-31T19", "2013-02-28T21", 2 + 28 * 24 - 2)


def test_a_day_waits_for_the_month_it_lies_in() -> None:
    daily = reach(dataset("a", "day"), dataset("b", "month"))
    assert list(daily.list_awaited("2013-02-01")) == ["2013-02"]
    assert daily.list_visible("2013-02-28", ["2012-12", "2013-02", "2013-03"]) == [
        "2012-12",
        "2013-02",
    ]


def test_a_lag_longer_than_the_partition_waits_for_what_can_be_seen() -> None:
    daily = reach(dataset("a", "day"), dataset("b", "day"), lag="2d", tolerance="4d")
    assert list(daily.list_awaited("2013-02-10")) == ["2013-02-08"]
    days = [f"2013-02-{day:02}" for day in range(1, 15)]
    assert list(daily.list_visible("2013-02-10", days)) == days[5:8]


def test_what_lies_outside_the_lookup_is_not_waited_for() -> None:
    closed = dataset("b", "day", start="2013-01-05", end="2013-01-06")
    daily = reach(dataset("a", "day"), closed)
    assert [list(daily.list_awaited(f"2013-01-0{day}")) for day in (4, 5, 7)] == [
        [],
        ["2013-01-05"],
        [],
    ]


def test_dates_are_the_same_in_every_time_zone_and_moments_are_not() -> None:
    here = dataset("a", "day", timezone="America/New_York")
    there = dataset("b", "day", timezone="Asia/Tokyo")
    assert list(reach(here, there).list_awaited("2013-01-05")) == ["2013-01-05", "2013-01-06"]
    assert list(reach(here, there, as_of="day").list_awaited("2013-01-05")) == ["2013-01-05"]


def test_rows_joined_on_what_both_are_partitioned_by_see_that_partition_alone() -> None:
    daily = dataset("a", "day", "day"), dataset("b", "day", "day")
    joined = reach(*daily, on=["shop", "day"], as_of=None)
    assert list(joined.list_awaited("2013-01-05")) == ["2013-01-05"]
    assert joined.list_visible("2013-01-05", ["2013-01-04", "2013-01-05"]) == ["2013-01-05"]
    by_shop = reach(dataset("a", "value"), dataset("b", "value"), as_of=None)
    assert list(by_shop.list_awaited("south")) == ["south"]
    assert by_shop.list_visible("south", ["north", "south"]) == ["south"]
    assert by_shop.list_visible("west", ["north", "south"]) == []


@pytest.mark.parametrize(
    ("own", "other", "lookup"),
    [
        (dataset("a", "value"), dataset("b", "day"), {}),
        (dataset("a", "day"), dataset("b", "value"), {}),
        (dataset("a", "day"), dataset("b", "value"), {"as_of": None}),
        (dataset("a", "day"), dataset("b", "day"), {"as_of": None}),
    ],
)
def test_where_time_does_not_tell_all_is_seen_and_none_waited_for(
    own: DatasetSpec, other: DatasetSpec, lookup: dict[str, Any]
) -> None:
    found = reach(own, other, **lookup)
    assert not found.is_bounded
    assert list(found.list_awaited("south")) == []
    assert found.list_visible("south", ["x", "y"]) == ["x", "y"]


def test_the_longest_duration_reaches_back_to_the_beginning() -> None:
    daily = reach(dataset("a", "day"), dataset("b", "day"), tolerance="999999d")
    assert daily.list_visible("2013-01-02", ["2012-01-01", "2013-01-03"]) == ["2012-01-01"]


MOMENTS = st.datetimes(datetime(2013, 1, 1), datetime(2014, 3, 31), timezones=st.just(UTC))  # noqa: DTZ001
ZONES = st.sampled_from(["UTC", "America/New_York", "Australia/Lord_Howe", "Atlantic/Azores"])


@given(
    moment=MOMENTS,
    back=st.timedeltas(timedelta(0), timedelta(days=40)),
    periods=st.tuples(st.sampled_from(list(STARTS)), st.sampled_from(list(STARTS))),
    zones=st.tuples(ZONES, ZONES),
    hours=st.tuples(st.integers(0, 50), st.integers(0, 900)),
)
def test_whatever_a_row_can_see_is_seen(
    moment: datetime,
    back: timedelta,
    periods: tuple[str, str],
    zones: tuple[str, str],
    hours: tuple[int, int],
) -> None:
    lag, tolerance = timedelta(hours=hours[0]), timedelta(hours=sum(hours))
    own, other = (
        dataset(name, by, timezone="UTC" if by == "hour" else zone)
        for name, by, zone in zip("ab", periods, zones, strict=True)
    )
    found = reach(own, other, lag=f"{hours[0]}h", tolerance=f"{sum(hours)}h")
    seen_at = moment - lag - min(back, tolerance - lag)
    (key,), (held,) = (key_of(own, moment), key_of(other, seen_at))
    assert list(found.list_visible(key, [held])) == [held]
    awaited = list(found.list_awaited(key))
    assert list(found.list_visible(key, awaited)) == awaited


def key_of(spec: DatasetSpec, moment: datetime) -> list[str]:
    rows = pl.DataFrame({"at": [moment]}, schema={"at": pl.Datetime("us", "UTC")})
    return rows.select(partition_of(spec.partition, "at")).to_series().to_list()
