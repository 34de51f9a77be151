"""MLflow's own database in a file, made whole or not at all.

Not here: what is kept in it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

SQLITE = "sqlite:///"


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
