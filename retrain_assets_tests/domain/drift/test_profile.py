"""The same rows give the same bytes, and any window is the sum of its blocks."""

from __future__ import annotations

import json
from collections import Counter
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from datasketches import kll_doubles_sketch, kll_floats_sketch
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift import profile as profile_module
from retrain_assets.domain.drift.profile import (
    CATEGORY_BOUND,
    PROFILE_SCHEMA,
    ColumnProfile,
    K,
    ProfileError,
    build_profile,
    drop_mixed,
    merge,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BLOCK_ERROR = 1 / (K + 1)
MERGED_ERROR = 2 * BLOCK_ERROR


def numbers(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, size=size).astype(np.float32)


def one_block(
    values: Iterable[object], dtype: pl.DataType | type[pl.DataType] | None = None
) -> pl.DataFrame:
    series = pl.Series("x", values, dtype=dtype)
    return pl.DataFrame({PARTITION: ["b"] * len(series), "x": series})


def summed(frame: pl.DataFrame) -> ColumnProfile:
    return merge(build_profile(frame))["x"]


def rank_error(profile: ColumnProfile, values: np.ndarray) -> float:
    distinct = np.unique(values)
    ranks = np.searchsorted(np.sort(values), distinct, side="right") / len(values)
    assert profile.sketch is not None
    return float(np.abs(profile.sketch.get_cdf(distinct, inclusive=True)[:-1] - ranks).max())


def test_there_is_a_row_a_block_and_column_in_order() -> None:
    frame = pl.DataFrame(
        {PARTITION: ["2", "1", "2"], "z": [1, 2, 3], "_key": ["a", "b", "c"], "a": ["u", "v", "w"]}
    )
    profile = build_profile(frame)
    assert profile.schema == pl.Schema(PROFILE_SCHEMA)
    found = profile.select(PARTITION, "column", "kind", "rows").rows()
    assert found == [
        ("1", "z", "numeric", 1),
        ("1", "a", "category", 1),
        ("2", "z", "numeric", 2),
        ("2", "a", "category", 2),
    ]


def test_blocks_may_be_named_by_another_column() -> None:
    frame = pl.DataFrame({"month": [1, 2, 2], "x": [1.0, 2.0, 3.0]})
    assert build_profile(frame, by="month").select(PARTITION, "rows").rows() == [("1", 1), ("2", 2)]


def test_no_rows_give_an_empty_profile() -> None:
    empty = build_profile(one_block([], pl.Float64))
    assert empty.schema == pl.Schema(PROFILE_SCHEMA)
    assert merge(empty) == {}


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 3000))
def test_the_order_of_rows_does_not_change_a_byte(data: st.DataObject, size: int) -> None:
    values = [0.0, -0.0, None, float("nan"), float("inf"), *numbers(size, size).tolist()]
    frame = one_block(values).with_columns(c=pl.col("x").cast(pl.String))
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(frame.height)
    assert_frame_equal(build_profile(frame), build_profile(frame[order]))


@pytest.mark.parametrize("size", [1, 2, K - 1, K, K + 1, 900, 2 * K, 2 * K + 1, 2 * K + 3, 54_321])
def test_a_block_is_within_its_rank_error_and_keeps_its_extremes(size: int) -> None:
    values = numbers(size, size)
    sketch = summed(one_block(values)).sketch
    assert sketch is not None
    assert (sketch.n, sketch.get_min_value(), sketch.get_max_value()) == (
        size,
        values.min(),
        values.max(),
    )
    bound = 0.0 if size <= K else BLOCK_ERROR
    assert rank_error(summed(one_block(values)), values) <= bound + 1e-12


@pytest.mark.parametrize("size", [0, 2, K, 900, 5000, 54_321])
def test_a_stored_sketch_is_one_that_the_library_reads_and_writes(size: int) -> None:
    # A first row that is null makes a block of an empty sketch.
    stored = build_profile(one_block([None, *numbers(1, size).tolist()], pl.Float32))["sketch"][0]
    sketch = kll_doubles_sketch.deserialize(stored)
    assert sketch.n == size
    assert sketch.k == K
    assert sketch.serialize() == stored


@pytest.mark.parametrize("rows", [2**levels * 799 + 5 for levels in range(0, 40, 3)])
def test_a_sketch_of_very_many_rows_has_the_layout_of_the_library(rows: int) -> None:
    values, weights = np.array([1, 2, 3], np.float32), np.array([rows - 7, 4, 3])
    stored = profile_module._serialise(values, weights)
    sketch = kll_floats_sketch.deserialize(stored)
    assert (sketch.n, sketch.get_rank(1.0, inclusive=True)) == (rows, pytest.approx(1, abs=0.01))
    assert sketch.serialize() == stored


def test_the_library_can_go_on_with_a_stored_sketch() -> None:
    values = [numbers(seed, 2000) for seed in range(5)]
    whole = kll_doubles_sketch(K)
    for part in values:
        stored = build_profile(one_block(part))["sketch"][0]
        whole.merge(kll_doubles_sketch.deserialize(stored))
    together = np.concatenate(values)
    assert whole.n == len(together)
    median = np.searchsorted(np.sort(together), whole.get_quantile(0.5)) / len(together)
    assert median == pytest.approx(0.5, abs=0.02)


