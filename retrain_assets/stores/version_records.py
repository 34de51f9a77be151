"""What is known of each version of a model, kept beside its files as well as in MLflow.

A record is written once and never replaced, so that whatever registers versions anew where MLflow's
database was lost cannot take the place of what is known of the lost ones. Not here: which versions
there have to be, and aliases (the ledger says both).
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse
from urllib.request import url2pathname

from retrain_assets.stores.model_file import MODEL_FILE, digest
from retrain_assets.stores.model_log import log_run
from retrain_assets.stores.models import DIGEST_TAG, METRICS_TAG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrain_assets.stores.models import ModelRegistry, ModelVersion

RECORDS = "versions"
# A number that no record and no ledger row knows of is taken by such a version for a while.
PLACEHOLDER = {"placeholder": "rebuild"}


@dataclass(frozen=True)
class VersionRecord:
    """One version as it was registered.

    Args:
        version: Its number.
        tags: That it had.
        params: Of the estimator.
        model: Folder of its model, below that of the registered model.
        run: Folder of what else was logged of its fit.
        files: Digests of its files, by path below that of the registered model.
    """

    version: int
    tags: dict[str, str]
    params: dict[str, str]
    model: str
    run: str
    files: dict[str, str]

    @property
    def model_file(self) -> str:
        """Path of the model file."""
        return f"{self.model}/{MODEL_FILE}"


def write_records(registry: ModelRegistry) -> None:
    """Write the record of each version that has none; of one whose model is gone there is none."""
    if not registry.artifact_root:  # kept in memory
        return
    from mlflow.exceptions import MlflowException

    (_folder(registry) / RECORDS).mkdir(parents=True, exist_ok=True)
    for found in registry.versions():
        path = _folder(registry) / RECORDS / f"{found.version}.json"
        if path.exists() or PLACEHOLDER.items() <= found.tags.items():
            continue
        # A model or run that was removed from MLflow, or whose files are kept elsewhere.
        with suppress(MlflowException, ValueError):
            record = _record(registry, found)
            part = path.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps(asdict(record), indent=2), encoding="utf-8")
            part.replace(path)


def read_records(registry: ModelRegistry) -> dict[int, VersionRecord]:
    """All records by version, in order; MLflow is not asked."""
    found = (_folder(registry) / RECORDS).glob("*.json")
    records = [VersionRecord(**json.loads(path.read_text(encoding="utf-8"))) for path in found]
    return {one.version: one for one in sorted(records, key=lambda one: one.version)}


def damage(registry: ModelRegistry, record: VersionRecord, sha256: str) -> Iterator[str]:
    """What of a version's files is missing or not what was recorded.

    Args:
        registry: Of the model.
        record: Of the version.
        sha256: Of its model file, from a place that whoever can write the record cannot write.
    """
    for name, recorded in {**record.files, record.model_file: sha256}.items():
        path = _folder(registry) / name
        found = digest(path.read_bytes()) if path.is_file() else "none, it is missing"
        if found != recorded:
            yield f"version {record.version}: {path} has sha256 {found}, {recorded} was recorded"


def register_again(registry: ModelRegistry, record: VersionRecord) -> int:
    """Log a copy of a version's files to a new run and register it.

    Returns:
        The number that MLflow gave it.
    """
    client, folder = registry.client, _folder(registry)
    experiment = client.get_experiment_by_name(registry.name).experiment_id
    run_id = client.create_run(experiment).info.run_id
    log_run(client, run_id, record.params, json.loads(record.tags[METRICS_TAG]), {}, {})
    if (folder / record.run).is_dir():
        client.log_artifacts(run_id, str(folder / record.run))
    client.set_terminated(run_id)
    model_id = client.create_logged_model(experiment, "model", source_run_id=run_id).model_id
    client.log_model_artifacts(model_id, str(folder / record.model))
    client.finalize_logged_model(model_id, "READY")
    given = registry.name, f"models:/{model_id}", run_id, record.tags
    return int(client.create_model_version(*given, model_id=model_id).version)


def hold_place(registry: ModelRegistry) -> int:
    """Register a version of nothing; `free_places` removes it."""
    nothing = str(_folder(registry))
    created = registry.client.create_model_version(registry.name, nothing, tags=PLACEHOLDER)
    return int(created.version)


def free_places(registry: ModelRegistry) -> None:
    """Remove the versions of nothing; their numbers are not given again."""
    for found in registry.versions():
        if PLACEHOLDER.items() <= found.tags.items():
            registry.client.delete_model_version(registry.name, str(found.version))


def _record(registry: ModelRegistry, found: ModelVersion) -> VersionRecord:
    """The record of a version.

    Raises:
        ValueError: Its files are not below the folder of the registered model.
    """
    client, folder = registry.client, _folder(registry)
    run = client.get_run(found.run_id)
    logged = client.get_logged_model(found.uri.rpartition("/")[2])
    model, rest = _path(logged.artifact_location), _path(run.info.artifact_uri)
    # Of the run only what `reproduce` reads is sure to stay: a refit logs to the same run.
    files = [path for path in (*model.rglob("*"), *rest.glob("*.json")) if path.is_file()]
    where = model.relative_to(folder).as_posix(), rest.relative_to(folder).as_posix()
    digests = {path.relative_to(folder).as_posix(): digest(path.read_bytes()) for path in files}
    # What was logged counts, though the file were changed since.
    digests[f"{where[0]}/{MODEL_FILE}"] = found.tags[DIGEST_TAG]
    return VersionRecord(found.version, found.tags, run.data.params, *where, digests)


def _folder(registry: ModelRegistry) -> Path:
    return Path(registry.artifact_root, registry.name)


def _path(uri: str) -> Path:
    return Path(url2pathname(urlparse(uri).path))
