"""What moved the predictions of a model, in SHAP values.

Not here: how SHAP values are computed, which each family of estimators knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.metrics.metrics import margin
from retrain_assets.domain.model.families.catalogue import family_of

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


EXPLAINED_ROWS = 500


class Explainer:
    """Explains the predictions of a model.

    Args:
        pipeline: A fitted model.

    Attributes:
        columns: Names of the features, in the order of the values.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: It has no SHAP values here.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        if len(pipeline) > 2:  # noqa: PLR2004
            raise ValueError(f"{type(pipeline[-1]).__name__} does not see the features themselves")
        self._encoder, self.columns = pipeline[0], list(pipeline[0].columns_)
        self._explain = family_of(pipeline[-1]).build_explainer(pipeline[-1])

    def __call__(self, features: pl.DataFrame) -> np.ndarray:
        """Return SHAP values, of shape (rows, outputs, features); see `build_explainer`."""
        return self._explain(self._encoder.transform(features))[:, :, :-1]


def thin(features: pl.DataFrame, blocks: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """Return at most 500 rows, evenly spread, and the block of each."""
    step = max(1, -(-len(blocks) // EXPLAINED_ROWS))
    return features.gather_every(step), blocks.gather_every(step)


def measure_moves(explainer: Explainer, features: pl.DataFrame) -> pl.DataFrame:
    """Return how far each feature moves each row, of shape (rows, features): the mean of |SHAP|.

    Of several outputs it is their sum.
    """
    moves = np.abs(explainer(features)).sum(axis=1)
    return pl.DataFrame(moves, schema=explainer.columns)


def compare_moves(
    now: pl.DataFrame, before: pl.DataFrame, blocks: pl.Series, confidence: float
) -> list[dict[str, Any]]:
    """Return by how much the mean move of each feature differs between two models.

    Args:
        now: Moves of the same rows by one model.
        before: And by the other.
        blocks: The partition of each row, since rows of one are alike.
        confidence: Of the two-sided interval, by Student's t over partitions.

    Returns:
        A record a feature, the largest difference first; a feature that one model lacks moves
        nothing in it.
    """
    counts = blocks.value_counts(name="rows").sort(blocks.name)["rows"].to_numpy()
    records = []
    for name in dict.fromkeys((*now.columns, *before.columns)):
        first, second = (
            side[name] if name in side.columns else pl.zeros(len(blocks), eager=True)
            for side in (now, before)
        )
        table = pl.DataFrame({"block": blocks, "now": first, "before": second})
        change = (pl.col("now") - pl.col("before")).mean()
        by_block = table.group_by("block").agg(change.alias("change")).sort("block")
        mean = float(table.select(change).item())
        half = margin(by_block["change"].to_numpy(), counts, (1 + confidence) / 2)
        ends = {"low": mean - half, "high": mean + half}
        means = {"now": table["now"].mean(), "before": table["before"].mean()}
        records.append({"feature": name, **means, "change": mean, **ends})
    return sorted(records, key=lambda record: -abs(record["change"]))
