"""`<d>_new_data`: files that were not read yet are asked for, range by range.

A tick lists what is new and a few partitions before it; everything once an hour, and whenever the
sensor has no cursor. The cursor only saves work: what is asked for depends on files and tables
alone. Not here: which files there are, and what is made of them.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import dagster as dg

from retrain_assets.orchestration.partitions import RANGE_END, RANGE_START, covering, range_tags
from retrain_assets.orchestration.requests import WATCHING, Evaluated, Wish, requests
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.steps.intake import MAX_FILES, Intake
from retrain_assets.stores.landing import LandingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )

    from retrain_assets.specs.dataset import DatasetSpec
    from retrain_assets.stores.landing import LandingFile

SECONDS_BETWEEN_FULL_LISTINGS = 3600
MAX_FAILED = 20  # runs, the newest, whose ranges are asked for by themselves


def new_data_sensor(spec: DatasetSpec, job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """`<d>_new_data`: files that were not read yet, as few ranges."""

    @dg.sensor(
        name=f"{spec.name}_new_data",
        job=job,
        **WATCHING,
        description=f"Asks to ingest files of {spec.name} that have landed or changed.",
    )
    def _sensor(context: dg.SensorEvaluationContext, storage: StorageResource) -> Evaluated:
        now_ns = time.time_ns()
        since, listed_at = _last_listing(context.cursor, spec, now_ns // 10**9)
        intake = Intake(storage.open(), spec, since, now_ns)
        try:
            wishes = list(_wishes(context.instance, intake, job.name))
        except LandingError as error:
            return dg.SkipReason(f"{error}; it is tried again at the next tick")
        context.update_cursor(json.dumps([spec.landing, intake.next_since, listed_at]))
        if not wishes:
            landed = f"{len(intake.files)} files have landed" + (
                f" from {since} on" if since else ""
            )
            return dg.SkipReason(f"{landed}, all were read{intake.ignored}")
        if intake.ignored.found:
            context.log.info("runs are asked for%s", intake.ignored)
        return requests(context, job.name, wishes)

    return _sensor


def _last_listing(
    cursor: str | None, spec: DatasetSpec, now_seconds: int
) -> tuple[str | None, int]:
    """The partition to list from, None for all; and when all were listed last, or are now."""
    try:
        landing, since, listed_at = json.loads(cursor or "")
        recent = 0 <= now_seconds - listed_at < SECONDS_BETWEEN_FULL_LISTINGS
        if recent and landing == spec.landing and spec.partition.is_key(since):
            return since, listed_at
    except (ValueError, TypeError):
        pass
    return None, now_seconds


def _wishes(instance: dg.DagsterInstance, intake: Intake, job: str) -> Iterator[Wish]:
    """Runs over ranges of bounded size; over one, where rows say which partitions they are of."""
    if intake.spec.is_split:
        if chosen := intake.settled[:MAX_FILES]:
            yield Wish(_stamps(chosen), covering(intake.spec.partition, intake.keys(chosen)))
        return
    statuses = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    filters = dg.RunsFilter(job_name=job, statuses=statuses)
    failed = [run.tags for run in instance.get_runs(filters=filters, limit=MAX_FAILED)]
    apart = [(tags[RANGE_START], tags[RANGE_END]) for tags in failed if RANGE_START in tags]
    for keys, new in intake.ranges(apart):
        yield Wish(_stamps(new), range_tags(keys[0], keys[-1]))


def _stamps(files: Iterable[LandingFile]) -> list[str]:
    return [f"{file.path}:{file.stamp}" for file in files]
