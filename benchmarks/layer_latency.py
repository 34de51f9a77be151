"""What the adaptive layer costs a request: the same service with it and without it, in turn.

    python benchmarks/layer_latency.py [--model flight_delay] [--rounds 400]

It takes a copy of the storage root of the demo (`make demo` first), learns the layer in it and lets
it serve, if it does not yet. A request goes through the whole application in this process, from the
bytes of its body to those of the answer, with the prediction log; only the socket is left out, so
that a ratio is higher than what a client sees. Times are of the CPU. Not here: other servers
(`serving.py`).
"""

import argparse
import asyncio
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
from pydantic_core import to_json

from retrain_assets.definitions import models
from retrain_assets.serving.http.app import build_app
from retrain_assets.serving.http.formats import ARROW
from retrain_assets.serving.run import new_service
from retrain_assets.specs.model import AdaptSpec
from retrain_assets.steps.decision import layer
from retrain_assets.steps.monitoring.adapt import adapt_partitions
from retrain_assets.stores.storage import Storage, storage_from

JSON = "application/json"
OK, WARM = 200, 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="flight_delay")
    parser.add_argument("--rounds", type=int, default=400, help="Requests of which the median.")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        shutil.copytree(storage_from(os.environ, Path.cwd()).root, root)
        measure(Storage(root), options.model, options.rounds)


def measure(storage: Storage, name: str, rounds: int) -> None:
    """Print the time of requests of one and of a thousand rows, with the layer and without."""
    state = models()[name].state(storage)
    state = replace(state, spec=state.spec.model_copy(update={"adapt": AdaptSpec(max_age=10_000)}))
    adapt_partitions(state, "benchmark")
    if not (history := state.ledger.read()).is_adapted:
        layer._record(state, history, "a benchmark", "benchmark")  # noqa: SLF001 at once
    alone = replace(state, spec=state.spec.model_copy(update={"adapt": "shadow"}))
    apps = []
    for side in (alone, state):
        service = new_service(storage, {name: side}, (), print)
        model = service.models[name]
        model.refresh()
        apps.append(build_app(service))
    if model.serving is None or model.serving.layer is None:
        raise SystemExit(f"the layer does not serve: {model.troubles}")
    print(f"members {[row.version for row in model.serving.layer.newest.members]}")
    rows = (model.serving.maker.stored_rows(1000) * 1000)[:1000]
    arrow = pl.DataFrame(rows, infer_schema_length=None).write_ipc_stream(None).getvalue()
    bodies = {
        "1 row": (JSON, [to_json({"rows": [row]}) for row in rows[:100]], rounds),
        "1,000 rows, JSON": (JSON, [to_json({"rows": rows})], rounds // 10),
        "1,000 rows, Arrow": (ARROW, [arrow], rounds // 10),
    }
    print("| request | newest version alone | with the layer | ratio |\n|---|---|---|---|")
    for title, (kind, contents, count) in bodies.items():
        times = asyncio.run(compare(apps, f"/models/{name}/predict", kind, contents, count))
        before, after = (median(side) * 1e3 for side in times)
        print(f"| {title} | {before:.3f} ms | {after:.3f} ms | {after / before:.2f} |")


async def compare(
    apps: list[Any], path: str, kind: str, bodies: list[bytes], count: int
) -> list[list[float]]:
    """Return the CPU seconds of requests to each application, which take turns."""
    times: list[list[float]] = [[] for _ in apps]
    for number in range(count + WARM):
        for app, spent in zip(apps, times, strict=True):
            body = bodies[number % len(bodies)]
            begun = time.process_time()
            status = await request(app, path, kind, body)
            if number >= WARM:  # the first ones fill caches
                spent.append(time.process_time() - begun)
            if status != OK:
                raise SystemExit(f"a request was answered {status}")
    return times


async def request(app: Any, path: str, kind: str, body: bytes) -> int:
    """Send one request to an application and return the status of its answer."""
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    return int(statuses[0])


if __name__ == "__main__":
    main()
