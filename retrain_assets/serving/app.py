"""The application: which paths there are, and what each answers.

Everything it works with is given to it. Not here: limits and keys (`guard`), other clients' formats
(`formats`), and following the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from retrain_assets.serving.contract import Contract, RequestError
from retrain_assets.serving.guard import BODY, Guard, Limits
from retrain_assets.serving.score import Batcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from retrain_assets.serving.contract import Row
    from retrain_assets.serving.follow import Followed
    from retrain_assets.serving.log import PredictionLog
    from retrain_assets.serving.score import Scored

    Answer = Callable[["Endpoint", Request], Awaitable[Response]]

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
    """

    model: Followed
    contract: Contract
    batcher: Batcher
    clock: Callable[[], datetime]
    log: PredictionLog

    def keep(self, rows: list[Row], scored: Scored) -> str:
        """Log what is about to be answered.

        Returns:
            The id of the request.
        """
        request = uuid4().hex
        self.log.write(self.model.name, request, self.clock(), rows, scored)
        return request


@dataclass(frozen=True)
class Service:
    """All that the application is made of.

    Args:
        models: By name.
        clock: Says the time.
        log: Keeps what is answered.
        limits: Bounds on requests.
        keys: Any of which is asked for; none means that none is.
    """

    models: Mapping[str, Followed]
    clock: Callable[[], datetime]
    log: PredictionLog
    limits: Limits = field(default_factory=Limits)
    keys: tuple[str, ...] = ()


def build_app(service: Service) -> Guard:
    """The ASGI application of a service."""
    api = FastAPI(title="retrain_assets", version="1", redoc_url=None, docs_url=None)
    api.add_exception_handler(RequestError, _refused)
    api.add_exception_handler(HTTPException, _refused)
    api.add_exception_handler(Exception, _refused)
    endpoints = {
        name: Endpoint(
            model,
            Contract(model.state.dataset, service.limits.rows),
            Batcher(model),
            service.clock,
            service.log,
        )
        for name, model in service.models.items()
    }

    @api.get("/health")
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @api.get("/ready", responses={503: {"description": "A model does not answer yet."}})
    async def ready() -> Response:
        """Every model answers."""
        found = {name: model.ready for name, model in service.models.items()}
        return answer(
            {"ready": all(found.values()), "models": found}, 200 if all(found.values()) else 503
        )

    @api.get("/models")
    async def models() -> dict[str, Any]:
        """What is served."""
        return {"models": [described(found) for found in endpoints.values()]}

    for endpoint in endpoints.values():
        _add(api, endpoint, f"/models/{endpoint.model.name}/predict", predict)
    return Guard(api, service.limits, service.keys)


def _add(api: FastAPI, endpoint: Endpoint, path: str, answered: Answer) -> None:
    async def call(request: Request) -> Response:
        return await answered(endpoint, request)

    api.add_api_route(path, call, methods=["POST"])


async def predict(endpoint: Endpoint, request: Request) -> Response:
    """Predict raw rows as they land."""
    wants(request, JSON)
    rows = endpoint.contract.read(request.scope[BODY])
    scored = await endpoint.batcher.score(rows)
    name, request_id = endpoint.model.name, endpoint.keep(rows, scored)
    return answer(
        {
            "model": name,
            "version": scored.version.number,
            "predictions": [
                {"id": f"{request_id}-{place}", **found}
                for place, found in enumerate(predictions(scored))
            ],
        }
    )


def predictions(scored: Scored) -> list[dict[str, Any]]:
    """The prediction of each row, and which of its categories were not there in training."""
    classes, output = scored.version.classes, scored.output.tolist()
    if scored.output.ndim == 1:
        found: list[dict[str, Any]] = [{"prediction": value} for value in output]
    else:
        found = [
            {
                "prediction": classes[row.index(max(row))],
                "probabilities": dict(zip(classes, row, strict=True)),
            }
            for row in output
            if classes is not None
        ]
    for row, unseen in zip(found, scored.unseen(), strict=True):
        if unseen:
            row["unseen"] = unseen
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


def answer(value: object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(to_json(value), status, media_type=JSON)


async def _refused(_: Request, error: Exception) -> Response:
    if isinstance(error, RequestError):
        return answer(error.body(), error.status)
    status = getattr(error, "status_code", 500)
    code = {404: "not_found", 405: "wrong_method"}.get(status, "failed")
    said = getattr(error, "detail", "this was not foreseen: the service's own output tells more")
    return answer(RequestError(status, code, str(said)).body(), status)
