"""The gate: whether a candidate is shown to be better than production on the same holdout.

Several candidates in one decision: how sure each has to be, and which of them goes on.

Not here: the interval of a gain, predicting, storing the decision, acting on it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import polars as pl

from retrain_assets.domain.decision.guards import GuardResult
from retrain_assets.domain.metrics.intervals import Estimate, estimate
from retrain_assets.domain.metrics.metrics import MetricDef, align_labels, get_metric, loss_increase
from retrain_assets.specs.gate import GateSpec, Metric

SLICE_ROWS = 200
OTHER, MISSING = "other", "(missing)"
FORESEEABLE_BLOCKS = 10_000
TRIVIAL = "the trivial predictor"


class Verdict(StrEnum):
    """What the gate comes to."""

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
    comparison: Comparison | None
    more_blocks: int | None


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
        candidate: Predictions of the candidate, as `performance` says.
        production: Predictions of what it is compared with, of the same shape.
        blocks: The block of each row.
        confidence: Of the two-sided interval.
        classes: Class of each column of both, for multiclass; the sorted labels by default.

    Raises:
        ValueError: Shapes do not agree, or classes are not given and cannot be told.
    """
    labels, ours = align_labels(target, candidate, classes)
    _, theirs = align_labels(target, production, classes)
    found = estimate(metric, labels, ours, theirs, blocks)
    low, high = found.interval(confidence)
    return Comparison(
        **vars(found), metric=get_metric(metric).name, low=low, high=high, confidence=confidence
    )


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
        found = estimate(metric, labels[rows], ours[rows], theirs[rows], blocks.filter(rows))
        if math.isfinite(found.gain):
            tested.append((column, value, found))
    confidence = 1 - (1 - spec.confidence) / max(1, len(tested))
    return [_judged(spec, metric, *slice_, confidence) for slice_ in tested]


def decide(
    spec: GateSpec,
    against_production: Comparison | None,
    against_trivial: Comparison,
    slices: Sequence[SliceResult] = (),
    guards: Sequence[GuardResult] = (),
) -> Decision:
    """Come to a verdict: the first of these that holds.

    1. HOLD: fewer than `min_blocks` blocks, or the metric is undefined on the holdout.
    2. REJECT: shown to be worse than the trivial predictor: that interval is below zero.
    3. REJECT: shown to be worse than production.
    4. REJECT: a slice regresses, or a guard that blocks fails.
    5. PROMOTE: shown to be better by more than `min_gain`, or with `not_worse` not to be worse by
       more than `margin`: the interval is above that.
    6. HOLD: cannot tell, or too little to gain.

    Before the first promotion, the trivial predictor stands in for production.

    Above and below are strict, so of two equal models neither replaces the other.

    Args:
        spec: The gate.
        against_production: The candidate against production; None before the first promotion.
        against_trivial: The candidate against the trivial predictor.
        slices: What `compare_slices` found.
        guards: What the guards found; of those that warn, the reason tells.
    """
    judged = against_production or against_trivial
    if judged.blocks < spec.min_blocks:
        said = f"{judged.blocks} holdout blocks, gate.min_blocks asks for {spec.min_blocks}"
        return Decision(Verdict.HOLD, said, judged, spec.min_blocks - judged.blocks)
    if not math.isfinite(judged.gain + against_trivial.gain):
        said = f"{spec.metric} is undefined on these {judged.rows:,} holdout rows"
        return Decision(Verdict.HOLD, said, judged, None)
    if against_trivial.high < 0:
        figures = _figures(against_trivial, TRIVIAL)
        return Decision(Verdict.REJECT, f"worse than {TRIVIAL}: {figures}", against_trivial, None)
    rival = "production" if against_production else TRIVIAL
    failed = [guard for guard in guards if not guard.passed]
    blocking = [guard.detail for guard in failed if guard.action == "block"]
    decision = _against(spec, judged, rival, slices)
    if blocking and decision.verdict is not Verdict.REJECT:
        figures = _figures(judged, rival)
        decision = Decision(Verdict.REJECT, f"{'; '.join(blocking)}; {figures}", judged, None)
    warned = [f"warning: {guard.detail}" for guard in failed if guard.action == "warn"]
    return replace(decision, reason="; ".join([decision.reason, *warned]))


