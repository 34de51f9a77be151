"""Intervals contain what they say, adapt when errors grow, and alarm as rarely as allowed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from retrain_assets.domain.drift.observations import observe_coverage
from retrain_assets.domain.model.conformal import Errors, Interval, adapt, compute_half_width

COVERAGE, CALIBRATED, WINDOW = 0.9, 14, 7
NONE = Errors(np.empty(0), np.empty(0, np.int64))


def days(count: int, seed: int, scale: float = 1.0) -> list[Errors]:
    """Errors of days that differ in how hard they are to predict."""
    random = np.random.default_rng(seed)
    hard = scale * np.exp(0.25 * random.normal(size=(count, 1)))
    values = np.sort(hard * abs(random.standard_t(4, size=(count, 150))))
    return [Errors(day, np.ones(len(day), np.int64)) for day in values]


def shares(served: list[Errors], intervals: list[Interval]) -> list[float]:
    return [
        errors.share_within(interval.half_width)
        for errors, interval in zip(served, intervals, strict=False)
    ]


def test_the_half_width_is_the_quantile_of_split_conformal() -> None:
    errors = [Errors(np.array([1.0, 3.0]), np.array([1, 2])), Errors(np.array([2.0]), np.ones(1))]
    # Of 1, 2, 3, 3 the one of rank ceil(5 * level).
    assert [compute_half_width(errors, level) for level in (0.2, 0.4, 0.5, 0.9, 1.0)] == [
        1.0, 2.0, 3.0, 3.0, 3.0,
    ]  # fmt: skip


def test_they_contain_what_they_say_and_adapt_when_errors_grow() -> None:
    calm, hard = days(100, seed=1), days(200, seed=2, scale=3.0)
    intervals = adapt(COVERAGE, calm[:CALIBRATED], calm[CALIBRATED:] + hard, 0, CALIBRATED)
    realised = shares(calm[CALIBRATED:] + hard, intervals)
    calm_days = len(calm) - CALIBRATED
    assert np.mean(realised[:calm_days]) == pytest.approx(COVERAGE, abs=0.01)
    assert realised[calm_days] < 0.7
    assert intervals[calm_days + 1].level > intervals[calm_days].level + 0.02
    assert np.mean(realised[calm_days + 20 :]) == pytest.approx(COVERAGE, abs=0.01)


def test_labels_count_once_they_are_final_and_the_newest_only() -> None:
    served = days(30, seed=3)
    for delay, known in ((0, 1), (1, 1), (4, 4)):
        usual = adapt(COVERAGE, days(5, seed=4), served, delay, CALIBRATED)
        other = adapt(COVERAGE, days(5, seed=4), [*served[:20], *days(10, 5)], delay, CALIBRATED)
        same = [one[:2] == two[:2] for one, two in zip(usual, other, strict=True)]
        assert same.index(False) == 20 + known
    assert adapt(COVERAGE, [], served, 0, CALIBRATED)[-1].calibration == tuple(served[-CALIBRATED:])


def test_without_a_label_there_is_no_interval_and_nothing_is_adapted() -> None:
    (first, second) = adapt(COVERAGE, [], [NONE], 0, CALIBRATED)
    assert math.isnan(first.half_width)
    assert second == (pytest.approx(math.nan, nan_ok=True), COVERAGE, ())
    assert [i.level for i in adapt(COVERAGE, days(3, 6), [NONE] * 9, 0, CALIBRATED)] == [0.9] * 10


def test_a_partition_that_had_no_interval_moves_no_level() -> None:
    intervals = adapt(COVERAGE, [], days(3, 7), 0, CALIBRATED)
    assert math.isnan(intervals[0].half_width)
    assert intervals[1].level == COVERAGE
    assert intervals[2].level != COVERAGE


def alarms(served: list[Errors], before: list[Errors], rate: float) -> list[bool]:
    intervals = adapt(COVERAGE, before, served, 0, CALIBRATED)
    realised, alerts = shares(served, intervals), []
    for end in range(WINDOW, len(served) + 1):
        first = intervals[end - WINDOW]
        expected = [errors.share_within(first.half_width) for errors in first.calibration]
        values = [(share, 150) for share in realised[end - WINDOW : end]]
        alerts.append(observe_coverage("delay", COVERAGE, values, expected, rate).alert)
    return alerts


def test_false_alarms_stay_within_their_rate_and_a_real_loss_is_seen() -> None:
    rate, drawn = 1 / 52, [days(200, seed=seed) for seed in range(10)]
    false = [alarms(served[CALIBRATED:], served[:CALIBRATED], rate) for served in drawn]
    assert np.mean(false) <= rate
    calm = drawn[0]
    for scale in (2.0, 4.0):  # of the larger one, the intervals miss a day before they are wide
        grown = calm[CALIBRATED:40] + days(WINDOW, 20, scale=scale)
        assert any(alarms(grown, calm[:CALIBRATED], 1 / 365))
