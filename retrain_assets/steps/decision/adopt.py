"""Put a model that a team already runs into production, as the first version.

Not here: loading the file of such a model (`stores.registry`).
"""

from retrain_assets.domain.model.estimator import taking_features
from retrain_assets.steps.decision import train
from retrain_assets.steps.decision.judge import store_expected_output
from retrain_assets.steps.decision.promote import DecisionError, describe_decision, reconcile
from retrain_assets.steps.features.build import read_features
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.registry import registry as registries
from retrain_assets.stores.registry.model_file import content_digest
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion

ADOPTED = "adopted_from"  # tag of a version that was trained elsewhere


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
        TrainingError: It needs other features or predicts something else.
        StaleTableError: Somebody else decided meanwhile.
    """
    name, history = state.spec.name, state.ledger.read()
    if history.production is not None:
        raise DecisionError(
            f"model {name}: version {history.production.version} is in production: what is adopted "
            "comes first, everything after it by the gate"
        )
    version = _register(state, registry, source, _find_data_range(state, trained_through))
    check = registry.check_in_clean_process(version, state.spec.target.kind)
    if not check.passed:
        raise DecisionError(f"model {name}: {source} does not answer: {check.detail}")
    row = LedgerRow(
        **describe_decision(state, history, version),
        as_of=max(state.mature(), default=trained_through),
        action="adopt",
        candidate=version.version if version.metrics else None,
        reason=f"{reason} (from {source}, trained through {trained_through})",
        causes=("request",),
        metrics=version.metrics,
        by=by,
        recipe=state.recipe,
    )
    reconcile(registry, state.ledger.append(row, history))
    return row


def _find_data_range(state: ModelState, through: str) -> tuple[str, str]:
    """Return the range of all that is stored through a partition, as its training data.

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


def _register(
    state: ModelState, registry: ModelRegistry, source: str, data_range: tuple[str, str]
) -> ModelVersion:
    """Register the model; without metrics if there are no rows on which it was not trained."""
    import skops.io

    kind, windows = state.spec.target.kind, state.spec.windows
    keys = state.trained_on(tuple(state.built()), data_range)[-windows.train :]
    features = read_features(state, keys).select(state.feature_names)
    pipeline = taking_features(registries.load_foreign(source, registry), kind, features)
    unseen = [key for key in state.mature() if key > data_range[1]][-windows.holdout :]
    rows, metrics = train.sample(state, unseen), {}
    if len(rows.target):
        output = train.predict_sample(state, pipeline, rows)
        metrics = train.compute_metrics(state, rows, output)
    tags = {ADOPTED: source, "content": content_digest(skops.io.dumps(pipeline))}
    example = features.head(train.EXAMPLE_ROWS)
    trained = train.Trained(pipeline, {}, None, data_range, {}, example, "")
    version = registry.find({**tags, "train_to": data_range[1]}) or train.register(
        state, registry, registries.new_run(registry), trained, tags=tags, metrics=metrics
    )
    if metrics:
        store_expected_output(state, version, output, rows.partitions)
    return version
