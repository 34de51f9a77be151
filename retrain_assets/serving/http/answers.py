"""What each path answers for one model: rows are read, scored, logged, and told of.

Not here: which paths there are, and what the formats of other clients look like.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from fastapi import Request, Response
from pydantic_core import to_json

from retrain_assets.serving.http import formats
from retrain_assets.serving.http.guard import BODY
from retrain_assets.serving.metrics import Metrics
from retrain_assets.serving.prediction_log import PredictionLog
from retrain_assets.serving.scoring.follow import Followed
from retrain_assets.serving.scoring.request import Contract, RequestError, Sent
from retrain_assets.serving.scoring.score import Batcher, Scored, answering, score_features

JSON = "application/json"


@dataclass(frozen=True)
class Endpoint:
    """What the paths of one model share.

    Args:
        model: The model.
        contract: What its rows may hold.
        batcher: Scores together what arrives together.
        clock: Says the time.
        log: Keeps what is answered.
        metrics: Counts it.
    """

    model: Followed
    contract: Contract
    batcher: Batcher
    clock: Callable[[], datetime]
    log: PredictionLog
    metrics: Metrics

    def keep(self, rows: Sent, scored: Scored) -> str:
        """Log what is about to be answered.

        Returns:
            The id of the request.
        """
        request = uuid4().hex
        self.log.write(self.model.name, request, self.clock(), rows, scored)
        self.metrics.predicted(self.model.name, scored.version.number, len(scored.output))
        return request


async def predict(endpoint: Endpoint, request: Request) -> Response:
    """Predict raw rows as they land."""
    kind, body = wants(request, JSON, formats.ARROW), request.scope[BODY]
    contract, name = endpoint.contract, endpoint.model.name
    rows: Sent = contract.read(body) if kind == JSON else formats.read_arrow(body, contract)
    scored = await endpoint.batcher.score(rows)
    kept, number = endpoint.keep(rows, scored), scored.version.number
    if kind == JSON:
        found = identified(kept, scored)
        return answer({"model": name, "version": number, "predictions": found})
    said = {"x-model": name, "x-model-version": str(number)}
    return Response(formats.arrow_answer(scored, kept), 200, said, formats.ARROW)


async def invoke(endpoint: Endpoint, request: Request) -> Response:
    """Predict features, as `mlflow models serve` does."""
    wants(request, JSON)
    version = answering(endpoint.model).version
    frame = formats.read_invocation(request.scope[BODY], version, endpoint.contract.most)
    scored = await asyncio.to_thread(score_features, version, endpoint.model.state, frame)
    found = endpoint.keep([], scored)
    said = {"x-model": endpoint.model.name, "x-model-version": str(version.number)}
    return answer(formats.invocation_answer(scored) | {"id": found}, headers=said)


async def infer(endpoint: Endpoint, request: Request) -> Response:
    """Predict raw rows in the Open Inference Protocol v2."""
    wants(request, JSON)
    sent, rows = formats.read_inference(request.scope[BODY], endpoint.contract)
    scored = await endpoint.batcher.score(rows)
    kept = endpoint.keep(rows, scored)
    found, name = identified(kept, scored), endpoint.model.name
    return answer(formats.inference_answer(name, sent or kept, scored, found))


def identified(request: str, scored: Scored) -> list[dict[str, Any]]:
    """The prediction of each row with its id, and which of its categories training never saw."""
    classes, output = scored.version.classes, scored.output.tolist()
    found: list[dict[str, Any]]
    if classes is None or scored.output.ndim == 1:
        found = [{"id": f"{request}-{n}", "prediction": value} for n, value in enumerate(output)]
    else:
        found = [
            {
                "id": f"{request}-{n}",
                "prediction": classes[row.index(max(row))],
                "probabilities": dict(zip(classes, row, strict=True)),
            }
            for n, row in enumerate(output)
        ]
    for place, names in scored.unseen().items():
        found[place]["unseen"] = names
    return found


def described(endpoint: Endpoint) -> dict[str, Any]:
    """A model as it is now: version, how it predicts, and the age of its lookups."""
    model, now = endpoint.model, endpoint.clock()
    serving, found = model.serving, {"model": model.name, "ready": model.ready}
    found["trouble"] = list(model.trouble.values())
    if serving is not None:
        version = serving.version
        found |= {
            "version": version.number,
            "since": version.row.time,
            "trained_on": version.row.data_range,
            "source": version.source,
            "prediction": version.how,
            "shadow": serving.shadow and serving.shadow.number,
            "lookups": {
                name: {
                    "version": held.version,
                    "rows": held.rows.height,
                    "age_seconds": (now - held.changed).total_seconds(),
                }
                for name, held in serving.maker.held.items()
            },
        }
    return found


def described_to_clients(endpoint: Endpoint) -> dict[str, Any]:
    """A model in the Open Inference Protocol."""
    version = answering(endpoint.model).version
    return formats.metadata(endpoint.model.name, endpoint.contract, version)


def ready_to_answer(endpoint: Endpoint) -> dict[str, Any]:
    """Whether a model answers, in the Open Inference Protocol."""
    answering(endpoint.model)
    return {"name": endpoint.model.name, "ready": True}


def wants(request: Request, *kinds: str) -> str:
    """The content type of a request, which must be among some.

    Raises:
        RequestError: 415.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in kinds:
        raise RequestError(
            415,
            "content_type",
            f"Content-Type is {given or 'missing'!r}: send {' or '.join(kinds)}",
        )
    return given


def answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(to_json(value), status, headers, JSON)
