"""Fit candidates as of a partition and register them as versions.

A candidate is named by everything that determines it, so that a run that starts again after a
crash finds the version that was registered before. One decision may have several candidates, fitted
on training windows of several lengths. Not here: judging candidates.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from io import BytesIO
from typing import Any

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.data.values import null_infinite
from retrain_assets.domain.features.build import BLOCK, KEY, WEIGHT
from retrain_assets.domain.metrics.metrics import list_metrics, mean_over_blocks
from retrain_assets.domain.model.estimator import Fitted, fit, predict
from retrain_assets.domain.model.outliers import OUTLIER
from retrain_assets.domain.windows import Windows, describe_exclusions, split
from retrain_assets.reports import canvas
from retrain_assets.reports.plots import draw_holdout
from retrain_assets.reports.search_plot import draw_search
from retrain_assets.specs.gate import OBJECTIVE
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps import state as facts
from retrain_assets.steps.decision.journal import open_journal
from retrain_assets.steps.state import ModelState, data_digest, digest_of
from retrain_assets.stores.checkout import checkout, installed
from retrain_assets.stores.engine import IN_PROCESS
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion

EXAMPLE_ROWS = 5
CANDIDATE, STAGING, PRODUCTION = "candidate", "staging", "production"
PREDICTION_COLUMN = "prediction"
DECISION_TAG = "beside"  # the tag that all candidates of one decision share
# Scikit-learn and matplotlib take seconds to import.
Model = Any  # a fitted pipeline
Figure = Any
FIT = "fit"  # the first part of the name of a fit in memory
SPEC_FILE, PACKAGES_FILE, SEARCH_FILE = "spec.json", "packages.json", "search.csv"


@dataclass(frozen=True)
class Plan:
    """Describe a candidate before it is trained.

    Args:
        windows: Training and holdout partitions.
        tags: The tags of its version; `candidate_id` is the digest of all that determines it.
    """

    windows: Windows
    tags: dict[str, str]


@dataclass(frozen=True)
class Sample:
    """Hold labelled rows of some partitions, in a fixed order.

    Args:
        features: One column a feature.
        target: Labels, never null.
        partitions: The partition of each row.
        blocks: The block of each row, the unit that is resampled when models are compared.
        weight: Row weights, if the model has them.
        data: Digest of the data of each partition.
    """

    features: pl.DataFrame
    target: pl.Series
    partitions: pl.Series
    blocks: pl.Series
    weight: pl.Series | None
    data: dict[str, str]

    @property
    def labels(self) -> np.ndarray:
        """Return the labels, of shape (rows,)."""
        return self.target.to_numpy()

    @property
    def sha256(self) -> str:
        """Return the digest of the rows themselves, in their order."""
        columns = [*self.features.get_columns(), self.target, self.partitions]
        columns += [] if self.weight is None else [self.weight]
        numbered = [column.alias(str(number)) for number, column in enumerate(columns)]
        file = BytesIO()
        pl.DataFrame(numbered).rechunk().write_ipc(file, compat_level=pl.CompatLevel.oldest())
        return sha256(file.getbuffer()).hexdigest()


@dataclass(frozen=True)
class Trained(Fitted):
    """Hold a fitted pipeline and the data that it was fitted on.

    Args:
        partitions: The training partitions.
        data: Digest of the data of each.
        example: A few rows on which the pipeline is checked whenever it is loaded.
        rows_sha256: Digest of the training rows.
    """

    partitions: tuple[str, ...]
    data: dict[str, str]
    example: pl.DataFrame
    rows_sha256: str

    def __reduce__(self) -> tuple[Any, ...]:
        """Take the pipeline to another process as a model file.

        Its digest of content then is that of a fit there, which pickling would change.
        """
        import skops.io

        return _restore, (vars(self) | {"pipeline": skops.io.dumps(self.pipeline)},)


def _restore(values: dict[str, Any]) -> Trained:
    import skops.io

    content = values["pipeline"]
    # The worker has run their code already. They are checked for trust when they are stored.
    types = skops.io.get_untrusted_types(data=content)
    return Trained(**values | {"pipeline": skops.io.loads(content, trusted=types)})


@dataclass(frozen=True)
class Output:
    """Hold what a model predicts for some rows, and the class of each column, if any."""

    pipeline: Model
    values: np.ndarray
    classes: list[Any] | None = None


def read_spec(state: ModelState, text: str) -> ModelSpec:
    """Return the stored spec of a version, with the present name, as the tables have it."""
    return ModelSpec.model_validate_json(text).model_copy(update={"name": state.spec.name})


def plan(state: ModelState, as_of: str | None, causes: Sequence[str], because: str = "") -> Plan:
    """Choose the windows of a candidate and name it.

    Args:
        state: The model.
        as_of: Last partition to use; the newest mature one by default.
        causes: The causes that asked for it.
        because: Why they did, in words.

    Raises:
        TooFewPartitionsError: There is not enough mature history.
    """
    windows, sources = split(state.mature(), state.spec.windows, as_of), state.sources()
    code = state.once(("code", state.recipe), lambda: facts.code_digest(state.spec))
    inputs = {
        "spec_digest": state.recipe,
        "code_digest": code,
        "lock_digest": facts.lock_digest(),
        "as_of": windows.as_of,
    }
    tags = {
        **read_table_versions(state),
        **inputs,
        "candidate_id": digest_of({**{key: sources[key] for key in windows.train}, **inputs}),
        "seed": str(state.spec.seed),
        "threads": str(state.spec.estimator.threads),
        "causes": ", ".join(causes),
        "because": because,
        "checkout": checkout(),
        "window": str(len(windows.train)),
        "role": "gated",
    }
    return Plan(windows, tags)


def _shorten(plan: Plan, length: int) -> Plan:
    """Plan the same candidate on a shorter training window."""
    windows, window = replace(plan.windows, train=plan.windows.train[-length:]), str(length)
    identity = digest_of({DECISION_TAG: plan.tags["candidate_id"], "window": window})
    return Plan(windows, plan.tags | {"window": window, "candidate_id": identity})


def read_table_versions(state: ModelState) -> dict[str, str]:
    """Return the versions of the tables that a fit reads now, as tags of a model's version."""
    datasets = {name: f"{name}/dataset" for name in (state.dataset.name, *state.lookups)}
    tables = {
        "dataset": datasets[state.dataset.name],
        **datasets,
        "features": state.table("features"),
    }
    return {f"{name}_version": str(state.tables.version(table)) for name, table in tables.items()}


