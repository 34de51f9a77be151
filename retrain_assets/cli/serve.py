"""Commands that predict: serve, score. Not here: what they run, imported when it is given."""

import json
import os
import sys

import click

from retrain_assets.cli.base import command, here, is_json, model_named, models, show, storage


@command
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    default=8000,
    type=click.IntRange(0, 65535),
    show_default=True,
    help="0 takes any that is free.",
)
def serve(host: str, port: int) -> None:
    """Answer predictions of every production model over HTTP, until SIGTERM.

    RETRAIN_SERVE_KEYS names the keys that are asked for, separated by commas.
    """
    from retrain_assets.serving.run import serve as run

    as_json = is_json()  # asked for here: the threads that tell have no context of the command

    def tell(message: str) -> None:  # one a line
        click.echo(json.dumps({"message": message}) if as_json else message, err=not as_json)

    keys = tuple(filter(None, os.environ.get("RETRAIN_SERVE_KEYS", "").split(",")))
    root = storage()
    states = {name: model.state(root) for name, model in models().items()}
    run(root, states, host, port, keys, tell)


@command
@click.argument("model")
@click.option("--from", "first", required=True, help="First partition.")
@click.option("--to", "last", required=True, help="Last partition.")
@click.option("--version", type=int, help="By default the one in production.")
@click.option("--out", required=True, help="A new parquet file.")
def score(model: str, first: str, last: str, version: int | None, out: str) -> None:
    """Predict stored features of a range with any version, into a parquet file."""
    from retrain_assets.orchestration.partitions import checked_range
    from retrain_assets.steps.monitoring.predict import scores
    from retrain_assets.steps.state import landed
    from retrain_assets.stores.tables.data_files import Spill

    found, root, file, rows = model_named(model), storage(), here() / out, 0
    checked_range(found.dataset.partition, first, last)
    if file.exists() or not file.parent.is_dir():
        raise ValueError(f"cannot write {file}: name a new file in a folder that is there")
    keys = [key for key in landed(root.tables, found.dataset.name) if first <= key <= last]
    parts = scores(found.state(root), root.registry(model), keys, version)
    with Spill() as spill, click.progressbar(length=len(keys), file=sys.stderr) as bar:
        for batch, made in parts:
            spill.add(made)
            rows += made.height
            bar.update(len(batch))
        if rows == 0:
            raise LookupError(f"{model} has no features from {first} to {last}: backfill them")
        spill.frame().lazy().sink_parquet(file)
    value = {"model": model, "from": first, "to": last, "rows": rows, "out": out}
    show(value, f"{model}: {rows:,} rows of {len(keys)} partitions in {out}")
