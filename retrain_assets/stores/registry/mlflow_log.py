"""Write a fitted pipeline, and what is known of its fit, to an MLflow run.

MLflow as it is opened: within bounds, its own database in a file made whole or not at all.

Not here: registering versions, reading anything back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.stores.registry.model_check import EXAMPLE_FILE, write_example
from retrain_assets.stores.registry.model_file import TRUSTED_TYPES, ModelFileError, untrusted

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from sklearn.pipeline import Pipeline

REQUIREMENTS = ("retrain-assets", "scikit-learn", "skops", "polars", "numpy")


def log_run(
    client: MlflowClient,
    run_id: str,
    params: Mapping[str, object],
    metrics: Mapping[str, float],
    texts: Mapping[str, str],
    figures: Mapping[str, Callable[[], Figure]],
) -> None:
    """Log everything but the model, in two calls.

    Args:
        client: Of MLflow.
        run_id: The run.
        params: Of the estimator.
        metrics: On the holdout.
        texts: Text files, by name.
        figures: What draws each picture, by name.
    """
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
        params=[Param(name, str(value)) for name, value in params.items()],
    )
    with TemporaryDirectory() as folder:
        for name, text in texts.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        for name, draw in figures.items():
            draw().savefig(Path(folder) / name)
        client.log_artifacts(run_id, folder)


def log_pipeline(
    run_id: str, pipeline: Pipeline, example: pl.DataFrame, prediction: np.ndarray
) -> tuple[str, str]:
    """Log the pipeline as an MLflow model in skops format, beside rows to try it on.

    Requirements and signature are given: inferring requirements takes MLflow ten seconds, and the
    types of a few rows need not be those of the features.

    Args:
        run_id: The run.
        pipeline: What was fitted.
        example: A few rows of features.
        prediction: What it predicts for them.

    Returns:
        The model's URI and id.

    Raises:
        ModelFileError: The pipeline holds types that would not be trusted when it is loaded.
    """
    import mlflow.sklearn
    import skops.io
    from mlflow.exceptions import MlflowException

    with TemporaryDirectory() as folder:
        rows = Path(folder) / EXAMPLE_FILE
        write_example(rows, example, prediction)
        try:
            logged = mlflow.sklearn.log_model(
                pipeline,
                name="model",
                run_id=run_id,
                serialization_format="skops",
                skops_trusted_types=list(TRUSTED_TYPES),
                pip_requirements=[_requirement(name) for name in REQUIREMENTS],
                signature=_signature(example),
                extra_files=[str(rows)],
            )
        except MlflowException as error:
            if "untrusted types" not in str(error):
                raise
            raise ModelFileError(untrusted("the pipeline", skops.io.dumps(pipeline))) from error
    return logged.model_uri, logged.model_id


def _requirement(package: str) -> str:
    try:
        return f"{package}=={version(package)}"
    except PackageNotFoundError:  # run from its source
        return package


def _signature(example: pl.DataFrame) -> Any:
    """The raw features by their stored types."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    types = {pl.Int64: DataType.long, pl.Float64: DataType.double, pl.Boolean: DataType.boolean}
    columns = [
        ColSpec(types.get(dtype.base_type(), DataType.string), name)
        for name, dtype in example.schema.items()
    ]
    return ModelSignature(inputs=Schema(columns))


@contextmanager
def environment_kept(*names: str) -> Iterator[None]:
    """Undo what MLflow hands to child processes: the next storage opened here would read it."""
    before = {name: os.environ.get(name) for name in names}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


SQLITE = "sqlite:///"
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # By MLflow's own bounds a server that hangs holds a retraining for a quarter of an hour a call.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}


def open_client(tracking_uri: str) -> MlflowClient:
    """A client of MLflow's server, or of its database, which is made where it is missing."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    make_database(tracking_uri)
    return MlflowClient(tracking_uri, tracking_uri)


def make_database(tracking_uri: str) -> None:
    """Let MLflow make a new database beside its place, and put it there at once.

    It makes table after table: where it is killed in between, it can neither use nor mend them.

    Args:
        tracking_uri: Nothing is done where it names no file, or one that is there.
    """
    database = Path(tracking_uri.removeprefix(SQLITE))
    if not tracking_uri.startswith(SQLITE) or database.exists():
        return
    from mlflow import MlflowClient

    part = database.with_name(f"{database.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    MlflowClient(f"{SQLITE}{part}", f"{SQLITE}{part}").search_experiments(max_results=1)
    with suppress(FileExistsError):  # another process was first
        os.link(part, database)
    part.unlink()
