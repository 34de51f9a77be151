"""A model that a team already runs becomes the first production, and the loop goes on from it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import mlflow.sklearn
import mlflow.xgboost
import numpy as np
import polars as pl
import pytest
from catboost import CatBoostClassifier
from lightgbm import LGBMClassifier
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from xgboost import XGBClassifier

from retrain_assets.domain.model.estimator import predict, wrap_fitted
from retrain_assets.domain.model.families.family import TrainingError
from retrain_assets.serving.scoring.served_model import Loader
from retrain_assets.steps.decision import release
from retrain_assets.steps.decision.adopt import adopt
from retrain_assets.steps.decision.evaluate import read_evaluation
from retrain_assets.steps.decision.promote import DecisionError
from retrain_assets.steps.decision.release import publish
from retrain_assets.steps.inspect.card import card
from retrain_assets.steps.inspect.reproduce import NotRecordedError, reproduce
from retrain_assets.steps.inspect.status import describe_staleness
from retrain_assets.stores.registry import model_check, model_file, native_file
from retrain_assets.stores.registry.github import GitHubError
from retrain_assets.stores.registry.model_check import EXAMPLE_FILE, CheckResult
from retrain_assets.stores.registry.model_file import ModelFileError
from retrain_assets.stores.registry.native_file import take_over
from retrain_assets.stores.registry.release import FILES, MANIFEST, read
from retrain_assets.stores.tables.tables import StaleTableError
from retrain_assets_tests.github import REPOSITORY, TOKEN, GitHub, serving_releases
from retrain_assets_tests.world import World, customers, key, new_world

LANDED, THROUGH = 12, 5


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The storage of a world with twelve days, too few to train a model of its own."""
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("monitored"), instance)
        world.land(*range(LANDED))
        world.settle()
        world.storage.registry("churn").prepare()
        yield world.root


@pytest.fixture
def world(monitored: Path, tmp_path: Path, instance: dg.DagsterInstance) -> World:
    shutil.copytree(monitored, tmp_path / "data")
    return new_world(tmp_path / "data", instance)


def history() -> pl.DataFrame:
    """What the team had trained on, before any of it landed here."""
    return pl.concat([customers(number) for number in range(1000, 1030)])


def theirs(estimator: Any = None, columns: tuple[str, ...] = ("x", "plan")) -> Any:
    """Their model, fitted on a pandas frame."""
    plans = make_column_transformer((OneHotEncoder(), ["plan"]), remainder=StandardScaler())
    made = make_pipeline(*([plans] if "plan" in columns else []), estimator or LogisticRegression())
    rows = history()
    return made.fit(rows.select(columns).to_pandas(), rows["left"].to_numpy())


def saved(world: World, model: Any, form: str = "cloudpickle") -> str:
    """A folder of an MLflow model."""
    folder = world.root.parent / "theirs"
    mlflow.sklearn.save_model(
        model, folder, serialization_format=form, pip_requirements=["scikit-learn"]
    )
    return str(folder)


def ask(world: World, source: str, through: str = key(THROUGH)) -> Any:
    asked = {"trained_through": through, "reason": "it runs since spring", "by": "the team"}
    return adopt(world.state, source, **asked)


@pytest.mark.parametrize("form", ["cloudpickle", "skops"])
def test_an_adopted_model_predicts_as_it_did_for_its_team(world: World, form: str) -> None:
    model = theirs()
    row = ask(world, saved(world, model, form))
    assert (row.action, row.version, row.previous, row.by) == ("adopt", 1, None, "the team")
    assert row.data_range == (key(0), key(THROUGH))
    registry = world.storage.registry("churn")
    assert registry.alias("production") == 1
    assert world.state.ledger.read().production == row
    rows = customers(50).with_columns(plan=pl.col("plan").replace("pro", None))
    known = rows.drop_nulls("plan")
    given = predict(registry.load(1, row.sha256), "binary", known.select("plan", "x"))
    expected = model.predict_proba(known.select("x", "plan").to_pandas())[:, 1]
    assert given.tolist() == expected.tolist()


