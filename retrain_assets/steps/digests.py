"""Short names of long things: of texts, and of the code and packages that a model is made with.

Not here: the digests of files, and of a spec.
"""

import json
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path

from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.modules import code_of, is_of_the_user

# The platform's modules that decide features, fits and predictions, and whatever these import of
# `domain`. Other layers hand on what is decided here, or are part of a candidate's name by their
# results: the spec, and the partitions that it is trained on.
DECIDING = (
    "retrain_assets.domain.reach",  # which partitions of a lookup a row sees
    "retrain_assets.specs.base",  # how long `lag` and `tolerance` are
    "retrain_assets.steps.outliers",
    "retrain_assets.steps.rows",
    "retrain_assets.steps.train",
)
FOLLOWED = "retrain_assets.domain."


def code_digest(spec: ModelSpec) -> str:
    """Return the digest of the code that decides features, fits and predictions of a model.

    Comments and docstrings do not count.
    """
    return digest_of({**code_of(DECIDING, _decides), **_user_code(*_references(spec))})


def user_code_digest(*references: str | None) -> str:
    """Return the digest of the user's code behind each `module:function`; empty without any."""
    code = _user_code(*references)
    return digest_of(code) if code else ""


def recipe_digest(spec: ModelSpec) -> str:
    """Return the digest of what a person decides of a model: its spec, a point, the user's code."""
    code = user_code_digest(*_references(spec))
    return f"{spec.recipe}.{code}" if code else spec.recipe


def _references(spec: ModelSpec) -> tuple[str | None, ...]:
    return spec.features.python, spec.estimator.python, spec.gate.python


def _user_code(*references: str | None) -> dict[str, str]:
    modules = [reference.partition(":")[0] for reference in references if reference]
    return code_of(modules, is_of_the_user)


def _decides(name: str, _: Path) -> bool:
    return name in DECIDING or name.startswith(FOLLOWED)


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
