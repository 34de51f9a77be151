"""The rows that lie far out, by an isolation forest on the training window of a model.

Source: Liu, Ting and Zhou, "Isolation Forest", ICDM 2008: rows that few random cuts set apart are
unlike the others. scikit-learn is imported when one is fitted. Not here: reading rows, and what is
done about them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

    from retrain_assets.domain.encoder import FrameEncoder

OUTLIER = "_outlier"
MAX_ROWS = 20_000
_LARGEST = float(np.finfo(np.float32).max) / 4  # the forest computes in float32


@dataclass(frozen=True)
class Detector:
    """A forest and the score from which a row counts as far out.

    Args:
        encoder: Of categories: the more frequent, the smaller.
        beyond: Of each column, a value beyond all of training: stands for none, and for a category
            that was not there.
        forest: Fitted on the encoded rows.
        threshold: The score that `rate` of the training rows exceed.
    """

    encoder: FrameEncoder
    beyond: np.ndarray
    forest: IsolationForest
    threshold: float

    def far_out(self, features: pl.DataFrame) -> pl.Series:
        """Return whether each row lies far out; of a row alone, the same as among others."""
        if features.is_empty():
            return pl.Series(OUTLIER, [], pl.Boolean)
        encoded = _filled(self.encoder.transform(features), self.beyond)
        return pl.Series(OUTLIER, -self.forest.score_samples(encoded) > self.threshold)


def fit_detector(features: pl.DataFrame, rate: float, seed: int) -> Detector:
    """Learn from the rows of a training window, in a fixed order.

    Args:
        features: Rows, at least one; `MAX_ROWS` are plenty, as a tree looks at 256.
        rate: Share of them that counts as far out.
        seed: Of the random cuts.
    """
    from sklearn.ensemble import IsolationForest

    from retrain_assets.domain.encoder import FrameEncoder

    encoder = FrameEncoder().fit(features)
    matrix = encoder.transform(features)
    values = np.where(np.isfinite(matrix), matrix, 0.0)
    beyond = values.max(axis=0) + np.ptp(values, axis=0) + 1
    encoded = _filled(matrix, beyond)
    forest = IsolationForest(random_state=seed, n_jobs=1).fit(encoded)
    threshold = float(np.quantile(-forest.score_samples(encoded), 1 - rate))
    return Detector(encoder, beyond, forest, threshold)


def _filled(matrix: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    return np.clip(np.where(np.isfinite(matrix), matrix, beyond), -_LARGEST, _LARGEST)
