"""The gain that policies would have brought over the same history, and how sure that is.

Not here: playing them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retrain_assets.domain.metrics.intervals import STRETCH, bonferroni
from retrain_assets.domain.metrics.metrics import MetricDef, get_metric
from retrain_assets.specs.gate import Metric

FEWEST_STRETCHES = 4


@dataclass(frozen=True)
class PolicyResult:
    """The result of one policy.

    Args:
        name: Of the policy.
        values: The metric on each partition that was predicted out of sample, in order.
        fits: How often a model was fitted.
        decisions: As-of and action of each decision, such as `promote`, in order.
        gated: Whether triggers and gate decided, and not the calendar.
    """

    name: str
    values: Mapping[str, float]
    fits: int
    decisions: tuple[tuple[str, str], ...]
    gated: bool = True


@dataclass(frozen=True)
class Standing:
    """A policy compared with the one that was played first.

    Args:
        name: Of the policy.
        mean: Mean over partitions of the metric of what was in production.
        fits: How often a model was fitted.
        promotions: How often production changed.
        gain: How much better than the first policy, in the metric's units.
        low: Lower end of the interval of the gain, for all policies together (Bonferroni); None
            where there are too few partitions for one.
        high: Upper end.
        gated: Whether triggers and gate decided.
    """

    name: str
    mean: float
    fits: int
    promotions: int
    gain: float
    low: float | None
    high: float | None
    gated: bool


@dataclass(frozen=True)
class Outcome:
    """The results of some policies, and the one to take.

    Args:
        metric: By which they are compared.
        results: The result of each; the others are compared with the first.
        standings: The same, summed up.
        best: Of those that can be written as YAML, the one that did best.
        summary: How sure that is, in a sentence.
    """

    metric: Metric | MetricDef
    results: Sequence[PolicyResult]
    standings: Sequence[Standing] = ()
    best: str = ""
    summary: str = ""

    @property
    def shared(self) -> list[str]:
        """Return the partitions that all of them predicted, in order."""
        values = [result.values for result in self.results]
        return [key for key in values[0] if all(key in part for part in values)]

    def gains(self, name: str) -> np.ndarray:
        """Return how much better than the first a policy was, on each shared partition."""
        values = next(result.values for result in self.results if result.name == name)
        first, metric = self.results[0].values, get_metric(self.metric)
        return np.array([metric.gain(values[key], first[key]) for key in self.shared])


def compare_policies(
    metric: Metric | MetricDef, results: Sequence[PolicyResult], confidence: float
) -> Outcome:
    """Compare policies on the partitions that all of them predicted, and propose one.

    The interval is Student's t over means of seven partitions each, since neighbours are alike; a
    part of a stretch at the end counts as one.

    Args:
        metric: Of their values.
        results: At least one; the others are compared with the first.
        confidence: Of the intervals of all gains together.

    Raises:
        ValueError: No partition was predicted by all.
    """
    outcome, standings = Outcome(metric, results), []
    if not (shared := outcome.shared):
        raise ValueError("no partition was predicted out of sample by every policy")
    for result in results:
        gains = outcome.gains(result.name)
        low, high = _interval(gains, bonferroni(confidence, len(results) - 1))
        mean = float(np.mean([result.values[key] for key in shared]))
        counts = result.fits, sum(action == "promote" for _, action in result.decisions)
        gain = float(gains.mean())
        standings.append(Standing(result.name, mean, *counts, gain, low, high, result.gated))
    best, summary = _propose(get_metric(metric), standings, confidence)
    return Outcome(metric, results, standings, best, summary)


def _propose(
    metric: MetricDef, standings: Sequence[Standing], confidence: float
) -> tuple[str, str]:
    """Return the best policy of those that can be written as YAML, and a sentence how sure it is.

    Args:
        metric: The metric they were compared by.
        standings: The first is the policy as it is.
        confidence: Of the intervals.
    """

    def rank(standing: Standing) -> tuple[float, int]:
        return metric.gain(standing.mean, 0.0), -standing.fits

    now, top = standings[0], max(standings, key=rank)
    best = max((standing for standing in standings if standing.gated), key=rank)
    calendar = ""
    if metric.gain(top.mean, best.mean) > 0:
        calendar = (
            f"; but the calendar `{top.name}`, which has no gate and cannot be written as YAML, "
            f"had mean {top.mean:.4g}"
        )
    if best is now:
        reason = f"of {len(standings)} policies, none with triggers and gate did better"
        return now.name, reason + calendar
    scope = " of those with triggers and gate" if calendar else ""
    reason = (
        f"`{best.name}` did best{scope}: mean {metric} {best.mean:.4g} with {best.fits} fits, now "
        f"{now.mean:.4g} with {now.fits}; gain {best.gain:.2g}"
    )
    if best.low is None:
        return best.name, f"{reason}, on too few partitions to say how sure that is{calendar}"
    certainty = "shown to be better" if best.low > 0 else "it may be chance"
    reason += f", {confidence:.0%} interval {best.low:.2g} to {best.high:.2g}: {certainty}"
    return best.name, reason + calendar


def _interval(gains: np.ndarray, confidence: float) -> tuple[float, float] | tuple[None, None]:
    from scipy.special import stdtrit

    if not gains.any():
        return 0.0, 0.0
    means = np.array([gains[i : i + STRETCH].mean() for i in range(0, len(gains), STRETCH)])
    if len(means) < FEWEST_STRETCHES:
        return None, None
    half = stdtrit(len(means) - 1, (1 + confidence) / 2) * means.std(ddof=1) / len(means) ** 0.5
    return float(gains.mean() - half), float(gains.mean() + half)
