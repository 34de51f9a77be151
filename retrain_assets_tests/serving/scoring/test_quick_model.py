"""Trees as masks of leaves give the sums that each library gives, whatever the trees and rows."""

from __future__ import annotations

from typing import Any

import catboost
import lightgbm
import numpy as np
import polars as pl
import pytest
import xgboost
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from retrain_assets.domain.model.estimator import predict
from retrain_assets.domain.model.families import catboost as catboost_family
from retrain_assets.domain.model.families import lightgbm as lightgbm_family
from retrain_assets.domain.model.families import scikit_learn
from retrain_assets.domain.model.families import xgboost as xgboost_family
from retrain_assets.domain.model.pipeline import build_pipeline
from retrain_assets.domain.model.trees import Ensemble
from retrain_assets.serving.scoring.quick_model import Trees, build_quick_model
from retrain_assets.specs.model import EstimatorSpec

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(1_500, 4))
ROWS[:, 2] = 3 * RANDOM.integers(0, 30, len(ROWS))  # a category
ROWS[RANDOM.random(ROWS.shape) < 0.1] = np.nan
FINITE = ROWS.copy()  # XGBoost and LightGBM fit on finite numbers
ROWS[:40, 1] = np.inf
SCORE = np.nan_to_num(ROWS[:, 1], posinf=3.0) + np.sin(np.nan_to_num(ROWS[:, 2]))
LABELS = {
    "numbers": SCORE,
    "two classes": SCORE > 0,
    "three classes": np.digitize(SCORE, [-0.5, 0.5]),
}
ASKED = np.vstack([ROWS, [[9.0, np.nan, 77.0, -9.0], [np.inf, 0.0, np.nan, -np.inf]]])
EDGES = np.array([
    [0.0, -0.0, -1.0, 1e-36],
    [-1e-36, 1e300, 300.0, -1e300],
    [np.inf, -np.inf, np.inf, np.nan],
    [np.nan, np.nan, np.nan, np.nan],
])  # fmt: skip


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
    trees = Trees(scikit_learn.read_ensemble(model))
    sums = trees.sums(ASKED.T)
    np.testing.assert_allclose(sums, model._raw_predict(ASKED), atol=1e-12)
    for row in (0, 17, len(ASKED) - 1):
        np.testing.assert_array_equal(trees.sums(ASKED[row : row + 1].T), sums[[row]])
        np.testing.assert_array_equal(trees.sum_row(ASKED[row]), sums[[row]])


def test_trees_that_are_walked_faster_are_refused() -> None:
    with pytest.raises(ValueError, match="too many or too large"):
        Trees(scikit_learn.read_ensemble(fitted(HistGradientBoostingRegressor, SCORE, None)))


def test_an_infinite_value_in_training_misplaces_no_missing_one() -> None:
    rows = RANDOM.normal(size=(1_500, 2))
    rows[:30, 0], rows[30:45, 0], rows[45:300, 0] = np.inf, -np.inf, np.nan
    model = HistGradientBoostingRegressor(max_iter=8, min_samples_leaf=2)
    model.fit(rows, np.where(np.isposinf(rows[:, 0]), 3, np.isnan(rows[:, 0])) + rows[:, 1])
    thresholds = np.concatenate([tree.nodes["num_threshold"] for (tree,) in model._predictors])
    assert np.isnan(thresholds).any()
    asked = np.vstack([rows, [[9.0, 0.0], [np.nan, 1.0], [np.inf, -1.0], [-np.inf, 1.0]]])
    sums = Trees(scikit_learn.read_ensemble(model)).sums(asked.T)
    np.testing.assert_allclose(sums, model._raw_predict(asked), atol=1e-12)


def fit_lightgbm(labels: np.ndarray, **params: Any) -> Any:
    kind = lightgbm.LGBMRegressor if labels is SCORE else lightgbm.LGBMClassifier
    usual = {"n_estimators": 9, "min_child_samples": 3, "verbose": -1, "n_jobs": 1}
    model = kind(**usual | params).fit(FINITE, labels, categorical_feature=[2])
    return model, model.booster_


