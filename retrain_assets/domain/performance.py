"""Metrics: how good predictions are, over all rows and by block.

What a prediction is depends on the kind of the model: the probability of 1 for binary, of shape
(rows,); a number for regression, of shape (rows,); probabilities for multiclass, of shape
(rows, classes), in the order of `classes`. Not here: comparing two models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.metrics import (
    THRESHOLD,
    UNKNOWN_CLASS,
    Function,
    accuracy,
    average_precision,
    balanced_accuracy,
    f1,
    mean_of,
    r2,
    rmse,
    roc_auc,
    surprise,
)
from retrain_assets.specs.gate import METRICS_BY_KIND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from retrain_assets.specs.features import Kind
    from retrain_assets.specs.gate import Metric


@dataclass(frozen=True)
class MetricDef:
    """One metric.

    Args:
        name: As the YAML has it.
        kinds: The kinds of model it judges.
        greater_is_better: Its direction.
        function: Its value.
        by_class: Whether it weighs classes at a threshold, so that a block counts by how much of
            a class it holds.
    """

    name: str
    kinds: tuple[Kind, ...]
    greater_is_better: bool
    function: Function
    by_class: bool = False

    def __str__(self) -> str:
        return self.name


def defined(metric: Metric | MetricDef) -> MetricDef:
    """The metric of that name, or the metric itself."""
    return metric if isinstance(metric, MetricDef) else METRICS[metric]


def evaluate(
    metric: Metric | MetricDef,
    target: np.ndarray,
    prediction: np.ndarray,
    classes: Sequence[Any] | None = None,
) -> float:
    """The metric over all rows.

    Args:
        metric: Its name, or one that `measures` made.
        target: Labels, of shape (rows,).
        prediction: Predictions, as the module says.
        classes: Class of each column, for multiclass; the sorted labels by default.

    Returns:
        The value; NaN where it is undefined, such as `roc_auc` of rows of one class.

    Raises:
        ValueError: Shapes do not agree, or classes are not given and cannot be told.
    """
    return defined(metric).function(*comparable(target, prediction, classes))


def block_values(
    metric: Metric | MetricDef,
    target: np.ndarray,
    prediction: np.ndarray,
    blocks: pl.Series,
    classes: Sequence[Any] | None = None,
) -> pl.DataFrame:
    """The metric of each block.

    Args:
        metric: Its name, or one that `measures` made.
        target: Labels, of shape (rows,).
        prediction: Predictions, as the module says.
        blocks: The block of each row.
        classes: Class of each column, for multiclass; the sorted labels by default.

    Returns:
        `block`, `value` (null where the metric is undefined) and `rows`, in the order of blocks.

    Raises:
        ValueError: As `evaluate`.
    """
    labels, output = comparable(target, prediction, classes)
    function = defined(metric).function
    return by_block(blocks, lambda rows: function(labels[rows], output[rows]))


def by_block(blocks: pl.Series, value: Callable[[np.ndarray], float]) -> pl.DataFrame:
    """A value of each block, as `block_values` gives it.

    Args:
        blocks: The block of each row.
        value: Makes it of the places of a block's rows; NaN where it is undefined.
    """
    values = [(name, value(rows), int(rows.size)) for name, rows in rows_by_block(blocks)]
    schema = {"block": blocks.dtype, "value": pl.Float64(), "rows": pl.Int64()}
    return pl.DataFrame(values, schema, orient="row").with_columns(pl.col("value").fill_nan(None))


def mean_over_blocks(
    metric: Metric | MetricDef,
    target: np.ndarray,
    prediction: np.ndarray,
    blocks: pl.Series,
    classes: Sequence[Any] | None = None,
) -> float:
    """The row-weighted mean of the metric over the blocks where it is defined.

    This is what a window of monitored blocks is compared with; it differs from the metric over all
    rows where the metric is no mean over rows.

    Returns:
        The mean; NaN where the metric is defined on no block.
    """
    values = block_values(metric, target, prediction, blocks, classes).drop_nulls("value")
    if values.is_empty():
        return math.nan
    return float(np.average(values["value"], weights=values["rows"]))


def margin(values: np.ndarray, rows: np.ndarray, confidence: float) -> float:
    """How far a row-weighted mean over blocks may be off, by Student's t over blocks.

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
    """How much worse a value is than a baseline, relative to the baseline.

    Returns:
        Positive when worse, whichever direction the metric has; infinite from a baseline of 0.
    """
    worse = baseline - value if defined(metric).greater_is_better else value - baseline
    if baseline == 0:
        return math.copysign(math.inf, worse) if worse else 0.0
    return worse / abs(baseline)


def comparable(
    target: np.ndarray, prediction: np.ndarray, classes: Sequence[Any] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions as the metrics take them.

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


def onto_classes(
    prediction: np.ndarray, classes: Sequence[Any], wanted: Sequence[Any]
) -> np.ndarray:
    """Probabilities in the columns of other classes, so that two models can be compared.

    Args:
        prediction: Of shape (rows, classes).
        classes: Class of each column.
        wanted: Classes of the result, such as those of either model.

    Returns:
        Of shape (rows, wanted); 0 for a class that the model does not know.
    """
    places = {name: place for place, name in enumerate(classes)}
    unknown = np.zeros(len(prediction))
    columns = [prediction[:, places[name]] if name in places else unknown for name in wanted]
    return np.stack(columns, axis=1)


def rows_by_block(blocks: pl.Series) -> Iterator[tuple[Any, np.ndarray]]:
    """Each block, in order, with the places of its rows."""
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
_SCORES: dict[Metric, Function] = {
    "roc_auc": roc_auc,
    "average_precision": average_precision,
    "accuracy": accuracy(THRESHOLD),
    "balanced_accuracy": balanced_accuracy(THRESHOLD),
    "f1": f1(THRESHOLD),
    "r2": r2,
}
METRICS: dict[Metric, MetricDef] = {
    name: MetricDef(
        name,
        kinds=tuple(kind for kind, offered in METRICS_BY_KIND.items() if name in offered),
        greater_is_better=name in _SCORES,
        function=function,
        by_class=name in {"balanced_accuracy", "f1"},
    )
    for name, function in (_LOSSES | _SCORES).items()
}
