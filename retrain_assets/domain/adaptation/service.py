"""When the adaptive layer begins and ends to serve: by tests that may be looked at each partition.

Not here: what the layer serves (`layer`), and recording that it does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from retrain_assets.domain.metrics import intervals
from retrain_assets.specs.base import number_of

MARGIN = 0.02  # of the newest version's mean loss: a layer that is worse by less may serve
STOP = 1.0  # mean losses of the newest version that a layer in service may lose on top of these,
SHARE = 0.1  # and of what it gained before: a good layer does not end at the first bad days
NEEDED = intervals.required_evidence(0.9)  # reached by mistake in 5 % of streams


class Standing(NamedTuple):
    """The comparison of the layer with the newest version since it began or ended to serve.

    Args:
        serves: Whether it serves now.
        changes: Whether it is to begin or end to serve.
        partitions: How many were compared.
        gain: By how much its mean loss is below that of the newest version alone.
        evidence: How much likelier the losses are if the change is due than if it is not.
        needed: The evidence from which on it is due.
        lost: The excess of its loss over that of the newest version, summed since the partition
            from which on this is most, in mean losses of the newest version.
        allowed: How much of that ends its service if it is exceeded.
    """

    serves: bool
    changes: bool
    partitions: int
    gain: float
    evidence: float
    needed: float
    lost: float = 0.0
    allowed: float = STOP

    @property
    def sentence(self) -> str:
        """Return the comparison in words."""
        if not self.partitions:
            return "no partition is compared yet"
        since = "it began to serve" if self.serves else "its comparison began"
        what = "worse" if self.serves else "not worse"
        order = "lower" if self.gain >= 0 else "higher"
        return (
            f"on {number_of(self.partitions, 'partition')} since {since}, its mean loss is "
            f"{order} by {abs(self.gain):.3g} than that of the newest version alone; evidence that "
            f"it is {what}: {self.evidence:.3g}, needed {self.needed:.3g}"
        ) + (
            f"; since it was best, it has lost {self.lost:.2g} times the mean loss of a partition "
            f"more than the newest version alone, and {self.allowed:.2g} times is allowed"
            if self.serves and self.lost > self.allowed
            else ""
        )


def assess(
    newest: Sequence[float],
    layer: Sequence[float],
    *,
    serves: bool,
    week: int = intervals.STRETCH,
) -> Standing:
    """Judge whether the layer is to begin or end to serve.

    It begins when it is shown not to be worse than the newest version by more than `MARGIN`, at a
    stated 5 %, and ends when it is shown to be worse, or has lost more than `STOP` and a `SHARE` of
    what it gained, whatever is shown: so there is a bound to what it can cost.

    Args:
        newest: Loss of the newest version alone on each partition since the last change.
        layer: Loss of the layer on the same.
        serves: Whether it serves now.
        week: How many partitions a week has.
    """
    losses, gains = np.asarray(newest), np.asarray(newest) - np.asarray(layer)
    mean, gain = (float(part.mean()) if part.size else 0.0 for part in (losses, gains))
    evidence = (
        intervals.judge_by_weeks((-gains).tolist(), NEEDED, week=week)
        if serves
        else _judge_entry(gains, MARGIN * mean, week)
    )
    sums = np.append(0.0, gains.cumsum())
    best, unit = float(sums.max()), mean or 1.0
    lost, allowed = (best - float(sums[-1])) / unit, (STOP * mean + SHARE * best) / unit
    changes = evidence.suffices or (serves and lost > allowed)
    return Standing(serves, changes, len(gains), gain, *evidence, lost, allowed)


def _judge_entry(gains: np.ndarray, margin: float, week: int) -> intervals.Evidence:
    """Return the evidence that the mean gain is not below minus a margin: the larger of two.

    In one of them a gain above the margin counts as the margin. This can only make the mean lower,
    so what it shows holds, and gains that come in bursts, or that grow, do not look like noise. The
    other one is larger where gains are small and uneven. Mistakes are hardly more frequent than by
    one of them, since both see the same gains (benchmarks/sequential.py).
    """
    if not gains.size:
        return intervals.Evidence(1.0, NEEDED)
    shifted = gains + margin
    parts = (shifted, np.minimum(shifted, 2 * margin))
    values = [float(intervals.compute_evidence(part.tolist(), week)[-1]) for part in parts]
    return intervals.Evidence(max(values), NEEDED)
