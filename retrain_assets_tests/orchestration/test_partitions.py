"""Partition keys are exactly those of the dataset, whatever the calendar does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.domain.data.rules import partition_of
from retrain_assets.orchestration.partitions import (
    count_range,
    covering_tags,
    map_partitions,
    partitions_definition,
    range_tags,
)
from retrain_assets.specs.partition import PartitionSpec

DAYS = PartitionSpec(
    by="day", column="d", start="2012-02-27", end="2013-11-04", timezone="America/New_York"
)


def keys(**spec: Any) -> list[str]:
    definition = partitions_definition(PartitionSpec.model_validate(spec))
    assert definition is not None
    return list(definition.get_partition_keys())


def test_the_end_is_the_last_partition_also_in_a_leap_year() -> None:
    found = keys(by="day", column="d", start="2012-02-27", end="2012-03-01")
    assert found == ["2012-02-27", "2012-02-28", "2012-02-29", "2012-03-01"]


def test_months_end_where_they_are_told_to() -> None:
    assert keys(by="month", column="d", start="2012-11", end="2013-01") == [
        "2012-11",
        "2012-12",
        "2013-01",
    ]


def test_days_of_23_and_25_hours_are_one_key_each() -> None:
    definition = partitions_definition(DAYS)
    assert definition is not None
    found = list(definition.get_partition_keys())
    for day in ("2013-03-10", "2013-11-03"):
        assert found.count(day) == 1
    assert len(found) == len(set(found)) == 617


STARTS = {
    "hour": ("2012-02-28T00", "UTC"),
    "day": ("2012-02-01", "America/New_York"),
    "week": ("2012-01-30", "Europe/Lisbon"),
    "month": ("2012-01", "Australia/Lord_Howe"),
    "year": ("2011", "Asia/Tokyo"),
}
MOMENTS = st.datetimes(datetime(2012, 3, 1), datetime(2014, 6, 30), timezones=st.just(UTC))  # noqa: DTZ001


@pytest.mark.parametrize("by", STARTS)
@given(moments=st.lists(MOMENTS, min_size=1, max_size=20))
def test_a_row_is_of_the_partition_whose_time_window_holds_it(
    by: str, moments: list[datetime]
) -> None:
    start, timezone = STARTS[by]
    spec = PartitionSpec(by=by, column="at", start=start, timezone=timezone)  # type: ignore[arg-type]
    definition = partitions_definition(spec)
    assert isinstance(definition, dg.TimeWindowPartitionsDefinition)
    rows = pl.DataFrame({"at": moments}, schema={"at": pl.Datetime("us", "UTC")})
    for moment, key in zip(moments, rows.select(partition_of(spec, "at")).to_series(), strict=True):
        window = definition.time_window_for_partition_key(key)
        assert window.start <= moment < window.end
        assert spec.is_key(key)


@pytest.mark.parametrize("by", STARTS)
def test_the_keys_dagster_makes_are_the_keys_of_the_spec(by: str) -> None:
    start, timezone = STARTS[by]
    spec = PartitionSpec(by=by, column="at", start=start, timezone=timezone)  # type: ignore[arg-type]
    definition = partitions_definition(spec)
    assert isinstance(definition, dg.TimeWindowPartitionsDefinition)
    found = definition.get_partition_keys(current_time=datetime(2016, 1, 1, tzinfo=UTC))
    assert found == sorted(set(found))
    assert all(spec.is_key(key) for key in found)
    period = spec.period
    assert period is not None
    assert [period.following(key) for key in found[:-1]] == list(found[1:])


@pytest.mark.parametrize(
    ("by", "start", "current"),
    [
        ("hour", "2024-05-01T00", "2024-05-15T12"),
        ("day", "2024-05-01", "2024-05-15"),
        ("week", "2024-04-29", "2024-05-13"),
        ("month", "2024-01", "2024-05"),
        ("year", "2023", "2024"),
    ],
)
def test_the_current_period_is_a_partition_since_its_data_lands_within_it(
    by: str, start: str, current: str
) -> None:
    spec = PartitionSpec(by=by, column="at", start=start)  # type: ignore[arg-type]
    definition = partitions_definition(spec)
    finished = partitions_definition(spec, with_current=False)
    assert definition is not None and finished is not None  # noqa: PT018
    with dg.partition_loading_context(datetime(2024, 5, 15, 12, 30, tzinfo=UTC)):
        assert definition.get_last_partition_key() == current
        assert list(definition.get_partition_keys())[:-1] == list(finished.get_partition_keys())
        assert count_range(spec, start, current) > 1


def test_values_and_numbers_are_partitions_in_order() -> None:
    assert keys(by="value", column="shop", values=["b", "a"]) == ["a", "b"]
    assert keys(by="value", column="chunk", start="08", end="11") == ["08", "09", "10", "11"]


def test_files_without_a_key_ask_for_the_first_partition() -> None:
    assert covering_tags(DAYS, []) == range_tags("2012-02-27", "2012-02-27")
    assert covering_tags(DAYS, {"2013-01-02", "2012-12-31"}) == range_tags(
        "2012-12-31", "2013-01-02"
    )


def test_a_dataset_without_partitions_has_no_definition() -> None:
    assert partitions_definition(PartitionSpec(by="none")) is None
    assert range_tags("all", "all") == {}


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        ("2013-02-30", "2013-03-01", "'2013-02-30' is not a partition"),
        ("2013-1-5", "2013-03-01", "'2013-1-5' is not a partition"),
        ("2013-01-01", "2099-01-01", "'2099-01-01' is not a partition"),
        ("2001-01-01", "2013-01-01", "'2001-01-01' is not a partition"),
        ("2013-01-02\n", "2013-01-03", "not a partition"),
        ("٢013-01-02", "2013-01-03", "not a partition"),
        ("../../etc", "2013-01-03", "not a partition"),
        ("d' OR '1'='1", "2013-01-03", "not a partition"),
        ("2013-01-05", "2013-01-01", "before it starts"),
    ],
)
def test_a_range_that_is_none_is_refused(first: str, last: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        count_range(DAYS, first, last)


def test_a_range_is_counted() -> None:
    assert count_range(DAYS, "2013-01-01", "2013-01-31") == 31


def spec(by: str, timezone: str = "UTC", **more: Any) -> PartitionSpec:
    starts = {"hour": "2013-01-01T00", "day": "2013-01-01", "month": "2013-01"}
    given = {"column": "c", "start": starts.get(by), "timezone": timezone} | more
    return PartitionSpec.model_validate({"by": by} | (given if by != "none" else {}))


SHOPS = spec("value", values=["a", "b"], start=None)
EASTERN = "America/New_York"


@pytest.mark.parametrize(
    ("own", "other", "periods", "key", "expected"),
    [
        (spec("day"), spec("day"), 2, "2013-01-05", ["2013-01-03", "2013-01-04", "2013-01-05"]),
        (spec("month"), spec("day"), 0, "2013-02", [f"2013-02-{day:02}" for day in range(1, 29)]),
        (spec("day"), spec("month"), 1, "2013-02-01", ["2013-01", "2013-02"]),
        (spec("day", EASTERN), spec("hour"), 1, "2013-01-01", "all"),
        (spec("day"), spec("day"), None, "2013-01-05", "all"),
        (spec("day"), SHOPS, 0, "2013-01-05", "all"),
        (SHOPS, spec("day"), None, "a", "all"),
        (SHOPS, SHOPS, 1, "b", "all"),
        (SHOPS, SHOPS, 0, "b", ["b"]),
        (spec("day"), spec("none"), None, "2013-01-05", None),
    ],
)
def test_the_partitions_an_asset_is_made_from_are_known_to_dagster(
    own: PartitionSpec, other: PartitionSpec, periods: int | None, key: str, expected: Any
) -> None:
    above, below = partitions_definition(other), partitions_definition(own)

    @dg.asset(partitions_def=above)
    def upstream() -> None: ...

    dep = dg.AssetDep(upstream, partition_mapping=map_partitions(own, other, periods))

    @dg.asset(partitions_def=below, deps=[dep])
    def downstream() -> None: ...

    graph = dg.Definitions(assets=[upstream, downstream]).resolve_asset_graph()
    assert below is not None
    if expected is None:
        assert not graph.get(upstream.key).is_partitioned
        return
    assert above is not None
    mapping = graph.get_partition_mapping(downstream.key, upstream.key)
    now = datetime(2013, 3, 1, tzinfo=UTC)
    found = mapping.get_upstream_mapped_partitions_result_for_partitions(
        below.subset_with_partition_keys([key]), below, above, now
    )
    every = above.get_partition_keys(current_time=now)
    assert sorted(found.partitions_subset.get_partition_keys()) == (
        sorted(every) if expected == "all" else expected
    )
