"""The command that serves. Not here: what it runs, which is imported when it is given."""

from __future__ import annotations

import json
import os

import click

from retrain_assets.cli.project import models
from retrain_assets.cli.root import one_line, storage


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, help="0 takes any that is free.")
@click.option("--json", "as_json", is_flag=True, help="Print each message as a line of JSON.")
@one_line
def serve(host: str, port: int, *, as_json: bool) -> None:
    """Answer predictions of every production model over HTTP, until SIGTERM.

    RETRAIN_SERVE_KEYS names the keys that are asked for, separated by commas.
    """
    from retrain_assets.serving.run import serve as run

    def tell(message: str) -> None:
        click.echo(json.dumps({"message": message}) if as_json else message, err=not as_json)

    keys = tuple(filter(None, os.environ.get("RETRAIN_SERVE_KEYS", "").split(",")))
    root = storage()
    states = {name: model.state(root) for name, model in models().items()}
    run(root, states, host, port, keys, tell)


COMMANDS = (serve,)
