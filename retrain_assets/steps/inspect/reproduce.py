"""Build a registered version again from what was recorded on it, and compare.

The features are read at the version of their table that it was fitted on, the spec is the one that
was logged. Not here: making the features again from the datasets.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from retrain_assets.domain.model.estimator import predict
from retrain_assets.specs.features import Kind
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.decision import train
from retrain_assets.steps.decision.adopt import ADOPTED
from retrain_assets.steps.decision.train import PACKAGES_FILE, SEARCH_FILE, SPEC_FILE, sample
from retrain_assets.steps.state import ModelState, code_digest, lock_digest
from retrain_assets.stores.checkout import checkout, installed
from retrain_assets.stores.registry.model_file import content_digest
from retrain_assets.stores.registry.registry import ModelVersion

MOST = 10  # packages that are listed by name


class NotRecordedError(ValueError):
    """A version lacks what is needed to build it again; the message names it."""


@dataclass(frozen=True)
class Reproduction:
    """The result of building a version again.

    Args:
        identical: Training rows, model and every prediction are equal bit for bit.
        differences: A sentence for each difference, and for what would match.
    """

    identical: bool
    differences: tuple[str, ...]


def reproduce(state: ModelState, number: int) -> Reproduction:
    """Build a version again and compare it with the one that is stored.

    Raises:
        RegistryError: There is no such version.
        NotRecordedError: It was adopted or registered before its rows were recorded, or its run
            is gone.
        ModelFileError: Its file was changed.
        StorageError: The features it was fitted on are damaged.
    """
    version = state.registry.version(number)
    tags, name = version.tags, f"model {version.name} version {number}"
    if ADOPTED in tags:
        raise NotRecordedError(
            f"{name} was adopted from {tags[ADOPTED]} and not made here: only its owner can build "
            "it again"
        )
    spec = state.registry.text(version, SPEC_FILE)
    if not spec or "rows_sha256" not in tags:
        raise NotRecordedError(
            f"{name}: its YAML or the digest of its rows was not recorded, so nothing can be "
            "compared: versions trained from now on have both"
        )
    import skops.io

    past = replace(state, spec=_read_spec(state, version, spec))
    keys, features_version = tuple(json.loads(tags["trained_on"])), int(tags["features_version"])
    rows = sample(past, keys, fitting=True, version=features_version)
    rebuilt = train.fit_model(past, keys, features_version).pipeline
    row = next((r for r in state.ledger.read().rows if r.version == number), None)
    stored = state.registry.load(number, row.sha256 if row else version.sha256)
    differences = list(_compare_data(tags, past.spec.target.kind, rows, rebuilt, stored))
    if content_digest(skops.io.dumps(rebuilt)) != state.registry.content(version):
        differences.append("model: the fitted objects differ from those that are stored")
    changes = _list_changes(state, version)
    return Reproduction(not differences, (*differences, *changes))


def _read_spec(state: ModelState, version: ModelVersion, text: str) -> ModelSpec:
    """Return the spec of a version, with as many settings as its search tried in its time."""
    spec = train.read_spec(state, text)
    search = spec.estimator.search
    if search is None or search.minutes is None:
        return spec
    count = len(state.registry.text(version, SEARCH_FILE).splitlines()) - 1
    search = search.model_copy(update={"minutes": None, "budget": count})
    estimator = spec.estimator.model_copy(update={"search": search})
    return spec.model_copy(update={"estimator": estimator})


def _compare_data(
    tags: Mapping[str, str], kind: Kind, rows: train.Sample, *pipelines: train.Model
) -> Iterator[str]:
    """Yield what differs in the training rows, and in the predictions for them."""
    if rows.sha256 != tags["rows_sha256"]:
        yield f"training rows: sha256 {rows.sha256}, {tags['rows_sha256']} was recorded"
    ours, theirs = (predict(pipeline, kind, rows.features) for pipeline in pipelines)
    if ours.shape != theirs.shape:
        yield f"predictions: of shape {ours.shape}, {theirs.shape} was stored"
    elif ours.tobytes() != theirs.tobytes():
        furthest = float(np.abs(ours - theirs).max()) if ours.dtype.kind == "f" else float("nan")
        count = int((ours != theirs).sum())
        yield f"predictions: {count} of {ours.size} differ, by up to {furthest:g}"


def _list_changes(state: ModelState, version: ModelVersion) -> Iterator[str]:
    """Yield what of code, spec and packages has changed since, and what would match."""
    tags = version.tags
    if code_digest(state.spec) != tags["code_digest"]:
        commit = tags.get("checkout") or "no commit was recorded"
        yield f"code: changed since; then: {commit}; now: {checkout() or 'no checkout'}"
    if state.spec.recipe != tags["spec_digest"].partition(".")[0]:
        yield f"YAML: changed since; that of then was used, {SPEC_FILE} of its MLflow run"
    if lock_digest() != tags["lock_digest"]:
        past, present = json.loads(state.registry.text(version, PACKAGES_FILE) or "{}"), installed()
        names = [name for name in sorted({*past, *present}) if past.get(name) != present.get(name)]
        changes = [f"{name} {past.get(name)}, now {present.get(name)}" for name in names[:MOST]]
        if len(names) > MOST:
            changes[-1] += f" and {len(names) - MOST} more"
        yield f"packages: {'; '.join(changes)}; all of then: {PACKAGES_FILE} of its MLflow run"
