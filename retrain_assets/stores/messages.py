"""Send messages over Slack, e-mail and signed webhooks, and store them in the outbox.

Servers and credentials come from the environment; credentials are removed from all that a server
answers. Webhooks follow the Standard Webhooks specification. The outbox of a model or dataset holds
its messages and their outcomes. Not here: when to send, and when to try again.
"""

import binascii
import hmac
import json
import smtplib
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from email.utils import localtime
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPSConnection
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.json_text import write_json
from retrain_assets.domain.messages import Message, Notice, NotTakenError, to_line
from retrain_assets.errors import mask
from retrain_assets.specs.notify import Channel, NotifySpec, is_loopback
from retrain_assets.stores.tables.tables import StaleTableError, Tables

# Returns a remark, or an empty text; raises NotTakenError and nothing else.
Send = Callable[[Message], str]
Environment = Mapping[str, str]

SECRETS = ("SLACK_BOT_TOKEN", "SMTP_PASSWORD", "RETRAIN_WEBHOOK_SECRET")
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_PORTS = {"starttls": "587", "implicit": "465", "off": "25"}
_MAX_SUBJECT = 150


def senders(
    notify: NotifySpec, environment: Environment, client: Callable[[str], Any]
) -> tuple[dict[Channel, Send], list[str]]:
    """Return the channels of a spec that can be used, and why the others cannot.

    Args:
        notify: The spec.
        environment: Holds servers and credentials.
        client: Makes a client of Slack from a token.
    """
    builders: dict[Channel, Callable[[], Send]] = {
        "slack": lambda: _slack(
            notify.slack or "", _needed(environment, "SLACK_BOT_TOKEN"), client
        ),
        "email": lambda: _email(notify.email, environment),
        "webhook": lambda: _webhook(notify.webhook or "", environment),
    }
    usable: dict[Channel, Send] = {}
    missing = []
    for channel in notify.channels:
        try:
            usable[channel] = partial(_send_masked, builders[channel](), environment)
        except ValueError as error:
            missing.append(_without_secrets(f"{channel}: {error}", environment))
    return usable, missing


def _slack(channel: str, token: str, client: Callable[[str], Any]) -> Send:
    """Return a sender of plain text, escaped, so that it holds no mention, link or command."""

    def send(message: Message) -> str:
        from slack_sdk.errors import SlackApiError

        text = "\n".join(message.lines).translate(_ESCAPES)
        try:
            client(token).chat_postMessage(
                channel=channel, text=text, mrkdwn=False, unfurl_links=False
            )
        except SlackApiError as error:
            answer = error.response
            reason = f"HTTP {answer.status_code}: {answer.get('error')}"
            raise NotTakenError(
                reason, parse_retry_after(answer.headers.get("Retry-After"))
            ) from None
        return ""

    return send


def _email(addresses: list[str], environment: Environment) -> Send:
    """Return a sender over a connection with verified certificate; `off` is for loopback only."""
    host, sender = _needed(environment, "SMTP_HOST"), _needed(environment, "SMTP_SENDER")
    tls = environment.get("SMTP_TLS") or "starttls"
    if tls not in _PORTS or (tls == "off" and not is_loopback(host)):
        raise ValueError(f"SMTP_TLS cannot be {tls!r} for {host}: use starttls or implicit")
    if not sender.isprintable() or "@" not in sender:
        raise ValueError(f"SMTP_SENDER cannot be {sender!r}: give an address")
    port, domain = int(environment.get("SMTP_PORT") or _PORTS[tls]), sender.rpartition("@")[2]

    def send(message: Message) -> str:
        mail = EmailMessage()
        mail["Subject"], mail["From"] = message.headline[:_MAX_SUBJECT], sender
        mail["To"], mail["Date"] = ", ".join(addresses), localtime()
        mail["Message-ID"], mail["Auto-Submitted"] = f"<{message.id}@{domain}>", "auto-generated"
        mail.set_content("\n\n".join(message.lines))
        context = ssl.create_default_context()
        implicit = partial(smtplib.SMTP_SSL, context=context)
        connect = implicit if tls == "implicit" else smtplib.SMTP
        try:
            with connect(host, port, local_hostname=domain, timeout=TIMEOUT_SECONDS) as server:
                if tls == "starttls":
                    server.starttls(context=context)
                if user := environment.get("SMTP_USERNAME"):
                    server.login(user, environment.get("SMTP_PASSWORD", ""))
                refused = server.send_message(mail)
        except smtplib.SMTPAuthenticationError as error:  # a server may repeat what it refuses
            raise NotTakenError(f"the login was refused with code {error.smtp_code}") from None
        return f"the server refused {', '.join(refused)}" if refused else ""

    return send


def _webhook(url: str, environment: Environment) -> Send:
    keys = signing_keys(_needed(environment, "RETRAIN_WEBHOOK_SECRET"))
    hosts = _needed(environment, "RETRAIN_WEBHOOK_HOSTS").replace(",", " ").split()
    if (host := urlsplit(url).hostname) not in hosts:
        raise ValueError(f"{host} is not among RETRAIN_WEBHOOK_HOSTS")
    return partial(post, url, keys)


def _needed(environment: Environment, name: str) -> str:
    if not environment.get(name):
        raise ValueError(f"{name} is not set")
    return environment[name]


