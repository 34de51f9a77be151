"""What is said of policies follows from their values, and is not said too surely."""

from __future__ import annotations

import numpy as np
import pytest

from retrain_assets.domain.decision.replay import Outcome, PolicyResult, Standing, compare_policies

KEYS = [f"2013-{place // 28 + 1:02}-{place % 28 + 1:02}" for place in range(280)]


def played(name: str, values: np.ndarray, fits: int = 3, *, gated: bool = True) -> PolicyResult:
    decided = (("2013-01-01", "promote"), ("2013-02-01", "hold"))
    return PolicyResult(name, dict(zip(KEYS, values.tolist(), strict=False)), fits, decided, gated)


def noise(seed: int, scale: float = 0.05) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.5, scale, len(KEYS))


def test_a_policy_that_was_better_throughout_is_shown_to_be() -> None:
    now = noise(0)
    found = compare_policies("log_loss", [played("now", now), played("other", now - 0.02, 9)], 0.9)
    assert found.best == "other"
    assert found.standings[1].gain == pytest.approx(0.02)
    assert found.standings[1].low == pytest.approx(0.02)
    assert found.summary.startswith("`other` did best")
    assert found.summary.endswith("shown to be better")


def test_of_a_metric_where_more_is_better_the_higher_one_gains() -> None:
    now = noise(0)
    found = compare_policies("roc_auc", [played("now", now), played("other", now - 0.02)], 0.9)
    assert found.best == "now"
    assert found.standings[1].gain == pytest.approx(-0.02)


def test_a_gain_that_may_be_chance_is_said_to_be() -> None:
    found = compare_policies("log_loss", [played("now", noise(1)), played("other", noise(2))], 0.9)
    assert found.best == min(("now", "other"), key=lambda name: one(found, name).mean)
    assert abs(one(found, "other").gain) < 0.01
    assert found.summary.endswith("it may be chance") == (found.best == "other")


def one(found: Outcome, name: str) -> Standing:
    return next(standing for standing in found.standings if standing.name == name)


@pytest.mark.parametrize("policies", [2, 8])
def test_intervals_hold_for_all_policies_together(policies: int) -> None:
    """A policy without any gain is seldom said to have one, however many are tried."""
    rng, wrong, rounds = np.random.default_rng(policies), 0, 400
    for _ in range(rounds):
        now = rng.normal(0.5, 0.05, len(KEYS))
        others = [played(str(n), now + rng.normal(0, 0.02, len(KEYS))) for n in range(policies - 1)]
        found = compare_policies("log_loss", [played("now", now), *others], 0.9)
        wrong += any(s.low * s.high > 0 for s in found.standings[1:])
    assert 0.06 <= wrong / rounds <= 0.14


def test_a_calendar_is_shown_and_not_proposed() -> None:
    now = noise(0)
    calendar = played("every 7", now - 0.02, gated=False)
    found = compare_policies("log_loss", [played("now", now), calendar], 0.9)
    assert found.best == "now"
    assert one(found, "every 7").low > 0
    assert "but the calendar `every 7`, which has no gate" in found.summary
    better = played("other", now - 0.01)
    found = compare_policies("log_loss", [played("now", now), better, calendar], 0.9)
    assert found.best == "other"
    assert found.summary.startswith("`other` did best of those with triggers and gate")
    assert "but the calendar `every 7`" in found.summary


def test_only_partitions_that_all_predicted_are_compared() -> None:
    now, late = played("now", noise(0)), played("late", noise(0)[:40])
    assert compare_policies("log_loss", [now, late], 0.9).shared == KEYS[:40]
    with pytest.raises(ValueError, match="no partition was predicted out of sample by every"):
        compare_policies("log_loss", [now, played("none", noise(0)[:0])], 0.9)


def test_of_few_partitions_no_interval_is_claimed() -> None:
    short = [played("now", noise(0)[:20]), played("other", noise(0)[:20] - 0.1)]
    found = compare_policies("log_loss", short, 0.9)
    assert found.standings[1].low is None
    assert found.summary.endswith("on too few partitions to say how sure that is")


def test_what_merely_did_best_is_not_proposed_and_of_equals_the_cheapest_is() -> None:
    now, rng = noise(0), np.random.default_rng(5)
    lucky = played("lucky", now - 0.001 + rng.normal(0, 0.05, len(KEYS)))
    found = compare_policies("log_loss", [played("now", now), lucky], 0.9)
    assert (found.best, found.proposed) == ("lucky", "now")
    assert found.summary.startswith("nothing is proposed: `lucky` did best")
    assert found.ranking == "No policy is shown to be worse than the one that did best."
    dear = played("dear", now - 0.02 + rng.normal(0, 0.02, len(KEYS)), fits=40)
    cheap = played("cheap", now - 0.019 + rng.normal(0, 0.02, len(KEYS)), fits=4)
    weekly = played("every 7", now - 0.03 + rng.normal(0, 0.01, len(KEYS)), gated=False)
    found = compare_policies("log_loss", [played("now", now), dear, cheap, weekly], 0.9)
    assert (found.best, found.proposed, found.leaders) == ("dear", "cheap", ("every 7",))
    assert "so is `cheap`, which cannot be told from it" in found.summary
    assert found.summary.endswith("did best of all: mean 0.4699 with 3 fits, shown to be better")
    assert found.ranking.endswith("worse than the one that did best: `every 7`.")
