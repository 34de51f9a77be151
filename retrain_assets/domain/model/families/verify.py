"""Look through the trees of a stored pipeline before it first predicts.

scikit-learn trusts its own trees: a damaged one lets it read memory that is not its own, or walk in
a circle, at any row. Not here: reading the file, and what the libraries check of native files.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

_NONE = -1  # the child of a leaf; scikit-learn follows any other number, negative ones too


def verify_trees(pipeline: Any) -> None:
    """Look through the trees of all estimators within a pipeline.

    Raises:
        ValueError: A tree is damaged. A damaged native file may crash the process instead.
    """
    for part in _walk(pipeline):
        name = type(part).__name__
        if hasattr(part, "native_"):
            part.verify()
        elif hasattr(part, "_predictors"):
            _verify_boosting(part)
        elif name == "Tree":
            is_inner = part.children_left != _NONE
            _verify_children(is_inner, part.children_left, part.children_right)
            _verify_places("feature", part.feature[is_inner], part.n_features)
        elif name in {"KDTree", "BallTree"}:
            rows, places, nodes, _ = part.get_arrays()
            _verify_places("row", places, len(rows))
            _verify_places("row", nodes["idx_start"], len(rows) + 1)
            _verify_places("row", nodes["idx_end"], len(rows) + 1)


def _walk(root: Any) -> Iterator[Any]:
    """Yield an object and all that it is made of."""
    waiting, parts = [root], dict[int, Any]()
    while waiting:
        part = waiting.pop()
        if id(part) in parts or isinstance(part, type):
            continue
        parts[id(part)] = part
        yield part
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, np.ndarray):
            waiting += part.ravel().tolist() if part.dtype == object else []
        elif isinstance(part, list | tuple):
            waiting += part
        elif not hasattr(part, "native_"):
            waiting += getattr(part, "__dict__", {}).values()


def _verify_boosting(model: Any) -> None:
    """Look through a HistGradientBoosting, which moves its categories before its numbers."""
    columns = model._n_features  # noqa: SLF001
    coded = 0 if model.is_categorical_ is None else int(np.sum(model.is_categorical_))
    for tree in (tree for iteration in model._predictors for tree in iteration):  # noqa: SLF001
        nodes = tree.nodes
        is_inner = nodes["is_leaf"] == 0
        _verify_children(is_inner, nodes["left"], nodes["right"])
        _verify_places("feature", nodes["feature_idx"][is_inner], columns)
        asking = nodes[is_inner & (nodes["is_categorical"] != 0)]
        _verify_places("category", asking["feature_idx"], coded)
        _verify_places("category", asking["bitset_idx"], len(tree.raw_left_cat_bitsets))


def _verify_children(is_inner: np.ndarray, *sides: np.ndarray) -> None:
    """Check that the children of each inner node come after it, as each fit writes them."""
    parents = np.flatnonzero(is_inner)
    for children in sides:
        below = children[parents].astype(np.int64)
        if wrong := parents[(below <= parents) | (below >= len(children))].tolist():
            raise ValueError(f"node {wrong[0]} of a tree is not above its children")


def _verify_places(noun: str, places: np.ndarray, count: int) -> None:
    if wrong := places[(places < 0) | (places >= count)].tolist():
        raise ValueError(f"a tree asks for {noun} {wrong[0]} of {count}")
