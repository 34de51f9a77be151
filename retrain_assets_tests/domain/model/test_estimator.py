"""The same rows give the same model; what cannot be fitted is refused with what would do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pytest
import skops.io
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.ensemble._hist_gradient_boosting import gradient_boosting
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_info

from retrain_assets.domain.model.estimator import (
    Fitted,
    PredictionError,
    fit,
    predict,
    trivial_prediction,
)
from retrain_assets.domain.model.families.family import TrainingError
from retrain_assets.domain.model.pipeline import build_pipeline
from retrain_assets.specs.features import Kind
from retrain_assets.specs.gate import GateSpec
from retrain_assets.specs.model import EstimatorSpec, ModelSpec
from retrain_assets.stores.registry.model_file import digest, load_model

ROWS = 600
BOOSTING = "sklearn.ensemble.HistGradientBoostingClassifier"
LOGISTIC = "sklearn.linear_model.LogisticRegression"
METRIC: dict[Kind, str] = {"binary": "log_loss", "multiclass": "log_loss", "regression": "mae"}


def model(kind: Kind = "binary", seed: int = 0, delay: int = 0, **estimator: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "churn",
            "dataset": "customers",
            "features": {"sql": "SELECT x FROM rows"},
            "target": {"column": "gone", "kind": kind},
            "estimator": estimator or {"class": LOGISTIC},
            "gate": {"metric": METRIC[kind]},
            "labels": {"delay": delay},
            "seed": seed,
        }
    )


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    random = np.random.default_rng(3)
    x, plan = random.normal(size=ROWS), random.choice(["basic", "plus", "pro"], ROWS)
    gone = (x + (plan == "pro") + random.normal(size=ROWS) > 0.5).astype(float)
    frame = pl.DataFrame({"x": x, "plan": plan, "n": random.integers(0, 9, ROWS), "gone": gone})
    return frame.with_columns(
        x=pl.when(pl.col("n") > 0).then("x"),
        plan=pl.when(pl.col("n") < 8).then("plan"),
        block=pl.Series([f"2020-01-{1 + row * 20 // ROWS:02}" for row in range(ROWS)]),
        value=pl.Series(x * 3),
    )


def features(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("x", "plan", "n")


def fitted(spec: ModelSpec, rows: pl.DataFrame, target: str = "gone") -> Fitted:
    return fit(spec, features(rows), rows[target], rows["block"])


@pytest.mark.parametrize("name", [BOOSTING, LOGISTIC, "sklearn.ensemble.RandomForestClassifier"])
def test_a_model_learns_from_numbers_and_categories(name: str, rows: pl.DataFrame) -> None:
    spec = model(**{"class": name})
    output = predict(fitted(spec, rows).pipeline, "binary", features(rows))
    assert output.shape == (ROWS,)
    right = ((output > 0.5) == rows["gone"].to_numpy()).mean()
    assert right > 0.7
    one = predict(fitted(spec, rows).pipeline, "binary", features(rows)[7])
    assert one[0] == pytest.approx(output[7], abs=1e-12)


def test_boosting_is_told_which_columns_are_categories(rows: pl.DataFrame) -> None:
    pipeline = fitted(model(**{"class": BOOSTING}), rows).pipeline
    assert list(pipeline["estimator"].is_categorical_) == [False, True, False]
    assert [name for name, _ in pipeline.steps] == ["encode", "estimator"]


def with_column_names() -> Pipeline:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    texts = OneHotEncoder(handle_unknown="ignore")
    columns = ColumnTransformer([("numbers", numbers, ["x", "n"]), ("texts", texts, ["plan"])])
    return make_pipeline(columns, LogisticRegression())


def test_a_column_transformer_by_column_names_gets_a_frame(rows: pl.DataFrame) -> None:
    pipeline = fitted(model(python=f"{HERE}:with_column_names"), rows).pipeline
    output = predict(pipeline, "binary", features(rows))
    assert ((output > 0.5) == rows["gone"].to_numpy()).mean() > 0.7
    content = skops.io.dumps(pipeline)
    restored = load_model(content, digest(content), "a model")
    for place in (0, 7, rows["n"].arg_max() or 0):
        row = features(rows)[place]
        assert predict(restored, "binary", row)[0] == pytest.approx(output[place], abs=1e-12)
    unseen = pl.DataFrame({"x": [None], "plan": ["new"], "n": [1]})
    assert 0 < predict(restored, "binary", unseen)[0] < 1


def test_a_category_too_many_for_the_bins_is_missing_and_stops_no_fit(rows: pl.DataFrame) -> None:
    many = rows.with_columns(plan=pl.Series([f"p{n % 30:02}" for n in range(rows.height)]))
    spec = model(**{"class": BOOSTING, "params": {"max_iter": 5, "max_bins": 16}})
    pipeline = fitted(spec, many).pipeline
    assert len(pipeline[0].categories_["plan"]) == 16
    assert np.isfinite(predict(pipeline, "binary", features(many))).all()


def test_multiclass_gives_a_column_a_class(rows: pl.DataFrame) -> None:
    pipeline = fitted(model("multiclass"), rows.with_columns(gone=pl.col("plan").fill_null("x")))
    output = predict(pipeline.pipeline, "multiclass", features(rows))
    assert list(pipeline.pipeline.classes_) == ["basic", "plus", "pro", "x"]
    np.testing.assert_allclose(output.sum(axis=1), 1)


def test_regression_gives_a_number(rows: pl.DataFrame) -> None:
    spec = model("regression", **{"class": "sklearn.linear_model.Ridge"})
    known = rows.drop_nulls("x")
    output = predict(fitted(spec, known, "value").pipeline, "regression", features(known))
    np.testing.assert_allclose(output, known["value"], atol=0.1)


def test_the_seed_and_the_rows_decide_the_model(rows: pl.DataFrame) -> None:
    forest = {"class": "sklearn.ensemble.RandomForestClassifier", "params": {"n_estimators": 5}}
    outputs = [
        predict(fitted(model(seed=seed, **forest), rows).pipeline, "binary", features(rows))
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert (outputs[0] != outputs[2]).any()


@pytest.fixture
def _bins_from_few_rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bins are made from 200 rows drawn at random, as they are above 200,000 rows."""
    small = partial(gradient_boosting._BinMapper, subsample=200)
    with monkeypatch.context() as patched:
        patched.setattr(gradient_boosting, "_BinMapper", small)
        yield


