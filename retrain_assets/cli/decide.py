"""Commands by which a person decides: approve, adopt, rollback, pause, resume.

Each but `adopt` is a run of the job of the same name, which the UI has too. Not here: what is done.
"""

from typing import Any

import click

from retrain_assets.cli.base import command, execute, here, model_named, show, storage

reason = click.option("--reason", required=True, help="Why, for the record.")
by = click.option("--by", default="command line", help="Who asks, for the record.")


@command
@click.argument("model")
@click.argument("version", type=int)
@click.option("--by", required=True, help="Who approves, for the ledger.")
@reason
def approve(model: str, version: int, **why: str) -> None:
    """Put the version that waits for approval into production."""
    row = _decided(model, "approve", version=version, **why)
    show(row, f"{model}: version {row['version']} is in production")


@command
@click.argument("model")
@click.option("--from", "source", required=True, help="models:/name/version, or an MLflow folder.")
@click.option("--trained-through", required=True, help="Last partition it was trained on.")
@click.option("--by", required=True, help="Who adopts, for the ledger.")
@reason
def adopt(model: str, source: str, **asked: str) -> None:
    """Take the scikit-learn model that a team already runs as the first in production.

    Code that is in its file runs: adopt none that you would not run yourself.
    """
    from retrain_assets.steps.decision.adopt import adopt as step
    from retrain_assets.steps.inspect.card import write_card

    state = model_named(model).state(opened := storage())
    place = source if source.startswith("models:/") else str(here() / source)
    row = step(state, registry := opened.registry(model), place, **asked)
    said = f"{model}: version {row.version} is in production"
    show(row.for_people(), said)
    write_card(state, registry, row.version, opened.cards)  # last, as it stands without one


@command
@click.argument("model")
@click.option("--to", type=int, help="The version; the one before the present by default.")
@reason
@by
def rollback(model: str, to: int | None, **why: str) -> None:
    """Put an earlier version back into production."""
    row = _decided(model, "rollback", **why, **({} if to is None else {"to": to}))
    show(row, f"{model}: version {row['version']} is in production again")


@command
@click.argument("model")
@click.option("--until", required=True, help="First partition as of which it may be asked again.")
@reason
@by
def pause(model: str, **config: str) -> None:
    """Let no retraining be asked for as of any partition before one."""
    _operate(model, "pause", config)
    found = {"model": model, **config}
    show(found, f"{model}: no retraining before {config['until']}")


@command
@click.argument("model")
@reason
@by
def resume(model: str, **config: str) -> None:
    """End a pause."""
    stood = model_named(model).state(storage()).pauses.read()
    _operate(model, "resume", config)
    found = {"model": model, "until": stood and stood.until, **config}
    ended = f"the pause until {stood.until} is over" if stood else "there was no pause"
    show(found, f"{model}: {ended}")


def _decided(model: str, operation: str, **config: Any) -> dict[str, Any]:
    """The ledger's row of what a person decided."""
    from retrain_assets.steps.inspect import status

    state = model_named(model).state(storage())
    _operate(model, operation, config)
    return status.history(state)[-1]


def _operate(model: str, operation: str, config: dict[str, Any]) -> None:
    model_named(model)
    ops = {f"{model}_{operation}_op": {"config": config}}
    execute(f"{model}_{operation}", run_config={"ops": ops})
