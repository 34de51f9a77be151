"""Commands of the first hour: init, new, train.

Not here: guessing (`domain/start`), reading samples and writing files (`steps/start.py`).
"""

import os
import sys
from keyword import iskeyword
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console

from retrain_assets import definitions
from retrain_assets.cli import base
from retrain_assets.cli.base import command, show
from retrain_assets.cli.run import let_settle
from retrain_assets.components import segment_list
from retrain_assets.domain.decision.gate import TRIVIAL
from retrain_assets.domain.start.draft import describe, printable
from retrain_assets.domain.start.guess import Wishes, guess
from retrain_assets.domain.start.meaning import slug
from retrain_assets.orchestration.jobs import monitor_job
from retrain_assets.orchestration.sensors import data_ready_sensor
from retrain_assets.specs.base import SpecError, number_of
from retrain_assets.steps import start as start_step
from retrain_assets.steps.counts import list_segments
from retrain_assets.steps.inspect import status
from retrain_assets.steps.modules import find_module
from retrain_assets.stores.download import is_url, name_file

ADVICE = (
    "so these features say nothing of the target that holds on the holdout. Look at the card "
    "(`retrain card {model} {version}`) and try other features, a simpler estimator, a longer "
    "training window (`windows.train: all`), or another metric; then run this again"
)
OWN_PROJECT = ("dagster.yaml", ".env")  # what an existing project may lack


@command
@click.argument("folder")
def init(folder: str) -> None:
    """Make a project in a new folder, or complete the one that is in a folder.

    Files that exist are never changed.
    """
    place = (base.start_folder() / folder).resolve()
    project = definitions.location_at(place)
    is_project = project.folder == place
    if (place / "pyproject.toml").exists() and not is_project:
        raise ValueError(f"{place} has a pyproject.toml without [tool.dg]: choose a new folder")
    module = project.module.partition(".")[0] if is_project else _choose_package(place)
    files = start_step.write_project(place, module, OWN_PROJECT if is_project else None)
    written = [str(path.relative_to(place)) for path in files]
    commands = [f"cd {folder}"] if place != base.start_folder() else []
    ignored = place / ".gitignore"
    lines = ignored.read_text(encoding="utf-8").splitlines() if ignored.exists() else []
    if "data/" not in lines:  # a file that was there, as of `create-dagster`
        commands.append("echo data/ >> .gitignore")
    commands += ["retrain new MODEL --from FILE --target COLUMN"]
    text = [f"{place}: {len(written)} files written", *_next(commands)]
    show({"folder": str(place), "written": written, "next": commands}, "\n".join(text))


def _choose_package(place: Path) -> str:
    """Return a name for the package of a project, which hides no module and is no keyword."""
    name = slug(place.name)
    module = find_module(name)
    is_taken = module is not None and module.origin is not None
    return f"{name}_project" if iskeyword(name) or is_taken else name


@command
@click.argument("model")
@click.option(
    "--from",
    "source",
    required=True,
    help="A file, its URL, a folder of files, a Delta table, sql:NAME:TABLE, where the environment "
    "variable NAME has the URI of a database, or iceberg:CATALOG.NAMESPACE.TABLE.",
)
@click.option("--target", required=True, help="The column to predict, or SQL such as 'delay > 15'.")
@click.option("--time", help="The column that says when a row happened.")
@click.option("--key", multiple=True, help="A column of the key; give it once for each.")
@click.option(
    "--kind",
    type=click.Choice(["binary", "multiclass", "regression"]),
    help="What the target is; guessed from its values by default.",
)
@click.option("--dataset", help="Name of the dataset; by default that of the file.")
@click.option("--sheet", help="The sheet of an Excel file; the first by default.")
@click.option("--cursor", help="The column of a table that grows with each change of a row.")
@click.option("--yes", is_flag=True, help="Do not ask before anything is written.")
def new(
    model: str,
    source: str,
    dataset: str | None,
    sheet: str | None,
    cursor: str | None,
    *,
    yes: bool,
    **stated: Any,
) -> None:
    """Write the YAML of a model and its dataset, guessed from a sample of the data.

    The sample lands as the first delivery of the dataset.
    """
    folder, names = _project()
    short, stem = start_step.name_source(source)
    name = _choose_name(model, dataset, stem, names)
    delivery = _read(source, name, sheet, cursor)
    start = guess(delivery.sample, Wishes(model, name, **stated))
    rows, columns = delivery.sample.rows.height, len(delivery.sample.columns)
    title = f"{short}: {rows:,} rows, {columns} columns"
    report = [title, *describe(start.guesses)]
    report += [f"  note    {printable(note)}" for note in start.notes]
    if not yes and not base.is_json() and sys.stdin.isatty():
        click.echo("\n".join(report), err=True)
        click.confirm("Write it?", default=True, abort=True, err=True)
        report = []
    file = folder / model / "defs.yaml"
    text = start.render(f"Written by `retrain new` from {title}.")
    landed = start_step.write_start(file, text, delivery, base.storage(), name)
    _check(file)
    commands = [f"retrain train {model}", f"retrain play {model}", "dagster dev"]
    report += _list_files(file, landed)
    value = {
        "model": model,
        "dataset": name,
        "file": str(file),
        "rows": rows,
        "landed": landed,
        "guesses": [item.record() for item in start.guesses],
        "notes": start.notes,
        "next": commands,
    }
    show(value, "\n".join([*report, *_next(commands)]))


