"""The application: which paths exist, what each answers, and what OpenAPI says about them.

Rows are read, scored, logged and counted. The application gets everything it works with as
arguments. Not here: limits and keys (`guard`), other clients' formats (`formats`), and following
the ledger.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, PlainTextResponse
from polars.exceptions import PanicException
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from pydantic_core import from_json, to_json
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from retrain_assets.serving.http import formats
from retrain_assets.serving.http.guard import BODY, Guard, Limits
from retrain_assets.serving.http.pages import Pages
from retrain_assets.serving.live_monitoring import LiveMonitor
from retrain_assets.serving.metrics import CONTENT_TYPE, Metrics
from retrain_assets.serving.prediction_log import PredictionLog
from retrain_assets.serving.scoring import reasons, score
from retrain_assets.serving.scoring.request import Contract, RequestError, RequestRows
from retrain_assets.serving.scoring.served_model import ServedLayer, ServedModel

JSON, OCTETS = "application/json", "application/octet-stream"
HEADER_LENGTH = "inference-header-content-length"
VERSION = "retrain.version"  # that the path of a request names
VERSIONED = re.compile(r"(/v2/models/[^/]+)/versions/([^/]+)(/infer|/ready|)")
REFUSALS = (400, 401, 408, 413, 415, 422, 503, 504)
REFERENCE = "#/components/schemas/{model}"


class Fault(BaseModel):
    """One mistake in one row."""

    row: int | None
    column: str | None
    message: str


class Failure(BaseModel):
    """The reason of a refusal, and how to correct it."""

    code: str
    message: str
    rows: list[Fault] = []


class Refusal(BaseModel):
    """The body of every answer that is no success."""

    error: Failure


class Rejection(BaseModel):
    """The same in the Open Inference Protocol."""

    error: str
    code: str
    rows: list[Fault] = []


@dataclass(frozen=True)
class Service:
    """The parts of the application.

    Args:
        models: By name.
        log: Stores what is answered.
        metrics: Counts requests and describes models.
        monitors: Monitor the live streams, by model.
        pages: The pages for people.
        limits: Bounds on requests.
        keys: A request must have one of these; without any, none is required.
    """

    models: Mapping[str, ServedModel]
    log: PredictionLog
    metrics: Metrics
    monitors: Mapping[str, LiveMonitor]
    pages: Pages
    limits: Limits = field(default_factory=Limits)
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Endpoint:
    """The parts that the paths of one model share.

    Args:
        service: The service.
        model: The model.
        contract: What its rows may hold.
        batcher: Scores together the requests that arrive together.
        pooled: Of a segment's model: the model that answers until this one has a version.
    """

    service: Service
    model: ServedModel
    contract: Contract
    batcher: score.Batcher
    pooled: "Endpoint | None" = None

    @property
    def answering(self) -> "Endpoint":
        """Return what answers now; the answer names its model."""
        return self.pooled if self.pooled and not self.model.ready else self

    def record(self, rows: RequestRows, scored: score.Scored) -> str:
        """Log what is about to be answered; return the id of the request."""
        request, name, service = uuid4().hex, self.model.name, self.service
        service.log.write(name, request, datetime.now(UTC), rows, scored)
        service.metrics.count_rows(name, scored.version.number, len(scored.output))
        return request


Answer = Callable[[Endpoint, Request], Awaitable[Response]]


def build_app(service: Service) -> Guard:
    """Return the ASGI application of a service."""
    api = FastAPI(title="retrain_assets", version="1", redoc_url=None, docs_url=None)
    for kind in (RequestError, HTTPException, Exception):
        api.add_exception_handler(kind, _refuse)
    endpoints: dict[str, Endpoint] = {}
    for name, model in service.models.items():  # the pooled model before its segments
        contract = Contract(model.state.dataset, service.limits.rows)
        pooled = endpoints.get(model.state.spec.group)
        endpoints[name] = Endpoint(service, model, contract, score.Batcher(model), pooled)
    _add_service_paths(api, endpoints, service)
    _add_pages(api, service.pages, endpoints)
    posts: dict[str, tuple[Answer, Endpoint]] = {}
    for name, endpoint in endpoints.items():
        posts[f"/models/{name}/predict"] = predict, endpoint
        posts[f"/models/{name}/invocations"] = invoke, endpoint
        posts[f"/v2/models/{name}/infer"] = infer, endpoint
        if len(endpoints) == 1:
            posts["/invocations"] = invoke, endpoint
        _add_model_path(api, f"/v2/models/{name}", describe_to_clients, endpoint)
        _add_model_path(api, f"/v2/models/{name}/ready", confirm_ready, endpoint)
    for path, (call, endpoint) in posts.items():
        _add_model_path(api, path, call, endpoint)
    api.openapi = partial(_openapi, api, endpoints)  # type: ignore[method-assign]
    service.metrics.paths = frozenset(api.openapi()["paths"])
    app = partial(_answer_directly, api, posts)
    return Guard(app, service.limits, service.keys, service.metrics.count_request)


async def _answer_directly(
    api: FastAPI,
    posts: Mapping[str, tuple[Answer, Endpoint]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Answer predictions without FastAPI, which takes as long as everything else for one row."""
    if match := VERSIONED.fullmatch(scope["path"]):
        scope["path"], scope[VERSION] = match[1] + match[3], match[2]
    if scope.get("method") != "POST" or scope["path"] not in posts:
        await api(scope, receive, send)
        return
    call, endpoint = posts[scope["path"]]
    request = Request(scope)
    try:
        response = await call(endpoint.answering, request)
    except RequestError as error:
        response = await _refuse(request, error)
    except (Exception, PanicException) as error:
        await (await _refuse(request, error))(scope, receive, send)
        raise  # so that the service's own output shows it
    await response(scope, receive, send)


