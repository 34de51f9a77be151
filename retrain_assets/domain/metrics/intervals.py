"""How much better one model is than another, and how sure that is.

Rows of one partition share its weather, its holiday, its outage: they are not independent, and a
test on rows finds differences that are not there. So the unit that is resampled is the block, and
the interval of the gain is a delete-one-block jackknife with Student's t:

- where g_i is the gain without block i, the variance is (B-1)/B * sum((g_i - mean(g))^2)
  (Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 11);
- the quantile is that of t with B-1 degrees of freedom, since with few blocks the normal one is too
  narrow (Cameron & Miller 2015, A Practitioner's Guide to Cluster-Robust Inference, section VI);
- where blocks count by how much of a class they hold, a few of them decide, and the variance is
  less sure: (3.16 - 2.77/sqrt(B)) * sum(d_i^2)^2 / sum(d_i^4) degrees of freedom, at most B-1, with
  d_i = g_i - mean(g) (Johnson & Rust 1992, Journal of Educational Statistics 17).

It serves every metric, and blocks of unequal size. It takes blocks to be independent of each
other. `compute_evidence` may be looked at after every partition, without more false alarms for
looking, and allows for gains that resemble those of the partition before.
Not here: what follows from an interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from retrain_assets.domain.metrics.metrics import MetricDef, get_metric, split_by_block
from retrain_assets.specs.gate import Metric


@dataclass(frozen=True)
class Estimate:
    """A gain and its standard error, before any confidence is chosen.

    Args:
        candidate: The candidate's value of the metric; NaN where it is undefined.
        production: The value of the model it is compared with.
        gain: How much better the candidate is.
        error: Standard error of the gain; infinite with one block, NaN where the metric is
            undefined without some block.
        freedom: Degrees of freedom of that error; 0 with one block.
        blocks: Number of blocks.
        rows: Number of rows.
        block_gains: The gain on each block by itself; None where the metric is undefined there.
    """

    candidate: float
    production: float
    gain: float
    error: float
    freedom: float
    blocks: int
    rows: int
    block_gains: dict[str, float | None]

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided interval of the gain; infinite where nothing bounds it."""
        from scipy.special import stdtrit

        if not math.isfinite(self.error):
            return -math.inf, math.inf
        half = float(stdtrit(self.freedom, (1 + confidence) / 2)) * self.error
        return self.gain - half, self.gain + half


def estimate(
    metric: Metric | MetricDef,
    labels: np.ndarray,
    candidate: np.ndarray,
    production: np.ndarray,
    blocks: pl.Series,
) -> Estimate:
    """Return the gain on all rows, and its standard error.

    Args:
        metric: By which the two are compared.
        labels: As the metrics take them, of shape (rows,).
        candidate: Predictions of the candidate.
        production: Predictions of what it is compared with.
        blocks: The block of each row.
    """
    metric = get_metric(metric)
    function = metric.function

    def values(rows: np.ndarray | slice) -> tuple[float, float]:
        return function(labels[rows], candidate[rows]), function(labels[rows], production[rows])

    blocked = list(split_by_block(blocks))
    alone = {str(name): metric.gain(*values(rows)) for name, rows in blocked}
    error, freedom = math.inf, 0.0
    if len(blocked) > 1:
        places = np.arange(len(labels))
        rest = (np.delete(places, rows) for _, rows in blocked)
        gains = np.array([metric.gain(*values(rows)) for rows in rest])
        error = math.sqrt((len(blocked) - 1) * gains.var())
        freedom = _freedom(gains - gains.mean()) if metric.by_class else len(blocked) - 1.0
    ours, theirs = values(slice(None))
    return Estimate(
        candidate=ours,
        production=theirs,
        gain=metric.gain(ours, theirs),
        error=error,
        freedom=freedom,
        blocks=len(blocked),
        rows=len(labels),
        block_gains={name: None if math.isnan(gain) else gain for name, gain in alone.items()},
    )


def _freedom(deviations: np.ndarray) -> float:
    blocks, squares = len(deviations), deviations**2
    if not squares.any():
        return blocks - 1.0
    effective = squares.sum() ** 2 / (squares**2).sum()
    return float(min(blocks - 1, (3.16 - 2.77 / math.sqrt(blocks)) * effective))


def bonferroni(confidence: float, count: int) -> float:
    """Return the confidence of each of some intervals that hold together with a confidence.

    So that choosing the best of several promotes what is no better as rarely as judging one does,
    each has its share of the error. Holm's steps would allow the second and later ones more, but
    only one is promoted, and of that Holm asks what Bonferroni does.
    """
    return 1 - (1 - confidence) / max(1, count)


class Evidence(NamedTuple):
    """The likelihood of gains with an effect relative to without one, and the value needed."""

    value: float
    needed: float

    @property
    def suffices(self) -> bool:
        """Return whether the effect is shown."""
        return self.value >= self.needed


