"""All definitions of one dataset, and of one model.

Not here: where specs come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from retrain_assets.orchestration.dataset_assets import dataset_assets, landing_asset
from retrain_assets.orchestration.decision_assets import currency_check, decision_assets
from retrain_assets.orchestration.jobs import ingest_job, monitor_job, replay_job, retrain_job
from retrain_assets.orchestration.messages import messages_sensors, of_dataset, of_model
from retrain_assets.orchestration.model_assets import monitor_assets
from retrain_assets.orchestration.new_data import new_data_sensor
from retrain_assets.orchestration.operations import operation_jobs
from retrain_assets.orchestration.replay_asset import replay_asset
from retrain_assets.orchestration.resources import RESOURCES
from retrain_assets.orchestration.sensors import (
    data_ready_sensor,
    policy_schedule,
    retrain_wanted_sensor,
)
from retrain_assets.orchestration.storage_asset import storage_asset, vacuum_schedule

if TYPE_CHECKING:
    from retrain_assets.orchestration.model_assets import Model
    from retrain_assets.specs.dataset import DatasetSpec


def dataset_definitions(spec: DatasetSpec) -> dg.Definitions:
    """Assets, checks, job and sensor of a dataset."""
    job = ingest_job(spec)
    return dg.Definitions(
        assets=[landing_asset(spec), dataset_assets(spec)],
        jobs=[job],
        sensors=[new_data_sensor(spec, job), *messages_sensors(of_dataset(spec))],
        resources=RESOURCES,
    )


def model_definitions(model: Model) -> dg.Definitions:
    """Assets, checks, jobs, sensors and schedule of a model."""
    monitor, retrain = monitor_job(model), retrain_job(model)
    schedules = filter(None, (policy_schedule(model, retrain), vacuum_schedule(model)))
    return dg.Definitions(
        assets=[
            *monitor_assets(model),
            *decision_assets(model),
            replay_asset(model),
            storage_asset(model),
        ],
        asset_checks=[currency_check(model)],
        jobs=[monitor, retrain, replay_job(model), *operation_jobs(model)],
        sensors=[
            data_ready_sensor(model, monitor),
            retrain_wanted_sensor(model, retrain),
            *messages_sensors(of_model(model)),
        ],
        schedules=list(schedules),
        resources=RESOURCES,
    )