def test_a_model_of_the_registry_is_adopted_by_name_and_version(world: World) -> None:
    registry = world.storage.registry("churn")
    registry.prepare()
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            theirs(),
            name="m",
            registered_model_name="old",
            serialization_format="cloudpickle",
            pip_requirements=["scikit-learn"],
        )
    row = ask(world, "models:/old/1")
    assert "from models:/old/1, trained through 2020-01-06" in row.reason
    assert registry.version(1).tags["adopted_from"] == "models:/old/1"


def test_it_is_judged_on_what_it_had_not_seen_and_the_loop_goes_on_from_it(world: World) -> None:
    row = ask(world, saved(world, theirs()))
    assert 0 < row.metrics["log_loss"] < np.log(2)
    world.land(*range(LANDED, 30), slope=-2.0)
    world.settle()
    rows = world.state.ledger.read().rows
    assert rows[0].action == "adopt"
    assert rows[1].causes == ("performance",)
    judged = read_evaluation(world.state, rows[1].candidate or 0, production=1)
    assert judged is not None
    assert (judged.holdout_from or "") > key(THROUGH)
    predicted = world.storage.tables.scan("churn/predictions").collect()
    by_theirs = predicted.filter(pl.col("model_version") == 1)
    assert by_theirs["_landing_partition"].min() == key(LANDED)
    watched = world.storage.tables.scan("churn/monitoring").filter(pl.col("model_version") == 1)
    roles = set(watched.collect()["role"])
    assert {"feature", "target", "prediction", "performance"} <= roles


def test_a_holdout_it_may_have_seen_is_no_holdout(world: World) -> None:
    row = ask(world, saved(world, theirs()), key(LANDED - 1))
    assert (row.metrics, row.candidate) == ({}, None)
    assert "trained on data of no known version" in describe_staleness(world.state, [])
    world.land(*range(LANDED, 16))
    world.settle()
    world.daemon.execute("churn_retrain", {}, {})
    judged = read_evaluation(world.state, 2, production=1)
    assert judged is not None
    assert (judged.holdout_from, judged.holdout_to) == (key(LANDED), key(15))


def test_it_is_served_as_it_predicts(world: World) -> None:
    model = theirs()
    row = ask(world, saved(world, model))
    version = Loader(world.state, world.root / "copies").load(row)
    assert version.quick is None
    rows = pl.DataFrame({"x": [0.5, -1.0], "plan": ["pro", "basic"]}).select(version.columns)
    frame = pl.DataFrame(rows.rows(), schema=version.schema, orient="row")
    expected = model.predict_proba(rows.to_pandas())[:, 1]
    assert version.predict(world.state, frame).tolist() == expected.tolist()


def test_its_card_says_where_it_is_from_and_what_it_is_judged_on(world: World) -> None:
    source = saved(world, theirs())
    ask(world, source)
    made = card(world.state, 1)
    assert f"<td>adopted_from</td><td>{source}</td>" in made
    assert f"on 720 rows of 6 partitions, {key(THROUGH + 1)} to {key(LANDED - 1)}" in made


def test_it_is_not_built_again_and_the_reason_is_said(world: World) -> None:
    source = saved(world, theirs())
    ask(world, source)
    with pytest.raises(NotRecordedError, match=f"was adopted from {source} and not made here"):
        reproduce(world.state, 1)


def test_what_was_registered_before_a_kill_is_found_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(world, theirs())
    with monkeypatch.context() as patch:
        patch.setattr("retrain_assets.stores.ledger.Ledger.append", _raise)
        with pytest.raises(StaleTableError):
            ask(world, source)
    assert ask(world, source).version == 1
    assert len(world.storage.registry("churn").versions()) == 1


def _raise(*_: object) -> None:
    raise StaleTableError("moved on")


def test_only_the_first_is_adopted(world: World) -> None:
    source = saved(world, theirs())
    ask(world, source)
    with pytest.raises(DecisionError, match="churn: version 1 is in production"):
        ask(world, source)


