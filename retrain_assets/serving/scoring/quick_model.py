"""A fitted HistGradientBoosting with less work between a row and its prediction.

It is known in advance which leaves of a tree a value of a feature rules out, a bit for each leaf;
a row ends in the leaf that no feature rules out (QuickScorer, Lucchese and others, 2015).
scikit-learn walks 80 trees for 1,000 rows in 2.5 ms, this takes 0.5. It depends on private parts of
scikit-learn, so its predictions are compared with scikit-learn's before it is used. Not here: other
estimators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from retrain_assets.domain.model.estimator import PredictionError, predict
from retrain_assets.specs.features import Kind

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

MAX_LEAVES, MAX_BYTES = 256, 2**27  # beyond, walking the trees is faster
TOLERANCE = 1e-6
_VALUES = 258  # values of a feature that are told apart: bin edges, above them, missing
_CODES = np.arange(256.0)  # of categories
_MISSING = len(_CODES) + 1.0  # their place
_EXPONENT_AT, _HALF = 23, 126  # of a float32: where its exponent is, and the exponent of 0.5


class _Split(NamedTuple):
    """A node that asks for a feature, and the leaves below it, a bit for each leaf."""

    tree: int
    node: Any
    below_left: int
    below_right: int


class Trees:
    """Sums up the leaves of all trees at once.

    Args:
        model: A fitted HistGradientBoosting.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: The model has other parts than expected, or
            would take too much memory.
    """

    def __init__(self, model: Any) -> None:
        trees = [tree for iteration in model._predictors for tree in iteration]  # noqa: SLF001
        outputs, columns = model.n_trees_per_iteration_, model._n_features  # noqa: SLF001
        splits, leaves = _list_nodes(trees)
        most = max(map(len, leaves))
        self._kind = np.dtype("u2" if most <= 16 else "u4" if most <= 32 else "u8")  # noqa: PLR2004
        bits = 8 * self._kind.itemsize
        words = -(-most // bits)
        size = len(trees) * words * self._kind.itemsize * _VALUES * columns
        if most > MAX_LEAVES or size > MAX_BYTES:
            raise ValueError("its trees are too many or too large")
        self._shape = (-1, len(trees) // outputs, outputs, words)
        padded = np.array([values + [0.0] * (words * bits - len(values)) for values in leaves])
        # Place 0 of a word means that the leaf is in another word.
        self._leaves = np.pad(padded.reshape(-1, bits), ((0, 0), (1, 0))).ravel()
        self._starts = np.arange(len(trees) * words) * (bits + 1) - _HALF
        all_leaves = self._bits([(1 << len(values)) - 1 for values in leaves])
        # The model moves its categories before its numbers.
        is_moved = model.is_categorical_ is not None
        order = np.argsort(~model.is_categorical_, kind="stable") if is_moved else range(columns)
        self._tables = []
        for place, column in enumerate(order):
            asking = [split for split in splits if split.node["feature_idx"] == place]
            if asking:
                table = self._table(model, trees, asking, column, all_leaves)
                self._tables.append((column, *table))

    def _table(
        self, model: Any, trees: list[Any], splits: list[_Split], column: int, leaves: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of a feature that are told apart, and the leaves that each leaves."""
        edges, beyond = np.unique([split.node["num_threshold"] for split in splits]), np.inf
        edges = edges[~np.isnan(edges)]  # of infinite values: it tells missing from all others
        if splits[0].node["is_categorical"]:
            edges, beyond = _CODES, np.nan
        rows = np.zeros((len(edges) + 2, model._n_features))  # noqa: SLF001
        rows[:, column] = [*edges, beyond, np.nan]
        rows = model._preprocess_X(rows, reset=False)  # noqa: SLF001
        bitsets = model._bin_mapper.make_known_categories_bitsets()  # noqa: SLF001
        table = np.tile(leaves, (len(rows), 1, 1))
        for split in splits:
            goes_left = _stump(trees[split.tree], split.node).predict(rows, *bitsets, 1) > 0
            below_left, below_right = self._bits([split.below_left, split.below_right])
            table[goes_left, split.tree] &= ~below_right
            table[~goes_left, split.tree] &= ~below_left
        return edges, table.reshape(len(rows), -1)

    def sums(self, columns: np.ndarray) -> np.ndarray:
        """Return the sum of the trees of each output.

        Args:
            columns: Features as the model takes them, of shape (features, rows).

        Returns:
            Of shape (rows, outputs).
        """
        shape = columns.shape[1], len(self._starts)
        remaining = np.full(shape, np.iinfo(self._kind).max, self._kind)
        buffer = np.empty_like(remaining)
        for column, edges, table in self._tables:
            values = columns[column]
            if edges is _CODES:
                place = np.fmin(values, _MISSING).astype(np.intp)
            else:
                place = edges.searchsorted(values) + np.isnan(values)
            remaining &= table.take(place, axis=0, out=buffer, mode="clip")
        # A word is now 2**bit or, if a tree has several words, 0.
        places = remaining.astype(np.float32).view(np.int32)
        places >>= _EXPONENT_AT
        if self._shape[-1] > 1:
            np.maximum(places, _HALF, out=places)
        leaves = self._leaves.take(places + self._starts, mode="clip")
        total: np.ndarray = leaves.reshape(self._shape).sum(axis=(1, 3))
        return total

    def _bits(self, masks: list[int]) -> np.ndarray:
        """Return masks as words, of shape (masks, words)."""
        size = self._shape[-1] * self._kind.itemsize
        content = b"".join(mask.to_bytes(size, "little") for mask in masks)
        return np.frombuffer(content, self._kind).reshape(len(masks), -1)


