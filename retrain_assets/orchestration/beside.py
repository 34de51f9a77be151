"""Do work in one process beside this one, on another core.

Only where somebody watches one process do all the work, as in the demo: a daemon starts a process
for each run anyway. Not here: what is done.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from logging import getLogger
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

_POOLS: list[tuple[ProcessPoolExecutor, list[tuple[str, Future[Any]]]]] = []


@contextmanager
def open_process() -> Iterator[None]:
    """Let `do` use a process of its own until the block ends, which waits for what is left."""
    futures: list[tuple[str, Future[Any]]] = []
    # A fork would copy the locks of other threads.
    silent = ([*warnings.filters],)
    with ProcessPoolExecutor(1, get_context("spawn"), _begin, silent) as pool:
        _POOLS.append((pool, futures))
        try:
            yield
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            _POOLS.pop()
    for remedy, future in futures:
        if error := future.exception():
            getLogger(__name__).warning("%s: %s: %s", type(error).__name__, error, remedy)


def _begin(filters: Sequence[Any]) -> None:
    """Warn as the process that started this one does, and end as soon as that is killed."""
    warnings.filters[:] = filters  # type: ignore[index]

    def wait() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()


def do(remedy: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function, in the process beside this one if one is open.

    Args:
        remedy: What a person can do if it fails there.
        function: It can be pickled, as its arguments.
        arguments: Of the function.
    """
    if not _POOLS:
        function(*arguments)
        return
    pool, futures = _POOLS[-1]
    futures.append((remedy, pool.submit(function, *arguments)))


def submit(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Let the process beside this one, which is open, call a function, and return its future."""
    pool, _ = _POOLS[-1]
    return pool.submit(function, *arguments)