def train_candidates(
    state: ModelState, plan: Plan, start_run: Callable[[], str]
) -> list[ModelVersion]:
    """Train the planned candidate, and one on each shorter window that the spec names.

    The first becomes the alias `candidate`. What an earlier run has registered is not fitted again.

    Args:
        state: The model.
        plan: The candidate to train.
        start_run: A function that starts the MLflow run to which a new fit is logged.
    """
    if shorter := state.spec.windows.also:
        plan = replace(plan, tags=plan.tags | {DECISION_TAG: plan.tags["candidate_id"]})
    plans = [plan, *(_shorten(plan, length) for length in shorter)]
    stored = [_find(state, item) for item in plans]
    missing = [item for item, version in zip(plans, stored, strict=True) if version is None]
    # A search stores what it tried, which only this process may do.
    engine = IN_PROCESS if state.spec.estimator.search else state.engine
    fits = engine.map(partial(_fit_plan, state), missing)
    versions = [
        version or _register_candidate(state, item, start_run(), next(fits))
        for item, version in zip(plans, stored, strict=True)
    ]
    state.registry.set_alias(CANDIDATE, versions[0].version)
    return versions


def list_candidates(registry: ModelRegistry, version: ModelVersion) -> list[ModelVersion]:
    """List a candidate and the others of the same decision, the one of the full window first."""
    identity = version.tags.get(DECISION_TAG)
    if not identity:
        return [version]
    tags = {DECISION_TAG: identity, "role": "gated"}.items()
    return [item for item in reversed(registry.versions()) if tags <= item.tags.items()]


def _find(state: ModelState, plan: Plan) -> ModelVersion | None:
    """Return the version of a plan that an earlier run has registered."""
    return state.registry.find({"candidate_id": plan.tags["candidate_id"], "role": "gated"})


def _fit_plan(state: ModelState, plan: Plan) -> Trained:
    version = int(plan.tags["features_version"])
    return fit_model(state, plan.windows.train, version, resume=True)


def _register_candidate(
    state: ModelState, plan: Plan, run_id: str, trained: Trained
) -> ModelVersion:
    """Judge a fit on the holdout of its plan, and register it."""
    holdout = sample(state, plan.windows.holdout)
    output = predict_sample(state, trained.pipeline, holdout)
    metrics, kind = compute_metrics(state, holdout, output), state.spec.target.kind
    parts = kind, holdout.labels, output.values, output.classes
    pictures = {"holdout.png": lambda: draw_holdout(*parts)}
    return register(state, run_id, trained, tags=plan.tags, metrics=metrics, pictures=pictures)


def register(
    state: ModelState,
    run_id: str,
    trained: Trained,
    *,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    pictures: Mapping[str, Callable[[], Figure]] | None = None,
) -> ModelVersion:
    """Log a fitted pipeline to its MLflow run and register it as a version."""
    first, last = trained.partitions[0], trained.partitions[-1]
    texts = {
        SPEC_FILE: state.spec.model_dump_json(indent=2),
        PACKAGES_FILE: json.dumps(installed(), indent=2),
    }
    plots = {**(pictures or {})}
    if (search := trained.search) is not None:
        texts[SEARCH_FILE] = search.write_csv()
        plots["search.png"] = lambda: draw_search(search)
    return state.registry.log_version(
        run_id,
        trained.pipeline,
        example=trained.example,
        prediction=predict(trained.pipeline, state.spec.target.kind, trained.example),
        params=trained.params,
        metrics=metrics,
        tags={
            **tags,
            "train_from": first,
            "train_to": last,
            "trained_on": json.dumps(trained.data),
            "rows_sha256": trained.rows_sha256,
            "excluded": describe_exclusions(state.spec.exclude, first, last),
        },
        texts=texts,
        # Drawn where they are stored, so not in a replay.
        pictures={name: partial(_draw, draw) for name, draw in plots.items()},
    )