def _list_nodes(trees: list[Any]) -> tuple[list[_Split], list[list[float]]]:
    """Return the splits of all trees, and the values of each tree's leaves."""
    splits, leaves = [], []
    for number, tree in enumerate(trees):
        values: list[float] = []
        below: dict[int, int] = {}
        for place, node in reversed([*enumerate(tree.nodes)]):  # children come after their parent
            if node["is_leaf"]:
                below[place] = 1 << len(values)
                values.append(node["value"])
            else:
                split = _Split(number, node, below[node["left"]], below[node["right"]])
                splits.append(split)
                below[place] = split.below_left | split.below_right
        leaves.append(values)
    return splits, leaves


def _stump(tree: Any, node: Any) -> Any:
    """Return a tree of one split, which gives 1 where the split goes left."""
    nodes = np.zeros(3, tree.nodes.dtype)
    nodes[0] = node
    nodes["left"], nodes["right"], nodes["is_leaf"], nodes["value"] = 1, 2, (0, 1, 1), (0, 1, 0)
    return type(tree)(nodes, tree.binned_left_cat_bitsets, tree.raw_left_cat_bitsets)


class QuickModel:
    """Predicts rows of features.

    Args:
        pipeline: A fitted model.
        kind: The kind of its target.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: The pipeline has other parts than expected.
    """

    def __init__(self, pipeline: Pipeline, kind: Kind) -> None:
        encoder, model = pipeline[0], pipeline[-1]
        self._trees, self._kind = Trees(model), kind
        self._baseline, self._loss = model._baseline_prediction, model._loss  # noqa: SLF001
        self.columns = list(encoder.columns_)
        categories = [encoder.categories_.get(name) for name in self.columns]
        self._codes = [
            None if values is None else {value: float(code) for code, value in enumerate(values)}
            for values in categories
        ]
        self._enums = [None if codes is None else pl.Enum(list(codes)) for codes in self._codes]
        self._empty = [place for place, n in enumerate(self.columns) if n in encoder.empty_]

    def predict(self, features: Sequence[Sequence[Any] | pl.Series]) -> np.ndarray:
        """Predict rows of features, a column each in the order of `columns`, as `predict` does.

        Raises:
            PredictionError: A prediction is not finite.
        """
        matrix = np.empty((len(self.columns), len(features[0])))
        for place, values in enumerate(features):
            codes, kind = self._codes[place], self._enums[place]
            if not isinstance(values, pl.Series):
                matrix[place] = values if codes is None else [codes.get(v) for v in values]
            elif kind is None:
                matrix[place] = values.cast(pl.Float64).to_numpy()
            else:
                coded = values.cast(pl.String).cast(kind, strict=False).to_arrow()
                matrix[place] = coded.indices.to_numpy(zero_copy_only=False)
        matrix[self._empty] = 0.0
        raw = self._trees.sums(matrix) + self._baseline
        several = self._kind == "multiclass"
        # `predict_proba` of two classes would give both columns.
        output = self._loss.predict_proba(raw) if several else self._loss.link.inverse(raw[:, 0])
        if not np.isfinite(output).all():
            row = int(np.argwhere(~np.isfinite(output))[0][0])
            raise PredictionError(f"the prediction of row {row} (counted from 0) is not finite")
        return np.asarray(output)


def build_quick_model(
    pipeline: Pipeline, kind: Kind, rows: pl.DataFrame
) -> tuple[QuickModel | None, str]:
    """Return the quick form of a pipeline, if it predicts the same.

    Args:
        pipeline: A fitted model.
        kind: The kind of its target.
        rows: Stored rows of features, on which the two are compared.

    Returns:
        The quick form or None, and a sentence that says why.
    """
    name = type(pipeline[-1]).__name__
    if rows.is_empty():
        return None, f"{name}: there are no stored rows to verify a quick form on"
    expected = predict(pipeline, kind, rows)
    try:
        model = QuickModel(pipeline, kind)
        outputs = (
            model.predict([rows[name].to_list() for name in model.columns]),
            model.predict([rows[name] for name in model.columns]),
        )
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        return None, f"{name}: scikit-learn's own prediction is used, there is no other: {error!r}"
    is_same = all(output.shape == expected.shape for output in outputs)
    gap = max(float(abs(out - expected).max()) for out in outputs) if is_same else math.inf
    if not gap <= TOLERANCE:
        return None, f"{name}: scikit-learn's own prediction is used, the quick one is {gap} off"
    return model, f"{name}: a quick form, within {gap:.1e} of scikit-learn on {len(expected)} rows"
