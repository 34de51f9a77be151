"""Judge one candidate against what is in production, on rows that neither has seen.

Not here: which rows, the statistics, choosing among several, and storing the verdict.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from retrain_assets.domain.choosing import shared
from retrain_assets.domain.estimated import calibration
from retrain_assets.domain.gate import Decision, Verdict, compare, compare_slices, decide
from retrain_assets.domain.measures import judged_by
from retrain_assets.domain.performance import onto_classes
from retrain_assets.domain.profile import build_profile
from retrain_assets.steps.guards import Side, looked_at
from retrain_assets.steps.train import PREDICTION_COLUMN, as_column, classes_of, lacking, sample
from retrain_assets.stores.tables import PARTITION

if TYPE_CHECKING:
    import numpy as np
    from sklearn.pipeline import Pipeline

    from retrain_assets.domain.gate import Comparison, SliceResult
    from retrain_assets.specs.gate import GateSpec
    from retrain_assets.steps.state import ModelState
    from retrain_assets.steps.train import Sample
    from retrain_assets.stores.models import ModelRegistry, ModelVersion

CALIBRATION = "calibration"  # of the evidence
BLOCK = "block"  # the partition that a summary of expected output is of


@dataclass(frozen=True)
class Judged:
    """A verdict, and comparison, slices and guards as far as they were looked at."""

    decision: Decision
    evidence: dict[str, Any]


def judge(
    state: ModelState,
    registry: ModelRegistry,
    candidate: ModelVersion,
    rival: Pipeline | None,
    rows: Sample,
    *,
    among: int,
) -> Judged:
    """Judge a candidate.

    Args:
        state: The model.
        registry: Its versions.
        candidate: What is judged.
        rival: What is in production, if anything is.
        rows: That neither was trained on.
        among: How many candidates the best is chosen of.
    """
    from retrain_assets.domain.estimator import PredictionError, predict, trivial_prediction

    gate, kind = _gate(state), state.spec.target.kind
    pipeline = registry.load(candidate.version, candidate.sha256)
    try:
        ours = predict(pipeline, kind, rows.features)
    except PredictionError as error:
        return Judged(Decision(Verdict.REJECT, str(error), None, None), {})
    store_expected_output(state, candidate, as_column(classes_of(pipeline), ours), rows.partitions)
    trained, count = sample(state, trained_on(state, candidate), fitting=True), len(rows.target)
    trivial = trivial_prediction(kind, trained.target, trained.weight, count, gate)
    own = classes_of(pipeline)
    calibrated = None if own is None else calibration(rows.target.to_numpy(), ours, own)
    worth = {CALIBRATION: asdict(calibrated)} if calibrated else {}
    against_trivial = _compare(state, rows, Output(ours, own), Output(trivial, own), among)
    missing = lacking(state, rival) if rival else []
    if rival is None or missing:
        decision = decide(gate, None, against_trivial)
        if missing:
            said = f"{decision.reason}; production needs {', '.join(missing)}, no longer made"
            decision = replace(decision, reason=said)
        return Judged(decision, _evidence(against_trivial) | worth)
    theirs = Output(predict(rival, kind, rows.features), classes_of(rival))
    comparison = _compare(state, rows, Output(ours, own), theirs, among)
    slices = _compare_slices(state, rows, Output(ours, own), theirs)
    first, second, classes = aligned(Output(ours, own), theirs)
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
    return Judged(decide(gate, comparison, against_trivial, slices, guards), evidence)


@dataclass(frozen=True)
class Output:
    """What a model predicted, and the class of each column where it has several."""

    values: np.ndarray
    classes: list[Any] | None


def aligned(ours: Output, theirs: Output) -> tuple[np.ndarray, np.ndarray, list[Any] | None]:
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


def _compare(
    state: ModelState, rows: Sample, ours: Output, theirs: Output, among: int
) -> Comparison:
    gate, target = _gate(state), rows.target.to_numpy()
    first, second, classes = aligned(ours, theirs)
    confidence = shared(gate.confidence, among)
    return compare(judged_by(gate), target, first, second, rows.blocks, confidence, classes=classes)


def _compare_slices(
    state: ModelState, rows: Sample, ours: Output, theirs: Output
) -> list[SliceResult]:
    gate, target = _gate(state), rows.target.to_numpy()
    first, second, classes = aligned(ours, theirs)
    sliced = rows.features.select(gate.slices)
    return compare_slices(
        gate, judged_by(gate), sliced, target, first, second, rows.blocks, classes
    )


def _evidence(comparison: Comparison) -> dict[str, Any]:
    return {"comparison": asdict(comparison)}


def trained_on(state: ModelState, version: ModelVersion) -> list[str]:
    """Partitions that a version was trained on."""
    tags = version.tags
    return list(state.trained_on(state.mature(), (tags["train_from"], tags["train_to"])))


def store_expected_output(
    state: ModelState, candidate: ModelVersion, output: pl.Series, partitions: pl.Series
) -> None:
    """Keep summaries of the output on unseen rows: what prediction drift is measured against."""
    key = str(candidate.version)
    made = build_profile(pl.DataFrame({PARTITION: partitions, PREDICTION_COLUMN: output}))
    rows = made.with_columns(pl.lit(key).alias(PARTITION), pl.col(PARTITION).alias(BLOCK))
    state.tables.replace(state.table("reference"), rows, [key], {"candidate": key})
