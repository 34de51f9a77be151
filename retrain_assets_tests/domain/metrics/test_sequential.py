"""Evidence that is looked at after every partition alarms no oftener than was stated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from retrain_assets.domain.metrics.intervals import (
    STRETCH,
    compute_evidence,
    required_evidence,
)

LOOKS, ROUNDS = 200, 1500
LAWS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "normal": lambda rng: rng.normal(size=LOOKS),
    "heavy tails": lambda rng: rng.standard_t(5, size=LOOKS),
    "below zero": lambda rng: rng.normal(-0.1, size=LOOKS),
    "any scale": lambda rng: 1e-6 * rng.normal(size=LOOKS),
}


def alarms(
    law: Callable[[np.random.Generator], np.ndarray], confidence: float, stretch: int = 1
) -> float:
    rng, needed = np.random.default_rng(0), required_evidence(confidence)
    ever = [compute_evidence(law(rng), stretch).max() >= needed for _ in range(ROUNDS)]
    return float(np.mean(ever))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.98])
def test_without_an_effect_two_hundred_looks_alarm_no_oftener_than_stated(
    law: str, confidence: float
) -> None:
    stated = (1 - confidence) / 2
    assert alarms(LAWS[law], confidence) <= stated + 2 * (stated * (1 - stated) / ROUNDS) ** 0.5


@pytest.mark.parametrize(("alike", "most"), [(0.3, 0.06), (0.5, 0.1)])
def test_gains_that_resemble_their_neighbours_alarm_about_as_rarely(
    alike: float, most: float
) -> None:
    """At a stated 5 %; if they were taken as independent, 13 % and 26 % of streams would alarm."""

    assert alarms(resembling(alike), 0.9) <= most


def resembling(alike: float) -> Callable[[np.random.Generator], np.ndarray]:
    """Return a law of gains that correlate with their neighbours."""

    def law(rng: np.random.Generator) -> np.ndarray:
        noise = rng.normal(size=LOOKS)
        noise[1:] *= (1 - alike**2) ** 0.5
        gains = noise.copy()
        for place in range(1, LOOKS):
            gains[place] += alike * gains[place - 1]
        return gains

    return law


def shocked(rng: np.random.Generator) -> np.ndarray:
    """Return gains of which each week has a shock; the stretches begin in the middle of a week."""
    shocks = rng.normal(size=LOOKS // 7 + 2)
    return shocks[(np.arange(LOOKS) + 3) // 7] + rng.normal(size=LOOKS)


@pytest.mark.parametrize("law", [resembling(0.3), resembling(0.7), shocked])
def test_by_weeks_gains_that_are_alike_alarm_no_oftener_than_stated(
    law: Callable[[np.random.Generator], np.ndarray],
) -> None:
    """At a stated 5 %; gain by gain, 5 %, 12 % and 18 % of these streams alarm."""
    assert alarms(law, 0.9, STRETCH) <= 0.05


def test_by_weeks_a_real_effect_is_found_and_an_incomplete_week_says_nothing() -> None:
    assert alarms(lambda rng: rng.normal(1.0, 1.0, size=60), 0.9, STRETCH) >= 0.8
    gains = np.random.default_rng(1).normal(1.0, size=34)
    evidence = compute_evidence(gains, STRETCH)
    assert evidence[:6].tolist() == [1.0] * 6
    assert (evidence[27:] == evidence[27]).all()


def test_looking_again_and_again_at_an_interval_would_alarm_far_oftener() -> None:
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(ROUNDS):
        gains = rng.normal(size=LOOKS)
        count = np.arange(1, LOOKS + 1)
        mean = gains.cumsum() / count
        wrong += bool((mean[10:] > 1.645 / np.sqrt(count[10:])).any())
    assert wrong / ROUNDS > 0.15


@pytest.mark.parametrize(("effect", "looks", "share"), [(0.5, 60, 0.8), (1.0, 14, 0.6)])
def test_a_real_effect_is_found(effect: float, looks: int, share: float) -> None:
    found = alarms(lambda rng: rng.normal(effect, 1.0, size=looks), 0.9)
    assert found >= share


def test_it_is_the_likelihood_ratio_of_the_t_statistic() -> None:
    """Against the ratio of the densities of T, integrated numerically over effects."""
    from scipy.integrate import quad
    from scipy.stats import nct, norm
    from scipy.stats import t as student

    gains = np.array([0.4, 1.1, -0.2, 0.9, 0.7])
    n = len(gains)
    t = gains.mean() / gains.std(ddof=1) * n**0.5
    weighed, _ = quad(lambda d: nct.pdf(t, n - 1, d * n**0.5) * norm.pdf(d, 0, 0.5), -5, 5)
    assert compute_evidence(gains)[-1] == pytest.approx(weighed / student.pdf(t, n - 1), rel=1e-6)


def test_nothing_is_told_of_one_partition_of_none_or_of_equal_models() -> None:
    assert compute_evidence([]).tolist() == []
    assert compute_evidence([5.0]).tolist() == [1.0]
    assert compute_evidence([0.0, 0.0, 0.0]).tolist() == [1.0, 1.0, 1.0]


def test_evidence_beyond_the_largest_number_is_the_largest_number() -> None:
    evidence = compute_evidence(np.random.default_rng(1).normal(0.03, 0.003, size=4000))
    assert np.isfinite(evidence).all()
    assert evidence[-1] == np.finfo(float).max
