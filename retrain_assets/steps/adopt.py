"""Take the model that a team already runs as the first in production.

Nothing is known of what it was trained on but through which partition, which its owner says: all
before counts as seen. So the gate judges it and its challengers on later partitions alone, and
drift is held against what is stored of those before. Not here: loading what is foreign.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from retrain_assets.domain.foreign import taking_features
from retrain_assets.steps.build import stored_features
from retrain_assets.steps.decide import DecisionError, reconcile, seen_through
from retrain_assets.steps.judge import store_expected_output
from retrain_assets.steps.train import (
    EXAMPLE_ROWS,
    Trained,
    holdout_metrics,
    predicted,
    register,
    sample,
)
from retrain_assets.stores.foreign_model import load_foreign, new_run
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.model_file import content_digest

if TYPE_CHECKING:
    from retrain_assets.steps.state import ModelState
    from retrain_assets.stores.models import ModelRegistry, ModelVersion

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
