"""A model of each library goes the whole way: fitted, served, built again, rolled back."""

from __future__ import annotations

from functools import partial
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest

from retrain_assets.domain.model.estimator import predict
from retrain_assets.serving.scoring.quick_model import TOLERANCE
from retrain_assets.serving.scoring.served_model import Loader
from retrain_assets.steps.decision.promote import decide_candidate, roll_back
from retrain_assets.steps.decision.train import plan, train_candidates
from retrain_assets.steps.inspect.reproduce import Reproduction, reproduce
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.registry.registry import new_run
from retrain_assets_tests.serving.site import Site, listening, post

LIBRARIES = {
    "lightgbm": ("lightgbm.LGBMClassifier", {"n_estimators": 20, "subsample": 0.8}),
    "xgboost": ("xgboost.XGBClassifier", {"n_estimators": 20, "subsample": 0.8}),
    "catboost": ("catboost.CatBoostClassifier", {"iterations": 20, "depth": 3}),
}


def retrain(site: Site) -> LedgerRow:
    """Train, judge and decide as the assets do."""
    start_run = partial(new_run, site.state.registry)
    versions = train_candidates(site.state, plan(site.state, None, ("request",)), start_run)
    check = site.state.registry.check_in_clean_process(versions[0], "binary")
    assert check.passed, check.detail
    return decide_candidate(site.state, "a run", start_run)


@pytest.fixture(scope="module", params=LIBRARIES)
def grown(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Site, list[LedgerRow]]:
    """A site whose first model was replaced after the law had turned, and both decisions."""
    path, params = LIBRARIES[request.param]
    stopping = {"rounds": 3, "share": 0.2}
    changes = {
        "estimator": {"class": path, "params": params, "early_stopping": stopping},
        "lookups": {},
        "features": {"sql": "SELECT x, plan FROM rows"},
    }
    site, rows = Site(tmp_path_factory.mktemp(request.param), changes), []
    for days, slope in ((range(16), 2.0), (range(16, 34), -2.0)):
        site.land(*days, slope=slope)
        site.build(*days)
        rows.append(retrain(site))
    return request.param, site, rows


def test_it_is_trained_judged_promoted_served_and_scored(grown: Any) -> None:
    name, site, rows = grown
    assert [row.action for row in rows] == ["promote", "promote"]
    assert rows[1].previous == rows[0].version
    site.land(34)
    site.build(34)
    scored = site.storage.tables.scan("churn/predictions").collect()
    assert {row.version for row in rows} <= set(scored["model_version"])
    days = {"day": "2020-02-20", "at": "2020-02-20T09:30:00Z", "id": 1}
    asked = [{**days, "x": 0.5, "plan": "pro"}, {**days, "x": None, "plan": "never seen"}]
    with listening(site.service()) as client:
        answer = post(client, *asked).json()
    pipeline = site.storage.registry("churn").load(rows[1].version, rows[1].sha256)
    features = pl.DataFrame({"x": [0.5, None], "plan": ["pro", "never seen"]})
    assert answer["version"] == rows[1].version
    values = [row["prediction"] for row in answer["predictions"]]
    expected = predict(pipeline, "binary", features)
    np.testing.assert_allclose(values, expected, rtol=0, atol=TOLERANCE)  # of the quick form
    assert pipeline[-1].path.startswith(name)


def test_its_version_in_mlflow_knows_library_file_and_requirement(grown: Any) -> None:
    name, site, _ = grown
    registry = site.storage.registry("churn")
    version = registry.versions()[0]
    registry.prepare()
    described = mlflow.models.get_model_info(version.uri)
    assert {"sklearn", "python_function", name} <= described.flavors.keys()
    assert described.signature.inputs.input_names() == ["x", "plan"]
    requirements = registry.file(version.uri, "requirements.txt").decode().splitlines()
    assert any(line.startswith(name) and "==" in line for line in requirements)
    file = registry.file(version.uri, described.flavors[name]["data"])
    assert file == registry.load(version.version, version.sha256)[-1].native_
    native = getattr(mlflow, name).load_model(version.uri)
    assert type(native).__module__.startswith(name)
    features = pl.DataFrame({"x": [0.5], "plan": ["pro"]}).to_pandas()
    answer = mlflow.pyfunc.load_model(version.uri).predict(features)
    pipeline = registry.load(version.version, version.sha256)
    np.testing.assert_array_equal(answer, pipeline.predict_proba(features))


def test_it_is_built_again_bit_for_bit(grown: Any) -> None:
    _, site, rows = grown
    for row in rows:
        found = reproduce(site.state, row.version)
        assert found == Reproduction(identical=True, differences=())


def test_a_rollback_brings_the_version_before_back(grown: Any) -> None:
    _, site, rows = grown
    row = roll_back(site.state, None, "complaints", "on call")
    assert (row.action, row.version) == ("rollback", rows[0].version)
    assert Loader(site.state, site.root / "copies").load(row).number == rows[0].version
