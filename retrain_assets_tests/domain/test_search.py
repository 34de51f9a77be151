"""Random search keeps the order of time and can be repeated."""

from __future__ import annotations

import json
import math
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from retrain_assets.domain.search import SearchError, search, settings, time_folds
from retrain_assets.specs.model import SearchSpec

SPEC = SearchSpec.model_validate(
    {
        "params": {
            "rate": {"low": 0.001, "high": 1.0, "log": True},
            "leaves": {"low": 3.5, "high": 8.2, "whole": True},
            "share": {"low": -1, "high": 1},
            "rule": {"values": ["a", None, 3]},
        },
        "budget": 200,
    }
)


def test_the_first_setting_is_the_params_as_they_are() -> None:
    tried = settings(SPEC, {"rate": 0.5, "kept": "yes"}, seed=1)
    assert len(tried) == 200
    assert tried[0] == {"rate": 0.5, "kept": "yes"}
    assert {setting["kept"] for setting in tried} == {"yes"}


def test_draws_cover_their_range_and_stay_within_it() -> None:
    drawn = settings(SPEC, {}, seed=1)[1:]
    assert {setting["leaves"] for setting in drawn} == {4, 5, 6, 7, 8}
    assert {setting["rule"] for setting in drawn} == {"a", None, 3}
    rates = [setting["rate"] for setting in drawn]
    assert 0.001 <= min(rates) < 0.002
    assert 0.5 < max(rates) <= 1.0
    middle = sum(rate < math.sqrt(0.001) for rate in rates) / len(rates)
    assert middle == pytest.approx(0.5, abs=0.1)  # uniform in the logarithm


def test_the_same_seed_draws_the_same_settings() -> None:
    assert settings(SPEC, {}, seed=1) == settings(SPEC, {}, seed=1)
    assert settings(SPEC, {}, seed=1) != settings(SPEC, {}, seed=2)


def test_the_least_loss_wins_and_the_earlier_of_equals() -> None:
    def loss(params: dict[str, Any]) -> float:
        return {4: 0.2, 5: math.nan}.get(params["leaves"], 0.9)

    best, tried = search(SPEC, {"leaves": 8}, 1, loss)
    first = tried.filter(pl.col("loss") == 0.2)["params"][0]
    assert best == json.loads(first)
    assert tried.columns == ["setting", "params", "loss"]
    assert search(SPEC, {"leaves": 8}, 1, lambda _: 1.0)[0] == {"leaves": 8}


def test_a_search_without_any_loss_is_refused() -> None:
    with pytest.raises(SearchError, match="undefined on every fold"):
        search(SPEC, {}, 1, lambda _: math.nan)


@examples(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(2, 6), st.integers(0, 3))
def test_validation_always_comes_after_training_and_the_gap(
    count: int, folds: int, gap: int
) -> None:
    blocks = pl.Series([f"{number:03}" for number in range(count) for _ in range(2)])
    if count // (folds + 1) < 1 or count - folds * (count // (folds + 1)) - gap < 1:
        with pytest.raises(SearchError, match=f"{count} training partitions are too few"):
            time_folds(blocks, folds, gap)
        return
    made = time_folds(blocks, folds, gap)
    assert len(made) == folds
    validated = []
    for fold in made:
        train, validation = (blocks.filter(mask).unique() for mask in fold)
        assert int(validation.min()) - int(train.max()) == gap + 1  # type: ignore[call-overload,arg-type]
        assert train.min() == blocks[0]
        validated += validation.to_list()
    assert len(validated) == len(set(validated))
    assert max(validated) == blocks[-1]


def test_a_gap_longer_than_the_first_window_is_refused() -> None:
    with pytest.raises(SearchError, match=r"gap of 5: use fewer folds"):
        time_folds(pl.Series(["1", "2", "3", "4"]), 2, 5)
