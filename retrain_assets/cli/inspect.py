"""Commands that change nothing: status, plan, history, reproduce, lineage, card, quarantine.

Not here: what they show.
"""

from collections.abc import Iterator
from typing import Any

import click

from retrain_assets.cli.base import (
    command,
    dataset_named,
    decisions_said,
    here,
    model_named,
    models,
    show,
    storage,
)
from retrain_assets.domain.drift.observations import ESTIMATED


@command
@click.argument("model", required=False)
def status(model: str | None) -> None:
    """What is in production, and what each trigger says now; of all models without a name."""
    from retrain_assets.steps.inspect import status

    asked = models().values() if model is None else [model_named(model)]
    found = [status.status(each.state(storage())) for each in asked]
    lines = [
        line
        for each in found
        for line in (_production(each), *(_wish(each) if model is None else _details(each)))
    ]
    show(found if model is None else found[0], "\n".join(lines))


def _production(found: dict[str, Any]) -> str:
    now, model = found["production"], found["model"]
    if not now:
        return f"{model}: nothing in production"
    return (
        f"{model}: version {now['version']} in production since {now['since']}, "
        f"trained on {' to '.join(now['data_range'])}"
    )


def _details(found: dict[str, Any]) -> Iterator[str]:
    if found["staging"]:
        yield f"version {found['staging']} waits for `retrain approve`"
    if found["stale"]:
        yield found["staleness"]
    for seen in found["performance"]:
        between = f" ({seen['low']:.4g} to {seen['high']:.4g})" if seen["low"] is not None else ""
        estimated = "estimated " if seen["role"] == ESTIMATED else ""
        yield (
            f"{estimated}performance of version {seen['model_version']}: {seen['measure']} "
            f"{seen['statistic']:.4g}{between} in {seen['window_from']} to {seen['window_to']}, "
            f"{seen['baseline']:.4g} at its promotion, limit {seen['threshold']:.4g}"
        )
    for seen in found["moved"]:
        mark, held = "!" if seen["alert"] else " ", f"threshold {seen['threshold']:.3g}"
        said = f"{seen['measure']} {seen['statistic']:.3g}, {held}: {seen['effect']}"
        yield f"  {mark} {seen['role']} {seen['column']}: {said}"
    yield from _triggers(found)
    for made in found["decisions"]:
        asked = "asked for a candidate" if made["wanted"] else "did not ask"
        since = " (data corrected since)" if made["outdated"] else ""
        yield f"  as of {made['as_of']}{since} {asked}: {made['reason']}"


def _triggers(found: dict[str, Any]) -> Iterator[str]:
    for cause in found["triggers"]:
        yield f"  {'!' if cause['fired'] else ' '} {cause['cause']}: {cause['reason']}"
    yield from _wish(found)


def _wish(found: dict[str, Any]) -> Iterator[str]:
    yield f"retrain now: {'yes' if found['wanted'] else 'no'}, {found['reason']}"


@command
@click.argument("model")
def plan(model: str) -> None:
    """What would happen now: whether a cause fires, on which windows, at what cost."""
    import dagster as dg

    from retrain_assets.orchestration.jobs import last_seconds
    from retrain_assets.steps.inspect import status

    state = model_named(model).state(storage())
    with dg.DagsterInstance.get() as instance:
        found = status.plan(state, last_seconds(instance, model))
    windows = [f"  {name}: {first} to {last}" for name, (first, last) in found["windows"].items()]
    cost = found["cost"]
    took = f"; the last one took {cost['last_seconds']:g} s" if cost["last_seconds"] else ""
    effort = (
        f"  cost: {cost['fits']} fits on {cost['train_rows']:,} rows, judged on "
        f"{cost['holdout_rows']:,}{took}"
    )
    show(found, "\n".join([*_triggers(found), *windows, effort]))


@command
@click.argument("model")
@click.option("--verify", is_flag=True, help="Fail where a row was changed or is missing.")
@click.option("--csv", "csv_file", help="A new file to write all of it to.")
def history(model: str, csv_file: str | None, *, verify: bool) -> None:
    """Every decision on a model, oldest first."""
    from retrain_assets.steps.data import quarantine as step
    from retrain_assets.steps.inspect import status

    opened, found = storage(), model_named(model)
    state = found.state(opened)
    said = status.verify(state, opened.registry(model)) if verify else ""
    rows = status.history(state)
    if csv_file is not None:
        step.write_csv(status.as_table(rows), here() / csv_file)
    decided = decisions_said([{"model": model, **row} for row in rows])
    show(rows, "\n".join(filter(None, (decided, said))) or f"{model}: nothing was decided yet")


@command
@click.argument("dataset")
@click.option("--partition", help="List the refused rows of this one.")
@click.option("--reason", help="Only what this rule refused.")
@click.option("--csv", "csv_file", help="A new file to write all of it to, for who delivers.")
def quarantine(dataset: str, csv_file: str | None, **by: Any) -> None:
    """What was refused and why: counted, or row by row with --partition."""
    from retrain_assets.steps.data import quarantine as step

    found = step.refused(storage(), dataset_named(dataset), **by)
    shown = found if by["partition"] else step.counted(found)
    records = found.select("partition", "file", "line").n_unique()
    if csv_file is not None:
        step.write_csv(found, here() / csv_file)
    said = f"{dataset}: {records:,} rows or files refused"
    value = {"dataset": dataset, **by, "refused": records, "shown": shown.to_dicts()}
    show(value, "\n".join([said, *step.as_lines(shown)]))


@command
@click.argument("model")
@click.argument("version", type=int)
def reproduce(model: str, version: int) -> None:
    """Build a version again from what was recorded on it, and compare bit for bit."""
    from dataclasses import asdict

    from retrain_assets.steps.inspect.reproduce import reproduce as step

    opened = storage()
    found = step(model_named(model).state(opened), opened.registry(model), version)
    same = "identical bit for bit" if found.identical else "not identical"
    said = "\n".join([f"{model} version {version}: {same}", *found.differences])
    show({"model": model, "version": version, **asdict(found)}, said)
    if not found.identical:
        click.get_current_context().exit(1)


@command
@click.argument("model")
@click.option("--partition", required=True, help="Of the prediction.")
@click.option("--key", required=True, help="The values of the dataset's key, joined by |.")
def lineage(model: str, partition: str, key: str) -> None:
    """All that one prediction came from: files, model, code, decision and label."""
    from retrain_assets.steps.inspect.lineage import lineage as step

    opened = storage()
    state = model_named(model).state(opened)
    found = step(state, opened.registry(model), partition, key)
    lines = []
    for part, values in found.items():
        lines += [part, *(f"  {name}: {value!s}" for name, value in values.items())]
    show(found, "\n".join(lines))


@command
@click.argument("model")
@click.argument("version", type=int)
def card(model: str, version: int) -> None:
    """Write the card of a version: data, figures, the gate's reasons, how to go back."""
    from retrain_assets.steps.inspect.card import write_card

    opened = storage()
    state = model_named(model).state(opened)
    path = write_card(state, opened.registry(model), version, opened.cards)
    show({"model": model, "version": version, "card": path}, f"{model} version {version}: {path}")
