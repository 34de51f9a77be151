"""All definitions of one dataset, and of one model.

Not here: where specs come from.
"""

import dagster as dg

from retrain_assets.orchestration.assets.dataset import dataset_assets, landing_asset
from retrain_assets.orchestration.assets.decision import currency_check, decision_assets
from retrain_assets.orchestration.assets.monitoring import Model, monitor_assets
from retrain_assets.orchestration.assets.upkeep import replay_asset, storage_asset, vacuum_schedule
from retrain_assets.orchestration.jobs import (
    ingest_job,
    monitor_job,
    operation_jobs,
    replay_job,
    retrain_job,
)
from retrain_assets.orchestration.messages import messages_sensors, of_dataset, of_model
from retrain_assets.orchestration.resources import RESOURCES
from retrain_assets.orchestration.sensors import (
    data_ready_sensor,
    new_data_sensor,
    policy_schedule,
    retrain_wanted_sensor,
)
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
