"""Rows that a model was not trained for are named by partition and column, from profiles alone."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from retrain_assets.domain.drift.profile import ColumnProfile, build_profile, merge
from retrain_assets.domain.drift.training_match import find_idle, find_mismatches

NAMES = ("x", "plan", "flag")


def rows(key: str = "01", count: int = 400) -> pl.DataFrame:
    random = np.random.default_rng(int(key))
    return pl.DataFrame(
        {
            "_landing_partition": [key] * count,
            "x": random.uniform(0, 1, count),
            "plan": random.choice(["basic", "plus"], count),
            "flag": random.random(count) < 0.5,
        }
    )


def trained(frame: pl.DataFrame | None = None) -> dict[str, ColumnProfile]:
    ends = pl.Series("x", [0.0, 1.0])
    whole = rows() if frame is None else frame
    return merge(build_profile(pl.concat([whole, whole.head(2).with_columns(ends)])))


def found(frame: pl.DataFrame) -> list[tuple[object, ...]]:
    return [tuple(entry.values()) for entry in find_mismatches(frame, NAMES, trained())]


def test_rows_like_those_of_training_are_not_named() -> None:
    assert found(pl.concat([rows("02"), rows("03")])) == []


@pytest.mark.parametrize(
    ("change", "named", "share"),
    [
        (pl.when(pl.int_range(400) < 41).then(None).otherwise("x"), "share of nulls", 0.1025),
        (pl.when(pl.int_range(400) < 41).then(np.nan).otherwise("x"), "share of nulls", 0.1025),
        (pl.when(pl.int_range(400) < 21).then(7.0).otherwise("x"), "beyond the range", 0.0525),
        (pl.when(pl.int_range(400) < 21).then(-0.1).otherwise("x"), "beyond the range", 0.0525),
    ],
)
def test_what_is_beyond_a_bound_is_named_with_its_partition(
    change: pl.Expr, named: str, share: float
) -> None:
    odd = rows("03").with_columns(x=change)
    (entry,) = find_mismatches(pl.concat([rows("02"), odd]), NAMES, trained())
    assert (entry["partition"], entry["column"]) == ("03", "x")
    assert str(entry["finding"]).startswith(named)
    assert entry["share"] == pytest.approx(share)


def test_what_is_within_the_bounds_is_not_named() -> None:
    few_nulls = rows("02").with_columns(x=pl.when(pl.int_range(400) >= 39).then("x"))
    few_beyond = rows("03").with_columns(x=pl.when(pl.int_range(400) < 20).then(7.0).otherwise("x"))
    assert found(pl.concat([few_nulls, few_beyond])) == []


def test_values_that_only_rounding_puts_beyond_the_range_are_within() -> None:
    exact = rows().with_columns(x=pl.lit(0.1) + pl.lit(0.2))
    assert find_mismatches(exact, NAMES, merge(build_profile(exact))) == []


def test_categories_not_trained_on_are_named_unless_training_had_too_many_to_tell() -> None:
    new = rows("02").with_columns(plan=pl.lit("pro"))
    assert found(new) == [("02", "plan", "category not trained on", 1.0, 0.0)]
    many = rows("02", 1400).with_columns(plan=pl.int_range(1400).cast(pl.String))
    assert find_mismatches(new, NAMES, merge(build_profile(pl.concat([rows(), many])))) == []


def test_columns_are_those_of_training() -> None:
    other = rows("02").select("_landing_partition", "x", flag=pl.lit("yes"), more=pl.lit(1))
    entries = find_mismatches(other, ("x", "flag", "more"), trained())
    assert {str(entry["column"]): entry["finding"] for entry in entries} == {
        "plan": "trained on, not there",
        "more": "not trained on",
        "flag": "category, was numeric",
    }


def test_without_training_nothing_is_compared() -> None:
    assert find_mismatches(rows("02"), NAMES, {}) == []


def test_a_column_that_was_empty_in_training_is_not_compared() -> None:
    empty = trained(rows().with_columns(plan=pl.lit(None, pl.String)))
    assert find_mismatches(rows("02"), NAMES, empty) == []


def test_features_with_one_value_or_none_are_named() -> None:
    dull = rows().with_columns(x=pl.lit(None, pl.Float64), plan=pl.lit("basic"), flag=pl.lit(True))
    entries = find_idle(NAMES, merge(build_profile(dull)))
    assert {str(entry["column"]): entry["finding"] for entry in entries} == {
        "x": "no value",
        "plan": "one value alone",
        "flag": "one value alone",
    }
    assert list(find_idle(NAMES, trained())) == []
    assert list(find_idle(NAMES, merge(build_profile(dull.head(1))))) == []
