"""Fit a candidate as of a partition and register it.

A candidate is named by everything that determines it, so that the same work run again after a
crash finds the version that was registered. Not here: judging it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.features.build import BLOCK, KEY, WEIGHT
from retrain_assets.domain.metrics.metrics import mean_over_blocks, offered
from retrain_assets.domain.model.estimator import Fitted, fit, predict
from retrain_assets.domain.model.outliers import OUTLIER
from retrain_assets.domain.windows import Windows, left_out, split
from retrain_assets.reports.plots import holdout_figure
from retrain_assets.steps.state import (
    SOURCE,
    ModelState,
    code_digest,
    data_digest,
    digest_of,
    installed,
    lock_digest,
)
from retrain_assets.stores.checkout import checkout
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from sklearn.pipeline import Pipeline

EXAMPLE_ROWS = 5
CANDIDATE, STAGING, PRODUCTION = "candidate", "staging", "production"
PREDICTION_COLUMN = "prediction"
SPEC_FILE, PACKAGES_FILE = "spec.json", "packages.json"


@dataclass(frozen=True)
class Plan:
    """What is about to be trained.

    Args:
        windows: Training and holdout partitions.
        identity: Digest of all that determines the candidate.
        tags: What is recorded on its version.
    """

    windows: Windows
    identity: str
    tags: dict[str, str]


@dataclass(frozen=True)
class Sample:
    """Labelled rows of some partitions, in a fixed order.

    Args:
        features: One column a feature.
        target: Labels, never null.
        partitions: The partition of each row.
        blocks: The block of each row: what is resampled when models are compared.
        weight: Row weights, where the model has them.
        data: Digest of the data of each partition.
    """

    features: pl.DataFrame
    target: pl.Series
    partitions: pl.Series
    blocks: pl.Series
    weight: pl.Series | None
    data: dict[str, str]

    @property
    def sha256(self) -> str:
        """Digest of the rows themselves, in their order."""
        weights = [] if self.weight is None else [self.weight]
        rows = [*self.features.get_columns(), self.target, self.partitions, *weights]
        numbered = [column.alias(str(number)) for number, column in enumerate(rows)]
        stored = BytesIO()
        pl.DataFrame(numbered).rechunk().write_ipc(stored, compat_level=pl.CompatLevel.oldest())
        return sha256(stored.getbuffer()).hexdigest()


@dataclass(frozen=True)
class Trained(Fitted):
    """A fitted pipeline and what it was fitted on.

    Args:
        partitions: That it was fitted on.
        data: Digest of the data of each.
        example: A few rows it is tried on whenever it is loaded.
        rows_sha256: Digest of the rows it was fitted on.
    """

    partitions: tuple[str, ...]
    data: dict[str, str]
    example: pl.DataFrame
    rows_sha256: str


@dataclass(frozen=True)
class Output:
    """What a model says of rows, as `predict` has it, and the class of each column, if any."""

    values: np.ndarray
    classes: list[Any] | None


def plan(state: ModelState, as_of: str | None, causes: Sequence[str], because: str = "") -> Plan:
    """Choose windows and name the candidate.

    Args:
        state: The model.
        as_of: Last partition to use; the newest mature one by default.
        causes: What asked for it.
        because: Why, in words.

    Raises:
        TooFewPartitionsError: There is not enough mature history.
    """
    windows = split(state.mature(), state.spec.windows, as_of)
    sources = state.sources()
    used = {key: sources[key] for key in windows.train}
    tags = {
        **read_from(state),
        "spec_digest": state.recipe,
        "code_digest": code_digest(state.spec),
        "lock_digest": lock_digest(),
        "seed": str(state.spec.seed),
        "threads": str(state.spec.estimator.threads),
        "as_of": windows.as_of,
        "causes": ", ".join(causes),
        "because": because,
        "checkout": checkout(),
        "window": str(len(windows.train)),
    }
    stable = {key: tags[key] for key in ("spec_digest", "code_digest", "lock_digest", "as_of")}
    return Plan(windows, digest_of({**used, **stable}), tags)


def read_from(state: ModelState) -> dict[str, str]:
    """Versions of the tables that a fit made now goes back to, as its version is tagged."""
    versions = {
        f"{name}_version": str(state.tables.version(f"{name}/dataset"))
        for name in (state.dataset.name, *state.lookups)
    }
    return {
        "dataset_version": versions[f"{state.dataset.name}_version"],
        **versions,
        "features_version": str(state.tables.version(state.table("features"))),
    }


def candidate(
    state: ModelState, registry: ModelRegistry, planned: Plan, mlflow_run: Callable[[], str]
) -> ModelVersion:
    """The version that was planned: what an earlier run registered, or a new fit.

    Args:
        state: The model.
        registry: Where the version is, or goes.
        planned: What to train.
        mlflow_run: Starts the MLflow run that a new fit is logged to.
    """
    found = registry.find({"candidate_id": planned.identity, "role": "gated"})
    return found or _train(state, registry, planned, mlflow_run())


def _train(state: ModelState, registry: ModelRegistry, planned: Plan, run_id: str) -> ModelVersion:
    windows, made = planned.windows, int(planned.tags["features_version"])
    trained, holdout = fitted(state, windows.train, made), sample(state, windows.holdout)
    output, labels = predicted(state, trained.pipeline, holdout), holdout.target.to_numpy()
    shown = state.spec.target.kind, labels, output.values, output.classes
    return register(
        state,
        registry,
        run_id,
        trained,
        tags={**planned.tags, "candidate_id": planned.identity, "role": "gated"},
        metrics=holdout_metrics(state, holdout, output),
        figures={"holdout.png": partial(holdout_figure, *shown)},
    )


def register(
    state: ModelState,
    registry: ModelRegistry,
    run_id: str,
    trained: Trained,
    *,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    figures: Mapping[str, Callable[[], Figure]],
) -> ModelVersion:
    """Log a fitted pipeline to its MLflow run and register it as a version."""
    first, last = trained.partitions[0], trained.partitions[-1]
    texts = {
        SPEC_FILE: state.spec.model_dump_json(by_alias=True, indent=2),
        PACKAGES_FILE: json.dumps(installed(), indent=2),
    }
    if trained.search is not None:
        texts["search.csv"] = trained.search.write_csv()
    return registry.log_version(
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
            "excluded": left_out(state.spec.exclude, first, last),
        },
        texts=texts,
        figures=figures,
    )


def fitted(state: ModelState, partitions: Sequence[str], version: int | None = None) -> Trained:
    """Fit the model's recipe on some partitions, unless that fit is kept.

    Args:
        state: The model.
        partitions: Keys.
        version: Of the features table; the newest by default.
    """
    keys = tuple(partitions)

    def made() -> Trained:
        rows = sample(state, keys, fitting=True, version=version)
        found = fit(state.spec, rows.features, rows.target, rows.partitions, rows.weight)
        # A copy: a slice would keep all rows in memory.
        example = rows.features.filter(pl.int_range(pl.len()) < EXAMPLE_ROWS)
        return Trained(
            **vars(found), partitions=keys, data=rows.data, example=example, rows_sha256=rows.sha256
        )

    return state.once(("fit", state.spec.recipe, *keys), made)


def sample(
    state: ModelState,
    partitions: Sequence[str],
    *,
    fitting: bool = False,
    version: int | None = None,
) -> Sample:
    """Labelled rows of some partitions, sorted by partition and key.

    The order is fixed since estimators that subsample give another model for another order.

    Args:
        state: The model.
        partitions: Keys.
        fitting: Whether outliers are left out, where the spec keeps them from training.
        version: Of the features table; the newest by default.
    """
    table = state.tables.read(state.table("features"), partitions, version=version)
    outliers = state.spec.outliers
    labelled = table.drop_nulls(state.spec.target.column).sort(PARTITION, KEY)
    if fitting and outliers is not None and outliers.action == "quarantine":
        labelled = labelled.filter(~pl.col(OUTLIER).fill_null(value=False))
    built = labelled.select(PARTITION, SOURCE).unique().sort(PARTITION)
    return Sample(
        features=labelled.select(state.feature_names),
        target=labelled[state.spec.target.column],
        partitions=labelled[PARTITION],
        blocks=labelled[BLOCK if state.spec.blocks else PARTITION],
        weight=labelled[WEIGHT] if state.spec.weight else None,
        data={key: data_digest(source) for key, source in built.iter_rows()},
    )


def predicted(state: ModelState, pipeline: Pipeline, rows: Sample) -> Output:
    """What a model says of some rows."""
    output = predict(pipeline, state.spec.target.kind, rows.features)
    return Output(output, classes_of(pipeline))


def as_column(classes: Sequence[Any] | None, output: np.ndarray) -> pl.Series:
    """A model's output as one stored column: the number, or the most likely of its classes."""
    if output.ndim == 1:
        return pl.Series(PREDICTION_COLUMN, output)
    names = pl.Series(PREDICTION_COLUMN, list(classes or ()), dtype=pl.String)
    return names.gather(output.argmax(axis=1))


def classes_of(pipeline: Pipeline) -> list[Any] | None:
    """The class of each column of a classifier's output; None of a regression."""
    classes = getattr(pipeline, "classes_", None)
    return None if classes is None else list(classes)


def lacking(state: ModelState, pipeline: Pipeline) -> list[str]:
    """Features a model was trained on that the spec no longer makes."""
    return [name for name in pipeline["encode"].columns_ if name not in state.feature_names]


def holdout_metrics(state: ModelState, rows: Sample, output: Output) -> dict[str, float]:
    """Every metric of the model's kind on the holdout, as a row-weighted mean over partitions."""
    told = rows.target.to_numpy(), output.values, rows.partitions, output.classes
    return {
        metric.name: mean_over_blocks(metric, *told)
        for metric in offered(state.spec.target.kind, state.spec.gate)
    }
