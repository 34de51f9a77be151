"""`retrain serve`: the service in this process, until it is told to stop.

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
from datetime import UTC, datetime

import uvicorn
from polars.exceptions import PanicException

from retrain_assets.serving.http.app import Service, build_app
from retrain_assets.serving.http.guard import Limits
from retrain_assets.serving.live_monitoring import Events, Live
from retrain_assets.serving.metrics import Metrics
from retrain_assets.serving.prediction_log import PredictionLog
from retrain_assets.serving.scoring.follow import Followed
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.storage import Storage

FOLLOW_SECONDS, FLUSH_SECONDS = 2.0, 5.0
DRAIN_SECONDS = 30
SWITCH_SECONDS = 0.0005  # by default a thread that loads or stores keeps a request waiting for 5 ms
# MLflow's client otherwise tries for minutes while a verified copy lies here.
SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


def serve(
    storage: Storage,
    states: Mapping[str, ModelState],
    host: str,
    port: int,
    keys: tuple[str, ...],
    tell: Callable[[str], None],
) -> None:
    """Serve every model until SIGTERM or SIGINT; requests in flight are answered.

    Args:
        storage: Where everything is.
        states: The models, by name.
        host: To listen on.
        port: To listen on; 0 for any that is free.
        keys: Any of which is asked for.
        tell: Takes a line for whoever runs the service.

    Raises:
        ValueError: It cannot listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port}: {error.strerror}; see --port") from error
    tell(f"listening on http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}")
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    sys.setswitchinterval(SWITCH_SECONDS)
    elsewhere = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _behind)
    elsewhere.submit(os.getpid)  # which starts it, while models are loaded

    def told(message: str) -> None:
        with suppress(OSError, ValueError):  # a terminal or pipe that is gone stops no thread
            tell(message)

    service = new_service(storage, states, keys, told, elsewhere)
    with elsewhere, following(service, told):
        config = uvicorn.Config(
            build_app(service),
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            # uvicorn raises what stopped it once more, before anything here is put in order.
            signal.signal(number, lambda *_: None)
        uvicorn.Server(config).run([bound])


def _behind() -> None:
    """Store behind all else, until the service is gone, however it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
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
    tell: Callable[[str], None],
    elsewhere: Executor | None = None,
) -> Service:
    """A service of some models that nobody follows yet."""
    folder = storage.root / "serving"

    def clock() -> datetime:
        return datetime.now(UTC)

    followed = {
        name: Followed(state, storage, folder / "models", clock, tell)
        for name, state in states.items()
    }
    limits = Limits()
    log = PredictionLog(folder / "log", states, limits.backlog_bytes, elsewhere)
    lives = {name: Live(model, clock, tell) for name, model in followed.items()}
    metrics = Metrics(followed, lives, log, clock)
    return Service(followed, clock, log, metrics, lives, limits, keys)


@contextmanager
def following(
    service: Service,
    tell: Callable[[str], None],
    follow_seconds: float = FOLLOW_SECONDS,
    flush_seconds: float = FLUSH_SECONDS,
) -> Iterator[None]:
    """Let models follow ledger and lookups, and the log its tables, each on its own thread."""
    stop = threading.Event()

    def follow() -> None:
        while not stop.is_set():
            if any([model.refresh() for model in service.models.values()]):  # noqa: C419 all of them
                # Else each search for cycles goes through all that is held, for long.
                gc.collect()
                gc.freeze()
            stop.wait(follow_seconds)

    events = Events(service.models, service.lives, service.clock)

    def flush() -> None:
        trouble = ""
        while not stop.wait(flush_seconds):
            said, trouble = trouble, _flushed(service, events)
            if trouble not in ("", said):
                tell(trouble)

    threads = [threading.Thread(target=target, daemon=True) for target in (follow, flush)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(DRAIN_SECONDS)
        if said := _flushed(service, events):
            tell(said)


def _flushed(service: Service, events: Events) -> str:
    """Store the log, look at it, leave what is to be told; what of it cannot be done, if any."""
    steps: dict[str, list[Callable[[], object]]] = {
        "the prediction log waits in its files": [service.log.flush],
        "the live stream cannot be watched": [live.look for live in service.lives.values()],
        "nobody can be told": [events.leave],
    }
    failed = []
    for what, several in steps.items():
        try:
            for step in several:
                step()
        except (Exception, PanicException) as error:  # noqa: BLE001 none of them breaks answering; each is tried again
            failed.append(f"{what}: {error}")
    return "; ".join(failed)
