"""The card of a version: what a person asks of a model, on one page that is a file.

What is judged is the gated fit on its holdout: a refit has seen every row there is. Not here: how
the page looks.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.metrics import metrics
from retrain_assets.domain.model.estimator import predict
from retrain_assets.domain.model.explanation import Explainer, compare_moves, measure_moves, thin
from retrain_assets.domain.windows import exclude_range, take_through
from retrain_assets.reports import monitoring_plots, page, plots
from retrain_assets.reports.svg import Picture
from retrain_assets.specs.gate import GateSpec
from retrain_assets.steps.decision import train
from retrain_assets.steps.decision.evaluate import read_evaluation
from retrain_assets.steps.inspect.lineage import DECIDED
from retrain_assets.steps.state import MONITORING_SCHEMA, ModelState
from retrain_assets.stores.ledger import LedgerRow, list_reversible
from retrain_assets.stores.place import Place
from retrain_assets.stores.registry.model_file import ModelFileError
from retrain_assets.stores.registry.registry import ModelVersion, RegistryError

Parts = dict[str, list[Any]]
SHUFFLED_ROWS, DRIFT_PARTITIONS, CONFIDENCE = 2_500, 60, 0.95
CHANGES = 10
NOT_EXPLAINED = (AttributeError, KeyError, TypeError, ValueError, RegistryError, ModelFileError)
LONG = ("metrics", "trained_on")  # tags that are shown otherwise, or are a line a partition


def write_card(state: ModelState, number: int, cards: Place) -> str:
    """Write the card of a version to a file, and beside its files in MLflow.

    Args:
        state: The model.
        number: Of the version.
        cards: Where the file goes, as `<model>/card-<version>.html`.

    Returns:
        Its path or URI.

    Raises:
        RegistryError: There is no such version.
        ModelFileError: Its file was changed.
        StorageError: The rows it was judged on are damaged.
    """
    path, text = path_of(state.spec.name, number, cards), card(state, number)
    name = path.rpartition("/")[2]  # MLflow's run may be its parent's too
    (cards / state.spec.name).write(name, text.encode())
    state.registry.client.log_text(state.registry.version(number).run_id, text, name)
    return path


def path_of(model: str, number: int, cards: Place) -> str:
    """Return the path or URI of the card of a version."""
    return f"{cards / model}/card-{number}.html"


def write_cards(state: ModelState, numbers: Collection[int], cards: Place) -> None:
    """Write the cards of versions of one decision, which share what was judged."""
    state = replace(state, memo={})
    for number in sorted(numbers):
        write_card(state, number, cards)


def card(state: ModelState, number: int) -> str:
    """Return the card of a version as HTML; see `write_card`."""
    name, version = state.spec.name, state.registry.version(number)
    rows = [row for row in state.ledger.read().rows if number in (row.version, row.candidate)]
    gated = state.registry.version(int(version.tags.get("parent", number)))
    tags = {tag: value for tag, value in version.tags.items() if value and tag not in LONG}
    decisions = [{column: getattr(row, column) for column in ("version", *DECIDED)} for row in rows]

    def judge() -> str:
        parts = _judgement(state, gated, rows) | {"The drift before it": [_drift(state, gated)]}
        return page.render_sections(parts)

    # A refit's card shows what its gated fit's card does.
    judgement = state.once(
        ("judged", str(gated.version), *(str(row.version) for row in rows)), judge
    )
    first: Parts = {"Decisions": [decisions or "Nothing was decided on it yet."]}
    rest: Parts = {
        "What it was made from": [[{"tag": tag, "value": tags[tag]} for tag in sorted(tags)]],
        "Build it again, go back": [
            f"retrain reproduce {name} {number}: builds it again, unless adopted, and compares",
            _describe_rollback(state, number),
        ],
    }
    sections = (page.render_sections(first), judgement, page.render_sections(rest))
    return page.render_page(f"{name}, version {number}", "\n".join(sections))


def _describe_rollback(state: ModelState, number: int) -> str:
    """Return the command that goes back from a version, or back to it; nothing if none can."""
    history, name = state.ledger.read(), state.spec.name
    present, served = history.production_version, list_reversible(history.rows)
    if number != present:
        command = f"retrain rollback {name} --to {number} --reason WHY: back to it"
        return f"{command}, as it has served" if number in served else ""
    if earlier := [version for version in served if version != present]:
        return f"retrain rollback {name} --reason WHY: from it, back to version {earlier[0]}"
    return ""


def _judgement(state: ModelState, gated: ModelVersion, decisions: list[LedgerRow]) -> Parts:
    """Return figures of the gated fit on rows it has not seen, and what the gate made of them."""
    spec, tags = state.registry.text(gated, train.SPEC_FILE), gated.tags
    past = replace(state, spec=train.read_spec(state, spec)) if spec else state
    as_of = tags.get("as_of") or (decisions[0].as_of if decisions else "")
    keys = take_through(state.mature(), as_of, past.spec.windows.holdout)
    keys = exclude_range(keys, tags["train_from"], tags["train_to"])
    features_version = tags.get("features_version")
    rows = train.sample(past, keys, version=int(features_version) if features_version else None)
    if not len(rows.target):
        return {"Holdout": ["There are no labelled rows that it was not trained on."]}
    pipeline, kind = state.registry.load(gated.version, gated.sha256), past.spec.target.kind
    output, classes = predict(pipeline, kind, rows.features), train.get_classes(pipeline)
    where = (
        f"Version {gated.version} on {len(rows.target):,} rows of {len(keys)} partitions, "
        f"{keys[0]} to {keys[-1]}, none of which it was trained on; {CONFIDENCE:.0%} intervals "
        "over partitions."
    )
    previous = decisions[0].previous if decisions else None
    evaluation = read_evaluation(state, gated.version, previous)
    evidence = evaluation.evidence if evaluation else {}
    slices = evidence.get("slices")
    offer = metrics.list_metrics(kind, past.spec.gate)
    figures = [_estimate(metric, rows, output, classes) for metric in offer]
    return {
        "Holdout": [where, figures],
        "The gate": [evaluation.reason, evaluation.picture(), evidence.get("guards")]
        if evaluation
        else [],
        "Slices": [_describe_slices(past.spec.gate), slices] if slices else [],
        "Calibration": [plots.draw_holdout(kind, rows.target.to_numpy(), output, classes)],
        "Importance": [
            _importance(past, pipeline, rows),
            *_explain(state, pipeline, rows, previous),
        ],
    }


def _describe_slices(gate: GateSpec) -> str:
    """Return what the table of slices shows."""
    return (
        "The candidate and production on the rows with one value of a feature; `other` is all "
        "values with too few rows. `loss` is how much worse the candidate is, as a share of the "
        "metric of production, and negative where it is better. A slice regresses if its loss is "
        f"above {gate.max_slice_loss:.0%} and the interval from `low` to `high`, in which the gain "
        "lies, is below 0; such a candidate is refused."
    )


def _estimate(
    metric: Any, rows: train.Sample, output: np.ndarray, classes: list[Any] | None
) -> dict[str, object]:
    """Return a metric's row-weighted mean over partitions, and Student's interval of that."""
    blocks = metrics.block_values(metric, rows.target.to_numpy(), output, rows.partitions, classes)
    blocks = blocks.drop_nulls("value")
    figures = (math.nan,) * 3
    if not blocks.is_empty():  # roc_auc has no value where no partition has both classes
        values, counts = blocks["value"].to_numpy(), blocks["rows"].to_numpy()
        figures = metrics.mean_interval(values, counts, CONFIDENCE)
    return {"metric": str(metric)} | dict(zip(("value", "low", "high"), figures, strict=True))


def _importance(state: ModelState, pipeline: train.Model, rows: train.Sample) -> train.Figure:
    """Return a picture of how much worse the metric is with each feature shuffled."""
    metric = metrics.get_gate_metric(state.spec.gate)
    step = -(-len(rows.target) // SHUFFLED_ROWS)
    features, target = rows.features.gather_every(step), rows.target.gather_every(step)

    def value(columns: pl.DataFrame) -> float:
        output = predict(pipeline, state.spec.target.kind, columns)
        return metrics.evaluate(metric, target.to_numpy(), output, train.get_classes(pipeline))

    baseline, losses = value(features), {}
    for name in features.columns:
        shuffled = features.with_columns(pl.col(name).shuffle(state.spec.seed))
        losses[name] = metric.gain(baseline, value(shuffled))
    text = f"how much worse {metric} is when its values are shuffled, {len(target):,} rows"
    return plots.draw_importance(losses, text)


def _explain(
    state: ModelState, pipeline: train.Model, rows: train.Sample, previous: int | None
) -> Iterator[Any]:
    """Yield how far each feature moves predictions, and how that differs from the version before.

    Nothing where the estimator has no SHAP values.
    """
    features, blocks = thin(rows.features, rows.partitions)
    try:
        now = measure_moves(Explainer(pipeline), features)
        text = f"mean |SHAP| before the link, {len(blocks):,} rows"
        yield plots.draw_importance(now.mean().row(0, named=True), text)
        if previous is None:
            return
        version = state.registry.version(previous)
        before = Explainer(state.registry.load(previous, version.sha256))
        changes = compare_moves(now, measure_moves(before, features), blocks, CONFIDENCE)
    except NOT_EXPLAINED:
        return
    yield (
        f"By how much these means differ from those of version {previous} on the same rows, with "
        f"{CONFIDENCE:.0%} intervals over partitions:"
    )
    yield changes[:CHANGES]


def _drift(state: ModelState, gated: ModelVersion) -> Picture:
    """Return a picture of the drift that was measured before a version was trained."""
    last = pl.col(PARTITION).unique().sort().tail(DRIFT_PARTITIONS).implode()
    before = pl.col(PARTITION) <= gated.tags.get("as_of", "")
    rows = state.stored("monitoring", MONITORING_SCHEMA, before)
    return monitoring_plots.draw_watched_drift(rows.filter(pl.col(PARTITION).is_in(last)))
