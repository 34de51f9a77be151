"""Releases: the files of a version outside of the registry, in a folder or on GitHub.

A release has the files of `FILES` and a manifest with their digests. What it holds is never run:
the model is loaded as any stored version is. Not here: what stands in the files, and registering.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrain_assets.stores.registry import github
from retrain_assets.stores.registry.model_check import EXAMPLE_FILE
from retrain_assets.stores.registry.model_file import MODEL_FILE, ModelFileError, digest

MANIFEST = "release.json"
FILES = (MODEL_FILE, EXAMPLE_FILE, "card.html", "contract.json")
_ADDRESS = re.compile(r"github:(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w.-]*))?", re.ASCII)


def is_release(source: str) -> bool:
    """Tell if a source is a release: on GitHub, or a folder with a manifest."""
    return source.startswith("github:") or (Path(source) / MANIFEST).is_file()


def publish(target: str, tag: str, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> str:
    """Store a release at once or not at all; the same model again changes nothing.

    Args:
        target: `github:OWNER/REPO`, or a folder.
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
    if target.startswith("github:"):
        repository, _ = _parse(target)
        github.Releases(repository).publish(tag, content, MODEL_FILE)
        return f"github:{repository}@{tag}"
    folder = Path(target) / tag
    if folder.exists():
        if (folder / MODEL_FILE).read_bytes() != content[MODEL_FILE]:
            raise ValueError(f"{folder} has another model: name another folder")
        return str(folder)
    part = folder.with_name(f".{tag}.part")
    part.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (part / name).write_bytes(data)
    part.rename(folder)
    return str(folder)


def read(source: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files of a release, whose digests are those of its manifest, and the manifest.

    Args:
        source: `github:OWNER/REPO@TAG`, or a folder.

    Raises:
        ModelFileError: A file is missing or was changed.
        GitHubError: GitHub does not give them.
    """
    if source.startswith("github:"):
        repository, tag = _parse(source)
        files = github.Releases(repository).read(tag, {*FILES, MANIFEST})
    else:
        paths = ((name, Path(source) / name) for name in (*FILES, MANIFEST))
        files = {name: path.read_bytes() for name, path in paths if path.is_file()}
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
        raise ValueError(f"{address} is no github:OWNER/REPO or github:OWNER/REPO@TAG")
    return match[1], match[2] or ""
