"""Commands that bring data in and process them: demo, backfill, tick, land.

Not here: the work itself (`demo`, `steps`).
"""

import os
import time
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

import click
import polars as pl

from retrain_assets.cli import base
from retrain_assets.cli.base import command, show, storage
from retrain_assets.domain.data.contract import NEIGHBOUR_REFUSED
from retrain_assets.orchestration import tick as passes
from retrain_assets.orchestration.checks import failures
from retrain_assets.orchestration.partitions import count_range, covering_tags, range_tags
from retrain_assets.specs.base import duration, number_of
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.partition import ALL
from retrain_assets.steps.data.intake import Intake
from retrain_assets.steps.data.pull import pull
from retrain_assets.steps.data.quarantine import as_lines, refused
from retrain_assets.steps.inspect.weeks import compare_weeks
from retrain_assets.steps.state import landing_files
from retrain_assets.stores.landing.topic import TopicFiles
from retrain_assets.stores.place import Folder

MANY = 1000  # a range of more partitions may be a mistake


@command
@click.option("--to", "last", help="Last day that lands; 2013-03-15 is enough for a first model.")
@click.option("--fresh", is_flag=True, help="Start over: delete what an earlier demo stored.")
def demo(last: str | None, *, fresh: bool) -> None:
    """Let the flights of 2013 arrive week by week, and watch the loop run."""
    from retrain_assets.demo.run import LAST_DAY, run_demo

    def tell(decision: dict[str, Any]) -> None:
        click.echo(base.decision_lines([decision]), err=True)

    home = base.dagster_home()
    result = run_demo(storage(), home, tell, last=last or LAST_DAY, fresh=fresh)
    names = sorted({row["model"] for row in result["decisions"]})
    states = {name: base.models()[name].state(storage()) for name in names}
    result["weeks"] = {name: weeks for name in names if (weeks := compare_weeks(states[name]))}
    pages = ", ".join(storage().report(name) for name in names)
    where = (
        f"Each model has a page: {pages}; `retrain serve` shows them too.\n"
        f"See all of it in Dagster's UI: DAGSTER_HOME={home} dagster dev -m "
        "retrain_assets.definitions, then http://127.0.0.1:3000"
    )
    costs = "\n\n".join(_describe_weeks(*item) for item in result["weeks"].items())
    show(
        result, "\n\n".join(filter(None, [base.decision_lines(result["decisions"]), costs, where]))
    )


def _describe_weeks(model: str, weeks: list[dict[str, Any]]) -> str:
    """Return what each week would have cost without retraining, with it, and with the layer."""
    metric = base.models()[model].spec.gate.metric
    table = pl.DataFrame(weeks).with_columns(pl.col(pl.Float64).round(4))
    head = f"{model}: mean {metric} of each week, if never retrained, retrained, and with the layer"
    return "\n".join([head, *as_lines(table)])


@command
@click.argument("name")
@click.option("--from", "first", default=ALL, help="First partition, if there are partitions.")
@click.option("--to", "last", default=ALL, help="Last partition.")
@click.option("--refused", "again", is_flag=True, help="Read again all refused files of a dataset.")
@click.option("--yes", is_flag=True, help=f"Do not ask before more than {MANY} partitions.")
def backfill(name: str, first: str, last: str, *, again: bool, yes: bool) -> None:
    """Ingest a dataset, or monitor a model, over a range of partitions in one run.

    If a check fails, the exit code is 1, but all partitions without a mistake are stored.
    """
    if again:
        if (first, last) != (ALL, ALL):
            raise ValueError(
                "--refused reads the files of all partitions: leave out --from and --to"
            )
        return _read_refused_again(base.get("dataset", base.datasets(), name))
    datasets, models = base.datasets(), base.models()
    jobs = dict.fromkeys(datasets, "ingest") | dict.fromkeys(models, "monitor")
    job = base.get("dataset or model", jobs, name)
    spec = datasets.get(name) or models[name].dataset
    count = count_range(spec.partition, first, last)
    if count > MANY and not yes:
        base.ask(f"{first} to {last} are {count:,} partitions of {name}")
    if name in datasets:
        let_settle(spec, first, last)
    group = name if name in datasets else models[name].spec.group  # which segments share a run with
    run_id = base.execute(f"{group}_{job}", tags=range_tags(first, last))
    value = {"name": name, "from": first, "to": last, "partitions": count, "run_id": run_id}
    with base.open_instance() as instance:
        failed_checks = list(failures(instance, run_id))
    if failed_checks:
        raise ValueError(
            f"run {run_id}: {number_of(len(failed_checks), 'check')} failed, first "
            f"{failed_checks[0]}; the sound partitions beside it are stored"
        )
    text = f"{name}: {number_of(count, 'partition')}, {first} to {last}, in run {run_id}"
    if name in datasets:
        reasons = refused(storage(), spec).filter(
            pl.col("partition").is_between(pl.lit(first), pl.lit(last))
        )
        value["refused"] = rows = reasons.select("partition", "file", "line").n_unique()
        if rows:
            text += f"; {number_of(rows, 'row')} refused, see `retrain quarantine {name}`"
    return show(value, text)


def _read_refused_again(spec: DatasetSpec) -> None:
    """Read the refused files of a dataset again, in a run for each range of partitions.

    Raises:
        ValueError: Some are refused again.
    """
    before = _list_refused(spec)
    runs = [
        base.execute(f"{spec.name}_ingest", tags=covering_tags(spec.partition, keys))
        for keys in Intake(storage(), spec).forget_refusals()
    ]
    after = _list_refused(spec)
    if after:
        path, reason = next(iter(after.items()))
        files = number_of(len(before), "refused file")
        raise ValueError(
            f"{spec.name}: of {files}, {len(after):,} are refused again, such as {path}: {reason}"
        )
    text = f"{spec.name}: {number_of(len(before), 'refused file')} read again, none is refused now"
    show({"name": spec.name, "files": len(before), "run_ids": runs}, text)


