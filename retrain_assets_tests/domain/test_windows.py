"""Windows end at the as-of, and a lookup that is late is waited for only so long."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.domain.windows import (
    TooFewPartitionsError,
    complete_partitions,
    count_since,
    describe_exclusions,
    exclude_range,
    mature_partitions,
    reference_partitions,
    split,
    take_before,
    take_through,
    widen_ranges,
)
from retrain_assets.specs.model import ExcludedSpec, GrowingSpec, WindowsSpec
from retrain_assets.specs.triggers import ReferenceSpec

DAYS = tuple(f"2013-01-{day:02}" for day in range(1, 31))


def test_a_partition_waits_for_its_lookup() -> None:
    assert complete_partitions(DAYS, [(DAYS[:28], 5)]) == DAYS[:28]


def test_a_lookup_later_than_its_lateness_is_not_waited_for() -> None:
    assert complete_partitions(DAYS, [(DAYS[:20], 2)]) == DAYS[:28]


def test_partitions_within_the_label_delay_are_not_mature() -> None:
    assert mature_partitions(DAYS, 3) == DAYS[:27]
    assert mature_partitions(DAYS, 0) == DAYS
    assert mature_partitions(DAYS[:2], 2) == ()
    assert mature_partitions(DAYS[:5], 7) == ()


def test_windows_end_at_the_as_of() -> None:
    windows = split(DAYS, WindowsSpec(train=10, holdout=4), as_of="2013-01-20")
    assert windows.as_of == "2013-01-20"
    assert windows.holdout == DAYS[16:20]
    assert windows.train == DAYS[6:16]


def test_a_growing_window_begins_early_and_ends_at_its_bound() -> None:
    every, some = WindowsSpec(train="all", holdout=4), GrowingSpec(least=3, most=10)
    assert split(DAYS, every).train == DAYS[:26]
    assert (every.needed, WindowsSpec(train=some, holdout=4).needed) == (8, 7)
    spec = WindowsSpec(train=some, holdout=4)
    assert [len(split(DAYS[:count], spec).train) for count in (7, 12, 30)] == [3, 8, 10]
    assert WindowsSpec(train=some).take(DAYS, more=2) == DAYS[-12:]


def test_too_little_history_says_how_much_is_needed() -> None:
    with pytest.raises(TooFewPartitionsError, match="14"):
        split(DAYS[:13], WindowsSpec(train=10, holdout=4))


@given(
    st.sets(st.integers(0, 400), min_size=20).map(lambda days: [f"{d:04}" for d in sorted(days)]),
    st.integers(1, 10),
    st.integers(2, 10),
)
def test_train_and_holdout_never_overlap(keys: list[str], train: int, holdout: int) -> None:
    windows = split(keys, WindowsSpec(train=train, holdout=holdout))
    assert max(windows.train) < min(windows.holdout)
    assert (len(windows.train), len(windows.holdout)) == (train, holdout)
    assert max(windows.holdout) == windows.as_of


def test_rows_of_a_training_range_are_left_out() -> None:
    assert exclude_range(DAYS[:5], "2013-01-02", "2013-01-03") == (DAYS[0], DAYS[3], DAYS[4])


def test_a_window_skips_missing_partitions() -> None:
    assert take_through(("01", "02", "05"), "04", 2) == ("01", "02")
    assert count_since(("01", "02", "05"), "01") == 2


def test_a_corrected_partition_reaches_every_window_that_holds_it() -> None:
    assert widen_ranges(DAYS, ["2013-01-10"], 7) == ((DAYS[9], DAYS[15]),)
    assert widen_ranges(DAYS, [DAYS[-1]], 7) == ((DAYS[-1], DAYS[-1]),)
    assert widen_ranges(DAYS, [], 7) == ()
    # Ranges that touch are one, what lies between others is left alone.
    assert widen_ranges(DAYS, [DAYS[7], DAYS[0], DAYS[5]], 3) == (
        (DAYS[0], DAYS[2]),
        (DAYS[5], DAYS[9]),
    )
    assert widen_ranges(DAYS, [DAYS[0], DAYS[3]], 3) == ((DAYS[0], DAYS[5]),)


def test_what_is_before_a_partition_leaves_it_out_whether_it_has_landed_or_not() -> None:
    assert take_before(("01", "02", "05"), "05", 2) == ("01", "02")
    assert take_before(("01", "02", "05"), "04", 9) == ("01", "02")
    assert take_before(("01", "02", "05"), "01", 2) == ()
    assert take_before(("01", "02", "05"), "09", 2) == ("02", "05")


def test_excluded_partitions_are_told_where_a_window_spans_them() -> None:
    bad = [
        ExcludedSpec(first=DAYS[3], last=DAYS[4], reason="outage"),
        ExcludedSpec(first=DAYS[9], last=DAYS[9], reason="strike"),
    ]
    assert describe_exclusions(bad, DAYS[0], DAYS[2]) == ""
    assert describe_exclusions(bad, DAYS[4], DAYS[8]) == "without 2013-01-04 to 2013-01-05: outage"
    assert describe_exclusions(bad, DAYS[0], DAYS[29]).endswith(
        "; without 2013-01-10 to 2013-01-10: strike"
    )


WEEKS = tuple(f"2013-01-{day:02}" for day in range(1, 29))  # the 1st is a Tuesday


@pytest.mark.parametrize(
    ("spec", "window", "expected"),
    [
        ({"rolling": 3}, WEEKS[10:12], WEEKS[7:10]),
        ({"rolling": 99}, WEEKS[2:4], WEEKS[:2]),
        ({"first": WEEKS[0], "last": WEEKS[5]}, WEEKS[20:22], WEEKS[:6]),
        ({"first": WEEKS[0], "last": WEEKS[5]}, WEEKS[4:7], WEEKS[:4]),
        ({"season": "weekday"}, WEEKS[14:16], (*WEEKS[0:2], *WEEKS[7:9])),
        ({"season": "month"}, ("2014-01-05",), WEEKS),
        ({"season": "month"}, ("2014-02-05",), ()),
    ],
)
def test_a_reference_is_chosen_as_the_spec_says(
    spec: dict[str, object], window: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    keys = tuple(sorted({*WEEKS, *window}))
    found = reference_partitions(
        ReferenceSpec.model_validate(spec), keys, window, datetime.fromisoformat
    )
    assert found == expected
