"""A signed webhook, as the Standard Webhooks specification has it.

No redirect is followed and no proxy used. Not here: which hosts are
allowed, and which events there are.
"""

from __future__ import annotations

import binascii
import hmac
import json
import ssl
import time
from base64 import b64decode, b64encode
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPSConnection
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from retrain_assets.domain.messages import NotTakenError
from retrain_assets.specs.notify import is_loopback

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain_assets.domain.messages import Message

TIMEOUT_SECONDS = 10  # of one step, such as connecting
_SHORTEST_KEY = 24  # bytes, as the specification asks for
_LONGEST_WAIT_SECONDS = 86_400.0


def signing_keys(secret: str) -> list[bytes]:
    """The keys of a secret, `whsec_…`; several, separated by spaces, while one is exchanged.

    Raises:
        ValueError: It is no key.
    """
    try:
        keys = [b64decode(one.removeprefix("whsec_"), validate=True) for one in secret.split()]
    except binascii.Error:
        keys = []
    if min(map(len, keys), default=0) < _SHORTEST_KEY:
        raise ValueError(
            "RETRAIN_WEBHOOK_SECRET is no key: write whsec_ and then 24 random bytes as base64"
        )
    return keys


def post(url: str, keys: Sequence[bytes], message: Message) -> str:
    """Post a message: its newest event, and how often it happened.

    Args:
        url: Where to.
        keys: Each signs.
        message: Its id is the header `webhook-id`, whatever the attempt.

    Raises:
        NotTakenError: The host leads where it must not, or does not answer with success.
        OSError: It cannot be reached; or HTTPException: it does not speak HTTP.
    """
    parts, event = urlsplit(url), message.events[-1]
    host = parts.hostname or ""
    data: dict[str, object] = {"subject": event.subject, "id": event.id, "text": event.text}
    data |= {"count": len(message.events), **json.loads(event.fields)}
    told = {"type": event.kind, "timestamp": event.time and event.time.isoformat(), "data": data}
    body = json.dumps(told).encode()
    if parts.scheme == "https":
        tls = ssl.create_default_context()
        to: HTTPConnection = HTTPSConnection(host, parts.port, timeout=TIMEOUT_SECONDS, context=tls)
    else:
        to = HTTPConnection(host, parts.port, timeout=TIMEOUT_SECONDS)
    with closing(to):
        to.connect()
        _check(host, to.sock.getpeername()[0])
        path = (parts.path or "/") + (parts.query and f"?{parts.query}")
        to.request("POST", path, body, _headers(message.id, body, keys))
        answer = to.getresponse()
        if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            raise NotTakenError(f"HTTP {answer.status}", seconds(answer.getheader("Retry-After")))
    return ""


def seconds(retry_after: str | None) -> float | None:
    """How long a server wants to be left alone, at most a day; None where it does not say."""
    if retry_after is None or not retry_after.strip().isdecimal():
        return None
    return min(float(retry_after), _LONGEST_WAIT_SECONDS)


def _headers(name: str, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    now = str(int(time.time()))
    signed = f"{name}.{now}.".encode() + body
    signatures = [b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {
        "content-type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": now,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def _check(host: str, address: str) -> None:
    """Refuse a name that leads where no receiver is: to this machine, or to a cloud's metadata.

    It is looked at once connected, so that the name cannot lead elsewhere the next time.

    Raises:
        NotTakenError: It does.
    """
    found = ip_address(address)
    found = getattr(found, "ipv4_mapped", None) or found
    wrong = found.is_link_local or found.is_multicast or found.is_unspecified
    if wrong or (found.is_loopback and not is_loopback(host)):
        raise NotTakenError(f"{host} leads to {address}, where no receiver may be")
