"""What stands in a file is read as its type in one way, and refused where there are two."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from retrain_assets.domain.data.contract import judge
from retrain_assets.domain.data.row_checks import RawRows
from retrain_assets.domain.data.rules import BROKEN, LINE
from retrain_assets.domain.data.values import find_column_mistakes
from retrain_assets.specs.dataset import DatasetSpec

REFUSED = "refused"
COMMA = {"decimal": ",", "delimiter": ";"}


def spec(kind: str, read: dict[str, Any], zone: str = "UTC", ending: str = "csv") -> DatasetSpec:
    return DatasetSpec.model_validate(
        {
            "name": "sales",
            "landing": f"sales.{ending}",
            "read": read,
            "partition": {"by": "day", "column": "day", "start": "2013-01-01", "timezone": zone},
            "columns": {"id": {"type": "int"}, "day": {"type": "date"}, "x": {"type": kind}},
            "key": ["id"],
            "quarantine": {"max_fraction": 0.9},
        }
    )


def value(of: DatasetSpec, found: Any, kind: Any = pl.String) -> object:
    """What a value is read as; the other row of the file is sound."""
    is_typed = of.is_typed
    frame = pl.DataFrame(
        {
            "id": [1, 2] if is_typed else ["1", "2"],
            "day": [date(2013, 1, 31)] * 2 if is_typed else ["2013-01-31"] * 2,
            "x": pl.Series([None, found], dtype=kind),
            LINE: [1, 2],
            BROKEN: pl.Series([None, None], dtype=pl.String),
        }
    )
    judgement = judge([RawRows("sales.csv", "2013-01-31", "sha", frame)], of)
    assert judgement.refused_partitions == {}
    for reasons in judgement.quarantined["_reasons"]:
        assert [(reason["rule"], reason["column"]) for reason in reasons] == [("type", "x")]
        return REFUSED
    return judgement.accepted.filter(pl.col("id") == 2)["x"].item()


@pytest.mark.parametrize(
    ("written", "found", "read"),
    [
        ("%m/%d/%y", "01/31/13", date(2013, 1, 31)),
        ("%m/%d/%y", "1/5/13", date(2013, 1, 5)),
        ("%m/%d/%y", "01/31/2013", REFUSED),
        ("%m/%d/%y", "31/01/13", REFUSED),
        ("%m/%d/%Y", "01/31/2013", date(2013, 1, 31)),
        ("%m/%d/%Y", "02/30/2013", REFUSED),
        ("%m/%d/%Y", "01/31/13", REFUSED),
        ("%m/%d/%Y", "01/31/-2013", REFUSED),
        ("%m/%d/%Y", "01/31/12013", REFUSED),
        ("%m/%d/%Y", " 01/31/2013", REFUSED),
        ("%m/%d/%Y", "01/31/2013 ", REFUSED),
        ("%m/%d/%Y", "2013-01-31", REFUSED),
        ("%m/%d/%Y", "1359626400", REFUSED),
        ("%F", "2013-01-31", date(2013, 1, 31)),
        ("%F", "13-1-31", REFUSED),
        ("%d %b %Y", "31 Jan 2013", date(2013, 1, 31)),
        ("%Y%m%d", "20130131", date(2013, 1, 31)),
        ("%d.%m.%Y", "31.01.2013\n", REFUSED),
    ],
)
def test_a_date_is_read_as_its_format_says(written: str, found: str, read: object) -> None:
    of = spec("date", {"date_format": {"x": written}})
    assert list(find_column_mistakes(of)) == []
    assert value(of, found) == read


LOCAL, OFFSET = "%Y-%m-%d %H:%M:%S", "%d/%m/%Y %H:%M%z"


@pytest.mark.parametrize(
    ("written", "found", "read"),
    [
        (LOCAL, "2013-01-31 10:00:00", datetime(2013, 1, 31, 15, tzinfo=UTC)),
        (LOCAL, "2013-07-31 10:00:00", datetime(2013, 7, 31, 14, tzinfo=UTC)),
        (LOCAL, "2013-03-10 02:30:00", REFUSED),  # skipped
        (LOCAL, "2013-11-03 01:30:00", REFUSED),  # there twice
        (LOCAL, "2013-11-03 02:00:00", datetime(2013, 11, 3, 7, tzinfo=UTC)),
        (LOCAL, "2013-01-31 10:00:60", REFUSED),
        (LOCAL, "2013-01-31 24:00:00", REFUSED),
        (LOCAL, "2013-01-31 10:00:00Z", REFUSED),
        (LOCAL, "2013-01-31 10:00:00-05:00", REFUSED),
        (LOCAL, "2013-01-31T10:00:00", REFUSED),
        (LOCAL, "1359626400", REFUSED),
        (OFFSET, "31/01/2013 10:00-0500", datetime(2013, 1, 31, 15, tzinfo=UTC)),
        (OFFSET, "31/07/2013 10:00-04:00", datetime(2013, 7, 31, 14, tzinfo=UTC)),
        (OFFSET, "31/01/2013 10:00", REFUSED),
        (None, "2013-01-31T10:00:00-05:00", datetime(2013, 1, 31, 15, tzinfo=UTC)),
        (None, "2013-01-31T10:00:00", REFUSED),
        (None, "2013-11-03T01:30:00-04:00", datetime(2013, 11, 3, 5, 30, tzinfo=UTC)),
    ],
)
def test_a_time_without_offset_is_local_and_one_that_may_be_two_is_none(
    written: str | None, found: str, read: object
) -> None:
    formats = {"date_format": {"x": written}} if written else {}
    of = spec("datetime", formats, "America/New_York")
    assert list(find_column_mistakes(of)) == []
    assert value(of, found) == read


@pytest.mark.parametrize(
    ("kind", "written", "why"),
    [
        ("date", "%Q", "is not a format"),
        ("date", "day", "name the year"),
        ("date", "%d.%m.", "name the year"),
        ("datetime", "%Y-%m-%d", "name the year and so on"),
        ("datetime", "%Y-%m-%d %H", "hour and minute"),
        ("datetime", "%Y-%m-%d %I:%M", "12-hour"),
        ("datetime", "%s", "name the year"),
        ("datetime", "%Y-%m-%d %H:%M %Z", "use %z"),
    ],
)
def test_a_format_that_loses_something_is_told_before_anything_runs(
    kind: str, written: str, why: str
) -> None:
    of = spec(kind, {"date_format": {"x": written}}, "America/New_York")
    [(loc, said)] = find_column_mistakes(of)
    assert loc == ("read", "date_format", "x")
    assert why in said


@pytest.mark.parametrize(
    ("kind", "found", "read"),
    [
        ("float", "1,5", 1.5),
        ("float", "-1", -1.0),
        ("float", "1e2", 100.0),
        ("float", "1.5", REFUSED),
        ("float", "1.234,5", REFUSED),
        ("float", "1,234,5", REFUSED),
        ("float", "", None),
        ("int", "7", 7),
        ("int", "7,0", 7),
        ("int", "7,00", REFUSED),
        ("int", "1.000", REFUSED),
    ],
)
def test_with_a_decimal_comma_a_point_is_no_number(kind: str, found: str, read: object) -> None:
    assert value(spec(kind, COMMA), found) == read


@pytest.mark.parametrize(
    ("kind", "text", "read"),
    [
        ("float", "1.234,5", 1234.5),
        ("float", "-1.234.567", -1234567.0),
        ("float", "1.5", REFUSED),
        ("float", "1234,5", 1234.5),
        ("float", "12.34,5", REFUSED),
        ("int", "1.000", 1000),
        ("int", "1.00", REFUSED),
        ("text", "1.000", "1.000"),
    ],
)
def test_marks_of_thousands_stand_between_three_digits_each(
    kind: str, text: str, read: object
) -> None:
    assert value(spec(kind, COMMA | {"thousands": "."}), text) == read


def test_a_decimal_comma_is_of_csv() -> None:
    assert value(spec("float", COMMA, ending="jsonl"), "1.5") == 1.5


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("kind", ["text", "category"])
def test_a_text_of_more_than_128_kib_is_refused(ending: str, kind: str) -> None:
    of = spec(kind, {}, ending=ending)
    assert value(of, "z" * 2**17) == "z" * 2**17
    assert value(of, "z" * (2**17 + 1)) == REFUSED


def test_parquet_text_with_a_nul_or_a_word_for_null_is_refused() -> None:
    of = spec("text", {}, ending="parquet")
    assert value(of, "a\0b") == REFUSED
    assert value(of, "NULL") == REFUSED
    assert value(of, "") == ""


def test_odd_words_for_null_are_those_of_the_yaml() -> None:
    of = spec("float", {"nulls": ["-999", "(missing)", "n.a."]})
    for word in ("-999", "(missing)", "n.a."):
        assert value(of, word) is None
    for word in ("-999.0", "", "NA"):
        assert value(of, word) in (-999.0, REFUSED)


@pytest.mark.parametrize(
    ("stored", "zone", "is_taken"),
    [
        ("UTC", "UTC", True),
        ("+00:00", "UTC", True),
        ("UTC", "America/New_York", True),
        ("America/New_York", "America/New_York", True),
        ("America/New_York", "UTC", False),
        ("Europe/Paris", "America/New_York", False),
    ],
)
def test_parquet_times_are_in_utc_or_the_zone_of_the_dataset(
    stored: str, zone: str, is_taken: bool
) -> None:
    of = spec("datetime", {}, zone, "parquet")
    kind = pl.Datetime("us", stored)
    moment = datetime(2013, 1, 31, 15, tzinfo=UTC)
    if is_taken:
        assert value(of, moment, kind) == moment
        return
    frame = pl.DataFrame(schema={"id": pl.Int64, "day": pl.Date, "x": kind, LINE: pl.Int64})
    file = RawRows("sales.parquet", "2013-01-31", "sha", frame)
    refusal = judge([file], of).refused_partitions["2013-01-31"]
    assert f"column x is in time zone {stored}, but partition.timezone is {zone}" in refusal
