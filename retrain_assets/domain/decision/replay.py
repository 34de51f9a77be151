"""What policies would have brought over the same history, and how sure that is.

Not here: playing them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retrain_assets.domain.metrics.metrics import MetricDef, get_metric
from retrain_assets.specs.gate import Metric

STRETCH = 7  # partitions in a row that are taken as one: what follows each other is alike
FEWEST_STRETCHES = 4


@dataclass(frozen=True)
class PolicyResult:
    """What one policy came to.

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

    @property
    def promotions(self) -> int:
        """How often production changed."""
        return sum(action == "promote" for _, action in self.decisions)


@dataclass(frozen=True)
class Standing:
    """A policy beside the one that was played first.

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
    """What became of some policies.

    Args:
        metric: By which they are compared.
        results: What each came to; the first is what the others are held against.
        standings: The same, summed up.
        best: Of those that can be written as YAML, the one that did best.
        summary: How sure that is, in a sentence.
    """

    metric: Metric | MetricDef
    results: Sequence[PolicyResult]
    standings: Sequence[Standing]
    best: str
    summary: str

    @property
    def shared(self) -> list[str]:
        """Partitions that all of them predicted, in order."""
        return _shared(self.results)

    def gains(self, name: str) -> np.ndarray:
        """How much better than the first a policy was, on each shared partition."""
        each = next(one for one in self.results if one.name == name)
        return _gains(self.metric, each, self.results[0], self.shared)


def compare_policies(
    metric: Metric | MetricDef, played: Sequence[PolicyResult], confidence: float
) -> Outcome:
    """Policies beside each other, and the one to take.

    Args:
        metric: Of their values.
        played: At least one; the first is what the others are held against.
        confidence: Of the intervals of all gains together.

    Raises:
        ValueError: No partition was predicted by all.
    """
    found = standings(metric, played, confidence)
    return Outcome(metric, played, found, *proposal(metric, found, confidence))


def standings(
    metric: Metric | MetricDef, played: Sequence[PolicyResult], confidence: float
) -> list[Standing]:
    """Policies on the partitions that all of them predicted, held against the first.

    The interval is Student's t over means of seven partitions each, since what follows each other
    is alike; a half stretch at the end counts as one.

    Args:
        metric: Of the values.
        played: At least one.
        confidence: Of the intervals together.

    Raises:
        ValueError: No partition was predicted by all.
    """
    shared, found = _shared(played), []
    if not shared:
        raise ValueError("no partition was predicted out of sample by every policy")
    one = 1 - (1 - confidence) / max(1, len(played) - 1)
    for each in played:
        gains = _gains(metric, each, played[0], shared)
        low, high = _interval(gains, one)
        found.append(
            Standing(
                name=each.name,
                mean=float(np.mean([each.values[key] for key in shared])),
                fits=each.fits,
                promotions=each.promotions,
                gain=float(gains.mean()),
                low=low,
                high=high,
                gated=each.gated,
            )
        )
    return found


def proposal(
    metric: Metric | MetricDef, found: Sequence[Standing], confidence: float
) -> tuple[str, str]:
    """The policy that would have done best, of those that can be written as YAML, and how sure.

    Args:
        metric: By which they were compared.
        found: The standings; the first is the policy as it is.
        confidence: Of the intervals.

    Returns:
        Its name, and a sentence.
    """
    sign = 1 if get_metric(metric).greater_is_better else -1
    best = max((one for one in found if one.gated), key=lambda one: (sign * one.mean, -one.fits))
    now = found[0]
    top = max(found, key=lambda one: sign * one.mean)
    calendar = ""
    if sign * top.mean > sign * best.mean:
        calendar = (
            f"; but the calendar `{top.name}`, which has no gate and cannot be written as YAML, "
            f"had mean {top.mean:.4g}"
        )
    if best is now:
        reason = f"of {len(found)} policies, none with triggers and gate did better"
        return now.name, reason + calendar
    scope = " of those with triggers and gate" if calendar else ""
    said = (
        f"`{best.name}` did best{scope}: mean {metric} {best.mean:.4g} with {best.fits} fits, now "
        f"{now.mean:.4g} with {now.fits}; gain {best.gain:.2g}"
    )
    if best.low is None:
        return best.name, f"{said}, on too few partitions to say how sure that is{calendar}"
    sure = "shown to be better" if best.low > 0 else "it may be chance"
    said += f", {confidence:.0%} interval {best.low:.2g} to {best.high:.2g}: {sure}{calendar}"
    return best.name, said


def _shared(played: Sequence[PolicyResult]) -> list[str]:
    return [key for key in played[0].values if all(key in each.values for each in played)]


def _gains(
    metric: Metric | MetricDef, one: PolicyResult, first: PolicyResult, shared: Sequence[str]
) -> np.ndarray:
    sign = 1 if get_metric(metric).greater_is_better else -1
    return sign * np.array([one.values[key] - first.values[key] for key in shared])


def _interval(gains: np.ndarray, confidence: float) -> tuple[float, float] | tuple[None, None]:
    from scipy.special import stdtrit

    if not gains.any():
        return 0.0, 0.0
    means = np.array([gains[i : i + STRETCH].mean() for i in range(0, len(gains), STRETCH)])
    if len(means) < FEWEST_STRETCHES:
        return None, None
    half = stdtrit(len(means) - 1, (1 + confidence) / 2) * means.std(ddof=1) / len(means) ** 0.5
    return float(gains.mean() - half), float(gains.mean() + half)
