"""What a person decides: to approve, to roll back, to hold retraining back, to let it go on.

Take the model that a team already runs as the first in production.

Not here: what the gate decides, and telling people.
"""

from dataclasses import asdict, replace
from datetime import UTC, datetime

from retrain_assets.domain.decision.situation import Pause
from retrain_assets.domain.model.estimator import taking_features
from retrain_assets.steps.decision.judge import store_expected_output
from retrain_assets.steps.decision.promote import DecisionError, reconcile, seen_through
from retrain_assets.steps.decision.train import (
    EXAMPLE_ROWS,
    Trained,
    holdout_metrics,
    predicted,
    register,
    sample,
)
from retrain_assets.steps.features.build import stored_features
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import Action, History, LedgerRow, reversible
from retrain_assets.stores.registry.model_file import content_digest
from retrain_assets.stores.registry.registry import (
    ModelRegistry,
    ModelVersion,
    load_foreign,
    new_run,
)


def approve(
    state: ModelState, registry: ModelRegistry, version: int, reason: str, by: str
) -> LedgerRow:
    """Put the version that waits for approval into production.

    Args:
        state: The model.
        registry: Its versions.
        version: The version.
        reason: Why, for the ledger.
        by: Who approves.

    Raises:
        DecisionError: Another version waits, or none.
    """
    history = state.ledger.read()
    staged = history.staged
    if staged is None or staged.version != version:
        waits = f"version {staged.version} does" if staged else "none does"
        raise DecisionError(
            f"model {state.spec.name}: version {version} does not wait for approval: {waits}"
        )
    return _serve(state, registry, history, staged, action="approve", reason=reason, by=by)


def roll_back(
    state: ModelState, registry: ModelRegistry, to: int | None, reason: str, by: str
) -> LedgerRow:
    """Put an earlier version back into production.

    One that was killed once it stood in the ledger is finished, and not followed by another.

    Args:
        state: The model.
        registry: Its versions.
        to: The version; the one before the present by default.
        reason: Why, for the ledger.
        by: Who asks.

    Raises:
        DecisionError: There is no such version to go back to; the message lists those there are.
    """
    history = state.ledger.read()
    last = history.rows[-1] if history.rows else None
    again = last is not None and last.action == "rollback" and to in (None, last.version)
    if last is not None and again and reconcile(registry, history):
        return last
    served = reversible(history.rows)
    if history.production is None or (len(served) < 2 and to is None):  # noqa: PLR2004 now and before
        raise DecisionError(f"model {state.spec.name}: no earlier version to roll back to")
    now = history.production
    target = to if to is not None else next(v for v in served if v != now.version)
    if target == now.version or target not in served:
        others = ", ".join(str(version) for version in served if version != now.version)
        raise DecisionError(
            f"model {state.spec.name}: cannot roll back to version {target}: "
            f"version {now.version} is in production, earlier ones are {others or 'none'}"
        )
    then = next(row for row in reversed(history.rows) if row.version == target)
    return _serve(state, registry, history, then, action="rollback", reason=reason, by=by)


def pause(state: ModelState, until: str, reason: str, by: str) -> Pause:
    """Let no retraining be asked for as of any partition before one.

    Raises:
        ValueError: `until` is no partition of the dataset.
    """
    if not state.dataset.partition.is_key(until):
        raise ValueError(f"until: {until!r} is no partition of {state.dataset.name}")
    made = Pause(until, reason, by)
    state.pauses.write(made, {"action": "pause", **asdict(made)})
    return made


def resume(state: ModelState, reason: str, by: str) -> Pause | None:
    """End the pause that stands.

    Returns:
        The pause that stood; None where there was none.
    """
    stood = state.pauses.read()
    if stood is not None:
        state.pauses.write(None, {"action": "resume", "reason": reason, "by": by})
    return stood


