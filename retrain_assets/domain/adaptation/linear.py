"""One discounted linear model over the outputs of members, moved by each partition.

Its linear predictor is b_0 + sum of b_r z_r, with z_r the output of the r-th newest version on the
scale of the link: the logit of a probability, the logarithm of a class's probability (with a bias a
class and shared weights), or a number in standard deviations of the target. This is a dynamic
generalised linear model whose past information is discounted (West & Harrison 1997, Bayesian
Forecasting and Dynamic Models; McCormick, Raftery, Madigan & Burd 2012, Biometrics 68).
Not here: how several of them are mixed (`layer`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from retrain_assets.specs.features import Kind

Array = np.ndarray
CLIP = 1e-4  # probabilities are moved inside [CLIP, 1 - CLIP] before their logit is taken
RATIO = 0.5  # of the prior weight of a member to that of the next newer
PRIOR = 1.0  # how many partitions of information the prior counts as
MEMORY = 0.95  # of the running mean of the information's diagonal
STEPS, HALVINGS, PRECISE = 6, 12, 1e-11  # of Newton's method
SMALLEST = 1e-9  # of the prior's precision, where a member says the same of every row


@dataclass(frozen=True)
class Rows:
    """Rows of one partition.

    Args:
        inputs: Members' outputs on the scale of the link, the newest first: shape (rows, members),
            or (rows, members, classes).
        labels: 0 or 1, the place of a class, or a number in standard deviations: shape (rows,).
        weights: Their sum is 1.
    """

    inputs: Array
    labels: Array
    weights: Array

    @cached_property
    def design(self) -> Array:
        """Return a row of ones for the bias above one row a member, where there are no classes."""
        return np.vstack([np.ones(len(self.labels)), self.inputs.T])


@dataclass(frozen=True)
class Linear:
    """The state of one linear model.

    Args:
        coefficients: The biases, then the weight of each member.
        information: Discounted information of the data, per row: a square matrix of that size.
        diagonal: Running mean of the information's diagonal; zeros before any partition.
    """

    coefficients: Array
    information: Array
    diagonal: Array


Evaluation = tuple[float, Array, Array]  # mean loss, its gradient, its information


def start_linear(members: int, biases: int) -> Linear:
    """Return the model before any partition: no bias, and half the weight for each older member."""
    shares = RATIO ** np.arange(members)
    size = biases + members
    coefficients = np.append(np.zeros(biases), shares / shares.sum())
    return Linear(coefficients, np.zeros((size, size)), np.zeros(size))


def to_link(kind: Kind, outputs: Array, deviation: float, least: float = CLIP) -> Array:
    """Return outputs on the scale of the link, probabilities moved inside [least, 1 - least]."""
    if kind == "regression":
        return outputs / deviation
    inside = np.clip(outputs, least, 1 - least)
    return np.asarray(np.log(inside / (1 - inside)) if kind == "binary" else np.log(inside))


def predict_link(linear: Linear, inputs: Array) -> Array:
    """Return the linear predictor: shape (rows,), or (rows, classes).

    Terms are added one after the other, so that a row has the same bits alone and among others.
    """
    members = inputs.shape[1]
    biases, weights = np.split(linear.coefficients, [-members])
    total = biases[0] if inputs.ndim == 2 else biases  # noqa: PLR2004
    for place in range(members):
        total = total + weights[place] * inputs[:, place]
    return np.asarray(total)


def from_link(kind: Kind, link: Array, deviation: float) -> Array:
    """Return predictions from the scale of the link."""
    if kind == "regression":
        return link * deviation
    if kind == "binary":
        odds = np.exp(-np.abs(link))
        return np.asarray(np.where(link > 0, 1.0, odds) / (1 + odds))
    raised = np.exp(link - link.max(axis=1, keepdims=True))
    total = raised[:, 0]
    for place in range(1, raised.shape[1]):
        total = total + raised[:, place]
    return np.asarray(raised / total[:, None])


def update_linear(kind: Kind, linear: Linear, rows: Rows, discount: float) -> Linear:
    """Return the model after a partition, which counts as one whatever its number of rows.

    Args:
        kind: Of the prediction.
        linear: The model before it.
        rows: Its rows.
        discount: What remains of the information of a partition when the next has come.
    """

    def evaluate(coefficients: Array) -> Evaluation:
        moved = Linear(coefficients, linear.information, linear.diagonal)
        return _EVALUATE[kind](predict_link(moved, rows.inputs), rows)

    size, members = len(linear.coefficients), rows.inputs.shape[1]
    prior = start_linear(members, size - members).coefficients
    first = evaluate(linear.coefficients)
    diagonal = np.diag(first[2])
    if linear.diagonal.any():
        diagonal = MEMORY * linear.diagonal + (1 - MEMORY) * diagonal
    precision = PRIOR * np.maximum(diagonal, SMALLEST)
    hessian = discount * linear.information + np.diag(precision)
    pull = discount * linear.information @ linear.coefficients + precision * prior
    center = np.linalg.solve(hessian, pull)
    coefficients, information = _minimise(evaluate, linear.coefficients, first, center, hessian)
    return Linear(coefficients, discount * linear.information + information, diagonal)


def _minimise(
    evaluate: Callable[[Array], Evaluation],
    start: Array,
    first: Evaluation,
    center: Array,
    hessian: Array,
) -> tuple[Array, Array]:
    """Return the least of the mean loss and the prior by damped Newton, and the information there.

    Args:
        evaluate: Mean loss, gradient and information at some coefficients.
        start: Where the search begins.
        first: `evaluate` of it.
        center: The mean of the prior.
        hessian: Its precision.
    """

    def add_prior(point: Array, loss: float) -> float:
        return loss + 0.5 * float((point - center) @ hessian @ (point - center))

    point, (loss, gradient, information) = start, first
    value = add_prior(point, loss)
    for _ in range(STEPS):
        slope = gradient + hessian @ (point - center)
        step = np.linalg.solve(information + hessian, slope)
        if float(slope @ step) <= PRECISE:
            break
        for halving in range(HALVINGS):
            trial = point - step / 2**halving
            evaluation = evaluate(trial)
            if add_prior(trial, evaluation[0]) <= value:
                break
        else:
            break
        point, (loss, gradient, information) = trial, evaluation
        value = add_prior(point, loss)
    return point, information


def _evaluate_binary(link: Array, rows: Rows) -> Evaluation:
    chance, weights = from_link("binary", link, 1.0), rows.weights
    softplus = np.maximum(link, 0) + np.log(1 + np.exp(-np.abs(link)))
    loss = float(weights @ (softplus - rows.labels * link))
    information = (rows.design * (weights * chance * (1 - chance))) @ rows.design.T
    return loss, rows.design @ (weights * (chance - rows.labels)), information


def _evaluate_regression(link: Array, rows: Rows) -> Evaluation:
    error, weights = link - rows.labels, rows.weights
    information = (rows.design * weights) @ rows.design.T
    return float(weights @ error**2) / 2, rows.design @ (weights * error), information


def _evaluate_multiclass(link: Array, rows: Rows) -> Evaluation:
    inputs, weights, places = rows.inputs, rows.weights, np.arange(len(link))
    chance, highest = from_link("multiclass", link, 1.0), link.max(axis=1)
    total = highest + np.log(np.exp(link - highest[:, None]).sum(axis=1))
    loss = float(weights @ (total - link[places, rows.labels]))
    error = chance.copy()
    error[places, rows.labels] -= 1
    mean = np.einsum("nc,nrc->nr", chance, inputs)
    weighted = chance * weights[:, None]
    biases = np.diag(weighted.sum(axis=0)) - weighted.T @ chance
    mixed = np.einsum("nc,nrc->cr", weighted, inputs) - weighted.T @ mean
    spread = np.einsum("nc,nrc,nsc->rs", weighted, inputs, inputs, optimize=True)
    spread = spread - (mean * weights[:, None]).T @ mean
    gradient = np.append(weights @ error, np.einsum("n,nc,nrc->r", weights, error, inputs))
    return loss, gradient, np.block([[biases, mixed], [mixed.T, spread]])


_EVALUATE: dict[Kind, Callable[[Array, Rows], Evaluation]] = {
    "binary": _evaluate_binary,
    "regression": _evaluate_regression,
    "multiclass": _evaluate_multiclass,
}