def fit_xgboost(labels: np.ndarray, **params: Any) -> Any:
    kind = xgboost.XGBRegressor if labels is SCORE else xgboost.XGBClassifier
    types = ["q", "q", "c", "q"]
    usual = {"n_estimators": 9, "n_jobs": 1, "enable_categorical": True, "feature_types": types}
    model = kind(**usual | params).fit(FINITE, labels)
    return model, model.get_booster()


def fit_catboost(labels: np.ndarray, **params: Any) -> Any:
    kind = catboost.CatBoostRegressor if labels is SCORE else catboost.CatBoostClassifier
    usual = {"iterations": 9, "thread_count": 1, "verbose": 0, "allow_writing_files": False}
    model = kind(**usual | params).fit(FINITE, labels)
    return model, model


def sum_lightgbm(model: Any, rows: np.ndarray) -> np.ndarray:
    return model.predict(rows, raw_score=True)


def sum_xgboost(model: Any, rows: np.ndarray) -> np.ndarray:
    return model.inplace_predict(rows, predict_type="margin")


def sum_catboost(model: Any, rows: np.ndarray) -> np.ndarray:
    return model.predict(rows, prediction_type="RawFormulaVal")


FAMILIES: dict[str, Any] = {
    "lightgbm": (fit_lightgbm, lightgbm_family.read_ensemble, sum_lightgbm),
    "xgboost": (fit_xgboost, xgboost_family.read_ensemble, sum_xgboost),
    "catboost": (fit_catboost, catboost_family.read_ensemble, sum_catboost),
}
CASES = [
    ("lightgbm", "numbers", {"reg_sqrt": True}),
    ("lightgbm", "numbers", {"boosting_type": "dart", "use_missing": False}),
    ("lightgbm", "two classes", {"num_leaves": 90}),
    ("lightgbm", "two classes", {"boosting_type": "rf", "bagging_freq": 1, "subsample": 0.5}),
    ("lightgbm", "three classes", {}),
    ("lightgbm", "three classes", {"objective": "multiclassova"}),
    ("xgboost", "numbers", {}),
    ("xgboost", "two classes", {"tree_method": "exact", "enable_categorical": False,
                                "feature_types": None}),
    ("xgboost", "two classes", {"max_depth": 3, "num_parallel_tree": 2, "subsample": 0.5}),
    ("xgboost", "three classes", {}),
    ("catboost", "numbers", {}),
    ("catboost", "two classes", {"nan_mode": "Max"}),
    ("catboost", "two classes", {"grow_policy": "Lossguide"}),
    ("catboost", "three classes", {"grow_policy": "Depthwise"}),
    ("catboost", "three classes", {"loss_function": "MultiClassOneVsAll"}),
]  # fmt: skip


def ask_at_thresholds(ensemble: Ensemble) -> np.ndarray:
    """Return rows of which one number is a threshold, or the next number on one of its sides."""
    questions = [split.question for tree in ensemble.trees for split in tree.splits]
    numbers = [question for question in questions if question.categories is None]
    rows = np.repeat(FINITE[-len(numbers) :], 3, axis=0)
    for place, (column, threshold, *_) in enumerate(numbers):
        around = [np.nextafter(threshold, -np.inf), threshold, np.nextafter(threshold, np.inf)]
        rows[3 * place : 3 * place + 3, column] = around
    return rows


