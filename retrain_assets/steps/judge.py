"""Judge one candidate against what is in production, on rows that neither has seen.

Not here: which rows, the statistics, choosing among several, and storing the verdict.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from retrain_assets.domain.choosing import shared
from retrain_assets.domain.estimated import calibration
from retrain_assets.domain.estimator import PredictionError, trivial_prediction
from retrain_assets.domain.gate import Decision, Verdict, compare, compare_slices, decide
from retrain_assets.domain.measures import judged_by
from retrain_assets.domain.performance import onto_classes
from retrain_assets.domain.profile import build_profile
from retrain_assets.steps.guards import Side, looked_at
from retrain_assets.steps.train import PREDICTION_COLUMN, as_column, lacking, predicted, sample
from retrain_assets.stores.tables import PARTITION

if TYPE_CHECKING:
    import numpy as np
    from sklearn.pipeline import Pipeline

    from retrain_assets.specs.gate import GateSpec
    from retrain_assets.steps.state import ModelState
    from retrain_assets.steps.train import Output, Sample
    from retrain_assets.stores.models import ModelRegistry, ModelVersion

CALIBRATION = "calibration"  # of the evidence
BLOCK = "block"  # the partition that a summary of expected output is of


def judge(
    state: ModelState,
    registry: ModelRegistry,
    candidate: ModelVersion,
    rival: Pipeline | None,
    rows: Sample,
    *,
    among: int,
) -> tuple[Decision, dict[str, Any]]:
    """Judge a candidate.

    Args:
        state: The model.
        registry: Its versions.
        candidate: What is judged.
        rival: What is in production, if anything is.
        rows: That neither was trained on.
        among: How many candidates the best is chosen of.

    Returns:
        The verdict; and comparison, slices and guards as far as they were looked at.
    """
    gate, metric, labels = _gate(state), judged_by(state.spec.gate), rows.target.to_numpy()
    pipeline = registry.load(candidate.version, candidate.sha256)
    try:
        ours = predicted(state, pipeline, rows)
    except PredictionError as error:
        return Decision(Verdict.REJECT, str(error), None, None), {}
    store_expected_output(state, candidate, ours, rows.partitions)
    worth = calibration(labels, ours.values, ours.classes) if ours.classes else None
    evidence: dict[str, Any] = {CALIBRATION: asdict(worth)} if worth else {}
    kind, confidence = state.spec.target.kind, shared(gate.confidence, among)
    trained = sample(state, trained_on(state, candidate), fitting=True)
    trivial = trivial_prediction(kind, trained.target, trained.weight, len(labels), gate)
    against_trivial = compare(
        metric, labels, ours.values, trivial, rows.blocks, confidence, classes=ours.classes
    )
    missing = lacking(state, rival) if rival else []
    if rival is None or missing:
        decision = decide(gate, None, against_trivial)
        if missing:
            said = f"{decision.reason}; production needs {', '.join(missing)}, no longer made"
            decision = replace(decision, reason=said)
        return decision, evidence | {"comparison": asdict(against_trivial)}
    first, second, classes = aligned(ours, predicted(state, rival, rows))
    told = labels, first, second, rows.blocks
    comparison = compare(metric, *told, confidence, classes=classes)
    slices = compare_slices(gate, metric, rows.features.select(gate.slices), *told, classes)
    sides = Side(pipeline, first), Side(rival, second)
    guards = list(looked_at(gate, kind, rows, *sides, classes))
    evidence |= {
        "comparison": asdict(comparison),
        "slices": [asdict(found) for found in slices],
        "guards": [asdict(found) for found in guards],
    }
    return decide(gate, comparison, against_trivial, slices, guards), evidence


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


def trained_on(state: ModelState, version: ModelVersion) -> list[str]:
    """Partitions that a version was trained on."""
    tags = version.tags
    return list(state.trained_on(state.mature(), (tags["train_from"], tags["train_to"])))


def store_expected_output(
    state: ModelState, candidate: ModelVersion, output: Output, partitions: pl.Series
) -> None:
    """Keep summaries of the output on unseen rows: what prediction drift is measured against."""
    key, said = str(candidate.version), as_column(output.classes, output.values)
    made = build_profile(pl.DataFrame({PARTITION: partitions, PREDICTION_COLUMN: said}))
    rows = made.with_columns(pl.lit(key).alias(PARTITION), pl.col(PARTITION).alias(BLOCK))
    state.tables.replace(state.table("reference"), rows, [key], {"candidate": key})
