"""The MLflow registry of one model: versions, their files and aliases.

MLflow keeps and shows; it decides nothing, and nothing it says about a file is believed when the
file is loaded. Its own loader is never used, since that reads from the artifact which types to
trust, and whether to unpickle.

A scikit-learn model that somebody else has logged to MLflow.

Not here: which version is in production (the ledger says that),
fitting, Dagster.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.errors import PermanentError
from retrain_assets.specs.features import Kind
from retrain_assets.stores.registry.mlflow_log import (
    environment_kept,
    log_pipeline,
    log_run,
    open_client,
)
from retrain_assets.stores.registry.model_check import EXAMPLE_FILE, CheckResult, check_file
from retrain_assets.stores.registry.model_file import (
    MODEL_FILE,
    ModelFileError,
    content_digest,
    digest,
    load_model,
    prepare_threads,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from sklearn.pipeline import Pipeline

DIGEST_TAG, METRICS_TAG, HEAD_TAG = "sha256", "metrics", "ledger_head"


class RegistryError(PermanentError):
    """The registry has not what was asked for; the message says what it has."""


@dataclass(frozen=True)
class ModelVersion:
    """One registered version.

    Args:
        name: Of the model.
        version: Its number, from 1.
        run_id: The MLflow run it was logged to.
        uri: Where its files are, as MLflow names it.
        sha256: Digest of its model file when it was logged.
        tags: What was recorded on it.
        metrics: Its metrics on the holdout.
    """

    name: str
    version: int
    run_id: str
    uri: str
    sha256: str
    tags: dict[str, str]
    metrics: dict[str, float]


class ModelRegistry:
    """The versions of one model in MLflow.

    Args:
        tracking_uri: MLflow's server or database.
        artifact_root: Folder or URI below which files are kept; with a database as tracking URI
            MLflow would otherwise put them below the current directory.
        name: Of the model, and of its experiment.
    """

    def __init__(self, tracking_uri: str, artifact_root: str, name: str) -> None:
        prepare_threads()
        self.tracking_uri, self.artifact_root, self.name = tracking_uri, artifact_root, name

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; made when first used, since importing MLflow takes seconds."""
        if "://" not in self.artifact_root:
            Path(self.artifact_root).mkdir(parents=True, exist_ok=True)
        return open_client(self.tracking_uri)

    def prepare(self) -> None:
        """Make experiment and registered model where they are missing; point MLflow at them."""
        client = self.client
        import mlflow
        from mlflow.exceptions import MlflowException

        with environment_kept("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            mlflow.set_tracking_uri(self.tracking_uri)
            mlflow.set_registry_uri(self.tracking_uri)
        folder = f"{self.artifact_root.rstrip('/')}/{self.name}"
        for create in (
            partial(client.create_experiment, self.name, folder),
            partial(client.create_registered_model, self.name),
        ):
            try:
                create()
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        mlflow.set_experiment(self.name)

    def close_runs(self) -> None:
        """Mark as killed what a killed process left open; people's own runs stay as they are."""
        if (experiment := self.client.get_experiment_by_name(self.name)) is not None:
            ids = [experiment.experiment_id]
            found = self.client.search_runs(ids, "attributes.status = 'RUNNING'")
            ours = {run.info.run_id for run in found if "dagster_run_id" in run.data.tags}
            for run in found:
                if ours & {run.info.run_id, run.data.tags.get("mlflow.parentRunId")}:
                    self.client.set_terminated(run.info.run_id, "KILLED")

    def log_version(  # noqa: PLR0913 all that is kept of a fit
        self,
        run_id: str,
        pipeline: Pipeline,
        *,
        example: pl.DataFrame,
        prediction: np.ndarray,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        texts: Mapping[str, str],
        figures: Mapping[str, Callable[[], Figure]],
    ) -> ModelVersion:
        """Log a fitted pipeline to its run and register it as a version.

        Args:
            run_id: The MLflow run.
            pipeline: What was fitted.
            example: A few rows of features, on which it is tried whenever it is loaded anew.
            prediction: What it predicts for them.
            params: Of the estimator.
            metrics: On the holdout.
            tags: To find the version by.
            texts: Text files, by name.
            figures: What draws each picture, by name.

        Raises:
            ModelFileError: The pipeline holds types that are not trusted when it is loaded.
        """
        self.prepare()
        log_run(self.client, run_id, params, metrics, texts, figures)
        uri, model_id = log_pipeline(run_id, pipeline, example, prediction)
        own = {DIGEST_TAG: digest(self.file(uri, MODEL_FILE)), METRICS_TAG: json.dumps(metrics)}
        created = self.client.create_model_version(
            self.name, uri, run_id, tags={**tags, **own}, model_id=model_id
        )
        return _version(created)

    def again(
        self, found: ModelVersion, tags: Mapping[str, str], metrics: Mapping[str, float]
    ) -> ModelVersion:
        """Register the files of a version once more, under other tags and metrics."""
        self.prepare()
        model_id = found.uri.rpartition("/")[2]
        tags = {**found.tags, **tags, METRICS_TAG: json.dumps(metrics)}
        given = self.name, found.uri, found.run_id, tags
        return _version(self.client.create_model_version(*given, model_id=model_id))

    def find(self, tags: Mapping[str, str]) -> ModelVersion | None:
        """The newest version that has all these tags, such as the work of a run that crashed."""
        found = (known for known in self.versions() if tags.items() <= known.tags.items())
        return next(found, None)

    def versions(self) -> list[ModelVersion]:
        """All versions, newest first."""
        pages = self.client.search_model_versions(f"name='{self.name}'", max_results=10_000)
        return sorted(map(_version, pages), key=lambda found: found.version, reverse=True)

    def versions_of_all(self) -> list[ModelVersion]:
        """All versions of all models of the registry."""
        found: list[ModelVersion] = []
        token: str | None = None
        while token != "":
            page = self.client.search_model_versions(max_results=1_000, page_token=token)
            found.extend(map(_version, page))
            token = page.token or ""
        return found

    def version(self, number: int) -> ModelVersion:
        """One version.

        Raises:
            RegistryError: There is none of that number; the message lists those there are.
        """
        known = {found.version: found for found in self.versions()}
        if number not in known:
            there = ", ".join(map(str, sorted(known))) or "none yet"
            raise RegistryError(f"model {self.name} has no version {number}: there are {there}")
        return known[number]

    def alias(self, name: str) -> int | None:
        """The version an alias names; None where nothing has it."""
        from mlflow.exceptions import MlflowException

        try:
            return int(self.client.get_registered_model(self.name).aliases[name])
        except KeyError:
            return None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def set_alias(self, name: str, number: int | None) -> None:
        """Let an alias name a version, or none.

        Raises:
            RegistryError: There is none of that number.
        """
        if number is None:
            self.client.delete_registered_model_alias(self.name, name)
            return
        found = self.version(number)
        self.client.set_registered_model_alias(self.name, name, str(found.version))

    @property
    def ledger_head(self) -> str:
        """The newest row of the ledger that was told; empty where none was.

        Kept here, since who can write the ledger's table need not be able to write the registry.
        """
        found = self.client.search_registered_models(f"name='{self.name}'")
        return str(found[0].tags.get(HEAD_TAG, "")) if found else ""

    @ledger_head.setter
    def ledger_head(self, head: str) -> None:
        self.client.set_registered_model_tag(self.name, HEAD_TAG, head)

    def load(self, number: int, sha256: str) -> Pipeline:
        """The pipeline of a version.

        Args:
            number: Of the version.
            sha256: Its digest, from the ledger where it has one.

        Raises:
            RegistryError: There is no such version.
            ModelFileError: Its file is missing, was changed, or holds types that are not trusted.
        """
        found = self.version(number)
        title = f"model {self.name} version {number}"
        return load_model(self.file(found.uri, MODEL_FILE), sha256, title)

    def content(self, found: ModelVersion) -> str:
        """What names the fitted objects of a version, in whichever process they were stored."""
        return content_digest(self.file(found.uri, MODEL_FILE))

    def text(self, found: ModelVersion, name: str) -> str:
        """A text file of the run a version was logged to; empty where it has none."""
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        with TemporaryDirectory() as folder:
            try:
                path = download_artifacts(
                    run_id=found.run_id,
                    artifact_path=name,
                    dst_path=folder,
                    tracking_uri=self.tracking_uri,
                )
            except (MlflowException, OSError):
                return ""
            return Path(path).read_text(encoding="utf-8")

    def check_in_clean_process(self, found: ModelVersion, kind: Kind) -> CheckResult:
        """Whether a version loads and repeats its predictions in a new process."""
        with TemporaryDirectory() as folder:
            model, example = Path(folder) / MODEL_FILE, Path(folder) / EXAMPLE_FILE
            model.write_bytes(self.file(found.uri, MODEL_FILE))
            example.write_bytes(self.file(found.uri, f"extra_files/{EXAMPLE_FILE}"))
            return check_file(model, found.sha256, example, kind)

    def file(self, uri: str, name: str) -> bytes:
        """A file of a version, read once: what is verified is what is used.

        Raises:
            ModelFileError: It cannot be read.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        try:
            place = self.client.get_logged_model(uri.rpartition("/")[2]).artifact_location
            with TemporaryDirectory() as folder:
                path = download_artifacts(
                    artifact_uri=f"{place}/{name}", dst_path=folder, tracking_uri=self.tracking_uri
                )
                return Path(path).read_bytes()
        except (MlflowException, OSError) as error:
            why = str(error).strip().rpartition("\n")[2]
            raise ModelFileError(
                f"model {self.name}: {uri}/{name} cannot be read ({why}): "
                "restore it or roll back to another version"
            ) from error


def _version(found: Any) -> ModelVersion:
    tags = dict(found.tags)
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        run_id=found.run_id,
        uri=found.source,
        sha256=tags.get(DIGEST_TAG, ""),
        tags=tags,
        metrics=json.loads(tags.get(METRICS_TAG, "{}")),
    )


REGISTERED = "models:/"


def load_foreign(source: str, registry: ModelRegistry) -> Any:
    """The fitted estimator of an MLflow model with sklearn flavour. Runs code that is in it.

    Args:
        source: `models:/name/version` or `models:/name@alias` in this registry, or a local folder.
        registry: Where `models:/` is looked up.

    Raises:
        ModelFileError: It is somewhere else, not there, or cannot be loaded here.
    """
    if not source.startswith(REGISTERED) and not (Path(source) / "MLmodel").is_file():
        raise ModelFileError(
            f"{source} is neither {REGISTERED}name/version nor a local folder of an MLflow model"
        )
    registry.prepare()
    import mlflow.sklearn

    try:
        return mlflow.sklearn.load_model(source)
    except Exception as error:  # whatever unpickling may raise
        why = " ".join(str(error).split())[:300]
        raise ModelFileError(
            f"{source} cannot be loaded as a scikit-learn model: {type(error).__name__}: {why}"
        ) from error


def new_run(registry: ModelRegistry) -> str:
    """A finished MLflow run of the model's experiment, to log a version to."""
    registry.prepare()
    experiment = registry.client.get_experiment_by_name(registry.name)
    run_id: str = registry.client.create_run(experiment.experiment_id).info.run_id
    registry.client.set_terminated(run_id)
    return run_id
