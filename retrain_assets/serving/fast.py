"""A fitted HistGradientBoosting with less between a row and its prediction.

scikit-learn checks, copies and reorders for milliseconds what takes microseconds for one row. Here
categories are encoded by a dict and trees summed by numpy. This leans on private parts, so `fast`
gives nothing that has not repeated the pipeline's own predictions. Not here: features, loading.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.estimator import PredictionError, predict
from retrain_assets.serving.trees import Trees

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sklearn.pipeline import Pipeline

    from retrain_assets.specs.features import Kind

TOLERANCE = 1e-6


class Fast:
    """Predictions of rows.

    Args:
        pipeline: A fitted model.
        kind: Its kind.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: Its parts are not those that are known.
    """

    def __init__(self, pipeline: Pipeline, kind: Kind) -> None:
        encoder, model = pipeline[0], pipeline[-1]
        self._trees, self._kind = Trees(model), kind
        self._baseline, self._loss = model._baseline_prediction, model._loss  # noqa: SLF001
        self.columns = list(encoder.columns_)
        self._codes = [
            {value: float(code) for code, value in enumerate(encoder.categories_[name])}
            if name in encoder.categories_
            else None
            for name in self.columns
        ]
        self._enums = [None if codes is None else pl.Enum(list(codes)) for codes in self._codes]
        self._empty = [place for place, n in enumerate(self.columns) if n in encoder.empty_]

    def predict(self, features: Sequence[Sequence[Any] | pl.Series]) -> np.ndarray:
        """Predict rows of features, a column each in the order of `columns`, as `predict` does.

        Raises:
            PredictionError: A prediction is not finite.
        """
        matrix = np.empty((len(self.columns), len(features[0])))
        for place, values in enumerate(features):
            codes, kind = self._codes[place], self._enums[place]
            if not isinstance(values, pl.Series):
                matrix[place] = values if codes is None else [codes.get(v) for v in values]
            elif kind is None:
                matrix[place] = values.cast(pl.Float64).to_numpy()
            else:
                coded = values.cast(pl.String).cast(kind, strict=False).to_arrow()
                matrix[place] = coded.indices.to_numpy(zero_copy_only=False)
        matrix[self._empty] = 0.0
        return self._estimated(matrix)

    def _estimated(self, matrix: np.ndarray) -> np.ndarray:
        raw = self._trees.sums(matrix) + self._baseline
        if self._kind == "multiclass":
            output = np.asarray(self._loss.predict_proba(raw))
        else:
            output = (
                _expit(raw[:, 0]) if self._kind == "binary" else self._loss.link.inverse(raw[:, 0])
            )
        if not np.isfinite(output).all():
            row = int(np.argwhere(~np.isfinite(output))[0][0])
            raise PredictionError(f"the prediction of row {row} (counted from 0) is not finite")
        return output


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
        given = made.predict([rows[name].to_list() for name in made.columns])
        frame = made.predict([rows[name] for name in made.columns])
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        return None, f"{name}: scikit-learn's own prediction is used, there is no other: {error!r}"
    same = given.shape == frame.shape == wanted.shape
    apart = float(max(abs(given - wanted).max(), abs(frame - wanted).max())) if same else math.inf
    if not apart <= TOLERANCE:
        return None, f"{name}: scikit-learn's own prediction is used, the quick one is {apart} off"
    return made, f"{name}: a quick form, within {apart:.1e} of scikit-learn on {len(wanted)} rows"


def _expit(raw: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        found: np.ndarray = 1 / (1 + np.exp(-raw))
    return found
