"""Commands that change nothing: status, report, plan, history, and others.

Not here: computing what they show (`steps/inspect`).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click
import dagster as dg

from retrain_assets.cli import base
from retrain_assets.cli.base import command, show
from retrain_assets.domain.data.contract import UNPLACED
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.dagster_internals.ticks import failed_runs, failed_ticks
from retrain_assets.orchestration.jobs import last_seconds
from retrain_assets.specs.base import number_of
from retrain_assets.steps.data import quarantine as quarantine_step
from retrain_assets.steps.inspect import card as card_step
from retrain_assets.steps.inspect import lineage as lineage_step
from retrain_assets.steps.inspect import needs as needs_step
from retrain_assets.steps.inspect import report as report_step
from retrain_assets.steps.inspect import reproduce as reproduce_step
from retrain_assets.steps.inspect import status as status_step
from retrain_assets.steps.monitoring.adapt import rebuild_state
from retrain_assets.stores.place import place_at

Values = dict[str, Any]
MANY = 12  # models, above which the status of all is a table


@command
@click.argument("model", required=False)
@click.option("-v", "--verbose", is_flag=True, help="Show all causes, measures and requests too.")
def status(model: str | None, *, verbose: bool) -> None:
    """Answer what is in production, how it does, what moved, what waits and what is next.

    Without MODEL, it answers for all models. More than twelve are shown in a table, in which the
    models that need a person come first; with -v, the answers of each model are shown.
    """
    selection = base.models().values() if model is None else [base.get_model(model)]
    if not selection:
        return show([], "there is no model yet: write one in defs/NAME/defs.yaml")
    with base.open_instance() as instance:
        if len(selection) > MANY and not base.is_json() and not verbose:
            return show([], "\n".join(_list_by_need([*selection], instance)))
        values = [_status(entry, instance) for entry in selection]
    lines = [line for value in values for line in (*_answers(value), *_details(value, verbose))]
    return show(values if model is None else values[0], "\n".join(lines))


def _list_by_need(selection: list[Model], instance: dg.DagsterInstance) -> Iterator[str]:
    """Yield a line for each model, those first that need somebody."""
    yield from _list_failures(_find_failures(selection, instance))
    storage = base.storage()
    rows = [needs_step.summarize(model.state(storage)) for model in selection]
    rows.sort(key=lambda row: (needs_step.NEEDS.index(row["need"]), row["rank"], row["model"]))
    width = max(len(row["model"]) for row in rows)
    yield f"{'need':<12}{'model':<{width}}  version  why"
    for row in rows:
        version = "" if row["version"] is None else row["version"]
        yield f"{row['need']:<12}{row['model']:<{width}}  {version:>7}  {row['why']}"
    counts = Counter(row["need"] for row in rows)
    yield ", ".join(f"{counts[need]} {need}" for need in needs_step.NEEDS if counts[need])


def _status(model: Model, instance: dg.DagsterInstance) -> Values:
    state = model.state(base.storage())
    facts = {"engine": state.engine.describe(), **_find_failures([model], instance)}
    return {**status_step.overview(state), **facts}


def _find_failures(selection: list[Model], instance: dg.DagsterInstance) -> Values:
    """Return what failed at its newest tick or run, of models and all their datasets."""
    groups = dict.fromkeys(
        name
        for model in selection
        for name in (model.spec.group, model.dataset.name, *model.lookups)
    )
    return {
        "failed_ticks": dict(failed_ticks(instance, groups)),
        "failed_runs": dict(failed_runs(instance, groups)),
    }


def _answers(value: Values) -> Iterator[str]:
    """Yield a line for each sentence of an answer."""
    yield f"{value['model']}: {status_step.describe_production(value)}"
    answers = status_step.answer(value)
    answers["waiting"] += _list_failures(value)
    for name, texts in answers.items():
        first, *others = texts or ["nothing waits for a person"]
        yield from (f"  {name:<13}{first}", *(f"{'':15}{text}" for text in others))


def _list_failures(value: Values) -> Iterator[str]:
    for name, error in value["failed_ticks"].items():
        yield f"{name} failed at its newest tick, so nothing is requested by it: {error}"
    for job, error in value["failed_runs"].items():
        yield f"the newest run of {job} failed, {error.splitlines()[0]}"


def _details(value: Values, verbose: bool) -> Iterator[str]:
    if not verbose:
        return
    yield from map(status_step.describe_performance, value["performance"])
    yield from map(status_step.describe_coverage, value["intervals"])
    for row in value["moved"]:
        yield f"  {_mark(row['alert'])} {status_step.describe_drift(row)}"
    yield from _triggers(value)
    for row in value["decisions"]:
        yield f"  {status_step.describe_request(row)}"
    yield f"  items of steps are computed {value['engine']}"


def _triggers(value: Values) -> Iterator[str]:
    for cause in value["triggers"]:
        yield f"  {_mark(cause['fired'])} {cause['cause']}: {cause['reason']}"
    yield f"retrain now: {'yes' if value['wanted'] else 'no'}, {value['reason']}"


def _mark(alarm: object) -> str:
    return "!" if alarm else " "


@command
@click.argument("model")
def plan(model: str) -> None:
    """Show whether a retraining would start now and why, on which windows, at what cost."""
    entry = base.get_model(model)
    with base.open_instance() as instance:
        value = status_step.plan(entry.state(base.storage()), last_seconds(instance, entry))
    windows = [f"  {name}: {first} to {last}" for name, (first, last) in value["windows"].items()]
    cost = value["cost"]
    seconds = f"; the last one took {cost['last_seconds']:g} s" if cost["last_seconds"] else ""
    effort = (
        f"  cost: {cost['fits']} fits on {cost['train_rows']:,} rows, judged on "
        f"{cost['holdout_rows']:,}{seconds}"
    )
    budget = [f"  {value['budget']}"] if value["budget"] else []
    show(value, "\n".join([*_triggers(value), *windows, effort, *budget]))


@command
@click.argument("model")
@click.option("--verify", is_flag=True, help="Fail if a row was changed or is missing.")
@click.option("--csv", "csv_file", help="A new file, to which all decisions are written.")
def history(model: str, csv_file: str | None, *, verify: bool) -> None:
    """List every decision on a model, oldest first."""
    state = base.open_model(model)
    proof = status_step.verify(state) if verify else ""
    rows = status_step.history(state)
    if csv_file is not None:
        quarantine_step.write_csv(status_step.as_table(rows), base.start_folder() / csv_file)
    decisions = base.decision_lines([{"model": model, **row} for row in rows])
    show(rows, "\n".join(filter(None, (decisions, proof))) or f"{model}: nothing was decided yet")


@command
@click.argument("dataset")
@click.option("--partition", help="List the refused rows of this partition.")
@click.option("--reason", help="Only what this rule refused.")
@click.option("--csv", "csv_file", help="A new file with all refused rows, for the supplier.")
def quarantine(dataset: str, csv_file: str | None, **filters: Any) -> None:
    """Show what was refused and why: counted, or row by row with --partition."""
    spec, storage = base.get("dataset", base.datasets(), dataset), base.storage()
    refusals = quarantine_step.refused(storage, spec, **filters)
    table = refusals if filters["partition"] else quarantine_step.count(refusals)
    records = refusals.select("partition", "file", "line").n_unique()
    if csv_file is not None:
        quarantine_step.write_csv(refusals, base.start_folder() / csv_file)
    value = {"dataset": dataset, **filters, "refused": records, "shown": table.to_dicts()}
    files = refusals.filter(refusals["line"].is_null()).select("partition", "file").n_unique()
    counts = number_of(records - files, "row"), number_of(files, "file")
    lines = [f"{dataset}: {' and '.join(counts)} refused", *quarantine_step.as_lines(table)]
    lines += quarantine_step.explain(refusals, spec)
    unplaced = quarantine_step.count_unplaced(storage, spec) if filters["partition"] else 0
    if unplaced and not str(filters["partition"]).startswith(UNPLACED):
        lines.append(
            f"{number_of(unplaced, 'row')} of no partition, such as those with a wrong date, "
            f"are listed by --partition {UNPLACED}PATH, where PATH is a file without `landing/`"
        )
    show(value, "\n".join(lines))


@command
@click.argument("model")
@click.argument("version", type=int, required=False)
@click.option(
    "--state",
    "partition",
    help="Instead of VERSION: build the adaptive layer's state after this partition again.",
)
def reproduce(model: str, version: int | None, partition: str | None) -> None:
    """Build a version again from its records, and compare it bit for bit."""
    if (version is None) == (partition is None):
        raise click.UsageError("give a version, or --state with a partition")
    if version is None:
        _reproduce_state(model, partition or "")
        return
    outcome = reproduce_step.reproduce(base.open_model(model), version)
    same = "identical bit for bit" if outcome.identical else "not identical"
    text = "\n".join([f"{model} version {version}: {same}", *outcome.differences])
    show({"model": model, "version": version, **asdict(outcome)}, text)
    if not outcome.identical:
        click.get_current_context().exit(1)


def _reproduce_state(model: str, partition: str) -> None:
    stored, rebuilt = rebuild_state(base.open_model(model), partition)
    is_same = stored == rebuilt
    text = "identical bit for bit" if is_same else "not identical: its data or versions changed"
    value = {"model": model, "state": partition, "identical": is_same}
    show(value, f"{model}, state after {partition}: {text}")
    if not is_same:
        click.get_current_context().exit(1)


@command
@click.argument("model")
@click.option("--partition", required=True, help="The prediction's partition.")
@click.option("--key", required=True, help="The values of the dataset's key, joined by |.")
def lineage(model: str, partition: str, key: str) -> None:
    """Show what one prediction came from: files, model, code, decision and label."""
    origin = lineage_step.lineage(base.open_model(model), partition, key)
    lines = []
    for part, values in origin.items():
        lines += [part, *(f"  {name}: {value!s}" for name, value in values.items())]
    show(origin, "\n".join(lines))


@command
@click.argument("model")
@click.option("--out", help="The file, in place of reports/MODEL.html of the storage root.")
def report(model: str, out: str | None) -> None:
    """Write the page of a model as one HTML file: production, time line, drift, what is next."""
    place, name = base.storage().reports, f"{model}.html"
    if out is not None:
        path = base.start_folder() / out
        place, name = place_at(path.parent), path.name
    value = report_step.write_report(base.open_model(model), place, name)
    written = f"{place}/{name}"
    show({**value, "report": written}, f"{model}: {written}")


@command
@click.argument("model")
@click.argument("version", type=int)
def card(model: str, version: int) -> None:
    """Write the card of a version: data, metrics, reasons of the gate, how to go back."""
    path = card_step.write_card(base.open_model(model), version, base.storage().cards)
    show({"model": model, "version": version, "card": path}, f"{model} version {version}: {path}")
