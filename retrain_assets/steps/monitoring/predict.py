"""Predict a range of partitions with the version that was in production when each arrived.

Not here: comparing them with anything.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.observations import ESTIMATED, PERFORMANCE
from retrain_assets.domain.drift.performance_estimate import estimate_blocks
from retrain_assets.domain.drift.profile import build_profile
from retrain_assets.domain.features.build import KEY
from retrain_assets.domain.metrics.metrics import block_values, get_followed_metric
from retrain_assets.domain.model.estimator import are_finite, predict
from retrain_assets.steps.decision import train
from retrain_assets.steps.decision.evaluate import read_calibration
from retrain_assets.steps.decision.promote import reconcile
from retrain_assets.steps.decision.train import PREDICTION_COLUMN, Model
from retrain_assets.steps.features import build
from retrain_assets.steps.features.rows import Rows
from retrain_assets.steps.monitoring.intervals import list_outputs, read_timeline
from retrain_assets.steps.state import ModelState, group_by_production
from retrain_assets.stores.ledger import History, LedgerRow
from retrain_assets.stores.registry.model_file import ModelFileError
from retrain_assets.stores.tables.data_files import Spill

Models = Mapping[int, Model]  # by version
PERFORMANCE_SCHEMA: dict[str, pl.DataType] = {
    PARTITION: pl.String(),
    "model_version": pl.Int64(),
    "role": pl.String(),
    "metric": pl.String(),
    "value": pl.Float64(),
    "rows": pl.Int64(),
}


def predict_partitions(
    state: ModelState, partitions: Sequence[str], run_id: str
) -> build.BuildResult:
    """Predict each partition with the version that was in production when it arrived.

    Rows inside that version's training range are marked `in_sample` and enter no measure. Memory is
    that of a batch of partitions.
    """
    keys = build.list_ready(state, partitions, state.sources())
    history = state.ledger.read()
    if history.rows:
        reconcile(state.registry, history)  # a run may have been killed after its ledger row
    score = partial(_score_batch, state, history, _load_models(state, history, keys))
    versions, profiles, performance = [], [], []
    tables, commit = state.tables, build.describe_commit(run_id, keys)
    with Spill() as spill:
        for scored, profile, values in state.engine.map(score, Rows(state).batches(keys)):
            spill.add(scored)
            versions.append(scored.select(PARTITION, "model_version"))
            profiles.append(profile)
            performance.append(values)
        tables.replace(state.table("prediction_profile"), pl.concat(profiles), keys, commit)
        tables.replace(state.table("performance"), pl.concat(performance), keys, commit)
        version = tables.replace(state.table("predictions"), spill.frame(), keys, commit)
    return build.BuildResult(keys, pl.concat(versions), version)


def score_partitions(
    state: ModelState, partitions: Sequence[str], version: int | None
) -> Iterator[tuple[Sequence[str], pl.DataFrame]]:
    """Yield what one version predicts for stored partitions, some at a time; store nothing.

    Args:
        state: The model.
        partitions: Those without stored features give no rows.
        version: Any that was ever decided on; None for the one in production.

    Raises:
        LookupError: There is no such version.
        ModelFileError: It was trained on features that the spec no longer makes.
    """
    history = state.ledger.read()
    decided = {row.version: row for row in history.rows}
    row = history.production if version is None else decided.get(version)
    if row is None:
        versions = ", ".join(map(str, sorted(decided))) or "none yet"
        problem = "nothing in production" if version is None else f"no version {version}"
        raise LookupError(f"model {state.spec.name} has {problem}: decided on are {versions}")
    pipeline = state.registry.load(row.version, row.sha256)
    if missing := ", ".join(train.list_missing_features(state, pipeline)):
        raise ModelFileError(
            f"version {row.version} needs {missing}, which the spec no longer makes"
        )
    timeline = read_timeline(state, history, row)
    batches = [*Rows(state).batches(partitions)]
    predict_batch = partial(_predict_batch, state, pipeline, row)
    center, interval = pl.col(PREDICTION_COLUMN), {}
    if timeline and (half_width := timeline.next) is not None:
        interval = {"low": center - half_width, "high": center + half_width}
    for keys, scored in zip(batches, state.engine.map(predict_batch, batches), strict=True):
        yield keys, scored.with_columns(**interval)


def _predict_batch(
    state: ModelState, pipeline: Model, row: LedgerRow, keys: Sequence[str]
) -> pl.DataFrame:
    return _predict(state, pipeline, build.read_features(state, keys), row)[0]


def _load_models(state: ModelState, history: History, keys: Sequence[str]) -> Models:
    """Load the versions that some partitions are predicted with."""
    rows = {row.version: row for key in keys if (row := history.production_at(key))}
    return {number: state.registry.load(number, row.sha256) for number, row in rows.items()}


def _score_batch(
    state: ModelState, history: History, models: Models, keys: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return predictions of stored partitions, their summary, and each partition's metric."""
    scored, values = _score(state, history, models, build.read_features(state, keys))
    fresh = scored.filter(~pl.col("in_sample")).select(PARTITION, *list_outputs(state))
    return scored, build_profile(fresh), values


