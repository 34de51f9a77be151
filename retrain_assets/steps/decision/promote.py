"""Act on a verdict: one row in the ledger, then the alias follows.

The ledger row is committed against the ledger that was read; whoever loses the race decides again
on the new one. The alias is set from the ledger, and set again wherever the two differ. Not here:
the verdict, and telling people.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from retrain_assets.domain.decision.gate import Verdict
from retrain_assets.domain.metrics.metrics import judged_by, loss_increase
from retrain_assets.errors import PermanentError
from retrain_assets.steps.decision.candidates import beside
from retrain_assets.steps.decision.evaluate import Evaluation, candidate_version, evaluate, stored
from retrain_assets.steps.decision.judge import aligned
from retrain_assets.steps.decision.train import (
    PRODUCTION,
    STAGING,
    Output,
    Sample,
    fitted,
    holdout_metrics,
    predicted,
    read_from,
    register,
    sample,
)
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import History, LedgerRow
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion
from retrain_assets.stores.tables.tables import StaleTableError

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

ATTEMPTS = 3
# A regularised fit need not be the best on its own rows: 5 % were seen of a logistic regression.
REFIT_TOLERANCE = 0.1
ACTIONS = {Verdict.PROMOTE: "promote", Verdict.HOLD: "hold", Verdict.REJECT: "reject"}


class DecisionError(RuntimeError):
    """A decision cannot be carried out; the message says why and what would do."""


class WorseRefitError(DecisionError, PermanentError):
    """A refit does worse on its own rows than the fit that passed the gate."""


def decide_candidate(
    state: ModelState, registry: ModelRegistry, run_id: str, mlflow_run: Callable[[], str]
) -> LedgerRow:
    """Carry out the verdict on the candidate, once.

    It is the stored verdict, or one reached anew where production is no longer what the candidate
    was judged against; so nothing refused is promoted by asking for this step alone.

    Args:
        state: The model.
        registry: Its versions.
        run_id: Who decides.
        mlflow_run: Starts the MLflow run a refit is logged to.

    Raises:
        DecisionError: The ledger moved on at every attempt.
    """
    for _ in range(ATTEMPTS):
        history = state.ledger.read()
        candidate = candidate_version(registry)
        made = history.decision_on(*(one.version for one in beside(registry, candidate)))
        if made is not None:
            reconcile(registry, history)
            return made
        production = history.production.version if history.production else None
        evaluation = stored(state, candidate.version, production) or evaluate(
            state, registry, history, run_id
        )
        version = candidate = registry.version(evaluation.candidate)
        if evaluation.verdict is Verdict.PROMOTE and state.spec.refit:
            version = _refit(state, registry, candidate, mlflow_run)
        row = _row(state, version, evaluation, history, f"run {run_id}")
        try:
            history = state.ledger.append(row, history)
        except StaleTableError:
            continue
        reconcile(registry, history)
        return row
    raise DecisionError(f"model {state.spec.name}: the ledger moved on {ATTEMPTS} times: run again")


def reconcile(registry: ModelRegistry, history: History) -> bool:
    """Set the aliases `production` and `staging` to what the ledger says, and keep its head.

    A head that the ledger does not have stays: it is the evidence that the ledger was changed.
    Versions without a record beside their files, such as those of a killed run, get one.

    Returns:
        Whether an alias had to be changed.
    """
    said = {PRODUCTION: history.production, STAGING: history.staged}
    wanted = {alias: row.version if row else None for alias, row in said.items()}
    wrong = [alias for alias, version in wanted.items() if registry.alias(alias) != version]
    for alias in wrong:
        registry.set_alias(alias, wanted[alias])
    kept = registry.ledger_head
    if kept != history.head and not history.misfit and (not kept or history.has(kept)):
        registry.ledger_head = history.head
    return bool(wrong)


def _row(
    state: ModelState,
    version: ModelVersion,
    evaluation: Evaluation,
    history: History,
    by: str,
) -> LedgerRow:
    action = ACTIONS[evaluation.verdict]
    if action == "promote" and state.spec.approval == "manual":
        action = "stage"
    return LedgerRow(
        time=datetime.now(UTC),
        as_of=evaluation.as_of,
        seen_through=seen_through(state),
        action=action,  # type: ignore[arg-type]
        version=version.version,
        candidate=evaluation.candidate,
        previous=history.production.version if history.production else None,
        reason=evaluation.reason,
        causes=tuple(filter(None, version.tags["causes"].split(", "))),
        data_range=(version.tags["train_from"], version.tags["train_to"]),
        metrics=evaluation.metrics,
        by=by,
        sha256=version.sha256,
        recipe=version.tags["spec_digest"],
        because=version.tags["because"],
        datasets={
            name: int(version.tags[f"{name}_version"])
            for name in (state.dataset.name, *state.spec.lookups)
        },
        trained_on=json.loads(version.tags["trained_on"]),
        more=evaluation.more_partitions,
    )


def _refit(
    state: ModelState,
    registry: ModelRegistry,
    candidate: ModelVersion,
    mlflow_run: Callable[[], str],
) -> ModelVersion:
    """Fit the gated recipe again through the as-of, and register it as the candidate's child.

    Raises:
        WorseRefitError: The refit judges the rows it was fitted on worse than the gated fit did.
    """
    tags = {"parent": str(candidate.version), "role": "refit"}
    existing = registry.find({**tags, "candidate_id": candidate.tags["candidate_id"]})
    if existing is not None:
        return existing
    mature, windows = state.mature(), state.spec.windows
    length = int(candidate.tags.get("window", windows.train))
    through = [key for key in mature if key <= candidate.tags["as_of"]][-length:]
    made = read_from(state)
    trained = fitted(state, through, int(made["features_version"]))
    rows = sample(state, through[-windows.holdout :])
    metrics = _checked(state, registry, candidate, trained.pipeline, rows)
    tags = {**candidate.tags, **tags, **made}
    return register(state, registry, mlflow_run(), trained, tags=tags, metrics=metrics, figures={})


def _checked(
    state: ModelState,
    registry: ModelRegistry,
    candidate: ModelVersion,
    refit: Pipeline,
    rows: Sample,
) -> dict[str, float]:
    """Metrics of a refit on rows that the gated fit had not seen, and how far the two are apart.

    The refit was trained on these rows, so doing worse on them than the gated fit means that
    something went wrong in between.
    """
    metric, first = judged_by(state.spec.gate), registry.load(candidate.version, candidate.sha256)
    output, gated, classes = aligned(*(predicted(state, model, rows) for model in (refit, first)))
    metrics, before = (
        holdout_metrics(state, rows, Output(said, classes)) for said in (output, gated)
    )
    worse = loss_increase(metric, metrics[metric.name], before[metric.name])
    if worse > REFIT_TOLERANCE:
        raise WorseRefitError(
            f"model {state.spec.name}: the refit's {metric.name} on its own rows is {worse:.1%} "
            f"worse than that of version {candidate.version}, which had not seen them: look at the "
            f"data of {rows.partitions[0]} to {rows.partitions[-1]}, then run again"
        )
    return {**metrics, "distance_to_gated": float(abs(output - gated).mean())}


def seen_through(state: ModelState) -> str:
    """The last partition that was monitored; what is decided now serves those after it."""
    return max(state.built())
