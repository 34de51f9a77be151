"""A row is encoded the same alone and in any batch, whatever frame it comes in."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain_assets.domain.encoder import MAX_CATEGORIES, FrameColumns, FrameEncoder
from retrain_assets.domain.features.build import FeatureError

NAN = float("nan")
TRAINING = pl.DataFrame(
    {
        "count": [1, 2, None, 4],
        "plan": ["b", "a", "b", None],
        "active": [True, None, False, True],
        "size": pl.Series(["s", "s", "m", None], dtype=pl.Enum(["xl", "m", "s"])),
    }
)


@pytest.fixture
def encoder() -> FrameEncoder:
    return FrameEncoder().fit(TRAINING)


def test_numbers_stay_and_categories_become_codes(encoder: FrameEncoder) -> None:
    matrix = encoder.transform(TRAINING)
    expected = [[1, 0, 1, 0], [2, 1, NAN, 0], [NAN, 0, 0, 1], [4, NAN, 1, NAN]]
    np.testing.assert_array_equal(matrix, expected)
    assert matrix.flags.c_contiguous
    assert matrix.dtype == np.float64


def test_categories_stand_most_frequent_first_then_by_name() -> None:
    frame = pl.DataFrame({"c": ["z", "b", "z", "a", "b", "c"]})
    assert FrameEncoder().fit(frame).categories_ == {"c": ["b", "z", "a", "c"]}


def test_categories_beyond_the_most_frequent_254_are_missing() -> None:
    values = [f"v{number:03}" for number in range(MAX_CATEGORIES + 2)]
    encoder = FrameEncoder().fit(pl.DataFrame({"c": [*values, *values[2:]]}))
    rare = encoder.transform(pl.DataFrame({"c": values[:2]}))
    assert np.isnan(rare).all()
    assert encoder.transform(pl.DataFrame({"c": values[2:]})).max() == MAX_CATEGORIES - 1


def test_unseen_values_are_missing(encoder: FrameEncoder) -> None:
    frame = TRAINING.with_columns(plan=pl.Series(["new", "a", None, "newer"]))
    np.testing.assert_array_equal(encoder.transform(frame)[:, 1], [NAN, 1, NAN, NAN])


@pytest.mark.parametrize("outsider", [pl.DataFrame.to_pandas, pl.DataFrame.to_dicts])
def test_frames_of_outsiders_are_encoded_alike(encoder: FrameEncoder, outsider: object) -> None:
    given = outsider(TRAINING)  # type: ignore[operator]
    np.testing.assert_array_equal(encoder.transform(given), encoder.transform(TRAINING))


def test_further_columns_and_another_order_change_nothing(encoder: FrameEncoder) -> None:
    frame = TRAINING.select(*reversed(TRAINING.columns), further=pl.lit("x"))
    np.testing.assert_array_equal(encoder.transform(frame), encoder.transform(TRAINING))


def test_a_column_without_any_value_takes_any_type(encoder: FrameEncoder) -> None:
    empty = TRAINING.with_columns(plan=pl.lit(None), count=pl.lit(None, pl.String))
    assert np.isnan(encoder.transform(empty)[:, :2]).all()


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (TRAINING.drop("plan", "count"), "lack count, plan"),
        (TRAINING.with_columns(count=pl.lit("3")), "count is String, such as '3'.* number"),
        (TRAINING.with_columns(plan=pl.lit(3)), "plan is Int32, such as 3.* text"),
        ([1, 2, 3], "features came as list"),
        (np.zeros((2, 4)), "features came as ndarray"),
    ],
)
def test_other_features_than_in_training_are_refused(
    encoder: FrameEncoder, frame: object, said: str
) -> None:
    with pytest.raises(FeatureError, match=said):
        encoder.transform(frame)


def test_a_column_that_is_neither_number_nor_text_is_refused() -> None:
    with pytest.raises(FeatureError, match="feature when is of type Date"):
        FrameEncoder().fit(pl.DataFrame({"when": [None]}, schema={"when": pl.Date}))


def test_all_that_is_learnt_is_text(encoder: FrameEncoder) -> None:
    learnt = {name: value for name, value in vars(encoder).items() if name.endswith("_")}
    assert learnt == {
        "columns_": ["count", "plan", "active", "size"],
        "categories_": {"plan": ["b", "a"], "size": ["s", "m"]},
        "empty_": [],
    }


def test_a_column_without_a_value_in_training_says_nothing_later() -> None:
    schema = {"c": pl.String, "x": pl.Float64, "y": pl.Float64}
    empty = pl.DataFrame({"c": [None, None], "x": [None, None], "y": [1.0, None]}, schema)
    encoder = FrameEncoder().fit(empty)
    assert encoder.empty_ == ["c", "x"]
    later = pl.DataFrame({"c": ["a", None], "x": [5.0, None], "y": [2.0, None]}, schema)
    np.testing.assert_array_equal(encoder.transform(later), [[0, 0, 2], [0, 0, np.nan]])


texts = st.lists(st.none() | st.sampled_from(["a", "b", "", "ä"]), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(texts, texts, st.data())
def test_a_row_is_encoded_alone_as_in_its_batch(
    known: list[str | None], values: list[str | None], data: st.DataObject
) -> None:
    numbers = data.draw(
        st.lists(st.none() | st.floats(), min_size=len(values), max_size=len(values))
    )
    schema = {"c": pl.String, "x": pl.Float64}
    encoder = FrameEncoder().fit(pl.DataFrame({"c": known, "x": [0.0] * len(known)}, schema))
    batch = pl.DataFrame({"c": values, "x": numbers}, schema)
    matrix = encoder.transform(batch)
    for place, row in enumerate(batch.to_dicts()):
        np.testing.assert_array_equal(encoder.transform(batch[place])[0], matrix[place])
        np.testing.assert_array_equal(encoder.transform([row])[0], matrix[place])
        code = matrix[place, 0]
        assert (
            np.isnan(code)
            or "c" in encoder.empty_
            or encoder.categories_["c"][int(code)] == row["c"]
        )


@pytest.mark.parametrize("with_names", [True, False])
def test_an_encoder_that_was_stored_under_the_former_name_of_its_argument_still_opens(
    with_names: bool,
) -> None:
    encoder = FrameColumns(with_names=with_names).fit(pl.DataFrame({"x": [1.0]}))
    state = vars(encoder) | {"named": with_names}
    del state["with_names"]
    restored = FrameColumns.__new__(FrameColumns)
    restored.__setstate__(state)
    assert vars(restored) == vars(encoder)
