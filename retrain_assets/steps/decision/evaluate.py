"""Compare candidate and production on the same holdout, and record the verdict.

Not here: the statistics of the comparison, and acting on the verdict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.gate import Decision, Verdict, best
from retrain_assets.domain.drift.performance_estimate import Calibration
from retrain_assets.domain.windows import left_out, outside
from retrain_assets.errors import PermanentError
from retrain_assets.reports.plots import gain_by_block
from retrain_assets.steps.decision.candidates import beside
from retrain_assets.steps.decision.judge import CALIBRATION, judge, trained_on
from retrain_assets.steps.decision.train import CANDIDATE, Sample, lacking, sample
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import History
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA: dict[str, pl.DataType] = {
    PARTITION: pl.String(),
    "candidate": pl.Int64(),
    "production": pl.Int64(),
    "as_of": pl.String(),
    "holdout_from": pl.String(),
    "holdout_to": pl.String(),
    "verdict": pl.String(),
    "reason": pl.String(),
    "more_partitions": pl.Int64(),
    "metrics": pl.String(),
    "evidence": pl.String(),
}


class NoCandidateError(PermanentError):
    """There is nothing to evaluate."""


@dataclass(frozen=True)
class Evaluation:
    """A verdict and what it was reached on.

    Args:
        candidate: The version judged.
        production: The version it was compared with; None before the first promotion.
        as_of: Last partition the comparison looked at.
        holdout_from: First partition that neither was trained on; None where there is none.
        holdout_to: Last such partition.
        verdict: PROMOTE, HOLD or REJECT.
        reason: One sentence.
        more_partitions: Further partitions a HOLD would probably take; None where that is unknown.
        metrics: The candidate's metrics on the holdout.
        evidence: Comparison, slices and gain by partition, as far as they were computed.
    """

    candidate: int
    production: int | None
    as_of: str
    holdout_from: str | None
    holdout_to: str | None
    verdict: Verdict
    reason: str
    more_partitions: int | None
    metrics: dict[str, float]
    evidence: dict[str, Any]

    def picture(self) -> Figure | None:
        """The gain by block; None where nothing was compared."""
        found = self.evidence.get("comparison")
        if found is None:
            return None
        title = f"{self.verdict.value}: gain in {found['metric']} by partition"
        interval, blocks = (found["gain"], found["low"], found["high"]), found["block_gains"]
        return gain_by_block(list(blocks), list(blocks.values()), *interval, title)


def candidate_version(registry: ModelRegistry) -> ModelVersion:
    """The version that stands as candidate.

    Raises:
        NoCandidateError: None does.
    """
    number = registry.alias(CANDIDATE)
    if number is None:
        raise NoCandidateError(f"model {registry.name} has no candidate: train one first")
    return registry.version(number)


def evaluate(
    state: ModelState, registry: ModelRegistry, history: History, run_id: str
) -> Evaluation:
    """Judge the candidate against the version now in production, and store the verdict.

    Of several, each is judged, and the best becomes `candidate`: its verdict is the one that
    counts. Where the spec no longer makes a feature that production needs, the two cannot be
    compared, and the candidate is held against the trivial predictor alone.
    """
    several = beside(registry, candidate_version(registry))
    found = [_evaluated(state, registry, history, one, len(several)) for one in several]
    gains = [one.evidence.get("comparison", {}).get("gain", math.nan) for one in found]
    evaluation = found[best([one.verdict for one in found], gains)]
    if len(found) > 1:
        windows = (len(trained_on(state, version)) for version in several)
        named = [
            f"version {one.candidate} of {window} partitions {one.verdict}"
            + ("" if math.isnan(gain) else f", gain {gain:.3g}")
            for one, window, gain in zip(found, windows, gains, strict=True)
        ]
        said = f"{evaluation.reason}; chosen of {len(found)}: {', '.join(named)}"
        evaluation = replace(evaluation, reason=said)
    _store(state, evaluation, run_id)
    registry.set_alias(CANDIDATE, evaluation.candidate)
    return evaluation


def _evaluated(
    state: ModelState,
    registry: ModelRegistry,
    history: History,
    candidate: ModelVersion,
    among: int,
) -> Evaluation:
    production = history.production
    as_of = candidate.tags["as_of"]
    holdout = unseen(state, candidate.tags)
    rival = registry.load(production.version, production.sha256) if production else None
    comparable = rival is not None and not lacking(state, rival)
    if production is not None and comparable:
        holdout = outside(holdout, *production.data_range)
    rows = sample(state, holdout)
    blocks = rows.blocks.n_unique()
    decision, evidence = (
        judge(state, registry, candidate, rival, rows, among=among)
        if blocks >= state.spec.gate.min_blocks
        else (_too_few(state, blocks), {})
    )
    more = _as_partitions(decision.more_blocks, rows)
    wait = "" if more is None else f"some {more} more partitions would probably do"
    spanned = left_out(state.spec.exclude, candidate.tags["train_from"], as_of)
    return Evaluation(
        candidate=candidate.version,
        production=production.version if production else None,
        as_of=as_of,
        holdout_from=holdout[0] if holdout else None,
        holdout_to=holdout[-1] if holdout else None,
        verdict=decision.verdict,
        reason="; ".join(filter(None, (decision.reason, wait, spanned))),
        more_partitions=more,
        metrics=dict(candidate.metrics),
        evidence=evidence,
    )


def _too_few(state: ModelState, blocks: int) -> Decision:
    needed = state.spec.gate.min_blocks
    return Decision(
        Verdict.HOLD,
        f"{blocks} holdout blocks that neither model was trained on, "
        f"gate.min_blocks asks for {needed}",
        None,
        needed - blocks,
    )


def _as_partitions(blocks: int | None, rows: Sample) -> int | None:
    """How many partitions have so many blocks, if further ones are like those of the holdout."""
    if blocks is None or rows.blocks.is_empty():
        return blocks
    return -(-blocks * rows.partitions.n_unique() // rows.blocks.n_unique())


def unseen(state: ModelState, tags: Mapping[str, str]) -> tuple[str, ...]:
    """Mature partitions through its as-of that a version neither was trained nor judged on."""
    since = tags.get("since", tags["train_to"])
    return tuple(key for key in state.mature() if since < key <= tags["as_of"])


def stored(state: ModelState, candidate: int, production: int | None) -> Evaluation | None:
    """The verdict on a candidate, unless production is no longer what it was judged against."""
    rows = state.tables.read(state.table("evaluation"), [str(candidate)], SCHEMA)
    rows = rows.filter(pl.col("production").eq_missing(production))
    if rows.is_empty():
        return None
    record = rows.drop(PARTITION).row(0, named=True)
    record |= {name: json.loads(record[name]) for name in ("metrics", "evidence")}
    return Evaluation(**{**record, "verdict": Verdict(record["verdict"])})


def calibrated_on(state: ModelState, candidate: int | None) -> Calibration | None:
    """What the candidate's probabilities were worth on its holdout, if it is a classifier."""
    rows = state.tables.read(state.table("evaluation"), [str(candidate)], SCHEMA)
    found = [json.loads(text).get(CALIBRATION) for text in rows["evidence"]]
    return Calibration(**found[-1]) if found and found[-1] else None


def _store(state: ModelState, evaluation: Evaluation, run_id: str) -> None:
    key = str(evaluation.candidate)
    record = {
        **asdict(evaluation),
        PARTITION: key,
        "verdict": evaluation.verdict.value,
        "metrics": json.dumps(evaluation.metrics, sort_keys=True),
        "evidence": json.dumps(evaluation.evidence, sort_keys=True),
    }
    rows = pl.DataFrame([{name: record[name] for name in SCHEMA}], schema=SCHEMA)
    state.tables.replace(state.table("evaluation"), rows, [key], {"run_id": run_id})
