"""Compare candidate and production on the same holdout, and record the verdict.

Not here: the statistics of the comparison, and acting on the verdict.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from retrain_assets.domain.estimated import Calibration, calibration
from retrain_assets.domain.gate import Decision, Verdict, compare, compare_slices, decide
from retrain_assets.domain.measures import judged_by
from retrain_assets.domain.performance import onto_classes
from retrain_assets.domain.profile import build_profile
from retrain_assets.domain.windows import left_out, outside
from retrain_assets.steps.guards import Side, looked_at
from retrain_assets.steps.train import (
    CANDIDATE,
    PREDICTION_COLUMN,
    as_column,
    classes_of,
    lacking,
    sample,
)
from retrain_assets.stores.tables import PARTITION

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from matplotlib.figure import Figure
    from sklearn.pipeline import Pipeline

    from retrain_assets.domain.gate import Comparison, SliceResult
    from retrain_assets.specs.gate import GateSpec
    from retrain_assets.steps.state import ModelState
    from retrain_assets.steps.train import Sample
    from retrain_assets.stores.ledger import History
    from retrain_assets.stores.models import ModelRegistry, ModelVersion

SCHEMA: dict[str, pl.DataType] = {
    PARTITION: pl.String(),
    "candidate": pl.Int64(),
    "production": pl.Int64(),
    "as_of": pl.String(),
    "holdout_from": pl.String(),
    "holdout_to": pl.String(),
    "verdict": pl.String(),
    "reason": pl.String(),
    "more_blocks": pl.Int64(),
    "metrics": pl.String(),
    "evidence": pl.String(),
}


CALIBRATION = "calibration"  # of the evidence


class NoCandidateError(RuntimeError):
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
        more_blocks: Further partitions a HOLD would probably take; None where that is unknown.
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
    more_blocks: int | None
    metrics: dict[str, float]
    evidence: dict[str, Any]

    def picture(self) -> Figure | None:
        """The gain by block; None where nothing was compared."""
        from retrain_assets.reports.plots import gain_by_block

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

    Where the spec no longer makes a feature that production needs, the two cannot be compared, and
    the candidate is held against the trivial predictor alone.
    """
    candidate, production = candidate_version(registry), history.production
    as_of = candidate.tags["as_of"]
    holdout = unseen(state, candidate.tags)
    rival = registry.load(production.version, production.sha256) if production else None
    comparable = rival is not None and not lacking(state, rival)
    if production is not None and comparable:
        holdout = outside(holdout, *production.data_range)
    rows = sample(state, holdout)
    blocks = rows.blocks.n_unique()
    enough = blocks >= state.spec.gate.min_blocks
    judged = _judge(state, registry, candidate, rival, rows) if enough else None
    decision = judged.decision if judged else _too_few(state, blocks)
    spanned = left_out(state.spec.exclude, candidate.tags["train_from"], as_of)
    evaluation = Evaluation(
        candidate=candidate.version,
        production=production.version if production else None,
        as_of=as_of,
        holdout_from=holdout[0] if holdout else None,
        holdout_to=holdout[-1] if holdout else None,
        verdict=decision.verdict,
        reason="; ".join(filter(None, (decision.reason, spanned))),
        more_blocks=decision.more_blocks,
        metrics=dict(candidate.metrics),
        evidence=judged.evidence if judged else {},
    )
    _store(state, evaluation, run_id)
    return evaluation


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


def calibrated_on(state: ModelState, candidate: int) -> Calibration | None:
    """What the candidate's probabilities were worth on its holdout, if it is binary."""
    rows = state.tables.read(state.table("evaluation"), [str(candidate)], SCHEMA)
    found = [json.loads(text).get(CALIBRATION) for text in rows["evidence"]]
    return Calibration(**found[-1]) if found and found[-1] else None


@dataclass(frozen=True)
class _Judged:
    decision: Decision
    evidence: dict[str, Any]


