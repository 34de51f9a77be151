"""Work that is killed at a chosen point, in a process of its own.

The processes are forked off a server that has imported what is slow and has computed nothing yet.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow asks when it is imported
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("retrain_assets_tests.world", "retrain_assets.steps.data.ingest"),
        *("mlflow", "mlflow.store.tracking.sqlalchemy_store", "dagster_mlflow"),
        *("sklearn.ensemble", "skops.io", "matplotlib.figure"),
    ]
)
_SECONDS = 120


@dataclass(frozen=True)
class Point:
    """Where work dies: at the n-th call of a function, before it or once it has returned."""

    function: str
    call: int = 1
    after: bool = False

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'}-{self.function.split(':')[1]}-{self.call}"


def kill_at(point: Point, work: Callable[..., object], *args: Any) -> None:
    """Do the work in a process that kills itself at the point; it must come to that."""
    process = _CONTEXT.Process(target=_doomed, args=(point, work, args))
    process.start()
    process.join(_SECONDS)
    if process.is_alive():
        process.kill()
    assert process.exitcode == -signal.SIGKILL, f"it ended with {process.exitcode}, unharmed"


def _doomed(point: Point, work: Callable[..., object], args: tuple[Any, ...]) -> None:
    module, _, name = point.function.partition(":")
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real, calls = getattr(owner, last), iter(range(1, 10**6))

    def fatal(*given: Any, **named: Any) -> Any:
        here = next(calls) == point.call
        if here and not point.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*given, **named)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, last, fatal)
    work(*args)
