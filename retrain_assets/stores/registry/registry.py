"""The MLflow registry of one model: versions, their files and aliases.

MLflow stores and displays versions, and decides nothing. Nothing it says about a file is trusted
when the file is loaded, and its own loader is used only for a model that a person adopts, since it
reads from the artifact which types to trust and whether to unpickle. Not here: which version is in
production (`stores.ledger`), fitting, Dagster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from logging import WARNING, getLogger
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.json_text import read_metrics, write_json
from retrain_assets.errors import PermanentError, mask_password
from retrain_assets.specs.features import Kind
from retrain_assets.stores.database import DRIVER, alone
from retrain_assets.stores.place import PlaceError, is_object_uri, place_at
from retrain_assets.stores.registry import artifacts, model_check, model_file, native_file
from retrain_assets.stores.registry.logged_model import log_pipeline
from retrain_assets.stores.registry.model_file import MODEL_FILE, ModelFileError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sklearn.pipeline import Pipeline

DIGEST_TAG, METRICS_TAG, HEAD_TAG = "sha256", "metrics", "ledger_head"
SQLITE, REGISTERED = "sqlite:///", "models:/"
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # By MLflow's own bounds a server that hangs holds a retraining for a quarter of an hour a call.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}


class RegistryError(PermanentError):
    """The registry does not have a version; the message lists those that it has."""


@dataclass(frozen=True)
class ModelVersion:
    """One registered version.

    Args:
        name: The model.
        version: Its number, from 1.
        run_id: The MLflow run it was logged to.
        uri: The place of its files, as MLflow names it.
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
        artifact_root: Folder or URI below which files are stored; with a database as tracking URI
            MLflow would otherwise put them below the current directory.
        name: The model, and its experiment.
        trusted: Types that its versions may hold, beside those that are always loaded.
    """

    def __init__(
        self, tracking_uri: str, artifact_root: str, name: str, trusted: Sequence[str] = ()
    ) -> None:
        model_file.prepare_threads()
        self.trusted = tuple(trusted)
        self.tracking_uri, self.artifact_root, self.name = tracking_uri, artifact_root, name

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out the client, so that another process opens its own."""
        settings = self.tracking_uri, self.artifact_root, self.name, self.trusted
        return ModelRegistry, settings

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; created when first used, since importing MLflow takes seconds."""
        artifacts.prepare(self.artifact_root)
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        if self.tracking_uri.startswith(SQLITE):
            _create_database(Path(self.tracking_uri.removeprefix(SQLITE)))
        is_postgres = self.tracking_uri.startswith(DRIVER)
        # It creates its tables, and would try for minutes to reach a server that is gone.
        with alone(self.tracking_uri) if is_postgres else nullcontext():
            return MlflowClient(self.tracking_uri, self.tracking_uri)

    def prepare(self) -> None:
        """Create experiment and registered model if they are missing, and point MLflow at them."""
        client = self.client
        import mlflow
        from mlflow.exceptions import MlflowException

        # MLflow also sets the environment, which the next storage opened here would read.
        before = os.environ.copy()
        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_registry_uri(self.tracking_uri)
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            os.environ.pop(name, None)
            os.environ |= {name: before[name]} if name in before else {}
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
        """Mark runs that a killed process left open as killed; runs of people stay as they are."""
        if (experiment := self.client.get_experiment_by_name(self.name)) is not None:
            ids = [experiment.experiment_id]
            runs = self.client.search_runs(ids, "attributes.status = 'RUNNING'")
            platform_runs = {run.info.run_id for run in runs if "dagster_run_id" in run.data.tags}
            for run in runs:
                if platform_runs & {run.info.run_id, run.data.tags.get("mlflow.parentRunId")}:
                    self.client.set_terminated(run.info.run_id, "KILLED")

    def log_version(  # noqa: PLR0913 all that is stored of a fit
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
        pictures: Mapping[str, Callable[[], bytes]],
    ) -> ModelVersion:
        """Log a fitted pipeline to its run and register it as a version.

        Args:
            run_id: The MLflow run.
            pipeline: The fitted pipeline.
            example: A few rows of features, on which it is tried whenever it is loaded anew.
            prediction: What it predicts for them.
            params: Of the estimator.
            metrics: On the holdout.
            tags: To find the version by.
            texts: Text files, by name.
            pictures: Functions that draw PNG files, by name.

        Raises:
            ModelFileError: The pipeline holds types that are not trusted when it is loaded.
        """
        self.prepare()
        import mlflow

        mlflow.log_metrics(dict(metrics), run_id=run_id)
        mlflow.log_params(dict(params), run_id=run_id)
        with TemporaryDirectory() as folder:
            for name, text in texts.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            for name, draw in pictures.items():
                (Path(folder) / name).write_bytes(draw())
            self.client.log_artifacts(run_id, folder)
        logged = log_pipeline(run_id, pipeline, example, prediction, self.trusted)
        sha256 = model_file.digest(self.file(logged.model_uri, MODEL_FILE))
        tags = {**tags, DIGEST_TAG: sha256, METRICS_TAG: write_json(metrics)}
        return self._register(logged.model_uri, run_id, tags)

    def register_again(
        self, version: ModelVersion, tags: Mapping[str, str], metrics: Mapping[str, float]
    ) -> ModelVersion:
        """Register the files of a version once more, under other tags and metrics."""
        self.prepare()
        tags = {**version.tags, **tags, METRICS_TAG: write_json(metrics)}
        return self._register(version.uri, version.run_id, tags)

    def _register(self, uri: str, run_id: str, tags: dict[str, str]) -> ModelVersion:
        model_id = uri.rpartition("/")[2]
        create = self.client.create_model_version
        return _version(create(self.name, uri, run_id, tags=tags, model_id=model_id))

    def find(self, tags: Mapping[str, str]) -> ModelVersion | None:
        """Return the newest version that has all these tags, such as one of a crashed run."""
        return next((item for item in self.versions() if tags.items() <= item.tags.items()), None)

    def versions(self) -> list[ModelVersion]:
        """Return all versions, newest first."""
        pages = self.client.search_model_versions(f"name='{self.name}'", max_results=10_000)
        return sorted(map(_version, pages), key=lambda item: item.version, reverse=True)

    def versions_of_all(self) -> list[ModelVersion]:
        """Return all versions of all models of the registry."""
        versions: list[ModelVersion] = []
        token: str | None = None
        while token != "":
            page = self.client.search_model_versions(max_results=1_000, page_token=token)
            versions.extend(map(_version, page))
            token = page.token or ""
        return versions

    def version(self, number: int) -> ModelVersion:
        """Return the version of a number.

        Raises:
            RegistryError: There is none of that number; the message lists those there are.
        """
        versions = {item.version: item for item in self.versions()}
        if number not in versions:
            numbers = ", ".join(map(str, sorted(versions))) or "none yet"
            raise RegistryError(f"model {self.name} has no version {number}: there are {numbers}")
        return versions[number]

    def alias(self, name: str) -> int | None:
        """Return the version an alias names; None if it names none."""
        return self.read_aliases().get(name)

    def read_aliases(self) -> dict[str, int]:
        """Return the versions that aliases name."""
        model = self._model()
        return {name: int(number) for name, number in model.aliases.items()} if model else {}

    def set_alias(self, name: str, number: int | None) -> None:
        """Let an alias name a version, or none.

        Raises:
            RegistryError: There is none of that number.
        """
        if number is None:
            self.client.delete_registered_model_alias(self.name, name)
        else:
            number = self.version(number).version
            self.client.set_registered_model_alias(self.name, name, str(number))

    @property
    def ledger_head(self) -> str:
        """The newest row of the ledger that was recorded here; empty if none was.

        Stored here, since who can write the ledger's table need not be able to write the registry.
        """
        model = self._model()
        return str(model.tags.get(HEAD_TAG, "")) if model else ""

    @ledger_head.setter
    def ledger_head(self, head: str) -> None:
        self.client.set_registered_model_tag(self.name, HEAD_TAG, head)

    def tag_model(self, name: str, value: str) -> None:
        """Write a tag on the registered model, if there is one."""
        if self._model():
            self.client.set_registered_model_tag(self.name, name, value)

    def copy_tags(self, name: str, copy: str) -> None:
        """Write a tag of each version that has it once more under another name."""
        for item in self.versions():
            if name in item.tags:
                self.client.set_model_version_tag(
                    self.name, str(item.version), copy, item.tags[name]
                )

    def rename(self, name: str) -> None:
        """Give the registered model and its experiment another name, if they have not got it."""
        if experiment := self.client.get_experiment_by_name(self.name):
            self.client.rename_experiment(experiment.experiment_id, name)
        if self._model():
            self.client.rename_registered_model(self.name, name)

    def is_known(self) -> bool:
        """Tell if MLflow has an experiment or a registered model of this name."""
        return bool(self.client.get_experiment_by_name(self.name) or self._model())

    def _model(self) -> Any:
        return next(iter(self.client.search_registered_models(f"name='{self.name}'")), None)

    def load(self, number: int, sha256: str) -> Pipeline:
        """Load the pipeline of a version.

        Args:
            number: The number of the version.
            sha256: Its digest, from the ledger if that has one.

        Raises:
            RegistryError: There is no such version.
            ModelFileError: Its file is missing, was changed, or holds types that are not trusted.
        """
        content = self.file(self.version(number).uri, MODEL_FILE)
        name = f"model {self.name} version {number}"
        return model_file.load_model(content, sha256, name, self.trusted)

    def content(self, version: ModelVersion) -> str:
        """Return a digest of the fitted objects of a version, equal in every process."""
        return model_file.content_digest(self.file(version.uri, MODEL_FILE))

    def text(self, version: ModelVersion, name: str) -> str:
        """Return a text file of the run a version was logged to; empty if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return self._download(run_id=version.run_id, artifact_path=name).decode()
        except (MlflowException, OSError):
            return ""

    def check_in_clean_process(self, version: ModelVersion, kind: Kind) -> model_check.CheckResult:
        """Check that a version loads and repeats its predictions in a new process."""
        with TemporaryDirectory() as folder:
            model, example = Path(folder) / MODEL_FILE, Path(folder) / model_check.EXAMPLE_FILE
            model.write_bytes(self.file(version.uri, MODEL_FILE))
            example.write_bytes(self.file(version.uri, f"extra_files/{model_check.EXAMPLE_FILE}"))
            return model_check.check_file(model, version.sha256, example, kind, self.trusted)

    def file(self, uri: str, name: str) -> bytes:
        """Return a file of a version, read once: what is verified is what is used.

        Raises:
            ModelFileError: It cannot be read.
            PlaceError: The object store does not answer.
        """
        from mlflow.exceptions import MlflowException

        try:
            place = self.client.get_logged_model(uri.rpartition("/")[2]).artifact_location
            if is_object_uri(place):
                return place_at(place).read(name)
            return self._download(artifact_uri=f"{place}/{name}")
        except PlaceError:
            raise  # it may pass, and whoever has a copy uses that
        except (MlflowException, OSError) as error:
            reason = mask_password(str(error).strip().rpartition("\n")[2], self.tracking_uri)
            raise ModelFileError(
                f"model {self.name}: {uri}/{name} cannot be read ({reason}): "
                "restore it or roll back to another version"
            ) from error

    def _download(self, **place: str) -> bytes:
        from mlflow.artifacts import download_artifacts

        with TemporaryDirectory() as folder:
            path = download_artifacts(dst_path=folder, tracking_uri=self.tracking_uri, **place)
            return Path(path).read_bytes()