def _choose_name(model: str, dataset: str | None, stem: str, names: set[str]) -> str:
    """Return the name of the dataset.

    Raises:
        ValueError: It, or that of the model, is no name, or is taken.
    """
    name = dataset or start_step.name_dataset(stem, {model, *names})
    for word in (model, name):
        if slug(word) != word:
            raise ValueError(f"{word!r} is not a name for a model or dataset: use {slug(word)}")
    if dataset in names:
        raise ValueError(f"dataset {dataset} is there already: choose another name")
    return name


def _read(source: str, name: str, sheet: str | None, cursor: str | None) -> start_step.Delivery:
    if start_step.is_table(source):
        return start_step.read_table(source, cursor, os.environ)
    if is_url(source):
        click.echo(f"reading {name_file(source)} from {urlsplit(source).hostname}", err=True)
        return start_step.read_url(source, name, sheet)
    return start_step.read_delivery(base.start_folder() / source, name, sheet)


def _project() -> tuple[Path, set[str]]:
    """Return the folder of the YAML of the project, and the names that are taken.

    Raises:
        LookupError: There is no project.
    """
    start = base.start_folder()
    if definitions.location_at(start) == definitions.Location():
        raise LookupError(
            f"no Dagster project in {start} or above it: `retrain init PROJECT` first"
        )
    tree = definitions.component_tree(base.location().folder)
    return tree.defs_module_path, {*base.models(), *base.datasets()}


def _check(file: Path) -> None:
    """Load the project with the new file as Dagster would.

    Raises:
        SpecError: A part of it is mistaken.
    """
    try:
        base.models()
    except SpecError as error:
        raise SpecError(f"correct {file}, which was written:\n{error}") from error


def _list_files(file: Path, landed: list[str]) -> list[str]:
    """Return where the YAML was written, and the data if they are not in their place already."""
    lines = [f"written: {_shorten(file)}"]
    if landed:
        folder = _shorten(landed[0].rpartition("/")[0])
        lines.append(f"landed: {number_of(len(landed), 'file')} in {folder}")
    return lines


def _shorten(path: Path | str) -> str:
    return str(path).removeprefix(f"{base.start_folder()}/")


def _next(commands: list[str]) -> list[str]:
    return ["next:", *(f"  {line}" for line in commands)]


@command
@click.argument("model")
def train(model: str) -> None:
    """Train a first or further candidate now, on all that has landed, and decide on it.

    First it reads new files, and builds the features and the monitoring that are missing.
    """
    entry = base.get_model(model)
    group = entry.spec.group
    before = len(status.history(entry.state(base.storage())))
    sources = (entry.dataset, *entry.lookups.values())
    for spec in sources:
        let_settle(spec, "", "\uffff")
    folder, sensors = base.location().folder, {f"{spec.name}_new_data" for spec in sources}
    parent = definitions.component_of(group, folder).model(definitions.component_tree(folder))
    # The sensor of the project may ask for runs of other models too, of which one may fail.
    watcher = data_ready_sensor(group, [parent], monitor_job(parent))
    with base.open_daemon() as daemon:
        for name in [spec.name for spec in sources if spec.is_pulled]:
            daemon.execute(f"{name}_pull", {}, {})
        daemon.sensors = [sensor for sensor in daemon.sensors if sensor.name in sensors]
        daemon.sensors.append(watcher)
        for run in daemon.settle():
            click.echo(f"{run.job}: done in run {run.run_id}", err=True)
        for name, reason in daemon.reasons.items():
            click.echo(f"{name}: {reason}", err=True)
        with Console(stderr=True).status(f"{model}_retrain …"):
            daemon.execute(f"{group}_retrain", entry.decides, {})
    rows = status.history(entry.state(base.storage()))
    if len(rows) == before:
        text = f"{model}: data, YAML and code are as at this decision, which stands:"
        click.echo(text, err=True)
    row, lines = rows[-1], base.decision_lines([{"model": model, **rows[-1]}])
    if str(row["reason"]).startswith(f"worse than {TRIVIAL}"):
        lines += f"\n{'':12}{ADVICE.format(model=model, version=row['version'])}"
    show(row, lines)


@command
@click.argument("model")
def segments(model: str) -> None:
    """List the largest segments of a model with `for_each: {top: …}` in a file beside its YAML.

    Run it again when other segments should have models; commit the file with the YAML.
    """
    retrained = base.get_model(model)
    component = definitions.component_of(retrained.spec.group, base.location().folder)
    segmentation, dataset = component.written.for_each, retrained.dataset.name
    if segmentation is None or segmentation.top is None:
        raise ValueError(
            f"{model} has no `for_each` with `top`: its segments are those of the YAML"
        )
    counts = list_segments(base.storage().tables, dataset, segmentation.column, segmentation.top)
    if not counts:
        raise ValueError(f"{dataset} has no rows yet: ingest it first")
    [*segmentation.segments(model, [*counts])]  # raises where two would have one name
    path = segment_list.write_list(component.folder, component.spec.name, [*counts])
    fewest = number_of(min(counts.values()), "row")
    text = f"{model}: {number_of(len(counts), 'segment')} of at least {fewest}, listed in {path}"
    show({"model": model, "segments": counts, "file": str(path)}, text)
