"""Commands by which a person decides: approve, adopt, release, rollback, pause, resume.

Each but `adopt` and `release` is a run of the job of the same name, which the UI has too. Not here:
what is done.
"""

from typing import Any

import click

from retrain_assets.cli import base
from retrain_assets.cli.base import command, show
from retrain_assets.steps.decision.adopt import adopt as adopt_version
from retrain_assets.steps.decision.release import publish as publish_version
from retrain_assets.steps.inspect import status
from retrain_assets.steps.inspect.card import write_card
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.place import STORES

ADDRESSES = ("models:/", "github:", *(f"{store}://" for store in STORES))
reason_option = click.option("--reason", required=True, help="Why; the record shows it.")
by_option = click.option("--by", default="command line", help="Who decides; the record shows it.")
required_by = click.option("--by", required=True, help="Who decides; the ledger shows it.")


@command
@click.argument("model")
@click.argument("version", type=int, required=False)
@click.option("--layer", is_flag=True, help="Approve the adaptive layer, and no version.")
@required_by
@reason_option
def approve(model: str, **config: Any) -> None:
    """Put the version that waits for approval into production, or let the layer serve."""
    if (config["version"] is None) != config["layer"]:
        raise click.UsageError("give the version that waits, or --layer")
    row = _decide(model, "approve", config)
    promoted = f"version {row['version']} is in production"
    show(row, f"{model}: {'the adaptive layer serves' if config['layer'] else promoted}")


@command
@click.argument("model")
@click.option("--from", "source", metavar="SOURCE", required=True, help="The model, see above.")
@click.option("--trained-through", required=True, help="Last partition it was trained on.")
@required_by
@reason_option
def adopt(model: str, source: str, **details: str) -> None:
    """Take a model that a team already runs, or a released version, as the first in production.

    SOURCE is models:/name/version, the folder of an MLflow model (scikit-learn), a native file of
    LightGBM, XGBoost or CatBoost, or what `retrain release` has made. Code in the file of a model
    of scikit-learn runs: adopt none whose code you would not run yourself.
    """
    state = base.open_model(model)
    place = source if source.startswith(ADDRESSES) else str(base.start_folder() / source)
    row = adopt_version(state, place, **details)
    show(row.for_people(), f"{model}: version {row.version} is in production")
    # The card comes last, because the decision stands without it.
    write_card(state, row.version, base.storage().cards)


@command
@click.argument("model")
@click.option("--version", type=int, help="By default the one in production.")
@click.option("--to", "target", required=True, help="github:OWNER/REPO, a folder, or s3://…")
def release(model: str, version: int | None, target: str) -> None:
    """Publish a version, with its card, contract and digests, for `retrain adopt` elsewhere.

    GITHUB_TOKEN is needed for GitHub, where the release gets the tag MODEL-vVERSION. With
    RETRAIN_RELEASE_KEY it is signed.
    """
    place = target if target.startswith(ADDRESSES) else str(base.start_folder() / target)
    value = publish_version(base.open_model(model), version, place)
    show(value, f"{model}: version {value['version']} is released as {value['source']}")


@command
@click.argument("model")
@click.option("--to", type=int, help="The version; by default the one before the present.")
@reason_option
@by_option
def rollback(model: str, **config: Any) -> None:
    """Put an earlier version back into production."""
    if config["to"] is None:
        del config["to"]
    row = _decide(model, "rollback", config)
    show(row, f"{model}: version {row['version']} is in production again")


@command
@click.argument("model")
@click.option("--until", required=True, help="First partition as of which retraining may start.")
@reason_option
@by_option
def pause(model: str, **config: str) -> None:
    """Start no retraining before the newest partition with final labels reaches --until."""
    _operate(model, "pause", config)
    show({"model": model, **config}, f"{model}: no retraining before {config['until']}")


@command
@click.argument("model")
@reason_option
@by_option
def resume(model: str, **config: str) -> None:
    """End a pause."""
    before = base.open_model(model).ledger.read_pause()
    _operate(model, "resume", config)
    until = before and before.until
    text = f"the pause until {until} is over" if before else "there was no pause"
    show({"model": model, "until": until, **config}, f"{model}: {text}")


def _decide(model: str, operation: str, config: dict[str, Any]) -> dict[str, Any]:
    """Run an operation and return the ledger's row of it."""
    return status.history(_operate(model, operation, config))[-1]


def _operate(model: str, operation: str, config: dict[str, Any]) -> ModelState:
    """Run an operation and return the state of its model."""
    state = base.open_model(model)
    job = f"{state.spec.group}_{operation}"
    ops = {f"{job}_op": {"config": {"model": model, **config}}}
    base.execute(job, run_config={"ops": ops})
    return state