def _add_service_paths(api: FastAPI, endpoints: Mapping[str, Endpoint], service: Service) -> None:
    """Add the paths that are not about one model."""
    constants: dict[str, dict[str, Any]] = {
        "/health": {"status": "ok"},
        "/v2/health/live": {"live": True},
        "/v2": {"name": api.title, "version": api.version, "extensions": ["binary_tensor_data"]},
    }
    for path, value in constants.items():
        api.add_api_route(path, partial(answer, value, 200, None), summary="Is constant.")

    @api.get("/ready", responses={503: {"description": "A model does not answer."}})
    @api.get("/v2/health/ready", responses={503: {"description": "A model does not answer."}})
    async def ready() -> Response:
        """Answer 200 if every model answers, and 503 otherwise."""
        models = {name: end.answering.model.ready for name, end in endpoints.items()}
        is_ready = all(models.values())
        return answer({"ready": is_ready, "models": models}, 200 if is_ready else 503)

    @api.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return figures for Prometheus."""
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    @api.get("/models")
    async def models() -> dict[str, Any]:
        """Describe the models."""
        return {"models": [describe(endpoint) for endpoint in endpoints.values()]}


def _add_pages(api: FastAPI, pages: Pages, names: Iterable[str]) -> None:
    """Add the pages for people."""

    @api.get("/", response_class=HTMLResponse)
    def models() -> str:
        """List the models, each with a link to its page."""
        return pages.list_models()

    ordered = sorted(names)
    for name in ordered:
        _add_page(api, pages, name)

    @api.get("/models/{name}", include_in_schema=False)
    def unknown_model(name: str) -> None:  # noqa: ARG001 it may be anything
        """Name the models that there are."""
        raise HTTPException(404, f"there is no such model; there are {', '.join(ordered)}")


def _add_page(api: FastAPI, pages: Pages, name: str) -> None:
    @api.get(f"/models/{name}", response_class=HTMLResponse, operation_id=f"show_{name}")
    def model() -> str:
        """Show what is in production and why, the time line, and what is next."""
        return pages.show_model(name)

    path = f"/models/{name}/cards/{{version}}"
    content = {JSON: {"schema": {"$ref": REFERENCE.format(model=Refusal.__name__)}}}
    refusals: dict[int | str, Any] = {404: {"description": "It has no card.", "content": content}}

    @api.get(path, response_class=HTMLResponse, operation_id=f"card_{name}", responses=refusals)
    def card(version: str) -> str:
        """Show the card of a version."""
        page = pages.show_card(name, version)
        if page is None:
            raise HTTPException(
                404, f"there is no such card: retrain card {name} VERSION writes one"
            )
        return page


def _add_model_path(api: FastAPI, path: str, call: Answer, endpoint: Endpoint) -> None:
    """Add a path with what OpenAPI says about it."""

    async def respond(request: Request) -> Response:
        return await call(endpoint.answering, request)

    body = _bodies(endpoint).get(call)
    refusal = Rejection if path.startswith("/v2/") else Refusal
    responses: dict[int | str, Any] = {n: {"model": refusal} for n in (REFUSALS if body else [503])}
    if call is predict:
        responses[200] = {"content": {formats.ARROW: {"schema": {"type": "string"}}}}
    extra: dict[str, Any] = {"requestBody": {"required": True, "content": body}} if body else {}
    if call is predict:
        number = {"type": "integer", "minimum": 0, "maximum": reasons.MOST, "default": 0}
        text = "How many of the features that moved a row most are answered with it."
        parameter = {"name": "reasons", "in": "query", "schema": number, "description": text}
        extra["parameters"] = [parameter]
    api.add_api_route(
        path,
        respond,
        methods=["POST" if body else "GET"],
        summary=(call.__doc__ or "").partition("\n")[0],
        operation_id=f"{call.__name__}_{path.strip('/').replace('/', '_')}",
        responses=responses,
        openapi_extra=extra or None,
    )


async def _refuse(request: Request, error: Exception | PanicException) -> Response:
    path = request.url.path
    if isinstance(error, RequestError):
        return answer(error.body(path), error.status)
    status = getattr(error, "status_code", 500)
    code = {404: "not_found", 405: "wrong_method"}.get(status, "failed")
    reason = getattr(error, "detail", "this was not foreseen: the service's own output shows more")
    return answer(RequestError(status, code, str(reason)).body(path), status)


def _bodies(endpoint: Endpoint) -> dict[Answer, dict[str, Any]]:
    """Return the bodies of requests by content type, as OpenAPI describes them."""
    rows = {"type": "array", "minItems": 1, "items": endpoint.contract.schema()}
    raw: dict[str, Any] = {"type": "object", "required": ["rows"], "properties": {"rows": rows}}
    arrow = {"type": "string", "format": "binary"}
    return {
        predict: {
            JSON: {"schema": raw | {"additionalProperties": False}},
            formats.ARROW: {"schema": arrow},
        },
        invoke: {JSON: {"schema": {"$ref": REFERENCE.format(model="Invocation")}}},
        infer: {JSON: {"schema": {"$ref": REFERENCE.format(model="Inference")}}},
    }


def _openapi(api: FastAPI, endpoints: Mapping[str, Endpoint]) -> dict[str, Any]:
    """Return the document, with a stored row of each model that answers as its example."""
    document = get_openapi(title=api.title, version=api.version, routes=api.routes)
    bodies: Any = [(formats.Invocation, "validation"), (formats.Inference, "validation")]
    _, schemas = models_json_schema(bodies, ref_template=REFERENCE)
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
    for name, endpoint in endpoints.items():
        serving = endpoint.model.serving
        if serving is not None:
            content = document["paths"][f"/models/{name}/predict"]["post"]["requestBody"]["content"]
            example = {"rows": serving.maker.stored_rows(1)}
            content[JSON]["example"] = from_json(to_json(example))
    return document


async def predict(endpoint: Endpoint, request: Request) -> Response:
    """Predict raw rows as they land."""
    kind, body = require_type(request, JSON, formats.ARROW), request.scope[BODY]
    contract, name = endpoint.contract, endpoint.model.name
    count = reasons.read_count(request.query_params.get("reasons", "0"))
    if count and kind != JSON:
        raise RequestError(422, "reasons", "reasons are answered as JSON only: send JSON")
    rows: RequestRows = contract.read(body) if kind == JSON else formats.read_arrow(body, contract)
    scored = await endpoint.batcher.score(rows)
    words, explained = endpoint.model.state.spec.descriptions, []
    if count:
        explained = await asyncio.to_thread(reasons.list_reasons, scored, count, words)
    number, version = endpoint.record(rows, scored), scored.version.number
    if kind == JSON:
        predictions = list_predictions(number, scored)
        for prediction, moved in zip(predictions, explained, strict=bool(explained)):
            prediction["reasons"] = moved
        head = {"model": name, "version": version} | name_state(scored)
        return answer(head | {"predictions": predictions})
    headers = list_headers(name, scored)
    return Response(formats.arrow_answer(scored, number), 200, headers, formats.ARROW)


async def invoke(endpoint: Endpoint, request: Request) -> Response:
    """Predict features, as `mlflow models serve` does."""
    require_type(request, JSON)
    model, serving = endpoint.model, score.require_serving(endpoint.model)
    version = serving.version
    features = formats.read_invocation(request.scope[BODY], version, endpoint.contract.most)
    inputs = version, model.state, features, serving.layer
    scored = await asyncio.to_thread(score.predict_columns, *inputs)
    scored = replace(scored, half_width=serving.half_width)
    number = endpoint.record([], scored)
    headers = list_headers(model.name, scored)
    return answer(formats.invocation_answer(scored) | {"id": number}, headers=headers)


async def infer(endpoint: Endpoint, request: Request) -> Response:
    """Predict raw rows in the Open Inference Protocol v2."""
    if "content-type" in request.headers:
        require_type(request, JSON, OCTETS)
    length = request.headers.get(HEADER_LENGTH, "")
    inference, rows = formats.read_inference(request.scope[BODY], length, endpoint.contract)
    scored = await endpoint.batcher.score(rows)
    require_version(request, scored.version.number)
    number, model = endpoint.record(rows, scored), endpoint.model.name
    predictions = list_predictions(number, scored)
    value, packed = formats.inference_answer(model, number, inference, scored, predictions)
    if not packed:
        return answer(value)
    text = to_json(value, inf_nan_mode="null")
    return Response(text + packed, 200, {HEADER_LENGTH: str(len(text))}, OCTETS)


async def describe_to_clients(endpoint: Endpoint, request: Request) -> Response:
    """Describe a model in the Open Inference Protocol."""
    serving = score.require_serving(endpoint.model)
    require_version(request, serving.version.number)
    return answer(formats.metadata(endpoint.model.name, endpoint.contract, serving))


async def confirm_ready(endpoint: Endpoint, request: Request) -> Response:
    """Confirm that a model answers, in the Open Inference Protocol."""
    require_version(request, score.require_serving(endpoint.model).version.number)
    return answer({"name": endpoint.model.name, "ready": True})


def name_state(scored: score.Scored) -> dict[str, str]:
    """Return the partition of the state by which the adaptive layer answers, if it does."""
    return {} if scored.layer is None else {"state": scored.layer}


def list_headers(model: str, scored: score.Scored) -> dict[str, str]:
    """Return the headers that name what answers."""
    state = {f"x-model-{name}": value for name, value in name_state(scored).items()}
    return {"x-model": model, "x-model-version": str(scored.version.number)} | state


def list_predictions(request: str, scored: score.Scored) -> list[dict[str, Any]]:
    """Return the prediction of each row with its id and its categories that training lacks."""
    classes, output = scored.version.classes or [], scored.output.tolist()
    predictions: list[dict[str, Any]] = []
    for place, value in enumerate(output):
        prediction: dict[str, Any] = {"id": f"{request}-{place}", "prediction": value}
        if isinstance(value, list):
            prediction["prediction"] = classes[value.index(max(value))]
            prediction["probabilities"] = dict(zip(classes, value, strict=True))
        elif (half_width := scored.half_width) is not None:
            prediction["interval"] = [value - half_width, value + half_width]
        predictions.append(prediction)
    for place, names in scored.unseen().items():
        predictions[place]["unseen"] = names
    return predictions


def describe(endpoint: Endpoint) -> dict[str, Any]:
    """Describe a model as it is now: version, how it predicts, and the age of its lookups."""
    model, now = endpoint.model, datetime.now(UTC)
    troubles = list(model.troubles.values())
    description = {"model": model.name, "ready": model.ready, "trouble": troubles}
    if (serving := model.serving) is None:
        return description
    version = serving.version
    return description | {
        "version": version.number,
        "since": version.row.time,
        "trained_on": version.row.data_range,
        "source": version.source,
        "prediction": version.how,
        "shadow": serving.shadow and serving.shadow.number,
        "interval": serving.half_width,
        "layer": serving.layer and describe_layer(serving.layer),
        "lookups": {
            name: {
                "version": lookup.version,
                "rows": lookup.rows.height,
                "age_seconds": (now - lookup.changed).total_seconds(),
            }
            for name, lookup in serving.maker.lookups.items()
        },
    }


def describe_layer(layer: ServedLayer) -> dict[str, Any]:
    """Describe the adaptive layer as it answers."""
    newest = layer.newest
    return {"state": newest.name, "members": [member.version for member in newest.members]}


def require_type(request: Request, *kinds: str) -> str:
    """Return the content type of a request, which must be among some.

    Raises:
        RequestError: 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        message = f"Content-Type is {kind or 'missing'!r}: send {' or '.join(kinds)}"
        raise RequestError(415, "content_type", message)
    return kind


def require_version(request: Request, number: int) -> None:
    """Check the version that the path of a request names, if it names one.

    Raises:
        RequestError: 404.
    """
    if request.scope.get(VERSION, str(number)) != str(number):
        raise RequestError(404, "not_found", f"this version is not served: version {number} is")


def answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer."""
    return Response(to_json(value, inf_nan_mode="null"), status, headers, JSON)
