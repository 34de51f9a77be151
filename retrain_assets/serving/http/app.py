"""The application: which paths there are, and what OpenAPI says of them.

Everything it works with is given to it. Not here: what a path answers (`answers`), limits and keys
(`guard`), other clients' formats (`formats`), and following the ledger.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import PlainTextResponse
from polars.exceptions import PanicException
from pydantic import BaseModel
from pydantic_core import from_json, to_json
from starlette.exceptions import HTTPException

from retrain_assets.serving.http import formats
from retrain_assets.serving.http.answers import (
    JSON,
    Endpoint,
    answer,
    described,
    described_to_clients,
    infer,
    invoke,
    predict,
    ready_to_answer,
)
from retrain_assets.serving.http.guard import Guard, Limits, Receive, Scope, Send
from retrain_assets.serving.live_monitoring import Live
from retrain_assets.serving.metrics import CONTENT_TYPE, Metrics
from retrain_assets.serving.prediction_log import PredictionLog
from retrain_assets.serving.scoring.follow import Followed
from retrain_assets.serving.scoring.request import Contract, RequestError
from retrain_assets.serving.scoring.score import Batcher

Answer = Callable[[Endpoint, Request], Awaitable[Response]]
Called = tuple[Answer, Endpoint]


REFUSALS = (400, 401, 408, 413, 415, 422, 503, 504)


class Fault(BaseModel):
    """What is wrong in one row."""

    row: int | None
    column: str | None
    message: str


class Failure(BaseModel):
    """What was wrong, and what would do."""

    code: str
    message: str
    rows: list[Fault] = []


class Refusal(BaseModel):
    """The body of every answer that is no success."""

    error: Failure


@dataclass(frozen=True)
class Service:
    """All that the application is made of.

    Args:
        models: By name.
        clock: Says the time.
        log: Keeps what is answered.
        metrics: Counts requests, and tells of models.
        lives: Watch the live streams, by model.
        limits: Bounds on requests.
        keys: Any of which is asked for; none means that none is.
    """

    models: Mapping[str, Followed]
    clock: Callable[[], datetime]
    log: PredictionLog
    metrics: Metrics
    lives: Mapping[str, Live]
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
            service.metrics,
        )
        for name, model in service.models.items()
    }

    @api.get("/health")
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    async def ready() -> Response:
        """Every model answers."""
        found = {name: model.ready for name, model in service.models.items()}
        every = all(found.values())
        return answer({"ready": every, "models": found}, 200 if every else 503)

    for path in ("/ready", "/v2/health/ready"):
        told: dict[int | str, dict[str, Any]] = {503: {"description": "A model does not answer."}}
        api.add_api_route(path, ready, responses=told, operation_id=path.replace("/", "_"))

    @api.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    @api.get("/models")
    async def models() -> dict[str, Any]:
        """What is served."""
        return {"models": [described(found) for found in endpoints.values()]}

    asked: dict[str, Called] = {}
    for name, endpoint in endpoints.items():
        asked[f"/models/{name}/predict"] = predict, endpoint
        asked[f"/models/{name}/invocations"] = invoke, endpoint
        asked[f"/v2/models/{name}/infer"] = infer, endpoint
    if len(endpoints) == 1:
        asked["/invocations"] = invoke, next(iter(endpoints.values()))
    for path, called in asked.items():
        _add(api, path, *called)
    _add_probes(api, endpoints)
    api.openapi = partial(_openapi, api, endpoints)  # type: ignore[method-assign]
    service.metrics.paths = frozenset(api.openapi()["paths"])
    app = partial(_directly, api, asked)
    return Guard(app, service.limits, service.keys, service.metrics.answered)


async def _directly(
    api: FastAPI, asked: Mapping[str, Called], scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer what models are asked without FastAPI, which takes as long as all else of one row."""
    called = asked.get(scope["path"]) if scope.get("method") == "POST" else None
    if called is None:
        await api(scope, receive, send)
        return
    answered, endpoint = called
    request = Request(scope)
    try:
        found = await answered(endpoint, request)
    except RequestError as error:
        found = await _refused(request, error)
    except (Exception, PanicException) as error:
        await (await _refused(request, error))(scope, receive, send)
        raise  # so that the service's own output tells more
    await found(scope, receive, send)


