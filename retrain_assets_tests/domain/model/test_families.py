"""The libraries of boosted trees: fits, constraints, early stopping, and what is refused."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import polars as pl
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression

from retrain_assets.components.code_check import find_code_mistakes
from retrain_assets.domain.model.estimator import Fitted, fit, predict
from retrain_assets.domain.model.families.catalogue import FAMILIES
from retrain_assets.domain.model.families.family import TrainingError
from retrain_assets.specs.model import ModelSpec
from retrain_assets.stores.registry.model_file import content_digest, digest, load_model, may_crash
from retrain_assets_tests.world import MODEL

HERE, ROWS, DAYS = __name__, 600, 20
CLASSIFIERS = {
    "lightgbm.LGBMClassifier": "n_estimators",
    "xgboost.XGBClassifier": "n_estimators",
    "catboost.CatBoostClassifier": "iterations",
}
REGRESSORS = ("lightgbm.LGBMRegressor", "xgboost.XGBRegressor", "catboost.CatBoostRegressor")
KINDS = [
    *((path, kind) for path in CLASSIFIERS for kind in ("binary", "multiclass")),
    *((path, "regression") for path in REGRESSORS),
]


def model(kind: str = "binary", **estimator: Any) -> ModelSpec:
    gate = {"metric": "mae" if kind == "regression" else "log_loss"}
    target = MODEL["target"] | {"kind": kind}
    changes = {"target": target, "gate": gate, "triggers": {}, "estimator": estimator}
    return ModelSpec.model_validate(MODEL | changes)


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    random = np.random.default_rng(5)
    x, z = random.normal(size=(2, ROWS))
    plan = random.choice(["basic", "plus", "pro"], ROWS)
    score = x + 0.5 * z + (plan == "pro") + random.normal(size=ROWS)
    frame = pl.DataFrame({"x": x, "plan": plan, "z": z, "regression": score})
    return frame.with_columns(
        x=pl.when(pl.col("x") < 2).then("x"),
        plan=pl.when(pl.col("z") < 2).then("plan"),
        binary=(pl.col("regression") > 0).cast(pl.Int64),
        multiclass=pl.col("regression").cut([-1, 1], labels=["low", "mid", "high"]),
        day=pl.int_range(ROWS) // (ROWS // DAYS),
    )


def fitted(spec: ModelSpec, rows: pl.DataFrame, weight: pl.Series | None = None) -> Fitted:
    days = rows["day"].cast(pl.String).str.zfill(2)
    return fit(spec, rows.select("x", "plan", "z"), rows[spec.target.kind], days, weight)


@pytest.mark.parametrize(("path", "kind"), KINDS)
def test_a_stored_model_is_restored_and_a_second_fit_is_the_same_file(
    path: str, kind: Any, rows: pl.DataFrame
) -> None:
    name = "iterations" if path.startswith("catboost") else "n_estimators"
    spec = model(kind, **{"class": path, "params": {name: 20}})
    weight = pl.Series(np.linspace(1, 2, ROWS))
    pipelines = [fitted(spec, rows, weight).pipeline for _ in range(2)]
    first, second = map(skops.io.dumps, pipelines)
    assert content_digest(first) == content_digest(second)
    assert may_crash(first)
    pipeline = load_model(first, digest(first), "a model")
    every = predict(pipeline, kind, rows)
    assert every.tolist() == predict(pipelines[1], kind, rows).tolist()
    for row in (0, 7):
        assert (
            predict(pipeline, kind, rows[row : row + 1]).tolist() == every[row : row + 1].tolist()
        )
    constant = np.ptp(every.reshape(ROWS, -1), axis=0)
    assert (constant > 0.1).all()


@pytest.mark.parametrize(("path", "name"), CLASSIFIERS.items())
def test_early_stopping_refits_all_rows_with_the_rounds_it_chose(
    path: str, name: str, rows: pl.DataFrame
) -> None:
    params = {name: 60, "learning_rate": 0.3}
    stopping = {"params": params, "early_stopping": {"rounds": 3, "share": 0.2}}
    stopped = fitted(model(**{"class": path, **stopping}), rows)
    rounds = stopped.params[name]
    assert 1 < rounds < 60
    plain = fitted(model(**{"class": path, "params": params | {name: rounds}}), rows)
    ours, theirs = (predict(one.pipeline, "binary", rows) for one in (stopped, plain))
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(("path", "name"), CLASSIFIERS.items())
def test_a_constraint_by_the_name_of_a_feature_holds(
    path: str, name: str, rows: pl.DataFrame
) -> None:
    spec, plain = (
        model(**{"class": path, "params": {name: 20, "monotone_constraints": constraints}})
        for constraints in ({"z": -1}, {"z": 0})
    )
    assert spec.recipe != plain.recipe
    pipeline = fitted(spec, rows).pipeline
    line = pl.DataFrame({"x": 0.0, "plan": "pro", "z": np.linspace(-2, 2, 50)})
    assert (np.diff(predict(pipeline, "binary", line)) <= 1e-9).all()
    wrong = model(**{"class": path, "params": {"monotone_constraints": {"zz": 1}}})
    with pytest.raises(TrainingError, match="'zz' is not a feature: did you mean z"):
        fitted(wrong, rows)


@pytest.mark.parametrize("path", ["lightgbm.LGBMClassifier", "xgboost.XGBClassifier"])
def test_features_that_may_not_interact_add_up(path: str, rows: pl.DataFrame) -> None:
    spec, plain = (
        model(**{"class": path, "params": {"n_estimators": 20, "interaction_constraints": groups}})
        for groups in ([["x"], ["z"], ["plan"]], [["x", "z", "plan"]])
    )
    assert spec.recipe != plain.recipe
    asked = pl.DataFrame({"x": [-1.0, -1.0, 1.0, 1.0], "z": [-1.0, 1.0] * 2, "plan": "pro"})
    joint = []
    for one in (spec, plain):
        chance = predict(fitted(one, rows).pipeline, "binary", asked)
        odds = np.log(chance / (1 - chance))
        joint.append(abs(odds[0] - odds[1] - odds[2] + odds[3]))
    assert joint[0] < 1e-5
    assert joint[1] > 1e-2


def boosted(path: str, **params: Any) -> Any:
    module, _, name = path.partition(".")
    return getattr(importlib.import_module(module), name)(**params)


def alone() -> Any:
    return boosted("lightgbm.LGBMClassifier", num_leaves=5)


def calibrated() -> Any:
    return CalibratedClassifierCV(boosted("xgboost.XGBClassifier", n_estimators=5))


def voting() -> Any:
    boosting = boosted("catboost.CatBoostClassifier", iterations=5)
    return VotingClassifier([("a", boosting), ("b", LogisticRegression())], voting="soft")


@pytest.mark.parametrize(
    ("function", "params"),
    [
        ("alone", {"num_leaves": 7}),
        ("calibrated", {"estimator__max_depth": 2}),
        ("voting", {"a__depth": 2}),
    ],
)
def test_a_user_function_may_use_them_within_estimators_of_scikit_learn(
    function: str, params: dict[str, int], rows: pl.DataFrame
) -> None:
    result = fitted(model(python=f"{HERE}:{function}", params=params), rows)
    content = skops.io.dumps(result.pipeline)
    pipeline = load_model(content, digest(content), "a model")
    name, value = next(iter(params.items()))
    assert pipeline[-1].get_params()[name] == result.params[name] == value
    expected = predict(result.pipeline, "binary", rows)
    assert predict(pipeline, "binary", rows).tolist() == expected.tolist()


MISTAKES = [
    ({"class": "torch.nn.Linear"}, "class", "is of none of scikit-learn, LightGBM, XGBoost, Cat"),
    ({"class": "os.system"}, "class", "is of none of scikit-learn, LightGBM, XGBoost, Cat"),
    ({"class": "lightgbm.LGBMRanker"}, "class", "it ranks rows within groups"),
    ({"class": "lightgbm.LGBMClasifier"}, "class", "did you mean lightgbm.LGBMClassifier"),
    ({"class": "lightgbm.sklearn.LGBMClassifier"}, "class", "did you mean lightgbm.LGBMClassifier"),
    ({"class": "xgboost.XGBRegressor"}, "class", "is not a classifier, which target.kind binary"),
    (
        {"class": "xgboost.XGBClassifier", "params": {"objective": "survival:cox"}},
        "objective",
        "times at which a row was still observed",
    ),
    (
        {"class": "lightgbm.LGBMClassifier", "params": {"objective": "lambdarank"}},
        "objective",
        "ranks rows",
    ),
    (
        {"class": "catboost.CatBoostClassifier", "params": {"loss_function": "PairLogit:a=1"}},
        "loss_function",
        "ranks rows",
    ),
    (
        {"class": "xgboost.XGBClassifier", "params": {"objective": "reg:gamma"}},
        "objective",
        "it may be binary:logistic, multi:softprob",
    ),
    (
        {"class": "xgboost.XGBClassifier", "params": {"n_jobs": 4}},
        "n_jobs",
        "n_jobs cannot be set: estimator.threads sets it",
    ),
    (
        {"class": "catboost.CatBoostClassifier", "params": {"iteration": 4}},
        "iteration",
        "takes no 'iteration': did you mean iterations",
    ),
    (
        {"class": "lightgbm.LGBMClassifier", "params": {"num_leafs": 4}},
        "num_leafs",
        "takes no 'num_leafs': did you mean num_leaves",
    ),
    (
        {"class": "xgboost.XGBClassifier", "params": {"max_dept": 4}},
        "max_dept",
        "takes no 'max_dept': did you mean max_depth",
    ),
    (
        {"class": "sklearn.linear_model.LogisticRegression", "early_stopping": {}},
        "early_stopping",
        "scikit-learn has none here",
    ),
]


@pytest.mark.parametrize(("estimator", "field", "reason"), MISTAKES)
def test_a_mistake_is_told_at_its_field_when_definitions_load(
    estimator: dict[str, Any], field: str, reason: str
) -> None:
    ((loc, message),) = find_code_mistakes(model(**estimator))
    assert loc[-1] == field
    assert reason in message


@pytest.mark.parametrize(("estimator", "field", "reason"), MISTAKES)
def test_what_is_refused_when_definitions_load_is_not_fitted_either(
    estimator: dict[str, Any], field: str, reason: str, rows: pl.DataFrame
) -> None:
    del field, reason
    with pytest.raises(TrainingError):
        fitted(model(**estimator), rows)


@pytest.mark.parametrize("family", FAMILIES[1:], ids=lambda family: family.name)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    family: Any, monkeypatch: pytest.MonkeyPatch, rows: pl.DataFrame
) -> None:
    path = next(path for path in CLASSIFIERS if path.startswith(family.name))
    spec = model(**{"class": path})
    monkeypatch.setattr("retrain_assets.components.code_check.find_module", lambda _: None)
    reason = f"{family.title} is not installed: pip install 'retrain-assets[{family.name}]'"
    reason += ", which brings xgboost-cpu" if family.name == "xgboost" else ""
    assert [*find_code_mistakes(spec)] == [(("estimator", "class"), reason)]
    monkeypatch.setitem(__import__("sys").modules, family.name, None)
    with pytest.raises(TrainingError, match="is not installed: pip install"):
        fitted(spec, rows)


def test_two_packages_of_one_library_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = model(**{"class": "xgboost.XGBClassifier"})
    assert [*find_code_mistakes(spec)] == []
    monkeypatch.setattr("importlib.metadata.version", lambda _: "3.2.0")
    ((loc, why),) = find_code_mistakes(spec)
    assert loc == ("estimator", "class")
    assert why.startswith("xgboost-cpu and xgboost are both installed, and each overwrites")


def test_arguments_that_definitions_know_are_those_that_the_libraries_take() -> None:
    for family in FAMILIES[1:]:
        for path in (*CLASSIFIERS, *REGRESSORS):
            if path.startswith(family.name):
                names = {*family.list_accepted(path)}
                assert {*family.refused_params} - names <= {
                    *("device_type", "deterministic", "force_row_wise", "force_col_wise"),
                    *("class_names", "classes_count", "callback"),
                }