def _against(
    spec: GateSpec, found: Comparison, rival: str, slices: Sequence[SliceResult]
) -> Decision:
    figures = _figures(found, rival)
    regressing = [slice_ for slice_ in slices if slice_.regresses]
    if found.high < min(0, spec.bound):
        return Decision(Verdict.REJECT, f"worse than {rival}: {figures}", found, None)
    if regressing:
        where = ", ".join(f"{s.column} {s.value} ({s.loss:.0%} worse)" for s in regressing)
        return Decision(Verdict.REJECT, f"worse than {rival} for {where}; {figures}", found, None)
    if found.low > spec.bound:
        allowed = "" if spec.promote_when == "better" else f" by more than {-spec.bound:g}"
        said = f"{'not worse' if allowed else 'better'} than {rival}{allowed}: {figures}"
        return Decision(Verdict.PROMOTE, said, found, None)
    more = _more_blocks(spec, found)
    if found.gain <= spec.bound:
        said = f"no gain above {spec.bound:g}: {figures}"
    else:
        said = f"cannot tell{'' if more is None else ' yet'}: {figures}"
    return Decision(Verdict.HOLD, said, found, more)


def _figures(found: Comparison, rival: str) -> str:
    """The comparison in words, such as `log_loss 0.412 against 0.430 of production, …`."""
    return (
        f"{found.metric} {found.candidate:.4g} against {found.production:.4g} of {rival}, "
        f"gain {found.gain:.3g} ({found.confidence:.0%} interval {found.low:.3g} to "
        f"{found.high:.3g}) on {found.blocks} blocks, {found.rows:,} rows"
    )


def _more_blocks(spec: GateSpec, found: Comparison) -> int | None:
    """Further blocks on which the interval would clear the bound if gain and spread stay.

    They are judged on their own, as a gate like any other: together with the blocks that made it
    look promising, more that is no better would pass than is stated (docs/decisions.md). The
    half-width falls with the square root of the number of blocks; that t falls too is left out.
    """
    margin = found.gain - spec.bound
    half = found.gain - found.low
    if margin <= 0 or not math.isfinite(half):
        return None
    needed = found.blocks * (half / margin) ** 2
    return max(spec.min_blocks, math.ceil(needed)) if needed <= FORESEEABLE_BLOCKS else None


def _slices(
    slices: pl.DataFrame, blocks: pl.Series, min_blocks: int
) -> Iterator[tuple[str, str, pl.Series]]:
    """Column, value and mask of rows of each slice that is large enough."""
    for column in slices.columns:
        values = slices[column].cast(pl.String).fill_null(MISSING).alias("value")
        frame = pl.DataFrame([values, blocks.alias("block")])
        kept = pl.col("value").is_in(_large(frame, min_blocks))
        pooled = frame.with_columns(pl.when(kept).then("value").otherwise(pl.lit(OTHER)))
        for value in sorted(_large(pooled, min_blocks)):
            yield column, value, pooled["value"] == value


def _large(frame: pl.DataFrame, min_blocks: int) -> list[str]:
    counts = frame.group_by("value").agg(rows=pl.len(), blocks=pl.col("block").n_unique())
    enough = (pl.col("rows") >= SLICE_ROWS) & (pl.col("blocks") >= min_blocks)
    return counts.filter(enough)["value"].to_list()


def _judged(
    spec: GateSpec,
    metric: Metric | MetricDef,
    column: str,
    value: str,
    found: Estimate,
    confidence: float,
) -> SliceResult:
    low, high = found.interval(confidence)
    loss = loss_increase(metric, found.candidate, found.production)
    return SliceResult(
        column=column,
        value=value,
        rows=found.rows,
        blocks=found.blocks,
        candidate=found.candidate,
        production=found.production,
        gain=found.gain,
        low=low,
        high=high,
        loss=loss,
        regresses=loss > spec.max_slice_loss and high < 0,
    )


RANK = {Verdict.REJECT: 0, Verdict.HOLD: 1, Verdict.PROMOTE: 2}


def shared(confidence: float, candidates: int) -> float:
    """The confidence of each candidate's interval, which then holds for all of them together.

    So that choosing the best of several promotes what is no better as rarely as judging one does,
    each has its share of the error (Bonferroni). Holm's steps would allow the second and later ones
    more, but only one is promoted, and of that Holm asks what Bonferroni does.

    Args:
        confidence: Of the two-sided interval of one.
        candidates: How many there are.
    """
    return 1 - (1 - confidence) / candidates


def choose_best(verdicts: Sequence[Verdict], gains: Sequence[float]) -> int:
    """Place of the candidate to decide on: the best of those that pass, else of those held.

    Args:
        verdicts: Of each candidate.
        gains: Of each; NaN where it is not known. Of equals the first is taken.
    """
    told = [-math.inf if math.isnan(gain) else gain for gain in gains]
    return max(range(len(verdicts)), key=lambda place: (RANK[verdicts[place]], told[place]))
