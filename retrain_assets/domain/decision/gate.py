"""The gate: whether a candidate is shown to be better than production on the same holdout.

Of several candidates in one decision the best goes on. Not here: the interval of a gain,
predicting, storing the decision, acting on it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import polars as pl

from retrain_assets.domain.decision.guards import GuardResult
from retrain_assets.domain.metrics.intervals import Estimate, bonferroni, estimate
from retrain_assets.domain.metrics.metrics import MetricDef, align_labels, get_metric, loss_increase
from retrain_assets.specs.gate import GateSpec, Metric

SLICE_ROWS = 200
OTHER, MISSING = "other", "(missing)"
FORESEEABLE_BLOCKS = 10_000
TRIVIAL = "the trivial predictor"


class Verdict(StrEnum):
    """The verdict of the gate."""

    PROMOTE = "PROMOTE"
    HOLD = "HOLD"
    REJECT = "REJECT"


@dataclass(frozen=True)
class Comparison(Estimate):
    """Two models on the same rows: the gain, and the interval it lies in.

    Args:
        metric: By which they are compared.
        low: Lower end of the two-sided interval of the gain; infinite where nothing bounds it.
        high: Upper end.
        confidence: Of the interval.
    """

    metric: str
    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class SliceResult:
    """Two models on the rows with one value of a feature.

    Args:
        column: The feature.
        value: Its value; `other` stands for all values with too few rows or blocks.
        rows: Number of rows.
        blocks: Number of blocks.
        candidate: The candidate's value of the metric.
        production: The value of the model in production.
        gain: How much better the candidate is.
        low: Lower end of its interval, at the confidence of all slices together (Bonferroni).
        high: Upper end.
        loss: How much worse the candidate is, relative to production; negative when better.
        regresses: Whether the loss exceeds the bound and the whole interval is below zero.
    """

    column: str
    value: str
    rows: int
    blocks: int
    candidate: float
    production: float
    gain: float
    low: float
    high: float
    loss: float
    regresses: bool


@dataclass(frozen=True)
class Decision:
    """The verdict and why.

    Args:
        verdict: PROMOTE, HOLD or REJECT.
        reason: One sentence with the figures.
        comparison: What it was reached on.
        more_blocks: Of a HOLD, how many further blocks would probably settle it, judged on
            their own; None where more would not help or the number cannot be foreseen.
    """

    verdict: Verdict
    reason: str
    comparison: Comparison | None = None
    more_blocks: int | None = None


def compare(
    metric: Metric | MetricDef,
    target: np.ndarray,
    candidate: np.ndarray,
    production: np.ndarray,
    blocks: pl.Series,
    confidence: float,
    *,
    classes: Sequence[Any] | None = None,
) -> Comparison:
    """Compare two models on the same rows.

    Args:
        metric: By which they are compared.
        target: Labels, of shape (rows,).
        candidate: Predictions of the candidate, as the module `metrics` says.
        production: Predictions of what it is compared with, of the same shape.
        blocks: The block of each row.
        confidence: Of the two-sided interval.
        classes: Class of each column of both, for multiclass; the sorted labels by default.

    Raises:
        ValueError: Shapes do not agree, or classes are not given and cannot be told.
    """
    labels, ours = align_labels(target, candidate, classes)
    _, theirs = align_labels(target, production, classes)
    gain = estimate(metric, labels, ours, theirs, blocks)
    low, high = gain.interval(confidence)
    name = get_metric(metric).name
    return Comparison(**vars(gain), metric=name, low=low, high=high, confidence=confidence)


def compare_slices(  # noqa: PLR0917 all of the same rows
    spec: GateSpec,
    metric: Metric | MetricDef,
    slices: pl.DataFrame,
    target: np.ndarray,
    candidate: np.ndarray,
    production: np.ndarray,
    blocks: pl.Series,
    classes: Sequence[Any] | None = None,
) -> list[SliceResult]:
    """Compare two models on each value of some features.

    Values with under 200 rows or under `gate.min_blocks` blocks are pooled as `other`; what is
    still too small then, or where the metric is undefined, is not tested. A slice regresses when
    the candidate's relative loss exceeds `gate.max_slice_loss` and the interval of the gain lies
    below zero, at a confidence that holds for all tested slices together (Bonferroni).

    Args:
        spec: The gate.
        metric: By which they are compared.
        slices: The features, one row a row.
        target: Labels, of shape (rows,).
        candidate: Predictions of the candidate.
        production: Predictions of the model in production.
        blocks: The block of each row.
        classes: Class of each column of both, for multiclass; the sorted labels by default.

    Returns:
        One result a tested slice, in the order of features and values.
    """
    labels, ours = align_labels(target, candidate, classes)
    _, theirs = align_labels(target, production, classes)
    tested = []
    for column, value, rows in _slices(slices, blocks, spec.min_blocks):
        gain = estimate(metric, labels[rows], ours[rows], theirs[rows], blocks.filter(rows))
        if math.isfinite(gain.gain):
            tested.append((column, value, gain))
    confidence = bonferroni(spec.confidence, len(tested))
    results = []
    for column, value, gain in tested:
        low, high = gain.interval(confidence)
        loss = loss_increase(metric, gain.candidate, gain.production)
        figures = (gain.rows, gain.blocks, gain.candidate, gain.production, gain.gain, low, high)
        regresses = loss > spec.max_slice_loss and high < 0
        results.append(SliceResult(column, value, *figures, loss, regresses))
    return results


def decide(
    spec: GateSpec,
    against_production: Comparison | None,
    against_trivial: Comparison,
    slices: Sequence[SliceResult] = (),
    guards: Sequence[GuardResult] = (),
    production_against_trivial: float | None = None,
) -> Decision:
    """Come to a verdict: the first of these that holds.

    1. HOLD: fewer than `min_blocks` blocks, or the metric is undefined on the holdout.
    2. REJECT: shown to be worse than the trivial predictor: that interval is below zero. This does
       not count where production is worse than it too: then the better of the two is to serve.
    3. REJECT: shown to be worse than production.
    4. REJECT: a slice regresses, or a guard that blocks fails.
    5. PROMOTE: shown to be better by more than `min_gain`, or with `not_worse` not to be worse by
       more than `margin`: the interval is above that. With `unless_worse`: all that is left.
    6. HOLD: cannot tell, or too little to gain.

    Before the first promotion, the trivial predictor stands in for production.

    Above and below are strict, so of two equal models neither replaces the other.

    Args:
        spec: The gate.
        against_production: The candidate against production; None before the first promotion.
        against_trivial: The candidate against the trivial predictor.
        slices: The results of `compare_slices`.
        guards: The results of the guards; the reason names those that warn.
        production_against_trivial: How much better production is than the trivial predictor.
    """
    comparison = against_production or against_trivial
    if too_few := hold_for_blocks(spec, comparison.blocks):
        return replace(too_few, comparison=comparison)
    if not math.isfinite(comparison.gain + against_trivial.gain):
        reason = f"{spec.metric} is undefined on these {comparison.rows:,} holdout rows"
        return Decision(Verdict.HOLD, reason, comparison)
    is_floor = production_against_trivial is None or production_against_trivial >= 0
    if against_trivial.high < 0 and is_floor:
        reason = f"worse than {TRIVIAL}: {_figures(against_trivial, TRIVIAL)}"
        if against_production:
            reason += f"; production has {against_production.production:.4g} on the same rows"
        return Decision(Verdict.REJECT, reason, against_trivial)
    rival = "production" if against_production else TRIVIAL
    failed = [guard for guard in guards if not guard.passed]
    blocking = [guard.detail for guard in failed if guard.action == "block"]
    decision = _decide_between(spec, comparison, rival, slices)
    if blocking and decision.verdict is not Verdict.REJECT:
        reason = f"{'; '.join(blocking)}; {_figures(comparison, rival)}"
        decision = Decision(Verdict.REJECT, reason, comparison)
    warnings = [f"warning: {guard.detail}" for guard in failed if guard.action == "warn"]
    if not is_floor:
        warnings.append(_warn_of_production(against_trivial))
    return replace(decision, reason="; ".join([decision.reason, *warnings]))


def _warn_of_production(against_trivial: Comparison) -> str:
    """Return a warning where production is worse than the trivial predictor."""
    is_better = against_trivial.gain > 0
    which = "production is" if is_better else "production and the candidate are"
    return f"warning: {which} worse than {TRIVIAL}, which has {against_trivial.production:.4g}"


def hold_for_blocks(spec: GateSpec, blocks: int) -> Decision | None:
    """Return a HOLD if the holdout has fewer blocks than `gate.min_blocks`."""
    if blocks >= spec.min_blocks:
        return None
    reason = (
        f"{blocks} holdout blocks that neither model was trained on, "
        f"gate.min_blocks asks for {spec.min_blocks}"
    )
    return Decision(Verdict.HOLD, reason, more_blocks=spec.min_blocks - blocks)


def _decide_between(
    spec: GateSpec, comparison: Comparison, rival: str, slices: Sequence[SliceResult]
) -> Decision:
    loss = spec.get_loss(comparison.production)
    figures, more, bound = _figures(comparison, rival, loss), None, spec.get_bound(loss)
    regressing = [slice_ for slice_ in slices if slice_.regresses]
    if comparison.high < (min(0, bound) if math.isfinite(bound) else 0):
        verdict, reason = Verdict.REJECT, f"worse than {rival}: {figures}"
    elif regressing:
        where = ", ".join(f"{s.column} {s.value} ({s.loss:.0%} worse)" for s in regressing)
        verdict, reason = Verdict.REJECT, f"worse than {rival} for {where}; {figures}"
    elif comparison.low > bound or (bound == -math.inf and math.isfinite(comparison.low)):
        verdict, reason = (
            Verdict.PROMOTE,
            f"{_describe_passed(comparison, bound, rival)}: {figures}",
        )
    else:
        verdict, more = Verdict.HOLD, _more_blocks(spec, comparison, bound)
        reason = f"cannot tell{'' if more is None else ' yet'}: {figures}"
        if comparison.gain <= bound:
            reason = f"{_describe_too_small(comparison.gain, bound, rival)}: {figures}"
    return Decision(verdict, reason, comparison, more)


def _describe_passed(comparison: Comparison, bound: float, rival: str) -> str:
    """Return what was shown of a candidate that is promoted."""
    if comparison.low > max(0, bound):
        return f"better than {rival}"
    if bound == -math.inf:
        return f"not shown to be worse than {rival}"
    return f"not worse than {rival} by more than {-bound:g}"


def _describe_too_small(gain: float, bound: float, rival: str) -> str:
    """Return why a gain, which may be chance, is too small for a promotion."""
    if bound < 0:
        return f"worse than {rival} by at least {-bound:g}, which may be chance"
    return f"not better than {rival}" + (f" by more than {bound:.3g}" if gain > 0 else "")


def _figures(comparison: Comparison, rival: str, loss: float = 0.0) -> str:
    """Return the figures, such as `log_loss 0.412 against 0.430 of production, …`.

    Args:
        comparison: Of the two.
        rival: What the candidate is compared with.
        loss: Its loss, of which the gain is said to be a share.
    """
    figures = (
        "{metric} {candidate:.4g} against {production:.4g} of {rival}, gain {gain:.3g} "
        "({confidence:.0%} interval {low:.3g} to {high:.3g}) on {blocks} blocks, {rows:,} rows"
    ).format(**vars(comparison), rival=rival)
    return f"{figures}; the gain is {comparison.gain / loss:.1%} of its loss" if loss else figures


def _more_blocks(spec: GateSpec, comparison: Comparison, bound: float) -> int | None:
    """Return on how many further blocks the interval would clear the bound, all else equal.

    They are judged on their own, as a gate like any other: together with the blocks that made it
    look promising, more that is no better would pass than is stated (docs/decisions.md). The
    half-width falls with the square root of the number of blocks; that t falls too is left out.
    """
    margin = comparison.gain - bound
    half = comparison.gain - comparison.low
    if margin <= 0 or not math.isfinite(half):
        return None
    needed = comparison.blocks * (half / margin) ** 2
    return max(spec.min_blocks, math.ceil(needed)) if needed <= FORESEEABLE_BLOCKS else None


def _slices(
    slices: pl.DataFrame, blocks: pl.Series, min_blocks: int
) -> Iterator[tuple[str, str, pl.Series]]:
    """Yield column, value and mask of rows of each slice that is large enough."""
    for column in slices.columns:
        values = slices[column].cast(pl.String).fill_null(MISSING).alias("value")
        frame = pl.DataFrame([values, blocks.alias("block")])
        is_large = pl.col("value").is_in(_list_large(frame, min_blocks))
        pooled = frame.with_columns(pl.when(is_large).then("value").otherwise(pl.lit(OTHER)))
        for value in sorted(_list_large(pooled, min_blocks)):
            yield column, value, pooled["value"] == value


def _list_large(frame: pl.DataFrame, min_blocks: int) -> list[str]:
    counts = frame.group_by("value").agg(rows=pl.len(), blocks=pl.col("block").n_unique())
    enough = (pl.col("rows") >= SLICE_ROWS) & (pl.col("blocks") >= min_blocks)
    return counts.filter(enough)["value"].to_list()


RANK = {Verdict.REJECT: 0, Verdict.HOLD: 1, Verdict.PROMOTE: 2}


def choose_best(verdicts: Sequence[Verdict], gains: Sequence[float]) -> int:
    """Return the place of the best candidate of those that pass, else of those held.

    Args:
        verdicts: Of each candidate.
        gains: Of each; NaN where it is not known. Of equals the first is taken.
    """
    ranks = [-math.inf if math.isnan(gain) else gain for gain in gains]
    return max(range(len(verdicts)), key=lambda place: (RANK[verdicts[place]], ranks[place]))