def _send_masked(send: Send, environment: Environment, message: Message) -> str:
    """Send a message, and mask credentials in the answer."""
    try:
        return _without_secrets(send(message), environment)
    except NotTakenError as error:
        raise NotTakenError(_without_secrets(str(error), environment), error.wait) from None
    except Exception as error:  # noqa: BLE001 whatever one channel does, the others go on
        reason = f"{type(error).__name__}: {error}"
        raise NotTakenError(_without_secrets(reason, environment)) from None


def _without_secrets(text: str, environment: Environment) -> str:
    values = ((name, environment.get(name, "")) for name in SECRETS)
    secrets = {part: f"({name})" for name, value in values for part in (value, *value.split())}
    return to_line(mask(text, secrets))


TIMEOUT_SECONDS = 10  # of one step, such as connecting
_SHORTEST_KEY = 24  # bytes, as the specification asks for
_LONGEST_WAIT_SECONDS = 86_400.0


def signing_keys(secret: str) -> list[bytes]:
    """Return the keys of a secret, `whsec_…`; several with spaces between while one is replaced.

    Raises:
        ValueError: It is no key.
    """
    try:
        keys = [b64decode(key.removeprefix("whsec_"), validate=True) for key in secret.split()]
    except binascii.Error:
        keys = []
    if min(map(len, keys), default=0) < _SHORTEST_KEY:
        raise ValueError(
            "RETRAIN_WEBHOOK_SECRET is not a key: write whsec_ and then 24 random bytes as base64"
        )
    return keys


def post(url: str, keys: Sequence[bytes], message: Message) -> str:
    """Post a message: its newest event, and how often it happened.

    Args:
        url: The receiver.
        keys: Each signs.
        message: Its id is the header `webhook-id` of each attempt.

    Raises:
        NotTakenError: The host leads where it must not, or does not answer with success.
        OSError: It cannot be reached; or HTTPException: it does not speak HTTP.
    """
    parts, event = urlsplit(url), message.events[-1]
    host = parts.hostname or ""
    data: dict[str, object] = {"subject": event.subject, "id": event.id, "text": event.text}
    data |= {"count": len(message.events), **json.loads(event.fields)}
    event_time = event.time and event.time.isoformat()
    body = write_json({"type": event.kind, "timestamp": event_time, "data": data}).encode()
    tls = partial(HTTPSConnection, context=ssl.create_default_context())
    connect = tls if parts.scheme == "https" else HTTPConnection
    with closing(connect(host, parts.port, timeout=TIMEOUT_SECONDS)) as to:
        to.connect()
        _check(host, to.sock.getpeername()[0])
        path = (parts.path or "/") + (parts.query and f"?{parts.query}")
        to.request("POST", path, body, _headers(message.id, body, keys))
        answer = to.getresponse()
        if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            raise NotTakenError(
                f"HTTP {answer.status}", parse_retry_after(answer.getheader("Retry-After"))
            )
    return ""


def parse_retry_after(retry_after: str | None) -> float | None:
    """Return for how long a server asks not to be called, at most a day; None if it does not."""
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
    """Refuse a name that leads to this machine, or to a cloud's metadata, where no receiver is.

    The address is that of the open connection, so that the name cannot lead elsewhere afterwards.

    Raises:
        NotTakenError: It leads there.
    """
    ip = ip_address(address)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    wrong = ip.is_link_local or ip.is_multicast or ip.is_unspecified
    if wrong or (ip.is_loopback and not is_loopback(host)):
        raise NotTakenError(
            f"{host} leads to {address}, an address of this machine or of its direct network, to "
            "which no message is sent: name a host elsewhere, or localhost for this machine"
        )


ATTEMPTS = 10
_TEXTS = ("id", "kind", "subject", "text", "cause", "fields", "channel", "message", "error")
SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys((PARTITION, *_TEXTS), pl.String()),
    **dict.fromkeys(("time", "since", "sent"), pl.Datetime("us", "UTC")),
    "attempts": pl.Int64(),
    "wait": pl.Float64(),
}


@dataclass(frozen=True)
class Outbox:
    """The outbox of one model or dataset, named by `subject`."""

    tables: Tables
    subject: str

    def read(self) -> list[Notice]:
        """Return all notices, oldest first."""
        return self._read(self.tables.version(self._table))

    def change(self, make: Callable[[Sequence[Notice]], list[Notice]]) -> list[Notice]:
        """Replace the notices by those that a function returns; equal ones are not written.

        Args:
            make: The function, called again if another process has changed them meanwhile.

        Returns:
            The notices in the outbox afterwards.

        Raises:
            StorageError: The table cannot be read or written, or others were faster each time.
        """
        for _ in range(ATTEMPTS):
            base = self.tables.version(self._table)
            notices = self._read(base)
            changed = make(notices)
            if changed == notices:
                return changed
            records = [
                asdict(notice) | {PARTITION: self.subject, "sent": notice.sent_at}
                for notice in changed
            ]
            rows = pl.DataFrame(records, schema=SCHEMA)
            with suppress(StaleTableError):
                self.tables.replace(self._table, rows, [self.subject], {}, base=base)
                return changed
        raise StaleTableError(f"table {self._table}: others changed it {ATTEMPTS} times")

    @property
    def _table(self) -> str:
        return f"{self.subject}/outbox"

    def _read(self, version: int | None) -> list[Notice]:
        if version is None:
            return []
        scan = self.tables.scan(self._table, version=version).drop(PARTITION)
        rows = self.tables.collect(scan.rename({"sent": "sent_at"}), self._table, version)
        return [Notice(**record) for record in rows.iter_rows(named=True)]
