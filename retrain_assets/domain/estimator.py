"""Fit the estimator that the YAML names, and predict with it.

A fitted model is a scikit-learn pipeline whose first step takes the raw frame of features, so that
training, batch and a single row are encoded by the same code. scikit-learn is imported within
functions. Whoever fits decides the process's OpenMP settings first (`prepare_threads` of the
model store), since this package does not touch the environment. Not here: judging, storing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.measures import judged_by
from retrain_assets.domain.performance import evaluate
from retrain_assets.domain.pipeline import LAST, TrainingError, build_pipeline
from retrain_assets.domain.search import search, time_folds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sklearn.pipeline import Pipeline

    from retrain_assets.specs.features import Kind
    from retrain_assets.specs.gate import GateSpec
    from retrain_assets.specs.model import EstimatorSpec, ModelSpec, SearchSpec

PLAIN = (str, int, float, bool, type(None))


class PredictionError(ValueError):
    """A model gave something that is no prediction."""


@dataclass(frozen=True)
class Fitted:
    """A fitted pipeline and how it came about.

    Args:
        pipeline: From a frame of features to predictions.
        params: The estimator's arguments, given and default, as far as they are plain values.
        search: The settings tried and their losses; None without `estimator.search`.
    """

    pipeline: Pipeline
    params: Mapping[str, object]
    search: pl.DataFrame | None


@dataclass(frozen=True)
class _Rows:
    """Training rows: features, labels of shape (rows,), weights."""

    features: pl.DataFrame
    labels: np.ndarray
    weight: np.ndarray | None

    def where(self, mask: pl.Series) -> _Rows:
        kept = mask.to_numpy()
        weight = None if self.weight is None else self.weight[kept]
        return _Rows(self.features.filter(mask), self.labels[kept], weight)


def fit(
    spec: ModelSpec,
    features: pl.DataFrame,
    target: pl.Series,
    blocks: pl.Series,
    weight: pl.Series | None = None,
) -> Fitted:
    """Fit the model's recipe.

    The same rows in the same order give the same model: estimators that subsample (such as
    HistGradientBoosting above 200,000 rows) depend on the order, so the caller sorts.

    Args:
        spec: The model.
        features: One column a feature.
        target: Labels: 0 and 1, texts, or numbers, by the kind of the model.
        blocks: The partition of each row, for the folds of a search.
        weight: Row weights.

    Raises:
        TrainingError: The estimator, its params or the labels do not do.
        SearchError: The search cannot be carried out.
    """
    from threadpoolctl import threadpool_limits

    pipeline = build_pipeline(spec.estimator, features.schema, spec.seed)
    refuse_wrong_kind(pipeline, spec.target.kind)
    weights = None if weight is None else weight.to_numpy()
    rows = _Rows(features, _labels(spec.target.kind, target), weights)
    tried = None
    with threadpool_limits(limits=spec.estimator.threads):
        if spec.estimator.search is not None:
            best, tried = _search(spec, spec.estimator.search, rows, blocks)
            pipeline = build_pipeline(_with(spec.estimator, best), features.schema, spec.seed)
        _fit(pipeline, rows)
    params = pipeline[LAST].get_params().items()
    used = {name: value for name, value in params if isinstance(value, PLAIN)}
    return Fitted(pipeline, used, tried)


def predict(pipeline: Pipeline, kind: Kind, features: pl.DataFrame) -> np.ndarray:
    """Predict each row.

    Args:
        pipeline: A fitted model.
        kind: Its kind.
        features: Raw features, as in training.

    Returns:
        Binary: probability of 1, of shape (rows,). Regression: the value, of shape (rows,).
        Multiclass: probabilities of shape (rows, classes), in the order of `pipeline.classes_`.

    Raises:
        PredictionError: A prediction is not finite.
        FeatureError: The features are not those of training.
    """
    from threadpoolctl import threadpool_limits

    said = pipeline.predict if kind == "regression" else pipeline.predict_proba
    with threadpool_limits(limits=1):  # more wait for each other where several runs are at work
        output = np.asarray(said(features), dtype=np.float64)
    if kind == "binary":
        output = output[:, 1]
    wrong = np.flatnonzero(~np.isfinite(output.reshape(len(output), -1)).all(axis=1))
    if wrong.size:
        raise PredictionError(
            f"{wrong.size} of {len(output)} predictions are not finite, first in row {wrong[0]} "
            f"(counted from 0): {output[wrong[0]]}; features {features.row(wrong[0], named=True)}"
        )
    return output


def trivial_prediction(
    kind: Kind, target: pl.Series, weight: pl.Series | None, n: int, gate: GateSpec | None = None
) -> np.ndarray:
    """What one would predict knowing nothing but the training target.

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
    labels = _labels(kind, target)
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
    spec: ModelSpec, wanted: SearchSpec, rows: _Rows, blocks: pl.Series
) -> tuple[dict[str, Any], pl.DataFrame]:
    metric = judged_by(spec.gate)
    folds = time_folds(blocks, wanted.folds, spec.labels.delay)
    parts = [(rows.where(train), rows.where(validation)) for train, validation in folds]
    sign = -1 if metric.greater_is_better else 1

    def loss(params: dict[str, Any]) -> float:
        estimator = _with(spec.estimator, params)
        values = []
        for train, validation in parts:
            pipeline = build_pipeline(estimator, rows.features.schema, spec.seed)
            _fit(pipeline, train)
            output = predict(pipeline, spec.target.kind, validation.features)
            classes = getattr(pipeline, "classes_", None)
            values.append(evaluate(metric, validation.labels, output, classes))
        return sign * float(np.mean(values))

    return search(wanted, spec.estimator.params, spec.seed, loss)


