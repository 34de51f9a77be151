"""Compare candidate and production on the same holdout, and store the verdict.

Not here: the statistics of the comparison, and acting on the verdict.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.gate import Verdict, choose_best, hold_for_blocks
from retrain_assets.domain.drift.performance_estimate import Calibration
from retrain_assets.domain.json_text import read_metrics, write_json
from retrain_assets.domain.windows import describe_exclusions, exclude_range
from retrain_assets.errors import PermanentError
from retrain_assets.reports.plots import draw_gains
from retrain_assets.specs.base import number_of
from retrain_assets.steps.decision import train
from retrain_assets.steps.decision.judge import CALIBRATION, judge
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import History
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion


class NoCandidateError(PermanentError):
    """No version stands as candidate, so there is nothing to evaluate."""


@dataclass(frozen=True)
class Evaluation:
    """Hold a verdict and the evidence for it.

    Args:
        candidate: The version that was judged.
        production: The version it was compared with; None before the first promotion.
        as_of: Last partition of the comparison.
        holdout_from: First partition on which neither was trained; None if there is none.
        holdout_to: Last such partition.
        verdict: PROMOTE, HOLD or REJECT.
        reason: One sentence.
        more_partitions: Further partitions a HOLD would probably take; None if that is unknown.
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

    @property
    def gain(self) -> float:
        """Return the gain over what it was compared with; NaN if nothing was compared."""
        return float(self.evidence.get("comparison", {}).get("gain", math.nan))

    def picture(self) -> train.Figure | None:
        """Draw the gain by block; None if nothing was compared."""
        comparison = self.evidence.get("comparison")
        if comparison is None:
            return None
        title = f"{self.verdict.value}: gain in {comparison['metric']} by partition"
        interval = comparison["gain"], comparison["low"], comparison["high"]
        gains = comparison["block_gains"]
        return draw_gains(list(gains), list(gains.values()), *interval, title)


# JSON has no word for these, so they are stored as null.
UNBOUNDED = {"gain": math.nan, "low": -math.inf, "high": math.inf}
NUMBERS = {"candidate", "production", "more_partitions"}
JSON = ("metrics", "evidence")
SCHEMA: dict[str, pl.DataType] = {
    name: pl.Int64() if name in NUMBERS else pl.String()
    for name in (PARTITION, *(field.name for field in fields(Evaluation)))
}


def get_candidate(registry: ModelRegistry) -> ModelVersion:
    """Return the version that stands as candidate.

    Raises:
        NoCandidateError: None does.
    """
    number = registry.alias(train.CANDIDATE)
    if number is None:
        raise NoCandidateError(f"model {registry.name} has no candidate: train one first")
    return registry.version(number)


def evaluate(state: ModelState, history: History, run_id: str) -> Evaluation:
    """Judge the candidate against the version now in production, and store the verdict.

    Of several candidates each is judged; the best becomes `candidate`, and its verdict counts. If
    the YAML no longer makes a feature that production needs, the two cannot be compared, and the
    candidate is compared with the trivial predictor alone.
    """
    candidates = train.list_candidates(state.registry, get_candidate(state.registry))
    evaluations = [_evaluate(state, history, item, len(candidates)) for item in candidates]
    place = choose_best([item.verdict for item in evaluations], [item.gain for item in evaluations])
    evaluation = evaluations[place]
    if len(evaluations) > 1:
        summary = ", ".join(map(_summarize, evaluations, candidates))
        reason = f"{evaluation.reason}; chosen of {len(evaluations)}: {summary}"
        evaluation = replace(evaluation, reason=reason)
    _store(state, evaluation, run_id)
    state.registry.set_alias(train.CANDIDATE, evaluation.candidate)
    return evaluation


def _summarize(evaluation: Evaluation, candidate: ModelVersion) -> str:
    window = len(json.loads(candidate.tags["trained_on"]))
    gain = "" if math.isnan(evaluation.gain) else f", gain {evaluation.gain:.3g}"
    size = number_of(window, "partition")
    return f"version {candidate.version} of {size} {evaluation.verdict}{gain}"


def _evaluate(
    state: ModelState, history: History, candidate: ModelVersion, among: int
) -> Evaluation:
    """Judge one of so many candidates."""
    production, tags = history.production, candidate.tags
    holdout = list_unseen_partitions(state, tags)
    rival = state.registry.load(production.version, production.sha256) if production else None
    if production and not train.list_missing_features(state, rival):
        holdout = exclude_range(holdout, *production.data_range)
    rows = train.sample(state, holdout)
    blocks = rows.blocks.n_unique()
    hold = hold_for_blocks(state.spec.gate, blocks)
    decision, evidence = (hold, {}) if hold else judge(state, candidate, rival, rows, among)
    more = decision.more_blocks
    if more is not None and blocks:  # the next partitions probably have as many blocks
        more = -(-more * rows.partitions.n_unique() // blocks)
    wait = "" if more is None else f"some {more} more partitions would probably do"
    excluded = describe_exclusions(state.spec.exclude, tags["train_from"], tags["as_of"])
    return Evaluation(
        candidate=candidate.version,
        production=history.production_version,
        as_of=tags["as_of"],
        holdout_from=holdout[0] if holdout else None,
        holdout_to=holdout[-1] if holdout else None,
        verdict=decision.verdict,
        reason="; ".join(filter(None, (decision.reason, wait, excluded))),
        more_partitions=more,
        metrics=dict(candidate.metrics),
        evidence=evidence,
    )


def list_unseen_partitions(state: ModelState, tags: Mapping[str, str]) -> tuple[str, ...]:
    """List mature partitions through its as-of on which a version was not trained or judged."""
    since = tags.get("since", tags["train_to"])
    return tuple(key for key in state.mature() if since < key <= tags["as_of"])


def read_evaluation(state: ModelState, candidate: int, production: int | None) -> Evaluation | None:
    """Return the stored verdict on a candidate, if it was judged against this production."""
    rows = state.tables.read(state.table("evaluation"), [str(candidate)], SCHEMA)
    rows = rows.filter(pl.col("production").eq_missing(production)).drop(PARTITION)
    for record in rows.iter_rows(named=True):
        record |= {"metrics": read_metrics(record["metrics"])}
        record |= {"evidence": (evidence := json.loads(record["evidence"]))}
        if comparison := evidence.get("comparison"):
            nulls = (name for name in UNBOUNDED if comparison[name] is None)
            comparison |= {name: UNBOUNDED[name] for name in nulls}
        return Evaluation(**record | {"verdict": Verdict(record["verdict"])})
    return None


def read_calibration(state: ModelState, candidate: int | None) -> Calibration | None:
    """Return how reliable a candidate's probabilities were on its holdout, for a classifier."""
    rows = state.tables.read(state.table("evaluation"), [str(candidate)], SCHEMA)
    curves = [json.loads(text).get(CALIBRATION) for text in rows["evidence"]]
    return Calibration(**curves[-1]) if curves and curves[-1] else None


def _store(state: ModelState, evaluation: Evaluation, run_id: str) -> None:
    key, record = str(evaluation.candidate), asdict(evaluation)
    record |= {name: write_json(record[name]) for name in JSON}
    record |= {PARTITION: key, "verdict": evaluation.verdict.value}
    rows = pl.DataFrame([record], schema=SCHEMA)
    state.tables.replace(state.table("evaluation"), rows, [key], {"run_id": run_id})