def _score(
    state: ModelState, history: History, models: Models, table: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return predictions of all rows that can be predicted, and each partition's metric."""
    scored, performance = [_make_empty(state)], [pl.DataFrame(schema=PERFORMANCE_SCHEMA)]
    for row, part in group_by_production(history, table):
        if row is None:
            continue
        pipeline = models[row.version]
        if train.list_missing_features(state, pipeline):
            continue  # the spec has changed, its candidate is still to come
        predictions, output = _predict(state, pipeline, part, row)
        scored.append(predictions)
        performance.append(_measure(state, predictions, output, pipeline, row))
    return pl.concat(scored), pl.concat(performance)


def _predict(
    state: ModelState, pipeline: Model, table: pl.DataFrame, row: LedgerRow
) -> tuple[pl.DataFrame, np.ndarray]:
    first, last = row.data_range
    features = table.select(state.feature_names)
    output = predict(pipeline, state.spec.target.kind, features, strict=False)
    finite = pl.lit(pl.Series(are_finite(output)))
    columns = {PREDICTION_COLUMN: train.to_column(train.get_classes(pipeline), output)}
    if output.ndim > 1:
        columns["probabilities"] = pl.Series(output.tolist(), dtype=pl.List(pl.Float64))
    rows = table.select(
        PARTITION,
        KEY,
        pl.lit(row.version, pl.Int64).alias("model_version"),
        pl.col(PARTITION).is_between(pl.lit(first), pl.lit(last)).alias("in_sample"),
    ).with_columns(
        *(pl.when(finite).then(values).alias(name) for name, values in columns.items()),
        label=table[state.spec.target.column],
    )
    return rows, output


def _make_empty(state: ModelState) -> pl.DataFrame:
    multiclass = state.spec.target.kind == "multiclass"
    value = pl.String if multiclass else pl.Float64
    return pl.DataFrame(
        schema={
            PARTITION: pl.String,
            KEY: pl.String,
            "model_version": pl.Int64,
            "in_sample": pl.Boolean,
            PREDICTION_COLUMN: value,
            **({"probabilities": pl.List(pl.Float64)} if multiclass else {}),
            "label": value,
        }
    )


def _measure(
    state: ModelState, scored: pl.DataFrame, output: np.ndarray, pipeline: Model, row: LedgerRow
) -> pl.DataFrame:
    """Return the followed metric of each partition: where labels are known, and as estimated."""
    trigger, empty = state.spec.triggers.performance, pl.DataFrame(schema=PERFORMANCE_SCHEMA)
    if trigger is None:
        return empty
    metric, blocks = get_followed_metric(trigger, state.spec.gate), scored[PARTITION]
    fresh = ~scored["in_sample"] & pl.Series(are_finite(output))
    labelled, values = fresh & scored["label"].is_not_null(), {}
    if labelled.any():
        labels, classes = scored["label"].filter(labelled).to_numpy(), train.get_classes(pipeline)
        predictions, parts = output[labelled.to_numpy()], blocks.filter(labelled)
        values[PERFORMANCE] = block_values(metric, labels, predictions, parts, classes)
    if fresh.any() and (calibrated := trigger.estimated and read_calibration(state, row.candidate)):
        predictions, parts = output[fresh.to_numpy()], blocks.filter(fresh)
        values[ESTIMATED] = estimate_blocks(metric, predictions, parts, calibrated)
    same = {"model_version": pl.lit(row.version, pl.Int64), "metric": pl.lit(metric.name)}
    tables = (
        part.rename({"block": PARTITION}).with_columns(role=pl.lit(role), **same)
        for role, part in values.items()
    )
    return pl.concat([empty, *(part.select(empty.columns) for part in tables)])
