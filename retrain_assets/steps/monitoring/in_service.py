"""What the adaptive layer serves: of partitions as they arrived, and with a version that is judged.

Not here: how it learns (`adapt`), when it serves (`steps.decision.layer`), and answering requests.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import polars as pl

from retrain_assets.domain.adaptation.layer import LayerState, predict_layer
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.model.estimator import predict
from retrain_assets.domain.windows import count_since, mature_partitions
from retrain_assets.steps.decision import train
from retrain_assets.steps.decision.train import Model, Output, get_classes
from retrain_assets.steps.monitoring.adapt import read_chain
from retrain_assets.steps.monitoring.members import MemberOutputs, Place, stack_values
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import History, LedgerRow

Load = Callable[[int, str], Model]
PredictBy = Callable[[int, str], Output | None]
LATER = "\uffff"  # than any partition


def is_in_service(state: ModelState, history: History) -> bool:
    """Return whether the layer is to serve what comes next."""
    return state.spec.layer.mode == "auto" and history.is_adapted


@dataclass(frozen=True)
class Newest:
    """The state and members that serve until another state or version comes.

    Args:
        name: The partition after which the state was made.
        state: The state.
        members: The versions that it mixes, the newest first.
    """

    name: str
    state: LayerState
    members: tuple[LedgerRow, ...]

    def mix(self, outputs: Sequence[Output], count: int) -> np.ndarray:
        """Return what is served of outputs of the members, the newest first.

        The newest version serves alone if the state was made for other classes or another count.
        """
        stacked, classes = stack_values(outputs, count)
        if not self.fits(classes, count):
            return outputs[0].values
        return predict_layer(self.state, stacked)

    def fits(self, classes: tuple[str, ...], count: int) -> bool:
        """Tell if the state was made for these classes and so many members."""
        return (self.state.classes, self.state.members) == (classes, count)


class OldStateError(RuntimeError):
    """The newest state is older than `adapt.max_age`; the message says how old."""


def read_newest(state: ModelState, history: History) -> Newest | None:
    """Return what the layer is to serve with now; None while it does not serve.

    Raises:
        OldStateError: The newest version is to answer alone.
    """
    if not is_in_service(state, history):
        return None
    chain, spec = read_chain(state, most=1), state.spec
    name = next(reversed(chain.states), "")
    age = count_since(mature_partitions(tuple(state.sources()), spec.labels.delay), name)
    if chain.newest is None or age > spec.layer.max_age:
        raise OldStateError(
            f"the newest state of the adaptive layer is that after {name or 'no partition'}, and "
            f"the labels of {age} more partitions are final (adapt.max_age is "
            f"{spec.layer.max_age}), so the newest version serves alone: run {spec.name}/adaptation"
        )
    members = history.members_at(LATER)[: spec.layer.members]
    return Newest(name, chain.newest, (*members,))


class Follower:
    """Serves partitions in order, each by the state that was to serve it when it arrived.

    Args:
        state: The model.
        history: Its ledger.
        keys: The partitions, in order; states before them are read from their table.
        load: A function that returns a version's pipeline of its number and digest.
    """

    def __init__(
        self, state: ModelState, history: History, keys: Sequence[str], load: Load
    ) -> None:
        self.state, self.history, self.sources = state, history, state.sources()
        self.load = load
        self._places = {key: place for place, key in enumerate(self.sources)}
        first = min(keys, default="")
        most = state.spec.labels.delay + 2
        self._chain = read_chain(state, pl.col(PARTITION) < first, most)
        self._catch_up(first)

    def _catch_up(self, first: str) -> None:
        """Move by the partitions whose labels become final while these partitions arrive."""
        last = next(reversed(self._chain.states), None)
        delay = self.state.spec.labels.delay
        missing = [
            key
            for key in self.sources
            if last is not None and last < key < first and not self.state.is_excluded(key)
        ]
        if missing and len(missing) <= delay:
            members = MemberOutputs(self.state, missing, self.load)
            for key in missing:
                place = self._place(key)
                self._move(place, members.list_outputs(place), members)

    def serve(
        self, output: Output, partitions: pl.Series, members: MemberOutputs
    ) -> tuple[Output, np.ndarray, list[str | None]]:
        """Return what is served of some rows, and what the layer makes of them.

        Args:
            output: What their newest version predicts.
            partitions: The partition of each row.
            members: What older versions predict.

        Returns:
            What is served; what the layer serves, or would; and of each row the partition of the
            state that this is by, None where the newest version is alone.
        """
        served, adapted = output.values.copy(), output.values.copy()
        names: list[str | None] = []
        for key in partitions.unique(maintain_order=True):
            mask = (partitions == key).to_numpy()
            part = replace(output, values=output.values[mask])
            values, name = self._adapt(str(key), part, members)
            adapted[mask] = values
            if self._serves_at(str(key), name):
                served[mask] = values
            names += [name] * int(mask.sum())
        return replace(output, values=served), adapted, names

    def _adapt(
        self, key: str, newest: Output, members: MemberOutputs
    ) -> tuple[np.ndarray, str | None]:
        place = self._place(key)
        outputs = members.list_outputs(place, newest)
        if not outputs:
            return newest.values, None
        stacked, classes = stack_values(outputs, self.state.spec.layer.members)
        values = predict_layer(self._chain.get_served(place.arrived, classes), stacked)
        name = self._chain.find_fitting(place.arrived, classes)  # else the newest serves alone
        self._move(place, outputs, members)
        return values, name

    def _move(self, place: Place, outputs: Sequence[Output], members: MemberOutputs) -> None:
        inputs = members.select_labelled(place, outputs) if outputs else None
        if inputs is not None and not self.state.is_excluded(place.key):
            self._chain.move(place.key, place.arrived, inputs)

    def _place(self, key: str) -> Place:
        rows = self.history.members_at(key)[: self.state.spec.layer.members]
        return Place(key, self.sources[key], self._list_arrived(key), rows, "")

    def _list_arrived(self, key: str) -> Sequence[str]:
        return tuple(self.sources)[: self._places[key]]

    def _serves_at(self, key: str, name: str | None) -> bool:
        layer = self.state.spec.layer
        if name is None or layer.mode != "auto" or not self.history.adapts_at(key):
            return False
        mature = mature_partitions(self._list_arrived(key), self.state.spec.labels.delay)
        return count_since(mature, name) <= layer.max_age


def predict_once(state: ModelState, features: pl.DataFrame) -> PredictBy:
    """Return a function of a version and its digest, which predicts these rows once a version.

    It returns None for a version whose features are no longer made.
    """

    @cache
    def predict_by(version: int, sha256: str) -> Output | None:
        pipeline = state.registry.load(version, sha256)
        if train.list_missing_features(state, pipeline):
            return None
        values = predict(pipeline, state.spec.target.kind, features, strict=False)
        return Output(pipeline, values, get_classes(pipeline))

    return predict_by


def put_under(
    state: ModelState,
    features: pl.DataFrame,
    partitions: pl.Series,
    output: Output,
    without: Collection[int | None] = (),
    predict_by: PredictBy | None = None,
) -> Output:
    """Return what would be served of rows if a model were the newest version.

    Args:
        state: The model.
        features: Rows of stored partitions.
        partitions: The partition of each.
        output: What the model predicts for them.
        without: Versions that are no older members: itself, and those that came after it.
        predict_by: What `predict_once` returns for the features, if it has been called for them.

    Returns:
        The output as it is while the layer does not serve.
    """
    if state.spec.layer.mode != "auto":  # the ledger is read only where it can matter
        return output
    history = state.ledger.read()
    if not history.is_adapted:
        return output
    chain, keys, values = read_chain(state), tuple(state.sources()), output.values.copy()
    predict_by, count = predict_by or predict_once(state, features), state.spec.layer.members
    present = {row.version for row in history.members_at(LATER)}.difference(without)
    for key in partitions.unique(maintain_order=True):
        place = (partitions == key).to_numpy()
        # A version that was rolled back from serves no more, also where it did.
        older = [row for row in history.members_at(key) if row.version in present]
        members = [predict_by(row.version, row.sha256) for row in older[: count - 1]]
        outputs = [replace(item, values=item.values[place]) for item in (output, *members) if item]
        stacked, classes = stack_values(outputs, count)
        arrived = [part for part in keys if part < key]
        if chain.find_fitting(arrived, classes) is not None:
            values[place] = predict_layer(chain.get_served(arrived, classes), stacked)
    return replace(output, values=values)
