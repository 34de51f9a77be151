"""Trees as masks of leaves give the sums that scikit-learn gives, whatever the trees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from retrain_assets.serving.scoring.quick_model import Trees

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(1_500, 4))
ROWS[:, 2] = 3 * RANDOM.integers(0, 30, len(ROWS))  # a category
ROWS[RANDOM.random(ROWS.shape) < 0.1] = np.nan
ROWS[:40, 1] = np.inf
SCORE = np.nan_to_num(ROWS[:, 1], posinf=3.0) + np.sin(np.nan_to_num(ROWS[:, 2]))
ASKED = np.vstack([ROWS, [[9.0, np.nan, 77.0, -9.0], [np.inf, 0.0, np.nan, -np.inf]]])


def fitted(kind: type[Any], labels: np.ndarray, leaves: int | None) -> Any:
    params = {"max_iter": 8, "min_samples_leaf": 3, "categorical_features": [2]}
    return kind(max_leaf_nodes=leaves, **params).fit(ROWS, labels)


@pytest.mark.parametrize("leaves", [3, 31, 64, 200])
@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        (HistGradientBoostingRegressor, SCORE),
        (HistGradientBoostingClassifier, SCORE > 0),
        (HistGradientBoostingClassifier, np.digitize(SCORE, [-0.5, 0.5])),
    ],
    ids=["numbers", "two classes", "three classes"],
)
def test_sums_are_those_of_scikit_learn(kind: type[Any], labels: np.ndarray, leaves: int) -> None:
    model = fitted(kind, labels, leaves)
    wanted = model._raw_predict(ASKED) - model._baseline_prediction
    sums = Trees(model).sums(ASKED.T)
    np.testing.assert_allclose(sums, wanted, atol=1e-12)
    for row in (0, 17, len(ASKED) - 1):
        np.testing.assert_array_equal(Trees(model).sums(ASKED[row : row + 1].T), sums[[row]])


def test_trees_that_are_walked_faster_are_refused() -> None:
    with pytest.raises(ValueError, match="too many or too large"):
        Trees(fitted(HistGradientBoostingRegressor, SCORE, None))


def test_an_infinite_value_in_training_misplaces_no_missing_one() -> None:
    rows = RANDOM.normal(size=(1_500, 2))
    rows[:30, 0], rows[30:45, 0], rows[45:300, 0] = np.inf, -np.inf, np.nan
    model = HistGradientBoostingRegressor(max_iter=8, min_samples_leaf=2)
    model.fit(rows, np.where(np.isposinf(rows[:, 0]), 3, np.isnan(rows[:, 0])) + rows[:, 1])
    thresholds = np.concatenate([tree.nodes["num_threshold"] for (tree,) in model._predictors])
    assert np.isnan(thresholds).any()
    asked = np.vstack([rows, [[9.0, 0.0], [np.nan, 1.0], [np.inf, -1.0], [-np.inf, 1.0]]])
    wanted = model._raw_predict(asked) - model._baseline_prediction
    np.testing.assert_allclose(Trees(model).sums(asked.T), wanted, atol=1e-12)
