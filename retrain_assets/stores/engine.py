"""Where the independent items of a step are computed: in this process, or by workers of Dask.

An engine returns what a loop over the items would, in their order. A function that it is given
stores nothing, since an item may be computed twice where a worker was lost: whoever calls the
engine commits. Not here: which steps use it, and what they compute.
"""

import atexit
import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from ipaddress import ip_address
from itertools import chain, islice
from logging import CRITICAL, getLogger
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

from retrain_assets.errors import PermanentError
from retrain_assets.specs.base import shorten
from retrain_assets.stores.checkout import installed
from retrain_assets.stores.place import Place, place_at
from retrain_assets.stores.registry.model_file import prepare_threads

Item = TypeVar("Item")
Value = TypeVar("Value")
Facts = tuple[tuple[str, str], ...]

PATIENCE_SECONDS = 60.0  # a worker that its nanny starts again takes some five
LOOK_SECONDS = 5.0
AHEAD = 2  # items of each worker that are computed or wait there, so that it never idles
TLS_SETTINGS = tuple(
    f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY")
)
UNCHANGED = "nothing of this step was stored"


class EngineError(RuntimeError):
    """Items could not be computed by the workers; the message says what would do."""


class EngineSettingError(PermanentError):
    """`RETRAIN_ENGINE` cannot be used as it is, or the workers are not like this process."""


