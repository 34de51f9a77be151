"""What a request costs: `retrain serve` in turn with `mlflow models serve`, on the same model.

Both serve the production version of a model of the demo (`make demo` first) on this machine, each
alone while it is measured, on one thread of OpenMP, which suits MLflow's better. `retrain serve` is
sent raw rows, joins its lookups, makes the features and logs each prediction; MLflow's server is
sent the same rows as ready features. Rows differ from request to request. Not here: what either
side does.

    python benchmarks/serving.py [--model arrival_delay] [--rounds 5] [--seconds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from retrain_assets.steps.state import ModelState

ARROW = "application/vnd.apache.arrow.stream"
BATCH = 1_000
TARGETS = {"1 row, 1 connection": 10, "1 row, 32 connections": 20, "1,000 rows, JSON": 2.5}
ARROW_TARGET = 10
MILLIS = ("p50", "p99", "cpu")
START_SECONDS = 120


@dataclass(frozen=True)
class Load:
    """What is sent: bodies in turn, over some connections."""

    title: str
    path: str
    kind: str
    bodies: Sequence[bytes]
    connections: int


def main() -> None:
    """Measure, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="arrival_delay")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load, each time")
    parser.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        port, file = options.client
        sent = json.loads(Path(file).read_text(encoding="utf-8"))
        print(json.dumps(asyncio.run(client(int(port), sent, options.seconds))))
        return
    compare(options.model, options.rounds, options.seconds)


def compare(model: str, rounds: int, seconds: float) -> None:
    """Both servers in turn."""
    from retrain_assets.definitions import models
    from retrain_assets.stores.storage import storage_from

    storage = storage_from(os.environ, Path.cwd())
    state = models()[model].state(storage)
    production = state.ledger.read().production
    if production is None:
        raise SystemExit(f"{model} has nothing in production: run `make demo` first")
    own, other = loads(state)
    commands = {
        "retrain": ([sys.executable, "-m", "retrain_assets.cli", "serve", "--port"], own),
        "mlflow": (
            [
                *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
                *("--model-uri", f"models:/{model}/{production.version}", "--workers", "1"),
                "--port",
            ],
            other,
        ),
    }
    # By default OpenMP's threads spin against all else that runs: on two busy cores a row then took
    # MLflow's server 600 ms.
    environment = os.environ | {"MLFLOW_TRACKING_URI": storage.mlflow_uri, "OMP_NUM_THREADS": "1"}
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number in range(rounds):
        for side, (command, sent) in commands.items():
            with serving(command, environment) as (port, session):
                for load in sent:
                    before = cpu_seconds(session)
                    seen = measured(port, load, seconds)
                    used = (cpu_seconds(session) - before) / seen.pop("requests")
                    seen["cpu"] = round(used * 1000, 2)
                    found.setdefault((side, load.title), []).append(seen)
                    print(f"round {number + 1}: {side}, {load.title}: {seen}", file=sys.stderr)
    report(found, rounds)


