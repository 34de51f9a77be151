"""A version is found again, loads by digest only, and never runs code from the store."""

from __future__ import annotations

import json
import math
import os
import pickle  # to make the bomb that must never go off
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import skops.io
from sklearn.dummy import DummyClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

from retrain_assets.domain.encoder import FrameEncoder
from retrain_assets.domain.model.estimator import fit, predict
from retrain_assets.specs.model import ModelSpec
from retrain_assets.stores.registry import model_check
from retrain_assets.stores.registry import registry as registry_module
from retrain_assets.stores.registry.model_check import compare_with_example, write_example
from retrain_assets.stores.registry.model_file import ModelFileError, digest, load_model
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion, RegistryError
from retrain_assets_tests.killing import Point, kill_at
from retrain_assets_tests.world import check_file, create_database

ROWS = 300
ESTIMATORS = [
    "sklearn.ensemble.HistGradientBoostingClassifier",
    "sklearn.ensemble.RandomForestClassifier",
    "sklearn.ensemble.GradientBoostingClassifier",
    "sklearn.linear_model.LogisticRegression",
    "sklearn.tree.DecisionTreeClassifier",
]
EXECUTED = "executed"


class Registered:
    """A registry with one version, and what it was made from."""

    def __init__(self, root: Path) -> None:
        self.registry = ModelRegistry(f"sqlite:///{root}/mlflow.db", f"{root}/artifacts", "churn")
        random = np.random.default_rng(1)
        self.features = pl.DataFrame(
            {
                "x": random.normal(size=ROWS),
                "plan": random.choice(["a", "b"], ROWS),
                "n": random.integers(0, 5, ROWS),
                "new": random.choice([True, False], ROWS),
            }
        )
        self.gone = pl.Series("gone", (self.features["x"] > 0).cast(pl.Float64))
        self.pipeline = self.fitted(ESTIMATORS[0])
        self.expected = predict(self.pipeline, "binary", self.features[:5])
        self.first = self.log(candidate_id="c1", role="gated")

    def fitted(self, estimator: str) -> Pipeline:
        spec = ModelSpec.model_validate(
            {
                "name": "churn",
                "dataset": "customers",
                "features": {"sql": "SELECT x FROM rows"},
                "target": {"column": "gone", "kind": "binary"},
                "estimator": {"class": estimator},
                "gate": {"metric": "log_loss"},
            }
        )
        return fit(spec, self.features, self.gone, pl.Series(["d"] * ROWS)).pipeline

    def log(self, pipeline: Pipeline | None = None, **tags: str) -> ModelVersion:
        self.registry.prepare()
        client = self.registry.client
        experiment = client.get_experiment_by_name("churn").experiment_id
        return self.registry.log_version(
            client.create_run(experiment).info.run_id,
            pipeline or self.pipeline,
            example=self.features[:5],
            prediction=self.expected,
            params={"max_iter": 100, "loss": "log_loss"},
            metrics={"log_loss": 0.1 + 0.2, "roc_auc": 0.5},
            tags=tags,
            texts={"spec.json": "{}"},
            pictures={"holdout.png": lambda: b"png"},
        )

    def folder(self, version: ModelVersion) -> Path:
        """Where the files of a version are."""
        uri = self.registry.client.get_model_version_download_uri("churn", str(version.version))
        return Path(uri)


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check models in a new process, as it is done outside of the tests."""
    monkeypatch.setattr(model_check, "check_file", check_file)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    return Registered(tmp_path_factory.mktemp("storage"))


def test_a_version_carries_what_it_was_logged_with(stored: Registered) -> None:
    found = stored.registry.version(1)
    assert found == stored.first
    assert found.metrics == {"log_loss": 0.1 + 0.2, "roc_auc": 0.5}
    assert found.tags["candidate_id"] == "c1"
    content = (stored.folder(found) / "model.skops").read_bytes()
    assert found.sha256 == found.tags["sha256"] == digest(content)
    run = stored.registry.client.get_run(found.run_id)
    assert run.data.params == {"max_iter": "100", "loss": "log_loss"}
    assert run.data.metrics == {"log_loss": 0.1 + 0.2, "roc_auc": 0.5}
    logged = stored.registry.client.list_artifacts(found.run_id)
    assert {file.path for file in logged} == {"spec.json", "holdout.png"}


def test_an_undefined_metric_is_null_in_the_tag(stored: Registered) -> None:
    again = stored.registry.register_again(stored.first, {"candidate_id": "nan"}, {"auc": math.nan})
    assert json.loads(again.tags["metrics"]) == {"auc": None}
    assert math.isnan(again.metrics["auc"])


def test_files_lie_below_the_artifact_root(stored: Registered) -> None:
    root = Path(stored.registry.artifact_root)
    assert stored.folder(stored.first).is_relative_to(root / "churn")


def test_the_signature_names_the_raw_features(stored: Registered) -> None:
    import mlflow

    signature = mlflow.models.get_model_info(stored.first.uri).signature
    inputs = signature.inputs
    (answer,) = signature.outputs.inputs
    assert (answer.type, answer.shape) == (np.dtype(float), (-1, 2))  # a probability a class
    assert dict(zip(inputs.input_names(), map(str, inputs.input_types()), strict=True)) == {
        "x": "DataType.double",
        "plan": "DataType.string",
        "n": "Any",  # of another type, MLflow takes no null
        "new": "Any",
    }


def test_mlflow_takes_the_nulls_that_serving_takes(stored: Registered) -> None:
    import mlflow
    from mlflow.pyfunc.scoring_server import infer_and_parse_data

    mlflow.set_tracking_uri(stored.registry.tracking_uri)
    loaded = mlflow.pyfunc.load_model("models:/churn/1")
    rows = stored.features.head(5)
    for name in rows.columns:
        holes = rows.with_columns(pl.when(pl.int_range(5) > 1).then(name).alias(name))
        expected = predict(stored.pipeline, "binary", holes)
        body = {"dataframe_records": holes.to_dicts()}
        sent = infer_and_parse_data(body, loaded.metadata.get_input_schema())
        for frame in (sent, holes.to_pandas()):
            np.testing.assert_array_equal(loaded.predict(frame)[:, 1], expected)


def test_outsiders_load_a_version_with_mlflow_and_pandas(stored: Registered) -> None:
    import mlflow

    mlflow.set_tracking_uri(stored.registry.tracking_uri)
    loaded = mlflow.sklearn.load_model("models:/churn/1")
    given = stored.features.head(5).to_pandas()
    np.testing.assert_array_equal(loaded.predict_proba(given)[:, 1], stored.expected)
    answer = mlflow.pyfunc.load_model("models:/churn/1").predict(given)
    np.testing.assert_array_equal(answer[:, 1], stored.expected)


def test_the_newest_version_with_the_tags_is_found(stored: Registered) -> None:
    older = stored.log(candidate_id="c2", role="gated")
    newer = stored.log(candidate_id="c2", role="gated")
    refit = stored.log(candidate_id="c2", role="refit")
    registry = stored.registry
    assert registry.find({"candidate_id": "c2", "role": "gated"}) == newer
    assert registry.find({"candidate_id": "c2"}) == refit
    assert registry.find({"candidate_id": "it's new"}) is None
    numbers = [found.version for found in registry.versions()]
    assert numbers[:3] == [refit.version, newer.version, older.version]
    assert numbers == sorted(numbers, reverse=True)


def test_an_alias_names_a_version_that_exists(stored: Registered) -> None:
    registry = stored.registry
    assert registry.alias("staging") is None
    registry.set_alias("staging", 1)
    assert registry.alias("staging") == 1
    with pytest.raises(RegistryError, match=r"model churn has no version 99: there are 1"):
        registry.set_alias("staging", 99)
    assert registry.alias("staging") == 1


def test_an_unknown_model_has_no_versions(stored: Registered) -> None:
    other = ModelRegistry(stored.registry.tracking_uri, stored.registry.artifact_root, "other")
    assert other.versions() == []
    assert other.alias("production") is None
    with pytest.raises(RegistryError, match="model other has no version 1: there are none yet"):
        other.load(1, "")


def test_preparing_twice_is_harmless(stored: Registered) -> None:
    before = stored.registry.versions()
    stored.registry.prepare()
    assert stored.registry.versions() == before


def test_a_loaded_version_predicts_exactly_the_same(stored: Registered) -> None:
    loaded = stored.registry.load(1, stored.first.sha256)
    np.testing.assert_array_equal(
        predict(loaded, "binary", stored.features),
        predict(stored.pipeline, "binary", stored.features),
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_usual_pipelines_load(stored: Registered, estimator: str) -> None:
    pipeline = stored.fitted(estimator)
    content = skops.io.dumps(pipeline)
    loaded = load_model(content, digest(content), "v")
    np.testing.assert_array_equal(
        predict(loaded, "binary", stored.features), predict(pipeline, "binary", stored.features)
    )


class Neighbours(KNeighborsClassifier):
    """An estimator of the user's own, which no list trusts."""


