"""MLflow as it is opened: within bounds, its own database in a file made whole or not at all.

Not here: what is kept in it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
