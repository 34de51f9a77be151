"""A scikit-learn model that somebody else has logged to MLflow.

Most are pickles, which run code when they are loaded; so this is done once, for a person who names
the model, and what comes of it is stored anew as a file that runs none. Not here: storing it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain_assets.stores.model_file import ModelFileError

if TYPE_CHECKING:
    from retrain_assets.stores.models import ModelRegistry

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
