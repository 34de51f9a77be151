"""Measures from summaries agree with their definitions on the values themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
import polars as pl
import pytest
from datasketches import kll_floats_sketch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2_contingency, ks_2samp, wasserstein_distance

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.measures import (
    FLOOR,
    MEASURES,
    DriftError,
    compare,
    describe_effect,
)
from retrain_assets.domain.drift.observations import observe_drift
from retrain_assets.domain.drift.profile import ColumnProfile, K, build_profile, merge
from retrain_assets.specs.triggers import DriftMeasure, DriftTrigger

if TYPE_CHECKING:
    from collections.abc import Iterable

RANK_ERROR = 2 / (K + 1)


def column(
    values: Iterable[object], dtype: type[pl.DataType] | None = None, blocks: int = 1
) -> ColumnProfile:
    series = pl.Series("x", values, dtype=dtype)
    keys = [str(row % blocks) for row in range(len(series))]
    return merge(build_profile(pl.DataFrame({PARTITION: keys, "x": series})))["x"]


def measured(measure: str, reference: Iterable[object], current: Iterable[object]) -> float:
    value = MEASURES[measure](column(reference), column(current))
    assert value is not None
    return value


def summand(expected: float, actual: float) -> float:
    return (actual - expected) * float(np.log(actual / expected))


def test_every_measure_of_the_spec_is_there() -> None:
    assert set(MEASURES) == set(get_args(DriftMeasure))


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.05, 1.0), (0.5, 1.0), (0.0, 3.0)])
def test_ks_is_the_exact_statistic_within_the_rank_error(shift: float, scale: float) -> None:
    random = np.random.default_rng(7)
    reference = random.normal(size=60_000).astype(np.float32)
    current = random.normal(shift, scale, size=6_300).astype(np.float32)
    exact = ks_2samp(reference, current).statistic
    found = MEASURES["ks"](column(reference, blocks=60), column(current, blocks=7))
    assert found == pytest.approx(exact, abs=2 * RANK_ERROR)


samples = st.lists(st.integers(-20, 20), min_size=1, max_size=60)


@pytest.mark.filterwarnings("ignore:ks_2samp")  # about the p-value, which is not compared
@settings(max_examples=50, deadline=None)
@given(samples, samples)
def test_ks_of_small_windows_is_exact_also_with_ties(
    reference: list[int], current: list[int]
) -> None:
    exact = ks_2samp(reference, current).statistic
    assert measured("ks", reference, current) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.05, 1.0), (0.5, 1.0), (0.0, 3.0)])
def test_wasserstein_is_the_area_between_the_distributions_in_deviations(
    shift: float, scale: float
) -> None:
    random = np.random.default_rng(7)
    reference = random.normal(10, 4, size=60_000).astype(np.float32)
    current = random.normal(10 + 4 * shift, 4 * scale, size=6_300).astype(np.float32)
    exact = wasserstein_distance(reference, current) / reference.std()
    found = MEASURES["wasserstein"](column(reference, blocks=60), column(current, blocks=7))
    widest = np.ptp(np.concatenate([reference, current])) / reference.std()
    assert found == pytest.approx(exact, abs=float(RANK_ERROR * widest))


@settings(max_examples=50, deadline=None)
@given(samples, samples)
def test_wasserstein_of_small_windows_is_that_of_scipy(
    reference: list[int], current: list[int]
) -> None:
    found = MEASURES["wasserstein"](column(reference), column(current))
    if len(set(reference)) == 1:
        assert found is None
    else:
        expected = wasserstein_distance(reference, current) / np.std(reference)
        assert found == pytest.approx(expected, abs=1e-9)


categories = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(categories, categories)
def test_jensen_shannon_of_categories_is_that_of_scipy(
    reference: list[str], current: list[str]
) -> None:
    values = sorted({*reference, *current})
    expected = jensenshannon(*([side.count(v) for v in values] for side in (reference, current)), 2)
    # Where both agree, scipy's root of a rounding error may be NaN or about 1e-8.
    assert measured("jensen_shannon", reference, current) == pytest.approx(
        np.nan_to_num(expected), abs=1e-7
    )


@settings(max_examples=50, deadline=None)
@given(categories, categories)
def test_chi_squared_is_that_of_scipy(reference: list[str], current: list[str]) -> None:
    values = sorted({*reference, *current})
    table = [[side.count(value) for value in values] for side in (reference, current)]
    expected = chi2_contingency(table, correction=False).statistic
    assert measured("chi_squared", reference, current) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("reference", "current", "said"),
    [
        ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], "median 2 → 5"),
        ([4.0, 5.0, 6.0], [0.0, 5.0, 6.0], "10th percentile 4 → 0"),
        ([4.0, 5.0, 6.0], [4.0, 4.5, 8.0], "90th percentile 6 → 8"),
        (["a", "a", "b", "c"], ["a", "b", "b", "b"], "b 25.0% → 75.0%"),
        ([1.0, 2.0, 3.0, None], [1.0, 2.0, 3.0, *[None] * 9], "null 25.0% → 75.0%"),
        ([1.0, 2.0], [None, None], "null 0.0% → 100.0%"),
    ],
)
def test_an_effect_is_told_in_the_columns_own_units(
    reference: list[object], current: list[object], said: str
) -> None:
    assert (
        describe_effect(column(reference), column(current, pl.Float64 if None in current else None))
        == said
    )


def test_jensen_shannon_of_numbers_is_taken_over_the_deciles() -> None:
    reference, current = np.arange(1, 101), np.arange(31, 131)
    shares = np.full(10, 0.1), np.array([0, 0, 0, *[0.1] * 6, 0.4])
    assert measured("jensen_shannon", reference, current) == pytest.approx(
        jensenshannon(*shares, 2)
    )
    assert measured("jensen_shannon", reference, reference + 1000) < 1
    assert measured("jensen_shannon", [1.0, 2.0], [3.0, 4.0]) == 1


def test_psi_of_numbers_is_taken_over_the_deciles() -> None:
    # Deciles of 1..100 are 10, 20, …; 51..150 leaves five bins empty and has 60 in the open last.
    expected = 5 * summand(0.1, FLOOR) + 4 * summand(0.1, 0.1) + summand(0.1, 0.6)
    assert measured("psi", np.arange(1, 101), np.arange(51, 151)) == pytest.approx(expected)


def test_psi_of_categories_has_one_bin_for_all_unseen_ones() -> None:
    reference, current = ["a"] * 6 + ["b"] * 4, ["a"] * 5 + ["c"] * 2 + ["d"] * 3
    expected = summand(0.6, 0.5) + summand(0.4, FLOOR) + summand(FLOOR, 0.5)
    assert measured("psi", reference, current) == pytest.approx(expected)


def test_rows_beyond_the_named_categories_are_in_the_last_bin() -> None:
    reference = ColumnProfile("x", "category", rows=10, nulls=0, counts={"a": 8}, others=2)
    current = ColumnProfile("x", "category", rows=10, nulls=0, counts={"a": 5, "z": 1}, others=4)
    expected = summand(0.8, 0.5) + summand(0.2, 0.5)
    assert MEASURES["psi"](reference, current) == pytest.approx(expected)


@pytest.mark.parametrize("measure", ["psi", "jensen_shannon", "ks"])
def test_a_value_that_most_rows_share_is_watched_on_both_sides(measure: str) -> None:
    for common, rare in ((1.0, 0.0), (0.0, 1.0)):
        reference, current = [common] * 95 + [rare] * 5, [common] * 50 + [rare] * 50
        assert measured(measure, reference, current) > 0.3
    assert measured(measure, [5.0] * 50, [4.0] * 50) >= 1
    assert measured("psi", [True] * 95 + [False] * 5, [True] * 50 + [False] * 50) == pytest.approx(
        summand(0.95, 0.5) + summand(0.05, 0.5)
    )


@pytest.mark.parametrize("measure", ["psi", "jensen_shannon", "ks", "null_share"])
@pytest.mark.parametrize("values", [np.arange(3000), [1, 1, 2], [0.0, float("inf"), -float("inf")]])
def test_a_window_has_not_moved_from_itself(measure: str, values: Iterable[object]) -> None:
    assert measured(measure, values, values) == pytest.approx(0, abs=1e-12)


def test_null_share_is_an_absolute_change() -> None:
    some, more = [1.0, 2.0, 3.0, None], [None, None, None, 1.0]
    assert measured("null_share", some, more) == measured("null_share", more, some) == 0.5
    none = ColumnProfile("x", "category", rows=0, nulls=0, counts={})
    assert MEASURES["null_share"](column(some), none) is None


def test_unseen_share_is_of_the_rows_that_have_a_value() -> None:
    assert measured("unseen_share", ["a", "b"], ["a", "c", "d", None, "b"]) == 0.5
    assert measured("unseen_share", ["a", "b"], ["b"]) == 0


def test_a_measure_of_the_other_kind_is_undefined() -> None:
    text, number = column(["a", "b"]), column([1.0, 2.0])
    assert MEASURES["ks"](text, text) is None
    assert MEASURES["unseen_share"](number, number) is None


@pytest.mark.parametrize("dtype", [pl.Float64, pl.String])
def test_a_column_without_values_is_told_and_leaves_the_others_alone(
    dtype: type[pl.DataType],
) -> None:
    filled, empty = column([1, 2, 3]), column([None, None], dtype)
    full = column([1, 2, 3], pl.Float64) if dtype == pl.Float64 else column(["1", "2", "3"])
    found = list(compare({"x": full, "y": filled}, {"x": empty, "y": filled}))
    assert found[0] == ("x", "null_share", 1.0)
    assert {(column, value) for column, _, value in found[1:]} == {("y", 0.0)}
    of_numbers = MEASURES.keys() - {"unseen_share", "chi_squared"}
    assert {measure for _, measure, _ in found[1:]} == of_numbers
    assert list(compare({"x": empty}, {"x": full})) == [("x", "null_share", 1.0)]


def test_columns_are_compared_in_the_order_of_the_reference() -> None:
    frame = pl.DataFrame({PARTITION: ["1"] * 2, "b": [1, 2], "a": ["u", "v"]})
    profile = merge(build_profile(frame))
    current = {"a": profile["a"], "b": profile["b"], "only_now": column([1])}
    found = list(compare(profile | {"only_then": column([1])}, current))
    assert [name for name, _, _ in found] == ["b"] * 5 + ["a"] * 5
    assert {value for _, _, value in found} == {0.0}


def test_a_column_of_two_kinds_is_refused_by_name() -> None:
    with pytest.raises(DriftError, match="column x is numeric in the reference and category"):
        list(compare({"x": column([1.0])}, {"x": column(["a"])}))


@pytest.mark.parametrize("offset", [0, 2e7, 1e9])
def test_numbers_far_from_zero_are_seen_to_move(offset: float) -> None:
    random = np.random.default_rng(0)
    before, now = random.normal(size=5000) + offset, random.normal(size=2000) + offset + 5
    assert measured("ks", before, now) > 0.97
    assert measured("psi", before, now) > 5
    assert measured("ks", before, before[::2]) < 0.03
    medians = describe_effect(column(before), column(now)).removeprefix("median ").split(" → ")
    assert float(medians[1]) - float(medians[0]) == pytest.approx(5, abs=0.6)


def test_a_profile_in_single_precision_still_opens_and_is_compared_in_it() -> None:
    values = np.round(np.random.default_rng(0).normal(size=700), 1)
    frame = pl.DataFrame({PARTITION: ["a"] * 700, "x": values})
    table = build_profile(frame)
    stored = kll_floats_sketch(800)
    stored.update(values.astype(np.float32))
    old = table.with_columns(sketch=pl.Series([stored.serialize()]))
    for sides in ((old, table), (table, old), (old, old)):
        figures = {name: value for _, name, value in compare(*map(merge, sides))}
        assert figures["ks"] == 0
        assert figures["psi"] == pytest.approx(0, abs=1e-9)
    together = merge(pl.concat([old, table.with_columns(pl.lit("b").alias(PARTITION))]))["x"]
    assert together.sketch is not None
    assert together.sketch.n == 1400


def test_a_measure_that_truncated_counts_cannot_support_is_absent() -> None:
    random = np.random.default_rng(0)
    names = np.array([f"shop{place:05d}" for place in range(1500)])

    def profiles(blocks: int) -> dict[str, ColumnProfile]:
        keys = np.repeat([str(place) for place in range(blocks)], 6000)
        frame = pl.DataFrame({PARTITION: keys, "c": random.choice(names, len(keys))})
        return merge(build_profile(frame))

    before, now = profiles(6), profiles(3)
    assert [name for _, name, _ in compare(before, now)] == ["null_share"]
    trigger = DriftTrigger(measure="psi", threshold=0.2)
    watched = [
        row for row in observe_drift("feature", trigger, before, now) if row.measure == "psi"
    ]
    assert [(row.statistic, row.alert) for row in watched] == [(None, False)]
    assert "1000" in str(watched[0].effect)
