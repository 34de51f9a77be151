"""Models of each library go the whole way on one world, each after the other.

They are trained, judged, promoted, monitored, served, built again and brought back by a rollback;
and one that was fitted elsewhere is taken over.
"""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest
import skops.io
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from retrain_assets.components.code_check import find_code_mistakes
from retrain_assets.domain.model.estimator import predict, wrap_fitted
from retrain_assets.reports import canvas
from retrain_assets.serving.scoring.quick_model import TOLERANCE
from retrain_assets.serving.scoring.served_model import Loader
from retrain_assets.steps.decision import train
from retrain_assets.steps.decision.promote import decide_candidate, roll_back
from retrain_assets.steps.inspect.reproduce import Reproduction, reproduce
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.registry.model_file import digest, load_model
from retrain_assets.stores.registry.registry import new_run
from retrain_assets_tests.serving.site import Site, listening, post
from retrain_assets_tests.world import key

HERE, DAYS, MARGIN = __name__, 18, 5.0
TRUSTED = [f"{HERE}.Squares"]


class Squares(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # untyped bases
    """A transformer of the user's own."""

    def fit(self, features: Any, labels: Any = None) -> Squares:
        del labels
        self.n_features_in_ = features.shape[1]
        return self

    def transform(self, features: Any) -> Any:
        dense = features.toarray() if hasattr(features, "toarray") else features
        return np.hstack([dense, dense**2])


def own() -> Any:
    return make_pipeline(Squares(), LogisticRegression())


def calibrated() -> Any:
    return CalibratedClassifierCV(LinearSVC(), cv=2)


def voting() -> Any:
    parts = [("a", LogisticRegression()), ("b", RandomForestClassifier(3, max_depth=3))]
    return VotingClassifier(parts, voting="soft")


def stacking() -> Any:
    parts = [("a", RandomForestClassifier(3, max_depth=3)), ("b", LogisticRegression())]
    return StackingClassifier(parts, cv=2)


def of_class(path: str, **params: Any) -> dict[str, Any]:
    return {"class": path, "params": params}


STOPPING = {"early_stopping": {"rounds": 3, "share": 0.2}}
ESTIMATORS: dict[str, dict[str, Any]] = {
    "linear": of_class("sklearn.linear_model.LogisticRegression"),
    "forest": of_class("sklearn.ensemble.RandomForestClassifier", n_estimators=3, max_depth=4),
    "boosted": of_class("sklearn.ensemble.HistGradientBoostingClassifier", max_iter=5),
    "older": of_class("sklearn.ensemble.GradientBoostingClassifier", n_estimators=3),
    "neighbours": of_class("sklearn.neighbors.KNeighborsClassifier", n_neighbors=25),
    "tree": of_class("sklearn.tree.DecisionTreeClassifier", max_depth=3),
    "own": {"python": f"{HERE}:own"},
    "calibrated": {"python": f"{HERE}:calibrated"},
    "voting": {"python": f"{HERE}:voting"},
    "stacking": {"python": f"{HERE}:stacking"},
    "lightgbm": of_class("lightgbm.LGBMClassifier", n_estimators=20, subsample=0.8) | STOPPING,
    "xgboost": of_class("xgboost.XGBClassifier", n_estimators=20, subsample=0.8) | STOPPING,
    "catboost": of_class("catboost.CatBoostClassifier", iterations=20, depth=3) | STOPPING,
}
OF_SKLEARN, NAMES = [*ESTIMATORS][:10], [*ESTIMATORS]


def site_of(root: Path, name: str) -> Site:
    gate = {"metric": "log_loss", "promote_when": {"not_worse": {"margin": MARGIN}}}
    features = {"features": {"sql": "SELECT x, plan FROM rows"}, "lookups": {}}
    # All trust it, since a version with it is in production for a while, and comes back.
    estimator = ESTIMATORS[name] | {"trusted": TRUSTED}
    return Site(root, {**features, "gate": gate, "refit": False, "estimator": estimator})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose features are built; each estimator is a change of its model."""
    root = tmp_path_factory.mktemp("estimators")
    site = site_of(root, "linear")
    site.land(*range(DAYS))
    site.build(*range(DAYS))
    return root


def retrain(state: ModelState) -> LedgerRow:
    """Train, judge and decide as the assets do."""
    start_run = partial(new_run, state.registry)
    train.train_candidates(state, train.plan(state, None, ("request",)), start_run)
    return decide_candidate(state, "a run", start_run)


def check_mlflow(state: ModelState, row: LedgerRow, name: str) -> None:
    """Check that MLflow knows library, file and requirement of a version."""
    registry = state.registry
    version = registry.version(row.version)
    described = mlflow.models.get_model_info(version.uri)
    assert {"sklearn", "python_function", name} <= described.flavors.keys()
    assert described.signature.inputs.input_names() == ["x", "plan"]
    requirements = registry.file(version.uri, "requirements.txt").decode().splitlines()
    assert any(line.startswith(name) and "==" in line for line in requirements)
    file = registry.file(version.uri, described.flavors[name]["data"])
    pipeline = registry.load(row.version, row.sha256)
    assert file == pipeline[-1].native_
    assert pipeline[-1].path.startswith(name)
    native = getattr(mlflow, name).load_model(version.uri)
    assert type(native).__module__.startswith(name)
    features = pl.DataFrame({"x": [0.5], "plan": ["pro"]}).to_pandas()
    answer = mlflow.pyfunc.load_model(version.uri).predict(features)
    np.testing.assert_array_equal(answer, pipeline.predict_proba(features))


def serve(site: Site, row: LedgerRow, name: str) -> None:
    """Check that the service answers as the pipeline predicts; by a socket for the libraries."""
    features = pl.DataFrame({"x": [0.5, None], "plan": ["pro", "never seen"]})
    expected = predict(site.state.registry.load(row.version, row.sha256), "binary", features)
    version = Loader(site.state, site.root / "copies").load(row)
    values = version.predict(site.state, [features[column] for column in version.columns])
    np.testing.assert_allclose(values, expected, rtol=0, atol=TOLERANCE)  # of the quick form
    if name in OF_SKLEARN:
        return
    day = {"day": "2020-02-20", "at": "2020-02-20T09:30:00Z", "id": 1}
    with listening(site.service()) as client:
        answer = post(client, *({**day, **raw} for raw in features.to_dicts())).json()
    assert answer["version"] == row.version
    values = [raw["prediction"] for raw in answer["predictions"]]
    np.testing.assert_allclose(values, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_the_whole_way(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "to_png", lambda _: b"not drawn")
    site, number = site_of(root, name), NAMES.index(name)
    state = site.state
    assert [*find_code_mistakes(state.spec)] == []
    before = state.ledger.read().production_version
    row = retrain(state)
    assert (row.action, row.previous) == ("promote", before), row.reason
    site.land(DAYS + number)
    site.build(DAYS + number)
    day = pl.col("_landing_partition") == key(DAYS + number)
    scored, monitored = (
        state.tables.scan(f"churn/{table}").filter(day).collect()
        for table in ("predictions", "monitoring")
    )
    assert {*scored["model_version"]} == {row.version}
    assert not monitored.is_empty()
    serve(site, row, name)
    assert reproduce(state, row.version) == Reproduction(identical=True, differences=())
    if name not in OF_SKLEARN:
        check_mlflow(state, row, name)


def test_each_comes_back_by_a_rollback(root: Path) -> None:
    for name in reversed(NAMES[:-1]):
        state = site_of(root, name).state
        version = state.registry.versions()[-1 - NAMES.index(name)].version
        row = roll_back(state, version, "complaints", "on call")
        assert (row.action, row.version) == ("rollback", version)
        assert Loader(state, root / "copies").load(row).number == version


@pytest.mark.parametrize("name", OF_SKLEARN)
def test_one_that_was_fitted_elsewhere_is_taken_over(root: Path, name: str) -> None:
    rows = train.sample(site_of(root, name).state, [key(0), key(1)])
    numbers = rows.features.select(pl.col("x").fill_null(0.0))
    estimator = ESTIMATORS[name]
    if "class" in estimator:
        module, _, title = estimator["class"].rpartition(".")
        theirs = getattr(importlib.import_module(module), title)()
    else:
        theirs = globals()[name]()
    theirs.fit(numbers.to_numpy(), rows.labels)
    content = skops.io.dumps(wrap_fitted(theirs, "binary", numbers))
    ours = load_model(content, digest(content), "a model", TRUSTED)
    expected = theirs.predict_proba(numbers.to_numpy())[:, 1]
    np.testing.assert_array_equal(predict(ours, "binary", numbers), expected)