EFFECT = 0.5  # standard deviation of the effects that are looked for
ENOUGH = 20  # partitions from which on the correlation of neighbours is corrected for its bias
ENOUGH_STRETCHES = 6  # the same of stretches
LEAST_SPREAD = 1e-9  # variance of gains relative to their squared mean
HIGHEST = 0.95  # correlation of neighbours that is reckoned with
STRETCH = 7  # partitions of a week, where a model has days or no periods


def compute_evidence(gains: Sequence[float], stretch: int = 1) -> np.ndarray:
    """Return, after each gain, how much likelier all are under some effect above zero than none.

    It is the likelihood ratio of Student's t under a normal effect, on as many gains as independent
    ones would be worth these. On 200 gains whose neighbours correlate by 0, .3, .5 and .7, evidence
    that is stated to be reached in 5 % of streams is reached in 2, 5, 7 and 12 %. By stretches of
    seven gains it is reached in 2, 2, 3 and 4 %, also where each week has a shock of its own, but
    after four stretches at the earliest (benchmarks/sequential.py).

    Args:
        gains: One number a partition, in order of time.
        stretch: How many in a row count as one, by their mean; an incomplete stretch does not.

    Returns:
        Of the length of `gains`; 1 where nothing can be told yet, or where the mean is not above
        zero.
    """
    values = np.asarray(gains, dtype=float)
    stretches = values[: len(values) // stretch * stretch].reshape(-1, stretch).mean(axis=1)
    enough = ENOUGH if stretch == 1 else ENOUGH_STRETCHES
    evidence = _compute_ratio(stretches, EFFECT * stretch**0.5, enough)
    complete = np.arange(1, len(values) + 1) // stretch
    return np.append(1.0, evidence)[complete]


SURE = 100  # times the evidence that is needed by weeks is needed day by day


def judge_by_weeks(gains: Sequence[float], needed: float, *, week: int = STRETCH) -> Evidence:
    """Return the evidence that gains are above zero, and how much of it is needed.

    It is that by weeks, since neighbouring days are alike, after the last gain; or that day by day
    where this is far larger, so that a large effect need not wait for four weeks.

    Args:
        gains: One number a partition, in order of time.
        needed: How much is needed by weeks.
        week: How many partitions a week has; 1 for longer ones.
    """
    if not len(gains):
        return Evidence(1.0, needed)
    weeks, days = (float(compute_evidence(gains, stretch)[-1]) for stretch in (week, 1))
    return Evidence(days, SURE * needed) if days >= SURE * needed else Evidence(weeks, needed)


def _compute_ratio(values: np.ndarray, effect: float, enough: int) -> np.ndarray:
    number = np.arange(1, len(values) + 1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mean = values.cumsum() / number
        squares = (values**2).cumsum() - number * mean**2
        squares = np.maximum(squares, LEAST_SPREAD * number * mean**2)  # of gains that are equal
        count = number / _inflation(values, mean, squares, number, enough)
        shrunk = 1 + count * effect**2
        t_squared = number * (count - 1) * mean**2 / squares
        ratio = (1 + t_squared / (count - 1)) / (1 + t_squared / ((count - 1) * shrunk))
        factor = shrunk**-0.5 * ratio ** (count / 2)
    is_informative = (mean > 0) & (count > 1) & ~np.isnan(factor)
    return np.where(is_informative, np.minimum(factor, np.finfo(float).max), 1.0)


def _inflation(
    values: np.ndarray, mean: np.ndarray, squares: np.ndarray, number: np.ndarray, enough: int
) -> np.ndarray:
    """Return, after each gain, by how much neighbours that are alike widen the mean's variance.

    It is (1 + r) / (1 - r) with r the correlation of neighbours, as of an autoregression of the
    first order; its estimate is too low by some (1 + 4 r) / n (Marriott & Pope 1954, Biometrika
    41), which is put right once that is less than what a few gains leave unsure.
    """
    products = np.append(0.0, values[1:] * values[:-1]).cumsum()[: len(values)]
    ends = 2 * number * mean - values[:1] - values
    correlation = (products - mean * ends + (number - 1) * mean**2) / squares
    correlation = np.nan_to_num(correlation).clip(0)
    bias = np.where(number > enough, (1 + 4 * correlation) / number, 0.0)
    alike = (correlation + bias).clip(0, HIGHEST)
    return np.asarray((1 + alike) / (1 - alike))


def required_evidence(confidence: float) -> float:
    """Return the evidence that is reached without any effect as rarely as one tail of an interval.

    It is reached as often with a mean below zero, where it is not counted: so each tail has half.

    Args:
        confidence: Of a two-sided interval, as `gate.confidence`.
    """
    return 1 / (1 - confidence)
