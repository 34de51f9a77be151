"""`retrain`: what the UI has no button for.

Results go to standard output (as JSON with `--json`), progress and errors to standard error; the
exit code is 0, or not 0 and one line says why. Not here: doing any of it.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrain_assets.specs.base import SpecError
from retrain_assets.stores.storage import project_root, storage_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retrain_assets.orchestration.model_assets import Model
    from retrain_assets.specs.dataset import DatasetSpec

COLOURS = {"promote": "green", "reject": "red", "hold": "yellow", "rollback": "magenta"}
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


def _one_line(command: Callable[..., None]) -> Callable[..., None]:
    """Errors that people can act on become one line; others keep their traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, RuntimeError, LookupError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except Exception as error:
            # Dagster wraps a mistake in the YAML in a drawing of the whole project.
            if isinstance(error.__cause__, SpecError):
                raise click.ClickException(str(error.__cause__)) from error
            raise

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="retrain-assets")
def main() -> None:
    """Keep tabular models fresh."""
    root = project_root(Path.cwd())
    click.get_current_context().obj = Path.cwd()
    os.environ.setdefault("DAGSTER_HOME", str(root))
    # Relative paths of dagster.yaml follow the current directory.
    os.chdir(root)


@main.command()
@click.option("--fresh", is_flag=True, help="Start over: delete what an earlier demo stored.")
@as_json
@_one_line
def demo(*, fresh: bool, as_json: bool) -> None:
    """Let the flights of 2013 arrive week by week, and watch the loop run."""
    from retrain_assets.demo.run import run_demo

    storage = storage_from(os.environ, Path.cwd())
    result = run_demo(storage, Path(os.environ["DAGSTER_HOME"]), fresh=fresh)
    if as_json:
        _print_json(result)
        return
    _print_decisions(result["decisions"])
    click.echo("\nSee all of it in the Dagster UI: make dev, then http://127.0.0.1:3000")


@main.command()
@click.argument("model")
@as_json
@_one_line
def status(model: str, *, as_json: bool) -> None:
    """What is in production, and what each trigger says now."""
    from retrain_assets.steps import report

    found = report.status(_model(model).state(storage_from(os.environ, Path.cwd())))
    if as_json:
        _print_json(found)
        return
    now = found["production"]
    click.echo(
        f"{model}: version {now['version']} in production since {now['since']}, "
        f"trained on {' to '.join(now['data_range'])}"
        if now
        else f"{model}: nothing in production"
    )
    for cause in found["triggers"]:
        click.echo(f"  {'!' if cause['fired'] else ' '} {cause['cause']}: {cause['reason']}")
    click.echo(f"retrain now: {'yes' if found['wanted'] else 'no'}, {found['reason']}")


@main.command()
@click.argument("model")
@as_json
@_one_line
def history(model: str, *, as_json: bool) -> None:
    """Every decision on a model, oldest first."""
    from retrain_assets.steps import report

    rows = report.history(_model(model).state(storage_from(os.environ, Path.cwd())))
    if as_json:
        _print_json(rows)
    else:
        _print_decisions([{"model": model, **row} for row in rows])


@main.command()
@click.argument("model")
@click.option("--to", type=int, help="The version; the one before the present by default.")
@click.option("--reason", required=True, help="Why, for the ledger.")
@click.option("--by", default="command line", help="Who asks, for the ledger.")
@as_json
@_one_line
def rollback(model: str, to: int | None, reason: str, by: str, *, as_json: bool) -> None:
    """Put an earlier version back into production."""
    from retrain_assets.steps import report

    state = _model(model).state(storage_from(os.environ, Path.cwd()))
    config = {"reason": reason, "by": by} | ({} if to is None else {"to": to})
    ops = {f"{model}_rollback_op": {"config": config}}
    _execute(f"{model}_rollback", run_config={"ops": ops})
    row = report.history(state)[-1]
    if as_json:
        _print_json(row)
    else:
        click.echo(f"{model}: version {row['version']} is in production again")


@main.command()
@click.argument("name")
@click.option("--from", "first", required=True, help="First partition.")
@click.option("--to", "last", required=True, help="Last partition.")
@as_json
@_one_line
def backfill(name: str, first: str, last: str, *, as_json: bool) -> None:
    """Ingest a dataset, or monitor a model, over a range of partitions in one run.

    A check that fails is an error, though the sound partitions beside it are published.
    """
    import dagster as dg

    from retrain_assets.orchestration.checks import failures
    from retrain_assets.orchestration.partitions import checked_range, range_tags

    known_datasets, known_models = datasets(), models()
    jobs = dict.fromkeys(known_datasets, "ingest") | dict.fromkeys(known_models, "monitor")
    if name not in jobs:
        known = ", ".join(sorted(jobs))
        raise LookupError(f"no dataset or model named {name!r}; there are {known}")
    spec = known_datasets.get(name) or known_models[name].dataset
    count = checked_range(spec.partition, first, last)
    run_id = _execute(f"{name}_{jobs[name]}", tags=range_tags(first, last))
    found = {"name": name, "from": first, "to": last, "partitions": count, "run_id": run_id}
    with dg.DagsterInstance.get() as instance:
        bad = list(failures(instance, run_id))
    if bad:
        raise ValueError(f"run {run_id}: {len(bad)} checks failed, first {bad[0]}")
    if as_json:
        _print_json(found)
    else:
        click.echo(f"{name}: {count} partitions, {first} to {last}, in run {run_id}")


