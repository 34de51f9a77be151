"""Start the process of a run by a fork of one that has imported what runs need.

A code server of Dagster starts a new interpreter for each run, which imports for some five CPU
seconds before it begins. Python's own `forkserver` imports once for all runs of a code server. It
opens and computes nothing, so that no thread of a library holds a lock when it forks, and it knows
neither YAML nor code of the project: each run loads these itself. A daemon that loads a module
itself replaces its code server every minute, which is too short for this. Not here: launchers that
start runs elsewhere, such as in a Job of Kubernetes, and what a run does.
"""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path
from threading import Timer

from retrain_assets.stores.registry.model_file import prepare_threads
from retrain_assets.stores.registry.registry import SETTINGS

SERVER = "dagster._grpc.server"
LOAD_SECONDS = 10.0  # after which all definitions are loaded, and no sensor has asked for a run yet
EXPECTATIONS = "great_expectations"
IMPORTED = (
    "retrain_assets.orchestration.build",
    "retrain_assets.steps.inspect.report",
    "retrain_assets.reports.plots",
    "mlflow.sklearn",
    "skops.io",
    "sklearn.ensemble",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "scipy.stats",
)
_imported: list[str] = []


def warm(*further: str) -> None:
    """Let this process, if it is a code server that lasts, fork the runs that it starts.

    Args:
        further: Modules that the runs of this project import too.
    """
    if not _is_lasting_server():
        return
    prepare_threads()
    for name, value in SETTINGS.items():  # MLflow reads them while it is imported
        os.environ.setdefault(name, value)
    if not _imported:
        timer = Timer(LOAD_SECONDS, forkserver.ensure_running)
        timer.daemon = True
        timer.start()
    _imported.extend(name for name in (*IMPORTED, *further) if name not in _imported)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_imported)
    # The server has assigned its own context by now; of a property, the assignment is ignored.
    server = sys.modules[SERVER].DagsterApiServer
    server._mp_ctx = property(lambda _: context, lambda _, __: None)  # noqa: SLF001


def _is_lasting_server() -> bool:
    """Tell if this is `dagster api grpc`, started by hand or by `dagster code-server`."""
    is_run = multiprocessing.parent_process() is not None  # which has the arguments of its server
    if is_run or sys.platform != "linux" or SERVER not in sys.modules:
        return False
    if sys.argv[1:3] != ["api", "grpc"]:
        return False
    parent = Path(f"/proc/{os.getppid()}/cmdline")  # the first process of a container has none
    return "--heartbeat" not in sys.argv or (
        parent.exists() and b"code-server" in parent.read_bytes()
    )
