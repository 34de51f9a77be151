"""Keys of partitions: written in one way, existing, within the spec; nothing else is a key."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from retrain_assets.specs.partition import PERIODS, PartitionSpec

STARTS = {
    "hour": "2012-01-01T00",
    "day": "2012-01-01",
    "week": "2012-01-02",
    "month": "2012-01",
    "year": "2012",
}
FOREIGN = [
    "",
    "all",
    "../../etc",
    "a'; DROP TABLE rows",
    "d' OR '1'='1",
    "2013-01-01/..",
    "2013-01-01 ",
    "\uff12\uff10\uff11\uff13-01-01",
    "٢٠١٣",
    "²013",
    "2013-1-5",
    "20130101",
    "2013-W05",
    "+013",
    "0000-01-01",
    "1899-12-31",
    "9999-12-31",
]


def spec(by: str, **fields: Any) -> PartitionSpec:
    return PartitionSpec.model_validate({"by": by, **fields})


def timed(by: str, **fields: Any) -> PartitionSpec:
    return spec(by, **({"column": "t", "start": STARTS[by]} | fields))


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("hour", ["2013-01-31T00", "2012-02-29T23", "2013-03-10T02"]),
        ("day", ["2013-01-31", "2012-02-29", "2013-12-31"]),
        ("week", ["2013-01-28", "2013-12-30"]),
        ("month", ["2013-01", "2013-12"]),
        ("year", ["2013", "2199"]),
    ],
)
def test_a_key_of_a_period_is_a_key(by: str, keys: list[str]) -> None:
    assert all(timed(by).is_key(key) for key in keys)
    assert not any(timed(by).is_key(f"{key}\n") for key in keys)
    assert not any(timed(by).is_key(key + end) for key in keys for end in "0 'T")


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("hour", ["2013-01-31T24", "2013-01-31 00", "2013-01-31T7", "2013-02-29T00", "2013-01-31"]),
        ("day", ["2013-02-29", "2013-02-30", "2013-13-01", "2013-00-01", "2013-01-00"]),
        ("week", ["2013-01-29", "2013-02-30", "2013-01-27"]),
        ("month", ["2013-13", "2013-00", "2013-1", "2013-01-01"]),
        ("year", ["13", "02013", "2200", "0012", "2013-01"]),
    ],
)
def test_what_is_no_such_period_is_no_key(by: str, keys: list[str]) -> None:
    assert not any(timed(by).is_key(key) for key in keys + FOREIGN)


def test_a_key_outside_the_spec_is_no_key() -> None:
    closed = timed("day", end="2012-03-01")
    assert closed.is_key("2012-01-01")
    assert closed.is_key("2012-03-01")
    assert not closed.is_key("2011-12-31")
    assert not closed.is_key("2012-03-02")


def test_values_are_keys_and_nothing_else_is() -> None:
    regions = spec("value", column="r", values=["us", "de", "us", "New York"])
    assert regions.values == ["New York", "de", "us"]
    assert all(regions.is_key(key) for key in ("us", "de", "New York"))
    assert not any(regions.is_key(key) for key in ["US", "us ", "us\n", *FOREIGN])


def test_numbers_are_keys_of_equal_length_within_their_range() -> None:
    numbers = spec("value", column="n", start="000", end="120")
    assert all(numbers.is_key(key) for key in ("000", "007", "120"))
    assert not any(numbers.is_key(key) for key in ["7", "0007", "121", "-01", "00\n", *FOREIGN])


def test_without_partitions_there_is_one_key() -> None:
    assert spec("none").is_key("all")
    assert not any(spec("none").is_key(key) for key in FOREIGN if key != "all")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"by": "day"}, "partitions by day need column and start"),
        ({"by": "day", "column": "t"}, "partitions by day need start"),
        ({"by": "none", "column": "t"}, "partitions by none do not take column"),
        ({"by": "value", "column": "t"}, "partitions by value need start and end"),
        ({"by": "value", "column": "t", "values": ["a"], "start": "1"}, "do not take start"),
        (
            {"by": "day", "column": "t", "start": "2012-01-01", "values": ["a"]},
            "do not take values",
        ),
        ({"by": "value", "column": "t", "values": []}, "values"),
        ({"by": "fortnight"}, "by"),
        *(
            ({"by": "value", "column": "t", "values": ["ok", bad]}, "cannot name a partition")
            for bad in (
                *("", "all", "../x", "a/b", "a\n", "a'b", "_a", ".a", "a.", "a ", "a..b", "ä"),
                "x" * 64,
            )
        ),
        *(
            (
                {"by": "day", "column": "t", "start": bad},
                "is not a valid day from 1900 to 2199",
            )
            for bad in (
                "",
                "2013-02-30",
                "2013-1-5",
                "2013-01-01\n",
                "\uff12013-01-01",
                "1899-12-31",
            )
        ),
        ({"by": "day", "column": "t", "start": "2012-01-01", "end": ""}, "'' is not a valid day"),
        (
            {"by": "week", "column": "t", "start": "2013-01-29"},
            "'2013-01-29' is not a valid Mon",
        ),
        (
            {"by": "day", "column": "t", "start": "2013-01-02", "end": "2013-01-01"},
            "end 2013-01-01 is before start 2013-01-02",
        ),
        ({"by": "value", "column": "t", "start": "0", "end": "10"}, "need equally many digits"),
        ({"by": "value", "column": "t", "start": "٣", "end": "٤"}, "is not a whole number"),
        ({"by": "value", "column": "t", "start": "a", "end": "b"}, "or give `values`"),
        ({"by": "value", "column": "t", "start": "9", "end": "1"}, "before start"),
        ({"by": "value", "column": "t", "start": "00000", "end": "10000"}, "more than 10,000"),
        (
            {"by": "hour", "column": "t", "start": "2013-01-01T00", "timezone": "Europe/Paris"},
            "hours are counted in UTC",
        ),
        *(
            (
                {"by": "day", "column": "t", "start": "2013-01-01", "timezone": zone},
                "not an IANA",
            )
            for zone in (
                "",
                "Mars/Base",
                "America",
                "../../etc/passwd",
                "UTC\n",
                "a\x00",
                "x" * 300,
            )
        ),
    ],
)
def test_a_mistaken_partitioning_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PartitionSpec.model_validate(fields)


@given(st.dates(date(1900, 1, 1), date(2199, 12, 29)), st.sampled_from(sorted(PERIODS)))
def test_each_moment_is_of_one_partition_and_the_next_one_follows(day: date, by: str) -> None:
    period = PERIODS[by]
    moment = datetime(day.year, day.month, day.day, 13)  # noqa: DTZ001 local by definition
    begins = {
        "hour": moment,
        "day": moment.replace(hour=0),
        "week": moment.replace(hour=0) - timedelta(days=day.weekday()),
        "month": moment.replace(hour=0, day=1),
        "year": moment.replace(hour=0, day=1, month=1),
    }[by]
    if begins.year < 1900:
        return
    key = begins.strftime(period.key_format)
    assert period.begins(key) == begins
    following = period.begins(period.following(key))
    if following is not None:
        assert begins < following
        assert period.shortest <= following - begins <= period.longest
        assert key < period.following(key)
