"""Play policies over stored history, in the order of time, by the very functions that run live.

Each policy has a ledger, aliases and tables in memory; fits are shared, as they depend on the data
and not on who asked for them. Partitions are taken to have arrived whole, one after the other. Not
here: what is made of the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.replay import Outcome, Played, compared
from retrain_assets.domain.decision.triggers import decide
from retrain_assets.domain.metrics.metrics import block_values, judged_by
from retrain_assets.domain.windows import elapsed, mature_partitions
from retrain_assets.specs.model import PolicySpec
from retrain_assets.steps.decision.promote import decide_candidate
from retrain_assets.steps.decision.reconsider import propose
from retrain_assets.steps.decision.train import fit_model, get_classes, list_candidates
from retrain_assets.steps.features.build import read_features
from retrain_assets.steps.monitoring.monitor import monitor
from retrain_assets.steps.monitoring.predict import predict_partitions
from retrain_assets.steps.state import SOURCE, ModelState
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.memory import MemoryRegistry, Overlay
from retrain_assets.stores.registry.registry import ModelRegistry, ModelVersion

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

RUN = "replay"
CONFIDENCE = 0.9
KEPT = ("features", "profile")


@dataclass(frozen=True)
class PastState(ModelState):
    """A model as it was when a partition had just arrived.

    Args:
        whole: Digest of what each partition's features depend on.
        arrived: Those that have arrived, in order; grows while a policy is played.
    """

    whole: Mapping[str, str] = field(default_factory=dict)
    arrived: list[str] = field(default_factory=list)

    def sources(self) -> dict[str, str]:
        """Partitions that had arrived."""
        return {key: self.whole[key] for key in self.arrived}


class Replay:
    """History to play policies over.

    Args:
        state: The model; nothing of it is written.
        first: First partition, where not all of history is played.
        last: Last partition.
    """

    def __init__(self, state: ModelState, first: str = "", last: str = "\uffff") -> None:
        self.state = state
        self.keys = [key for key in state.built() if first <= key <= last]
        read = {name: state.tables.read(state.table(name), self.keys) for name in KEPT}
        self.kept = {state.table(name): rows for name, rows in read.items()}
        files = f"{state.dataset.name}/files"
        self.kept[files] = state.tables.collect(state.tables.scan(files), files)
        made = read["features"].select(PARTITION, SOURCE).unique().sort(PARTITION)
        self.whole: dict[str, str] = dict(made.iter_rows())
        self.versions: dict[int, tuple[ModelVersion, Pipeline]] = {}
        self.memo: dict[tuple[str, ...], Any] = {}
        self.judged: dict[tuple[int, str], float | None] = {}

    def check(self, policy: PolicySpec) -> int:
        """Return how many partitions a policy needs before anything is predicted.

        Raises:
            ValueError: History is too short for a first model of this policy.
        """
        spec = policy.of(self.state.spec)
        needed = spec.windows.train + spec.windows.holdout
        if len(self.keys) <= needed + spec.labels.delay:
            raise ValueError(
                f"policy {policy.name!r}: {len(self.keys)} partitions are stored, windows.train + "
                f"windows.holdout need {needed} before anything is predicted: land more, or "
                "shorten the windows"
            )
        return needed

    def play(self, policy: PolicySpec, tell: Callable[[str], None]) -> Played:
        """Play one policy.

        Args:
            policy: Which.
            tell: Is told each partition that was played.

        Raises:
            ValueError: History is too short for a first model.
        """
        spec = policy.of(self.state.spec)
        tables = Overlay(self.state.tables.root, spec.name, self.kept)
        own = (spec, self.state.dataset, self.state.lookups, tables)
        state = PastState(*own, memo=self.memo, whole=self.whole)
        needed = self.check(policy)
        if policy.every is not None:
            return self._calendar(policy.name, state, needed, policy.every, tell)
        return self._policy(policy.name, state, needed, tell)

    def _policy(
        self, name: str, state: PastState, needed: int, tell: Callable[[str], None]
    ) -> Played:
        """Watch, decide, train and judge after each partition, as the sensors have it done."""
        registry = MemoryRegistry(state.spec.name, self.versions)
        early = self.keys[: needed - 1]
        for keys in [early, *([key] for key in self.keys[needed - 1 :])]:
            state.arrived.extend(keys)
            predict_partitions(state, registry, keys, RUN)
            monitor(state, keys, RUN)
            wish = decide(state.spec, state.situation())
            if wish.wanted:
                why = wish.fired, wish.reason
                propose(state, registry, wish.held, wish.as_of, why, lambda: RUN)
                decide_candidate(state, registry, RUN, lambda: RUN)
            tell(keys[-1])
        history = state.ledger.read()
        served = {key: history.production_at(key) for key in self.keys}
        return Played(
            name=name,
            values=self._values(
                state, {key: self.versions[row.version][1] for key, row in served.items() if row}
            ),
            fits=len({made.sha256 for row in history.rows for made in _fitted_for(registry, row)}),
            decided=tuple((row.as_of, row.action) for row in history.rows),
        )

    def _calendar(
        self, name: str, state: PastState, needed: int, every: int, tell: Callable[[str], None]
    ) -> Played:
        """Fit through the newest mature partition, and serve it from the next one on."""
        served: dict[str, Pipeline] = {}
        promoted: list[str] = []
        model: Pipeline | None = None
        for place, key in enumerate(self.keys):
            if model is not None:
                served[key] = model
            mature = mature_partitions(self.keys[: place + 1], state.spec.labels.delay)
            kept = [found for found in mature if not state.is_excluded(found)]
            if len(kept) >= needed and (not promoted or elapsed(kept, promoted[-1]) >= every):
                model = fit_model(state, kept[-state.spec.windows.train :]).pipeline
                promoted.append(kept[-1])
            tell(key)
        values = self._values(state, served)
        decided = tuple((key, "promote") for key in promoted)
        return Played(name, values, len(decided), decided, gated=False)

    def _values(self, state: ModelState, served: Mapping[str, Pipeline]) -> dict[str, float]:
        """The gate's metric of each partition whose labels are there, by what served it."""
        from retrain_assets.domain.model.estimator import predict

        metric, target = judged_by(self.state.spec.gate), state.spec.target
        found: dict[str, float] = {}
        for key, pipeline in served.items():
            known = (id(pipeline), key)
            if known not in self.judged:
                rows = read_features(state, [key]).drop_nulls(target.column)
                output = predict(pipeline, target.kind, rows.select(state.feature_names))
                blocks, labels = rows[PARTITION], rows[target.column].to_numpy()
                values = block_values(metric, labels, output, blocks, get_classes(pipeline))
                self.judged[known] = values["value"][0] if rows.height else None
            if (value := self.judged[known]) is not None:
                found[key] = value
        return found


def _fitted_for(registry: ModelRegistry, row: LedgerRow) -> list[ModelVersion]:
    """Versions of a decision. What is judged again has the digest it had, and was fitted once."""
    candidate = registry.version(row.candidate or row.version)
    return [registry.version(row.version), *list_candidates(registry, candidate)]


def replay_policies(
    state: ModelState,
    policies: Sequence[PolicySpec],
    tell: Callable[[str, int, int], None],
    first: str = "",
    last: str = "\uffff",
) -> Outcome:
    """Play policies over stored history; neither ledger nor registry is touched.

    Args:
        state: The model.
        policies: The first is what the others are held against.
        tell: Is told a policy's name, how many partitions were played of it, and of how many.
        first: First partition, where not all of history is played.
        last: Last partition.

    Raises:
        ValueError: History is too short.
    """
    history = Replay(state, first, last)
    for policy in policies:  # before any is played, since playing one takes minutes
        history.check(policy)
    places = {key: place for place, key in enumerate(history.keys, 1)}

    def played_of(policy: PolicySpec) -> Played:
        return history.play(policy, lambda key: tell(policy.name, places[key], len(places)))

    return compared(judged_by(state.spec.gate), [*map(played_of, policies)], CONFIDENCE)