def loads(state: ModelState) -> tuple[list[Load], list[Load]]:
    """The same rows for both sides: raw for ours, ready features for MLflow's."""
    from retrain_assets.serving.scoring.rows import FeatureMaker, LookupRows

    held = {}
    for name in state.lookups:
        description = state.tables.describe(f"{name}/dataset")
        if description is None:
            raise LookupError(f"dataset {name} was never written")
        held[name] = LookupRows(*description[:2], state.tables.scan(f"{name}/dataset").collect())
    maker = FeatureMaker(state, held)
    rows = pl.DataFrame(maker.stored_rows(most=BATCH))  # of one partition, so they may be fewer
    rows = pl.concat([rows] * (BATCH // rows.height + 1)).head(BATCH)
    features = maker.features(rows.to_dicts())
    times = [pl.col(pl.Datetime).dt.strftime("%Y-%m-%dT%H:%M:%SZ"), pl.col(pl.Date).cast(pl.String)]
    raw = rows.with_columns(*times).to_dicts()
    arrow = rows.write_ipc_stream(None).getvalue()
    predict = f"/models/{state.spec.name}/predict"
    single = [json.dumps({"rows": [row]}).encode() for row in raw]
    batch = [json.dumps({"rows": raw}).encode()]
    split = [_split(features[place]) for place in range(features.height)]
    whole = [_split(features)]
    kinds = "application/json"

    def several(path: str, one: list[bytes], many: list[bytes]) -> list[Load]:
        return [
            Load("1 row, 1 connection", path, kinds, one, 1),
            Load("1 row, 32 connections", path, kinds, one, 32),
            Load("1,000 rows, JSON", path, kinds, many, 1),
        ]

    mine = [*several(predict, single, batch), Load("1,000 rows, Arrow", predict, ARROW, [arrow], 1)]
    return mine, several("/invocations", split, whole)


def _split(frame: pl.DataFrame) -> bytes:
    rows = [list(row) for row in frame.rows()]
    return json.dumps({"dataframe_split": {"columns": frame.columns, "data": rows}}).encode()


@contextlib.contextmanager
def serving(command: list[str], environment: dict[str, str]) -> Iterator[tuple[int, int]]:
    """A server of its own session on a free port, once it answers: port and session."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen(
        [*command, str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait(port, process)
        yield port, process.pid
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    from http.client import HTTPConnection, HTTPException

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, HTTPException):
            for path in ("/ready", "/ping"):
                connection = HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", path)
                if connection.getresponse().status == 200:
                    return
        time.sleep(0.5)
    raise RuntimeError(f"no answer on port {port}")


def cpu_seconds(session: int) -> float:
    """What the processes of a session have used of the CPU, which hardly depends on other load."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            values = file.read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks += sum(map(int, values[11:13])) if int(values[3]) == session else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def measured(port: int, load: Load, seconds: float) -> dict[str, float]:
    """What a client in a process of its own saw."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "requests"
        heads = (
            f"POST {load.path} HTTP/1.1\r\nHost: x\r\nContent-Type: {load.kind}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            for body in load.bodies
        )
        requests = [(head + body).hex() for head, body in zip(heads, load.bodies, strict=True)]
        file.write_text(json.dumps([load.connections, requests]), encoding="utf-8")
        arguments = ["--seconds", str(seconds), "--client", str(port), str(file)]
        done = subprocess.run(
            [sys.executable, __file__, *arguments], capture_output=True, text=True, check=True
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


class _Connection(asyncio.Protocol):
    """Sends the next request as soon as the last was answered."""

    def __init__(self, requests: list[bytes], first: int, end: float, seen: list[float]) -> None:
        self.requests, self.place, self.end, self.seen = requests, first, end, seen
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self.buffer, self.started = b"", time.perf_counter()
        self.place += 1
        self.transport.write(self.requests[self.place % len(self.requests)])

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        _, _, rest = head.lower().partition(b"content-length:")
        if len(body) < int(rest.partition(b"\r\n")[0]):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(self.buffer[:500])
        self.seen.append(time.perf_counter() - self.started)
        if time.perf_counter() < self.end:
            self._send()
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set_result(error)


async def client(port: int, sent: tuple[int, list[str]], seconds: float) -> dict[str, float]:
    """Load for some seconds; requests per second and latencies in milliseconds."""
    connections, written = sent
    requests, loop = [bytes.fromhex(one) for one in written], asyncio.get_running_loop()
    seen: list[float] = []
    started = time.perf_counter()
    opened = []
    for number in range(connections):
        made = _Connection(requests, number * 7, started + seconds, seen)
        await loop.create_connection(lambda made=made: made, "127.0.0.1", port)
        opened.append(made.closed)
    await asyncio.gather(*opened)
    took, ordered = time.perf_counter() - started, sorted(seen)
    at = {name: ordered[int(len(seen) * share)] for name, share in (("p50", 0.5), ("p99", 0.99))}
    millis = {name: round(value * 1000, 2) for name, value in at.items()}
    return {"requests": len(seen), "per_second": round(len(seen) / took, 1), **millis}


def report(found: dict[tuple[str, str], list[dict[str, float]]], rounds: int) -> None:
    """Medians of the rounds, and how many times MLflow's requests per second ours are."""
    print(
        f"\nmedian of {rounds}: requests per second, milliseconds, those of the server's CPU each"
    )
    middle = {
        key: {name: median(one[name] for one in seen) for name in seen[0]}
        for key, seen in found.items()
    }
    for (side, title), seen in middle.items():
        numbers = "  ".join(f"{name} {value:9.2f}" for name, value in seen.items())
        print(f"  {side:<8} {title:<24} {numbers}")
    for (side, title), seen in middle.items():
        base = middle.get(("mlflow", title), middle["mlflow", "1,000 rows, JSON"])
        if side == "retrain":
            ratio, target = (
                seen["per_second"] / base["per_second"],
                TARGETS.get(title, ARROW_TARGET),
            )
            less = "  ".join(f"{name} {base[name] / seen[name]:.1f}" for name in MILLIS)
            print(f"  {title:<33} {ratio:6.1f} times (target {target}); times less: {less}")


if __name__ == "__main__":
    main()
