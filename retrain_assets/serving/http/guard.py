"""The checks before every request: keys, and bounds on bytes, time and concurrency.

The body is read and counted here, so that the application never holds more than the bound. Not
here: what a body may hold.
"""

import asyncio
import hmac
import zlib
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from time import perf_counter

from pydantic_core import to_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrain_assets.serving.scoring.request import RequestError

OPEN = frozenset({"/health", "/ready", "/v2/health/live", "/v2/health/ready"})
BODY = "retrain.body"
PACKED = (b"gzip", b"deflate")  # as clients of Triton pack; taken in the Open Inference Protocol
BASIC = b'Basic realm="retrain: any name, and a key as the password"'
# A body is read up to this multiple of its bound, since a client that is answered while it still
# sends sees a reset connection.
DRAINED = 4


@dataclass(frozen=True)
class Limits:
    """Bounds of the service.

    Args:
        rows: Rows of a request.
        body_bytes: Size of a body.
        concurrency: Requests at once.
        body_seconds: Time until a body must have arrived.
        seconds: Time until a request must be answered.
        backlog_bytes: Size of the predictions that are not stored yet.
    """

    rows: int = 10_000
    body_bytes: int = 16 * 2**20
    concurrency: int = 256
    body_seconds: float = 10.0
    seconds: float = 30.0
    backlog_bytes: int = 2**30


class Guard:
    """An ASGI application that checks keys and bounds before another one answers.

    Args:
        app: The other application; it finds the body in the scope.
        limits: The bounds.
        keys: A request must have one of these; without any, none is required.
        count: Called with the path, the status and the seconds of each answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        keys: tuple[str, ...],
        count: Callable[[str, int, float], None],
    ) -> None:
        self._app, self._limits, self._active, self._count = app, limits, 0, count
        self._keys = [sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, since = 0, perf_counter()

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self._active += 1
        try:
            await self._answer(scope, receive, send_noting_status)
        except RequestError as error:
            if not status:
                is_browser = b"text/html" in dict(scope["headers"]).get(b"accept", b"")
                scheme = BASIC if is_browser else b"Bearer"
                await _refuse(error, scope["path"], scheme, send_noting_status)
        finally:
            self._active -= 1
            self._count(scope["path"], status, perf_counter() - since)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if scope["path"] not in OPEN:
            self._authorize(headers)
            if self._active > self._limits.concurrency:
                raise RequestError(503, "busy", "too many requests at once: try again in a second")
        if scope["method"] == "POST":
            coding = headers.get(b"content-encoding", b"identity")
            is_packed = coding in PACKED and scope["path"].startswith("/v2/")
            if not is_packed and coding != b"identity":
                raise RequestError(
                    415, "encoded", "the body is compressed: send it without Content-Encoding"
                )
            body = await self._read_body(headers, receive)
            scope[BODY] = _unpack(body, self._limits.body_bytes) if is_packed else body
        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._app(scope, receive, send)
        except TimeoutError:
            message = f"no answer within {self._limits.seconds:g} s: send fewer rows"
            raise RequestError(504, "too_slow", message) from None

    def _authorize(self, headers: dict[bytes, bytes]) -> None:
        """Compare all keys in full, so that the time reveals nothing about them."""
        if not self._keys:
            return
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"basic":  # a browser sends the key as a password
            key = _read_password(key)
        elif scheme.lower() != b"bearer":
            key = headers.get(b"x-api-key", b"")
        digest = sha256(key).digest()
        if not any([hmac.compare_digest(digest, key) for key in self._keys]):  # noqa: C419 all of them
            raise RequestError(401, "no_key", "give a key as `Authorization: Bearer KEY`")

    async def _read_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        most = self._limits.body_bytes
        too_large = _too_large(most)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > DRAINED * most:
            raise too_large
        parts, size, is_partial = [], 0, True
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while is_partial and size <= DRAINED * most:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError(400, "gone", "the connection was closed")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        parts.clear()
                    is_partial = message.get("more_body", False)
        except TimeoutError:
            reason = f"the body did not come within {self._limits.body_seconds:g} s"
            raise RequestError(408, "slow_body", reason) from None
        if size > most:
            raise too_large
        return b"".join(parts)


def _unpack(body: bytes, most: int) -> bytes:
    """Return what gzip or zlib has packed, of a bounded size.

    Raises:
        RequestError: It is damaged or too large.
    """
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # which tells gzip from zlib
    try:
        content = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise RequestError(400, "encoded", f"the body cannot be unpacked: {error}") from error
    if len(content) > most:
        raise _too_large(most)
    if not unpacker.eof or unpacker.unused_data:
        raise RequestError(400, "encoded", "the body cannot be unpacked: it is cut off or too long")
    return content


def _too_large(most: int) -> RequestError:
    return RequestError(413, "too_large", f"the body is over {most:,} bytes: send less")


def _read_password(credentials: bytes) -> bytes:
    """Return the password of Basic authentication; empty if there is none."""
    try:
        return b64decode(credentials, validate=True).partition(b":")[2]
    except ValueError:
        return b""


async def _refuse(error: RequestError, path: str, scheme: bytes, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if error.status == 401:  # noqa: PLR2004 the scheme must be named
        headers.append((b"www-authenticate", scheme))
    if error.status == 503:  # noqa: PLR2004
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": to_json(error.body(path))})