@pytest.mark.usefixtures("_bins_from_few_rows")
def test_rows_put_in_order_give_the_same_model_where_bins_are_subsampled(
    rows: pl.DataFrame,
) -> None:
    def output(ordered: pl.DataFrame) -> np.ndarray:
        pipeline = fitted(model(**{"class": BOOSTING}), ordered).pipeline
        return predict(pipeline, "binary", features(rows))

    numbered = rows.with_row_index("key")
    mixed = numbered.sample(fraction=1, shuffle=True, seed=1)
    np.testing.assert_array_equal(output(mixed.sort("key")), output(numbered))
    assert (output(mixed) != output(numbered)).any()


def test_the_first_unknown_argument_is_named_in_every_process(rows: pl.DataFrame) -> None:
    params = {f"z{number}": 1 for number in range(30, 0, -1)}
    spec = model(**{"class": "sklearn.linear_model.LogisticRegression"}, params=params)
    with pytest.raises(TrainingError, match="takes no 'z30'"):
        fitted(spec, rows)


def test_weights_count_like_repeated_rows(rows: pl.DataFrame) -> None:
    twice = pl.concat([rows, rows.filter(pl.col("n") > 4)])
    weight = pl.Series(np.where(rows["n"] > 4, 2.0, 1.0))
    spec = model(**{"class": "sklearn.tree.DecisionTreeClassifier", "params": {"max_depth": 3}})
    weighted = fit(spec, features(rows), rows["gone"], rows["block"], weight).pipeline
    repeated = fitted(spec, twice).pipeline
    given = features(rows).drop_nulls()
    np.testing.assert_allclose(
        predict(weighted, "binary", given), predict(repeated, "binary", given)
    )


