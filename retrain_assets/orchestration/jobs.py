"""Jobs by name, for sensors, backfills and the UI: ingest, monitor, retrain, roll back.

Not here: what the assets and steps do.
"""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)

from retrain_assets.orchestration.model_assets import Model
from retrain_assets.orchestration.resources import SlackNotifications, StorageResource
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.decide import roll_back

DATASET_TAG, MODEL_TAG = "retrain/dataset", "retrain/model"
MONITORED = ("features", "profile", "predictions", "monitoring")
DECIDED = ("candidate_model", "evaluation", "production_model")


def ingest_job(spec: DatasetSpec) -> UnresolvedAssetJobDefinition:
    """`<d>_ingest`: landing files to dataset and quarantine, one run over a range."""
    return dg.define_asset_job(
        f"{spec.name}_ingest",
        selection=dg.AssetSelection.assets([spec.name, "dataset"], [spec.name, "quarantine"]),
        description=f"Take in what has landed of {spec.name}.",
        tags={DATASET_TAG: spec.name},
    )


def monitor_job(model: Model) -> UnresolvedAssetJobDefinition:
    """`<m>_monitor`: features to monitoring, one run over a range."""
    return dg.define_asset_job(
        f"{model.spec.name}_monitor",
        selection=dg.AssetSelection.assets(*(model.key(name) for name in MONITORED)),
        description="Build features, summarise, predict and watch.",
        tags={MODEL_TAG: model.spec.name},
    )


def retrain_job(model: Model) -> UnresolvedAssetJobDefinition:
    """`<m>_retrain`: candidate, evaluation, decision."""
    return dg.define_asset_job(
        f"{model.spec.name}_retrain",
        selection=dg.AssetSelection.assets(*(model.key(name) for name in DECIDED)),
        description="Train a candidate, compare it with production, promote it if it is better.",
        tags={MODEL_TAG: model.spec.name},
    )


def rollback_job(model: Model) -> dg.JobDefinition:
    """`<m>_rollback`: an earlier version back into production."""

    class Rollback(dg.Config):
        reason: str
        to: int | None = None
        by: str = "a person"

    @dg.op(name=f"{model.spec.name}_roll_back")
    def _roll_back(
        context: dg.OpExecutionContext,
        config: Rollback,
        storage: StorageResource,
        slack: SlackNotifications,
    ) -> None:
        opened = storage.open()
        state, registry = model.state(opened), opened.registry(model.spec.name)
        row = roll_back(state, registry, config.to, config.reason, config.by)
        context.log_event(
            dg.AssetMaterialization(
                model.key("production_model"),
                metadata={"action": row.action, "version": row.version, "reason": row.reason},
            )
        )
        said = f"{model.spec.name}: rolled back to version {row.version}. {row.reason}"
        slack.notifier(context.log).tell(model.spec.notify.slack, said)

    @dg.job(
        name=f"{model.spec.name}_rollback",
        description="Put an earlier version back.",
        tags={MODEL_TAG: model.spec.name},
    )
    def _job() -> None:
        _roll_back()

    return _job