class Engine(Protocol):
    """Computes the items of a step."""

    def map(self, function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
        """Yield the value of each item, in order; items are taken as they are needed.

        Args:
            function: It depends on nothing but the item and what is stored, and stores nothing.
            items: They, the function and the values can be pickled.

        Raises:
            EngineError: The workers or their scheduler were lost, or are too small.
            EngineSettingError: The workers are not like this process.
        """

    def describe(self) -> str:
        """Return where items are computed, in words."""


class InProcess:
    """Computes one item after the other in this process."""

    def map(self, function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
        """Yield the value of each item."""
        return map(function, items)

    def describe(self) -> str:
        """Return where items are computed, in words."""
        return "in this process"


IN_PROCESS = InProcess()


@dataclass(frozen=True)
class DaskEngine:
    """Computes items on the workers of a Dask cluster.

    Args:
        address: Of the scheduler, such as `tls://host:8786`.
        root: The storage root, which the workers read by the same path or URI.
    """

    address: str
    root: Path | str

    def describe(self) -> str:
        """Return where items are computed, in words; nobody is asked."""
        return f"by workers of Dask at {self.address}"

    def map(self, function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
        """Yield the value of each item; a single one is computed here, without the cluster."""
        remaining = iter(items)
        first = [*islice(remaining, 2)]
        if len(first) < 2:  # noqa: PLR2004 one item alone gains nothing
            return map(function, first)
        return self._map(function, chain(first, remaining))

    def _map(self, function: Callable[[Any], Any], items: Iterator[Any]) -> Iterator[Any]:
        cluster = _connect(self.address, self.root)
        if cluster.client.status != "running":  # its scheduler was lost since the last call
            _connect.cache_clear()
            cluster = _connect(self.address, self.root)
        call, ahead = uuid4().hex, deque[tuple[Any, Any]]()

        def submit() -> None:
            """Keep all workers busy, those too that have joined since; one item always waits."""
            bound = AHEAD * max(1, len(cluster.list_workers()))
            for item in islice(items, max(0, bound - len(ahead))):
                arguments = cluster.facts, cluster.place, cluster.marker, call, function, item
                future = cluster.client.submit(compute, *arguments, pure=False)
                ahead.append((item, future))

        try:
            submit()
            while ahead:
                item, future = ahead.popleft()
                value = cluster.wait(item, future)
                future.release()
                submit()
                yield value
        finally:
            with suppress(Exception):  # the scheduler may be gone
                cluster.client.cancel([future for _, future in ahead])


def engine_from(setting: str | None, root: Path | str) -> Engine:
    """Return the engine that `RETRAIN_ENGINE` names; nothing is connected to before it is used.

    Args:
        setting: `dask://host:port` on this machine, `tls://host:port` elsewhere; None or empty for
            this process.
        root: The storage root.

    Raises:
        EngineSettingError: The setting is neither of these.
    """
    if not setting:
        return IN_PROCESS
    parts = urlsplit(setting)
    if "@" in parts.netloc:
        raise EngineSettingError(
            "RETRAIN_ENGINE has a user or password, which Dask does not know: leave them out, and "
            "use tls://host:8786 with certificates"
        )
    if parts.scheme not in {"dask", "tls"} or not parts.hostname or not parts.port:
        raise EngineSettingError(
            f"RETRAIN_ENGINE is {setting!r}: use dask://127.0.0.1:8786 or tls://host:8786, or "
            "leave it out to compute in one process"
        )
    if parts.scheme == "dask" and not _is_loopback(parts.hostname):
        raise EngineSettingError(
            f"RETRAIN_ENGINE is {setting!r}: a scheduler of Dask runs the code of everybody who "
            f"reaches it, so on another machine it needs certificates: use tls://{parts.netloc}"
        )
    missing = [name for name in TLS_SETTINGS if not os.environ.get(name)]
    if parts.scheme == "tls" and missing:
        raise EngineSettingError(
            f"RETRAIN_ENGINE is {setting!r}, which needs certificates: set {', '.join(missing)}"
        )
    return DaskEngine(setting.replace("dask://", "tcp://", 1), root)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class _Cluster:
    """A connection to a scheduler whose workers were found to be like this process.

    Args:
        client: Dask's client.
        facts: What the workers must have in common with this process.
        address: Of the scheduler.
        place: The storage root.
        marker: A file there that each worker must see.
    """

    client: Any
    facts: Facts
    address: str
    place: str
    marker: str

    def list_workers(self) -> list[dict[str, Any]]:
        """Return those that take work now.

        Raises:
            EngineError: The scheduler does not answer.
        """
        try:
            workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        except Exception:  # noqa: BLE001 whatever a lost connection raises
            raise self._lost() from None
        return [worker for worker in workers if worker["status"] == "running"]

    def wait(self, item: Any, future: Any) -> Any:
        """Return the value of an item.

        Raises:
            EngineError: It cannot be computed.
        """
        from distributed import CancelledError, KilledWorker

        since = monotonic()
        while True:
            status = future.status
            try:
                # To fetch a large value may take long.
                return future.result(timeout=LOOK_SECONDS if status == "pending" else None)
            except KilledWorker as error:
                raise EngineError(
                    f"item {shorten(str(item), 80)} ended {error.allowed_failures + 1} workers at "
                    f"{self.address} one after the other, most likely because it needs more memory "
                    "than a worker has: give the workers more (`--memory-limit`); " + UNCHANGED
                ) from None
            except (CancelledError, OSError) as error:
                if status == "error":  # the function itself raised it
                    raise
                if future.status == "error":
                    continue
                if not isinstance(error, TimeoutError):
                    raise self._lost() from None
            if self.list_workers():
                since = monotonic()
            elif monotonic() - since > PATIENCE_SECONDS:
                raise EngineError(
                    f"no worker at {self.address} has taken work for {PATIENCE_SECONDS:.0f} s: "
                    f"start workers, or give those that are paused more memory; {UNCHANGED}"
                )

    def _lost(self) -> EngineError:
        _connect.cache_clear()
        return EngineError(
            f"the scheduler at {self.address} was lost: start it again, then run this again; "
            + UNCHANGED
        )


@lru_cache(maxsize=1)
def _connect(address: str, root: Path | str) -> _Cluster:
    """Connect once a process, and refuse a cluster whose results could differ from those here.

    Raises:
        EngineError: No scheduler or no worker answers.
        EngineSettingError: The scheduler or a worker differs from this process.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise EngineSettingError(
            "RETRAIN_ENGINE needs Dask: pip install 'retrain-assets[dask]'"
        ) from error
    getLogger("distributed").setLevel(CRITICAL)  # what it logs of lost workers is raised here
    try:
        client = Client(address, timeout=PATIENCE_SECONDS / 4, set_as_default=False)
        client.wait_for_workers(1, timeout=PATIENCE_SECONDS)
    except OSError as error:  # a TimeoutError is one
        raise EngineError(
            f"RETRAIN_ENGINE: no scheduler with workers answers at {address}: start `dask "
            "scheduler` and `dask worker`, or leave RETRAIN_ENGINE out"
        ) from error
    cluster = _Cluster(client, describe_process(), address, str(root), _mark(place_at(root)))
    try:
        _refuse_foreign(cluster)
    except EngineSettingError:
        client.close()
        raise
    return cluster


def _mark(place: Place) -> str:
    """Write a file that proves that a worker sees the same root, and delete it at the end."""
    marker = f".engine-{uuid4().hex}"
    place.write(marker, b"")
    atexit.register(place.delete, marker)
    return marker


def _refuse_foreign(cluster: _Cluster) -> None:
    client = cluster.client
    reasons = {"the scheduler": client.run_on_scheduler(explain_difference, cluster.facts)}
    differences = client.run(explain_difference, cluster.facts, cluster.place, cluster.marker)
    reasons |= {f"worker {address}": reason for address, reason in differences.items()}
    for worker in cluster.list_workers():
        if worker["nthreads"] > 1:
            reasons[f"worker {worker['id']}"] = (
                f"it computes {worker['nthreads']} items at once in one process, which would "
                "disturb each other: start it with --nthreads 1 and more --nworkers"
            )
    for name, reason in reasons.items():
        if reason:
            raise EngineSettingError(f"{name} cannot be used: {reason}")


@lru_cache(maxsize=1)
def describe_process() -> Facts:
    """Return what results may depend on: Python, the installed packages, this package's code."""
    package = Path(__file__).parents[1]
    code = sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    facts = {"Python": platform.python_version(), **installed()}
    return *facts.items(), ("the code of retrain_assets", code.hexdigest()[:12])


@lru_cache(maxsize=4)
def explain_difference(facts: Facts, root: str = "", marker: str = "") -> str:
    """Return why results of this process could differ from those of another; empty if not.

    Args:
        facts: Those of the other process.
        root: The storage root of the other process.
        marker: A file that it has written there.
    """
    here = dict(describe_process())
    differences = [
        f"{name} is {here.get(name, 'missing')} there and {value} here"
        for name, value in facts
        if here.get(name) != value
    ]
    if differences:
        more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""  # noqa: PLR2004
        return f"{'; '.join(differences[:3])}{more}: install the same lock file on both"
    if marker and not _sees(root, marker):
        return (
            f"it does not see the storage root {root}: mount the same folder there under the same "
            "path, or give it the credentials of the object store"
        )
    return ""


def _sees(root: str, marker: str) -> bool:
    try:
        return place_at(root).find(marker) is not None
    except Exception:  # noqa: BLE001 whatever a client says that has no credentials
        return False


_functions: dict[str, Callable[[Any], Any]] = {}  # of the call that this worker computes for


def compute(
    facts: Facts, root: str, marker: str, call: str, function: Callable[[Item], Value], item: Item
) -> Value:
    """Compute an item in a worker, which may have joined after the others were compared.

    The function of a call is kept, so that what it reads once serves all items of the call.
    """
    if reason := explain_difference(facts, root, marker):
        raise EngineSettingError(f"a worker that joined later cannot be used: {reason}")
    prepare_threads()
    if call not in _functions:
        _functions.clear()
        _functions[call] = function
    value: Value = _functions[call](item)
    return value