class Recorder(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Remembers how many threads it was given."""

    def fit(self, _: np.ndarray, labels: np.ndarray) -> Recorder:
        self.threads_ = {pool["num_threads"] for pool in threadpool_info()}
        self.classes_ = np.unique(labels)
        return self

    def predict_proba(self, matrix: np.ndarray) -> np.ndarray:
        return np.full((len(matrix), 2), np.nan)


def recorder() -> Recorder:
    return Recorder()


def forest_with_its_own_seed() -> RandomForestClassifier:
    return RandomForestClassifier(n_estimators=3, random_state=77)


def no_estimator() -> int:
    return 3


HERE = __name__


def test_a_fit_keeps_to_its_threads(rows: pl.DataFrame) -> None:
    spec = model(python=f"{HERE}:recorder", threads=1)
    assert fitted(spec, rows).pipeline["estimator"].threads_ == {1}


def test_a_prediction_that_is_not_finite_is_refused(rows: pl.DataFrame) -> None:
    pipeline = fitted(model(python=f"{HERE}:recorder"), rows).pipeline
    with pytest.raises(PredictionError, match=r"600 of 600 predictions .* first in row 0 .*'plan'"):
        predict(pipeline, "binary", features(rows))


def test_the_seed_is_given_where_none_is_set() -> None:
    schema = pl.Schema({"x": pl.Float64})

    def seed(**spec: Any) -> object:
        built = build_pipeline(EstimatorSpec.model_validate(spec), schema, 5)
        return built["estimator"].get_params()["random_state"]

    assert seed(**{"class": BOOSTING}) == 5
    assert seed(**{"class": BOOSTING, "params": {"random_state": 9}}) == 9
    assert seed(python=f"{HERE}:forest_with_its_own_seed") == 77


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (
            {"class": "sklearn.ensemble.HistGradientBostingClassifier"},
            r"estimator.class: scikit-learn has no sklearn.ensemble.HistGradientBostingClassifier",
        ),
        ({"class": "sklearn.ensembel.RandomForestClassifier"}, "has no sklearn.ensembel.Random"),
        ({"class": "sklearn.utils.Bunch"}, "Bunch is not an estimator"),
        ({"class": "sklearn.base.warnings"}, "warnings is not an estimator"),
        ({"class": "sklearn.ensemble.StackingClassifier"}, "name that in estimator.python"),
        (
            {"class": BOOSTING, "params": {"learning_rat": 1}},
            r"estimator.params: HistGrad.* takes no 'learning_rat': did you mean learning_rate",
        ),
        ({"class": LOGISTIC, "params": {"zzz": 1}}, "there are C, class_weight"),
        ({"class": LOGISTIC, "params": {"C": -1}}, "cannot be fitted: .*'C' parameter"),
        ({"class": "sklearn.linear_model.Ridge"}, "Ridge is not a classifier"),
        ({"class": "sklearn.svm.LinearSVC"}, "LinearSVC gives no probabilities"),
        ({"python": f"{HERE}:nothing"}, "nothing cannot be imported"),
        ({"python": f"{HERE}:no_estimator"}, "returned int, not an estimator"),
    ],
)
def test_an_estimator_that_does_not_do_is_refused(
    estimator: dict[str, Any], said: str, rows: pl.DataFrame
) -> None:
    with pytest.raises(TrainingError, match=said):
        fitted(model(**estimator), rows)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1.0] * ROWS, "all 600 training rows are 1: a classifier needs two classes"),
        ([0.0, 2.0] * (ROWS // 2), "binary labels are 0 and 1, found 2"),
        ([0.0, None] * (ROWS // 2), "target gone: 300 of 600 rows have no label"),
    ],
)
def test_labels_that_do_not_do_are_refused(
    labels: list[float | None], said: str, rows: pl.DataFrame
) -> None:
    with pytest.raises(TrainingError, match=said):
        fitted(model(), rows.with_columns(gone=pl.Series(labels)))


def test_weights_for_an_estimator_that_takes_none_are_refused(rows: pl.DataFrame) -> None:
    spec = model(**{"class": "sklearn.neighbors.KNeighborsClassifier"})
    with pytest.raises(TrainingError, match="KNeighborsClassifier takes no row weights"):
        fit(spec, features(rows), rows["gone"], rows["block"], pl.Series([1.0] * ROWS))


def test_a_search_takes_the_setting_with_the_least_loss(rows: pl.DataFrame) -> None:
    wanted = {"params": {"C": {"low": 0.1, "high": 10, "log": True}}, "budget": 4}
    spec = model(delay=1, **{"class": LOGISTIC, "params": {"C": 1e-6}, "search": wanted})
    result = fitted(spec, rows)
    assert result.search is not None
    assert result.search["params"][0] == '{"C": 1e-06}'
    assert result.search["loss"].arg_min() == 1 + np.argmin(result.search["loss"][1:])
    best = result.search.sort("loss")["params"][0]
    assert best == f'{{"C": {result.params["C"]}}}'
    assert fitted(model(), rows).search is None


@pytest.mark.parametrize(
    ("metric", "days"), [("roc_auc", (1, 5)), ("roc_auc", (6, 10)), ("log_loss", (1, 5))]
)
def test_a_fold_that_lacks_a_class_is_left_out_of_the_search(
    metric: str, days: tuple[int, int], rows: pl.DataFrame
) -> None:
    """Folds are judged on the days 6 to 10, 11 to 15 and 16 to 20."""
    first, last = (f"2020-01-{day:02}" for day in days)
    lacks = pl.col("block").is_between(pl.lit(first), pl.lit(last))
    wanted = {"params": {"C": {"values": [0.01, 0.1]}}, "budget": 3}
    spec = model(**{"class": LOGISTIC, "params": {"C": 1e-6}, "search": wanted})
    spec = spec.model_copy(update={"gate": GateSpec.model_validate({"metric": metric})})
    result = fitted(spec, rows.with_columns(gone=pl.when(lacks).then(0.0).otherwise("gone")))
    assert result.search is not None
    assert result.search["loss"].is_finite().all()
    assert result.params["C"] in {0.01, 0.1}


def test_a_setting_that_the_estimator_refuses_does_not_end_the_search(rows: pl.DataFrame) -> None:
    wanted = {"params": {"C": {"values": [-1.0, 0.1]}}, "budget": 9}
    result = fitted(model(**{"class": LOGISTIC, "params": {"C": 1e-6}, "search": wanted}), rows)
    assert result.search is not None
    refused = pl.col("params") == '{"C": -1.0}'
    assert result.search.filter(refused)["loss"].is_nan().all()
    assert result.search.filter(~refused)["loss"].is_finite().all()
    assert result.params["C"] == 0.1


def test_a_search_of_a_parameter_that_the_estimator_does_not_take_is_refused(
    rows: pl.DataFrame,
) -> None:
    spec = model(**{"class": LOGISTIC, "search": {"params": {"c": {"values": [1.0]}}}})
    with pytest.raises(TrainingError, match="LogisticRegression takes no 'c'; there are C, "):
        fitted(spec, rows)


def test_the_trivial_prediction_knows_the_training_target_only() -> None:
    labels, weight = pl.Series([0.0, 0.0, 1.0]), pl.Series([1.0, 1.0, 2.0])
    np.testing.assert_allclose(trivial_prediction("binary", labels, None, 2), [1 / 3] * 2)
    np.testing.assert_allclose(trivial_prediction("binary", labels, weight, 2), [0.5] * 2)
    values = pl.Series([9.0, 1.0, 2.0])
    np.testing.assert_allclose(
        trivial_prediction("regression", values, None, 1, GateSpec(metric="rmse")), [4]
    )
    np.testing.assert_allclose(
        trivial_prediction("regression", values, None, 1, GateSpec(metric="mae")), [2]
    )
    heavy = pl.Series([5.0, 1.0, 1.0])
    np.testing.assert_allclose(
        trivial_prediction("regression", values, heavy, 1, GateSpec(metric="mae")), [9]
    )
    shares = trivial_prediction("multiclass", pl.Series(["b", "a", "b"]), None, 2)
    np.testing.assert_allclose(shares, [[1 / 3, 2 / 3]] * 2)


def test_only_plain_params_are_recorded(rows: pl.DataFrame) -> None:
    result = fitted(model(**{"class": BOOSTING}), rows)
    assert result.params["max_iter"] == 100
    assert result.params["random_state"] == 0
    assert "categorical_features" not in result.params
    assert isinstance(fitted(model(), rows).pipeline["estimator"], LogisticRegression)