def boosted(library: str) -> tuple[Any, Any]:
    """Their model of a library, and the rows as they gave them to it."""
    rows = history()
    numbers = rows.select("x").to_pandas()
    if library == "catboost":
        boosting = CatBoostClassifier(iterations=5, verbose=False, allow_writing_files=False)
        return boosting.fit(numbers, rows["left"].to_numpy()), numbers
    plans = rows.select("x", pl.col("plan").cast(pl.Categorical)).to_pandas()
    if library == "xgboost":
        boosting = XGBClassifier(n_estimators=5, enable_categorical=True)
        return boosting.fit(plans, rows["left"].to_numpy()), plans
    boosting = LGBMClassifier(n_estimators=5, verbosity=-1)
    return boosting.fit(plans, rows["left"].to_numpy()), plans


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost"])
def test_a_native_file_of_a_library_is_adopted_without_a_pickle(
    world: World, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow.sklearn.load_model", _raise)
    if library != "lightgbm":  # a new process takes seconds
        monkeypatch.setattr("retrain_assets.stores.registry.model_check.run_apart", run_here)
    model, rows = boosted(library)
    path = world.root.parent / "theirs.ubj"
    getattr(model, "booster_", model).save_model(str(path))
    row = ask(world, str(path))
    pipeline = world.storage.registry("churn").load(1, row.sha256)
    given = predict(pipeline, "binary", history().select("plan", "x"))
    np.testing.assert_array_equal(given, model.predict_proba(rows)[:, 1])


def test_a_model_in_the_flavor_of_its_library_is_adopted_by_its_native_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrain_assets.stores.registry.model_check.run_apart", run_here)
    model, rows = boosted("xgboost")
    folder = world.root.parent / "theirs"
    mlflow.xgboost.save_model(model, folder, pip_requirements=["xgboost"])
    row = ask(world, str(folder))
    pipeline = world.storage.registry("churn").load(1, row.sha256)
    given = predict(pipeline, "binary", history().select("plan", "x"))
    np.testing.assert_array_equal(given, model.predict_proba(rows)[:, 1])


def test_a_file_of_several_classes_is_taken_over_where_it_holds_their_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("retrain_assets.stores.registry.model_check.run_apart", run_here)
    rows = history().select("x")
    labels = rows["x"].cut([-0.5, 0.5], labels=["low", "mid", "high"]).cast(pl.String).to_numpy()
    several = CatBoostClassifier(iterations=3, verbose=False, allow_writing_files=False)
    content = saved_natively(several.fit(rows.to_pandas(), labels), tmp_path)
    pipeline = take_over(content, "theirs", "multiclass", rows)
    assert [*pipeline.classes_] == ["high", "low", "mid"]
    expected = several.predict_proba(rows.to_pandas())
    np.testing.assert_array_equal(predict(pipeline, "multiclass", rows), expected)
    with pytest.raises(ModelFileError, match="its classes are high, low, mid"):
        take_over(content, "theirs", "binary", rows)
    codes = np.unique(labels, return_inverse=True)[1]
    three = XGBClassifier(n_estimators=2).fit(rows.to_pandas(), codes)
    with pytest.raises(ModelFileError, match="it predicts 3 classes"):
        take_over(saved_natively(three, tmp_path), "theirs", "binary", rows)
    coded = XGBClassifier(n_estimators=2, feature_types=["c"], enable_categorical=True)
    content = saved_natively(coded.fit(codes[:, None], codes > 1), tmp_path)
    with pytest.raises(ModelFileError, match="it does not hold the texts of its categories"):
        take_over(content, "theirs", "binary", rows.rename({"x": "f0"}))


def saved_natively(model: Any, folder: Path) -> bytes:
    path = folder / "theirs.ubj"
    model.save_model(str(path))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("binary", lambda content, rows: (content[:900], rows), "theirs cannot be taken over: "),
        (
            "binary",
            lambda _, rows: (b"no model", rows),
            "theirs is not a native file: LightGBM's",
        ),
        (
            "regression",
            lambda *given: given,
            "its objective is binary, which is not of a regressor",
        ),
        ("multiclass", lambda *given: given, "do not hold the names of classes"),
        ("binary", lambda content, rows: (content, rows.drop("plan")), "it needs plan, but `feat"),
        (
            "binary",
            lambda content, rows: (content, rows.with_columns(plan=1.0)),
            "plan is text in only one of the two: the YAML, and the model",
        ),
    ],
)
def test_a_native_file_that_does_not_do_is_refused(
    kind: Any, change: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = boosted("lightgbm")
    content = model.booster_.model_to_string().encode()
    harmed, features = change(content, history().select("x", "plan"))
    if harmed == content:  # only a damaged file needs a process of its own
        monkeypatch.setattr("retrain_assets.stores.registry.model_check.run_apart", run_here)
    with pytest.raises(ModelFileError, match=said):
        take_over(harmed, "theirs", kind, features)


def run_here(_: str, arguments: list[str], __: float) -> CheckResult:
    output = io.StringIO()
    limits = patch("retrain_assets.stores.registry.model_check.limit_memory")
    with contextlib.redirect_stdout(output), limits:
        code = native_file.main(arguments)
    return CheckResult(code == 0, output.getvalue().strip(), 0.0)


class Bomb(LogisticRegression):
    """Not of scikit-learn, so that it could do anything once it is loaded for serving."""


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: theirs(LinearSVC()), "Pipeline gives no probabilities"),
        (lambda: theirs(LinearRegression()), "is not a classifier"),
        (lambda: theirs(Bomb()), "Bomb, which is not among the types that are loaded"),
        (
            lambda: LogisticRegression().fit([[0.0] * 3, [1.0] * 3], [0, 1]),
            "3 unnamed columns, but the YAML makes 2: x, plan",
        ),
        (
            lambda: theirs(columns=("x", "id")),
            "it needs id, but `features` of the YAML does not make them",
        ),
        (
            lambda: LogisticRegression().fit(history().select("x").to_pandas(), ["n", "y"] * 1800),
            "its classes are .*, target.kind binary needs 0 and 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_in_production(
    world: World, model: Any, said: str
) -> None:
    with pytest.raises((TrainingError, ModelFileError), match=said):
        ask(world, saved(world, model()))
    assert world.state.ledger.read().rows == ()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("models:/nope/1", "cannot be loaded as a scikit-learn model: .*nope"),
        ("https://elsewhere/model", "neither models:/name/version nor a local folder"),
        (os.devnull, "neither models:/name/version nor a local folder"),
    ],
)
def test_a_source_that_is_not_there_is_said(world: World, source: str, said: str) -> None:
    with pytest.raises(ModelFileError, match=said):
        ask(world, source)


