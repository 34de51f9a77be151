"""Jobs by name, for sensors, backfills and the UI: ingest, monitor, retrain, replay.

Not here: what the assets and steps do.
"""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)

from retrain_assets.orchestration.metadata import DATASET_TAG, MODEL_TAG
from retrain_assets.orchestration.model_assets import Model
from retrain_assets.orchestration.requests import tag_permanent_error
from retrain_assets.specs.dataset import DatasetSpec

WORK = {"retrain/work": "yes"}  # dagster.yaml keeps a run free of these
MONITORED = ("features", "profile", "predictions", "monitoring")
CURRENCY = "trained_on_current_data"
DECIDED = ("candidate_model", "evaluation", "production_model")


def ingest_job(spec: DatasetSpec) -> UnresolvedAssetJobDefinition:
    """`<d>_ingest`: landing files to dataset and quarantine, one run over a range."""
    return dg.define_asset_job(
        f"{spec.name}_ingest",
        selection=dg.AssetSelection.assets([spec.name, "dataset"], [spec.name, "quarantine"]),
        description=f"Take in what has landed of {spec.name}.",
        tags={DATASET_TAG: spec.name, **WORK},
        hooks={tag_permanent_error},
    )


def monitor_job(model: Model) -> UnresolvedAssetJobDefinition:
    """`<m>_monitor`: features to monitoring, one run over a range."""
    current = dg.AssetCheckKey(model.key("production_model"), CURRENCY)
    return _job(
        model,
        "monitor",
        _assets(model, *MONITORED) | dg.AssetSelection.checks(current),
        "Build features, summarise, predict and watch.",
    )


def replay_job(model: Model) -> UnresolvedAssetJobDefinition:
    """`<m>_replay`: other policies over stored history."""
    text = "Play other policies over stored history, and change nothing."
    return _job(model, "replay", _assets(model, "replay"), text)


def retrain_job(model: Model) -> UnresolvedAssetJobDefinition:
    """`<m>_retrain`: candidate, evaluation, decision."""
    text = "Train a candidate, compare it with production, promote it if it is better."
    return _job(model, "retrain", _assets(model, *DECIDED), text)


def _assets(model: Model, *names: str) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(model.key(name) for name in names))


def _job(
    model: Model, name: str, selection: dg.AssetSelection, text: str
) -> UnresolvedAssetJobDefinition:
    tags = {MODEL_TAG: model.spec.name, **WORK}
    return dg.define_asset_job(
        f"{model.spec.name}_{name}",
        selection,
        description=text,
        tags=tags,
        hooks={tag_permanent_error},
    )
