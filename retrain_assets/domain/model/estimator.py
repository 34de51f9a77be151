"""Fit the estimator that the YAML names, and predict with it.

A fitted model is a scikit-learn pipeline whose first step takes the raw frame of features, so that
training, batch and a single row are encoded by the same code. Libraries are imported within
functions. Whoever fits decides the process's OpenMP settings first (`prepare_threads` of the
model store), since this package does not touch the environment.

An estimator that was fitted elsewhere is wrapped so that it takes the features of the spec. Not
here: how a search chooses settings, judging and storing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.metrics.metrics import evaluate, get_gate_metric
from retrain_assets.domain.model.families.catalogue import family_of
from retrain_assets.domain.model.families.family import LAST, PLAIN, Rows, TrainingError
from retrain_assets.domain.model.pipeline import build_pipeline
from retrain_assets.domain.model.search import Journal, Params, search, time_folds
from retrain_assets.domain.threads import one_thread
from retrain_assets.specs.features import Kind
from retrain_assets.specs.gate import GateSpec
from retrain_assets.specs.model import (
    EarlyStoppingSpec,
    EstimatorSpec,
    ModelSpec,
    SearchSpec,
)

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


class PredictionError(ValueError):
    """A model gave something that is no prediction."""


@dataclass(frozen=True)
class Fitted:
    """A fitted pipeline and how it came about.

    Args:
        pipeline: From a frame of features to predictions.
        params: The estimator's arguments, set and default, as far as they are plain values.
        search: The settings tried and their losses; None without `estimator.search`.
    """

    pipeline: Pipeline
    params: Mapping[str, object]
    search: pl.DataFrame | None


@dataclass(frozen=True)
class _Rows:
    """Training rows: features, labels of shape (rows,), weights, blocks."""

    features: pl.DataFrame
    labels: np.ndarray
    weight: np.ndarray | None
    blocks: pl.Series

    def where(self, mask: pl.Series) -> _Rows:
        rows = mask.to_numpy()
        weight = None if self.weight is None else self.weight[rows]
        blocks = self.blocks.filter(mask)
        return _Rows(self.features.filter(mask), self.labels[rows], weight, blocks)


Fold = tuple[_Rows, _Rows]  # to fit on, and to judge on
MapFolds = Callable[[Callable[[Fold], float], Sequence[Fold]], Iterator[float]]


def fit(
    spec: ModelSpec,
    features: pl.DataFrame,
    target: pl.Series,
    blocks: pl.Series,
    weight: pl.Series | None = None,
    journal: Journal | None = None,
    *,
    map_folds: MapFolds = map,
) -> Fitted:
    """Fit the model's recipe.

    The same rows in the same order give the same model: estimators that subsample (such as
    HistGradientBoosting above 200,000 rows) depend on the order, so the caller sorts.

    Args:
        spec: The model.
        features: One column a feature.
        target: Labels: 0 and 1, texts, or numbers, by the kind of the model.
        blocks: The partition of each row, for the folds of a search and for early stopping.
        weight: Row weights.
        journal: What a search has tried already, and where it keeps what it tries.
        map_folds: Judges the folds of a setting in order, at once where it can.

    Raises:
        TrainingError: The estimator, its params or the labels cannot be used, or the search has
            no result.
    """
    from threadpoolctl import threadpool_limits

    pipeline = build_pipeline(spec.estimator, features.schema, spec.seed)
    refuse_wrong_kind(pipeline, spec.target.kind)
    weights = None if weight is None else weight.to_numpy()
    rows = _Rows(features, _to_labels(spec.target.kind, target), weights, blocks)
    estimator, trials = spec.estimator, None
    with threadpool_limits(limits=estimator.threads):
        if estimator.search is not None:
            best, trials = _search(spec, estimator.search, rows, journal, map_folds)
            estimator = _with(estimator, best)
        pipeline = _fit_recipe(spec, estimator, rows)
    params = family_of(pipeline[LAST]).list_params(pipeline[LAST]).items()
    plain = {name: value for name, value in params if isinstance(value, PLAIN)}
    return Fitted(pipeline, plain, trials)


def predict(
    pipeline: Pipeline, kind: Kind, features: pl.DataFrame, *, strict: bool = True
) -> np.ndarray:
    """Predict each row.

    Args:
        pipeline: A fitted model.
        kind: Its kind.
        features: Raw features, as in training.
        strict: Refuse a prediction that is not finite; else its row is NaN.

    Returns:
        Binary: probability of 1, of shape (rows,). Regression: the value, of shape (rows,).
        Multiclass: probabilities of shape (rows, classes), in the order of `pipeline.classes_`.

    Raises:
        PredictionError: A prediction is not finite, and `strict` is set.
        FeatureError: The features are not those of training.
    """
    method = pipeline.predict if kind == "regression" else pipeline.predict_proba
    with one_thread(type(pipeline[LAST]).__module__):
        output = np.asarray(method(features), dtype=np.float64)
    if kind == "binary":
        output = output[:, 1]
    infinite = np.flatnonzero(~are_finite(output))
    if infinite.size and not strict:
        output[infinite] = np.nan
    elif infinite.size:
        row = infinite[0]
        raise PredictionError(
            f"{infinite.size} of {len(output)} predictions are not finite, first in row {row} "
            f"(counted from 0): {output[row]}; features {features.row(row, named=True)}"
        )
    return output


def are_finite(output: np.ndarray) -> np.ndarray:
    """Return of each row of predictions whether it is finite."""
    return np.asarray(np.isfinite(output.reshape(len(output), -1)).all(axis=1))


def trivial_prediction(
    kind: Kind, target: pl.Series, weight: pl.Series | None, n: int, gate: GateSpec | None = None
) -> np.ndarray:
    """Predict from the training target alone.

    Args:
        kind: The kind of prediction.
        target: Labels of the training rows.
        weight: Their weights.
        n: How many rows to predict.
        gate: By which it is judged: the best constant is the median for `mae`, the quantile for
            `pinball`, else the mean.

    Returns:
        Share of positives or the constant, of shape (n,); class shares of shape (n, classes), in
        sorted order.
    """
    labels = _to_labels(kind, target)
    weights = np.ones(len(labels)) if weight is None else weight.to_numpy()
    if kind == "multiclass":
        _, codes = np.unique(labels, return_inverse=True)
        shares = np.bincount(codes, weights) / weights.sum()
        return np.tile(shares, (n, 1))
    if gate is not None and gate.metric in {"mae", "pinball"}:
        order = np.argsort(labels, kind="stable")
        middle = np.searchsorted(weights[order].cumsum(), weights.sum() * (gate.quantile or 0.5))
        return np.full(n, float(labels[order][middle]))
    return np.full(n, np.average(labels, weights=weights))


def _search(
    spec: ModelSpec,
    search_spec: SearchSpec,
    rows: _Rows,
    journal: Journal | None,
    map_folds: MapFolds,
) -> tuple[Params, pl.DataFrame]:
    """Search on the folds where a model can be fitted and the metric is defined."""
    # A name that the estimator does not take would let each setting but the first fail.
    names = {**spec.estimator.params, **dict.fromkeys(search_spec.params)}
    build_pipeline(_with(spec.estimator, names), rows.features.schema, spec.seed)
    masks = time_folds(rows.blocks, search_spec.folds, spec.labels.delay)
    folds = [(rows.where(train), rows.where(validation)) for train, validation in masks]
    # No setting can be fitted on one class, so such a fold cannot compare settings.
    is_number = spec.target.kind == "regression"
    folds = [fold for fold in folds if is_number or np.unique(fold[0].labels).size > 1]

    def judge(params: Params) -> Iterator[float]:
        return map_folds(partial(_judge_fold, spec, params), folds)

    return search(search_spec, spec.estimator.params, spec.seed, judge, journal)


def _judge_fold(spec: ModelSpec, params: Params, fold: Fold) -> float:
    """Return the loss of a setting on the later rows of a fold, after a fit on the earlier ones."""
    from threadpoolctl import threadpool_limits

    train, validation = fold
    with threadpool_limits(limits=spec.estimator.threads):
        pipeline = _fit_recipe(spec, _with(spec.estimator, params), train)
        output = predict(pipeline, spec.target.kind, validation.features)
    metric, classes = get_gate_metric(spec.gate), getattr(pipeline, "classes_", None)
    return float(metric.gain(0.0, evaluate(metric, validation.labels, output, classes)))


def _with(spec: EstimatorSpec, params: Params) -> EstimatorSpec:
    return spec.model_copy(update={"params": params})


def _fit_recipe(spec: ModelSpec, estimator: EstimatorSpec, rows: _Rows) -> Pipeline:
    """Fit an estimator; with early stopping, on all rows with the number of rounds it chose."""
    pipeline = build_pipeline(estimator, rows.features.schema, spec.seed)
    if estimator.early_stopping is not None:
        rounds = _choose_rounds(pipeline, estimator.early_stopping, rows, spec.labels.delay)
        params = pipeline[LAST].family.set_rounds(estimator.params, rounds)
        pipeline = build_pipeline(_with(estimator, params), rows.features.schema, spec.seed)
    _fit(pipeline, rows)
    return pipeline


def _choose_rounds(pipeline: Pipeline, spec: EarlyStoppingSpec, rows: _Rows, gap: int) -> int:
    """Return the number of rounds that predicts the newest partitions best.

    Raises:
        TrainingError: The estimator has no rounds, or there are too few partitions.
    """
    estimator, names = pipeline[LAST], rows.blocks.unique().sort()
    name = name_class(estimator)
    if not family_of(estimator).early_stops:
        raise TrainingError(
            f"estimator.early_stopping: {name} does not support it: leave it out, or use an "
            "estimator of LightGBM, XGBoost or CatBoost"
        )
    count = max(1, round(spec.share * len(names)))
    older = names.head(max(0, len(names) - count - gap))
    if older.is_empty():
        raise TrainingError(
            f"estimator.early_stopping: {len(names)} training partitions are too few to judge on "
            f"{count} of them with a gap of {gap}: use a longer windows.train"
        )
    parts = [rows.where(rows.blocks.is_in(part)) for part in (older, names.tail(count))]
    encoder = pipeline[:-1].fit(parts[0].features)
    encoded = (Rows(encoder.transform(i.features), i.labels, i.weight) for i in parts)
    try:
        return int(estimator.choose_rounds(*encoded, spec.rounds))
    except TrainingError:
        raise
    except (ValueError, TypeError) as error:
        raise TrainingError(f"estimator: {name} cannot be fitted: {error}") from error


def name_class(estimator: Any) -> str:
    """Return the name of the class of an estimator, of another library with its path."""
    return str(getattr(estimator, "path", type(estimator).__name__))


def _fit(pipeline: Pipeline, rows: _Rows) -> None:
    from sklearn.utils.validation import has_fit_parameter

    estimator = pipeline[LAST]
    name = name_class(estimator)
    if hasattr(pipeline, "predict_proba") and np.unique(rows.labels).size == 1:
        raise TrainingError(
            f"target: all {len(rows.labels)} training rows are {rows.labels[0]}: "
            "a classifier needs two classes, use a longer windows.train"
        )
    arguments = {}
    if rows.weight is not None:
        if not has_fit_parameter(estimator, "sample_weight"):
            raise TrainingError(f"weight: {name} takes no row weights: choose another estimator")
        arguments = {f"{LAST}__sample_weight": rows.weight}
    try:
        pipeline.fit(rows.features, rows.labels, **arguments)
    except (ValueError, TypeError) as error:
        raise TrainingError(f"estimator: {name} cannot be fitted: {error}") from error


def _to_labels(kind: Kind, target: pl.Series) -> np.ndarray:
    """Return labels as scikit-learn takes them, and as a stored model can hold them."""
    if not len(target) or target.null_count():
        raise TrainingError(
            f"target {target.name}: {target.null_count()} of {len(target)} rows have no label: "
            "give labelled rows"
        )
    if kind == "multiclass":
        return np.array(target.cast(pl.String).to_list(), dtype=np.str_)
    numbers = target.cast(pl.Float64).to_numpy()
    if kind == "regression":
        return numbers
    wrong_labels = np.setdiff1d(numbers, [0, 1])
    if wrong_labels.size:
        label = f"{wrong_labels[0]:g}"
        raise TrainingError(f"target {target.name}: binary labels are 0 and 1, found {label}")
    return numbers.astype(np.int64)


def refuse_wrong_kind(pipeline: Pipeline, kind: Kind) -> None:
    """Refuse a pipeline that does not predict what a kind asks for.

    Raises:
        TrainingError: It is not the classifier or regressor that is needed, or gives no
            probabilities.
    """
    from sklearn.base import is_classifier, is_regressor

    name = name_class(pipeline[LAST])
    fits, role = is_classifier, "classifier"
    if kind == "regression":
        fits, role = is_regressor, "regressor"
    if not fits(pipeline):
        raise TrainingError(f"estimator: {name} is not a {role}, which target.kind {kind} needs")
    if kind != "regression" and not hasattr(pipeline, "predict_proba"):
        raise TrainingError(f"estimator: {name} gives no probabilities: choose one that does")


def wrap_fitted(estimator: Any, kind: Kind, features: pl.DataFrame) -> Pipeline:
    """Put an estimator behind what gives it the columns it wants.

    Args:
        estimator: Of scikit-learn, fitted.
        kind: What it is to predict.
        features: Rows as the spec makes them; their categories count as seen.

    Raises:
        TrainingError: It wants other columns, or predicts something else.
    """
    from sklearn.pipeline import Pipeline

    from retrain_assets.domain.encoder import FrameColumns

    names = getattr(estimator, "feature_names_in_", None)
    columns = list(features.columns if names is None else names)
    if missing := [str(name) for name in columns if name not in features.columns]:
        raise TrainingError(
            f"it needs {', '.join(missing)}, but `features` of the YAML does not make them"
        )
    count = getattr(estimator, "n_features_in_", len(columns))
    if count != len(columns):
        raise TrainingError(
            f"it was fitted on {count} unnamed columns, but the YAML makes {len(columns)}: "
            f"{', '.join(columns)}"
        )
    encoder = FrameColumns(with_names=names is not None).fit(features.select(columns))
    pipeline = Pipeline([("encode", encoder), (LAST, estimator)])
    refuse_wrong_kind(pipeline, kind)
    classes = list(getattr(pipeline, "classes_", ()))
    if kind == "binary" and classes != [0, 1]:
        raise TrainingError(f"its classes are {classes}, target.kind binary needs 0 and 1")
    if kind == "multiclass" and not all(isinstance(name, str) for name in classes):
        raise TrainingError(f"its classes are {classes}, target.kind multiclass needs texts")
    return pipeline
