"""`retrain serve`: the service in this process, until it is stopped.

Not here: what it answers.
"""

import gc
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress

import uvicorn
from polars.exceptions import PanicException

from retrain_assets.serving.http.app import Service, build_app
from retrain_assets.serving.http.guard import Limits
from retrain_assets.serving.http.pages import Pages
from retrain_assets.serving.live_monitoring import LiveMonitor
from retrain_assets.serving.metrics import Metrics
from retrain_assets.serving.prediction_log import PredictionLog
from retrain_assets.serving.scoring.served_model import ServedModel
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.storage import Storage

FOLLOW_SECONDS, FLUSH_SECONDS = 2.0, 5.0
DRAIN_SECONDS = 30
# By default, a thread that loads or stores keeps a request waiting for 5 ms.
SWITCH_SECONDS = 0.0005
# Otherwise MLflow's client tries for minutes although a verified copy lies here.
SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
Report = Callable[[str], None]


def serve(
    storage: Storage,
    states: Mapping[str, ModelState],
    host: str,
    port: int,
    keys: tuple[str, ...],
    report: Report,
) -> None:
    """Serve every model until SIGTERM or SIGINT; active requests are answered.

    Args:
        storage: Where everything is.
        states: The models, by name.
        host: The address to listen on.
        port: The port to listen on; 0 for any free one.
        keys: A request must have one of these; without any, none is required.
        report: Takes a line for whoever runs the service.

    Raises:
        ValueError: It cannot listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port}: {error.strerror}; see --port") from error
    report(f"listening on http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}")
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    sys.setswitchinterval(SWITCH_SECONDS)
    writer = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), prepare_writer)
    writer.submit(os.getpid)  # which starts the process while models are loaded

    def report_safely(message: str) -> None:
        with suppress(OSError, ValueError):  # a terminal or pipe that is gone stops no thread
            report(message)

    service = new_service(storage, states, keys, report_safely, writer)
    with writer, background(service, report_safely):
        config = uvicorn.Config(
            build_app(service),
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            # uvicorn raises the signal that stopped it again, before this function can clean up.
            signal.signal(number, lambda *_: None)
        uvicorn.Server(config).run([bound])


def prepare_writer() -> None:
    """Give the process that stores the log a low priority, and end it with the service."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both processes
    os.nice(10)
    service = multiprocessing.parent_process()

    def leave() -> None:
        if service is not None:
            service.join()
            os._exit(0)

    threading.Thread(target=leave, daemon=True).start()


def new_service(
    storage: Storage,
    states: Mapping[str, ModelState],
    keys: tuple[str, ...],
    report: Report,
    writer: Executor | None = None,
) -> Service:
    """Return a service whose models follow nothing yet."""
    folder, limits = storage.work / "serving", Limits()

    models = {n: ServedModel(state, folder / "models", report) for n, state in states.items()}
    log = PredictionLog(folder / "log", states, limits.backlog_bytes, writer)
    monitors = {name: LiveMonitor(model, report) for name, model in models.items()}
    metrics, pages = Metrics(models, monitors, log), Pages(states, storage.cards)
    return Service(models, log, metrics, monitors, pages, limits, keys)


@contextmanager
def background(
    service: Service,
    report: Report,
    follow_seconds: float = FOLLOW_SECONDS,
    flush_seconds: float = FLUSH_SECONDS,
) -> Iterator[None]:
    """Follow ledger and lookups, and store the log, each on a thread of its own."""
    stop = threading.Event()

    def follow() -> None:
        while not stop.is_set():
            if any([model.refresh() for model in service.models.values()]):  # noqa: C419 all of them
                # Otherwise each search for cycles goes through all rows of the lookups.
                gc.collect()
                gc.freeze()
            stop.wait(follow_seconds)

    def flush() -> None:
        before = ""
        while not stop.wait(flush_seconds):
            trouble = store_and_monitor(service)
            if trouble not in ("", before):
                report(trouble)
            before = trouble

    threads = [threading.Thread(target=target, daemon=True) for target in (follow, flush)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(DRAIN_SECONDS)
        if trouble := store_and_monitor(service):
            report(trouble)


def store_and_monitor(service: Service) -> str:
    """Store the log, monitor it, store troubles; return which of these failed, if any."""
    steps: list[tuple[str, Callable[[], object]]]
    steps = [("the prediction log waits in its files", service.log.flush)]
    for monitor in service.monitors.values():
        steps.append(("the live stream cannot be monitored", monitor.observe))
        steps.append(("messages cannot be stored", monitor.store_troubles))
    failures = []
    for failure, step in steps:
        try:
            step()
        except (Exception, PanicException) as error:  # noqa: BLE001 answering goes on; each step is tried again
            failures.append(f"{failure}: {error}")
    return "; ".join(failures)
