"""The metrics: the formula of each, over all rows and by block, and the metrics that a YAML names.

Predictions are of shape (rows,) for binary and regression and (rows, classes) for multiclass.
Not here: how sure a difference of two models is (`intervals`), and what follows from it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import polars as pl

from retrain_assets.specs.features import Kind
from retrain_assets.specs.gate import METRICS_BY_KIND, CostSpec, GateSpec, Metric
from retrain_assets.specs.triggers import PerformanceTrigger

Array = np.ndarray
Weights = np.ndarray | None
THRESHOLD = 0.5  # from which a probability counts as a prediction of 1
SMALLEST = float(np.finfo(np.float64).eps)  # probability below which log_loss stops growing
UNKNOWN_CLASS = -1


class Function(Protocol):
    """A metric of labels, predictions and optional row weights; NaN where it is undefined.

    Labels of multiclass are places in the columns of the prediction.
    """

    def __call__(self, target: Array, prediction: Array, weight: Weights = None) -> float:
        """Return the value on these rows."""


def mean_of(values: Callable[[Array, Array], Array]) -> Function:
    """Return the metric that is the weighted mean of one value a row."""

    def metric(target: Array, prediction: Array, weight: Weights = None) -> float:
        return float(np.average(values(target, prediction), weights=weight))

    return metric


def surprise(target: Array, prediction: Array) -> Array:
    """Return minus the logarithm of the probability of what happened, of shape (rows,)."""
    if prediction.ndim == 1:
        chance = np.where(target > THRESHOLD, prediction, 1 - prediction)
    else:
        chance = prediction[np.arange(len(target)), target]
        chance = np.where(target == UNKNOWN_CLASS, 0.0, chance)
    return np.asarray(-np.log(np.clip(chance, SMALLEST, 1)))


def predict_class(prediction: Array, threshold: float) -> Array:
    """Return the predicted class of each row: 0 or 1, or the place of the likeliest column."""
    likeliest = prediction.argmax(axis=1) if prediction.ndim > 1 else prediction >= threshold
    return np.asarray(likeliest)


def rmse(target: Array, prediction: Array, weight: Weights = None) -> float:
    """Return the root of the mean squared error."""
    return math.sqrt(np.average((prediction - target) ** 2, weights=weight))


def r2(target: Array, prediction: Array, weight: Weights = None) -> float:
    """Return the share of the variance that is explained; NaN of a constant target."""
    total = np.average((target - np.average(target, weights=weight)) ** 2, weights=weight)
    if total == 0:
        return math.nan
    return float(1 - np.average((prediction - target) ** 2, weights=weight) / total)


def _weights_by_score(target: Array, prediction: Array, weight: Weights) -> tuple[Array, Array]:
    """Return the weight of the 1s and of the 0s at or above each prediction, the highest first."""
    order = np.argsort(-prediction)
    weights = np.ones(len(order)) if weight is None else weight[order]
    ones, scores = target[order] > THRESHOLD, prediction[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    return np.cumsum(weights * ones)[ends], np.cumsum(weights * ~ones)[ends]


def roc_auc(target: Array, prediction: Array, weight: Weights = None) -> float:
    """Return the chance that a 1 is above a 0, ties counting half; NaN with one class."""
    ones, zeros = _weights_by_score(target, prediction, weight)
    if ones[-1] == 0 or zeros[-1] == 0:
        return math.nan
    ones, zeros = np.append(0, ones) / ones[-1], np.append(0, zeros) / zeros[-1]
    return float(np.trapezoid(ones, zeros))


def average_precision(target: Array, prediction: Array, weight: Weights = None) -> float:
    """Return the mean precision at each 1; NaN without one."""
    ones, zeros = _weights_by_score(target, prediction, weight)
    if ones[-1] == 0:
        return math.nan
    precision = ones / np.maximum(ones + zeros, np.finfo(np.float64).tiny)
    return float(np.diff(ones, prepend=0) @ precision / ones[-1])


def _weights_by_class(
    target: Array, prediction: Array, weight: Weights, threshold: float
) -> tuple[Array, ...]:
    """Return by class the weight of the correct, predicted and actual rows; class -1 is first."""
    true = target.astype(np.int64) + 1
    predicted = predict_class(prediction, threshold).astype(np.int64) + 1
    classes = 1 + (2 if prediction.ndim == 1 else prediction.shape[1])
    weights = np.ones(len(true)) if weight is None else weight
    right = np.bincount(true, weights * (true == predicted), classes)
    return right, np.bincount(predicted, weights, classes), np.bincount(true, weights, classes)


def f1(threshold: float) -> Function:
    """Return the F1 score of a binary model, or its mean over the classes that occur."""

    def metric(target: Array, prediction: Array, weight: Weights = None) -> float:
        right, predicted, true = _weights_by_class(target, prediction, weight, threshold)
        counted = slice(2 if prediction.ndim == 1 else 0, None)
        total = (predicted + true)[counted]
        values = 2 * right[counted][total > 0] / total[total > 0]
        return float(values.mean()) if values.size else math.nan

    return metric


def balanced_accuracy(threshold: float) -> Function:
    """Return the mean recall of the classes that occur; NaN with one class."""

    def metric(target: Array, prediction: Array, weight: Weights = None) -> float:
        right, _, true = _weights_by_class(target, prediction, weight, threshold)
        occurs = true > 0
        return float((right[occurs] / true[occurs]).mean()) if occurs.sum() > 1 else math.nan

    return metric


def accuracy(threshold: float) -> Function:
    """Return the share of rows whose class is predicted."""
    return mean_of(lambda target, prediction: predict_class(prediction, threshold) == target)


@dataclass(frozen=True)
class MetricDef:
    """One metric.

    Args:
        name: As the YAML has it.
        greater_is_better: Its direction.
        function: Its value.
        by_class: Whether it weighs classes at a threshold, so that a block counts by how much of
            a class it holds.
    """

    name: str
    greater_is_better: bool
    function: Function
    by_class: bool = False

    def __str__(self) -> str:
        return self.name

    def gain(self, value: Any, baseline: Any) -> Any:
        """Return how much better a value is than a baseline; negative where it is worse.

        Both are numbers, arrays or polars expressions of the metric's values.
        """
        return value - baseline if self.greater_is_better else baseline - value


def get_metric(metric: Metric | MetricDef) -> MetricDef:
    """Return the metric of that name, or the metric itself."""
    return metric if isinstance(metric, MetricDef) else METRICS[metric]


def evaluate(
    metric: Metric | MetricDef,
    target: Array,
    prediction: Array,
    classes: Sequence[Any] | None = None,
) -> float:
    """Return the metric over all rows.

    Args:
        metric: Its name, or the metric itself.
        target: Labels, of shape (rows,).
        prediction: Predictions, as the module says.
        classes: Class of each column, for multiclass; the sorted labels by default.

    Returns:
        The value; NaN where it is undefined, such as `roc_auc` of rows of one class.

    Raises:
        ValueError: Shapes do not agree, or classes are not given and cannot be told.
    """
    return get_metric(metric).function(*align_labels(target, prediction, classes))


def block_values(
    metric: Metric | MetricDef,
    target: Array,
    prediction: Array,
    blocks: pl.Series,
    classes: Sequence[Any] | None = None,
) -> pl.DataFrame:
    """Return the metric of each block.

    Args:
        metric: Its name, or the metric itself.
        target: Labels, of shape (rows,).
        prediction: Predictions, as the module says.
        blocks: The block of each row.
        classes: Class of each column, for multiclass; the sorted labels by default.

    Returns:
        `block`, `value` (null where the metric is undefined) and `rows`, in the order of blocks.

    Raises:
        ValueError: As `evaluate`.
    """
    labels, output = align_labels(target, prediction, classes)
    function = get_metric(metric).function
    return compute_by_block(blocks, lambda rows: function(labels[rows], output[rows]))


def compute_by_block(blocks: pl.Series, value: Callable[[Array], float]) -> pl.DataFrame:
    """Return a value of each block, as `block_values` gives it.

    Args:
        blocks: The block of each row.
        value: Makes it of the places of a block's rows; NaN where it is undefined.
    """
    values = [(name, value(rows), int(rows.size)) for name, rows in split_by_block(blocks)]
    schema = {"block": blocks.dtype, "value": pl.Float64(), "rows": pl.Int64()}
    return pl.DataFrame(values, schema, orient="row").with_columns(pl.col("value").fill_nan(None))


def mean_over_blocks(
    metric: Metric | MetricDef,
    target: Array,
    prediction: Array,
    blocks: pl.Series,
    classes: Sequence[Any] | None = None,
) -> float:
    """Return the row-weighted mean of the metric over the blocks where it is defined.

    This is what a window of monitored blocks is compared with; it differs from the metric over all
    rows where the metric is no mean over rows.

    Returns:
        The mean; NaN where the metric is defined on no block.
    """
    values = block_values(metric, target, prediction, blocks, classes).drop_nulls("value")
    if values.is_empty():
        return math.nan
    return float(np.average(values["value"], weights=values["rows"]))


def mean_interval(values: Array, rows: Array, confidence: float) -> tuple[float, float, float]:
    """Return a row-weighted mean over blocks, and the ends of its two-sided interval.

    The ends are infinite where one block cannot tell; see `margin`.
    """
    mean = float(np.average(values, weights=rows))
    half = margin(values, rows, (1 + confidence) / 2)
    return mean, mean - half, mean + half


def margin(values: Array, rows: Array, confidence: float) -> float:
    """Return how far a row-weighted mean over blocks may be off, by Student's t over blocks.

    Args:
        values: The metric of each block, of shape (blocks,).
        rows: How many rows each has, of the same shape.
        confidence: One-sided.

    Returns:
        Its distance, in units of the metric; infinite where one block cannot tell.
    """
    from scipy.special import stdtrit

    blocks, weights = len(values), rows / rows.sum()
    if blocks < 2:  # noqa: PLR2004 a deviation needs two
        return math.inf
    spread = float(weights**2 @ (values - weights @ values) ** 2)
    error = math.sqrt(spread * blocks / (blocks - 1))
    return float(stdtrit(blocks - 1, confidence)) * error


def loss_increase(metric: Metric | MetricDef, value: float, baseline: float) -> float:
    """Return how much worse a value is than a baseline, relative to the baseline.

    Returns:
        Positive when worse, whichever direction the metric has; infinite from a baseline of 0.
    """
    worse = get_metric(metric).gain(baseline, value)
    if baseline == 0:
        return math.copysign(math.inf, worse) if worse else 0.0
    return float(worse / abs(baseline))


def align_labels(
    target: Array, prediction: Array, classes: Sequence[Any] | None
) -> tuple[Array, Array]:
    """Return labels and predictions as the metrics take them.

    Args:
        target: Labels, of shape (rows,).
        prediction: Predictions, as the module says.
        classes: Class of each column, for multiclass; the sorted labels by default.

    Returns:
        Labels (for multiclass the column of each, -1 for a class without one) and predictions.

    Raises:
        ValueError: Shapes do not agree, or classes are not given and cannot be told.
    """
    if len(prediction) != len(target):
        raise ValueError(f"{len(prediction)} predictions for {len(target)} labels")
    if prediction.ndim == 1:
        return target, prediction
    names = sorted(set(target)) if classes is None else list(classes)
    if len(names) != prediction.shape[1]:
        raise ValueError(
            f"{prediction.shape[1]} columns of probabilities for {len(names)} classes: "
            "give the classes of the model"
        )
    places = {name: place for place, name in enumerate(names)}
    return np.array([places.get(label, UNKNOWN_CLASS) for label in target]), prediction


def align_columns(prediction: Array, classes: Sequence[Any], columns: Sequence[Any]) -> Array:
    """Return probabilities in the columns of other classes, so that two models can be compared.

    Args:
        prediction: Of shape (rows, classes).
        classes: Class of each column.
        columns: Classes of the result, such as those of either model.

    Returns:
        Of shape (rows, columns); 0 for a class that the model does not know.
    """
    places = {name: place for place, name in enumerate(classes)}
    unknown = np.zeros(len(prediction))
    values = [prediction[:, places[name]] if name in places else unknown for name in columns]
    return np.stack(values, axis=1)


def split_by_block(blocks: pl.Series) -> Iterator[tuple[Any, Array]]:
    """Yield each block, in order, with the places of its rows."""
    places = pl.DataFrame({"block": blocks}).with_row_index("row")
    for (name,), rows in places.sort("block", maintain_order=True).group_by(
        "block", maintain_order=True
    ):
        yield name, rows["row"].to_numpy()


_LOSSES: dict[Metric, Function] = {
    "log_loss": mean_of(surprise),
    "brier": mean_of(lambda target, prediction: (prediction - target) ** 2),
    "mae": mean_of(lambda target, prediction: np.abs(prediction - target)),
    "rmse": rmse,
}
_SCORES: dict[Metric, Function] = {"roc_auc": roc_auc, "average_precision": average_precision}
_AT_THRESHOLD: dict[Metric, Callable[[float], Function]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
}
METRICS: dict[Metric, MetricDef] = {
    **{name: MetricDef(name, False, function) for name, function in _LOSSES.items()},
    **{name: MetricDef(name, True, function) for name, function in _SCORES.items()},
    **{
        name: MetricDef(name, True, make(THRESHOLD), by_class=name != "accuracy")
        for name, make in _AT_THRESHOLD.items()
    },
    "r2": MetricDef("r2", True, r2),
}


class MeasureError(ValueError):
    """The user's own metric cannot be used; the message says why."""


