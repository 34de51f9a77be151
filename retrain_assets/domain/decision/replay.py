"""The gain that policies would have brought over the same history, and how sure that is.

Not here: playing them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

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
        proposed: The policy to take: the first, unless another one is shown to be better.
        leaders: Those that are not shown to be worse than the one that did best, with calendars.
        week: How many partitions a week has.
    """

    metric: Metric | MetricDef
    results: Sequence[PolicyResult]
    standings: Sequence[Standing] = ()
    best: str = ""
    summary: str = ""
    proposed: str = ""
    leaders: tuple[str, ...] = ()
    week: int = STRETCH

    @property
    def ranking(self) -> str:
        """Return in words which policies cannot be told apart from the one that did best."""
        if len(self.leaders) == len(self.results):
            return "No policy is shown to be worse than the one that did best."
        names = ", ".join(f"`{name}`" for name in self.leaders)
        return f"All but these are shown to be worse than the one that did best: {names}."

    @property
    def shared(self) -> list[str]:
        """Return the partitions that all of them predicted, in order."""
        values = [result.values for result in self.results]
        return [key for key in values[0] if all(key in part for part in values)]

    def gains(self, name: str, rival: str | None = None) -> np.ndarray:
        """Return how much better than another a policy was, on each shared partition.

        Args:
            name: The policy.
            rival: The other one; the first by default.
        """
        by_name = {result.name: result.values for result in self.results}
        values, first = by_name[name], by_name[rival or self.results[0].name]
        metric = get_metric(self.metric)
        return np.array([metric.gain(values[key], first[key]) for key in self.shared])


def compare_policies(
    metric: Metric | MetricDef,
    results: Sequence[PolicyResult],
    confidence: float,
    week: int = STRETCH,
) -> Outcome:
    """Compare policies on the partitions that all of them predicted, and propose one.

    Intervals are of paired differences, by Student's t over means of a week each, since neighbours
    are alike; a part of a week at the end counts as one. What did best may have been
    lucky: so it is proposed only if it is shown to be better than the first, and of those that
    are and that cannot be told from it, the one with the fewest fits.

    Args:
        metric: Of their values.
        results: At least one; the others are compared with the first.
        confidence: Of the intervals of all gains together.
        week: How many partitions a week has.

    Raises:
        ValueError: No partition was predicted by all.
    """
    outcome, standings = Outcome(metric, results, week=week), []
    if not (shared := outcome.shared):
        raise ValueError("no partition was predicted out of sample by every policy")
    together = bonferroni(confidence, len(results) - 1)
    for result in results:
        gains = outcome.gains(result.name)
        low, high = _interval(gains, together, week)
        mean = float(np.mean([result.values[key] for key in shared]))
        counts = result.fits, sum(action == "promote" for _, action in result.decisions)
        gain = float(gains.mean())
        standings.append(Standing(result.name, mean, *counts, gain, low, high, result.gated))

    return _Ranking(outcome, tuple(standings), confidence).conclude()


@dataclass(frozen=True)
class _Ranking:
    """The conclusion from the standings of policies.

    Args:
        outcome: The results.
        standings: The first is the policy as it is.
        confidence: Of the intervals of all together.
    """

    outcome: Outcome
    standings: tuple[Standing, ...]
    confidence: float

    def conclude(self) -> Outcome:
        """Return the outcome with what is proposed, and why."""
        best = max((item for item in self.standings if item.gated), key=self._rank)
        proven = [item for item in self._list_equals(best) if item.gated and (item.low or 0) > 0]
        proposed = min(proven, key=lambda item: item.fits, default=self.standings[0])
        return replace(
            self.outcome,
            standings=self.standings,
            best=best.name,
            proposed=proposed.name,
            summary=self._describe_best(best, proposed) + self._describe_calendar(best),
            leaders=tuple(item.name for item in self._list_equals(self.top)),
        )

    @cached_property
    def top(self) -> Standing:
        """Return the policy that did best, calendars too."""
        return max(self.standings, key=self._rank)

    def _rank(self, standing: Standing) -> tuple[float, int]:
        return get_metric(self.outcome.metric).gain(standing.mean, 0.0), -standing.fits

    def _list_equals(self, best: Standing) -> list[Standing]:
        """Return the policies that are not shown to be worse than one that did best."""
        return [item for item in self.standings if not self._is_better(best, item)]

    def _is_better(self, standing: Standing, rival: Standing) -> bool:
        together = bonferroni(self.confidence, len(self.standings) - 1)
        gains = self.outcome.gains(standing.name, rival.name)
        low, _ = _interval(gains, together, self.outcome.week)
        return low is not None and low > 0

    def _describe_best(self, best: Standing, proposed: Standing) -> str:
        now, metric = self.standings[0], self.outcome.metric
        if best is now:
            return f"of {len(self.standings)} policies, none with triggers and gate did better"
        scope = "" if self.top.gated else " of those with triggers and gate"
        reason = (
            f"`{best.name}` did best{scope}: mean {metric} {best.mean:.4g} with {best.fits} fits, "
            f"now {now.mean:.4g} with {now.fits}; gain {best.gain:.2g}"
        )
        if best.low is None:
            return f"nothing is proposed: {reason}, on too few partitions to say how sure that is"
        reason += f", {self.confidence:.0%} interval {best.low:.2g} to {best.high:.2g}"
        if best.low <= 0 and proposed is now:
            return f"nothing is proposed: {reason}: it may be chance"
        if best.low <= 0:
            return (
                f"{reason}: it may be chance; `{proposed.name}` is proposed, which is shown to be "
                f"better than now, and has {proposed.fits} fits"
            )
        if proposed is best:
            return f"{reason}: shown to be better"
        return (
            f"{reason}: shown to be better; so is `{proposed.name}`, which cannot be told from it, "
            f"and is proposed because it has {proposed.fits} fits"
        )

    def _describe_calendar(self, best: Standing) -> str:
        if (top := self.top).gated:
            return ""
        certainty = "shown to be better" if self._is_better(top, best) else "which may be chance"
        return (
            f"; but the calendar `{top.name}`, which has no gate and cannot be written as YAML, "
            f"did best of all: mean {top.mean:.4g} with {top.fits} fits, {certainty}"
        )


def _interval(
    gains: np.ndarray, confidence: float, week: int
) -> tuple[float, float] | tuple[None, None]:
    from scipy.special import stdtrit

    if not gains.any():
        return 0.0, 0.0
    means = np.array([gains[i : i + week].mean() for i in range(0, len(gains), week)])
    if len(means) < FEWEST_STRETCHES:
        return None, None
    half = stdtrit(len(means) - 1, (1 + confidence) / 2) * means.std(ddof=1) / len(means) ** 0.5
    return float(gains.mean() - half), float(gains.mean() + half)
