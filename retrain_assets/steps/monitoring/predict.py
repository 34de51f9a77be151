"""Predict a range of partitions with the version that was in production when each arrived.

Not here: comparing them with anything.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial

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
from retrain_assets.steps.monitoring import in_service
from retrain_assets.steps.monitoring.intervals import list_outputs, read_timeline
from retrain_assets.steps.monitoring.members import (
    ADAPTED,
    NEWEST,
    PROBABILITIES,
    STATE,
    MemberOutputs,
)
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
    models, batches = _load_models(state, history, keys), Rows(state).batches(keys)
    if state.spec.layer.mode == "off":
        results = state.engine.map(partial(_score_batch, state, history, models), batches)
    else:  # one batch after the other, since each moves the layer
        layer = _Layer(
            in_service.Follower(state, history, keys, cache(state.registry.load)), run_id
        )
        results = map(partial(_score_batch, state, history, models, layer=layer), batches)
    versions, profiles, performance = [], [], []
    tables, commit = state.tables, build.describe_commit(run_id, keys)
    with Spill() as spill:
        for scored, profile, values in results:
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
        ModelFileError: It was trained on features that the YAML no longer makes.
    """
    history = state.ledger.read()
    decided = {row.version: row for row in history.on_versions}
    row = history.production if version is None else decided.get(version)
    if row is None:
        versions = ", ".join(map(str, sorted(decided))) or "none yet"
        problem = "nothing in production" if version is None else f"no version {version}"
        raise LookupError(
            f"model {state.spec.name} has {problem}; versions with a decision: {versions}"
        )
    pipeline = state.registry.load(row.version, row.sha256)
    if missing := ", ".join(train.list_missing_features(state, pipeline)):
        raise ModelFileError(
            f"version {row.version} needs {missing}, which the YAML no longer makes"
        )
    timeline = read_timeline(state, history, row)
    older = None
    if version is None:
        with suppress(in_service.OldStateError):  # then the newest version alone
            older = _load_members(state, in_service.read_newest(state, history))
    batches = [*Rows(state).batches(partitions)]
    predict_batch = partial(_predict_batch, state, pipeline, row, older)
    center, interval = pl.col(PREDICTION_COLUMN), {}
    if timeline and (half_width := timeline.next) is not None:
        interval = {"low": center - half_width, "high": center + half_width}
    for keys, scored in zip(batches, state.engine.map(predict_batch, batches), strict=True):
        yield keys, scored.with_columns(**interval)


@dataclass(frozen=True)
class _Members:
    """The present state of the layer in service, and the pipelines of its older members."""

    newest: in_service.Newest
    pipelines: Sequence[Model]


def _load_members(state: ModelState, newest: in_service.Newest | None) -> _Members | None:
    if newest is None:
        return None
    pipelines = (state.registry.load(row.version, row.sha256) for row in newest.members[1:])
    usable = [item for item in pipelines if not train.list_missing_features(state, item)]
    return _Members(newest, usable)


def _predict_batch(
    state: ModelState,
    pipeline: Model,
    row: LedgerRow,
    members: _Members | None,
    keys: Sequence[str],
) -> pl.DataFrame:
    table = build.read_features(state, keys)
    scored, output = _predict(state, pipeline, table, row)
    if members is None:
        return scored
    served = _serve(state, members, pipeline, output, table)
    moved = served.values != output  # elsewhere the newest version answers alone
    moved = moved if moved.ndim == 1 else moved.any(axis=1)
    name = pl.when(pl.Series(moved)).then(pl.lit(members.newest.name)).alias(STATE)
    return scored.with_columns(*_list_columns(served), name)


def _load_models(state: ModelState, history: History, keys: Sequence[str]) -> Models:
    """Load the versions that some partitions are predicted with."""
    rows = {row.version: row for key in keys if (row := history.production_at(key))}
    return {number: state.registry.load(number, row.sha256) for number, row in rows.items()}


@dataclass(frozen=True)
class _Layer:
    """The adaptive layer that follows some partitions, in a run."""

    follower: in_service.Follower
    run_id: str