@pytest.mark.parametrize("through", ["2019-12-31", "2020-1-5", "yesterday"])
def test_without_anything_it_was_trained_on_there_is_no_reference(
    world: World, through: str
) -> None:
    with pytest.raises(DecisionError, match=f"nothing is monitored through '{through}'"):
        ask(world, saved(world, theirs()), through)


def test_a_model_cannot_have_been_trained_on_what_has_not_landed(world: World) -> None:
    said = f"cannot be trained through {key(LANDED)}, as the newest .* stored is {key(LANDED - 1)}"
    with pytest.raises(DecisionError, match=said):
        ask(world, saved(world, theirs()), key(LANDED))


def test_categories_of_pandas_are_given_as_they_were(world: World) -> None:
    rows = history()
    frame = rows.select("x", "plan").with_columns(pl.col("plan").cast(pl.Categorical)).to_pandas()
    boosted = HistGradientBoostingClassifier(categorical_features="from_dtype", max_iter=5)
    boosted.fit(frame, rows["left"])
    row = ask(world, saved(world, boosted))
    pipeline = world.storage.registry("churn").load(1, row.sha256)
    given = predict(pipeline, "binary", rows.select("x", "plan"))
    assert given.tolist() == boosted.predict_proba(frame)[:, 1].tolist()


