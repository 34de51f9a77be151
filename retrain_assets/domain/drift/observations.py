"""What is monitored of a partition: drift of its window, of the output, and realised performance.

Only profiles and block values come in, never rows. Not here: the statistics themselves, and what
is done about an alert.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retrain_assets.domain.drift.measures import (
    MEASURES,
    compare,
    describe_effect,
    explain_unsupported,
)
from retrain_assets.domain.drift.permutation_test import Column, run_permutation_test
from retrain_assets.domain.drift.profile import ColumnProfile
from retrain_assets.domain.metrics.metrics import METRICS, margin, mean_interval
from retrain_assets.specs.gate import Metric
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.triggers import POINT, DriftTrigger, PerformanceTrigger

FEATURE, PREDICTION, TARGET = "feature", "prediction", "target"
PERFORMANCE, ESTIMATED, VOLUME = "performance", "estimated", "volume"
INTERVALS, COVERAGE, HALF_WIDTH = "intervals", "coverage", "half_width"
P_VALUE = "p_value"  # of all columns together
INTERVAL = 0.9  # confidence of the interval that is shown


@dataclass(frozen=True)
class Observation:
    """One statistic of one window, and whether it alerts.

    Args:
        role: What it is about: feature, prediction, target, performance, estimated (performance
            without labels), intervals or volume.
        measure: The statistic's name.
        column: The column, or the metric's target.
        statistic: Its value; None where it is undefined.
        threshold: The bound it was held against; None where it is only recorded.
        baseline: What performance was at promotion; of a calibrated statistic, the share of
            windows as far out; of a p-value, its standard error.
        alert: Whether the bound was reached; of performance, with the trigger's confidence.
        low: Lower end of the interval of performance or coverage, of 90 %; None of anything else.
        high: Its upper end.
        effect: What has changed about a column, then and now, in its own units.
    """

    role: str
    measure: str
    column: str
    statistic: float | None
    threshold: float | None = None
    baseline: float | None = None
    alert: bool = False
    low: float | None = None
    high: float | None = None
    effect: str | None = None


def observe_drift(
    role: str,
    trigger: DriftTrigger | None,
    reference: Mapping[str, ColumnProfile],
    current: Mapping[str, ColumnProfile],
    *,
    only_trigger: bool = False,
) -> Iterator[Observation]:
    """Yield all measures that are defined; those of the trigger's measure have a threshold.

    Where the summaries do not support the trigger's measure, the statistic is None, and the effect
    is the reason.

    Args:
        role: What they are about.
        trigger: What watches them, if anything does.
        reference: Profiles by column.
        current: Profiles by column.
        only_trigger: Leave out measures that the trigger does not look at.
    """
    names = [name for name in MEASURES if not only_trigger or (trigger and name == trigger.measure)]
    for column, measure, statistic in compare(reference, current, names):
        watched = trigger is not None and measure == trigger.measure
        threshold = trigger.threshold if trigger and watched else None
        alert = threshold is not None and statistic >= threshold
        effect = describe_effect(reference[column], current[column]) if watched else None
        yield Observation(role, measure, column, statistic, threshold, alert=alert, effect=effect)
    if trigger is None:
        return
    for column in sorted(reference.keys() & current.keys()):
        if reason := explain_unsupported(trigger.measure, reference[column], current[column]):
            yield Observation(role, trigger.measure, column, None, trigger.threshold, effect=reason)


def observe_permutation_test(
    role: str,
    columns: Sequence[Column],
    current: Sequence[int],
    rate: float,
    seed: Sequence[int],
    effects: Mapping[str, str],
    *,
    smallest: float = 0.0,
) -> Iterator[Observation]:
    """Yield statistics with thresholds that keep a rate of false alarms; the p-value first.

    Its effect says so where neighbouring blocks are alike, so that the rate does not hold.

    Args:
        role: What they are about.
        columns: Counts of all blocks, of the reference and of the window.
        current: Places of the window's blocks.
        rate: Probability of a false alarm that is allowed.
        seed: Of the draws.
        effects: What has changed about each column.
        smallest: The smallest statistic of a column that makes an alarm.
    """
    test = run_permutation_test(columns, current, rate, np.random.default_rng(seed))
    beyond = {
        name
        for name, threshold in test.thresholds.items()
        if test.alarm and test.statistics[name] >= max(threshold, smallest)
    }
    note = describe_likeness(test.likeness)
    joint = test.p_value, rate, test.error
    yield Observation(role, P_VALUE, "", *joint, alert=bool(beyond), effect=note)
    for (column, measure), statistic in test.statistics.items():
        threshold, alert = test.thresholds.get((column, measure)), (column, measure) in beyond
        figures, effect = (statistic, threshold, test.beyond[column, measure]), effects.get(column)
        yield Observation(role, measure, column, *figures, alert=alert, effect=effect)


def describe_likeness(likeness: float) -> str | None:
    """Return what it means that neighbouring blocks are alike; None where they are not."""
    if not likeness:
        return None
    return (
        f"neighbouring partitions are alike (correlation {likeness:.2f}), so there are more false "
        "alarms than stated"
    )


def observe_performance(
    spec: ModelSpec, role: str, values: Sequence[tuple[float, int]], baseline: float
) -> Observation | None:
    """Compare the performance of a window, realised or estimated, with that at promotion.

    Args:
        spec: The model; None is returned where it has no performance trigger.
        role: Which of the two.
        values: Metric and number of rows of each partition.
        baseline: The metric on the holdout of the promotion, as a mean over partitions; NaN where
            it was undefined there.

    Returns:
        The row-weighted mean over partitions, with the bound that is reached first. It alerts where
        the bound is passed with the trigger's confidence, by Student's t over partitions, since
        rows of one are alike.
    """
    trigger = spec.triggers.performance
    values = [(value, count) for value, count in values if count]
    if trigger is None or not values:
        return None
    figures, counts = (np.array(part, dtype=float) for part in zip(*values, strict=True))
    statistic, low, high = mean_interval(figures, counts, INTERVAL)
    threshold = compute_bound(trigger, baseline)
    error = 0.0 if trigger.confidence == POINT else margin(figures, counts, trigger.confidence)
    alert = is_beyond(trigger.metric, statistic, threshold, error)
    column, ends = spec.target.column, (_if_finite(low), _if_finite(high))
    return Observation(role, trigger.metric, column, statistic, threshold, baseline, alert, *ends)


def _if_finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def observe_coverage(
    column: str,
    coverage: float,
    values: Sequence[tuple[float, int]],
    expected: Sequence[float],
    rate: float,
) -> Observation:
    """Compare the share of labels that the intervals of a window contain with the stated one.

    That share differs from partition to partition. How much is taken from the partitions that the
    intervals were taken from: in the window, a partition that was missed would hide itself. So the
    limit is that of Student's t for the mean of further values.

    Args:
        column: The target.
        coverage: The stated share.
        values: Share and number of rows of each partition of the window, at least two.
        expected: The share within the first interval of the window, of each partition that it was
            taken from.
        rate: Probability of a false alarm that is allowed.
    """
    from scipy.special import stdtrit

    figures, counts = (np.array(part, dtype=float) for part in zip(*values, strict=True))
    statistic, low, high = mean_interval(figures, counts, INTERVAL)
    freedom = len(expected) - 1
    error = math.sqrt(np.var(expected, ddof=1) * (1 / len(figures) + 1 / len(expected)))
    alert = statistic + float(stdtrit(freedom, 1 - rate)) * error < coverage
    ends = _if_finite(low), _if_finite(high)
    return Observation(INTERVALS, COVERAGE, column, statistic, coverage, None, alert, *ends)


def is_beyond(metric: Metric, value: float, threshold: float, margin: float = 0.0) -> bool:
    """Return True if performance is worse than its bound, by more than its margin of error."""
    return bool(METRICS[metric].gain(value, threshold) + margin < 0)


def compute_bound(trigger: PerformanceTrigger, baseline: float) -> float:
    """Return the tighter of the relative and the absolute bound, in the metric's own units.

    NaN, which nothing passes, where there is only the relative one and nothing to hold it against.
    """
    metric = METRICS[trigger.metric]
    bounds = [] if trigger.limit is None else [trigger.limit]
    if trigger.max_drop is not None and not math.isnan(baseline):
        bounds.append(baseline - metric.gain(trigger.max_drop * abs(baseline), 0.0))
    return max(bounds, key=lambda bound: metric.gain(bound, 0.0), default=math.nan)
