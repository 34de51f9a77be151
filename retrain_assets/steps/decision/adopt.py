"""Put a model that a team already runs into production, as the first version.

Not here: loading the file of such a model (`stores.registry`).
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from retrain_assets.domain.model.estimator import refuse_wrong_kind, wrap_fitted
from retrain_assets.domain.model.families.family import TrainingError
from retrain_assets.steps.decision import judge, promote, train
from retrain_assets.steps.features.build import read_features
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.registry import (
    model_check,
    model_file,
    native_file,
    registry,
    release,
    signature,
)

ADOPTED = "adopted_from"  # tag of a version that was trained elsewhere


def adopt(
    state: ModelState, source: str, *, trained_through: str, reason: str, by: str
) -> LedgerRow:
    """Register a foreign model as a version and put it into production.

    Args:
        state: The model.
        source: `models:/name/version`, `github:OWNER/REPO@TAG`, the folder of an MLflow model or of
            a release, or a native file of LightGBM, XGBoost or CatBoost.
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
        raise promote.DecisionError(
            f"model {name}: version {history.production_version} is in production: a model can be "
            "adopted only as the first version, and later versions must pass the gate"
        )
    version = _register(state, source, _find_data_range(state, trained_through))
    check = state.registry.check_in_clean_process(version, state.spec.target.kind)
    if not check.passed:
        raise promote.DecisionError(f"model {name}: {source} does not answer: {check.detail}")
    row = LedgerRow(
        **promote.describe_decision(state, history, version),
        as_of=max(state.mature(), default=trained_through),
        action="adopt",
        candidate=version.version if version.metrics else None,
        reason=f"{reason} (from {source}, trained through {trained_through})",
        causes=("request",),
        metrics=version.metrics,
        by=by,
        recipe=state.recipe,
    )
    return promote.commit(state, row, history)


def _find_data_range(state: ModelState, through: str) -> tuple[str, str]:
    """Return the range of all that is stored through a partition, as its training data.

    Raises:
        DecisionError: That is nothing.
    """
    built, name = state.built(), state.spec.name
    if not state.dataset.partition.is_key(through) or not built or min(built) > through:
        raise promote.DecisionError(
            f"model {name}: drift is measured against what a model was trained on, and nothing is "
            f"monitored through {through!r}: backfill some partitions before it"
        )
    if through > max(built):
        raise promote.DecisionError(
            f"model {name}: it cannot be trained through {through}, as the newest partition that "
            f"is stored is {max(built)}: name that or an earlier one"
        )
    return min(built), through


def _register(state: ModelState, source: str, data_range: tuple[str, str]) -> registry.ModelVersion:
    """Register the model; without metrics if there are no rows on which it was not trained."""
    import skops.io

    windows, last = state.spec.windows, data_range[1]
    keys = windows.take(state.trained_on(tuple(state.built()), data_range))
    features = read_features(state, keys).select(state.feature_names)
    pipeline = _load(state, source, last, features)
    unseen = [key for key in state.mature() if key > last][-windows.holdout :]
    rows = train.sample(state, unseen)
    output = train.predict_sample(state, pipeline, rows) if len(rows.target) else None
    metrics = train.compute_metrics(state, rows, output) if output else {}
    tags = {ADOPTED: source, "content": model_file.content_digest(skops.io.dumps(pipeline))}
    example = features.head(train.EXAMPLE_ROWS)
    trained = train.Trained(pipeline, {}, None, data_range, {}, example, "")
    version = state.registry.find({**tags, "train_to": last}) or train.register(
        state, registry.new_run(state.registry), trained, tags=tags, metrics=metrics
    )
    if output:
        judge.store_expected_output(state, version, output, rows)
    return version


def _load(state: ModelState, source: str, last: str, features: pl.DataFrame) -> Any:
    """Load a foreign model behind the features of the spec, or a released pipeline as it is.

    Raises:
        DecisionError: The release was trained on later partitions, or predicts something else here.
        TrainingError: It wants columns that the spec does not make, or is of another kind.
        ModelFileError: It cannot be loaded.
    """
    kind, trusted = state.spec.target.kind, state.spec.estimator.trusted
    if not release.is_release(source):
        if os.environ.get(signature.TRUSTED):
            raise model_file.ModelFileError(
                f"{source} is not a release: while {signature.TRUSTED} is set, only signed "
                "releases are adopted; unset it to adopt this model"
            )
        if (native := registry.read_native(source, state.registry)) is not None:
            return native_file.take_over(native, source, kind, features)
        return wrap_fitted(registry.load_foreign(source, state.registry), kind, features)
    files, facts = release.read(source)
    if str(facts.get("train_to", "")) > last:
        raise promote.DecisionError(f"{source} was trained through {facts['train_to']}, not {last}")
    sha256 = str(facts.get("sha256", ""))
    with TemporaryDirectory() as folder:  # a new process tries it first, whatever it holds
        paths = [Path(folder) / name for name in (model_file.MODEL_FILE, model_check.EXAMPLE_FILE)]
        for path in paths:
            path.write_bytes(files[path.name])
        check = model_check.check_file(paths[0], sha256, paths[1], kind, trusted)
    if not check.passed:
        raise promote.DecisionError(f"{source} does not predict as when released: {check.detail}")
    pipeline = model_file.load_model(files[model_file.MODEL_FILE], sha256, source, trusted)
    if missing := {*pipeline[0].columns_} - {*features.columns}:
        names = ", ".join(sorted(missing))
        raise TrainingError(f"it needs {names}, but the YAML does not make them")
    refuse_wrong_kind(pipeline, kind)
    return pipeline
