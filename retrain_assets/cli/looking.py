"""Commands that change nothing: status, plan, history, quarantine.

Not here: what they show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from retrain_assets.cli.project import dataset_named, model_named
from retrain_assets.cli.root import as_json, one_line, print_decisions, print_json, storage

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("model")
@as_json
@one_line
def status(model: str, *, as_json: bool) -> None:
    """What is in production, and what each trigger says now."""
    from retrain_assets.steps import report

    found = report.status(model_named(model).state(storage()))
    if as_json:
        print_json(found)
        return
    now = found["production"]
    click.echo(
        f"{model}: version {now['version']} in production since {now['since']}, "
        f"trained on {' to '.join(now['data_range'])}"
        if now
        else f"{model}: nothing in production"
    )
    if found["staging"]:
        click.echo(f"version {found['staging']} waits for `retrain approve`")
    if found["stale"]:
        click.echo(found["staleness"])
    _print_triggers(found)


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
@as_json
@one_line
def history(model: str, *, as_json: bool) -> None:
    """Every decision on a model, oldest first."""
    from retrain_assets.steps import report

    rows = report.history(model_named(model).state(storage()))
    if as_json:
        print_json(rows)
    else:
        print_decisions([{"model": model, **row} for row in rows])


def _print_triggers(found: dict[str, Any]) -> None:
    for cause in found["triggers"]:
        click.echo(f"  {'!' if cause['fired'] else ' '} {cause['cause']}: {cause['reason']}")
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


COMMANDS = (status, plan, history, quarantine)
