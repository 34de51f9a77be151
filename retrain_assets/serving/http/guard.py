"""What stands before every request: keys, and bounds on bytes, time and how many at once.

The body is read here, counted as it comes, so that nothing behind holds more than the bound. Not
here: what a body may hold.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from hashlib import sha256
from time import perf_counter
from typing import Any

from pydantic_core import to_json

from retrain_assets.serving.scoring.request import RequestError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/health", "/ready", "/v2/health/live", "/v2/health/ready"})
BODY = "retrain.body"
# A body is read so many times beyond its bound: who is answered before all is sent sees a reset.
DRAINED = 4


@dataclass(frozen=True)
class Limits:
    """Bounds of the service.

    Args:
        rows: In a request.
        body_bytes: Of a request.
        concurrency: Requests at once.
        body_seconds: In which a body must have come.
        seconds: In which an answer must be found.
        backlog_bytes: Of predictions that could not be stored yet.
    """

    rows: int = 10_000
    body_bytes: int = 16 * 2**20
    concurrency: int = 256
    body_seconds: float = 10.0
    seconds: float = 30.0
    backlog_bytes: int = 2**30


class Guard:
    """An ASGI application behind keys and bounds.

    Args:
        app: What answers; it finds the body in the scope.
        limits: The bounds.
        keys: Any of which is asked for; none means that none is.
        answered: Told the path, the status and the seconds of each answer.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        keys: tuple[str, ...],
        answered: Callable[[str, int, float], None],
    ) -> None:
        self._app, self._limits, self._under_way, self._answered = app, limits, 0, answered
        self._keys = [sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, since = 0, perf_counter()

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self._under_way += 1
        try:
            await self._guarded(scope, receive, sending)
        except RequestError as error:
            if not status:
                await _refuse(error, sending)
        finally:
            self._under_way -= 1
            self._answered(scope["path"], status, perf_counter() - since)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if scope["path"] not in OPEN:
            self._authorize(headers)
            if self._under_way > self._limits.concurrency:
                raise RequestError(503, "busy", "too many requests at once: try again in a second")
        if scope["method"] == "POST":
            scope[BODY] = await self._body(headers, receive)
        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._app(scope, receive, send)
        except TimeoutError:
            said = f"no answer within {self._limits.seconds:g} s: send fewer rows"
            raise RequestError(504, "too_slow", said) from None

    def _authorize(self, headers: dict[bytes, bytes]) -> None:
        """All keys are compared in full, so that time tells nothing of them."""
        if not self._keys:
            return
        bearer = headers.get(b"authorization", b"")
        given = bearer[7:] if bearer[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")
        digest = sha256(given).digest()
        if not any([hmac.compare_digest(digest, key) for key in self._keys]):  # noqa: C419 all of them
            raise RequestError(401, "no_key", "give a key as `Authorization: Bearer KEY`")

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        most = self._limits.body_bytes
        too_large = RequestError(413, "too_large", f"the body is over {most:,} bytes: send less")
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise RequestError(415, "encoded", "Content-Encoding is not taken: send it as it is")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > DRAINED * most:
            raise too_large
        parts, held = [], 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while held <= DRAINED * most:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError(400, "gone", "the connection was closed")
                    parts.append(message.get("body", b""))
                    held += len(parts[-1])
                    if held > most:
                        parts.clear()
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            said = f"the body did not come within {self._limits.body_seconds:g} s"
            raise RequestError(408, "slow_body", said) from None
        if held > most:
            raise too_large
        return b"".join(parts)


async def _refuse(error: RequestError, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if error.status == 401:  # noqa: PLR2004 the scheme must be named
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 503:  # noqa: PLR2004
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": to_json(error.body())})