def _draw(draw: Callable[[], Figure]) -> bytes:
    return canvas.to_png(draw())


def fit_model(
    state: ModelState,
    partitions: Sequence[str],
    version: int | None = None,
    *,
    resume: bool = False,
) -> Trained:
    """Fit the model's recipe on some partitions, or return the fit that is in memory.

    Args:
        state: The model.
        partitions: Keys of the partitions.
        version: Version of the features table; the newest by default.
        resume: Whether a search is kept, and goes on where a run before this one ended.
    """
    keys = tuple(partitions)

    def fit_once() -> Trained:
        rows = sample(state, keys, fitting=True, version=version)
        journal = open_journal(state, rows.sha256, resume=resume)
        inputs = rows.features, rows.target, rows.partitions, rows.weight
        model = fit(state.spec, *inputs, journal, map_folds=state.engine.map)
        # A copy: a slice would keep all rows in memory.
        example = rows.features.filter(pl.int_range(pl.len()) < EXAMPLE_ROWS)
        return Trained(
            **vars(model), partitions=keys, data=rows.data, example=example, rows_sha256=rows.sha256
        )

    return state.once(name_fit(state.spec, keys), fit_once)


def name_fit(spec: ModelSpec, partitions: Sequence[str]) -> tuple[str, ...]:
    """Return the name under which policies share a fit: all that determines it, and no more."""
    objective = spec.gate.model_dump_json(include=set(OBJECTIVE))
    inputs = spec.model_dump_json(include={"estimator", "labels", "seed"})
    return FIT, spec.features_recipe, inputs, objective, *partitions


def sample(
    state: ModelState,
    partitions: Sequence[str],
    *,
    fitting: bool = False,
    version: int | None = None,
) -> Sample:
    """Read the labelled rows of some partitions, sorted by partition and key.

    The order is fixed because an estimator that subsamples fits another model to another order.

    Args:
        state: The model.
        partitions: Keys of the partitions.
        fitting: Leave outliers out, if the spec keeps them from training.
        version: Version of the features table; the newest by default.
    """
    table = null_infinite(state.tables.read(state.table("features"), partitions, version=version))
    outliers = state.spec.outliers
    labelled = table.drop_nulls(state.spec.target.column).sort(PARTITION, KEY)
    if fitting and outliers is not None and outliers.action == "quarantine":
        labelled = labelled.filter(~pl.col(OUTLIER).fill_null(value=False))
    built = labelled.select(PARTITION, facts.SOURCE).unique().sort(PARTITION)
    return Sample(
        features=labelled.select(state.feature_names),
        target=labelled[state.spec.target.column],
        partitions=labelled[PARTITION],
        blocks=labelled[BLOCK if state.spec.blocks else PARTITION],
        weight=labelled[WEIGHT] if state.spec.weight else None,
        data={key: data_digest(source) for key, source in built.iter_rows()},
    )


def predict_sample(state: ModelState, pipeline: Model, rows: Sample) -> Output:
    """Predict the rows of a sample."""
    values = predict(pipeline, state.spec.target.kind, rows.features)
    return Output(pipeline, values, get_classes(pipeline))


def to_column(classes: Sequence[Any] | None, output: np.ndarray) -> pl.Series:
    """Return a model's output as one column: the number, or the most likely of its classes."""
    if output.ndim == 1:
        return pl.Series(PREDICTION_COLUMN, output)
    names = pl.Series(PREDICTION_COLUMN, list(classes or ()), dtype=pl.String)
    return names.gather(output.argmax(axis=1))


def get_classes(pipeline: Model) -> list[Any] | None:
    """Return the class of each column of a classifier's output; None for a regression."""
    classes = getattr(pipeline, "classes_", None)
    return None if classes is None else list(classes)


def list_missing_features(state: ModelState, pipeline: Model) -> list[str]:
    """List the features that a model was trained on and the YAML no longer makes."""
    return [name for name in pipeline["encode"].columns_ if name not in state.feature_names]


def compute_metrics(state: ModelState, rows: Sample, output: Output) -> dict[str, float]:
    """Return each metric of the model's kind, as the mean over partitions weighted by rows."""
    inputs = rows.labels, output.values, rows.partitions, output.classes
    metrics = list_metrics(state.spec.target.kind, state.spec.gate)
    return {metric.name: mean_over_blocks(metric, *inputs) for metric in metrics}
