"""All trees of a HistGradientBoosting at once, in numpy.

Which of a tree's leaves a value of a feature rules out is known beforehand, a bit a leaf; the leaf
that no feature of a row rules out is where the row ends up (QuickScorer, Lucchese and others,
2015). scikit-learn walks 80 trees for 1,000 rows in 2.5 ms, this takes 0.5. It leans on private
parts of scikit-learn.

A fitted HistGradientBoosting with less between a row and its prediction.

Not here: encoding, and holding the sums against scikit-learn.
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

MOST_LEAVES, MOST_BYTES = 256, 2**27  # beyond, walking the trees is faster
_VALUES = 258  # of a feature that can be told apart, at most: edges of bins, above them, missing
_CODES = np.arange(256.0)  # of categories
_MISSING = len(_CODES) + 1.0  # their place
_EXPONENT_AT, _HALF = 23, 126  # of a float32: where its exponent is, and what it is for 0.5


class _Split(NamedTuple):
    """A node that asks for a feature, and the leaves below it, a bit each."""

    tree: int
    node: Any
    left: int
    right: int


class Trees:
    """Sums of trees.

    Args:
        model: A fitted HistGradientBoosting.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: Its parts are not those that are known, or
            would take too much memory.
    """

    def __init__(self, model: Any) -> None:
        trees = [tree for iteration in model._predictors for tree in iteration]  # noqa: SLF001
        each, columns = model.n_trees_per_iteration_, model._n_features  # noqa: SLF001
        splits, leaves = _taken_apart(trees)
        most = max(map(len, leaves))
        self._kind = np.dtype("u2" if most <= 16 else "u4" if most <= 32 else "u8")  # noqa: PLR2004
        bits = 8 * self._kind.itemsize
        words = -(-most // bits)
        total = len(trees) * words * self._kind.itemsize * _VALUES * columns
        if most > MOST_LEAVES or total > MOST_BYTES:
            raise ValueError("its trees are too many or too large")
        self._shape = (-1, len(trees) // each, each, words)
        whole = np.array([values + [0.0] * (words * bits - len(values)) for values in leaves])
        # Place 0 of a word is for none of its leaves.
        self._leaves = np.pad(whole.reshape(-1, bits), ((0, 0), (1, 0))).ravel()
        self._starts = np.arange(len(trees) * words) * (bits + 1) - _HALF
        every = self._bits([(1 << len(values)) - 1 for values in leaves])
        # The model moves its categories before its numbers.
        moved = model.is_categorical_ is not None
        order = np.argsort(~model.is_categorical_, kind="stable") if moved else range(columns)
        self._tables = []
        for place, column in enumerate(order):
            mine = [split for split in splits if split.node["feature_idx"] == place]
            if mine:
                self._tables.append((column, *self._table(model, trees, mine, column, every)))

    def _table(
        self, model: Any, trees: list[Any], splits: list[_Split], column: int, every: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The values of a feature that can be told apart, and what each leaves of all trees."""
        edges, beyond = np.unique([split.node["num_threshold"] for split in splits]), np.inf
        edges = edges[~np.isnan(edges)]  # of infinite values: it tells missing from all others
        if splits[0].node["is_categorical"]:
            edges, beyond = _CODES, np.nan
        asked = np.zeros((len(edges) + 2, model._n_features))  # noqa: SLF001
        asked[:, column] = [*edges, beyond, np.nan]
        asked = model._preprocess_X(asked, reset=False)  # noqa: SLF001
        known = model._bin_mapper.make_known_categories_bitsets()  # noqa: SLF001
        table = np.tile(every, (len(asked), 1, 1))
        for split in splits:
            goes_left = _stump(trees[split.tree], split.node).predict(asked, *known, 1) > 0
            left, right = self._bits([split.left, split.right])
            table[goes_left, split.tree] &= ~right
            table[~goes_left, split.tree] &= ~left
        return edges, table.reshape(len(asked), -1)

    def sums(self, columns: np.ndarray) -> np.ndarray:
        """The sum of the trees of each output.

        Args:
            columns: Features as the model takes them, of shape (features, rows).

        Returns:
            Of shape (rows, outputs).
        """
        left = np.full((columns.shape[1], len(self._starts)), np.iinfo(self._kind).max, self._kind)
        taken = np.empty_like(left)
        for column, edges, table in self._tables:
            values = columns[column]
            if edges is _CODES:
                place = np.fmin(values, _MISSING).astype(np.intp)
            else:
                place = edges.searchsorted(values) + np.isnan(values)
            left &= table.take(place, axis=0, out=taken, mode="clip")
        # What is left of a word is 2**bit or, of several words, 0.
        places = left.astype(np.float32).view(np.int32)
        places >>= _EXPONENT_AT
        if self._shape[-1] > 1:
            np.maximum(places, _HALF, out=places)
        values = self._leaves.take(places + self._starts, mode="clip")
        found: np.ndarray = values.reshape(self._shape).sum(axis=(1, 3))
        return found

    def _bits(self, masks: list[int]) -> np.ndarray:
        """Masks as words, of shape (masks, words)."""
        size = self._shape[-1] * self._kind.itemsize
        content = b"".join(mask.to_bytes(size, "little") for mask in masks)
        return np.frombuffer(content, self._kind).reshape(len(masks), -1)


