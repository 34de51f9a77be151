"""One pass of all sensors and of what they ask for, in place of a daemon (`retrain tick`).

A pass leaves nothing behind that a later one needs: what there is to do depends on files and
tables alone. Not here: what a sensor decides, and how its runs are executed.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import dagster as dg
from filelock import FileLock, Timeout

from retrain_assets.orchestration.checks import failures
from retrain_assets.orchestration.dagster_internals import NOT_FINISHED_STATUSES, ticks
from retrain_assets.stores import lease
from retrain_assets.stores.place import Place

POLL_SECONDS = 2.0
BUSY = "it does all work that is due, so wait until it has ended and run this command again"
TICK_TAG = "retrain/tick"  # of a run that a pass executes: the storage root


class OtherTickError(RuntimeError):
    """Another pass works on the same storage root, or a daemon does this work already."""


@contextmanager
def alone(folder: Path, wait_seconds: float = 0, place: Place | None = None) -> Iterator[None]:
    """Hold the lock of a storage root, which ends with the process.

    Args:
        folder: The storage root, or the local folder beside one in an object store; it is created
            if it is missing.
        wait_seconds: How long to wait for another process.
        place: The storage root, if other machines share it through an object store.

    Raises:
        OtherTickError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = monotonic() + wait_seconds
    try:
        lock = FileLock(folder / ".tick.lock").acquire(timeout=wait_seconds)
    except Timeout as error:
        raise OtherTickError(f"another tick works on {folder}: {BUSY}") from error
    with lock, ExitStack() as stack:
        while place is not None and not place.is_local:
            try:
                stack.enter_context(lease.hold(place / ".tick"))
                break
            except lease.HeldError as error:
                if monotonic() >= deadline:
                    raise OtherTickError(f"another tick works: {error}; {BUSY}") from error
                sleep(POLL_SECONDS)
        yield


def run_pass(daemon: ticks.InProcessDaemon, root: Path | str) -> Iterator[ticks.Executed]:
    """Tick all sensors that are not stopped until none asks for anything; hold `alone` for it.

    Args:
        daemon: Its runs get the tag of this storage root.
        root: The storage root.

    Yields:
        Each run, and each failure; the other sensors go on after one.

    Raises:
        OtherTickError: A daemon ticks the sensors already.
    """
    if ticks.has_daemon(daemon.instance):
        raise OtherTickError(
            "the daemon of this DAGSTER_HOME ticks the sensors already: stop it, or do "
            "without `retrain tick`"
        )
    daemon.tags = {TICK_TAG: str(root)}
    # Only one pass holds the lock, so a run of another is at work no longer.
    unfinished = dg.RunsFilter(statuses=NOT_FINISHED_STATUSES, tags=daemon.tags)
    for run in daemon.instance.get_runs(unfinished):
        daemon.instance.report_run_failed(run, "The tick that executed it was stopped.")
    daemon.drop_stopped()
    try:
        yield from daemon.settle(despite_failures=True)
    except ticks.UnsettledError as error:
        yield ticks.Executed("", error=str(error))


def summarize(daemon: ticks.InProcessDaemon, executed: list[ticks.Executed]) -> dict[str, Any]:
    """Return the JSON of a pass.

    Returns:
        `runs` (sensor, job, run_id and failed_checks, which names what a run refused), `failed`
        (sensor and error), and `sensors` (why each of them asks for nothing more).
    """
    runs = [
        {"sensor": run.sensor, "job": run.job, "run_id": run.run_id}
        | {"failed_checks": [*failures(daemon.instance, run.run_id)]}
        for run in executed
        if run.error is None
    ]
    failed = [{"sensor": run.sensor, "error": run.error} for run in executed if run.error]
    return {"runs": runs, "failed": failed, "sensors": daemon.reasons}
