"""What a decision is asked on: new fits, or a held candidate that is taken up again.

That is the same fit, judged on the partitions that have come since. It is registered once more,
under a number of its own, as one version is decided on once; its files are those of the version
that was held. Not here: when it is taken up, and judging it.
"""

from collections.abc import Callable, Sequence

from retrain_assets.steps.decision.candidates import BESIDE, candidates
from retrain_assets.steps.decision.evaluate import stored, unseen
from retrain_assets.steps.decision.train import CANDIDATE, holdout_metrics, plan, predicted, sample
from retrain_assets.steps.state import ModelState, digest_of
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion


def proposed(
    state: ModelState,
    registry: ModelRegistry,
    held: int | None,
    as_of: str | None,
    why: tuple[Sequence[str], str],
    mlflow_run: Callable[[], str],
) -> list[ModelVersion]:
    """The versions to decide on, the one that becomes `candidate` first.

    Args:
        state: The model.
        registry: Its versions.
        held: The version to take up again, if it is one.
        as_of: Last partition to train or to judge on; the newest mature one by default.
        why: The causes that asked for it, and why in words.
        mlflow_run: Starts the MLflow run that a new fit is logged to.
    """
    if held is not None and as_of is not None:
        return [taken_up(state, registry, held, as_of, *why)]
    return candidates(state, registry, plan(state, as_of, *why), mlflow_run)


def taken_up(
    state: ModelState,
    registry: ModelRegistry,
    number: int,
    as_of: str,
    causes: Sequence[str],
    because: str = "",
) -> ModelVersion:
    """The held version as of a later partition, as `candidate`: an earlier run's, or a new number.

    Args:
        state: The model.
        registry: Its versions.
        number: The version that was held.
        as_of: Last partition to judge it on.
        causes: What asked for it.
        because: Why, in words.
    """
    held = registry.version(number)
    since = _looked_through(state, held)
    named = {"held": held.tags["candidate_id"], "since": since, "as_of": as_of}
    tags = named | {"candidate_id": digest_of(named), "held": str(number), BESIDE: ""}
    found = registry.find({"candidate_id": tags["candidate_id"], "role": "gated"})
    if found is None:
        tags |= {"causes": ", ".join(causes), "because": because}
        found = registry.again(held, tags, _metrics(state, registry, held, held.tags | tags))
    registry.set_alias(CANDIDATE, found.version)
    return found


def _looked_through(state: ModelState, held: ModelVersion) -> str:
    """The last partition on which it was compared; where there were too few, none counts."""
    now = state.ledger.read().production
    before = stored(state, held.version, now.version if now else None)
    compared = before is None or before.evidence
    return held.tags["as_of"] if compared else held.tags.get("since", held.tags["train_to"])


def _metrics(
    state: ModelState, registry: ModelRegistry, held: ModelVersion, tags: dict[str, str]
) -> dict[str, float]:
    pipeline, rows = registry.load(held.version, held.sha256), sample(state, unseen(state, tags))
    return holdout_metrics(state, rows, predicted(state, pipeline, rows))
