"""A search keeps the order of time, can be repeated, and goes on where a setting fails."""

import json
import math
from collections.abc import Callable, Iterator

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from retrain_assets.domain.model.families.family import TrainingError
from retrain_assets.domain.model.search import (
    Journal,
    Params,
    time_folds,
)
from retrain_assets.domain.model.search import search as search_folds
from retrain_assets.specs.model import DistributionSpec, SearchSpec

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


def search(
    spec: SearchSpec,
    params: Params,
    seed: int,
    loss: Callable[[Params], float],
    journal: Journal | None = None,
) -> tuple[Params, pl.DataFrame]:
    """Search with one fold."""
    return search_folds(spec, params, seed, lambda setting: map(loss, [setting]), journal)


def settings(spec: SearchSpec, params: Params, seed: int) -> list[Params]:
    """The settings that are tried where none has a loss, so that all of them are drawn blindly."""
    tried: list[Params] = []

    def loss(setting: Params) -> float:
        tried.append(setting)
        return math.nan

    with pytest.raises(TrainingError):
        search(spec, params, seed, loss)
    return tried


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


def test_values_that_equal_each_other_are_told_apart() -> None:
    spec = SearchSpec.model_validate(
        {"params": {"size": {"values": [True, 1, [2, 3]]}}, "budget": 30}
    )
    drawn = settings(spec, {}, seed=1)[1:]
    assert {repr(setting["size"]) for setting in drawn} == {"True", "1", "[2, 3]"}


def test_the_same_seed_tries_the_same_settings() -> None:
    def tried(seed: int) -> pl.DataFrame:
        spec = SPEC.model_copy(update={"budget": 30})
        return search(spec, {"rate": 0.5}, seed, lambda setting: abs(setting["rate"] - 0.1))[1]

    assert_frame_equal(tried(1), tried(1))
    assert tried(1)["params"].to_list() != tried(2)["params"].to_list()
    assert settings(SPEC, {}, seed=1) == settings(SPEC, {}, seed=1)
    assert settings(SPEC, {}, seed=1) != settings(SPEC, {}, seed=2)


def test_later_draws_come_closer_to_the_best() -> None:
    _, tried = search(SPEC, {"rate": 1.0}, 1, lambda setting: abs(math.log10(setting["rate"]) + 2))
    assert tried["loss"][-50:].mean() < tried["loss"][1:11].mean() / 2  # type: ignore[operator]


def test_the_least_loss_wins_and_the_earlier_of_equals() -> None:
    def loss(params: Params) -> float:
        return {4: 0.2, 5: math.nan}.get(params["leaves"], 0.9)

    best, tried = search(SPEC, {"leaves": 8}, 1, loss)
    first = tried.filter(pl.col("loss") == 0.2)["params"][0]
    assert best == json.loads(first)
    assert tried.columns == ["setting", "params", "state", "folds", "loss"]
    assert search(SPEC, {"leaves": 8}, 1, lambda _: 1.0)[0] == {"leaves": 8}


@pytest.mark.filterwarnings("error")
def test_settings_that_fail_do_not_end_the_search(capfd: pytest.CaptureFixture[str]) -> None:
    def loss(params: Params) -> float:
        if params["leaves"] > 6:
            raise TrainingError("too many leaves")
        return math.inf if params["leaves"] == 6 else params["leaves"]

    best, tried = search(SPEC, {"leaves": 8}, 1, loss)
    assert best["leaves"] == 4
    assert tried.height == 200
    assert math.isnan(tried["loss"][0])
    assert capfd.readouterr() == ("", ""), "optuna is quiet"


def test_a_search_without_any_loss_is_refused_with_the_reason() -> None:
    with pytest.raises(TrainingError, match=r"all of its 200 settings .* undefined on every fold"):
        search(SPEC, {}, 1, lambda _: math.nan)

    def refuse(_: Params) -> float:
        raise TrainingError("the estimator takes no missing values")

    with pytest.raises(TrainingError, match="because of: the estimator takes no missing values"):
        search(SPEC, {}, 1, refuse)


FOLDS = SPEC.model_copy(update={"budget": 40})


def losses_of(setting: Params) -> Iterator[float]:
    """Losses of three folds, which are far apart between settings."""
    yield from (abs(math.log10(setting["rate"]) + 2) + fold / 100 for fold in range(3))


def test_a_setting_that_is_worse_than_most_is_given_up() -> None:
    best, tried = search_folds(FOLDS, {"rate": 0.5}, 1, losses_of)
    pruned = tried.filter(pl.col("state") == "pruned")
    assert pruned.height > 5
    assert pruned["folds"].max() < 3  # type: ignore[operator]
    least = tried.filter(pl.col("state") == "judged").sort("loss")
    assert json.loads(least["params"][0]) == best
    assert least["folds"].to_list() == [3] * least.height
    everything = FOLDS.model_copy(update={"prune": False})
    assert set(search_folds(everything, {"rate": 0.5}, 1, losses_of)[1]["folds"]) == {3}


def test_a_search_that_was_killed_goes_on_as_if_nothing_had_happened() -> None:
    class Killed(BaseException):
        pass

    tried: list[Params] = []

    def judge(setting: Params) -> Iterator[float]:
        tried.append(setting)
        if len(tried) == 12:
            raise Killed
        if setting["leaves"] == 5:
            raise TrainingError("five leaves")
        yield from losses_of(setting)

    start, journal = {"rate": 0.5, "leaves": 8}, Journal()
    with pytest.raises(Killed):
        search_folds(FOLDS, start, 1, judge, journal)
    assert len(journal.settings) == 11
    resumed = search_folds(FOLDS, start, 1, judge, Journal(journal.settings))
    once = len(tried)
    unbroken = search_folds(FOLDS, start, 1, judge)
    assert resumed[0] == unbroken[0]
    assert_frame_equal(resumed[1], unbroken[1])
    assert once == 1 + unbroken[1]["params"].n_unique(), "no setting was judged twice"
    assert "failed" in unbroken[1]["state"]


def test_no_setting_is_begun_after_the_minutes_have_passed() -> None:
    spec = SPEC.model_copy(update={"minutes": 1.0})
    ticks = iter(range(0, 10_000, 25))
    journal = Journal(clock=lambda: next(ticks))
    _, tried = search_folds(spec, {"rate": 0.5}, 1, losses_of, journal)
    assert tried.height == 3  # each takes 25 seconds
    _, resumed = search_folds(spec, {"rate": 0.5}, 1, losses_of, journal)
    assert_frame_equal(resumed, tried)


def test_a_range_without_a_whole_number_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a whole number between `low` and `high`"):
        DistributionSpec(low=3.2, high=3.8, whole=True)


@examples(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(2, 6), st.integers(0, 3))
def test_validation_always_comes_after_training_and_the_gap(
    count: int, folds: int, gap: int
) -> None:
    blocks = pl.Series([f"{number:03}" for number in range(count) for _ in range(2)])
    if count // (folds + 1) < 1 or count - folds * (count // (folds + 1)) - gap < 1:
        with pytest.raises(TrainingError, match=f"{count} training partitions are too few"):
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
    with pytest.raises(TrainingError, match=r"gap of 5: use fewer folds"):
        time_folds(pl.Series(["1", "2", "3", "4"]), 2, 5)
