"""Propose the versions to decide on: new fits, or a held candidate that is judged once more.

A held candidate is reconsidered without a new fit, on the partitions that have come since. It gets
a new version number, because a version is decided on once; its files stay the same. Not here: when
it is reconsidered, and judging it.
"""

from collections.abc import Callable, Sequence

from retrain_assets.steps.decision import train
from retrain_assets.steps.decision.evaluate import list_unseen_partitions, read_evaluation
from retrain_assets.steps.state import ModelState, digest_of
from retrain_assets.stores.registry.registry import ModelVersion


def propose(
    state: ModelState,
    held_version: int | None,
    as_of: str | None,
    why: tuple[Sequence[str], str],
    start_run: Callable[[], str],
) -> list[ModelVersion]:
    """Return the versions to decide on; the first becomes the alias `candidate`.

    Args:
        state: The model.
        held_version: The held version to reconsider, if the request is for one.
        as_of: Last partition to train or to judge on; the newest mature one by default.
        why: The causes of the request, and its reason in words.
        start_run: A function that starts the MLflow run to which a new fit is logged.
    """
    if held_version is not None and as_of is not None:
        return [reconsider_held(state, held_version, as_of, *why)]
    return train.train_candidates(state, train.plan(state, as_of, *why), start_run)


def reconsider_held(
    state: ModelState, number: int, as_of: str, causes: Sequence[str], because: str = ""
) -> ModelVersion:
    """Register a held version once more, as `candidate`, unless an earlier run has done so.

    Args:
        state: The model.
        number: The version that was held.
        as_of: Last partition to judge it on.
        causes: The causes of the request.
        because: Its reason, in words.
    """
    registry, version = state.registry, state.registry.version(number)
    since = _last_compared_partition(state, version)
    inputs = {"held": version.tags["candidate_id"], "since": since, "as_of": as_of}
    tags = inputs | {"candidate_id": digest_of(inputs), "held": str(number), train.DECISION_TAG: ""}
    candidate = registry.find({"candidate_id": tags["candidate_id"], "role": "gated"})
    if candidate is None:
        tags |= {"causes": ", ".join(causes), "because": because}
        rows = train.sample(state, list_unseen_partitions(state, version.tags | tags))
        output = train.predict_sample(state, registry.load(number, version.sha256), rows)
        candidate = registry.register_again(
            version, tags, train.compute_metrics(state, rows, output)
        )
    registry.set_alias(train.CANDIDATE, candidate.version)
    return candidate


def _last_compared_partition(state: ModelState, version: ModelVersion) -> str:
    """Return the last partition on which a held version was compared.

    If there were too few partitions to compare, all of them can be used again.
    """
    production = state.ledger.read().production_version
    evaluation = read_evaluation(state, version.version, production)
    if evaluation is None or evaluation.evidence:
        return version.tags["as_of"]
    return version.tags.get("since", version.tags["train_to"])
