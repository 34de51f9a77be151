"""Servers on loopback that messages are sent to, Slack, webhooks, mail, that speak as real ones."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from retrain_assets_tests.servers import running
from retrain_assets_tests.system.processes import free_port


@dataclass(frozen=True)
class Posted:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        if self.headers["content-type"].startswith("application/json"):
            return dict(json.loads(self.body))
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}


class Web(ThreadingHTTPServer):
    """Takes what is posted, and answers as it is told to."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posted: list[Posted] = []
        self.status, self.headers = 200, dict[str, str]()
        self.body = b'{"ok": true}'
        self.hangs, self.over = False, threading.Event()
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.server_port}/hook"

    def handle_error(self, *_: object) -> None:
        """A client that breaks off is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.posted.append(Posted(self.path, headers, body))
        if self.server.hangs:
            self.server.over.wait()
            return
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def web(tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    with running(Web(tls)) as server:
        try:
            yield server
        finally:
            server.over.set()


@dataclass(frozen=True)
class Delivered:
    """One mail, and how it came."""

    mail: EmailMessage
    to: list[str]
    encrypted: bool
    user: str | None


class Mail:
    """A mail server: keeps what is delivered, refuses what it is told to."""

    def __init__(self) -> None:
        self.delivered: list[Delivered] = []
        self.answer = "250 OK"
        self.unknown: set[str] = set()
        self.port = free_port()

    async def handle_RCPT(  # noqa: N802 as aiosmtpd calls it
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _: list[str]
    ) -> str:
        if address in self.unknown:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 as aiosmtpd calls it
        self, _: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if self.answer.startswith("250"):
            mail = message_from_bytes(envelope.content or b"", policy=default)
            assert isinstance(mail, EmailMessage)
            user = session.auth_data.decode() if session.auth_data else None
            encrypted = session.ssl is not None
            self.delivered.append(Delivered(mail, envelope.rcpt_tos, encrypted, user))
        return self.answer


@contextmanager
def mail_server(
    tls: ssl.SSLContext | None = None, *, implicit: bool = False, password: str = ""
) -> Iterator[Mail]:
    """A mail server with STARTTLS (which it then insists on), implicit TLS, or neither."""
    mail = Mail()

    def authenticate(
        server: SMTP, session: Session, envelope: Envelope, kind: str, data: Any
    ) -> Any:
        if data.password.decode() == password:
            return AuthResult(success=True, auth_data=data.login)
        return AuthResult(success=False, handled=False, message=f"535 no {data.password.decode()}")

    how: dict[str, Any] = {"ssl_context": tls} if implicit else {"tls_context": tls}
    if tls and not implicit:
        how["require_starttls"] = True
    if password:
        how |= {"authenticator": authenticate, "auth_required": True}
        how["auth_require_tls"] = not implicit
    controller = Controller(mail, hostname="127.0.0.1", port=mail.port, **how)
    controller.start()
    try:
        yield mail
    finally:
        controller.stop()


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that connections are taken at and nothing is ever said; its number."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def certificate(folder: Path, *names: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate that vouches for itself: its file for clients to trust, and a server's side."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    others = [
        x509.IPAddress(ip_address(text)) if text[0].isdigit() else x509.DNSName(text)
        for text in names
    ]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(others), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, private = folder / "certificate.pem", folder / "key.pem"
    trusted.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, private)
    return trusted, context
