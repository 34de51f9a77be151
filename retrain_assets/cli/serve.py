"""Commands that predict: serve, score; component sizes what serves, export lets others serve.

Not here: the server (`serving`) and the predictions (`steps/monitoring/predict.py`).
"""

import json
import os
import sys

import click
import yaml

from retrain_assets.cli import base
from retrain_assets.cli.base import command
from retrain_assets.orchestration.partitions import count_range
from retrain_assets.specs.base import number_of
from retrain_assets.steps.decision import export as export_step
from retrain_assets.steps.monitoring.predict import score_partitions
from retrain_assets.steps.state import landed
from retrain_assets.stores.tables.data_files import Spill

# What a pod that serves needs without any model.
CPU_MILLIS, MEMORY_MI = 500, 1024


@command
def component() -> None:
    """Print a component of Kustomize that sets CPU and memory of the pods that serve.

    A pod serves all models, so it gets the sum of their `resources.serving`. See
    docs/production.md.
    """
    sizes = [model.spec.resources.serving for model in base.models().values()]
    cpu = CPU_MILLIS + sum(round(1000 * (size.cpu or 0)) for size in sizes)
    memory = MEMORY_MI + sum(_in_mi(size.memory) for size in sizes if size.memory)
    resources = {
        "requests": {"cpu": f"{cpu}m", "memory": f"{memory}Mi"},
        "limits": {"memory": f"{max(memory, 2 * MEMORY_MI)}Mi"},
    }
    patches = [
        {
            "target": {"kind": kind, "name": "serving"},
            "patch": json.dumps([{"op": "replace", "path": path, "value": resources}]),
        }
        for kind, path in {
            "Deployment": "/spec/template/spec/containers/0/resources",
            "InferenceService": "/spec/predictor/containers/0/resources",
        }.items()
    ]
    head = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"}
    base.show(resources, yaml.safe_dump(head | {"patches": patches}, sort_keys=False).strip())


def _in_mi(memory: str) -> int:
    return int(memory[:-2]) * (1024 if memory.endswith("Gi") else 1)


@command
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    default=8000,
    type=click.IntRange(0, 65535),
    show_default=True,
    help="0 takes any free port.",
)
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
@click.argument("folder")
def export(model: str, folder: str) -> None:
    """Write what serves MODEL now into a new FOLDER, for servers without this platform.

    It has the native files of the versions, the state of the adaptive layer, and the formula.
    """
    value = export_step.export(base.open_model(model), base.start_folder() / folder)
    versions = ", ".join(map(str, value["members"]))
    base.show(value, f"{model}: versions {versions} and the formula in {folder}/README.md")


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
            raise LookupError(
                f"{model} has no features from {first} to {last}: build them by "
                f"`retrain backfill {model} --from {first} --to {last}`"
            )
        spill.frame().lazy().sink_parquet(file)
    value = {"model": model, "from": first, "to": last, "rows": rows, "out": out}
    base.show(
        value, f"{model}: {number_of(rows, 'row')} of {number_of(len(keys), 'partition')} in {out}"
    )
