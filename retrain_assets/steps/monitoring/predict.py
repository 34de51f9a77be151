"""Predictions of a range of partitions, by the version that was in production when each arrived.

Not here: comparing them with anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.observations import ESTIMATED, PERFORMANCE
from retrain_assets.domain.drift.performance_estimate import estimate_blocks
from retrain_assets.domain.drift.profile import build_profile
from retrain_assets.domain.features.build import KEY
from retrain_assets.domain.metrics.metrics import MetricDef, block_values, get_followed_metric
from retrain_assets.domain.model.estimator import predict
from retrain_assets.steps.decision.evaluate import read_calibration
from retrain_assets.steps.decision.promote import reconcile
from retrain_assets.steps.decision.train import (
    PREDICTION_COLUMN,
    get_classes,
    list_missing_features,
    to_column,
)
from retrain_assets.steps.features.build import (
    BuildResult,
    describe_commit,
    list_ready,
    read_features,
)
from retrain_assets.steps.features.rows import Rows
from retrain_assets.steps.state import ModelState, by_production
from retrain_assets.stores.ledger import History, LedgerRow
from retrain_assets.stores.registry.model_file import ModelFileError
from retrain_assets.stores.tables.data_files import Spill

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

PERFORMANCE_SCHEMA: dict[str, pl.DataType] = {
    PARTITION: pl.String(),
    "model_version": pl.Int64(),
    "role": pl.String(),
    "metric": pl.String(),
    "value": pl.Float64(),
    "rows": pl.Int64(),
}


def predict_partitions(state: ModelState, partitions: Sequence[str], run_id: str) -> BuildResult:
    """Predict each partition with the version that was in production when it arrived.

    Rows inside that version's training range are marked `in_sample` and enter no measure. Memory is
    that of a batch of partitions.
    """
    keys = list_ready(state, partitions, state.sources())
    history = state.ledger.read()
    if history.rows:
        reconcile(state.registry, history)  # what was killed behind its ledger row is made up for
    load = cache(state.registry.load)
    seen, profiles, performance = [], [], []
    tables, commit = state.tables, describe_commit(run_id, keys)
    with Spill() as spill:
        for batch in Rows(state).batches(keys):
            table = read_features(state, batch)
            scored, measured = _score(state, history, load, table)
            fresh = scored.filter(~pl.col("in_sample")).select(PARTITION, PREDICTION_COLUMN)
            spill.add(scored)
            seen.append(scored.select(PARTITION, "model_version"))
            profiles.append(build_profile(fresh))
            performance.append(measured)
        tables.replace(state.table("prediction_profile"), pl.concat(profiles), keys, commit)
        tables.replace(state.table("performance"), pl.concat(performance), keys, commit)
        version = tables.replace(state.table("predictions"), spill.frame(), keys, commit)
    return BuildResult(keys, pl.concat(seen), version)


def score_partitions(
    state: ModelState, partitions: Sequence[str], version: int | None
) -> Iterator[tuple[Sequence[str], pl.DataFrame]]:
    """What one version predicts for stored partitions, some of them at a time; nothing is stored.

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
        known = ", ".join(map(str, sorted(decided))) or "none yet"
        wanted = "nothing in production" if version is None else f"no version {version}"
        raise LookupError(f"model {state.spec.name} has {wanted}: decided on are {known}")
    pipeline = state.registry.load(row.version, row.sha256)
    if missing := list_missing_features(state, pipeline):
        said = f"version {row.version} needs {', '.join(missing)}, which the spec no longer makes"
        raise ModelFileError(said)
    for keys in Rows(state).batches(partitions):
        yield keys, _predict(state, pipeline, read_features(state, keys), row)[0]


def _score(
    state: ModelState,
    history: History,
    load: Callable[[int, str], Pipeline],
    table: pl.DataFrame,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Predictions of all rows that can be predicted, and the followed metric of each partition."""
    scored, performance = [_make_empty(state)], [pl.DataFrame(schema=PERFORMANCE_SCHEMA)]
    for row, part in by_production(history, table):
        if row is None:
            continue
        pipeline = load(row.version, row.sha256)
        if list_missing_features(state, pipeline):
            continue  # the spec has changed, its candidate is still to come
        found, output = _predict(state, pipeline, part, row)
        scored.append(found)
        performance.append(_measure(state, found, output, pipeline, row))
    return pl.concat(scored), pl.concat(performance)


def _predict(
    state: ModelState, pipeline: Pipeline, table: pl.DataFrame, row: LedgerRow
) -> tuple[pl.DataFrame, np.ndarray]:
    first, last = row.data_range
    output = predict(pipeline, state.spec.target.kind, table.select(state.feature_names))
    columns = {PREDICTION_COLUMN: to_column(get_classes(pipeline), output)}
    if output.ndim > 1:
        columns["probabilities"] = pl.Series(output.tolist(), dtype=pl.List(pl.Float64))
    found = table.select(
        PARTITION,
        KEY,
        pl.lit(row.version, pl.Int64).alias("model_version"),
        pl.col(PARTITION).is_between(pl.lit(first), pl.lit(last)).alias("in_sample"),
    ).with_columns(**columns, label=table[state.spec.target.column])
    return found, output


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
    state: ModelState,
    scored: pl.DataFrame,
    output: np.ndarray,
    pipeline: Pipeline,
    row: LedgerRow,
) -> pl.DataFrame:
    """The followed metric of each partition: where labels are known, and as it is estimated."""
    trigger, found = state.spec.triggers.performance, [pl.DataFrame(schema=PERFORMANCE_SCHEMA)]
    if trigger is None:
        return found[0]
    metric, blocks = get_followed_metric(trigger, state.spec.gate), scored[PARTITION]
    fresh = ~scored["in_sample"]
    known = fresh & scored["label"].is_not_null()
    if known.any():
        labels = scored["label"].filter(known).to_numpy()
        kept, parts = output[known.to_numpy()], blocks.filter(known)
        values = block_values(metric, labels, kept, parts, get_classes(pipeline))
        found.append(_label_values(PERFORMANCE, values, metric, row))
    if fresh.any() and (calibrated := trigger.estimated and read_calibration(state, row.candidate)):
        kept, parts = output[fresh.to_numpy()], blocks.filter(fresh)
        values = estimate_blocks(metric, kept, parts, calibrated)
        found.append(_label_values(ESTIMATED, values, metric, row))
    return pl.concat(found)


def _label_values(
    role: str, values: pl.DataFrame, metric: MetricDef, row: LedgerRow
) -> pl.DataFrame:
    return values.select(
        pl.col("block").alias(PARTITION),
        pl.lit(row.version, pl.Int64).alias("model_version"),
        pl.lit(role).alias("role"),
        pl.lit(metric.name).alias("metric"),
        "value",
        "rows",
    )
