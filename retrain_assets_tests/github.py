"""Releases of GitHub on loopback, as its REST API describes them.

Drafts are seen in the list alone, an asset's name is taken once, assets are downloaded from another
place by a redirect, and that place refuses a request that shows the token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from retrain_assets_tests.servers import running

TOKEN = "ghs_secret"
REPOSITORY = "owner/models"


class GitHub(ThreadingHTTPServer):
    """The releases of one repository."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.releases: dict[int, dict[str, Any]] = {}
        self.contents: dict[int, bytes] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.fails_after = 100  # uploads

    def number(self) -> int:
        return len(self.contents) + len(self.releases) + 1000


class _Handler(BaseHTTPRequestHandler):
    server: GitHub

    def _answer(self, status: int, value: object = None, location: str = "") -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body, url = self.rfile.read(length), urlsplit(self.path)
        token = self.headers.get("Authorization")
        if url.path.startswith("/elsewhere/"):
            number = int(url.path.rpartition("/")[2])
            self._answer(400 if token else 200, b"" if token else self.server.contents[number])
            return
        prefix = f"(?:/uploads)?/repos/{REPOSITORY}/releases"
        match = re.fullmatch(rf"{prefix}(?:/(.+))?", url.path)
        if match is None:
            self._answer(404, {"message": "Not Found"})
        elif self.command != "GET" and token != f"Bearer {TOKEN}":
            self._answer(401, {"message": "Bad credentials"})
        else:
            self._release(match[1] or "", body, parse_qs(url.query), visible=token is not None)

    def _release(
        self, place: str, body: bytes, query: dict[str, list[str]], *, visible: bool
    ) -> None:
        releases = self.server.releases
        public = [release for release in releases.values() if not release["draft"]]
        if self.command == "POST" and not place:
            number = self.server.number()
            upload = f"{self.server.url}/uploads/repos/{REPOSITORY}/releases/{number}/assets"
            releases[number] = {"id": number, "assets": [], **json.loads(body)}
            releases[number]["upload_url"] = f"{upload}{{?name,label}}"
            self._answer(201, releases[number])
        elif self.command == "POST":
            self._upload(releases[int(place.partition("/")[0])], query["name"][0], body)
        elif self.command == "PATCH":
            releases[int(place)] |= json.loads(body)
            self._answer(200, releases[int(place)])
        elif self.command == "DELETE":
            del releases[int(place)]
            self._answer(204, b"")
        elif not place:
            size, page = (int(query.get(name, ["30"])[0]) for name in ("per_page", "page"))
            listed = [*reversed(releases.values())] if visible else public[::-1]
            self._answer(200, listed[size * (page - 1) : size * page])
        elif place.startswith("assets/"):
            asset = place.rpartition("/")[2]
            assert self.headers["Accept"] == "application/octet-stream"
            self._answer(302, b"", f"{self.server.url}/elsewhere/{asset}")
        else:
            tag = place.removeprefix("tags/")
            named = [r for r in public if tag in (r["tag_name"], "latest")]
            self._answer(*((200, named[-1]) if named else (404, {"message": "Not Found"})))

    def _upload(self, release: dict[str, Any], name: str, body: bytes) -> None:
        if len(self.server.contents) >= self.server.fails_after:
            self._answer(502, {"message": "Server Error"})
        elif name in [asset["name"] for asset in release["assets"]]:
            self._answer(422, {"message": "Validation Failed"})
        else:
            number = self.server.number()
            self.server.contents[number] = body
            release["assets"].append({"id": number, "name": name, "size": len(body)})
            self._answer(201, release["assets"][-1])

    do_GET = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@contextmanager
def serving_releases() -> Iterator[GitHub]:
    with running(GitHub()) as server:
        yield server
