"""Release a version: its files leave the platform, for another one or for other programs.

Not here: where they are stored (`stores.registry.release`).
"""

import json
from typing import Any

from retrain_assets.steps.inspect.card import card
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.registry import model_file, release
from retrain_assets.stores.registry.model_check import EXAMPLE_FILE


def publish(state: ModelState, number: int | None, target: str) -> dict[str, Any]:
    """Release a version with its card, its contract and an example.

    Args:
        state: The model.
        number: Of the version; by default the one in production.
        target: `github:OWNER/REPO`, or a folder.

    Returns:
        `model`, `version`, `source` to adopt it from, and `sha256` of the model file.

    Raises:
        LookupError: There is none in production.
        RegistryError: There is no such version.
        ModelFileError: Its file was changed.
        ValueError, GitHubError: See `stores.registry.release.publish`.
    """
    name, history = state.spec.name, state.ledger.read()
    number = number or history.production_version
    if number is None:
        raise LookupError(f"model {name} has no version in production: name one with --version")
    version = state.registry.version(number)
    content = state.registry.file(version.uri, model_file.MODEL_FILE)
    digests = {row.sha256 for row in history.rows if row.version == number} or {version.sha256}
    if (sha256 := model_file.digest(content)) not in digests:
        raise model_file.ModelFileError(
            f"model {name} version {number}: its file was changed: restore it or name another"
        )
    # Who is told of what is nobody's business elsewhere.
    specs = {"model": state.spec, "dataset": state.dataset}
    contract = {k: spec.model_dump(mode="json", exclude={"notify"}) for k, spec in specs.items()}
    files = {
        model_file.MODEL_FILE: content,
        EXAMPLE_FILE: state.registry.file(version.uri, f"extra_files/{EXAMPLE_FILE}"),
        "card.html": card(state, number).encode(),
        "contract.json": json.dumps(contract, indent=2).encode(),
    }
    facts = {"model": name, "version": number, "sha256": sha256, "metrics": version.metrics}
    facts |= {"train_from": version.tags["train_from"], "train_to": version.tags["train_to"]}
    source = release.publish(target, f"{name}-v{number}", files, facts)
    return {"model": name, "version": number, "source": source, "sha256": sha256}
