"""Commands that change nothing: status, plan, history, reproduce, lineage, card, quarantine.

Not here: what they show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from retrain_assets.cli.project import dataset_named, model_named, models
from retrain_assets.cli.root import as_json, one_line, print_decisions, print_json, storage
from retrain_assets.domain.monitoring import ESTIMATED

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("model", required=False)
@as_json
@one_line
def status(model: str | None, *, as_json: bool) -> None:
    """What is in production, and what each trigger says now; of all models without a name."""
    from retrain_assets.steps import report

    asked = models().values() if model is None else [model_named(model)]
    found = [report.status(each.state(storage())) for each in asked]
    if as_json:
        print_json(found if model is None else found[0])
        return
    for each in found:
        _print_production(each)
        (_print_wish if model is None else _print_status)(each)


def _print_production(found: dict[str, Any]) -> None:
    now, model = found["production"], found["model"]
    click.echo(
        f"{model}: version {now['version']} in production since {now['since']}, "
        f"trained on {' to '.join(now['data_range'])}"
        if now
        else f"{model}: nothing in production"
    )


def _print_status(found: dict[str, Any]) -> None:
    if found["staging"]:
        click.echo(f"version {found['staging']} waits for `retrain approve`")
    if found["stale"]:
        click.echo(found["staleness"])
    for seen in found["performance"]:
        between = f" ({seen['low']:.4g} to {seen['high']:.4g})" if seen["low"] is not None else ""
        estimated = "estimated " if seen["role"] == ESTIMATED else ""
        click.echo(
            f"{estimated}performance of version {seen['model_version']}: {seen['measure']} "
            f"{seen['statistic']:.4g}{between} in {seen['window_from']} to {seen['window_to']}, "
            f"{seen['baseline']:.4g} at its promotion, limit {seen['threshold']:.4g}"
        )
    for seen in found["moved"]:
        mark, held = "!" if seen["alert"] else " ", f"threshold {seen['threshold']:.3g}"
        said = f"{seen['measure']} {seen['statistic']:.3g}, {held}: {seen['effect']}"
        click.echo(f"  {mark} {seen['role']} {seen['column']}: {said}")
    _print_triggers(found)
    for made in found["decisions"]:
        asked = "asked for a candidate" if made["wanted"] else "did not ask"
        since = " (data corrected since)" if made["outdated"] else ""
        click.echo(f"  as of {made['as_of']}{since} {asked}: {made['reason']}")


@click.command()
@click.argument("model")
@as_json
@one_line
def plan(model: str, *, as_json: bool) -> None:
    """What would happen now: whether a cause fires, on which windows, at what cost."""
    import dagster as dg

    from retrain_assets.orchestration.operations import last_seconds
    from retrain_assets.steps import report

    state = model_named(model).state(storage())
    with dg.DagsterInstance.get() as instance:
        found = report.plan(state, last_seconds(instance, model))
    if as_json:
        print_json(found)
        return
    _print_triggers(found)
    for name, (first, last) in found["windows"].items():
        click.echo(f"  {name}: {first} to {last}")
    cost = found["cost"]
    took = cost["last_seconds"]
    click.echo(
        f"  cost: {cost['fits']} fits on {cost['train_rows']:,} rows, judged on "
        f"{cost['holdout_rows']:,}" + (f"; the last one took {took:g} s" if took else "")
    )


@click.command()
@click.argument("model")
@click.option("--verify", is_flag=True, help="Fail where a row was changed or is missing.")
@click.option("--csv", "csv_file", help="A new file to write all of it to.")
@as_json
@click.pass_obj
@one_line
def history(folder: Path, model: str, csv_file: str | None, *, verify: bool, as_json: bool) -> None:
    """Every decision on a model, oldest first."""
    from retrain_assets.steps import quarantine as step
    from retrain_assets.steps import report

    opened, found = storage(), model_named(model)
    state = found.state(opened)
    said = report.verify(state, opened.registry(model)) if verify else ""
    rows = report.history(state)
    if csv_file is not None:
        step.write_csv(report.as_table(rows), folder / csv_file)
    if as_json:
        print_json(rows)
    else:
        print_decisions([{"model": model, **row} for row in rows])
        click.echo(said, nl=bool(said))


def _print_triggers(found: dict[str, Any]) -> None:
    for cause in found["triggers"]:
        click.echo(f"  {'!' if cause['fired'] else ' '} {cause['cause']}: {cause['reason']}")
    _print_wish(found)


def _print_wish(found: dict[str, Any]) -> None:
    click.echo(f"retrain now: {'yes' if found['wanted'] else 'no'}, {found['reason']}")


@click.command()
@click.argument("dataset")
@click.option("--partition", help="List the refused rows of this one.")
@click.option("--reason", help="Only what this rule refused.")
@click.option("--csv", "csv_file", help="A new file to write all of it to, for who delivers.")
@as_json
@click.pass_obj
@one_line
def quarantine(
    folder: Path, dataset: str, csv_file: str | None, *, as_json: bool, **by: Any
) -> None:
    """What was refused and why: counted, or row by row with --partition."""
    from retrain_assets.steps import quarantine as step

    found = step.refused(storage(), dataset_named(dataset), **by)
    shown = found if by["partition"] else step.counted(found)
    records = found.select("partition", "file", "line").n_unique()
    if csv_file is not None:
        step.write_csv(found, folder / csv_file)
    if as_json:
        print_json({"dataset": dataset, **by, "refused": records, "shown": shown.to_dicts()})
    else:
        said = f"{dataset}: {records:,} rows or files refused"
        click.echo("\n".join([said, *step.as_lines(shown)]))


@click.command()
@click.argument("model")
@click.argument("version", type=int)
@as_json
@one_line
def reproduce(model: str, version: int, *, as_json: bool) -> None:
    """Build a version again from what was recorded on it, and compare bit for bit."""
    from dataclasses import asdict

    from retrain_assets.steps.reproduce import reproduce as step

    opened = storage()
    found = step(model_named(model).state(opened), opened.registry(model), version)
    if as_json:
        print_json({"model": model, "version": version, **asdict(found)})
    else:
        same = "identical bit for bit" if found.identical else "not identical"
        click.echo("\n".join([f"{model} version {version}: {same}", *found.differences]))
    if not found.identical:
        click.get_current_context().exit(1)


@click.command()
@click.argument("model")
@click.option("--partition", required=True, help="Of the prediction.")
@click.option("--key", required=True, help="The values of the dataset's key, joined by |.")
@as_json
@one_line
def lineage(model: str, partition: str, key: str, *, as_json: bool) -> None:
    """All that one prediction came from: files, model, code, decision and label."""
    from retrain_assets.steps.lineage import lineage as step

    opened = storage()
    state = model_named(model).state(opened)
    found = step(state, opened.registry(model), partition, key)
    if as_json:
        print_json(found)
        return
    for part, values in found.items():
        click.echo(part)
        for name, value in values.items():
            click.echo(f"  {name}: {value!s}")


@click.command()
@click.argument("model")
@click.argument("version", type=int)
@as_json
@one_line
def card(model: str, version: int, *, as_json: bool) -> None:
    """Write the card of a version: data, figures, the gate's reasons, how to go back."""
    from retrain_assets.steps.card import write_card

    opened = storage()
    state = model_named(model).state(opened)
    path = write_card(state, opened.registry(model), version, opened.cards)
    if as_json:
        print_json({"model": model, "version": version, "card": path})
    else:
        click.echo(f"{model} version {version}: {path}")


COMMANDS = (status, plan, history, reproduce, lineage, card, quarantine)