@main.command()
@click.argument("dataset")
@click.option("--partition", help="List the refused rows of this one.")
@click.option("--reason", help="Only what this rule refused.")
@click.option("--csv", "csv_file", help="A new file to write all of it to, for who delivers.")
@as_json
@click.pass_obj
@_one_line
def quarantine(
    folder: Path, dataset: str, csv_file: str | None, *, as_json: bool, **by: Any
) -> None:
    """What was refused and why: counted, or row by row with --partition."""
    from retrain_assets.steps import quarantine as step

    found = step.refused(storage_from(os.environ, Path.cwd()), _dataset(dataset), **by)
    shown = found if by["partition"] else step.counted(found)
    records = found.select("partition", "file", "line").n_unique()
    if csv_file is not None:
        step.write_csv(found, folder / csv_file)
    if as_json:
        _print_json({"dataset": dataset, **by, "refused": records, "shown": shown.to_dicts()})
    else:
        said = f"{dataset}: {records:,} rows or files refused"
        click.echo("\n".join([said, *step.as_lines(shown)]))


@main.group()
def land() -> None:
    """Bring data into the landing folder; see `retrain land kafka -h`. All take --json."""


@land.command("kafka")
@click.argument("dataset")
@click.option("--brokers", required=True, help="HOST:PORT, several separated by commas.")
@click.option("--topic", required=True, help="Its messages become lines of the dataset's files.")
@click.option("--max-messages", type=click.IntRange(1), default=50_000, show_default=True)
@click.option("--max-seconds", type=click.IntRange(1, 86_400), default=60, show_default=True)
@click.option("--once", is_flag=True, help="Stop at the end that the topic has now.")
@as_json
@_one_line
def land_kafka(
    dataset: str, brokers: str, topic: str, max_messages: int, max_seconds: int, **flags: bool
) -> None:
    """Land a Kafka topic, each message exactly once, until SIGTERM or the end with --once.

    A file is written after --max-messages, 32 MiB or --max-seconds. Credentials are read from
    KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, the rest from KAFKA_SECURITY_PROTOCOL and the like.
    """
    from retrain_assets.steps import land as step
    from retrain_assets.stores.topic_files import TopicFiles

    files = TopicFiles(storage_from(os.environ, Path.cwd()).landing, _dataset(dataset), topic)
    bounds = step.Bounds(max_messages, max_seconds, once=flags["once"])
    with step.told_to_stop() as stop:
        tell = partial(click.echo, err=True)
        landed = asdict(step.land(files, brokers, os.environ, bounds, stop, tell))
    if flags["as_json"]:
        _print_json({"dataset": dataset, "topic": topic} | landed)
    else:
        click.echo(f"{dataset}: {landed['messages']:,} messages in {landed['files']:,} files")


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def _print_decisions(rows: list[dict[str, Any]]) -> None:
    """Two lines a decision: what, and why."""
    width = max((len(row["model"]) for row in rows), default=0)
    for row in rows:
        head = (
            f"{row['as_of']}  {row['model']:<{width}}  {row['action']:<8}  version {row['version']}"
        )
        click.echo(click.style(head, fg=COLOURS.get(row["action"]), bold=True), nl=False)
        click.echo(f"  because of {', '.join(row['causes'])}")
        click.echo(f"            {row['reason']}")


def _components() -> Any:
    from retrain_assets.definitions import component_tree

    return component_tree()


def models() -> dict[str, Model]:
    """The project's models, by name."""
    from retrain_assets.components.retrained_model import RetrainedModel

    tree = _components()
    return {found.spec.name: found.model(tree) for found in tree.get_all_components(RetrainedModel)}


def datasets() -> dict[str, Any]:
    """The project's datasets, by name."""
    from retrain_assets.components.landed_dataset import LandedDataset

    found = _components().get_all_components(LandedDataset)
    return {dataset.spec.name: dataset.spec for dataset in found}


def _model(name: str) -> Model:
    known = models()
    if name not in known:
        raise LookupError(f"no model named {name!r}; there are {', '.join(sorted(known))}")
    return known[name]


def _dataset(name: str) -> DatasetSpec:
    known = datasets()
    if name not in known:
        raise LookupError(f"no dataset named {name!r}; there are {', '.join(sorted(known))}")
    spec: DatasetSpec = known[name]
    return spec


def _execute(
    job: str,
    tags: dict[str, str] | None = None,
    run_config: dict[str, Any] | None = None,
) -> str:
    """Execute a job in this process, recorded where the UI shows it."""
    import dagster as dg

    from retrain_assets.definitions import build_defs
    from retrain_assets.orchestration.ticks import InProcessDaemon

    with dg.DagsterInstance.get() as instance, _progress(job):
        daemon = InProcessDaemon(build_defs(), instance)
        return daemon.execute(job, tags or {}, run_config or {})


@contextmanager
def _progress(job: str) -> Iterator[None]:
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(f"{job} …"):
        yield


if __name__ == "__main__":
    sys.exit(main())
