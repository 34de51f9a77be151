"""The state of the adaptive layer: how it begins, moves with a partition, and predicts.

Its members are roles: the r-th newest version in production when a partition arrived. So a new
version takes the weight that its predecessors earned as the newest. Five heads predict each row:
the newest version alone, and linear models over one or all members that forget fast or slowly. They
are mixed by exponential weights of their discounted losses (Cesa-Bianchi & Lugosi 2006, Prediction,
Learning, and Games). Everything is a pure function of states and rows; matrix products run on one
thread, so that the same inputs give the same bits.
Not here: the linear models (`linear`), and which versions the members are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from retrain_assets.domain.adaptation.linear import (
    Linear,
    Rows,
    from_link,
    predict_link,
    start_linear,
    to_link,
    update_linear,
)
from retrain_assets.domain.metrics.metrics import UNKNOWN_CLASS, surprise
from retrain_assets.domain.threads import one_thread
from retrain_assets.specs.features import Kind

Array = np.ndarray
MEMBERS = 5
FAST, SLOW = 0.8, 0.95  # discounts of the linear heads
HEADS = ("newest", "single_fast", "single_slow", "blend_fast", "blend_slow")
LEARNING_RATE, LOSS_MEMORY = 5.0, 0.97  # of the weights of the heads
TYPICAL_MEMORY = 0.95  # of the running mean of a regression's loss
MOST_ROWS = 100_000  # of a partition that move it: more would take seconds and change nothing
EXTREME = 1e6  # standard deviations; a row that is so wrong would outweigh the rows of years
FAR = 5.0  # on the scale of the link: beyond it from the newest, the newest version is served


class _Head(NamedTuple):
    linear: Linear
    discount: float
    members: int


@dataclass(frozen=True)
class LayerState:
    """All that the layer knows after a partition.

    Args:
        kind: Of the prediction.
        heads: The linear heads, in the order of `HEADS` after the newest.
        losses: Discounted sum of the loss of each head, the newest first.
        deviation: Of a regression, the standard deviation that its numbers are divided by.
        absolute: Whether a regression's loss is the absolute error, and not the squared one.
        classes: Of multiclass, the class of each column of outputs.
        typical: Of a regression, the running mean of the loss of the newest version.
        partitions: How many have moved it.
    """

    kind: Kind
    heads: tuple[Linear, ...]
    losses: Array
    deviation: float = 1.0
    absolute: bool = False
    classes: tuple[str, ...] = ()
    typical: float = 0.0
    partitions: int = 0

    @cached_property
    def weights(self) -> Array:
        """Return the weight of each head, in the order of `HEADS`."""
        raised = np.exp(-LEARNING_RATE * (self.losses - self.losses.min()))
        return np.asarray(raised / raised.sum())

    @cached_property
    def coefficients(self) -> Array:
        """Return bias and weights of all linear heads of one number, shape (1 + members, heads)."""
        table = np.zeros((1 + self.members, len(self.heads)))
        for place, head in enumerate(self.heads):
            table[: len(head.coefficients), place] = head.coefficients
        return table

    @cached_property
    def members(self) -> int:
        """Return how many members the layer has."""
        return len(self.heads[-1].coefficients) - len(self.heads[0].coefficients) + 1

    def to_json(self) -> str:
        """Return the state as JSON, from which `read_state` makes the same bits."""
        heads = [{name: part.tolist() for name, part in vars(head).items()} for head in self.heads]
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(values | {"heads": heads, "losses": self.losses.tolist()})


class Update(NamedTuple):
    """The effect of one partition on the layer.

    Args:
        state: After it.
        losses: The mean loss on it of each head as it was served; None where no row counted.
        loss: The same of what the layer would have served.
    """

    state: LayerState
    losses: dict[str, float] | None
    loss: float | None


def read_state(text: str) -> LayerState:
    """Return the state that `to_json` wrote."""
    values = json.loads(text)
    heads = [
        Linear(**{name: np.array(part) for name, part in head.items()}) for head in values["heads"]
    ]
    parts = {"heads": (*heads,), "losses": np.array(values["losses"])}
    return LayerState(**values | parts | {"classes": (*values["classes"],)})


def start_layer(
    kind: Kind,
    *,
    members: int = MEMBERS,
    classes: Sequence[str] = (),
    deviation: float = 1.0,
    absolute: bool = False,
) -> LayerState:
    """Return the state before any partition.

    Args:
        kind: Of the prediction.
        members: How many of the newest versions are used.
        classes: Of multiclass, the class of each column of outputs.
        deviation: Of a regression, the target's standard deviation in the first training window.
        absolute: Of a regression, whether heads are weighed by their absolute error.

    Raises:
        ValueError: A deviation is not above 0.
    """
    if not deviation > 0:
        raise ValueError(f"a target whose standard deviation is {deviation} cannot be scaled")
    biases = len(classes) if kind == "multiclass" else 1
    heads = tuple(start_linear(count, biases) for count in (1, 1, members, members))
    return LayerState(kind, heads, np.zeros(len(HEADS)), deviation, absolute, (*classes,))


def predict_layer(state: LayerState, outputs: Array) -> Array:
    """Return what the layer serves.

    Where the output of a member is not finite, or the result lies `FAR` from that of the newest
    version, the newest version is served. So the log loss of a row is at most `FAR` above that of
    the newest version (and 0.0001, since its probability is moved inside of `CLIP`), and the number
    of a regression at most `FAR` standard deviations from its number.

    Args:
        state: The state.
        outputs: Members' predictions, the newest first: shape (rows, members), of multiclass
            (rows, members, classes). `fill_roles` says which they are.

    Returns:
        Predictions of shape (rows,), or (rows, classes).
    """
    with np.errstate(all="ignore"):  # what is not finite is replaced below
        inputs = to_link(state.kind, outputs, state.deviation)
        return _mix(state, outputs, inputs, _predict_heads(state, outputs, inputs))


def _mix(state: LayerState, outputs: Array, inputs: Array, heads: Sequence[Array]) -> Array:
    weights, newest = state.weights, outputs[:, 0]
    mixed = weights[0] * heads[0]
    for weight, head in zip(weights[1:], heads[1:], strict=True):
        mixed = mixed + weight * head
    with np.errstate(all="ignore"):
        distance = np.abs(to_link(state.kind, mixed, state.deviation, least=0.0) - inputs[:, 0])
    # A comparison with NaN is False, so what is not finite is not served.
    near = (distance <= FAR).reshape(len(newest), -1).all(axis=1) & _are_finite(outputs)
    return np.where(near.reshape(-1, *[1] * (mixed.ndim - 1)), mixed, newest)


def _predict_heads(state: LayerState, outputs: Array, inputs: Array) -> list[Array]:
    """Return what each head predicts; the second array is on the scale of the link."""
    if state.kind == "multiclass":
        links = (predict_link(head.linear, inputs[:, : head.members]) for head in _heads(state))
        return [outputs[:, 0], *(from_link(state.kind, link, state.deviation) for link in links)]
    # All heads at once, since a single row costs the number of numpy's calls. Weights of 0 add
    # nothing, and terms are added in the order of `predict_link`.
    bias, *weights = state.coefficients
    link = np.tile(bias, (len(inputs), 1))
    for place, weight in enumerate(weights):
        link = link + inputs[:, place, None] * weight
    return [outputs[:, 0], *from_link(state.kind, link, state.deviation).T]


def _heads(state: LayerState) -> list[_Head]:
    counts = (1, 1, state.members, state.members)
    return [
        _Head(*head) for head in zip(state.heads, (FAST, SLOW, FAST, SLOW), counts, strict=True)
    ]


def update_layer(
    state: LayerState,
    outputs: Array,
    labels: Array,
    weights: Array | None = None,
    served: LayerState | None = None,
) -> Update:
    """Move the layer by a partition whose labels are final.

    Rows count by their weight, as if each were repeated so often. Of more than `MOST_ROWS`, so
    many are taken at even distances. Rows without a finite output of
    every member, of an unknown class, or with an output or label that is `EXTREME`, do not count;
    without any that do, the state stays.

    Args:
        state: The state after the partitions before.
        outputs: As `predict_layer` takes them.
        labels: 0 or 1, the place of the class (-1 for an unknown one), or a number.
        weights: Row weights, not below 0.
        served: The state that served the partition, which is older where labels come late; heads
            are weighed by their losses under it.
    """
    usable = _are_finite(outputs)
    if state.kind == "multiclass":
        usable &= labels != UNKNOWN_CLASS
    if state.kind == "regression":
        with np.errstate(over="ignore"):
            distance = np.abs(outputs - labels[:, None]).max(axis=1)
        usable &= distance <= EXTREME * state.deviation
    weights = np.ones(len(labels)) if weights is None else weights
    usable &= weights > 0
    places = np.flatnonzero(usable)
    if len(places) > MOST_ROWS:
        places = places[np.linspace(0, len(places) - 1, MOST_ROWS).astype(int)]
    outputs, labels, shares = outputs[places], labels[places], weights[places]
    if not len(labels):
        return Update(state, None, None)
    shares = shares / shares.sum()
    losses, loss = _measure(served or state, outputs, labels, shares)
    return Update(_move(state, Rows(outputs, labels, shares), losses), losses, loss)


def _measure(
    state: LayerState, outputs: Array, labels: Array, shares: Array
) -> tuple[dict[str, float], float]:
    inputs = to_link(state.kind, outputs, state.deviation)
    heads = _predict_heads(state, outputs, inputs)
    values = [*heads, _mix(state, outputs, inputs, heads)]
    *losses, loss = (float(_losses(state, labels, value) @ shares) for value in values)
    return dict(zip(HEADS, losses, strict=True)), loss


def _losses(state: LayerState, labels: Array, prediction: Array) -> Array:
    if state.kind != "regression":
        return surprise(labels, prediction)
    error = np.abs(prediction - labels)
    return np.asarray(error if state.absolute else error**2)


def _move(state: LayerState, rows: Rows, losses: dict[str, float]) -> LayerState:
    """Return the state after rows whose outputs and labels are not on the link's scale yet."""
    increments, typical = np.array([losses[name] for name in HEADS]), state.typical
    if state.kind == "regression":
        share = 1 - TYPICAL_MEMORY if state.partitions else 1.0
        typical += share * (increments[0] - typical)
        increments = increments / typical if typical > 0 else increments
    regression = state.kind == "regression"
    labels = rows.labels / state.deviation if regression else rows.labels
    inputs = np.asfortranarray(to_link(state.kind, rows.inputs, state.deviation))
    parts = {count: Rows(inputs[:, :count], labels, rows.weights) for count in {1, state.members}}
    with one_thread("numpy"):
        heads = tuple(
            update_linear(state.kind, head.linear, parts[head.members], head.discount)
            for head in _heads(state)
        )
    return replace(
        state,
        heads=heads,
        losses=LOSS_MEMORY * state.losses + increments,
        typical=float(typical),
        partitions=state.partitions + 1,
    )


def _are_finite(outputs: Array) -> Array:
    return np.asarray(np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))


def fill_roles(versions: Sequence[int], members: int = MEMBERS) -> tuple[int, ...]:
    """Return the version of each role, the newest first; the oldest stands for missing ones.

    Args:
        versions: At least one version, the newest first.
        members: Number of roles.
    """
    roles = [*versions[:members]]
    return (*roles, *roles[-1:] * (members - len(roles)))
