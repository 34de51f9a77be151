"""Short names of long things: of texts, and of the code and packages that a model is made with.

Not here: the digests of files, and of a spec.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

import retrain_assets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from retrain_assets.steps.state import ModelState


def code_digest(state: ModelState) -> str:
    """Digest of the code that makes features and models: the platform's and the model's own."""
    own = filter(None, (state.spec.features.python, state.spec.estimator.python))
    modules = [import_module(reference.partition(":")[0]) for reference in own]
    files = sorted((Path(retrain_assets.__file__).parent / "domain").glob("*.py"))
    files += [Path(module.__file__) for module in modules if module.__file__]
    return digest_of({path.name: path.read_text(encoding="utf-8") for path in files})


@cache
def lock_digest() -> str:
    """Digest of the versions of all installed packages."""
    return digest_of(installed())


def installed() -> dict[str, str]:
    """The version of each installed package."""
    return {found.metadata["Name"]: found.version for found in distributions()}


def digest(*parts: str) -> str:
    """A short digest of texts in their order."""
    return sha256("|".join(parts).encode()).hexdigest()[:16]


def digest_of(parts: Mapping[str, str]) -> str:
    """A short digest of named texts."""
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
