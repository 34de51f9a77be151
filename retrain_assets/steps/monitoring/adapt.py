"""Move the adaptive layer by partitions whose labels are final, and store what it comes to.

Outputs of older versions are computed once. A state is made again when anything changes that it
depends on. Not here: how the layer learns and predicts (`domain.adaptation`), and what it serves
(`in_service`).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import polars as pl

from retrain_assets.domain.adaptation import layer
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.metrics.intervals import compute_evidence
from retrain_assets.domain.windows import mature_partitions
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.decision.train import sample
from retrain_assets.steps.features.build import describe_commit
from retrain_assets.steps.features.rows import Rows
from retrain_assets.steps.monitoring.members import Inputs, MemberOutputs, Place
from retrain_assets.steps.state import ModelState, digest

COMPARED = 60  # newest partitions that a summary looks at
ALGORITHM = "3"  # changes when the same inputs would give another state
LOSSES = tuple(f"loss_{name}" for name in ("layer", *layer.HEADS))
WEIGHTS = tuple(f"weight_{name}" for name in layer.HEADS)
SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys((PARTITION, "made_from", "members", "state"), pl.String()),
    "rows": pl.Int64(),
    **dict.fromkeys((*LOSSES, *WEIGHTS), pl.Float64()),
}


@dataclass
class Chain:
    """The states of the layer of one model, one after the other.

    Args:
        model: The model.
        states: The state after each partition that moved it, in order.
    """

    model: ModelState
    states: dict[str, layer.LayerState] = field(default_factory=dict)

    @property
    def newest(self) -> layer.LayerState | None:
        """Return the newest state; None before any partition has moved the layer."""
        return self.states[next(reversed(self.states))] if self.states else None

    def get_served(self, arrived: Sequence[str], classes: tuple[str, ...]) -> layer.LayerState:
        """Return the state that serves the partition that comes after those that have arrived."""
        mature = mature_partitions(arrived, self.model.spec.labels.delay)
        return self._continue(self.find_served(arrived), classes, mature)

    def find_served(self, arrived: Sequence[str]) -> str | None:
        """Return the partition of that state; None before any has moved the layer."""
        mature = mature_partitions(arrived, self.model.spec.labels.delay)
        keys = (key for key in reversed(self.states) if mature and key <= mature[-1])
        return next(keys, None)

    def find_fitting(self, arrived: Sequence[str], classes: tuple[str, ...]) -> str | None:
        """Return the partition of the state that serves; None where it is of another shape."""
        key = self.find_served(arrived)
        state = self.states[key] if key is not None else None
        shape = classes, self.model.spec.layer.members
        return key if state is not None and (state.classes, state.members) == shape else None

    def move(self, key: str, arrived: Sequence[str], inputs: Inputs) -> layer.Update:
        """Add the state after a partition, and return what the partition did.

        Args:
            key: The partition.
            arrived: The partitions that had arrived before it.
            inputs: Its rows.
        """
        newest = next(reversed(self.states), None)
        before = self._continue(newest, inputs.classes, arrived)
        served = self.get_served(arrived, inputs.classes)
        update = layer.update_layer(before, inputs.outputs, inputs.labels, inputs.weights, served)
        self.states[key] = update.state
        return update

    def _continue(
        self, key: str | None, classes: tuple[str, ...], mature: Sequence[str]
    ) -> layer.LayerState:
        """Return the state after a partition; begin anew if there is none or classes differ."""
        state = self.states[key] if key is not None else None
        spec, deviation = self.model.spec, state.deviation if state else None
        shape = classes, spec.layer.members
        if state is not None and (state.classes, state.members) == shape:
            return state
        return layer.start_layer(
            spec.target.kind,
            members=spec.layer.members,
            classes=classes,
            deviation=deviation or _measure_deviation(self.model, mature),
            absolute=spec.gate.metric == "mae",
        )


def _measure_deviation(state: ModelState, keys: Sequence[str]) -> float:
    """Return the standard deviation of a regression's target in the newest training window."""
    if state.spec.target.kind != "regression":
        return 1.0
    target = sample(state, state.spec.windows.take(keys)).target.to_numpy().astype(float)
    return float(target.std()) or 1.0 if target.size else 1.0


@dataclass(frozen=True)
class Adapted:
    """The partitions whose states of the layer were stored.

    Args:
        partitions: Those whose states were made.
        rows: What was stored of these (`SCHEMA`).
        version: The version of the table; None if it was never written.
    """

    partitions: tuple[str, ...]
    rows: pl.DataFrame
    version: int | None


def adapt_partitions(state: ModelState, run_id: str) -> Adapted:
    """Make all states that are missing, or that were made from something else than is stored now.

    A state depends on those before it, so all after the first of these are made again.
    """
    table = state.table("adaptation")
    base, scanned = state.tables.version(table), state.tables.scan(table, SCHEMA)
    digests = state.tables.collect(scanned.select(PARTITION, "made_from"), table)
    made_from = dict(digests.iter_rows())
    places = list(_list_places(state))
    first = next(
        (number for number, item in enumerate(places) if made_from.get(item.key) != item.made_from),
        len(places),
    )
    outdated = made_from.keys() - {item.key for item in places[:first]}
    keys = sorted(outdated.union(item.key for item in places[first:]))
    if not keys:
        return Adapted((), pl.DataFrame(schema=SCHEMA), base)
    newest = [item.key for item in places[:first]][-state.spec.labels.delay - 2 :]
    chain = read_chain(state, pl.col(PARTITION).is_in(newest))
    rows = pl.DataFrame(list(_move(state, chain, places[first:], run_id)), SCHEMA)
    version = state.tables.replace(table, rows, keys, describe_commit(run_id, keys), base=base)
    return Adapted(tuple(item.key for item in places[first:]), rows, version)