@pytest.mark.parametrize(("family", "target", "params"), CASES)
def test_sums_are_those_of_the_library(family: str, target: str, params: dict[str, Any]) -> None:
    fit, dump, add_up = FAMILIES[family]
    model, native = fit(LABELS[target], **params)
    ensemble = dump(native)
    asked = np.vstack([ASKED, EDGES, ask_at_thresholds(ensemble)])
    expected = add_up(native, asked).reshape(len(asked), -1)
    trees = Trees(ensemble)
    sums = trees.sums(asked.T)
    np.testing.assert_allclose(sums, expected, rtol=0, atol=1e-12)
    if family == "xgboost":
        assert sums.dtype == np.float32
        np.testing.assert_array_equal(sums, expected)
    for row in (3, len(ASKED) + 1, len(asked) - 1):
        np.testing.assert_array_equal(trees.sum_row(asked[row].tolist()), sums[[row]])
        alone = ensemble.link(sums[[row]])  # which has a short way of its own
        np.testing.assert_array_equal(alone, ensemble.link(sums)[[row]])
    output = ensemble.link(sums)
    of_library = model.predict(asked) if target == "numbers" else model.predict_proba(asked)
    of_library = of_library[:, 1] if target == "two classes" else of_library
    np.testing.assert_allclose(output, of_library, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "params", "reason"),
    [
        ("lightgbm", {"linear_tree": True}, "a leaf of its trees is a linear model"),
        ("lightgbm", {"zero_as_missing": True}, "zeros for missing values"),
        ("xgboost", {"booster": "dart", "rate_drop": 0.5}, "booster is dart"),
        ("catboost", {"loss_function": "LogLinQuantile"}, "objective is LogLinQuantile"),
    ],
)
def test_what_the_form_cannot_hold_is_refused(
    family: str, params: dict[str, Any], reason: str
) -> None:
    fit, dump, _ = FAMILIES[family]
    with pytest.raises(ValueError, match=reason):
        dump(fit(SCORE, **params)[1])


def test_statistics_of_categories_are_refused() -> None:
    rows = [[number, str(category)] for _, number, category, _ in np.nan_to_num(ROWS[100:400])]
    model = catboost.CatBoostRegressor(iterations=3, verbose=0, allow_writing_files=False)
    model.fit(rows, SCORE[100:400], cat_features=[1])
    with pytest.raises(ValueError, match="it was given categories"):
        catboost_family.read_ensemble(model)


FRAME = pl.DataFrame({
    "x": FINITE[:400, 1], "plan": ["basic", "plus", None, "pro"] * 100, "y": FINITE[:400, 0],
}).fill_nan(None)  # fmt: skip


def fit_pipeline(path: str, params: dict[str, Any]) -> Any:
    spec = EstimatorSpec.model_validate({"class": path, "params": params})
    return build_pipeline(spec, FRAME.schema, 0).fit(FRAME, SCORE[40:440] > 0)


@pytest.mark.parametrize("path", ["lightgbm.LGBMClassifier", "xgboost.XGBClassifier"])
def test_rows_of_any_form_are_predicted_as_by_the_pipeline(path: str) -> None:
    pipeline = fit_pipeline(path, {"n_estimators": 9})
    quick, how = build_quick_model(pipeline, "binary", FRAME)
    assert quick is not None
    assert how.startswith(f"{path}: a quick form, within")
    asked = pl.concat([FRAME, FRAME.head(40).with_columns(plan=pl.lit("never seen"))])
    expected = predict(pipeline, "binary", asked)
    np.testing.assert_allclose(quick.predict(asked.get_columns()), expected, atol=1e-6)
    lists = [column.to_list() for column in asked]
    np.testing.assert_allclose(quick.predict(lists), expected, atol=1e-6)
    for row in (0, 2, 410):
        alone = quick.predict([values[row : row + 1] for values in lists])
        np.testing.assert_allclose(alone, expected[[row]], atol=1e-6)


def test_a_model_that_has_no_quick_form_says_why() -> None:
    pipeline = fit_pipeline("catboost.CatBoostClassifier", {"iterations": 3})
    quick, how = build_quick_model(pipeline, "binary", FRAME)
    assert quick is None
    assert "its library's own prediction is used" in how
    assert "it was given categories" in how
