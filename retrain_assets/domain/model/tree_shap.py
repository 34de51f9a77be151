"""SHAP values of trees: how much each feature moved a sum from its mean over the training rows.

The definition is that of TreeSHAP (Lundberg and others 2020, "From Local Explanations to Global
Understanding with Explainable AI for Trees", Nature Machine Intelligence 2): a feature that is not
known lets a row go both ways, in the shares of the training rows. On the path to a leaf, a feature
that is known lets the row pass or not (0 or 1), one that is not lets its share of rows pass. The
Shapley value is the integral over t from 0 to 1 of the difference between the two for one feature,
times the mixture (1 - t) share + t passes of each other feature (Owen 1972, "Multilinear Extensions
of Games", Management Science 18). This is a polynomial in t, so few points of Gauss and Legendre
give it exactly.

It is used where a library has no SHAP values of its own. The package `shap` is not used, since it
takes the categories of HistGradientBoosting for numbers: its values do not add up to the output.
Not here: the SHAP values of the libraries that have them.
"""

import math
from functools import reduce

import numpy as np

from retrain_assets.domain.model.trees import Ensemble, Question, find_places, list_edges

BLOCK = 8  # rows at once, of which the arrays stay in the cache of a core


class TreeShap:
    """Explains the sums of an ensemble.

    Args:
        ensemble: The trees, with the training rows of each leaf.

    Raises:
        ValueError: The training rows of the leaves are unknown.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble, conditions = ensemble, _list_conditions(ensemble)
        paths, depth = len(conditions), max(1, *map(len, (path for path, *_ in conditions)))
        self._shares = np.ones((paths, depth))
        self._values = np.array([value for _, value, _ in conditions])
        # Of each path and place: the feature and the output, or one beyond all where there is none.
        beyond = ensemble.columns * ensemble.outputs
        targets = np.full((paths, depth), beyond)
        by_column: dict[int, list[tuple[int, int, list[tuple[Question, bool]]]]] = {}
        for number, (path, _, output) in enumerate(conditions):
            for place, (column, (share, answers)) in enumerate(path.items()):
                self._shares[number, place] = share
                targets[number, place] = output * ensemble.columns + column
                by_column.setdefault(column, []).append((number, place, answers))
        self._tables = [_fill_table(column, parts) for column, parts in by_column.items()]
        self._order = np.argsort(targets, axis=None, kind="stable")
        self._targets, self._starts = np.unique(targets.ravel()[self._order], return_index=True)
        points, weights = np.polynomial.legendre.leggauss(math.ceil(depth / 2))
        self._points = list(zip((points + 1) / 2, weights / 2, strict=True))
        means = self._values * self._shares.prod(axis=1)
        outputs = np.array([output for *_, output in conditions])
        self.base = ensemble.base + np.bincount(outputs, means, ensemble.outputs)

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        """Return SHAP values.

        Args:
            matrix: Features as the model takes them, of shape (rows, features).

        Returns:
            Of shape (rows, outputs, features + 1); the last is the mean, to which the others add.
        """
        ensemble, rows = self._ensemble, len(matrix)
        values = np.zeros((rows, ensemble.outputs * ensemble.columns + 1))
        for first in range(0, rows, BLOCK):
            part = slice(first, first + BLOCK)
            values[part, self._targets] = self._explain(matrix[part])
        shaped = values[:, :-1].reshape(rows, ensemble.outputs, ensemble.columns)
        base = np.broadcast_to(self.base[:, None], (rows, ensemble.outputs, 1))
        return np.concatenate([shaped, base], axis=2)

    def _explain(self, matrix: np.ndarray) -> np.ndarray:
        """Return the value of each feature and output that occurs, of shape (rows, targets)."""
        passes = np.ones((len(matrix), *self._shares.shape))
        for column, edges, table, numbers, places in self._tables:
            passes[:, numbers, places] = table[find_places(edges, matrix[:, column])]
        gain, total = passes - self._shares, np.zeros_like(passes)
        for point, weight in self._points:
            mixture = self._shares + point * gain
            total += weight * mixture.prod(axis=2, keepdims=True) / mixture
        total *= gain * self._values[:, None]
        flat = total.reshape(len(matrix), -1)[:, self._order]
        return np.asarray(np.add.reduceat(flat, self._starts, axis=1))


Path = dict[int, tuple[float, list[tuple[Question, bool]]]]


def _list_conditions(ensemble: Ensemble) -> list[tuple[Path, float, int]]:
    """Return of each leaf what each feature must answer on its path, its value and its output."""
    conditions = []
    for number, tree in enumerate(ensemble.trees):
        if not all(tree.rows):
            raise ValueError("the training rows of its leaves are unknown")

        def count(leaves: int, rows: list[float] = tree.rows) -> float:
            return sum(value for leaf, value in enumerate(rows) if leaves >> leaf & 1)

        counted = [
            (split, count(split.below_left), count(split.below_right)) for split in tree.splits
        ]
        for leaf, value in enumerate(tree.leaves):
            path: Path = {}
            for split, in_left, in_right in counted:
                if not (split.below_left | split.below_right) >> leaf & 1:
                    continue
                goes_left = bool(split.below_left >> leaf & 1)
                share, answers = path.get(split.question.column, (1.0, []))
                share *= (in_left if goes_left else in_right) / (in_left + in_right)
                path[split.question.column] = share, [*answers, (split.question, goes_left)]
            conditions.append((path, value, number % ensemble.outputs))
    return conditions


def _fill_table(
    column: int, parts: list[tuple[int, int, list[tuple[Question, bool]]]]
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return whether each value of a feature passes each path that asks for it, and the paths."""
    numbers, places, answers = zip(*parts, strict=True)
    edges = list_edges([question for part in answers for question, _ in part])
    passes = [
        reduce(np.logical_and, (question.answer(edges) == side for question, side in part))
        for part in answers
    ]
    return column, edges, np.array(passes).T, np.array(numbers), np.array(places)
