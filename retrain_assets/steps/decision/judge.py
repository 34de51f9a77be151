"""Judge one candidate against what is in production, on rows that neither has seen.

Look at the guards of a gate: what needs a clock, a file or a process.

Not here: which rows, the statistics, choosing among several, and storing the verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision import guards as domain
from retrain_assets.domain.decision.gate import (
    Decision,
    Verdict,
    compare,
    compare_slices,
    decide,
    shared,
)
from retrain_assets.domain.decision.guards import GuardResult
from retrain_assets.domain.drift.performance_estimate import calibration
from retrain_assets.domain.drift.profile import build_profile
from retrain_assets.domain.metrics.metrics import comparable, judged_by, onto_classes
from retrain_assets.domain.model.estimator import PredictionError, predict, trivial_prediction
from retrain_assets.specs.features import Kind
from retrain_assets.specs.gate import GateSpec
from retrain_assets.steps.decision.train import (
    PREDICTION_COLUMN,
    Output,
    Sample,
    as_column,
    lacking,
    predicted,
    sample,
)
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.registry.model_check import EXAMPLE_FILE, check_file, write_example
from retrain_assets.stores.registry.model_file import MODEL_FILE, digest
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

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


REPEATS, BATCH = 15, 1000


@dataclass(frozen=True)
class Side:
    """One of two models on the holdout.

    Args:
        pipeline: The model.
        output: What it predicts for the rows, in the columns of the classes of both.
    """

    pipeline: Pipeline
    output: np.ndarray


def looked_at(
    gate: GateSpec,
    kind: Kind,
    rows: Sample,
    candidate: Side,
    production: Side,
    classes: Sequence[Any] | None,
) -> Iterator[GuardResult]:
    """What each guard of the YAML says of a candidate."""
    asked, labels = gate.guards, rows.target.to_numpy()
    ours, theirs = candidate.output, production.output
    if asked.calibration:
        yield domain.calibration(
            asked.calibration, labels, ours, theirs, rows.blocks, gate.confidence
        )
    if asked.negative_flips:
        known, ours = comparable(labels, ours, classes)
        yield domain.negative_flips(asked.negative_flips, known, ours, theirs, gate.threshold)
    if asked.latency:
        times = _seconds(kind, rows.features, candidate.pipeline, production.pipeline)
        yield domain.ratio("latency", asked.latency, *times)
    if asked.size:
        both = ({"bytes": float(len(_file(side.pipeline)))} for side in (candidate, production))
        yield domain.ratio("size", asked.size, *both)
    if asked.skew:
        yield _skew(asked.skew, kind, rows.features, candidate.pipeline)


def _seconds(
    kind: Kind, features: pl.DataFrame, *pipelines: Pipeline
) -> tuple[dict[str, float], dict[str, float]]:
    """Medians by size of the batch; the two take turns, so that a busy machine slows both."""
    found: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for name, batch in (("one row", features.head(1)), ("a batch", features.head(BATCH))):
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(REPEATS):
            for pipeline, seconds in zip(pipelines, taken, strict=True):
                began = perf_counter()
                predict(pipeline, kind, batch)
                seconds.append(perf_counter() - began)
        for side, seconds in zip(found, taken, strict=True):
            side[f"seconds of {name}"] = median(seconds)
    return found


def _file(pipeline: Pipeline) -> bytes:
    import skops.io

    return bytes(skops.io.dumps(pipeline))


def _skew(action: Any, kind: Kind, features: pl.DataFrame, pipeline: Pipeline) -> GuardResult:
    """Whether a clean process predicts the same for every row of the holdout, bit for bit."""
    content = _file(pipeline)
    with TemporaryDirectory() as folder:
        path, example = Path(folder) / MODEL_FILE, Path(folder) / EXAMPLE_FILE
        path.write_bytes(content)
        write_example(example, features, predict(pipeline, kind, features))
        tried = check_file(path, digest(content), example, kind)
    return GuardResult("skew", action, tried.passed, tried.detail)
