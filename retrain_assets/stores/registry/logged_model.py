"""Log a pipeline as a model of MLflow: flavors, signature, requirements and example rows.

Not here: registering it as a version, and loading it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from logging import ERROR, getLogger
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.model.families.catalogue import families_within, family_of
from retrain_assets.stores.registry import model_check, model_file
from retrain_assets.stores.registry.model_file import ModelFileError

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

REQUIREMENTS = ("retrain-assets", "skops", "polars", "numpy")


def log_pipeline(
    run_id: str,
    pipeline: Pipeline,
    example: pl.DataFrame,
    prediction: np.ndarray,
    trusted: Sequence[str],
) -> Any:
    """Log the pipeline as an MLflow model in skops format, beside rows to try it on.

    Requirements are passed, since inferring them takes MLflow ten seconds.

    Args:
        run_id: The MLflow run.
        pipeline: The fitted pipeline.
        example: A few rows of features.
        prediction: What it predicts for them.
        trusted: Types of the user that it may hold.

    Raises:
        ModelFileError: It holds types that are not trusted when it is loaded.
    """
    import skops.io

    # It would tell that an environment of uv has no pip.
    getLogger("mlflow.utils.environment").setLevel(ERROR)
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    with TemporaryDirectory() as folder:
        rows = Path(folder) / model_check.EXAMPLE_FILE
        model_check.write_example(rows, example, prediction)
        try:
            return Model.log(
                artifact_path=None,
                name="model",
                flavor=_Flavors(pipeline),
                flavor_name="sklearn",
                run_id=run_id,
                serialization_format="skops",
                # What MLflow's servers and MLServer answer: probabilities, as `retrain serve` does.
                pyfunc_predict_fn="predict_proba" if _classes(pipeline) else "predict",
                skops_trusted_types=[*model_file.TRUSTED_TYPES, *trusted],
                pip_requirements=[
                    *(_requirement(name) for name in REQUIREMENTS),
                    *(family.requirement for family in families_within(pipeline)),
                ],
                signature=_signature(pipeline, example),
                extra_files=[str(rows)],
            )
        except MlflowException as error:
            if "untrusted types" not in str(error):
                raise
            content = skops.io.dumps(pipeline)
            reason = model_file.describe_untrusted("the pipeline", content, trusted)
            raise ModelFileError(reason) from error


def _signature(pipeline: Pipeline, example: pl.DataFrame) -> Any:
    """Return the signature of a pipeline; the types of a few rows need not be those of features."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, DataType, Schema, TensorSpec

    # MLflow refuses a null among whole numbers and makes it False among booleans.
    types = {pl.Int64: AnyType(), pl.Float64: DataType.double, pl.Boolean: AnyType()}
    columns = [
        ColSpec(types.get(dtype.base_type(), DataType.string), name)
        for name, dtype in example.schema.items()
    ]
    # MLServer does not answer without the type of the answer.
    shape = (-1, len(_classes(pipeline))) if _classes(pipeline) else (-1,)
    return ModelSignature(Schema(columns), Schema([TensorSpec(np.dtype(float), shape)]))


def _classes(pipeline: Pipeline) -> list[Any]:
    return list(getattr(pipeline, "classes_", ()))


@dataclass(frozen=True)
class _Flavors:
    """Saves a pipeline in MLflow's flavor of scikit-learn, and in that of its last step's library.

    Other tools find the library's own file and flavor; nothing here reads these again.
    """

    pipeline: Pipeline

    def save_model(self, path: str, mlflow_model: Any, **options: Any) -> None:
        """Save it below a folder, as `mlflow.sklearn.save_model` does."""
        import mlflow.sklearn

        estimator = self.pipeline[-1]
        flavor = family_of(estimator).flavor(estimator)
        mlflow.sklearn.save_model(self.pipeline, path, mlflow_model=mlflow_model, **options)
        if flavor is not None:
            (Path(path) / flavor.file).write_bytes(estimator.native_)
            mlflow_model.add_flavor(flavor.name, data=flavor.file, **flavor.notes)
            mlflow_model.save(str(Path(path) / "MLmodel"))


def _requirement(package: str) -> str:
    try:
        return f"{package}=={metadata.version(package)}"
    except metadata.PackageNotFoundError:  # run from its source
        return package