def test_what_was_fitted_on_an_array_is_given_one_in_the_order_of_the_spec() -> None:
    rows = history().select("id", "x")
    model = LogisticRegression().fit(rows.to_numpy(), history()["left"].to_numpy())
    with warnings.catch_warnings(action="error"):
        given = predict(wrap_fitted(model, "binary", rows), "binary", rows.select("x", "id"))
    assert given.tolist() == model.predict_proba(rows.to_numpy())[:, 1].tolist()


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    with serving_releases() as server:
        monkeypatch.setenv("GITHUB_API_URL", server.url)
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="module")
def released(monitored: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose adopted version is in production."""
    root = tmp_path_factory.mktemp("released") / "data"
    shutil.copytree(monitored, root)
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(root, instance)
        ask(world, saved(world, theirs()))
        return world


def test_a_release_on_github_is_adopted_elsewhere(
    released: World, world: World, github: GitHub
) -> None:
    value = publish(released.state, None, f"github:{REPOSITORY}")
    assert value["source"] == f"github:{REPOSITORY}@churn-v1"
    (stored,) = github.releases.values()
    assert not stored["draft"]
    assert {asset["name"] for asset in stored["assets"]} == {*FILES, MANIFEST}
    assert publish(released.state, 1, f"github:{REPOSITORY}") == value
    assert len(github.releases) == 1
    row = ask(world, value["source"])
    registries = [each.storage.registry("churn") for each in (released, world)]
    first, second = (
        predict(registry.load(1, registry.version(1).sha256), "binary", customers(50))
        for registry in registries
    )
    assert second.tolist() == first.tolist()
    assert value["source"] in row.reason


def test_an_upload_that_fails_is_seen_by_nobody_and_made_again(
    released: World, github: GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "card", lambda *_: "drawn in the test above")
    target, github.fails_after = f"github:{REPOSITORY}", 2
    with pytest.raises(GitHubError, match="502 Server Error"):
        publish(released.state, None, target)
    with pytest.raises(GitHubError, match="404 Not Found"):
        read(f"{target}@churn-v1")
    github.fails_after = 100
    others = {
        number: {"id": number, "assets": [], "tag_name": f"other-v{number}", "draft": False}
        for number in range(1, 151)
    }
    github.releases |= others  # newer than the draft, which is on the second page therefore
    publish(released.state, None, target)
    for number in others:
        del github.releases[number]
    assert len(github.releases) == 1
    files, manifest = read(target)
    assert (manifest["model"], set(files)) == ("churn", set(FILES))
    assert "notify" not in json.loads(files["contract.json"])["model"]
    model = next(a for a in next(iter(github.releases.values()))["assets"] if "model" in a["name"])
    github.contents[model["id"]] += b"x"
    with pytest.raises(ModelFileError, match=r"model\.skops is missing or not what was released"):
        read(f"{target}@churn-v1")
    with pytest.raises(GitHubError, match="has another model"):
        publish(released.state, None, target)
    monkeypatch.setenv("GITHUB_TOKEN", "wrong")
    github.releases.clear()
    with pytest.raises(GitHubError, match="401 Bad credentials"):
        publish(released.state, None, target)


@pytest.mark.parametrize("address", ["github:owner", "github:../..@x", "github:o/r@a/b", "github:"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is not written as github:OWNER/REPO"):
        read(address)


def test_a_release_in_a_folder_is_held_against_its_digests_and_its_example(
    released: World, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "card", lambda *_: "drawn in a test above")
    folder = Path(publish(released.state, None, str(tmp_path))["source"])
    assert publish(released.state, None, str(tmp_path))["source"] == str(folder)
    with pytest.raises(DecisionError, match=f"trained through {key(THROUGH)}, not {key(0)}"):
        ask(world, str(folder), through=key(0))
    sound = {name: (folder / name).read_bytes() for name in (*FILES, MANIFEST)}
    manifest = json.loads(sound[MANIFEST])
    wrong = pl.read_parquet(folder / EXAMPLE_FILE).with_columns(pl.col("_expected") + 1)
    wrong.write_parquet(folder / EXAMPLE_FILE)
    with pytest.raises(ModelFileError, match="not what was released"):
        ask(world, str(folder))
    manifest["files"][EXAMPLE_FILE] = sha256((folder / EXAMPLE_FILE).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DecisionError, match="does not predict as when released"):
        ask(world, str(folder))
    with monkeypatch.context() as patch:
        crash = CheckResult(False, "its process crashed", 0.0)
        patch.setattr(model_check, "check_file", lambda *_: crash)
        patch.setattr(model_file, "load_model", lambda *_: pytest.fail("it was read here first"))
        with pytest.raises(DecisionError, match="its process crashed"):
            ask(world, str(folder))
    for name, content in sound.items():
        (folder / name).write_bytes(content)
    assert ask(world, str(folder)).action == "adopt"
