"""Releases of a repository on GitHub, by its REST API.

`GITHUB_TOKEN` and `GITHUB_API_URL` are those that GitHub sets in its own workflows. Not here: what
the files of a release are.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from http.client import HTTPException
from itertools import count
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

SECONDS = 60
MAX_BYTES = 2**30  # of an answer
PAGE = 100  # the most that GitHub gives at once
JSON, OCTETS = "application/vnd.github+json", "application/octet-stream"


class GitHubError(RuntimeError):
    """GitHub does not answer, or refuses; the message has its reason."""


class Releases:
    """The releases of a repository.

    Args:
        repository: `OWNER/REPO`.
    """

    def __init__(self, repository: str) -> None:
        api = os.environ.get("GITHUB_API_URL", "https://api.github.com").rstrip("/")
        self._url, self._repository = f"{api}/repos/{repository}/releases", repository

    def publish(self, tag: str, files: Mapping[str, bytes], compared: str) -> None:
        """Upload files to a draft and publish it, so that nobody sees a part of them.

        A draft of this tag, which a killed process left behind, is replaced.

        Args:
            tag: The tag of the release.
            files: The assets by name.
            compared: The asset that is equal in a release that is there already.

        Raises:
            GitHubError: Another release has the tag, or GitHub refuses.
        """
        for release in list(self._list()):
            if release["tag_name"] == tag and release["draft"]:
                self._call("DELETE", f"{self._url}/{release['id']}")
            elif release["tag_name"] == tag:
                if self._download(release, compared) == files[compared]:
                    return
                raise GitHubError(f"release {tag} of {self._repository} has another {compared}")
        body = {"tag_name": tag, "name": tag, "draft": True}
        draft = self._json("POST", self._url, json.dumps(body).encode())
        upload = draft["upload_url"].partition("{")[0]
        for name, content in files.items():
            self._call("POST", f"{upload}?name={quote(name)}", content, kind=OCTETS)
        self._json("PATCH", f"{self._url}/{draft['id']}", b'{"draft": false}')

    def read(self, tag: str, names: Iterable[str]) -> dict[str, bytes]:
        """Return those assets of a release that it has.

        Args:
            tag: The tag of the release; the newest if it is empty.
            names: Names of assets.

        Raises:
            GitHubError: There is no such release, or GitHub refuses.
        """
        place = f"tags/{quote(tag)}" if tag else "latest"
        release = self._json("GET", f"{self._url}/{place}")
        stored = {asset["name"] for asset in release["assets"]}
        return {name: self._download(release, name) for name in names if name in stored}

    def _list(self) -> Iterator[dict[str, Any]]:
        """Yield all releases; of drafts, those that the token may see."""
        for page in count(1):
            releases = self._json("GET", f"{self._url}?per_page={PAGE}&page={page}")
            yield from releases
            if len(releases) < PAGE:
                return

    def _download(self, release: Mapping[str, Any], name: str) -> bytes:
        """Return an asset, by its number: no address in an answer is followed but by redirects."""
        numbers = [asset["id"] for asset in release["assets"] if asset["name"] == name]
        if not numbers:
            return b""
        return self._call("GET", f"{self._url}/assets/{int(numbers[0])}", accept=OCTETS)

    def _json(self, method: str, url: str, body: bytes | None = None) -> Any:
        return json.loads(self._call(method, url, body))

    def _call(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        *,
        kind: str = JSON,
        accept: str = JSON,
    ) -> bytes:
        if urlsplit(url).scheme not in ("https", "http"):
            raise GitHubError(
                f"{self._repository}: the address {url} is neither http nor https; "
                "see GITHUB_API_URL"
            )
        headers = {"Accept": accept, "Content-Type": kind, "X-GitHub-Api-Version": "2022-11-28"}
        request = Request(url, body, headers, method=method)  # noqa: S310 checked above
        if token := os.environ.get("GITHUB_TOKEN", ""):
            # Assets are redirected to other hosts, which must not see it.
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        try:
            with urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
                content: bytes = answer.read(MAX_BYTES + 1)
        except HTTPError as error:
            raise GitHubError(f"{self._repository}: {error.code} {_reason(error)}") from error
        except (OSError, HTTPException) as error:
            raise GitHubError(f"{self._repository}: GitHub does not answer: {error}") from error
        if len(content) > MAX_BYTES:
            raise GitHubError(f"{self._repository}: an answer is over {MAX_BYTES:,} bytes")
        return content


def _reason(error: HTTPError) -> str:
    """Return the reason in the body of a refusal, or of the status."""
    try:
        return str(json.loads(error.read(10_000))["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return str(error.reason)
