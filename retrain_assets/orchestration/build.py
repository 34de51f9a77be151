"""All definitions of one dataset, and of one model.

Not here: where specs come from.
"""

from collections.abc import Sequence

import dagster as dg

from retrain_assets.orchestration import jobs, messages, sensors
from retrain_assets.orchestration.assets import dataset, decision, monitoring, segments, upkeep
from retrain_assets.orchestration.resources import RESOURCES
from retrain_assets.specs.dataset import DatasetSpec


def dataset_definitions(spec: DatasetSpec) -> dg.Definitions:
    """Return assets, checks, jobs and sensors of a dataset."""
    job = jobs.ingest_job(spec)
    pulls = [jobs.pull_job(spec)] if spec.is_pulled else []
    return dg.Definitions(
        assets=[dataset.landing_asset(spec), dataset.dataset_assets(spec)],
        jobs=[job, *pulls],
        sensors=[
            *(sensors.pull_sensor(spec, pull) for pull in pulls),
            sensors.new_data_sensor(spec, job),
            *messages.messages_sensors(messages.of_dataset(spec)),
        ],
        resources=RESOURCES,
    )


def shared_definitions(models: Sequence[monitoring.Model]) -> dg.Definitions:
    """Return the job and the sensor by which several models of a dataset share runs."""
    job = jobs.shared_monitor_job(models)
    sensor = sensors.data_ready_sensor(models[0].dataset.name, models, job)
    return dg.Definitions(jobs=[job], sensors=[sensor])


def model_definitions(model: monitoring.Model, *, shares_runs: bool = False) -> dg.Definitions:
    """Return assets, checks, jobs, sensors and schedule of a model.

    Args:
        model: The model.
        shares_runs: Whether `shared_definitions` ask for the runs that monitor it.
    """
    monitor, retrain = jobs.monitor_job(model), jobs.retrain_job(model)
    is_group = model.spec.for_each is not None
    watched = [segments.segment_assets(model)] if is_group else monitoring.monitor_assets(model)
    schedules = (sensors.policy_schedule(model, retrain), upkeep.vacuum_schedule(model))
    return dg.Definitions(
        assets=[
            *watched,
            *decision.decision_assets(model),
            upkeep.report_asset(model),
            upkeep.replay_asset(model),
            upkeep.storage_asset(model),
        ],
        asset_checks=[] if is_group else [decision.currency_check(model)],
        jobs=[monitor, retrain, jobs.replay_job(model), *jobs.operation_jobs(model)],
        sensors=[
            *(
                []
                if shares_runs
                else [sensors.data_ready_sensor(model.spec.name, [model], monitor)]
            ),
            sensors.retrain_wanted_sensor(model, retrain),
            *messages.messages_sensors(*map(messages.of_model, model.members.values())),
        ],
        schedules=list(filter(None, schedules)),
        resources=RESOURCES,
    )