def test_a_pipeline_of_types_that_are_not_trusted_is_not_logged(
    stored: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [("encode", FrameEncoder()), ("estimator", Neighbours())]
    pipeline = Pipeline(steps).fit(stored.features.select("x"), stored.gone)
    before = stored.registry.versions()
    with pytest.raises(ModelFileError, match=r"holds .*Neighbours, which is not among the types"):
        stored.log(pipeline)
    assert stored.registry.versions() == before
    place = stored.registry.tracking_uri, stored.registry.artifact_root, "own"
    registry = ModelRegistry(*place, [f"{__name__}.Neighbours"])
    monkeypatch.setattr(stored, "registry", registry)
    version = stored.log(pipeline)
    assert type(registry.load(1, version.sha256)[-1]) is Neighbours
    with pytest.raises(ModelFileError, match=r"write estimator\.trusted: \[.*\.Neighbours\]"):
        ModelRegistry(*place).load(1, version.sha256)


class Malicious:
    """Pickled, it leaves a file behind as soon as it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_a_changed_file_is_refused_before_anything_is_deserialised(
    stored: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = stored.log()
    path = stored.folder(version) / "model.skops"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr("skops.io.loads", lambda *_, **__: pytest.fail("it was deserialised"))
    with pytest.raises(ModelFileError, match=rf"churn version {version.version}: .*was changed"):
        stored.registry.load(version.version, version.sha256)


def test_a_version_that_was_turned_into_a_pickle_is_not_unpickled(
    stored: Registered, tmp_path: Path
) -> None:
    version, trace = stored.log(), tmp_path / EXECUTED
    folder = stored.folder(version)
    text = (folder / "MLmodel").read_text()
    (folder / "MLmodel").write_text(
        text.replace("serialization_format: skops", "serialization_format: pickle").replace(
            "model.skops", "model.pkl"
        )
    )
    bomb = pickle.dumps(Malicious(trace))
    (folder / "model.pkl").write_bytes(bomb)
    (folder / "model.skops").write_bytes(bomb)
    with pytest.raises(ModelFileError, match="was changed after training"):
        stored.registry.load(version.version, version.sha256)
    checked = stored.registry.check_in_clean_process(version, "binary")
    assert not checked.passed
    assert not trace.exists()
    pickle.loads(bomb)  # noqa: S301 the bomb is a real one
    assert trace.exists()


def test_a_file_with_a_type_of_its_own_is_refused_even_with_its_digest(stored: Registered) -> None:
    content = skops.io.dumps({"model": stored.registry.client.get_run})
    with pytest.raises(ModelFileError, match=r"v: holds .*MlflowClient.*, which is not among"):
        load_model(content, digest(content), "v")


def test_a_lost_file_is_named(stored: Registered) -> None:
    version = stored.log()
    (stored.folder(version) / "model.skops").unlink()
    with pytest.raises(ModelFileError, match=r"model\.skops cannot be read .*roll back"):
        stored.registry.load(version.version, version.sha256)


def test_a_sound_version_passes_in_a_clean_process(stored: Registered) -> None:
    found = stored.registry.check_in_clean_process(stored.first, "binary")
    assert (found.passed, found.detail) == (True, "loaded, and predicted 5 rows as in training")
    assert 0 < found.seconds < 60


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ("one bit off", r"row 4 \(counted from 0\) predicts 0\.\d+.*, expected 0\.\d+"),
        ("nan", "row 0 .* expected nan"),
        ("two columns", r"predictions of shape \(5,\), expected \(5, 2\)"),
    ],
)
def test_other_predictions_than_in_training_are_refused(
    stored: Registered, expected: str, said: str, tmp_path: Path
) -> None:
    last = np.arange(5) == 4
    given = {
        "one bit off": np.where(last, np.nextafter(stored.expected, 1), stored.expected),
        "nan": np.full(5, np.nan),
        "two columns": np.stack([stored.expected] * 2, axis=1),
    }[expected]
    write_example(tmp_path / "example.parquet", stored.features[:5], given)
    path = stored.folder(stored.first) / "model.skops"
    with pytest.raises(ModelFileError, match=said):
        compare_with_example(path, stored.first.sha256, tmp_path / "example.parquet", "binary")


def test_every_probability_of_several_classes_is_compared(
    stored: Registered, tmp_path: Path
) -> None:
    shares = np.full((5, 3), 1 / 3)
    write_example(tmp_path / "example.parquet", stored.features[:5], shares)
    dummy = DummyClassifier(strategy="uniform").fit(np.zeros((3, 1)), ["a", "b", "c"])
    steps = [("encode", FrameEncoder().fit(stored.features)), ("estimator", dummy)]
    content = skops.io.dumps(Pipeline(steps))
    (tmp_path / "model.skops").write_bytes(content)
    given = (tmp_path / "model.skops", digest(content), tmp_path / "example.parquet")
    assert "5 rows" in compare_with_example(*given, "multiclass")
    shares[3, 2] = 0.3
    write_example(tmp_path / "example.parquet", stored.features[:5], shares)
    with pytest.raises(ModelFileError, match=r"row 3 .* expected 0\.3:"):
        compare_with_example(*given, "multiclass")


def test_a_process_that_does_not_answer_in_time_fails(stored: Registered) -> None:
    path = stored.folder(stored.first) / "model.skops"
    example = stored.folder(stored.first) / "extra_files" / "example.parquet"
    given = (path, stored.first.sha256, example, "binary")
    found = check_file(*given, timeout_seconds=0.01)
    assert (found.passed, found.detail) == (False, "no answer within 0.01 s")


def test_reading_leaves_nothing_in_the_current_folder(
    stored: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    known = stored.registry
    registry = ModelRegistry(known.tracking_uri, known.artifact_root, known.name)
    registry.load(1, stored.first.sha256)
    registry.set_alias("production", 1)
    assert registry.alias("production") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_registry_prepares_the_process_before_it_loads_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    ModelRegistry("sqlite:///never.db", "never", "churn")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert not Path("never").exists()


def prepare(root: Path) -> None:
    registry_module._create_database = create_database
    ModelRegistry(f"sqlite:///{root}/mlflow.db", f"{root}/artifacts", "churn").prepare()


@pytest.mark.parametrize("after", [False, True], ids=["half made", "made"])
def test_a_database_that_was_being_made_by_a_process_that_died_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    monkeypatch.setattr(registry_module, "_create_database", create_database)
    kill_at(Point("mlflow.store.db.utils:_upgrade_db", after=after), prepare, tmp_path)
    assert not (tmp_path / "mlflow.db").exists()
    prepare(tmp_path)
    prepare(tmp_path)


def test_a_version_registered_again_has_its_files_under_other_tags(tmp_path: Path) -> None:
    stored = Registered(tmp_path)
    again = stored.registry.register_again(stored.first, {"candidate_id": "c9"}, {"log_loss": 0.25})
    assert again == stored.registry.version(2)
    assert (again.sha256, again.uri) == (stored.first.sha256, stored.first.uri)
    assert again.tags["candidate_id"] == "c9"
    assert (again.tags["role"], again.metrics) == ("gated", {"log_loss": 0.25})
    predicted = predict(stored.registry.load(2, again.sha256), "binary", stored.features[:5])
    np.testing.assert_array_equal(predicted, stored.expected)
    assert stored.registry.version(1) == stored.first