def _taken_apart(trees: list[Any]) -> tuple[list[_Split], list[list[float]]]:
    """The splits of all trees, and the values of each one's leaves."""
    splits, leaves = [], []
    for number, tree in enumerate(trees):
        values: list[float] = []
        below: dict[int, int] = {}
        for at, node in reversed([*enumerate(tree.nodes)]):  # children come after their parent
            if node["is_leaf"]:
                below[at] = 1 << len(values)
                values.append(node["value"])
            else:
                left, right = below[node["left"]], below[node["right"]]
                splits.append(_Split(number, node, left, right))
                below[at] = left | right
        leaves.append(values)
    return splits, leaves


def _stump(tree: Any, node: Any) -> Any:
    """A tree of one split, which is 1 where the split goes left."""
    nodes = np.zeros(3, tree.nodes.dtype)
    nodes[0] = node
    nodes["left"], nodes["right"], nodes["is_leaf"], nodes["value"] = 1, 2, (0, 1, 1), (0, 1, 0)
    return type(tree)(nodes, tree.binned_left_cat_bitsets, tree.raw_left_cat_bitsets)


TOLERANCE = 1e-6


class Fast:
    """Predictions of rows.

    Args:
        pipeline: A fitted model.
        kind: Its kind.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: Its parts are not those that are known.
    """

    def __init__(self, pipeline: Pipeline, kind: Kind) -> None:
        encoder, model = pipeline[0], pipeline[-1]
        self._trees, self._kind = Trees(model), kind
        self._baseline, self._loss = model._baseline_prediction, model._loss  # noqa: SLF001
        self.columns = list(encoder.columns_)
        self._codes = [
            {value: float(code) for code, value in enumerate(encoder.categories_[name])}
            if name in encoder.categories_
            else None
            for name in self.columns
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
        return self._estimated(matrix)

    def _estimated(self, matrix: np.ndarray) -> np.ndarray:
        raw = self._trees.sums(matrix) + self._baseline
        if self._kind == "multiclass":
            output = np.asarray(self._loss.predict_proba(raw))
        else:
            output = (
                _expit(raw[:, 0]) if self._kind == "binary" else self._loss.link.inverse(raw[:, 0])
            )
        if not np.isfinite(output).all():
            row = int(np.argwhere(~np.isfinite(output))[0][0])
            raise PredictionError(f"the prediction of row {row} (counted from 0) is not finite")
        return output


def fast(pipeline: Pipeline, kind: Kind, rows: pl.DataFrame) -> tuple[Fast | None, str]:
    """The quick form of a pipeline, if it predicts the same.

    Args:
        pipeline: A fitted model.
        kind: Its kind.
        rows: Stored rows of features to hold the two against each other.

    Returns:
        It or None, and a sentence on why.
    """
    name = type(pipeline[-1]).__name__
    if rows.is_empty():
        return None, f"{name}: there are no stored rows to verify a quick form on"
    wanted = predict(pipeline, kind, rows)
    try:
        made = Fast(pipeline, kind)
        given = made.predict([rows[name].to_list() for name in made.columns])
        frame = made.predict([rows[name] for name in made.columns])
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        return None, f"{name}: scikit-learn's own prediction is used, there is no other: {error!r}"
    same = given.shape == frame.shape == wanted.shape
    apart = float(max(abs(given - wanted).max(), abs(frame - wanted).max())) if same else math.inf
    if not apart <= TOLERANCE:
        return None, f"{name}: scikit-learn's own prediction is used, the quick one is {apart} off"
    return made, f"{name}: a quick form, within {apart:.1e} of scikit-learn on {len(wanted)} rows"


def _expit(raw: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        found: np.ndarray = 1 / (1 + np.exp(-raw))
    return found
