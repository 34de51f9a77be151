"""Judge one candidate against the model in production, on rows that neither was trained on.

The guards that need a clock, a file or a process are run here too. Not here: which rows, the
statistics, choosing among several candidates, and storing the verdict.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from timeit import timeit
from typing import Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision import gate as gates
from retrain_assets.domain.decision import guards
from retrain_assets.domain.drift.performance_estimate import fit_calibration
from retrain_assets.domain.drift.profile import build_profile
from retrain_assets.domain.metrics import metrics
from retrain_assets.domain.metrics.intervals import bonferroni
from retrain_assets.domain.model.estimator import PredictionError, predict, trivial_prediction
from retrain_assets.domain.model.explanation import Explainer, compare_moves, measure_moves, thin
from retrain_assets.specs.features import Kind
from retrain_assets.specs.gate import GateSpec, GuardSpec
from retrain_assets.steps.decision import train
from retrain_assets.steps.decision.train import Model, Output, Sample
from retrain_assets.steps.monitoring.in_service import PredictBy, predict_once, put_under
from retrain_assets.steps.monitoring.intervals import BLOCK, list_outputs
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.registry.model_check import EXAMPLE_FILE, check_file, write_example
from retrain_assets.stores.registry.model_file import MODEL_FILE, digest
from retrain_assets.stores.registry.registry import ModelVersion

CALIBRATION = "calibration"  # a key of the evidence
REPEATS, BATCH = 15, 1000
Judgement = tuple[gates.Decision, dict[str, Any]]


def judge(
    state: ModelState, candidate: ModelVersion, rival: Model | None, rows: Sample, among: int
) -> Judgement:
    """Judge a candidate.

    Args:
        state: The model.
        candidate: The version to judge.
        rival: The model in production, if there is one.
        rows: Rows on which neither was trained.
        among: How many candidates the best is chosen of.

    Returns:
        The verdict; and comparison, slices and guards as far as they were computed.
    """
    pipeline = state.registry.load(candidate.version, candidate.sha256)
    older = predict_once(state, rows.features)
    try:
        output = _predict(state, pipeline, rows, older)
    except PredictionError as error:
        return gates.Decision(gates.Verdict.REJECT, str(error), None, None), {}
    store_expected_output(state, candidate, output, rows)
    curve = fit_calibration(rows.labels, output.values, output.classes) if output.classes else None
    gate, evidence = get_gate(state), {CALIBRATION: asdict(curve)} if curve else {}
    # A wider interval would let in more of what is worse, where the gate asks for no gain.
    among = 1 if gate.promote_when == "unless_worse" else among
    confidence = bonferroni(gate.confidence, among)
    constant = _predict_trivial(state, candidate, output, rows)
    trivial = _compare(gate, rows, output, constant, confidence)
    missing = train.list_missing_features(state, rival) if rival else []
    if rival and not missing:
        production = _predict(state, rival, rows, older, state.ledger.read().production_version)
        floor = _measure_gain(gate, rows, production, constant)
        outputs = align_outputs(output, production)
        decision, comparisons = _judge_against(state, gate, rows, *outputs, trivial, floor)
        return decision, evidence | comparisons
    decision = gates.decide(gate, None, trivial)
    if missing:
        note = f"production needs {', '.join(missing)}, which the YAML no longer makes"
        decision = replace(decision, reason=f"{decision.reason}; {note}")
    return decision, evidence | {"comparison": asdict(trivial)}


def _predict(
    state: ModelState, pipeline: Model, rows: Sample, older: PredictBy, version: int | None = None
) -> Output:
    """Return what would be served with a model as the newest version; its number if it has been."""
    output = train.predict_sample(state, pipeline, rows)
    return put_under(state, rows.features, rows.partitions, output, {version}, older)


def _judge_against(  # noqa: PLR0917 all of the same rows
    state: ModelState,
    gate: GateSpec,
    rows: Sample,
    candidate: Output,
    production: Output,
    trivial: gates.Comparison,
    floor: float,
) -> Judgement:
    """Judge a candidate against production, with the confidence of its trivial comparison."""
    metric, classes = metrics.get_gate_metric(gate), candidate.classes
    inputs = rows.labels, candidate.values, production.values, rows.blocks
    comparison = _compare(gate, rows, candidate, production, trivial.confidence)
    features = rows.features.select(gate.slices)
    slices = gates.compare_slices(gate, metric, features, *inputs, classes)
    kind, trusted = state.spec.target.kind, state.spec.estimator.trusted
    results = list(run_guards(gate, kind, rows, candidate, production, trusted))
    evidence = {
        "comparison": asdict(comparison),
        "slices": [asdict(result) for result in slices],
        "guards": [result.record() for result in results],
    }
    return gates.decide(gate, comparison, trivial, slices, results, floor), evidence


def _compare(
    gate: GateSpec, rows: Sample, ours: Output, theirs: Output, confidence: float
) -> gates.Comparison:
    """Compare two outputs in the same columns."""
    inputs = rows.labels, ours.values, theirs.values, rows.blocks, confidence
    return gates.compare(metrics.get_gate_metric(gate), *inputs, classes=ours.classes)


def _measure_gain(gate: GateSpec, rows: Sample, ours: Output, theirs: Output) -> float:
    """Return how much better an output is than another one, without an interval."""
    metric, sides = metrics.get_gate_metric(gate), align_outputs(ours, theirs)
    values = (metrics.evaluate(metric, rows.labels, side.values, side.classes) for side in sides)
    return float(metric.gain(*values))


def _predict_trivial(
    state: ModelState, candidate: ModelVersion, output: Output, rows: Sample
) -> Output:
    """Return the best constant prediction from a candidate's own training rows, in its columns."""
    gate, kind, tags = state.spec.gate, state.spec.target.kind, candidate.tags
    keys = state.trained_on(state.mature(), (tags["train_from"], tags["train_to"]))
    trained = train.sample(state, keys, fitting=True)
    values = trivial_prediction(kind, trained.target, trained.weight, len(rows.labels), gate)
    return replace(output, values=values)


