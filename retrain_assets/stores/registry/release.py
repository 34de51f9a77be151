"""Releases: the files of a version outside of the registry, in a folder, a store or on GitHub.

A release has the files of `FILES` and, written last, a manifest with their digests, which may be
signed. What it holds is never run: the model is loaded as any stored version is. Not here: what
stands in the files, and registering.
"""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from retrain_assets.stores.place import place_at
from retrain_assets.stores.registry import github, signature
from retrain_assets.stores.registry.model_check import EXAMPLE_FILE
from retrain_assets.stores.registry.model_file import MODEL_FILE, ModelFileError, digest

MANIFEST, SIGNATURE = "release.json", "release.json.sig"
FILES = (MODEL_FILE, EXAMPLE_FILE, "card.html", "contract.json")
_ADDRESS = re.compile(r"github:(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w.-]*))?", re.ASCII)


def is_release(source: str) -> bool:
    """Tell if a source is a release: on GitHub, or a place with a manifest."""
    return source.startswith("github:") or place_at(source).find(MANIFEST) is not None


def publish(target: str, tag: str, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> str:
    """Store a release at once or not at all; the same model again changes nothing.

    Args:
        target: `github:OWNER/REPO`, a folder, or a URI such as `s3://bucket/folder`.
        tag: Name of the release.
        files: The files of `FILES`.
        facts: What the manifest says beside their digests.

    Returns:
        The source from which `read` reads it.

    Raises:
        ValueError: A release of this name has another model, or the address is none.
        GitHubError: GitHub refuses it.
    """
    digests = {name: digest(content) for name, content in files.items()}
    text = json.dumps({**facts, "files": digests}, indent=2, default=str)
    content = {**files, MANIFEST: text.encode()}
    if key := os.environ.get(signature.PRIVATE):
        content[SIGNATURE] = signature.sign(content[MANIFEST], key)
    if target.startswith("github:"):
        repository, _ = _parse(target)
        github.Releases(repository).publish(tag, content, MODEL_FILE)
        return f"github:{repository}@{tag}"
    place = place_at(target) / tag
    if place.find(MANIFEST) is None:
        for name in sorted(content, key=lambda name: name == MANIFEST):
            place.write(name, content[name])
    elif place.read(MODEL_FILE) != content[MODEL_FILE]:
        raise ValueError(f"{place} has another model: name another folder")
    return str(place)


def read(source: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files of a release, whose digests are those of its manifest, and the manifest.

    Args:
        source: `github:OWNER/REPO@TAG`, a folder or a URI.

    Raises:
        ModelFileError: A file is missing or was changed, or none that is trusted has signed it.
        GitHubError: GitHub does not give them.
    """
    names = (*FILES, MANIFEST, SIGNATURE)
    if source.startswith("github:"):
        repository, tag = _parse(source)
        files = github.Releases(repository).read(tag, names)
    else:
        place = place_at(source)
        files = {name: place.read(name) for name in names if place.find(name)}
    signed = files.pop(SIGNATURE, b"")
    if trusted := os.environ.get(signature.TRUSTED):
        signature.verify(files.get(MANIFEST, b""), signed, trusted, source)
    try:
        manifest = json.loads(files.pop(MANIFEST))
        digests = {name: str(manifest["files"][name]) for name in FILES}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{source} has no {MANIFEST} that names its files") from error
    for name in FILES:
        if digest(files.get(name, b"")) != digests[name]:
            raise ModelFileError(
                f"{source}: {name} is missing or not what was released: release the version again"
            )
    return files, manifest


def _parse(address: str) -> tuple[str, str]:
    """Return repository and tag of an address on GitHub; the tag may be empty."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"{address} is not written as github:OWNER/REPO or github:OWNER/REPO@TAG")
    return match[1], match[2] or ""
