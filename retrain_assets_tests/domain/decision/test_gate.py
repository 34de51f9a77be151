"""Production is replaced only by what is shown to be better; whatever cannot be told is held."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from retrain_assets.domain.decision.gate import (
    Comparison,
    SliceResult,
    Verdict,
    compare,
    compare_slices,
    decide,
)
from retrain_assets.specs.gate import GateSpec, Metric

GATE = GateSpec(metric="log_loss", min_blocks=5, min_gain=0.0)
BLOCKS, ROWS = 8, 60


def comparison(gain: float, half: float, blocks: int = 14, **changes: Any) -> Comparison:
    found = Comparison(
        candidate=0.4,
        production=0.4 + gain,
        gain=gain,
        error=half / 1.77,
        freedom=blocks - 1,
        blocks=blocks,
        rows=8211,
        block_gains={},
        metric="log_loss",
        low=gain - half,
        high=gain + half,
        confidence=0.9,
    )
    return replace(found, **changes)


USEFUL = comparison(0.2, 0.05)


def slice_result(*, regresses: bool) -> SliceResult:
    return SliceResult("origin", "JFK", 900, 14, 0.6, 0.5, -0.1, -0.15, -0.05, 0.2, regresses)


@pytest.mark.parametrize(
    ("production", "trivial", "verdict", "said"),
    [
        (comparison(0.02, 0.01), USEFUL, "PROMOTE", "better than production: log_loss 0.4 against"),
        (comparison(-0.02, 0.01), USEFUL, "REJECT", "worse than production"),
        (comparison(0.02, 0.03), USEFUL, "HOLD", "cannot tell yet: "),
        (comparison(-0.02, 0.03), USEFUL, "HOLD", "not better than production: "),
        (comparison(0.02, 0.02), USEFUL, "HOLD", "cannot tell yet: "),
        (comparison(0.02, 0.01), comparison(-0.2, 0.1), "REJECT", "worse than the trivial"),
        (comparison(0.02, 0.01), comparison(0.2, 0.3), "PROMOTE", "better than production"),
        (None, USEFUL, "PROMOTE", "better than the trivial predictor: log_loss 0.4"),
        (None, comparison(0.2, 0.3), "HOLD", "cannot tell yet.* trivial"),
        (None, comparison(-0.2, 0.1), "REJECT", "worse than the trivial predictor"),
        (comparison(0.02, 0.01, blocks=4), USEFUL, "HOLD", "4 holdout blocks .*, .* asks for 5"),
        (comparison(math.nan, 0), USEFUL, "HOLD", "undefined on these 8,211 holdout rows"),
        (None, comparison(math.nan, 0), "HOLD", "undefined on these 8,211 holdout rows"),
        (comparison(0.02, math.inf), USEFUL, "HOLD", "cannot tell: "),
        (comparison(1e-9, 0.1), USEFUL, "HOLD", "cannot tell: "),
    ],
)
def test_the_verdict_follows_from_the_intervals(
    production: Comparison | None, trivial: Comparison, verdict: str, said: str
) -> None:
    decision = decide(GATE, production, trivial)
    assert decision.verdict == verdict
    assert re.search(said, decision.reason)
    assert decision.comparison is (trivial if "trivial" in said else production or trivial)


@pytest.mark.parametrize(
    ("gain", "trivial", "floor", "verdict", "reason"),
    [
        (0.02, -0.2, -0.3, "PROMOTE", "better than production: .*; warning: production and the"),
        (-0.02, -0.2, -0.1, "REJECT", "worse than production: .*; warning: production and the"),
        (0.02, 0.2, -0.3, "PROMOTE", "; warning: production is worse .* which has 0.6$"),
        (0.02, -0.2, 0.1, "REJECT", "worse than the trivial .*; production has 0.42 on the same"),
    ],
)
def test_where_production_is_worse_than_the_trivial_predictor_the_better_of_the_two_serves(
    gain: float, trivial: float, floor: float, verdict: str, reason: str
) -> None:
    sides = comparison(gain, 0.01), comparison(trivial, 0.05)
    decision = decide(GATE, *sides, production_against_trivial=floor)
    assert decision.verdict == verdict
    assert re.search(reason, decision.reason)


def test_the_reason_gives_the_figures() -> None:
    assert decide(GATE, comparison(0.02, 0.01), USEFUL).reason == (
        "better than production: log_loss 0.4 against 0.42 of production, gain 0.02 "
        "(90% interval 0.01 to 0.03) on 14 blocks, 8,211 rows; the gain is 4.8% of its loss"
    )


def test_a_gain_that_is_not_worth_it_is_held() -> None:
    gate = GateSpec(metric="log_loss", min_gain=0.015)
    assert decide(gate, comparison(0.02, 0.01), USEFUL).verdict is Verdict.HOLD
    assert decide(gate, comparison(0.03, 0.01), USEFUL).verdict is Verdict.PROMOTE
    small = decide(gate, comparison(0.01, 0.001), USEFUL)
    assert (small.verdict, small.more_blocks) == (Verdict.HOLD, None)
    assert "not better than production by more than 0.015: " in small.reason


@pytest.mark.parametrize(
    ("metric", "value", "bound"),
    [("log_loss", 0.42, 0.0021), ("roc_auc", 0.8, 0.001), ("mae", 30.0, 0.15)],
)
def test_by_default_a_gain_is_worth_half_a_percent_of_the_loss(
    metric: Metric, value: float, bound: float
) -> None:
    gate = GateSpec(metric=metric)
    sides = (comparison(gain * bound, bound / 9, production=value) for gain in (1.1, 1.2))
    held, promoted = (decide(gate, side, USEFUL) for side in sides)
    assert (held.verdict, promoted.verdict) == (Verdict.HOLD, Verdict.PROMOTE)
    assert "the gain is 0.6% of its loss" in promoted.reason


def test_with_unless_worse_only_what_is_shown_to_be_worse_stays_out() -> None:
    gate = GateSpec(metric="log_loss", promote_when="unless_worse")
    passed = decide(gate, comparison(-0.01, 0.02), USEFUL)
    assert passed.verdict is Verdict.PROMOTE
    assert passed.reason.startswith("not shown to be worse than production: log_loss")
    assert decide(gate, comparison(0.02, 0.01), USEFUL).reason.startswith("better than production")
    worse = slice_result(regresses=True)
    for refused in (
        decide(gate, comparison(-0.02, 0.01), USEFUL),
        decide(gate, comparison(-0.01, 0.02), USEFUL, [worse]),
        decide(gate, comparison(-0.01, 0.02), comparison(-0.2, 0.1)),
    ):
        assert refused.verdict is Verdict.REJECT
    assert decide(gate, comparison(-0.2, math.inf), USEFUL).verdict is Verdict.HOLD
    with pytest.raises(ValueError, match="does not go with `promote_when: unless_worse`"):
        GateSpec(metric="log_loss", promote_when="unless_worse", false_promotions_per_year=1)


def test_a_regressing_slice_rejects_what_is_better_on_the_whole() -> None:
    better = comparison(0.02, 0.01)
    rejected = decide(GATE, better, USEFUL, [slice_result(regresses=True)])
    assert rejected.verdict is Verdict.REJECT
    assert "worse than production for origin JFK (20% worse)" in rejected.reason
    assert decide(GATE, better, USEFUL, [slice_result(regresses=False)]).verdict is Verdict.PROMOTE


def test_the_partitions_foreseen_would_settle_it_if_nothing_changed() -> None:
    held = decide(GATE, comparison(0.02, 0.03), USEFUL)
    assert held.more_blocks == 32  # on their own: 14 * (0.03 / 0.02)**2 = 31.5
    settled = comparison(0.02, 0.03 * math.sqrt(14 / 32), blocks=32)
    assert decide(GATE, settled, USEFUL).verdict is Verdict.PROMOTE


# Comparing predictions


def sample(seed: int, rows: int = BLOCKS * ROWS) -> tuple[np.ndarray, pl.Series]:
    random = np.random.default_rng(seed)
    blocks = pl.Series([f"2020-01-{1 + row % BLOCKS:02}" for row in range(rows)])
    return (random.uniform(size=rows) < 0.4).astype(float), blocks


def predictions(seed: int, target: np.ndarray, noise: float) -> np.ndarray:
    score = target - 0.5 + np.random.default_rng(seed).normal(scale=noise, size=len(target))
    return 1 / (1 + np.exp(-score))


metrics = st.sampled_from(["log_loss", "brier", "roc_auc", "average_precision", "accuracy", "f1"])


@settings(max_examples=30, deadline=None)
@given(metrics, st.integers(0, 1000), st.floats(0.5, 2), st.floats(0.55, 0.99))
def test_swapping_the_models_mirrors_the_comparison(
    metric: Metric, seed: int, noise: float, confidence: float
) -> None:
    target, blocks = sample(seed)
    ours, theirs = predictions(seed, target, noise), predictions(seed + 1, target, 1)
    one = compare(metric, target, ours, theirs, blocks, confidence)
    other = compare(metric, target, theirs, ours, blocks, confidence)
    assert one.gain == -other.gain
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-12)
    assert one.low <= one.gain <= one.high
    assert json.loads(json.dumps(asdict(one))) == asdict(one)


@settings(max_examples=20, deadline=None)
@given(metrics, st.integers(0, 1000))
def test_equal_models_never_replace_each_other(metric: Metric, seed: int) -> None:
    target, blocks = sample(seed)
    ours = predictions(seed, target, 1)
    found = compare(metric, target, ours, ours.copy(), blocks, 0.9)
    assert (found.gain, found.low, found.high) == (0, 0, 0)
    assert decide(GATE, found, USEFUL).verdict is Verdict.HOLD


@settings(max_examples=20, deadline=None)
@given(metrics, st.integers(0, 1000))
def test_the_order_of_rows_does_not_matter(metric: Metric, seed: int) -> None:
    target, blocks = sample(seed)
    ours, theirs = predictions(seed, target, 1), predictions(seed + 1, target, 1)
    order = np.random.default_rng(seed).permutation(len(target))
    one = compare(metric, target, ours, theirs, blocks, 0.9)
    mixed = compare(metric, target[order], ours[order], theirs[order], blocks[order.tolist()], 0.9)
    assert (mixed.gain, mixed.low, mixed.high) == pytest.approx(
        (one.gain, one.low, one.high), abs=1e-9
    )
    assert list(mixed.block_gains) == list(one.block_gains)


def test_models_of_several_classes_are_compared() -> None:
    target = np.array(["a", "b", "c", "a"] * 10)
    right = (target[:, None] == np.array(["a", "b", "c", "d"])) * 0.9 + 0.025
    blocks = pl.Series([str(row % 4) for row in range(40)])
    found = compare(
        "accuracy", target, right, np.roll(right, 1, axis=1), blocks, 0.9, classes="abcd"
    )
    assert (found.candidate, found.production) == (1, 0)


GATES, SHARED = 400, 0.1


def equal_models(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, pl.Series]:
    """Absolute errors of two models that are equally good; what differs is the luck of the day."""
    sizes = random.integers(20, 40, 14)
    luck = random.normal(scale=SHARED, size=(2, 14)).repeat(sizes, axis=1)
    errors = 10 + luck + random.normal(scale=0.2, size=luck.shape)
    return (
        errors[0],
        errors[1],
        pl.Series([str(day) for day in range(14)]).gather(np.arange(14).repeat(sizes)),
    )


def test_equal_models_are_promoted_as_rarely_as_the_confidence_says() -> None:
    random = np.random.default_rng(11)
    gate = GateSpec(metric="mae", confidence=0.9, min_blocks=5, min_gain=0.0)
    promoted = by_rows = 0
    for _ in range(GATES):
        ours, theirs, days = equal_models(random)
        found = compare("mae", np.zeros(len(ours)), ours, theirs, days, gate.confidence)
        promoted += decide(gate, found, USEFUL).verdict is Verdict.PROMOTE
        by_rows += stats.ttest_rel(theirs, ours, alternative="greater").pvalue < 0.05
    low, high = stats.binom(GATES, 0.05).interval(0.99)
    assert low <= promoted <= high
    assert by_rows > 0.2 * GATES  # what a test on rows would do


# Slices


def sliced(worse: float, rows: int = 2400) -> tuple[pl.DataFrame, list[Any]]:
    target, blocks = sample(2, rows)
    random = np.random.default_rng(4)
    origin = random.choice(["EWR", "JFK", "LGA"], rows)
    theirs = predictions(3, target, 1)
    ours = np.where(origin == "JFK", theirs + worse * (1 - target - theirs), theirs)
    return pl.DataFrame({"origin": origin}), [target, ours, theirs, blocks]


def test_a_slice_regresses_beyond_bound_and_interval() -> None:
    frame, given = sliced(0.2)
    found = {s.value: s for s in compare_slices(GATE, "log_loss", frame, *given)}
    assert list(found) == ["EWR", "JFK", "LGA"]
    assert [s.value for s in found.values() if s.regresses] == ["JFK"]
    assert found["JFK"].loss > 0.1
    assert found["JFK"].high < 0


def test_a_slice_that_is_slightly_worse_does_not_regress() -> None:
    frame, given = sliced(0.02)
    found = {s.value: s for s in compare_slices(GATE, "log_loss", frame, *given)}
    assert found["JFK"].high < 0
    assert 0 < found["JFK"].loss < 0.1
    assert not any(s.regresses for s in found.values())


def test_a_slice_that_may_be_chance_does_not_regress() -> None:
    frame, (target, ours, theirs, blocks) = sliced(0.0)
    unlucky = (frame["origin"] == "JFK").to_numpy() & (blocks == blocks[0]).to_numpy()
    ours = np.where(unlucky, 1 - target, ours).clip(0.01, 0.99)
    found = {
        s.value: s for s in compare_slices(GATE, "log_loss", frame, target, ours, theirs, blocks)
    }
    assert found["JFK"].loss > 0.1
    assert not found["JFK"].regresses


def test_intervals_widen_with_the_number_of_slices() -> None:
    frame, given = sliced(0.2)
    every = frame.with_columns(a=pl.lit("all"), b=pl.lit("all"))
    one = compare_slices(GATE, "log_loss", every.select("a"), *given)
    twice = compare_slices(GATE, "log_loss", every.select("a", "b"), *given)
    assert len(one) == 1
    assert len(twice) == 2
    wide, narrow = twice[0].high - twice[0].low, one[0].high - one[0].low
    t = stats.t(BLOCKS - 1)
    assert wide / narrow == pytest.approx(t.ppf(0.975) / t.ppf(0.95))


def test_small_values_are_pooled_and_what_stays_small_is_not_tested() -> None:
    frame, given = sliced(0.2)
    rare = frame.with_row_index().with_columns(
        origin=pl.when(pl.col("index") < 150)
        .then(pl.lit("BOS"))
        .when(pl.col("index") < 300)
        .then(None)
        .otherwise("origin"),
        few=pl.when(pl.col("index") < 100).then(pl.lit(1)).otherwise(pl.lit(2)),
    )
    found = compare_slices(GATE, "log_loss", rare.select("origin", "few"), *given)
    assert [(s.column, s.value) for s in found] == [
        ("origin", "EWR"),
        ("origin", "JFK"),
        ("origin", "LGA"),
        ("origin", "other"),
        ("few", "2"),
    ]
    assert {s.value: s.rows for s in found}["other"] == 300


def test_a_slice_of_few_blocks_is_pooled() -> None:
    _, given = sliced(0.2)
    early = given[3].is_in(sorted(given[3].unique())[:4])
    found = compare_slices(GATE, "log_loss", pl.DataFrame({"early": early}), *given)
    assert [(s.value, s.blocks) for s in found] == [("other", BLOCKS)]
    fewer = GateSpec(metric="log_loss", min_blocks=4)
    found = compare_slices(fewer, "log_loss", pl.DataFrame({"early": early}), *given)
    assert [(s.value, s.blocks) for s in found] == [("false", 4), ("true", 4)]


def test_a_slice_on_which_the_metric_is_undefined_is_not_tested() -> None:
    frame, (target, ours, theirs, blocks) = sliced(0.0)
    target = np.where(frame["origin"] == "JFK", 0.0, target)
    found = compare_slices(GATE, "roc_auc", frame, target, ours, theirs, blocks)
    assert [s.value for s in found] == ["EWR", "LGA"]


def test_without_slices_nothing_is_tested() -> None:
    frame, given = sliced(0.2)
    assert compare_slices(GATE, "log_loss", frame.select(), *given) == []


NOT_WORSE = GateSpec.model_validate(
    {"metric": "log_loss", "min_blocks": 5, "promote_when": {"not_worse": {"margin": 0.03}}}
)


@pytest.mark.parametrize(
    ("gain", "half", "verdict", "said"),
    [
        (-0.01, 0.015, "PROMOTE", "not worse than production by more than 0.03: log_loss"),
        (-0.01, 0.005, "PROMOTE", "not worse than production by more than 0.03: log_loss"),
        (-0.01, 0.025, "HOLD", "cannot tell yet: "),
        (-0.04, 0.015, "HOLD", "worse than production by at least 0.03, which may be chance: "),
        (-0.05, 0.015, "REJECT", "worse than production"),
    ],
)
def test_what_is_shown_not_to_be_worse_can_be_promoted(
    gain: float, half: float, verdict: str, said: str
) -> None:
    decision = decide(NOT_WORSE, comparison(gain, half), USEFUL)
    assert decision.verdict == verdict
    assert decision.reason.startswith(said)