def get_followed_metric(trigger: PerformanceTrigger, gate: GateSpec) -> MetricDef:
    """Return the metric that is followed; the gate's own if it is the same, as the baseline is."""
    return get_gate_metric(gate) if gate.metric == trigger.metric else METRICS[trigger.metric]


def get_gate_metric(gate: GateSpec) -> MetricDef:
    """Return the metric that decides.

    Raises:
        MeasureError: `gate.python` cannot be imported.
    """
    name = gate.metric
    if name == "cost" and gate.cost is not None:
        threshold = gate.cost.threshold if gate.threshold is None else gate.threshold
        return MetricDef(name, False, mean_of(_cost(gate.cost, threshold)))
    if name == "pinball" and gate.quantile is not None:
        return MetricDef(name, False, mean_of(_pinball(gate.quantile)))
    if name == "python" and gate.python is not None:
        return MetricDef(name, gate.greater_is_better, _import_metric(gate.python))
    metric = METRICS[name]  # type: ignore[index]  # the spec holds the others to their parts
    if name in _AT_THRESHOLD and gate.threshold is not None:
        return replace(metric, function=_AT_THRESHOLD[name](gate.threshold))
    return metric


def list_metrics(kind: Kind, gate: GateSpec) -> list[MetricDef]:
    """Return every metric of a kind of model, as its gate has it, with the deciding one last."""
    deciding = get_gate_metric(gate)
    return [*(METRICS[name] for name in METRICS_BY_KIND[kind] if name != gate.metric), deciding]


def _cost(cost: CostSpec, threshold: float) -> Callable[[Array, Array], Array]:
    by_outcome = np.array(
        [[cost.true_negative, cost.false_positive], [cost.false_negative, cost.true_positive]]
    )
    return lambda target, prediction: by_outcome[
        (target > THRESHOLD).astype(int), (prediction >= threshold).astype(int)
    ]


def _pinball(quantile: float) -> Callable[[Array, Array], Array]:
    return lambda target, prediction: np.maximum(
        quantile * (target - prediction), (quantile - 1) * (target - prediction)
    )


def _import_metric(reference: str) -> Function:
    module, _, name = reference.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise MeasureError(f"gate.python: {reference} cannot be imported: {error}") from error

    def metric(target: Array, prediction: Array, weight: Weights = None) -> float:  # noqa: ARG001
        value = function(target, prediction)
        if not np.isscalar(value):
            kind = type(value).__name__
            raise MeasureError(
                f"gate.python: {reference} must return one number, and returned a value of type "
                f"{kind}"
            )
        return float(value)  # type: ignore[arg-type]

    return metric
