"""The card of a version: what a person asks of a model, on one page that is a file.

What is judged is the gated fit on its holdout: a refit has seen every row there is. Not here: how
the page looks.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.metrics.metrics import (
    block_values,
    evaluate,
    get_gate_metric,
    list_metrics,
    margin,
)
from retrain_assets.domain.model.estimator import predict
from retrain_assets.domain.windows import exclude_range, take_through
from retrain_assets.reports.movers import draw_watched_drift
from retrain_assets.reports.page import render_page, render_sections
from retrain_assets.reports.plots import draw_holdout, draw_importance
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.decision.evaluate import read_evaluation
from retrain_assets.steps.decision.train import SPEC_FILE, Sample, get_classes, sample
from retrain_assets.steps.inspect.lineage import DECIDED
from retrain_assets.steps.state import MONITORING_SCHEMA, ModelState
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    Parts = dict[str, list[Any]]

SHUFFLED_ROWS, DRIFT_PARTITIONS, CONFIDENCE = 5_000, 60, 0.95
LONG = ("metrics", "trained_on")  # tags that are shown otherwise, or are a line a partition


def write_card(state: ModelState, registry: ModelRegistry, number: int, folder: Path) -> Path:
    """Write the card of a version to a file, and beside its files in MLflow.

    Args:
        state: The model.
        registry: Its versions.
        number: Of the version.
        folder: Where the file goes, as `<model>/card-<version>.html`.

    Raises:
        RegistryError: There is no such version.
        ModelFileError: Its file was changed.
        StorageError: The rows it was judged on are damaged.
    """
    path = folder / state.spec.name / f"card-{number}.html"  # MLflow's run may be its parent's too
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(card(state, registry, number), encoding="utf-8")
    registry.client.log_artifact(registry.version(number).run_id, path)
    return path


def card(state: ModelState, registry: ModelRegistry, number: int) -> str:
    """The card of a version as HTML; see `write_card`."""
    name, found = state.spec.name, registry.version(number)
    told = [row for row in state.ledger.read().rows if number in (row.version, row.candidate)]
    gated = registry.version(int(found.tags.get("parent", number)))
    made = {tag: value for tag, value in found.tags.items() if value and tag not in LONG}
    decided = [{column: getattr(row, column) for column in ("version", *DECIDED)} for row in told]
    parts = {
        "Decisions": [decided or "Nothing was decided on it yet."],
        **_judged(state, registry, gated, told),
        **_drift(state, gated),
        "What it was made from": [[{"tag": tag, "value": made[tag]} for tag in sorted(made)]],
        "Build it again, go back": [
            f"retrain reproduce {name} {number}: builds it again, unless adopted, and compares",
            f"retrain rollback {name} --reason WHY: from it, to the version before",
            f"retrain rollback {name} --to {number} --reason WHY: back to it, once it has served",
        ],
    }
    return render_page(f"{name}, version {number}", render_sections(parts))


def _judged(
    state: ModelState, registry: ModelRegistry, gated: ModelVersion, told: list[LedgerRow]
) -> Parts:
    """Figures of the gated fit on rows it has not seen, and what the gate made of them."""
    spec, tags = registry.text(gated, SPEC_FILE), gated.tags
    then = replace(state, spec=ModelSpec.model_validate_json(spec)) if spec else state
    as_of = tags.get("as_of") or (told[0].as_of if told else "")
    keys = take_through(state.mature(), as_of, then.spec.windows.holdout)
    keys = exclude_range(keys, tags["train_from"], tags["train_to"])
    made = tags.get("features_version")
    rows = sample(then, keys, version=int(made) if made else None)
    if not len(rows.target):
        return {"Holdout": ["There are no labelled rows that it was not trained on."]}
    pipeline, kind = registry.load(gated.version, gated.sha256), then.spec.target.kind
    output, classes = predict(pipeline, kind, rows.features), get_classes(pipeline)
    where = (
        f"Version {gated.version} on {len(rows.target):,} rows of {len(keys)} partitions, "
        f"{keys[0]} to {keys[-1]}, none of which it was trained on; {CONFIDENCE:.0%} intervals "
        "over partitions."
    )
    known = read_evaluation(state, gated.version, told[0].previous if told else None)
    tables = (known.evidence.get(name) for name in ("guards", "slices")) if known else ()
    measured = [
        _with_interval(metric, rows, output, classes)
        for metric in list_metrics(kind, then.spec.gate)
    ]
    return {
        "Holdout": [where, measured],
        "The gate": [known.reason, known.picture(), *tables] if known else [],
        "Calibration": [draw_holdout(kind, rows.target.to_numpy(), output, classes)],
        "Importance": [draw_importance(*_importance(then, pipeline, rows))],
    }


def _with_interval(
    metric: Any, rows: Sample, output: np.ndarray, classes: list[Any] | None
) -> dict[str, object]:
    """A metric as its row-weighted mean over partitions, and Student's interval of that."""
    found = block_values(metric, rows.target.to_numpy(), output, rows.partitions, classes)
    found = found.drop_nulls("value")
    if found.is_empty():  # such as roc_auc where no partition has both classes
        return {"metric": str(metric), "value": math.nan, "low": math.nan, "high": math.nan}
    values, counts = found["value"].to_numpy(), found["rows"].to_numpy()
    mean = float(np.average(values, weights=counts))
    half = margin(values, counts, (1 + CONFIDENCE) / 2)
    return {"metric": str(metric), "value": mean, "low": mean - half, "high": mean + half}


def _importance(
    state: ModelState, pipeline: Pipeline, rows: Sample
) -> tuple[dict[str, float], str]:
    """How much worse predictions are with each feature shuffled, and how that is measured."""
    metric, every = get_gate_metric(state.spec.gate), max(1, len(rows.target) // SHUFFLED_ROWS)
    features, target = rows.features.gather_every(every), rows.target.gather_every(every)

    def value(given: pl.DataFrame) -> float:
        output = predict(pipeline, state.spec.target.kind, given)
        return evaluate(metric, target.to_numpy(), output, get_classes(pipeline))

    whole, sign = value(features), 1 if metric.greater_is_better else -1
    shuffled = {name: pl.col(name).shuffle(state.spec.seed) for name in features.columns}
    worth = {n: sign * (whole - value(features.with_columns(shuffled[n]))) for n in shuffled}
    return worth, f"how much worse {metric} is when its values are shuffled, {len(target):,} rows"


def _drift(state: ModelState, gated: ModelVersion) -> Parts:
    """What was monitored before it was trained."""
    last = pl.col(PARTITION).unique().sort().tail(DRIFT_PARTITIONS).implode()
    before = pl.col(PARTITION) <= gated.tags.get("as_of", "")
    shown = state.stored("monitoring", MONITORING_SCHEMA, before)
    return {
        "The drift before it": [draw_watched_drift(shown.filter(pl.col(PARTITION).is_in(last)))]
    }