def _list_refused(spec: DatasetSpec) -> dict[str, str]:
    """Return why each file is refused that is refused for itself."""
    is_cause = pl.col("refusal").is_not_null() & (pl.col("refusal") != NEIGHBOUR_REFUSED)
    files = landing_files(storage().tables, spec.name, is_cause)
    return dict(files.select("file", "refusal").sort("file").iter_rows())


def let_settle(spec: DatasetSpec, first: str, last: str) -> None:
    """Wait once for `read.settle` if a file of the range has just been written."""
    intake = Intake(storage(), spec, first, time.time_ns())
    settled = set(intake.settled)
    new = [file for file in intake.unread if file not in settled]
    new = [file for file in new if first <= (file.partition or first) <= last]
    if new:
        click.echo(f"{new[0].path} may still be written: {spec.read.settle} of waiting", err=True)
        time.sleep(duration(spec.read.settle).total_seconds())


@command
@click.option("--wait", default=0, type=click.IntRange(0), help="Seconds to wait for another tick.")
def tick(wait: int) -> None:
    """Do once what the daemon does: ingest, monitor, retrain and decide whatever is due; for cron.

    The exit code is 1 if a sensor or a run failed. If another tick works on the same storage, or a
    daemon runs, this one says so and does nothing.
    """
    since, root = datetime.now(UTC), storage()
    try:
        with passes.alone(root.work, wait, root.place), base.open_daemon() as daemon:
            executed = []
            for run in passes.run_pass(daemon, root.root):
                click.echo(f"{run.sensor}: {run.error or f'{run.job}, run {run.run_id}'}", err=True)
                executed.append(run)
            summary = passes.summarize(daemon, executed)
    except passes.OtherTickError as error:
        show(
            {"runs": [], "failed": [], "sensors": {}, "decisions": [], "busy": str(error)},
            str(error),
        )
        return
    summary |= {"decisions": _decisions_since(since) if executed else [], "busy": None}
    counts = number_of(len(summary["runs"]), "run"), number_of(len(summary["failed"]), "failure")
    if not executed:
        for name, reason in summary["sensors"].items():
            click.echo(f"{name}: {reason}", err=True)
    checks = [f"failed check: {text}" for run in summary["runs"] for text in run["failed_checks"]]
    lines = *checks, base.decision_lines(summary["decisions"]), ", ".join(counts)
    show(summary, "\n".join(filter(None, lines)))
    if summary["failed"]:
        raise click.exceptions.Exit(1)


def _decisions_since(time: datetime) -> list[dict[str, Any]]:
    """Return the decisions of all models since a time, as `retrain history --json` prints them."""
    return [
        {"model": name, **row.for_people()}
        for name, model in base.models().items()
        for row in model.state(storage()).ledger.read().rows
        if row.time >= time
    ]


@base.main.group()
def land() -> None:
    """Bring data into the landing folder; see `retrain land kafka -h`. All take --json."""


@partial(command, group=land, name="kafka")
@click.argument("dataset")
@click.option("--brokers", required=True, help="HOST:PORT, several separated by commas.")
@click.option("--topic", required=True, help="Its messages become lines of the dataset's files.")
@click.option(
    "--max-messages",
    type=click.IntRange(1),
    default=50_000,
    show_default=True,
    help="Write a file at the latest after so many messages.",
)
@click.option(
    "--max-seconds",
    type=click.IntRange(1, 86_400),
    default=60,
    show_default=True,
    help="Write a file at the latest after so many seconds.",
)
@click.option("--once", is_flag=True, help="Stop at the end that the topic has now.")
def land_kafka(
    dataset: str, brokers: str, topic: str, max_messages: int, max_seconds: int, *, once: bool
) -> None:
    """Land a Kafka topic, each message exactly once, until SIGTERM or the end with --once.

    A file has 32 MiB at most. Credentials are read from KAFKA_SASL_USERNAME and
    KAFKA_SASL_PASSWORD, the rest from KAFKA_SECURITY_PROTOCOL and the like.
    """
    from retrain_assets.steps.data import kafka as kafka_step  # its library is an extra

    place = storage().landing_place
    root = place.path if isinstance(place, Folder) else str(place)
    files = TopicFiles(root, base.get("dataset", base.datasets(), dataset), topic)
    bounds = kafka_step.Bounds(max_messages, max_seconds, once=once)
    with kafka_step.stop_on_signals() as stop:
        tell = partial(click.echo, err=True)
        landed = asdict(kafka_step.land(files, brokers, os.environ, bounds, stop, tell))
    counts = number_of(landed["messages"], "message"), number_of(landed["files"], "file")
    show({"dataset": dataset, "topic": topic} | landed, f"{dataset}: {' in '.join(counts)}")


@partial(command, group=land, name="sql")
@click.argument("dataset")
def land_sql(dataset: str) -> None:
    """Pull the new rows of a dataset's database now, whatever `sql.every` says."""
    pulled = pull(storage(), base.get("dataset", base.datasets(), dataset), os.environ)
    files = f" in {', '.join(pulled.files)}" if pulled.files else ""
    text = f"{dataset}: {number_of(pulled.rows, 'new row')}{files}"
    show({"dataset": dataset, "rows": pulled.rows, "files": pulled.files}, text)
