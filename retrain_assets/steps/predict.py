"""Predictions of a range of partitions, by the version that was in production when each arrived.

Not here: comparing them with anything.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.features import KEY, PARTITION, feature_columns
from retrain_assets.domain.performance import block_values
from retrain_assets.domain.profile import build_profile
from retrain_assets.steps.build import Built, commit_metadata, ready, stored_features
from retrain_assets.steps.train import PREDICTION_COLUMN, as_column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain_assets.steps.state import ModelState
    from retrain_assets.stores.ledger import History, LedgerRow
    from retrain_assets.stores.models import ModelRegistry

PERFORMANCE_SCHEMA: dict[str, pl.DataType] = {
    PARTITION: pl.String(),
    "model_version": pl.Int64(),
    "metric": pl.String(),
    "value": pl.Float64(),
    "rows": pl.Int64(),
}


def predictions(
    state: ModelState, registry: ModelRegistry, partitions: Sequence[str], run_id: str
) -> Built:
    """Predict each partition with the version that was in production when it arrived.

    Rows inside that version's training range are marked `in_sample` and enter no measure.
    """
    keys = ready(state, partitions)
    table = stored_features(state, keys)
    scored = _score(state, registry, table, state.ledger.read())
    fresh = scored.filter(~pl.col("in_sample"))
    tables, commit = state.tables, commit_metadata(run_id, keys)
    profiled = build_profile(fresh.select(PARTITION, PREDICTION_COLUMN))
    tables.replace(state.table("prediction_profile"), profiled, keys, commit)
    performance = _performance(state, fresh)
    tables.replace(state.table("performance"), performance, keys, commit)
    version = tables.replace(state.table("predictions"), scored, keys, commit)
    return Built(keys, scored, version)


def _score(
    state: ModelState, registry: ModelRegistry, table: pl.DataFrame, history: History
) -> pl.DataFrame:
    serving: dict[int, list[str]] = defaultdict(list)
    rows = {}
    for key in table[PARTITION].unique(maintain_order=True):
        row = history.production_at(key)
        if row is not None:
            rows[row.version] = row
            serving[row.version].append(key)
    parts = [
        _predict(state, registry, table.filter(pl.col(PARTITION).is_in(keys)), rows[version])
        for version, keys in serving.items()
    ]
    return pl.concat(parts) if parts else _empty_predictions(state)


def _predict(
    state: ModelState, registry: ModelRegistry, table: pl.DataFrame, row: LedgerRow
) -> pl.DataFrame:
    from retrain_assets.domain.estimator import predict

    kind, pipeline = state.spec.target.kind, registry.load(row.version, row.sha256)
    output = predict(pipeline, kind, table.select(feature_columns(table, state.spec)))
    identity = table.select(
        PARTITION,
        KEY,
        pl.lit(row.version, pl.Int64).alias("model_version"),
        pl.col(PARTITION).is_between(*map(pl.lit, row.data_range)).alias("in_sample"),
    )
    columns = {PREDICTION_COLUMN: as_column(pipeline, output)}
    if kind == "multiclass":
        columns["probabilities"] = pl.Series(output.tolist(), dtype=pl.List(pl.Float64))
    label = table[state.spec.target.column].alias("label")
    return identity.with_columns(**columns, label=label)


def _empty_predictions(state: ModelState) -> pl.DataFrame:
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


def _performance(state: ModelState, scored: pl.DataFrame) -> pl.DataFrame:
    """The followed metric of each partition and version, over rows whose label is known."""
    trigger, labelled = state.spec.triggers.performance, scored.drop_nulls("label")
    if trigger is None or labelled.is_empty():
        return pl.DataFrame(schema=PERFORMANCE_SCHEMA)
    output = "probabilities" if "probabilities" in labelled.columns else PREDICTION_COLUMN
    parts = [
        block_values(
            trigger.metric,
            rows["label"].to_numpy(),
            rows[output].to_numpy(),
            rows[PARTITION],
        ).select(
            pl.col("block").alias(PARTITION),
            pl.lit(version, pl.Int64).alias("model_version"),
            pl.lit(trigger.metric).alias("metric"),
            "value",
            pl.col("rows").cast(pl.Int64),
        )
        for (version,), rows in labelled.group_by("model_version", maintain_order=True)
    ]
    return pl.concat(parts)