def read_chain(
    state: ModelState, condition: pl.Expr | bool = True, most: int | None = None
) -> Chain:
    """Return the stored states of some partitions, or of the newest so many of them."""
    rows = state.stored("adaptation", SCHEMA, condition).select(PARTITION, "state").drop_nulls()
    rows = rows.sort(PARTITION)
    pairs = (rows if most is None else rows.tail(most)).iter_rows()
    return Chain(state, {key: layer.read_state(text) for key, text in pairs})


@dataclass(frozen=True)
class LayerSummary:
    """The gain of the layer on the newest partitions.

    Args:
        partitions: How many partitions with final labels are compared.
        through: The last of them; empty without any.
        newest: Mean loss of the newest version alone.
        layer: Mean loss of the layer.
        evidence: How much likelier the gains are if the layer is better than if it is not.
    """

    partitions: int
    through: str
    newest: float | None
    layer: float | None
    evidence: float

    @property
    def sentence(self) -> str:
        """Return the comparison in words."""
        if self.newest is None or self.layer is None:
            return "no partition with final labels has moved it yet"
        return (
            f"loss {self.layer:.4g}, of the newest version alone {self.newest:.4g}, on "
            f"{self.partitions} partitions through {self.through}; evidence that it is better: "
            f"{self.evidence:.3g}"
        )


def read_losses(state: ModelState) -> pl.DataFrame:
    """Return losses and weights of the partitions that have moved the layer, in order."""
    columns = state.tables.scan(state.table("adaptation"), SCHEMA).select(
        PARTITION, *LOSSES, *WEIGHTS
    )
    rows = state.tables.collect(columns, state.table("adaptation"))
    return rows.drop_nulls("loss_layer").sort(PARTITION)


def summarize(rows: pl.DataFrame) -> LayerSummary:
    """Compare the layer with the newest version alone on the newest partitions.

    Args:
        rows: As `read_losses` gives them.
    """
    newest = rows.tail(COMPARED)
    gains = newest["loss_newest"] - newest["loss_layer"]
    return LayerSummary(
        newest.height,
        newest[PARTITION][-1] if newest.height else "",
        newest["loss_newest"].mean(),  # type: ignore[arg-type]
        newest["loss_layer"].mean(),  # type: ignore[arg-type]
        float(compute_evidence(gains.to_list())[-1]) if newest.height else 1.0,
    )


def _list_places(state: ModelState) -> Iterator[Place]:
    history, sources, count = state.ledger.read(), state.sources(), state.spec.layer.members
    made_from = digest(*_list_inputs(state.spec))
    keys, mature = tuple(sources), set(state.mature())
    for number, key in enumerate(keys):
        members = history.members_at(key)[:count] if key in mature else []
        if members:
            versions = (member.sha256 for member in members)
            made_from = digest(made_from, key, sources[key], *versions)
            yield Place(key, sources[key], keys[:number], members, made_from)


def _list_inputs(spec: ModelSpec) -> list[str]:
    """Return what all states depend on, apart from features and versions."""
    inputs = [ALGORITHM, str(spec.layer.members), str(spec.labels.delay)]
    if spec.target.kind == "regression":  # the scale of the target, and the loss of heads
        inputs += [str(spec.windows.train), str(spec.gate.metric == "mae")]
    return inputs


def rebuild_state(state: ModelState, partition: str) -> tuple[str, str]:
    """Make the state after a partition from the first one on again, and store nothing.

    Returns:
        The state as it is stored, and as it was made now, both as JSON.

    Raises:
        LookupError: There is no such state.
    """
    is_asked = pl.col(PARTITION) == partition
    stored = state.stored("adaptation", SCHEMA, is_asked)["state"].drop_nulls()
    if stored.is_empty():
        raise LookupError(
            f"model {state.spec.name}: no state of the adaptive layer is stored after "
            f"{partition!r}: name a partition of the table {state.table('adaptation')} that has one"
        )
    places = [place for place in _list_places(state) if place.key <= partition]
    rows = _move(state, Chain(state), places, None)
    states = {row[PARTITION]: row["state"] for row in rows}
    return stored[0], states.get(partition) or ""


def _move(
    state: ModelState, chain: Chain, places: Sequence[Place], run_id: str | None
) -> Iterator[dict[str, Any]]:
    """Yield a row of the table for each partition; store what was computed if a run asks for it."""
    load = cache(state.registry.load)
    by_key = {item.key: item for item in places}
    for batch in Rows(state).batches([*by_key]):
        outputs = MemberOutputs(state, batch, load)
        for key in batch:
            item, inputs = by_key[key], outputs.collect(by_key[key])
            yield _describe(item, chain, inputs)
        if run_id is not None:
            outputs.store(run_id)


def _describe(place: Place, chain: Chain, inputs: Inputs | None) -> dict[str, Any]:
    losses, loss, rows = None, None, 0
    if inputs is not None:
        update = chain.move(place.key, place.arrived, inputs)
        losses, loss, rows = update.losses, update.loss, len(inputs.labels)
    state = chain.newest
    return {
        PARTITION: place.key,
        "made_from": place.made_from,
        "members": json.dumps([member.version for member in place.members]),
        "state": state.to_json() if state else None,
        "rows": rows,
        **dict.fromkeys(LOSSES),
        **(
            {"loss_layer": loss, **{f"loss_{name}": losses[name] for name in layer.HEADS}}
            if losses
            else {}
        ),
        **(dict(zip(WEIGHTS, state.weights.tolist(), strict=True)) if state else {}),
    }
