"""Partition keys are exactly those of the dataset, whatever the calendar does."""

from __future__ import annotations

import pytest

from retrain_assets.orchestration.partitions import (
    checked_range,
    partitions_definition,
    range_tags,
)
from retrain_assets.specs.dataset import PartitionSpec

DAYS = PartitionSpec(
    by="day", column="d", start="2012-02-27", end="2013-11-04", timezone="America/New_York"
)


def keys(**spec: str) -> list[str]:
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


def test_a_dataset_without_partitions_has_no_definition() -> None:
    assert partitions_definition(PartitionSpec(by="none")) is None
    assert range_tags("all", "all") == {}


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        ("2013-02-30", "2013-03-01", "'2013-02-30' is no partition"),
        ("2013-1-5", "2013-03-01", "'2013-1-5' is no partition"),
        ("2013-01-01", "2099-01-01", "'2099-01-01' is no partition"),
        ("2001-01-01", "2013-01-01", "'2001-01-01' is no partition"),
        ("2013-01-02\n", "2013-01-03", "no partition"),
        ("٢013-01-02", "2013-01-03", "no partition"),
        ("../../etc", "2013-01-03", "no partition"),
        ("d' OR '1'='1", "2013-01-03", "no partition"),
        ("2013-01-05", "2013-01-01", "before it starts"),
    ],
)
def test_a_range_that_is_none_is_refused(first: str, last: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        checked_range(DAYS, first, last)


def test_a_range_is_counted() -> None:
    assert checked_range(DAYS, "2013-01-01", "2013-01-31") == 31