def _with(spec: EstimatorSpec, params: dict[str, Any]) -> EstimatorSpec:
    return spec.model_copy(update={"params": params})


def _fit(pipeline: Pipeline, rows: _Rows) -> None:
    from sklearn.utils.validation import has_fit_parameter

    estimator = pipeline[LAST]
    name = type(estimator).__name__
    if hasattr(pipeline, "predict_proba") and np.unique(rows.labels).size == 1:
        raise TrainingError(
            f"target: all {len(rows.labels)} training rows are {rows.labels[0]}: "
            "a classifier needs two classes, use a longer windows.train"
        )
    given = {}
    if rows.weight is not None:
        if not has_fit_parameter(estimator, "sample_weight"):
            raise TrainingError(f"weight: {name} takes no row weights: choose another estimator")
        given = {f"{LAST}__sample_weight": rows.weight}
    try:
        pipeline.fit(rows.features, rows.labels, **given)
    except (ValueError, TypeError) as error:
        raise TrainingError(f"estimator: {name} cannot be fitted: {error}") from error


def _labels(kind: Kind, target: pl.Series) -> np.ndarray:
    """Labels as scikit-learn takes them, and as a stored model can hold them."""
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
    other = np.setdiff1d(numbers, [0, 1])
    if other.size:
        raise TrainingError(f"target {target.name}: binary labels are 0 and 1, found {other[0]:g}")
    return numbers.astype(np.int64)


def refuse_wrong_kind(pipeline: Pipeline, kind: Kind) -> None:
    """Refuse a pipeline that predicts something else than a kind asks for.

    Raises:
        TrainingError: It does.
    """
    from sklearn.base import is_classifier, is_regressor

    name = type(pipeline[LAST]).__name__
    fits = is_regressor(pipeline) if kind == "regression" else is_classifier(pipeline)
    if not fits:
        wanted = "regressor" if kind == "regression" else "classifier"
        raise TrainingError(f"estimator: {name} is no {wanted}, which target.kind {kind} needs")
    if kind != "regression" and not hasattr(pipeline, "predict_proba"):
        raise TrainingError(f"estimator: {name} gives no probabilities: choose one that does")
