"""`<d>_new_data`: files that were not read yet are asked for, range by range.

Not here: which files there are, and what is made of them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import dagster as dg

from retrain_assets.orchestration.partitions import covering
from retrain_assets.orchestration.requests import WATCHING, Evaluated, Wish, requests
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.steps.intake import Intake

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )

    from retrain_assets.specs.dataset import DatasetSpec

MAX_FILES = 500  # looked into in one tick, where they hold many partitions


def new_data_sensor(spec: DatasetSpec, job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """`<d>_new_data`: files that were not read yet, as one range."""

    @dg.sensor(
        name=f"{spec.name}_new_data",
        job=job,
        **WATCHING,
        description=f"Asks to ingest files of {spec.name} that have landed or changed.",
    )
    def _sensor(context: dg.SensorEvaluationContext, storage: StorageResource) -> Evaluated:
        intake = Intake(storage.open(), spec)
        unread, settled = intake.unread, intake.settled(time.time_ns())
        if not settled:
            waits = f"; {len(unread)} may still be written" if unread else ""
            return dg.SkipReason(f"{len(intake.files)} files have landed, all were read{waits}")
        chosen = settled[:MAX_FILES]
        stamps = [f"{file.path}:{file.stamp}" for file in chosen]
        wish = Wish(stamps, covering(spec.partition, intake.keys(chosen)))
        return requests(context, job.name, [wish])

    return _sensor
