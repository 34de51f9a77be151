"""Slack, e-mail and webhooks: how a message is sent over each, or why it cannot be.

Servers and credentials come from the environment. Credentials are kept where nothing shows them,
and are taken out of whatever a server has said. Not here: when to send, and when to try again.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import localtime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from retrain_assets.domain.messages import Message, NotTakenError, plain
from retrain_assets.specs.notify import Channel, NotifySpec, is_loopback
from retrain_assets.stores.webhook import TIMEOUT_SECONDS, post, seconds, signing_keys

if TYPE_CHECKING:
    from slack_sdk import WebClient

# Returns a remark, or an empty text; raises NotTakenError and nothing else.
Send = Callable[[Message], str]
Environment = Mapping[str, str]

SECRETS = ("SLACK_BOT_TOKEN", "SMTP_PASSWORD", "RETRAIN_WEBHOOK_SECRET")
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_PORTS = {"starttls": "587", "implicit": "465", "off": "25"}
_MAX_SUBJECT = 150


def senders(
    notify: NotifySpec, environment: Environment, client: Callable[[str], WebClient]
) -> tuple[dict[Channel, Send], list[str]]:
    """The channels of a spec that can be used, and why the others cannot.

    Args:
        notify: The spec.
        environment: Holds servers and credentials.
        client: Makes a client of Slack from a token.
    """
    made: dict[Channel, Callable[[], Send]] = {
        "slack": lambda: _slack(
            notify.slack or "", _needed(environment, "SLACK_BOT_TOKEN"), client
        ),
        "email": lambda: _email(notify.email, environment),
        "webhook": lambda: _webhook(notify.webhook or "", environment),
    }
    found: dict[Channel, Send] = {}
    missing = []
    for channel in notify.channels:
        try:
            found[channel] = partial(_discreetly, made[channel](), environment)
        except ValueError as error:
            missing.append(f"{channel}: {error}")
    return found, missing


def _slack(channel: str, token: str, client: Callable[[str], WebClient]) -> Send:
    """Plain text, escaped: no mention, link or command can be smuggled in."""

    def send(message: Message) -> str:
        from slack_sdk.errors import SlackApiError

        text = "\n".join(message.lines).translate(_ESCAPES)
        try:
            client(token).chat_postMessage(
                channel=channel, text=text, mrkdwn=False, unfurl_links=False
            )
        except SlackApiError as error:
            answer = error.response
            said = f"HTTP {answer.status_code}: {answer.get('error')}"
            raise NotTakenError(said, seconds(answer.headers.get("Retry-After"))) from None
        return ""

    return send


def _email(addresses: list[str], environment: Environment) -> Send:
    """Plain text over a connection whose certificate is verified; `off` is for loopback only."""
    host, sender = _needed(environment, "SMTP_HOST"), _needed(environment, "SMTP_SENDER")
    tls = environment.get("SMTP_TLS") or "starttls"
    if tls not in _PORTS or (tls == "off" and not is_loopback(host)):
        raise ValueError(f"SMTP_TLS cannot be {tls!r} for {host}: use starttls or implicit")
    if not sender.isprintable() or "@" not in sender:
        raise ValueError(f"SMTP_SENDER cannot be {sender!r}: give an address")
    port, domain = int(environment.get("SMTP_PORT") or _PORTS[tls]), sender.rpartition("@")[2]

    @contextmanager
    def connected() -> Iterator[smtplib.SMTP]:
        context = ssl.create_default_context()
        how: dict[str, Any] = {"local_hostname": domain, "timeout": TIMEOUT_SECONDS}
        implicit = partial(smtplib.SMTP_SSL, context=context)
        with (implicit if tls == "implicit" else smtplib.SMTP)(host, port, **how) as server:
            if tls == "starttls":
                server.starttls(context=context)
            if user := environment.get("SMTP_USERNAME"):
                server.login(user, environment.get("SMTP_PASSWORD", ""))
            yield server

    def send(message: Message) -> str:
        mail = EmailMessage()
        mail["Subject"], mail["From"] = message.headline[:_MAX_SUBJECT], sender
        mail["To"], mail["Date"] = ", ".join(addresses), localtime()
        mail["Message-ID"], mail["Auto-Submitted"] = f"<{message.id}@{domain}>", "auto-generated"
        mail.set_content("\n\n".join(message.lines))
        try:
            with connected() as server:
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


def _discreetly(send: Send, environment: Environment, message: Message) -> str:
    """Send, and show no credential in what is said of it."""
    try:
        return _without_secrets(send(message), environment)
    except NotTakenError as error:
        raise NotTakenError(_without_secrets(str(error), environment), error.wait) from None
    except Exception as error:  # noqa: BLE001 whatever one channel does, the others go on
        said = f"{type(error).__name__}: {error}"
        raise NotTakenError(_without_secrets(said, environment)) from None


def _without_secrets(text: str, environment: Environment) -> str:
    for name in SECRETS:
        for secret in environment.get(name, "").split():
            text = text.replace(secret, f"({name})")
    return plain(text)
