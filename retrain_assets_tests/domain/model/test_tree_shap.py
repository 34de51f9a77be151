"""SHAP values add up to the output, and are those of the definition and of each library."""

from __future__ import annotations

from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import polars as pl
import pytest

from retrain_assets.domain.model.families.catalogue import family_of
from retrain_assets.domain.model.pipeline import build_pipeline
from retrain_assets.domain.model.tree_shap import TreeShap
from retrain_assets.domain.model.trees import Ensemble, Tree
from retrain_assets.specs.model import EstimatorSpec

RANDOM = np.random.default_rng(0)
NUMBERS = RANDOM.normal(size=(600, 3))
NUMBERS[RANDOM.random(NUMBERS.shape) < 0.1] = np.nan
PLAN = RANDOM.choice(["a", "b", "c", "d", "e"], 600)
ROWS = pl.DataFrame({
    "x": NUMBERS[:, 0], "plan": PLAN, "y": NUMBERS[:, 1], "z": NUMBERS[:, 2],
}).fill_nan(None)  # fmt: skip
X, Y, _ = np.nan_to_num(NUMBERS).T
SCORE = X + np.where(PLAN == "c", 2.0 + Y, 0.0)
LABELS = {
    "numbers": SCORE,
    "two classes": (SCORE > 0).astype(int),
    "three classes": np.array(["low", "middle", "up"])[np.digitize(SCORE, [-0.5, 0.5])],
}


def fit_pipeline(library: str, target: str, **params: Any) -> Any:
    kind = "Regressor" if target == "numbers" else "Classifier"
    spec = EstimatorSpec.model_validate({"class": f"{library}{kind}", "params": params})
    return build_pipeline(spec, ROWS.schema, 0).fit(ROWS, LABELS[target])


HIST = "sklearn.ensemble.HistGradientBoosting"
FAMILIES = [
    (HIST, {"max_iter": 9, "max_leaf_nodes": 9}),
    ("lightgbm.LGBM", {"n_estimators": 9}),
    ("xgboost.XGB", {"n_estimators": 9}),
    ("catboost.CatBoost", {"iterations": 9}),
]


@pytest.mark.parametrize("target", LABELS)
@pytest.mark.parametrize(("library", "params"), FAMILIES)
def test_they_add_up_to_the_output(library: str, params: dict[str, Any], target: str) -> None:
    pipeline = fit_pipeline(library, target, **params)
    matrix, estimator = pipeline[0].transform(ROWS), pipeline[-1]
    values = family_of(estimator).build_explainer(estimator)(matrix)
    outputs = 3 if target == "three classes" else 1
    assert values.shape == (len(ROWS), outputs, 5)
    sums = values.sum(axis=2)
    if target == "numbers":
        np.testing.assert_allclose(sums[:, 0], estimator.predict(matrix), atol=1e-5)
    elif target == "two classes":
        chance = 1 / (1 + np.exp(-sums[:, 0]))
        np.testing.assert_allclose(chance, estimator.predict_proba(matrix)[:, 1], atol=1e-5)
    else:
        powers = np.exp(sums)
        shares = powers / powers.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(shares, estimator.predict_proba(matrix), atol=1e-5)
    assert abs(values[:, :, 1]).mean() > 1.5 * abs(values[:, :, 3]).mean()  # z moves nothing


def walk(tree: Tree, row: np.ndarray, known: tuple[int, ...]) -> float:
    """Return the mean of a tree where only some features are known, by the definition."""
    total = 0.0
    for leaf, value in enumerate(tree.leaves):
        share = 1.0
        for split in tree.splits:
            if not (split.below_left | split.below_right) >> leaf & 1:
                continue
            on_left = bool(split.below_left >> leaf & 1)
            rows = [
                sum(count for place, count in enumerate(tree.rows) if side >> place & 1)
                for side in (split.below_left, split.below_right)
            ]
            question, asked = split.question, row[split.question.column]
            if question.column not in known:
                share *= rows[not on_left] / sum(rows)
            elif question.categories is not None:
                place = -1 if np.isnan(asked) else int(asked)
                share *= bool(question.categories[place]) == on_left
            else:
                is_left = question.missing_left if np.isnan(asked) else asked <= question.threshold
                share *= is_left == on_left
        total += share * value
    return total


def explain_slowly(ensemble: Ensemble, row: np.ndarray) -> list[float]:
    """Return Shapley values as the mean over all orders in which features become known."""
    columns, values = range(ensemble.columns), []
    for column in columns:
        others, value = [item for item in columns if item != column], 0.0
        for size in range(len(others) + 1):
            weight = factorial(size) * factorial(len(others) - size) / factorial(len(columns))
            for known in combinations(others, size):
                for tree in ensemble.trees:
                    gain = walk(tree, row, (*known, column)) - walk(tree, row, known)
                    value += weight * gain
        values.append(value)
    return values


def test_they_are_those_of_the_definition() -> None:
    pipeline = fit_pipeline(HIST, "two classes", max_iter=3, max_leaf_nodes=6)
    ensemble = family_of(pipeline[-1]).read_trees(pipeline[-1])
    assert any(s.question.categories is not None for tree in ensemble.trees for s in tree.splits)
    matrix = pipeline[0].transform(ROWS)[:6]
    values = TreeShap(ensemble)(matrix)
    for row, explained in zip(matrix, values, strict=True):
        np.testing.assert_allclose(explained[0, :-1], explain_slowly(ensemble, row), atol=1e-12)


@pytest.mark.parametrize("target", ["numbers", "three classes"])
def test_they_are_those_of_a_library(target: str) -> None:
    pipeline = fit_pipeline("lightgbm.LGBM", target, n_estimators=7)
    matrix, estimator = pipeline[0].transform(ROWS)[:50], pipeline[-1]
    family = family_of(estimator)
    ours, theirs = TreeShap(family.read_trees(estimator)), family.build_explainer(estimator)
    np.testing.assert_allclose(ours(matrix), theirs(matrix), atol=1e-9)