def _create_database(database: Path) -> None:
    """Let MLflow create a new database beside its place, and move it there at once.

    MLflow creates table after table; killed in between, it can neither use nor repair them.
    """
    if database.exists():
        return
    from mlflow import MlflowClient

    getLogger("mlflow.store.db.utils").setLevel(WARNING)  # it would tell of each step
    part = database.with_name(f"{database.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    MlflowClient(f"{SQLITE}{part}", f"{SQLITE}{part}").search_experiments(max_results=1)
    with suppress(FileExistsError):  # another process was first
        os.link(part, database)
    part.unlink()


def _version(stored: Any) -> ModelVersion:
    tags = dict(stored.tags)
    return ModelVersion(
        name=stored.name,
        version=int(stored.version),
        run_id=stored.run_id,
        uri=stored.source,
        sha256=tags.get(DIGEST_TAG, ""),
        tags=tags,
        metrics=read_metrics(tags.get(METRICS_TAG, "{}")),
    )


def read_native(source: str, registry: ModelRegistry) -> bytes | None:
    """Read a native file, or that of an MLflow model in the flavor of its library.

    Args:
        source: A file, `models:/name/version` or `models:/name@alias`, or a local folder.
        registry: The registry in which `models:/` is looked up.

    Returns:
        The file; None where there is none, as of a model of scikit-learn.
    """
    if Path(source).is_file():
        return Path(source).read_bytes()
    if (Path(source) / "MLmodel").is_file():
        return native_file.find_native(Path(source))
    if not source.startswith(REGISTERED):
        return None
    registry.prepare()
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with TemporaryDirectory() as folder:
        try:
            place = download_artifacts(source, dst_path=folder, tracking_uri=registry.tracking_uri)
        except MlflowException:  # told by whoever loads it next
            return None
        return native_file.find_native(Path(place))


def load_foreign(source: str, registry: ModelRegistry) -> Any:
    """Load the fitted estimator of an MLflow model with sklearn flavour. Runs code that is in it.

    Args:
        source: `models:/name/version` or `models:/name@alias` in this registry, or a local folder.
        registry: The registry in which `models:/` is looked up.

    Raises:
        ModelFileError: It is somewhere else, missing, or cannot be loaded here.
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
        reason = " ".join(str(error).split())[:300]
        raise ModelFileError(
            f"{source} cannot be loaded as a scikit-learn model: {type(error).__name__}: {reason}"
        ) from error


def new_run(registry: ModelRegistry) -> str:
    """Create a finished MLflow run of the model's experiment, to log a version to."""
    registry.prepare()
    experiment = registry.client.get_experiment_by_name(registry.name)
    run_id: str = registry.client.create_run(experiment.experiment_id).info.run_id
    registry.client.set_terminated(run_id)
    return run_id
