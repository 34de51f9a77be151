"""Candidates on several training windows, fitted for one decision.

Each is a version, since they are judged in another step than they are fitted in. Not here: which of
them is chosen.
"""

from collections.abc import Callable
from dataclasses import replace

from retrain_assets.steps.decision.train import CANDIDATE, Plan, candidate
from retrain_assets.steps.state import ModelState, digest_of
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion

BESIDE = "beside"  # the tag that all of one decision share


def candidates(
    state: ModelState, registry: ModelRegistry, planned: Plan, mlflow_run: Callable[[], str]
) -> list[ModelVersion]:
    """The version that was planned, as `candidate`, and one on each shorter window.

    Args:
        state: The model.
        registry: Where the versions are, or go.
        planned: What to train.
        mlflow_run: Starts the MLflow run that a new fit is logged to.
    """
    shorter = state.spec.windows.also
    together = {BESIDE: planned.identity} if shorter else {}
    usual = replace(planned, tags=planned.tags | together)
    plans = [usual, *(_shortened(usual, length) for length in shorter)]
    made = [candidate(state, registry, one, mlflow_run) for one in plans]
    registry.set_alias(CANDIDATE, made[0].version)
    return made


def beside(registry: ModelRegistry, version: ModelVersion) -> list[ModelVersion]:
    """A candidate and those that were fitted for the same decision, the usual window first."""
    together = version.tags.get(BESIDE)
    if not together:
        return [version]
    same = {BESIDE: together, "role": "gated"}.items()
    return [found for found in reversed(registry.versions()) if same <= found.tags.items()]


def _shortened(planned: Plan, length: int) -> Plan:
    windows = replace(planned.windows, train=planned.windows.train[-length:])
    identity = digest_of({BESIDE: planned.identity, "window": str(length)})
    return replace(
        planned, windows=windows, identity=identity, tags=planned.tags | {"window": str(length)}
    )