def _serve(
    state: ModelState,
    registry: ModelRegistry,
    history: History,
    then: LedgerRow,
    *,
    action: Action,
    reason: str,
    by: str,
) -> LedgerRow:
    """Put the version of an earlier row into production, once it has answered elsewhere.

    Raises:
        DecisionError: A clean process cannot load it, or it predicts something else than it did.
    """
    found = replace(registry.version(then.version), sha256=then.sha256)
    tried = registry.check_in_clean_process(found, state.spec.target.kind)
    if not tried.passed:
        raise DecisionError(
            f"model {state.spec.name}: version {then.version} does not answer, production stays: "
            f"{tried.detail}"
        )
    partitions, now = state.mature(), history.production
    row = replace(
        then,
        time=datetime.now(UTC),
        as_of=partitions[-1] if partitions else then.as_of,
        seen_through=seen_through(state),
        action=action,
        previous=now.version if now else None,
        reason=reason,
        causes=("request",),
        because="",
        by=by,
    )
    reconcile(registry, state.ledger.append(row, history))
    return row


ADOPTED = "adopted_from"  # tag of a version that was not made here


def adopt(
    state: ModelState,
    registry: ModelRegistry,
    source: str,
    *,
    trained_through: str,
    reason: str,
    by: str,
) -> LedgerRow:
    """Register a foreign model as a version and put it into production.

    Args:
        state: The model.
        registry: Its versions.
        source: `models:/name/version`, or the folder of an MLflow model.
        trained_through: The last partition it was trained on.
        reason: Why, for the ledger.
        by: Who asks.

    Raises:
        DecisionError: There is a production already, nothing is stored of what it was trained on,
            or a clean process gets other predictions of it.
        ModelFileError: It cannot be loaded, or stored without code.
        TrainingError: It wants other features or predicts something else.
        StaleTableError: Somebody else decided meanwhile.
    """
    name, history = state.spec.name, state.ledger.read()
    if history.production is not None:
        raise DecisionError(
            f"model {name}: version {history.production.version} is in production: what is adopted "
            "comes first, everything after it by the gate"
        )
    version = _registered(state, registry, source, _data_range(state, trained_through))
    tried = registry.check_in_clean_process(version, state.spec.target.kind)
    if not tried.passed:
        raise DecisionError(f"model {name}: {source} does not answer: {tried.detail}")
    row = LedgerRow(
        time=datetime.now(UTC),
        as_of=max(state.mature(), default=trained_through),
        seen_through=seen_through(state),
        action="adopt",
        version=version.version,
        candidate=version.version if version.metrics else None,
        previous=None,
        reason=f"{reason} (from {source}, trained through {trained_through})",
        causes=("request",),
        data_range=(version.tags["train_from"], version.tags["train_to"]),
        metrics=version.metrics,
        by=by,
        sha256=version.sha256,
        recipe=state.recipe,
    )
    reconcile(registry, state.ledger.append(row, history))
    return row


def _data_range(state: ModelState, through: str) -> tuple[str, str]:
    """All that is stored through a partition, as what it was trained on.

    Raises:
        DecisionError: That is nothing.
    """
    built = state.built()
    first = min(built, default=None)
    if not state.dataset.partition.is_key(through) or first is None or first > through:
        raise DecisionError(
            f"model {state.spec.name}: drift is held against what a model was trained on, and "
            f"nothing is monitored through {through!r}: backfill some partitions before it"
        )
    if through > (last := max(built)):
        raise DecisionError(
            f"model {state.spec.name}: it cannot be trained through {through}, as the newest "
            f"partition that is stored is {last}: give that or an earlier one"
        )
    return first, through


def _registered(
    state: ModelState, registry: ModelRegistry, source: str, data_range: tuple[str, str]
) -> ModelVersion:
    """The version; without metrics where there are no rows that it has not seen."""
    import skops.io

    kind, windows = state.spec.target.kind, state.spec.windows
    seen = state.trained_on(tuple(state.built()), data_range)[-windows.train :]
    known = stored_features(state, seen).select(state.feature_names)
    pipeline = taking_features(load_foreign(source, registry), kind, known)
    unseen = [key for key in state.mature() if key > data_range[1]][-windows.holdout :]
    rows, metrics = sample(state, unseen), {}
    if len(rows.target):
        output = predicted(state, pipeline, rows)
        metrics = holdout_metrics(state, rows, output)
    tags = {ADOPTED: source, "content": content_digest(skops.io.dumps(pipeline))}
    made = Trained(pipeline, {}, None, data_range, {}, known.head(EXAMPLE_ROWS), "")
    version = registry.find({**tags, "train_to": data_range[1]}) or register(
        state, registry, new_run(registry), made, tags=tags, metrics=metrics, figures={}
    )
    if metrics:
        store_expected_output(state, version, output, rows.partitions)
    return version