blocks = st.lists(st.integers(0, 2500), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(blocks, st.integers(0, 99))
def test_blocks_add_up_to_the_whole(sizes: list[int], seed: int) -> None:
    values = numbers(seed, sum(sizes) + 1)
    keys = [str(key) for key, size in enumerate(sizes) for _ in range(size)] + ["0"]
    categories = np.round(values).astype(int).astype(str)
    frame = pl.DataFrame({PARTITION: keys, "x": values, "c": categories})
    parts, whole = merge(build_profile(frame)), merge(build_profile(one_block(values)))["x"]
    assert (parts["x"].rows, parts["x"].nulls) == (whole.rows, whole.nulls) == (len(values), 0)
    assert rank_error(parts["x"], values) <= MERGED_ERROR
    assert parts["c"].counts == Counter(categories.tolist())


def test_a_sum_does_not_depend_on_the_order_of_the_blocks() -> None:
    values = numbers(0, 20_000)
    keys = [f"{row % 9}" for row in range(len(values))]
    categories = np.round(values).astype(int).astype(str)
    profile = build_profile(pl.DataFrame({PARTITION: keys, "x": values, "c": categories}))
    once, again = merge(profile), merge(profile.reverse())
    assert once["x"].sketch is not None
    assert again["x"].sketch is not None
    assert once["x"].sketch.serialize() == again["x"].sketch.serialize()
    assert list((once["c"].counts or {}).items()) == list((again["c"].counts or {}).items())


def test_a_profile_comes_back_from_storage_as_it_was(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            PARTITION: ["1"] * 1500 + ["2"] * 3,
            "x": [*numbers(3, 1500).tolist(), None, None, None],
            "c": ["Zürich", "a\"b'\\", None] * 501,
        }
    )
    profile = build_profile(frame)
    write_deltalake(tmp_path / "profile", profile)
    stored = pl.read_delta(DeltaTable(tmp_path / "profile"))
    assert_frame_equal(stored, profile, check_row_order=False)
    columns = merge(stored)
    assert columns["c"].counts == {"Zürich": 501, "a\"b'\\": 501}
    assert rank_error(columns["x"], frame["x"].drop_nulls().to_numpy()) <= MERGED_ERROR


@pytest.mark.parametrize("dtype", [pl.Float64, pl.Int64, pl.Boolean, pl.String])
def test_a_block_without_values_adds_its_nulls_and_nothing_else(dtype: type[pl.DataType]) -> None:
    filled = one_block([0, 1, 1]).cast({"x": dtype})
    empty = one_block([None, None], dtype).with_columns(pl.lit("other").alias(PARTITION))
    alone, both = summed(filled), summed(pl.concat([filled, empty]))
    assert (both.rows, both.nulls, both.filled) == (5, 2, 3)
    assert both.counts == alone.counts
    if both.sketch is not None and alone.sketch is not None:
        assert list(both.sketch) == list(alone.sketch)
    nothing = summed(empty)
    assert (nothing.rows, nothing.nulls, nothing.filled) == (2, 2, 0)


def test_nan_counts_as_null() -> None:
    profile = summed(one_block([1.0, float("nan"), None]))
    assert (profile.rows, profile.nulls) == (3, 2)


def test_booleans_and_integers_are_numbers() -> None:
    for values in ([True, False, True], [1, 0, 1]):
        profile = summed(one_block(values))
        assert profile.kind == "numeric"
        assert sorted(profile.sketch or []) == [(0.0, 1), (1.0, 1), (1.0, 1)]


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["b", "a", "never"])])
def test_every_type_of_category_gives_the_same_profile(dtype: pl.DataType) -> None:
    values = ["a", "b", "a", None]
    assert_frame_equal(
        build_profile(one_block(values, dtype)), build_profile(one_block(values, pl.String))
    )


def test_values_beyond_the_bound_are_counted_as_others() -> None:
    often = [f"z{value:05}" for value in range(CATEGORY_BOUND - 1)] * 2
    once = ["x1", "x0", "x2"]
    stored = build_profile(one_block([*once, *often]))
    counts = json.loads(stored["counts"][0])
    assert list(counts) == sorted(counts)
    assert len(counts) == CATEGORY_BOUND
    assert counts["x0"] == 1
    assert stored["others"].to_list() == [2]
    profile = summed(pl.concat([one_block([*once, *often]), one_block(["y"])]))
    assert sum((profile.counts or {}).values()) + profile.others == profile.filled == len(often) + 4


def test_a_column_of_another_type_is_refused_by_name() -> None:
    with pytest.raises(ProfileError, match="column x is of type Date"):
        build_profile(one_block([date(2013, 1, 1)]))


def test_blocks_of_two_kinds_are_refused_by_name() -> None:
    profile = pl.concat([build_profile(one_block([1.0])), build_profile(one_block(["a"]))])
    with pytest.raises(ProfileError, match="column x is numeric in some blocks"):
        merge(profile)


def test_a_block_without_a_value_may_be_of_either_kind() -> None:
    parts = [one_block([1.0, None]), one_block([None, None], pl.Null), one_block(["a", None])]
    number, empty, text = map(build_profile, parts)
    for filled in (number, text):
        together = merge(pl.concat([filled, empty]))["x"]
        assert (together.kind, together.rows, together.nulls) == (filled["kind"][0], 4, 3)
        assert drop_mixed(pl.concat([filled, empty])).height == 2
    assert drop_mixed(pl.concat([number, empty, text])).is_empty()
    assert merge(empty)["x"].filled == 0
