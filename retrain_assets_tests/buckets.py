"""Object stores to land in: moto's S3 over HTTP on loopback, and one that answers as it is told."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from retrain_assets_tests.servers import running

KEY_ID, SECRET = "AKIACANARYCANARYCANA", "canary/secret+key"
ACCOUNT = "123456789012"


@dataclass
class Bucket:
    """A bucket of an S3 that is there, until it is stopped."""

    name: str
    url: str
    server: ThreadedMotoServer

    @property
    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1")

    def put(self, path: str, content: bytes = b"x") -> None:
        self.client.put_object(Bucket=self.name, Key=path, Body=content)

    def put_many(self, paths: Iterator[str]) -> None:
        """Put objects without a request for each."""
        for path in paths:
            s3_backends[ACCOUNT]["aws"].put_object(self.name, path, b"x")


@contextmanager
def bucket(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An S3 with one bucket, which the environment names."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    point_at(f"http://{host}:{port}", monkeypatch)
    made = Bucket(name, f"http://{host}:{port}", server)
    s3_backends[ACCOUNT]["aws"].reset()
    made.client.create_bucket(Bucket=name)
    try:
        yield made
    finally:
        server.stop()


SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def bucket_apart(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 in a process of its own, as delta-rs keeps Python waiting while it reads a log."""
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        point_at(url, monkeypatch)
        monkeypatch.setenv("AWS_TIMEOUT", "20s")
        boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket=name)
        try:
            yield url
        finally:
            server.kill()


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the clients of all object stores talk to one address."""
    settings = {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_TIMEOUT": "500ms",
        "GOOGLE_BASE_URL": url,
        "GOOGLE_SKIP_SIGNATURE": "true",
        "AZURE_STORAGE_ENDPOINT": url,
        "AZURE_STORAGE_ACCOUNT_NAME": "account",
        "AZURE_STORAGE_ACCOUNT_KEY": "Y2FuYXJ5",
    }
    allowed = dict.fromkeys(("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP"), "true")
    for name, value in {**settings, **allowed}.items():
        monkeypatch.setenv(name, value)


@dataclass
class Answers:
    """A store that gives prepared answers, and what it was asked."""

    answer: Callable[[BaseHTTPRequestHandler], None]
    asked: list[str] = field(default_factory=list)


@contextmanager
def answering(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[BaseHTTPRequestHandler], None]
) -> Iterator[Answers]:
    """A server of one's own in place of the stores."""
    answers = Answers(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.asked.append(self.path)
            answer(self)

        def log_message(self, *args: object) -> None:
            pass

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        point_at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        yield answers


def send(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, length: int = 0, **headers: str
) -> None:
    """Answer a request, with a body that may be shorter than it says."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(length or len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


class Relay(BaseHTTPRequestHandler):
    """Hands each request to a store, or fails before or after that has done its work."""

    protocol_version = "HTTP/1.1"
    store = ""

    def fault(self) -> str:
        """A status with its code, such as `503 SlowDown`, or where the connection is cut."""
        return ""

    def handle_one_request(self) -> None:
        self.do_GET = self.do_PUT = self.do_HEAD = self.do_POST = self.do_DELETE = self.hand_on
        super().handle_one_request()

    def hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.fault()
        if kind[:1].isdecimal() or kind == "cut before":
            self.fail(kind)
            return
        parts = urlsplit(self.store)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if kind == "cut after":
            self.fail(kind)
            return
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") or str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        with suppress(ConnectionError):  # of a client that wants no more of it
            self.wfile.write(content[: len(content) // 2] if kind else content)
        self.close_connection = bool(kind)

    def fail(self, kind: str) -> None:
        status, _, code = kind.partition(" ")
        self.close_connection = True
        if status.isdecimal():
            content = f"<Error><Code>{code}</Code>{SECRET}</Error>".encode()
            self.send_response_only(int(status))
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Connection", "close")  # else a client may send its next one here
            self.end_headers()
            self.wfile.write(content if self.command != "HEAD" else b"")

    def log_message(self, *_: object) -> None:
        pass
