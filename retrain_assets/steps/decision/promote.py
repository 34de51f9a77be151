"""Put a version into production: on the gate's verdict, by approval, or by rolling back.

One row is committed to the ledger, then the alias follows. The row is committed against the ledger
that was read; whoever loses the race decides again on the new one. The alias is set from the
ledger, and set again wherever the two differ. Not here: the verdict, and telling people.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from retrain_assets.domain.metrics.metrics import get_gate_metric, loss_increase
from retrain_assets.errors import PermanentError
from retrain_assets.steps.decision import evaluate, train
from retrain_assets.steps.decision.judge import align_outputs
from retrain_assets.steps.state import ModelState
from retrain_assets.stores import ledger
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion
from retrain_assets.stores.tables.tables import StaleTableError

ATTEMPTS = 3
# A regularised fit need not be the best on its own rows: 5 % were seen of a logistic regression.
REFIT_TOLERANCE = 0.1
ACTIONS: dict[str, ledger.Action] = {"PROMOTE": "promote", "HOLD": "hold", "REJECT": "reject"}


class DecisionError(RuntimeError):
    """A decision cannot be carried out; the message says why and what would do."""


class WorseRefitError(DecisionError, PermanentError):
    """A refit does worse on its own rows than the fit that passed the gate."""


def decide_candidate(
    state: ModelState, run_id: str, start_run: Callable[[], str]
) -> ledger.LedgerRow:
    """Carry out the verdict on the candidate, once.

    It is the stored verdict, or a new one if production is no longer the version that the candidate
    was judged against. So nothing refused is promoted by asking for this step alone.

    Args:
        state: The model.
        run_id: The run that decides.
        start_run: A function that starts the MLflow run to which a refit is logged.

    Raises:
        DecisionError: The ledger moved on at every attempt.
    """
    for _ in range(ATTEMPTS):
        history, candidate = state.ledger.read(), evaluate.get_candidate(state.registry)
        numbers = (version.version for version in train.list_candidates(state.registry, candidate))
        if (decision := history.decision_on(*numbers)) is not None:
            reconcile(state.registry, history)
            return decision
        stored = evaluate.read_evaluation(state, candidate.version, history.production_version)
        evaluation = stored or evaluate.evaluate(state, history, run_id)
        version = state.registry.version(evaluation.candidate)
        if ACTIONS[evaluation.verdict] == "promote" and state.spec.refit:
            version = _refit(state, version, start_run)
        row = _describe_verdict(state, history, version, evaluation, run_id)
        try:
            return commit(state, row, history)
        except StaleTableError:
            continue
    raise DecisionError(
        f"model {state.spec.name}: other processes added rows to the ledger at each of "
        f"{ATTEMPTS} attempts: run again"
    )


def approve(state: ModelState, version: int | None, reason: str, by: str) -> ledger.LedgerRow:
    """Put the version that waits for approval into production.

    Args:
        state: The model.
        version: The version.
        reason: Why, for the ledger.
        by: Who approves.

    Raises:
        DecisionError: Another version waits, or none.
    """
    history = state.ledger.read()
    staged = history.staged
    if staged is None or staged.version != version:
        waiting = f"version {staged.version} does" if staged else "none does"
        raise DecisionError(
            f"model {state.spec.name}: version {version} does not wait for approval: {waiting}"
        )
    return _serve(state, history, staged, action="approve", reason=reason, by=by)


def roll_back(state: ModelState, to: int | None, reason: str, by: str) -> ledger.LedgerRow:
    """Put an earlier version back into production.

    A rollback that was killed after its ledger row was written is finished, and no second row is
    written.

    Args:
        state: The model.
        to: The version; the one before the present by default.
        reason: Why, for the ledger.
        by: Who asks.

    Raises:
        DecisionError: There is no such version to go back to; the message lists those there are.
    """
    history, name = state.ledger.read(), state.spec.name
    last = history.rows[-1] if history.rows else None
    unfinished = last and last.action == "rollback" and to in {None, last.version}
    if last and unfinished and reconcile(state.registry, history):
        return last
    present = history.production_version
    earlier = [version for version in ledger.list_reversible(history.rows) if version != present]
    if present is None or not (earlier or to):
        raise DecisionError(f"model {name}: no earlier version to roll back to")
    target = earlier[0] if to is None else to
    if target not in earlier:
        raise DecisionError(
            f"model {name}: cannot roll back to version {target}: version {present} is in "
            f"production, earlier ones are {', '.join(map(str, earlier)) or 'none'}"
        )
    row = next(row for row in reversed(history.on_versions) if row.version == target)
    return _serve(state, history, row, action="rollback", reason=reason, by=by)


def commit(state: ModelState, row: ledger.LedgerRow, history: ledger.History) -> ledger.LedgerRow:
    """Append a decision that was made on a ledger to it, and let the aliases follow.

    Raises:
        StaleTableError: Somebody else decided meanwhile.
    """
    reconcile(state.registry, state.ledger.append(row, history))
    return row


def reconcile(registry: ModelRegistry, history: ledger.History) -> bool:
    """Set the aliases `production` and `staging` as the ledger says, and store the ledger's head.

    A stored head that the ledger does not have is left: it is the evidence that the ledger was
    changed.

    Returns:
        Whether an alias had to be changed.
    """
    rows = {train.PRODUCTION: history.production, train.STAGING: history.staged}
    versions = {alias: row.version if row else None for alias, row in rows.items()}
    aliases = registry.read_aliases()
    wrong = [alias for alias, version in versions.items() if aliases.get(alias) != version]
    for alias in wrong:
        registry.set_alias(alias, versions[alias])
    head = registry.ledger_head
    if head != history.head and not history.misfit and (not head or history.has(head)):
        registry.ledger_head = history.head
    return bool(wrong)


def describe_decision(
    state: ModelState, history: ledger.History, version: ModelVersion
) -> dict[str, Any]:
    """Return the fields of a ledger row that any decision on a version has, made now."""
    return {
        "time": datetime.now(UTC),
        # What is decided now serves the partitions after the last one that was monitored.
        "seen_through": max(state.built()),
        "version": version.version,
        "previous": history.production_version,
        "data_range": (version.tags["train_from"], version.tags["train_to"]),
        "sha256": version.sha256,
    }


def _serve(
    state: ModelState,
    history: ledger.History,
    row: ledger.LedgerRow,
    *,
    action: ledger.Action,
    reason: str,
    by: str,
) -> ledger.LedgerRow:
    """Put the version of an earlier row into production, if it answers in a clean process.

    Raises:
        DecisionError: A clean process cannot load it, or it predicts something else than it did.
    """
    version = replace(state.registry.version(row.version), sha256=row.sha256)
    check = state.registry.check_in_clean_process(version, state.spec.target.kind)
    if not check.passed:
        raise DecisionError(
            f"model {state.spec.name}: version {row.version} does not answer, production stays: "
            f"{check.detail}"
        )
    fields = describe_decision(state, history, version) | {"data_range": row.data_range}
    as_of, causes = max(state.mature(), default=row.as_of), ("request",)
    fields |= {"as_of": as_of, "action": action, "causes": causes, "because": ""}
    return commit(state, replace(row, **fields, reason=reason, by=by), history)


def _describe_verdict(
    state: ModelState,
    history: ledger.History,
    version: ModelVersion,
    evaluation: evaluate.Evaluation,
    run_id: str,
) -> ledger.LedgerRow:
    """Return the row of the ledger for the verdict on a candidate."""
    action, tags = ACTIONS[evaluation.verdict], version.tags
    datasets = (state.dataset.name, *state.spec.lookups)
    return ledger.LedgerRow(
        **describe_decision(state, history, version),
        as_of=evaluation.as_of,
        action="stage" if action == "promote" and state.spec.approval == "manual" else action,
        candidate=evaluation.candidate,
        reason=evaluation.reason,
        causes=tuple(filter(None, tags["causes"].split(", "))),
        metrics=evaluation.metrics,
        by=f"run {run_id}",
        recipe=tags["spec_digest"],
        because=tags["because"],
        datasets={name: int(tags[f"{name}_version"]) for name in datasets},
        trained_on=json.loads(tags["trained_on"]),
        more=evaluation.more_partitions,
        gate=state.spec.gate_digest,
    )


def _refit(
    state: ModelState, candidate: ModelVersion, start_run: Callable[[], str]
) -> ModelVersion:
    """Fit the gated recipe once more through the as-of, and register it as the candidate's child.

    Raises:
        WorseRefitError: The refit does worse on the rows it was fitted on than the gated fit did.
    """
    identity = {"parent": str(candidate.version), "role": "refit"}
    match = {**identity, "candidate_id": candidate.tags["candidate_id"]}
    if (existing := state.registry.find(match)) is not None:
        return existing
    windows = state.spec.windows
    keys = [key for key in state.mature() if key <= candidate.tags["as_of"]]
    length = int(candidate.tags.get("window", windows.least))
    is_growing = windows.growing and length not in windows.also
    keys = [*windows.take(keys)] if is_growing else keys[-length:]
    versions = train.read_table_versions(state)
    trained = train.fit_model(state, keys, int(versions["features_version"]), resume=True)
    rows = train.sample(state, keys[-windows.holdout :])
    metrics = _check_refit(state, candidate, trained, rows)
    tags = {**candidate.tags, **identity, **versions}
    return train.register(state, start_run(), trained, tags=tags, metrics=metrics)


def _check_refit(
    state: ModelState, candidate: ModelVersion, refit: train.Trained, rows: train.Sample
) -> dict[str, float]:
    """Return metrics of a refit on rows that only it was trained on, and its distance to the fit.

    Since the refit was trained on these rows, something went wrong if it does worse on them than
    the gated fit.
    """
    metric = get_gate_metric(state.spec.gate).name
    first = state.registry.load(candidate.version, candidate.sha256)
    predictions = (train.predict_sample(state, model, rows) for model in (refit.pipeline, first))
    outputs = align_outputs(*predictions)
    metrics, before = (train.compute_metrics(state, rows, output) for output in outputs)
    loss = loss_increase(get_gate_metric(state.spec.gate), metrics[metric], before[metric])
    if loss > REFIT_TOLERANCE:
        raise WorseRefitError(
            f"model {state.spec.name}: the refit's {metric} on its own rows is {loss:.1%} worse "
            f"than that of version {candidate.version}, which had not seen them: look at the data "
            f"of {rows.partitions[0]} to {rows.partitions[-1]}, then run again"
        )
    distance = float(abs(outputs[0].values - outputs[1].values).mean())
    return {**metrics, "distance_to_gated": distance}