def _score_batch(
    state: ModelState,
    history: History,
    models: Models,
    keys: Sequence[str],
    layer: _Layer | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return predictions of stored partitions, their summary, and each partition's metric."""
    table, members = build.read_features(state, keys), None
    if layer:
        members = MemberOutputs(state, keys, layer.follower.load, table)
    follower = layer.follower if layer else None
    scored, values = _score(state, history, models, table, follower, members)
    if layer and members:
        members.store(layer.run_id)
    fresh = scored.filter(~pl.col("in_sample")).select(PARTITION, *list_outputs(state))
    return scored, build_profile(fresh), values


def _serve(
    state: ModelState,
    members: _Members,
    pipeline: Model,
    output: np.ndarray,
    table: pl.DataFrame,
) -> train.Output:
    """Return what the layer serves now of rows of features."""
    features, kind = table.select(state.feature_names), state.spec.target.kind
    outputs = [train.Output(pipeline, output, train.get_classes(pipeline))]
    outputs += [
        train.Output(model, predict(model, kind, features, strict=False), train.get_classes(model))
        for model in members.pipelines
    ]
    return replace(outputs[0], values=members.newest.mix(outputs, state.spec.layer.members))


def _score(
    state: ModelState,
    history: History,
    models: Models,
    table: pl.DataFrame,
    follower: in_service.Follower | None,
    members: MemberOutputs | None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what is served of all rows that can be predicted, and each partition's metric."""
    scored, performance = [_make_empty(state)], [pl.DataFrame(schema=PERFORMANCE_SCHEMA)]
    for row, part in group_by_production(history, table):
        if row is None:
            continue
        pipeline = models[row.version]
        if train.list_missing_features(state, pipeline):
            continue  # the spec has changed, its candidate is still to come
        predictions, output = _predict(state, pipeline, part, row)
        if follower and members:
            newest = train.Output(pipeline, output, train.get_classes(pipeline))
            served, adapted, names = follower.serve(newest, part[PARTITION], members)
            predictions = predictions.with_columns(
                *_list_columns(served),
                _to_series(output, NEWEST),
                _to_series(adapted, ADAPTED),
                pl.Series(STATE, names, pl.String),
            )
            output = served.values
        scored.append(predictions)
        performance.append(_measure(state, predictions, output, pipeline, row))
    return pl.concat(scored), pl.concat(performance)


def _predict(
    state: ModelState, pipeline: Model, table: pl.DataFrame, row: LedgerRow
) -> tuple[pl.DataFrame, np.ndarray]:
    first, last = row.data_range
    features = table.select(state.feature_names)
    output = predict(pipeline, state.spec.target.kind, features, strict=False)
    columns = _list_columns(train.Output(pipeline, output, train.get_classes(pipeline)))
    rows = table.select(
        PARTITION,
        KEY,
        pl.lit(row.version, pl.Int64).alias("model_version"),
        pl.col(PARTITION).is_between(pl.lit(first), pl.lit(last)).alias("in_sample"),
    ).with_columns(*columns, label=table[state.spec.target.column])
    return rows, output


def _list_columns(output: train.Output) -> list[pl.Series]:
    """Return predictions as columns; null where they are not finite."""
    values, finite = output.values, pl.Series(are_finite(output.values))
    column = train.to_column(output.classes, values)
    null = pl.Series([None], dtype=column.dtype)
    columns = [column.zip_with(finite, null).alias(PREDICTION_COLUMN)]
    return columns if values.ndim == 1 else [*columns, _to_series(values, PROBABILITIES)]


def _to_series(values: np.ndarray, name: str) -> pl.Series:
    """Return output as a column of numbers or lists; null where it is not finite."""
    kind = pl.Float64() if values.ndim == 1 else pl.List(pl.Float64())
    series = pl.Series(name, values.tolist(), kind)
    return series.zip_with(pl.Series(are_finite(values)), pl.Series([None], dtype=kind)).alias(name)


def _make_empty(state: ModelState) -> pl.DataFrame:
    multiclass = state.spec.target.kind == "multiclass"
    value = pl.String if multiclass else pl.Float64
    output = pl.List(pl.Float64) if multiclass else pl.Float64
    learns = state.spec.layer.mode != "off"
    return pl.DataFrame(
        schema={
            PARTITION: pl.String,
            KEY: pl.String,
            "model_version": pl.Int64,
            "in_sample": pl.Boolean,
            PREDICTION_COLUMN: value,
            **({PROBABILITIES: pl.List(pl.Float64)} if multiclass else {}),
            "label": value,
            **(dict.fromkeys((NEWEST, ADAPTED), output) | {STATE: pl.String} if learns else {}),
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
