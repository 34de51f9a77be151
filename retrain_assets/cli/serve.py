"""Commands that predict: serve, score.

Not here: the server (`serving`) and the predictions (`steps/monitoring/predict.py`).
"""

import json
import os
import sys

import click

from retrain_assets.cli import base
from retrain_assets.cli.base import command
from retrain_assets.orchestration.partitions import count_range
from retrain_assets.specs.base import number_of
from retrain_assets.steps.monitoring.predict import score_partitions
from retrain_assets.steps.state import landed
from retrain_assets.stores.tables.data_files import Spill


@command
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, type=click.IntRange(0, 65535), help="8000; 0 is any free.")
def serve(host: str, port: int) -> None:
    """Answer predictions of every production model over HTTP, until SIGTERM.

    RETRAIN_SERVE_KEYS lists the keys that clients must send, separated by commas.
    """
    from retrain_assets.serving.run import serve as run

    as_json = base.is_json()  # read here: the server's threads have no context of the command

    def tell(message: str) -> None:
        click.echo(json.dumps({"message": message}) if as_json else message, err=not as_json)

    keys = tuple(filter(None, os.environ.get("RETRAIN_SERVE_KEYS", "").split(",")))
    root = base.storage()
    states = {name: model.state(root) for name, model in base.models().items()}
    run(root, states, host, port, keys, tell)


@command
@click.argument("model")
@click.option("--from", "first", required=True, help="First partition.")
@click.option("--to", "last", required=True, help="Last partition.")
@click.option("--version", type=int, help="By default the one in production.")
@click.option("--out", required=True, help="A new parquet file.")
def score(model: str, first: str, last: str, version: int | None, out: str) -> None:
    """Predict stored features of a range with any version, into a parquet file."""
    entry, root, file, rows = base.get_model(model), base.storage(), base.start_folder() / out, 0
    count_range(entry.dataset.partition, first, last)
    if file.exists() or not file.parent.is_dir():
        raise ValueError(f"cannot write {file}: name a new file in an existing folder")
    keys = [key for key in landed(root.tables, entry.dataset.name) if first <= key <= last]
    parts = score_partitions(entry.state(root), keys, version)
    with Spill() as spill, click.progressbar(length=len(keys), file=sys.stderr) as bar:
        for batch, predictions in parts:
            spill.add(predictions)
            rows += predictions.height
            bar.update(len(batch))
        if rows == 0:
            raise LookupError(f"{model} has no features from {first} to {last}: backfill them")
        spill.frame().lazy().sink_parquet(file)
    value = {"model": model, "from": first, "to": last, "rows": rows, "out": out}
    base.show(
        value, f"{model}: {number_of(rows, 'row')} of {number_of(len(keys), 'partition')} in {out}"
    )
