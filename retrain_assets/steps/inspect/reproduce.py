"""Build a registered version again from what was recorded on it, and compare.

The features are read at the version of their table that it was fitted on, the spec is the one that
was logged. Not here: making the features again from the datasets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from retrain_assets.domain.model.estimator import predict
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.decision.adopt import ADOPTED
from retrain_assets.steps.decision.train import PACKAGES_FILE, SPEC_FILE, Sample, fit_model, sample
from retrain_assets.steps.state import ModelState, code_digest, installed, lock_digest
from retrain_assets.stores.checkout import checkout
from retrain_assets.stores.registry.model_file import content_digest
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

SHOWN = 10


class NotRecordedError(ValueError):
    """A version lacks what is needed to build it again; the message names it."""


@dataclass(frozen=True)
class Reproduction:
    """What came of building a version again.

    Args:
        identical: Training rows, model and every prediction are equal bit for bit.
        differences: What differs, and what would match.
    """

    identical: bool
    differences: tuple[str, ...]


def reproduce(state: ModelState, registry: ModelRegistry, number: int) -> Reproduction:
    """Build a version again and hold it against the one that is stored.

    Raises:
        RegistryError: There is no such version.
        NotRecordedError: It was adopted or registered before its rows were recorded, or its run
            is gone.
        ModelFileError: Its file was changed.
        StorageError: The features it was fitted on are damaged.
    """
    found = registry.version(number)
    if ADOPTED in found.tags:
        raise NotRecordedError(
            f"model {found.name} version {number} was adopted from {found.tags[ADOPTED]} and not "
            "made here: only its owner can build it again"
        )
    spec = registry.text(found, SPEC_FILE)
    if not spec or "rows_sha256" not in found.tags:
        raise NotRecordedError(
            f"model {found.name} version {number}: its spec or the digest of its rows was not "
            "recorded, so nothing can be compared: versions trained from now on have both"
        )
    then = replace(state, spec=ModelSpec.model_validate_json(spec))
    keys, made = tuple(json.loads(found.tags["trained_on"])), int(found.tags["features_version"])
    rows = sample(then, keys, fitting=True, version=made)
    again = fit_model(then, keys, made)
    row = next((r for r in state.ledger.read().rows if r.version == number), None)
    stored = registry.load(number, row.sha256 if row else found.sha256)
    unequal = list(_unequal(found, rows, again.pipeline, stored, registry.content(found), spec))
    return Reproduction(not unequal, (*unequal, *_changed(state, registry, found)))


def _unequal(
    found: ModelVersion,
    rows: Sample,
    again: Pipeline,
    stored: Pipeline,
    content: str,
    spec: str,
) -> Iterator[str]:
    import skops.io

    kind = ModelSpec.model_validate_json(spec).target.kind
    if rows.sha256 != found.tags["rows_sha256"]:
        yield f"training rows: sha256 {rows.sha256}, {found.tags['rows_sha256']} was recorded"
    ours, theirs = (predict(pipeline, kind, rows.features) for pipeline in (again, stored))
    if ours.shape != theirs.shape:
        yield f"predictions: of shape {ours.shape}, {theirs.shape} was stored"
    elif ours.tobytes() != theirs.tobytes():
        furthest = float(np.abs(ours - theirs).max()) if ours.dtype.kind == "f" else float("nan")
        count = int((ours != theirs).sum())
        yield f"predictions: {count} of {ours.size} differ, by up to {furthest:g}"
    if content_digest(skops.io.dumps(again)) != content:
        yield "model: the fitted objects differ from those that are stored"


def _changed(state: ModelState, registry: ModelRegistry, found: ModelVersion) -> Iterator[str]:
    """What of code, spec and packages is not as it was then, and what would match."""
    then, now = found.tags, checkout()
    if code_digest(state.spec) != then["code_digest"]:
        commit = then.get("checkout") or "no commit was recorded"
        yield f"code: changed since; then: {commit}; now: {now or 'no checkout'}"
    if state.spec.recipe != then["spec_digest"].partition(".")[0]:
        yield f"spec: changed since; that of then was used, {SPEC_FILE} of its MLflow run"
    if lock_digest() != then["lock_digest"]:
        were = json.loads(registry.text(found, PACKAGES_FILE) or "{}")
        are = installed()
        other = [name for name in sorted({*were, *are}) if were.get(name) != are.get(name)]
        told = [f"{name} {were.get(name)}, now {are.get(name)}" for name in other[:SHOWN]]
        more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
        yield f"packages: {'; '.join(told)}{more}; all of then: {PACKAGES_FILE} of its MLflow run"