def _judge(
    state: ModelState,
    registry: ModelRegistry,
    candidate: ModelVersion,
    rival: Pipeline | None,
    rows: Sample,
) -> _Judged:
    from retrain_assets.domain.estimator import PredictionError, predict, trivial_prediction

    gate, kind = _gate(state), state.spec.target.kind
    pipeline = registry.load(candidate.version, candidate.sha256)
    try:
        ours = predict(pipeline, kind, rows.features)
    except PredictionError as error:
        return _Judged(Decision(Verdict.REJECT, str(error), None, None), {})
    store_expected_output(state, candidate, as_column(pipeline, ours))
    calibrated = calibration(rows.target.to_numpy(), ours) if kind == "binary" else None
    worth = {CALIBRATION: asdict(calibrated)} if calibrated else {}
    trained, count = sample(state, _trained_on(state, candidate), fitting=True), len(rows.target)
    trivial = trivial_prediction(kind, trained.target, trained.weight, count, gate)
    own = classes_of(pipeline)
    against_trivial = _compare(state, rows, _Output(ours, own), _Output(trivial, own))
    missing = lacking(state, rival) if rival else []
    if rival is None or missing:
        decision = decide(gate, None, against_trivial)
        if missing:
            said = f"{decision.reason}; production needs {', '.join(missing)}, no longer made"
            decision = replace(decision, reason=said)
        return _Judged(decision, _evidence(against_trivial) | worth)
    theirs = _Output(predict(rival, kind, rows.features), classes_of(rival))
    comparison = _compare(state, rows, _Output(ours, own), theirs)
    slices = _compare_slices(state, rows, _Output(ours, own), theirs)
    first, second, classes = _aligned(_Output(ours, own), theirs)
    sides = Side(pipeline, first), Side(rival, second)
    guards = list(looked_at(gate, kind, rows, *sides, classes))
    evidence = (
        _evidence(comparison)
        | worth
        | {
            "slices": [asdict(found) for found in slices],
            "guards": [asdict(found) for found in guards],
        }
    )
    return _Judged(decide(gate, comparison, against_trivial, slices, guards), evidence)


@dataclass(frozen=True)
class _Output:
    """What a model predicted, and the class of each column where it has several."""

    values: np.ndarray
    classes: list[Any] | None


def _aligned(ours: _Output, theirs: _Output) -> tuple[np.ndarray, np.ndarray, list[Any] | None]:
    """Both outputs in the same columns, since one model may know a class the other does not."""
    if ours.classes is None or theirs.classes is None or ours.values.ndim == 1:
        return ours.values, theirs.values, ours.classes
    every = sorted({*ours.classes, *theirs.classes})
    values = (onto_classes(side.values, side.classes or [], every) for side in (ours, theirs))
    return *values, every  # type: ignore[return-value]


def _gate(state: ModelState) -> GateSpec:
    """The gate at the confidence that its yearly rate comes to."""
    spec, period = state.spec, state.dataset.partition.period
    if period is None:  # where `false_promotions_per_year` is refused
        return spec.gate
    confidence = spec.gate.confidence_at(period.per_year, spec.triggers.cooldown)
    return spec.gate.model_copy(update={"confidence": confidence})


def _compare(state: ModelState, rows: Sample, ours: _Output, theirs: _Output) -> Comparison:
    gate, target = _gate(state), rows.target.to_numpy()
    first, second, classes = _aligned(ours, theirs)
    return compare(
        judged_by(gate), target, first, second, rows.blocks, gate.confidence, classes=classes
    )


def _compare_slices(
    state: ModelState, rows: Sample, ours: _Output, theirs: _Output
) -> list[SliceResult]:
    gate, target = _gate(state), rows.target.to_numpy()
    first, second, classes = _aligned(ours, theirs)
    sliced = rows.features.select(gate.slices)
    return compare_slices(
        gate, judged_by(gate), sliced, target, first, second, rows.blocks, classes
    )


def _evidence(comparison: Comparison) -> dict[str, Any]:
    return {"comparison": asdict(comparison)}


def _too_few(state: ModelState, blocks: int) -> Decision:
    needed = state.spec.gate.min_blocks
    return Decision(
        Verdict.HOLD,
        f"{blocks} holdout blocks that neither model was trained on, "
        f"gate.min_blocks asks for {needed}",
        None,
        needed - blocks,
    )


def _trained_on(state: ModelState, version: ModelVersion) -> list[str]:
    tags = version.tags
    return list(state.trained_on(state.mature(), (tags["train_from"], tags["train_to"])))


def store_expected_output(state: ModelState, candidate: ModelVersion, output: pl.Series) -> None:
    """Keep a summary of the output on unseen rows: what prediction drift is measured against."""
    key = str(candidate.version)
    frame = pl.DataFrame({PARTITION: [key] * len(output), PREDICTION_COLUMN: output})
    table = state.table("reference")
    state.tables.replace(table, build_profile(frame), [key], {"candidate": key})


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