def align_outputs(ours: Output, theirs: Output) -> tuple[Output, Output]:
    """Return both outputs in the same columns, since one model may know more classes."""
    if ours.classes is None or theirs.classes is None or ours.values.ndim == 1:
        return ours, theirs
    classes = sorted({*ours.classes, *theirs.classes})
    first, second = (
        Output(
            side.pipeline, metrics.align_columns(side.values, side.classes or [], classes), classes
        )
        for side in (ours, theirs)
    )
    return first, second


def get_gate(state: ModelState) -> GateSpec:
    """Return the gate with the confidence that follows from its yearly rate."""
    spec, period = state.spec, state.dataset.partition.period
    if period is None:  # `false_promotions_per_year` is refused for such partitions
        return spec.gate
    confidence = spec.gate.confidence_at(period.per_year, spec.triggers.cooldown)
    return spec.gate.model_copy(update={"confidence": confidence})


def store_expected_output(
    state: ModelState, candidate: ModelVersion, output: Output, rows: Sample
) -> None:
    """Store summaries of the output on unseen rows, the reference of drift and of intervals."""
    key, column = str(candidate.version), train.to_column(output.classes, output.values)
    table = {PARTITION: rows.partitions, train.PREDICTION_COLUMN: column, "label": rows.target}
    profile = build_profile(pl.DataFrame(table).select(PARTITION, *list_outputs(state)))
    blocks = profile.with_columns(pl.lit(key).alias(PARTITION), pl.col(PARTITION).alias(BLOCK))
    state.tables.replace(state.table("reference"), blocks, [key], {"candidate": key})


def run_guards(
    gate: GateSpec,
    kind: Kind,
    rows: Sample,
    candidate: Output,
    production: Output,
    trusted: Sequence[str] = (),
) -> Iterator[guards.GuardResult]:
    """Run each guard of the YAML on a candidate, which may hold types that the YAML trusts."""
    spec, labels, features = gate.guards, rows.labels, rows.features
    ours, theirs = candidate.values, production.values
    pipelines = candidate.pipeline, production.pipeline
    if spec.calibration:
        inputs = labels, ours, theirs, rows.blocks, gate.confidence
        yield guards.check_calibration(spec.calibration, *inputs)
    if spec.negative_flips:
        targets, ours = metrics.align_labels(labels, ours, candidate.classes)
        yield guards.check_negative_flips(
            spec.negative_flips, targets, ours, theirs, gate.threshold
        )
    if spec.latency:
        yield guards.check_ratio("latency", spec.latency, *_time_models(kind, features, *pipelines))
    if spec.size:
        sizes = ({"bytes": float(len(_serialize(pipeline)))} for pipeline in pipelines)
        yield guards.check_ratio("size", spec.size, *sizes)
    if spec.explanation_shift:
        yield _check_explanation(spec.explanation_shift, rows, *pipelines, gate.confidence)
    if spec.skew:
        yield _check_skew(spec.skew, kind, features, candidate.pipeline, trusted)


def _time_models(kind: Kind, features: pl.DataFrame, *pipelines: Model) -> list[dict[str, float]]:
    """Return each model's median seconds by size of the batch.

    The models take turns, so that a busy machine slows both alike.
    """
    costs: list[dict[str, float]] = [{} for _ in pipelines]
    for name, batch in {"one row": features.head(1), "a batch": features.head(BATCH)}.items():
        calls = [partial(predict, pipeline, kind, batch) for pipeline in pipelines]
        rounds = [[timeit(call, number=1) for call in calls] for _ in range(REPEATS)]
        for cost, times in zip(costs, zip(*rounds, strict=True), strict=True):
            cost[f"seconds of {name}"] = median(times)
    return costs


def _serialize(pipeline: Model) -> bytes:
    import skops.io

    return bytes(skops.io.dumps(pipeline))


def _check_explanation(
    spec: GuardSpec, rows: Sample, candidate: Model, production: Model, confidence: float
) -> guards.GuardResult:
    """Compare what moves the predictions of both; without SHAP values there is a warning."""
    features, blocks = thin(rows.features, rows.blocks)
    try:
        now, before = (measure_moves(Explainer(side), features) for side in (candidate, production))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        detail = f"explanation_shift cannot be measured: {error}"
        return guards.GuardResult("explanation_shift", "warn", False, detail)
    together = bonferroni(confidence, len(features.columns))
    return guards.check_explanation(spec, compare_moves(now, before, blocks, together))


def _check_skew(
    action: Any, kind: Kind, features: pl.DataFrame, pipeline: Model, trusted: Sequence[str]
) -> guards.GuardResult:
    """Check that a clean process predicts the same for every row of the holdout, bit for bit."""
    content = _serialize(pipeline)
    with TemporaryDirectory() as folder:
        path, example = Path(folder) / MODEL_FILE, Path(folder) / EXAMPLE_FILE
        path.write_bytes(content)
        write_example(example, features, predict(pipeline, kind, features))
        check = check_file(path, digest(content), example, kind, trusted)
    return guards.GuardResult("skew", action, check.passed, check.detail)