def _add(api: FastAPI, path: str, answered: Answer, endpoint: Endpoint) -> None:
    """Let OpenAPI tell of what `_directly` answers."""

    async def call(request: Request) -> Response:
        return await answered(endpoint, request)

    told: dict[int | str, dict[str, Any]] = {number: {"model": Refusal} for number in REFUSALS}
    if answered is predict:
        told[200] = {"content": {formats.ARROW: {"schema": {"type": "string"}}}}
    name = f"{answered.__name__}_{path.strip('/').replace('/', '_')}"
    api.add_api_route(
        path,
        call,
        methods=["POST"],
        summary=(answered.__doc__ or "").partition("\n")[0],
        operation_id=name,
        responses=told,
        openapi_extra={"requestBody": {"required": True, "content": BODIES[answered](endpoint)}},
    )


def _add_probes(api: FastAPI, endpoints: Mapping[str, Endpoint]) -> None:
    """What clients of the Open Inference Protocol ask before they send rows."""

    @api.get("/v2")
    async def server() -> dict[str, Any]:
        """The server."""
        return {"name": api.title, "version": api.version, "extensions": []}

    @api.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """The process answers."""
        return {"live": True}

    for name, endpoint in endpoints.items():
        _tell(api, f"/v2/models/{name}", endpoint, described_to_clients)
        _tell(api, f"/v2/models/{name}/ready", endpoint, ready_to_answer)


def _tell(
    api: FastAPI, path: str, endpoint: Endpoint, found: Callable[[Endpoint], dict[str, Any]]
) -> None:
    async def call() -> Response:
        return answer(found(endpoint))

    name = f"{found.__name__}_{endpoint.model.name}"
    api.add_api_route(path, call, operation_id=name, responses={503: {"model": Refusal}})


async def _refused(_: Request, error: Exception) -> Response:
    if isinstance(error, RequestError):
        return answer(error.body(), error.status)
    status = getattr(error, "status_code", 500)
    code = {404: "not_found", 405: "wrong_method"}.get(status, "failed")
    said = getattr(error, "detail", "this was not foreseen: the service's own output tells more")
    return answer(RequestError(status, code, str(said)).body(), status)


def _raw_bodies(endpoint: Endpoint) -> dict[str, Any]:
    rows = {"type": "array", "minItems": 1, "items": endpoint.contract.schema()}
    body: dict[str, Any] = {"type": "object", "required": ["rows"], "properties": {"rows": rows}}
    body["additionalProperties"] = False
    return {
        JSON: {"schema": body},
        formats.ARROW: {"schema": {"type": "string", "format": "binary"}},
    }


def _of_kind(kind: type[BaseModel]) -> Callable[[Endpoint], dict[str, Any]]:
    return lambda _: {JSON: {"schema": _inlined(kind.model_json_schema())}}


def _inlined(schema: Any, known: dict[str, Any] | None = None) -> Any:
    """A schema without references, which would point outside an OpenAPI document."""
    if isinstance(schema, list):
        return [_inlined(found, known) for found in schema]
    if not isinstance(schema, dict):
        return schema
    known = schema.pop("$defs", known)
    if "$ref" in schema:
        return _inlined((known or {})[schema["$ref"].rpartition("/")[2]], known)
    return {key: _inlined(value, known) for key, value in schema.items()}


BODIES: dict[Answer, Callable[[Endpoint], dict[str, Any]]] = {
    predict: _raw_bodies,
    invoke: _of_kind(formats.Invocation),
    infer: _of_kind(formats.Inference),
}


def _openapi(api: FastAPI, endpoints: Mapping[str, Endpoint]) -> dict[str, Any]:
    """The document, with a stored row of each model that answers as its example."""
    found = get_openapi(title=api.title, version=api.version, routes=api.routes)
    for name, endpoint in endpoints.items():
        serving = endpoint.model.serving
        if serving is not None:
            content = found["paths"][f"/models/{name}/predict"]["post"]["requestBody"]["content"]
            example = {"rows": serving.maker.stored_rows(1)}
            content[JSON]["example"] = from_json(to_json(example))
    return found
