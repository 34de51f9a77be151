"""Requests for runs: once for one thing, again after a failure, never beside a run under way.

A request is named by a digest of what it is about and the attempt, since Dagster never repeats a
run key: a failed run can be asked for again, and a repeated tick asks for the same. Not here: what
there is to ask for.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, takewhile
from typing import Any

import dagster as dg

from retrain_assets.errors import is_permanent
from retrain_assets.orchestration.dagster_internals import (
    NOT_FINISHED_STATUSES,
    SerializableErrorInfo,
)
from retrain_assets.orchestration.dagster_internals.runs import has_died

REQUEST_TAG = "retrain/request"
PERMANENT_TAG = "retrain/permanent_error"  # of a failed run: the class of the error
SHARED = {"retrain/shared": "yes"}  # tags of a run that monitors several models
MAX_ATTEMPTS = 3
_PLAIN_ERRORS = {"ValueError", "RuntimeError", "LookupError"}  # whose text is a sentence
MAX_RUNS = 4  # asked for in one tick
WATCHING: dict[str, Any] = {
    "minimum_interval_seconds": 30,
    "default_status": dg.DefaultSensorStatus.RUNNING,
}
PARTITION_TAG = "dagster/partition"
Tick = dg.SensorEvaluationContext | dg.ScheduleEvaluationContext
Evaluated = list[dg.RunRequest] | dg.SkipReason


@dataclass(frozen=True)
class Wish:
    """A run that would have something to do.

    Args:
        about: What it is about: file stamps, partition contents, or as-of, causes and recipe.
        tags: Tags of the run.
        selection: What of the job is built and checked; all of it by default.
        apart: The same work in several runs, which are asked for after the one run has failed, so
            that what fails or ends the process holds back no other work.
    """

    about: Sequence[str]
    tags: Mapping[str, str]
    selection: dg.AssetSelection | None = None
    apart: Sequence["Wish"] = ()

    @property
    def digest(self) -> str:
        """Return the name of the request."""
        return sha256(json.dumps(sorted(self.about)).encode()).hexdigest()[:16]


@dg.failure_hook
def tag_permanent_error(context: dg.HookContext) -> None:
    """Tag the run of a failed step if the same work would fail again.

    The process of the step knows the error with its base classes; what Dagster stores of an error
    is the name of its class alone.
    """
    error = context.op_exception
    if error is not None and is_permanent(error):
        context.instance.add_run_tags(context.run_id, {PERMANENT_TAG: type(error).__name__})


def requests(context: Tick, job: str, wishes: Iterable[Wish]) -> Evaluated:
    """Ask for runs of a job, unless one is under way.

    Args:
        context: Context of the tick.
        job: Name of the job.
        wishes: Runs of one range each; the first `MAX_RUNS` that did not fail too often are
            asked for.
    """
    under_way = dg.RunsFilter(job_name=job, statuses=NOT_FINISHED_STATUSES)
    for run in context.instance.get_runs(filters=under_way):
        if not has_died(run):
            return dg.SkipReason(f"run {run.run_id} is at it")
        context.instance.report_run_failed(run, "The process that executed it has died.")
    failed = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.FAILURE])
    for run in context.instance.get_runs(filters=failed, limit=1):
        if run.is_complete_and_waiting_to_retry:  # Dagster does so where a worker died
            return dg.SkipReason(f"run {run.run_id} is about to be tried again")
    runs: list[dg.RunRequest] = []
    reasons: list[str] = []
    for wish in chain.from_iterable(_take_apart(context.instance, job, wish) for wish in wishes):
        request = _request(context, job, wish)
        if isinstance(request, str):
            reasons.append(request)
        else:
            runs.append(request)
        if len(runs) == MAX_RUNS:
            break
    return runs or dg.SkipReason("; ".join(reasons[:MAX_RUNS]))


def _take_apart(instance: dg.DagsterInstance, job: str, wish: Wish) -> Sequence[Wish]:
    """Return a wish, or its parts if the newest run for it failed."""
    tags = {REQUEST_TAG: wish.digest}
    runs = instance.get_runs(dg.RunsFilter(job_name=job, tags=tags), limit=1) if wish.apart else []
    has_failed = any(run.status != dg.DagsterRunStatus.SUCCESS for run in runs)
    return wish.apart if has_failed else [wish]


def _request(context: Tick, job: str, wish: Wish) -> dg.RunRequest | str:
    """Return the request, or the reason why it is not made again.

    Only failures since the last success count, since the same work may be needed several times.
    """
    instance = context.instance
    runs = instance.get_runs(filters=dg.RunsFilter(job_name=job, tags={REQUEST_TAG: wish.digest}))
    failed = list(takewhile(lambda run: run.status != dg.DagsterRunStatus.SUCCESS, runs))
    error = _permanent_error(instance, failed[0]) if failed else None
    advice = "see why, mend it, and start the job by hand"
    if error or len(failed) >= MAX_ATTEMPTS:
        why = f"with {error}, as another would" if error else f"after {len(failed) - 1} others"
        return f"run {failed[0].run_id} failed {why}: {advice}"
    newest = instance.get_runs(filters=dg.RunsFilter(job_name=job), limit=MAX_ATTEMPTS)
    # These succeeded for the wish, which is nevertheless still there.
    same = (run for run in newest if run.tags.get(REQUEST_TAG) == wish.digest)
    if [run.status for run in same] == [dg.DagsterRunStatus.SUCCESS] * MAX_ATTEMPTS:
        return (
            f"run {newest[0].run_id} and {MAX_ATTEMPTS - 1} before it succeeded, and the same "
            f"work is still asked for: {advice}"
        )
    parts: dict[str, Any] = {}
    if wish.selection is not None and context.repository_def is not None:
        graph = context.repository_def.asset_graph
        parts["asset_selection"] = [*wish.selection.resolve(graph)]
        parts["asset_check_keys"] = [*wish.selection.resolve_checks(graph)]
    key, tags = f"{wish.digest}:{len(runs)}", {**wish.tags, REQUEST_TAG: wish.digest}
    return dg.RunRequest(run_key=key, tags=tags, **parts)


def _permanent_error(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str | None:
    """Return the error of a failed run, if the same work would meet it again.

    A run that is repeated in the UI has the tags of the earlier run, so the tag has to be of the
    error that this run failed with.
    """
    name, _ = failure(instance, run.run_id)
    return name if run.tags.get(PERMANENT_TAG) == name else None


def describe_error(error: SerializableErrorInfo) -> str:
    """Return the text of an error; its class only where this project did not write the text."""
    text, kind = error.message.strip(), error.cls_name or ""
    path, _, reason = text.partition(": ")
    if not reason or path.rpartition(".")[2] != kind:
        return text
    is_plain = path.startswith("retrain_assets.") or kind in _PLAIN_ERRORS
    return reason if is_plain else f"{kind}: {reason}"


def failure(instance: dg.DagsterInstance, run_id: str, name: str = "") -> tuple[str, str]:
    """Return class and text of the error of a step, or what Dagster says if no step failed.

    Args:
        instance: Holds the run.
        run_id: The run.
        name: A model or dataset, whose steps come before others.
    """
    steps = failed_steps(instance, run_id)
    for step in sorted(steps, key=lambda step: not is_step_of(step, name)):
        return steps[step]
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE):
        return "", entry.get_dagster_event().message or ""
    return "", "no reason was recorded"


def is_step_of(step: str, name: str) -> bool:
    """Tell if a step builds or checks an asset of a model or dataset."""
    return step.startswith(f"{name}__") or step == f"{name}_segments"


def concerns(instance: dg.DagsterInstance, run: dg.DagsterRun, name: str) -> bool:
    """Tell if a run of many assets failed at one of a model or dataset, or at none of all."""
    if steps := failed_steps(instance, run.run_id):
        return any(is_step_of(step, name) for step in steps)
    return covers(run, name)


def covers(run: dg.DagsterRun, name: str) -> bool:
    """Tell if a run, of which a part was selected, builds assets of a model or dataset."""
    steps, assets = run.step_keys_to_execute or (), run.asset_selection or ()
    return any(is_step_of(step, name) for step in steps) or name in {key.path[0] for key in assets}


def failed_steps(instance: dg.DagsterInstance, run_id: str) -> dict[str, tuple[str, str]]:
    """Return class and text of the error of each step that failed, by its key."""
    errors = {}
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = entry.get_dagster_event()
        error = event.step_failure_data.error
        if error := error and (error.cause or error):
            errors[event.step_key or ""] = error.cls_name or "", describe_error(error)
    return errors
