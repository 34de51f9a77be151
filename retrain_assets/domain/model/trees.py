"""The trees of a fitted ensemble in one form, whatever library grew them.

Each library's own dump is read into splits and leaves, so that one fast evaluation serves all. What
a dump cannot say exactly is refused with the reason, and the library predicts then. Not here:
evaluating trees, and choosing the function for a library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

CODES = 256  # categories that are told apart
_MOST = 88.0  # beyond, the exponential of a float32 is infinite
Link = Callable[[np.ndarray], np.ndarray]


class Question(NamedTuple):
    """The question of a split.

    Args:
        column: The feature that it asks for.
        threshold: Numbers up to it go left.
        missing_left: Whether a missing number goes left.
        categories: Of a category instead: whether each code goes left, then any further code, then
            a missing one; of shape (CODES + 2,).
    """

    column: int
    threshold: float = np.nan
    missing_left: bool = False
    categories: np.ndarray | None = None

    def answer(self, edges: np.ndarray) -> np.ndarray:
        """Return whether each value goes left: each edge, one beyond, and a missing one."""
        if self.categories is not None:
            return self.categories
        return np.append(edges <= self.threshold, [False, self.missing_left])


class Split(NamedTuple):
    """A question, and the leaves on its two sides as masks: bit i stands for leaf i."""

    question: Question
    below_left: int
    below_right: int


class Leaf(NamedTuple):
    """The value of a leaf, and how many training rows are in it; 0 where that is not told."""

    value: float
    rows: float = 0.0


class Tree(NamedTuple):
    """The splits of a tree, and the values and the training rows of its leaves."""

    splits: list[Split]
    leaves: list[float]
    rows: list[float]


@dataclass(frozen=True)
class Ensemble:
    """Trees whose sum is a prediction.

    Args:
        trees: The trees; the number of a tree modulo `outputs` is the output that it adds to.
        columns: Number of features.
        outputs: Number of sums.
        base: What is added to each sum, of shape (outputs,).
        link: From sums of shape (rows, outputs) to predictions, as `predict` of the domain gives.
        is_single: Whether the library adds in float32, tree by tree, beginning with the base.
        is_oblivious: Whether bit i of the number of each leaf is 1 on the right of question i.
    """

    trees: Sequence[Tree]
    columns: int
    outputs: int
    base: np.ndarray
    link: Link
    is_single: bool = False
    is_oblivious: bool = False


def flatten(root: Any, read: Callable[[Any], tuple[Question, Any, Any] | Leaf]) -> Tree:
    """Return a tree as splits and leaves.

    Args:
        root: Its first node.
        read: Returns the question of a node and the nodes on its left and right, or a leaf.
    """
    nodes, parts, places = [root], [], []
    for node in nodes:  # grows meanwhile, so that children come after their parent
        part = read(node)
        parts.append(part)
        places.append(len(nodes))
        if not isinstance(part, Leaf):
            nodes += part[1:]
    tree, below = Tree([], [], []), [0] * len(nodes)
    for node, part in reversed([*enumerate(parts)]):
        if isinstance(part, Leaf):
            below[node] = 1 << len(tree.leaves)
            tree.leaves.append(part.value)
            tree.rows.append(part.rows)
            continue
        lefts, rights = below[places[node]], below[places[node] + 1]
        below[node] = lefts | rights
        tree.splits.append(Split(part[0], lefts, rights))
    return tree


def widen(threshold: float, *, is_included: bool) -> float:
    """Return the largest float64 that goes left where values are compared as float32.

    Args:
        threshold: A float32.
        is_included: Whether the threshold itself goes left.
    """
    with np.errstate(over="ignore"):
        limit = np.float32(threshold)
        below = np.nextafter(limit, np.float32(-np.inf))
        if not is_included:
            limit, below = below, np.nextafter(below, np.float32(-np.inf))
        above = np.nextafter(limit, np.float32(np.inf))
        half = float(above) - float(limit) if np.isfinite(above) else float(limit) - float(below)
        middle = float(limit) + half / 2
        # What lies between two numbers of float32 is rounded to the even one.
        is_left = np.float32(middle) == limit
    return middle if is_left else float(np.nextafter(middle, -np.inf))


def list_edges(questions: Sequence[Question]) -> np.ndarray:
    """Return the values of a feature up to which all others are told apart alike."""
    if questions[0].categories is not None:
        return np.arange(float(CODES))
    edges = np.unique(np.array([question.threshold for question in questions]))
    return np.asarray(edges[~np.isnan(edges)])  # scikit-learn's way to tell missing from all others


def find_places(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the place of each value among those of `Question.answer`, of shape (values,)."""
    return np.asarray(edges.searchsorted(values) + np.isnan(values))


def identity(raw: np.ndarray) -> np.ndarray:
    """Return the sum."""
    return raw[:, 0]


def exponential(raw: np.ndarray) -> np.ndarray:
    """Return the exponential of the sum."""
    return np.asarray(np.exp(raw[:, 0]))


def signed_square(raw: np.ndarray) -> np.ndarray:
    """Return the square of the sum, with its sign."""
    return np.asarray(np.sign(raw[:, 0]) * raw[:, 0] ** 2)


def sigmoid(raw: np.ndarray) -> np.ndarray:
    """Return the logistic function of the sum."""
    if raw.size == 1 and raw.dtype == float:  # the same bits, with fewer calls of numpy
        return np.array([1 / (1 + float(np.exp(min(-raw.item(), _MOST))))])
    return expit(raw)[:, 0]


def softmax(raw: np.ndarray) -> np.ndarray:
    """Return shares that add up to 1, of shape (rows, outputs)."""
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def expit(raw: np.ndarray) -> np.ndarray:
    """Return the logistic function of each sum."""
    return np.asarray(1 / (1 + np.exp(np.minimum(-raw, _MOST))))


def flag(codes: Sequence[int]) -> np.ndarray:
    """Return the categories of a question of which these codes go left, and no other value does.

    Raises:
        ValueError: A code is too large.
    """
    if max(codes, default=0) >= CODES:
        raise ValueError(f"its trees tell apart more than {CODES} categories")
    flags = np.zeros(CODES + 2, bool)
    flags[codes] = True
    return flags


def get_link(links: Mapping[str, Link], name: str) -> Link:
    """Return the link of an objective.

    Raises:
        ValueError: There is none.
    """
    if name not in links:
        raise ValueError(f"its objective is {name}")
    return links[name]
