"""The sensors and schedules that ask for runs when files, data or monitoring have changed.

A tick of `<d>_new_data` lists what is new and a few partitions before it; everything once an hour,
and whenever the sensor has no cursor. The cursor only saves work: what is asked for depends on
files and tables alone. Not here: which files there are, and the triggering policy.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from itertools import chain
from operator import or_

import dagster as dg

from retrain_assets.domain.decision.situation import Request
from retrain_assets.domain.windows import split_at_gaps
from retrain_assets.orchestration import jobs, metadata, partitions, run_requests
from retrain_assets.orchestration.assets.dataset import upstream_key
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.dagster_internals import AssetJob
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.orchestration.run_requests import WATCHING, Evaluated, Tick, Wish
from retrain_assets.specs.base import duration, number_of
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.data.intake import MAX_FILES, Intake
from retrain_assets.steps.decision.policy import record_request
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.landing.source import LandingError, LandingFile
from retrain_assets.stores.storage import Storage

SECONDS_BETWEEN_FULL_LISTINGS = 3600
MAX_FAILED = 20  # runs, the newest, whose ranges are asked for by themselves


def new_data_sensor(spec: DatasetSpec, job: AssetJob) -> dg.SensorDefinition:
    """Return `<d>_new_data`, which asks to read files that were not read yet, as few ranges."""

    @dg.sensor(
        name=f"{spec.name}_new_data",
        job=job,
        **WATCHING,
        description=f"Asks to ingest files of {spec.name} that have landed or changed.",
    )
    def _sensor(context: dg.SensorEvaluationContext, storage: StorageResource) -> Evaluated:
        now_ns = time.time_ns()
        since, listed_at = _last_listing(context.cursor, spec, now_ns // 10**9)
        # Files that are pulled come after the materialization.
        event = None if spec.is_pulled else _find_materialization(context.instance, spec)
        if event and _has_seen(context.cursor, spec, event, now_ns // 10**9):
            return dg.SkipReason(f"{spec.asset} was not materialized since all was read")
        intake = Intake(storage.open(), spec, since, now_ns)
        try:
            wishes = list(_wishes(context.instance, intake, job.name))
        except LandingError as error:
            return dg.SkipReason(f"{error}; it is tried again at the next tick")
        newest = None if intake.unread else event
        context.update_cursor(json.dumps([spec.landing, intake.next_since, listed_at, newest]))
        if not wishes:
            return dg.SkipReason(_describe_files(intake))
        if intake.ignored.reasons:
            context.log.info("runs are asked for%s", intake.ignored)
        return run_requests.requests(context, job.name, wishes)

    return _sensor


def _describe_files(intake: Intake) -> str:
    start, count = f" from {intake.since} on" if intake.since else "", len(intake.files)
    files = f"{number_of(count, 'file')} {'has' if count == 1 else 'have'} landed"
    refused = ""
    if count := intake.refused_files:
        verb = "was" if count == 1 else "were"
        refused = f"; {count:,} {verb} refused, see `retrain quarantine {intake.spec.name}`"
    return f"{files}{start}, all were read{refused}{intake.ignored}"


def pull_sensor(spec: DatasetSpec, job: AssetJob) -> dg.SensorDefinition:
    """Return `<d>_pull_due`, which asks to pull once for each occasion.

    An occasion is a materialization of the upstream asset, or else the begin of a stretch of time.
    """

    @dg.sensor(
        name=f"{spec.name}_pull_due",
        job=job,
        **WATCHING,
        description=f"Asks to pull new rows of {spec.name} from {spec.place} when that is due.",
    )
    def _sensor(context: dg.SensorEvaluationContext) -> Evaluated:
        occasion, condition = _find_materialization(context.instance, spec), f"{spec.asset} is new"
        if spec.asset is None:
            occasion, condition = _find_stretch(spec)
        if occasion is None:
            return dg.SkipReason(f"{spec.asset} was never materialized")
        wish = Wish([spec.place, occasion], {})
        tags, succeeded = {run_requests.REQUEST_TAG: wish.digest}, [dg.DagsterRunStatus.SUCCESS]
        successes = dg.RunsFilter(job_name=job.name, tags=tags, statuses=succeeded)
        for run in context.instance.get_runs(successes, limit=1):
            return dg.SkipReason(f"run {run.run_id} has pulled; the next is due when {condition}")
        return run_requests.requests(context, job.name, [wish])

    return _sensor


def _find_stretch(spec: DatasetSpec) -> tuple[str, str]:
    """Return what names the present stretch of `sql.every`, and when it ends, in words."""
    length = duration(spec.sql.every if spec.sql else "1s")
    begin = datetime.fromtimestamp(
        time.time() // length.total_seconds() * length.total_seconds(), UTC
    )
    return begin.isoformat(), f"it is {begin + length:%F %H:%M:%S} UTC"


def _find_materialization(instance: dg.DagsterInstance, spec: DatasetSpec) -> str | None:
    """Return what names the newest materialization of the upstream asset, if there is one."""
    if spec.asset is None:
        return None
    for record in instance.fetch_materializations(upstream_key(spec), limit=1).records:
        return f"{spec.asset} {record.storage_id}"
    return None


def _last_listing(
    cursor: str | None, spec: DatasetSpec, now_seconds: int
) -> tuple[str | None, int]:
    """Return the partition to list from, or None for all, and when all were listed last."""
    try:
        landing, since, listed_at, *_ = json.loads(cursor or "")
        recent = 0 <= now_seconds - listed_at < SECONDS_BETWEEN_FULL_LISTINGS
        if recent and since and landing == spec.landing and spec.partition.is_key(since):
            return since, listed_at
    except (ValueError, TypeError):
        pass
    return None, now_seconds


def _has_seen(cursor: str | None, spec: DatasetSpec, event: str, now_seconds: int) -> bool:
    """Tell if all was read after a materialization, and a look without one is not due yet."""
    try:
        landing, _, listed_at, newest = json.loads(cursor or "")
        is_recent = 0 <= now_seconds - listed_at < SECONDS_BETWEEN_FULL_LISTINGS
    except (ValueError, TypeError):
        return False
    return bool(is_recent and (landing, newest) == (spec.landing, event))


def _wishes(instance: dg.DagsterInstance, intake: Intake, job: str) -> Iterator[Wish]:
    """Yield runs over ranges of bounded size, or over one range if rows name their partitions."""
    if intake.spec.is_split:
        if files := intake.settled[:MAX_FILES]:
            touched = sorted(intake.keys(files))
            parts = split_at_gaps(touched, intake.spec.partition, run_requests.MAX_RUNS)
            for keys in parts:
                about = _stamps(files) + ([keys[0]] if len(parts) > 1 else [])
                yield Wish(about, partitions.covering_tags(intake.spec.partition, keys))
        return
    statuses = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    filters = dg.RunsFilter(job_name=job, statuses=statuses)
    failed = [run.tags for run in instance.get_runs(filters=filters, limit=MAX_FAILED)]
    start, end = partitions.RANGE_START, partitions.RANGE_END
    apart = [(tags[start], tags[end]) for tags in failed if start in tags]
    for keys, new in intake.ranges(apart):
        yield Wish(_stamps(new), partitions.range_tags(keys[0], keys[-1]))


def _stamps(files: Iterable[LandingFile]) -> list[str]:
    return [f"{file.path}:{file.stamp}" for file in files]


MAX_REASON, MAX_REASONS = 500, 3  # characters of a tag, and reasons of a tick
MAX_SECONDS = 20  # of a tick over many models; the next one goes on


def data_ready_sensor(name: str, models: Sequence[Model], job: AssetJob) -> dg.SensorDefinition:
    """Return `<name>_data_ready`, for partitions whose datasets changed since they were monitored.

    Each range has all partitions whose window has a changed partition. Changes that lie far apart
    are separate ranges, so that a corrected old day does not rebuild all days since.

    Args:
        name: The model, or the dataset of several that share runs.
        models: The models.
        job: What they are monitored by.
    """
    quiet = Quiet()

    @dg.sensor(
        name=f"{name}_data_ready",
        job=job,
        **WATCHING,
        description="Asks to build and monitor partitions whose datasets have changed.",
    )
    def _sensor(context: dg.SensorEvaluationContext, storage: StorageResource) -> Evaluated:
        wishes = _find_ranges(models, storage.open(), quiet)
        if not wishes:
            return dg.SkipReason(quiet[models[0].spec.name][1])
        return run_requests.requests(context, job.name, wishes)

    return _sensor


class Quiet(dict[str, tuple[object, str]]):
    """Models that asked for nothing, until a table, a dataset or code of theirs has changed."""

    def pass_over(self, states: Iterable[ModelState]) -> Iterator[tuple[ModelState, object]]:
        """Yield the models to look at, each with the stamp of its tables."""
        for state in states:
            groups = state.spec.name, state.dataset.name, *state.lookups
            stamp = state.tables.stamp(*groups)
            if stamp is not None:
                stamp = state.recipe, *stamp  # a user's code changes without a commit
            if stamp is None or self.get(state.spec.name, (None,))[0] != stamp:
                self.pop(state.spec.name, None)
                yield state, stamp


def _find_ranges(models: Sequence[Model], storage: Storage, quiet: Quiet) -> list[Wish]:
    """Return the ranges to build; models that need the same range share a run."""
    ranges: dict[tuple[str, str], dict[str, list[str]]] = {}
    is_one = len(models) == 1 and models[0].spec.for_each is None
    for model in models:
        states = [member.state(storage) for member in model.members.values()]
        restless = [*quiet.pass_over(states)]  # the stamps come before what is read
        first = states[0].sources() if restless else {}
        for state, stamp in restless:
            to_build = [*state.list_ranges_to_build(state.rename_sources(first))]
            name = "" if is_one else f"{state.spec.name} "
            for start, end, changes in to_build:
                about = ranges.setdefault((start, end), {}).setdefault(model.spec.name, [])
                about += [f"{name}{change}" for change in changes]
            if not to_build:
                why = f"all {len(first)} complete partitions are monitored"
                quiet[state.spec.name] = stamp, why
    return [_share(models, ready, partitions.range_tags(*ends)) for ends, ready in ranges.items()]


def _share(
    models: Sequence[Model], changes: Mapping[str, list[str]], tags: Mapping[str, str]
) -> Wish:
    """Return one run for the models that are ready, and a run for each if that one fails."""
    about = [*chain(*changes.values())]
    if len(models) == 1:
        return Wish(about, tags)
    ready = [model for model in models if model.spec.name in changes]
    apart = [Wish(changes[model.spec.name], tags, jobs.monitored(model)) for model in ready]
    selection = reduce(or_, map(jobs.monitored, ready))
    return Wish(about, tags, selection, apart if len(apart) > 1 else [])


def retrain_wanted_sensor(model: Model, job: AssetJob) -> dg.SensorDefinition:
    """Return `<m>_retrain_wanted`, which asks to retrain when the triggering policy says so."""
    quiet = Quiet()

    @dg.sensor(
        name=f"{model.spec.name}_retrain_wanted",
        job=job,
        **WATCHING,
        description="Asks to retrain when the triggering policy finds a cause.",
    )
    def _sensor(context: dg.SensorEvaluationContext, storage: StorageResource) -> Evaluated:
        return _retraining(model, job.name, context, storage.open(), quiet)

    return _sensor


def policy_schedule(model: Model, job: AssetJob) -> dg.ScheduleDefinition | None:
    """Return `<m>_schedule`, which wakes the policy; the policy itself decides in data time."""
    if model.spec.schedule is None:
        return None

    @dg.schedule(
        name=f"{model.spec.name}_schedule",
        job=job,
        cron_schedule=model.spec.schedule,
        execution_timezone=model.dataset.partition.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Wakes the triggering policy at fixed times.",
    )
    def _schedule(context: dg.ScheduleEvaluationContext, storage: StorageResource) -> Evaluated:
        return _retraining(model, job.name, context, storage.open(), Quiet())

    return _schedule


def _retraining(model: Model, job: str, context: Tick, storage: Storage, quiet: Quiet) -> Evaluated:
    wishes, began, members = [], time.monotonic(), model.members
    names, last = [*members], getattr(context, "cursor", None)
    start = names.index(last) + 1 if last in names else 0  # behind where the last tick ended
    states = (members[name].state(storage) for name in (*names[start:], *names[:start]))
    for state, stamp in quiet.pass_over(states):
        request = record_request(state)
        if not request.retrain or request.as_of is None:
            quiet[state.spec.name] = stamp, request.reason
        else:
            tags = members[state.spec.name].decides
            about = [*tags.values(), request.as_of, *request.fired, state.recipe]
            wishes.append(Wish(about, tags | _describe_request(request)))
        last = state.spec.name
        # Only Dagster's server ends a tick after a minute. `retrain tick` keeps no cursor.
        if context.instance_ref and time.monotonic() - began > MAX_SECONDS:
            break
    if len(names) > 1 and last and isinstance(context, dg.SensorEvaluationContext):
        context.update_cursor(last)
    if wishes:
        return run_requests.requests(context, job, wishes)
    reasons = [*dict.fromkeys(reason for _, reason in quiet.values())]
    count = f"{len(members)} models: " if len(members) > 1 else ""
    return dg.SkipReason(count + "; ".join(reasons[:MAX_REASONS]))


def _describe_request(request: Request) -> dict[str, str]:
    return {
        metadata.AS_OF_TAG: request.as_of or "",
        metadata.CAUSES_TAG: ",".join(request.fired),
        metadata.BECAUSE_TAG: request.reason[:MAX_REASON],
        **({metadata.HELD_TAG: str(request.held_version)} if request.held_version else {}),
    }
