"""A fitted pipeline with less between a row and its prediction.

scikit-learn checks, copies and reorders for milliseconds what takes microseconds for one row. Here
the same fitted parts are asked directly: categories by a dict, the preparation and the trees of a
HistGradientBoosting by numpy. This leans on private parts, so `fast` gives nothing that has not
repeated the pipeline's own predictions. Not here: features, loading.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from retrain_assets.domain.estimator import PredictionError, predict
from retrain_assets.serving.trees import Trees

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl
    from sklearn.pipeline import Pipeline

    from retrain_assets.specs.features import Kind

TOLERANCE = 1e-6


class Fast:
    """Predictions of a few rows.

    Args:
        pipeline: A fitted model.
        kind: Its kind.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: Its parts are not those that are known.
    """

    def __init__(self, pipeline: Pipeline, kind: Kind) -> None:
        encoder, estimator = pipeline[0], pipeline[-1]
        self.columns = list(encoder.columns_)
        self._codes = [
            {value: float(code) for code, value in enumerate(encoder.categories_[name])}
            if name in encoder.categories_
            else None
            for name in self.columns
        ]
        self._encoding = [encoder._encoded(name) for name in self.columns]  # noqa: SLF001
        self._empty = [place for place, n in enumerate(self.columns) if n in encoder.empty_]
        self._estimate = _estimating(pipeline, estimator, kind)

    def predict(self, rows: Sequence[Sequence[Any]]) -> np.ndarray:
        """Predict rows of features, which are in the order of `columns`, as `predict` does.

        Raises:
            PredictionError: A prediction is not finite.
        """
        matrix = np.empty((len(rows), len(self.columns)))
        for place, (values, codes) in enumerate(
            zip(zip(*rows, strict=True), self._codes, strict=True)
        ):
            matrix[:, place] = values if codes is None else [codes.get(v) for v in values]
        matrix[:, self._empty] = 0.0
        return _finite(self._estimate(matrix))

    def predict_frame(self, rows: pl.DataFrame) -> np.ndarray:
        """Predict a frame of features, for more rows than a few.

        Raises:
            PredictionError: A prediction is not finite.
        """
        return _finite(self._estimate(rows.select(self._encoding).to_numpy()))


def fast(pipeline: Pipeline, kind: Kind, rows: pl.DataFrame) -> tuple[Fast | None, str]:
    """The quick form of a pipeline, if it predicts the same.

    Args:
        pipeline: A fitted model.
        kind: Its kind.
        rows: Stored rows of features to hold the two against each other.

    Returns:
        It or None, and a sentence on why.
    """
    name = type(pipeline[-1]).__name__
    if rows.is_empty():
        return None, f"{name}: there are no stored rows to verify a quick form on"
    wanted = predict(pipeline, kind, rows)
    try:
        made = Fast(pipeline, kind)
        given, frame = made.predict(rows.select(made.columns).rows()), made.predict_frame(rows)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        return None, f"{name}: scikit-learn's own prediction is used, there is no other: {error!r}"
    same = given.shape == frame.shape == wanted.shape
    apart = float(max(abs(given - wanted).max(), abs(frame - wanted).max())) if same else math.inf
    if not apart <= TOLERANCE:
        return None, f"{name}: scikit-learn's own prediction is used, the quick one is {apart} off"
    return made, f"{name}: a quick form, within {apart:.1e} of scikit-learn on {len(wanted)} rows"


def _finite(output: np.ndarray) -> np.ndarray:
    if not np.isfinite(output).all():
        row = int(np.argwhere(~np.isfinite(output))[0][0])
        raise PredictionError(f"the prediction of row {row} (counted from 0) is not finite")
    return output


def _estimating(
    pipeline: Pipeline, estimator: Any, kind: Kind
) -> Callable[[np.ndarray], np.ndarray]:
    if hasattr(estimator, "_predictors"):
        return _trees(estimator, kind)
    prepare = _preparing(pipeline[1]) if len(pipeline) > 2 else _as_is  # noqa: PLR2004 encode, estimator
    if kind == "binary" and type(estimator).__name__ == "LogisticRegression":
        weights, bias = estimator.coef_[0], estimator.intercept_[0]
        return lambda matrix: _expit(prepare(matrix) @ weights + bias)
    if kind == "regression":
        return lambda matrix: np.asarray(estimator.predict(prepare(matrix)), np.float64)
    last = slice(None) if kind == "multiclass" else 1
    return lambda matrix: np.asarray(estimator.predict_proba(prepare(matrix))[:, last])


def _expit(raw: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        found: np.ndarray = 1 / (1 + np.exp(-raw))
    return found


def _as_is(matrix: np.ndarray) -> np.ndarray:
    return matrix


def _preparing(columns: Any) -> Callable[[np.ndarray], np.ndarray]:
    """One-hot categories, then numbers imputed and standardised, as `build_pipeline` has them."""
    fitted = {name: (step, list(places)) for name, step, places in columns.transformers_}
    (onehot, categories), (scaled, numbers) = fitted["categories"], fitted["numbers"]
    blocks = [np.asarray(found, np.float64) for found in onehot.categories_] if categories else []
    if numbers:
        imputer, scaler = scaled.named_steps["simpleimputer"], scaled.named_steps["standardscaler"]
        fill, mean, scale = imputer.statistics_, scaler.mean_, scaler.scale_

    def prepared(matrix: np.ndarray) -> np.ndarray:
        parts = []
        for place, known in zip(categories, blocks, strict=True):
            code = matrix[:, place, None]
            parts.append((code == known) | (np.isnan(code) & np.isnan(known)))
        if numbers:
            values = matrix[:, numbers]
            parts.append((np.where(np.isnan(values), fill, values) - mean) / scale)
        return np.hstack(parts, dtype=np.float64)

    return prepared


def _trees(model: Any, kind: Kind) -> Callable[[np.ndarray], np.ndarray]:
    trees, reorder = Trees(model), _reordering(model)
    baseline, loss = model._baseline_prediction, model._loss  # noqa: SLF001

    def estimate(matrix: np.ndarray) -> np.ndarray:
        raw = trees.sums(reorder(matrix)) + baseline
        if kind == "regression":
            return np.asarray(loss.link.inverse(raw[:, 0]))
        return _expit(raw[:, 0]) if kind == "binary" else np.asarray(loss.predict_proba(raw))

    return estimate


def _reordering(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """What the model's own preprocessor does: categories by their order, before the numbers."""
    if model._preprocessor is None:  # noqa: SLF001
        return _as_is
    encoder = model._preprocessor.named_transformers_["encoder"]  # noqa: SLF001
    categorical = np.flatnonzero(model.is_categorical_)
    order = np.concatenate([categorical, np.flatnonzero(~model.is_categorical_)])
    codes = []
    for found in encoder.categories_:
        table = np.full(256, np.nan)
        seen = found[~np.isnan(found)].astype(int)
        table[seen] = np.arange(len(seen))
        codes.append(table)

    def reordered(matrix: np.ndarray) -> np.ndarray:
        moved = matrix[:, order]
        for place, table in enumerate(codes):
            column = moved[:, place]
            moved[:, place] = table[np.where(np.isnan(column), 255, column).astype(int)]
        return moved

    return reordered
