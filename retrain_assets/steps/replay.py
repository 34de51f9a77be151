"""Play policies over stored history, in the order of time, by the functions that run live.

Each policy has a ledger, aliases and tables in memory. Fits are shared, because they depend on the
data and not on who asked for them. The partitions are taken to have arrived one after the other,
each of them complete. Not here: summing up the outcome.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Semaphore, Thread
from typing import Any, TypeVar, cast

from retrain_assets.domain.adaptation.layer import MEMBERS, predict_layer
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.replay import Outcome, PolicyResult, compare_policies
from retrain_assets.domain.decision.triggers import decide
from retrain_assets.domain.metrics.metrics import block_values, get_gate_metric
from retrain_assets.domain.windows import count_since, mature_partitions
from retrain_assets.specs.model import NO_QUANTILES, ModelSpec, PolicySpec
from retrain_assets.steps.decision import layer, promote, reconsider, train
from retrain_assets.steps.monitoring import monitor, predict
from retrain_assets.steps.monitoring.adapt import Chain, adapt_partitions
from retrain_assets.steps.monitoring.members import read_served, stack_outputs
from retrain_assets.steps.state import SOURCE, ModelState
from retrain_assets.stores.engine import IN_PROCESS
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.memory import JOINED, MemoryRegistry, Overlay
from retrain_assets.stores.registry.registry import ModelVersion

RUN = "replay"
CONFIDENCE = 0.9
INPUTS = ("features", "profile")
Report = Callable[[str, int, int], None]
SILENT: Report = lambda _name, _count, _total: None  # noqa: E731
Value = TypeVar("Value")
FitName = tuple[str, ...]
Decisions = tuple[tuple[str, str], ...]
Fit = Callable[[Sequence[str]], train.Model]
Members = Mapping[str, Sequence[train.Model]]  # of each partition, the newest first


@dataclass(frozen=True)
class PastState(ModelState):
    """Hold a model as it was when a partition had just arrived.

    Args:
        digests: Digest of what each partition's features depend on.
        arrived: Those that have arrived, in order; grows while a policy is played.
        wait: Takes the name of a fit and its spec, and returns once the fit is in memory.
    """

    digests: Mapping[str, str] = field(default_factory=dict)
    arrived: list[str] = field(default_factory=list)
    wait: Callable[[FitName, ModelSpec], None] | None = None

    def sources(self) -> dict[str, str]:
        """Return the partitions that had arrived, each with its digest."""
        return {key: self.digests[key] for key in self.arrived}

    def built(self) -> dict[str, str]:
        """Return the same: what has arrived counts as monitored, also where no trigger looks."""
        return self.sources()

    def count_rows(self) -> dict[str, int]:
        """Return the number of the model's rows in each partition, which are all there."""
        return self.once(("rows",), super().count_rows)

    @property
    def predicts(self) -> bool:
        """Return whether predictions are stored, because a trigger or the layer needs them."""
        return bool(self.spec.triggers.signals) or self.spec.layer.mode == "auto"

    def once(self, name: FitName, make: Callable[[], Value]) -> Value:
        """Return a value that is computed once; wait for a fit where somebody else makes it."""
        if self.wait and name[0] == train.FIT and self.memo is not None and name not in self.memo:
            self.wait(name, self.spec)
        return super().once(name, make)


class Player(Thread):
    """Plays a policy until it needs a fit that is not there, and goes on when it is told to.

    Of all players only one computes at a time, so that the outcome does not depend on chance.
    """

    def __init__(self, play: Callable[[PastState], PolicyResult], state: PastState) -> None:
        """Prepare to play a policy from its state before anything has arrived."""
        super().__init__(daemon=True)
        self.is_stopped = False
        self.plan: tuple[FitName, ModelSpec] | None = None
        self._turn, self._paused, self._outcome = Semaphore(0), Semaphore(0), Future[PolicyResult]()
        self._play = partial(play, replace(state, wait=self._wait))

    def run(self) -> None:
        """Play to the end."""
        try:
            self._take_turn()
            self._outcome.set_result(self._play())
        except BaseException as error:  # noqa: BLE001 raised where the outcome is needed
            self._outcome.set_exception(error)
        self._paused.release()

    def go_on(self) -> None:
        """Play until the next fit, which `plan` names, or to the end; raise what that raises."""
        self.plan = None
        self._turn.release()
        self._paused.acquire()
        if self.plan is None:
            self._outcome.result()

    def stop(self) -> None:
        """Give up what was not played."""
        self.is_stopped = True
        self._turn.release()
        self.join()

    @property
    def result(self) -> PolicyResult:
        """Return the outcome of a policy that was played to the end."""
        return self._outcome.result()

    def _wait(self, name: FitName, spec: ModelSpec) -> None:
        self.plan = name, spec
        self._paused.release()
        self._take_turn()

    def _take_turn(self) -> None:
        self._turn.acquire()
        if self.is_stopped:
            raise CancelledError


class Replay:
    """Play policies over the history of a model.

    Args:
        state: The model; nothing of it is written.
        report: A function that takes a policy's name, how many partitions of it were played, and
            of how many.
        first: First partition, where not all of history is played.
        last: Last partition.
    """

    def __init__(
        self, state: ModelState, report: Report = SILENT, first: str = "", last: str = "\uffff"
    ) -> None:
        self.state, self.report = state, report
        self.keys = [key for key in state.built() if first <= key <= last]
        self.version = state.tables.version(state.table("features"))
        inputs = {name: state.tables.read(state.table(name), self.keys) for name in INPUTS}
        tables, files = state.tables, f"{state.dataset.name}/files"
        memory = {state.table(name): rows for name, rows in inputs.items()}
        memory[files] = tables.collect(tables.scan(files), files)
        self.tables = {name: (0, {JOINED: rows}) for name, rows in memory.items()}
        rows = inputs["features"].select(PARTITION, SOURCE).unique().sort(PARTITION)
        self.digests: dict[str, str] = dict(rows.iter_rows())
        self.versions: dict[int, tuple[ModelVersion, train.Model]] = {}
        self.memo: dict[FitName, Any] = {}

    def check(self, policy: PolicySpec) -> int:
        """Return how many partitions a policy needs before anything is predicted.

        Raises:
            ValueError: History is too short for a first model of this policy, or the layer cannot
                predict what the model does.
        """
        spec = policy.of(self.state.spec)
        if policy.adapt is True and spec.gate.metric == "pinball":
            raise ValueError(f"policy {policy.name!r}: {NO_QUANTILES}")
        needed = spec.windows.needed
        if len(self.keys) <= needed + spec.labels.delay:
            raise ValueError(
                f"policy {policy.name!r}: {len(self.keys)} partitions are stored, windows.train + "
                f"windows.holdout need {needed} before anything is predicted: land more, or "
                "shorten the windows"
            )
        return needed

    def play(self, policy: PolicySpec, state: PastState | None = None) -> PolicyResult:
        """Play one policy.

        Args:
            policy: The policy.
            state: The model under it before anything has arrived; made by default.

        Raises:
            ValueError: History is too short for a first model.
        """
        state = state or self.past_state(policy)
        arrivals = self._arrivals(policy, state, self.report)
        if policy.interval is not None:
            fit: Fit = lambda keys: train.fit_model(state, keys).pipeline  # noqa: E731
            members, decisions = _follow_calendar(state, arrivals, policy.interval, fit)
            fits = len(decisions)
        else:
            members, decisions, fits = self._follow_triggers(state, arrivals)
        measure = _measure_layer if policy.adapt is True else measure_newest
        if policy.interval is None and state.predicts:
            measure = _measure_served
        values = measure(state, members)
        return PolicyResult(policy.name, values, fits, decisions, gated=policy.interval is None)

    def play_all(self, policies: Sequence[PolicySpec]) -> list[PolicyResult]:
        """Play policies; where an engine makes the fits, side by side, each distinct fit once."""
        if self.state.engine is IN_PROCESS:
            return [*map(self.play, policies)]
        self._fit_ahead(policies)
        players = [Player(partial(self.play, p), self.past_state(p)) for p in policies]
        for player in players:
            player.start()
        waiting = players
        try:
            while waiting:
                for player in waiting:
                    player.go_on()
                waiting = [player for player in waiting if player.plan]
                self._fit(dict(player.plan for player in waiting if player.plan))
            return [player.result for player in players]
        finally:
            for player in players:
                player.stop()

    def _fit_ahead(self, policies: Sequence[PolicySpec]) -> None:
        """Make all fits of policies by the calendar, since no decision comes before them."""
        plans: dict[FitName, ModelSpec] = {}
        for policy in policies:
            if policy.interval is not None:
                state = self.past_state(policy)
                spec, arrivals = state.spec, self._arrivals(policy, state, SILENT)
                note = partial(_note_fit, plans, spec)
                _follow_calendar(state, arrivals, policy.interval, note)
        self._fit(plans)

    def _fit(self, plans: Mapping[FitName, ModelSpec]) -> None:
        """Let the engine make fits, and keep them in memory for all policies."""
        fit = partial(_fit_stored, self.state, self.version)
        self.memo |= zip(plans, self.state.engine.map(fit, plans.items()), strict=True)

    def past_state(self, policy: PolicySpec) -> PastState:
        """Return the model under a policy before anything has arrived, with tables in memory."""
        spec = policy.of(self.state.spec)
        tables = Overlay(self.state.tables.root, spec.name, {**self.tables})
        # Players register by turns, so each of them counts its own versions.
        shared = self.versions if self.state.engine is IN_PROCESS else {}
        registry = MemoryRegistry(spec.name, shared)
        parts = spec, self.state.dataset, self.state.lookups, tables, registry, self.memo
        return PastState(*parts, digests=self.digests)

    def _arrivals(
        self, policy: PolicySpec, state: PastState, report: Report
    ) -> Iterator[list[str]]:
        """Let partitions arrive: at first those before the first decision, then one by one."""
        early, total = self.check(policy) - 1, len(self.keys)
        report(policy.name, 0, total)
        for keys in [self.keys[:early], *([key] for key in self.keys[early:])]:
            state.arrived.extend(keys)
            yield keys
            report(policy.name, len(state.arrived), total)

    def _follow_triggers(
        self, state: PastState, arrivals: Iterator[list[str]]
    ) -> tuple[Members, Decisions, int]:
        """Watch, decide, train and judge after each partition, as the sensors do.

        Returns:
            The members of each partition, the decisions, and the number of fits.
        """
        looks, adapts = bool(state.spec.triggers.signals), state.spec.layer.mode == "auto"
        for keys in arrivals:
            if state.predicts:
                predict.predict_partitions(state, keys, RUN)
            if looks:  # most of the time of a replay, which no other cause needs
                monitor.monitor(state, keys, RUN, only_triggers=True)
            if adapts:
                adapt_partitions(state, RUN)
                layer.act(state, RUN)
            request = decide(state.spec, state.situation())
            if request.retrain:
                why = request.fired, request.reason
                reconsider.propose(state, request.held_version, request.as_of, why, lambda: RUN)
                promote.decide_candidate(state, RUN, lambda: RUN)
        history, registry = state.ledger.read(), cast("MemoryRegistry", state.registry)
        members = {
            key: [registry.shared[row.version][1] for row in rows]
            for key in self.keys
            if (rows := history.members_at(key))
        }
        # What is judged again has the digest it had, and was fitted once.
        fits = {version.sha256 for row in history.rows for version in _versions_of(state, row)}
        return members, tuple((row.as_of, row.action) for row in history.rows), len(fits)


def measure_newest(state: PastState, members: Members) -> dict[str, float]:
    """Return the gate's metric of each partition whose labels have come, by its newest version."""

    def measure(key: str, pipeline: train.Model) -> float | None:
        rows = train.sample(state, [key])
        if not rows.target.len():
            return None
        return _measure(state, rows, train.predict_sample(state, pipeline, rows))

    values = {
        key: state.once(("metric", str(id(pipelines[0])), key), partial(measure, key, pipelines[0]))
        for key, pipelines in members.items()
    }
    return {key: value for key, value in values.items() if value is not None}


def _measure_served(state: PastState, members: Members) -> dict[str, float]:
    """Return the gate's metric of each partition, of the stored predictions that were served."""
    values = {}
    for key, pipelines in members.items():
        rows, stored = train.sample(state, [key]), read_served(state, key)
        if rows.target.len() and len(stored) == rows.target.len():
            output = train.Output(pipelines[0], stored, train.get_classes(pipelines[0]))
            values[key] = _measure(state, rows, output)
    return {key: value for key, value in values.items() if value is not None}


def _measure_layer(state: PastState, members: Members) -> dict[str, float]:
    """Return the gate's metric of each partition whose labels have come, by the adaptive layer."""
    chain, values, arrived = Chain(state), dict[str, float | None](), state.arrived
    for place, key in enumerate(arrived):
        if key not in members or not (rows := train.sample(state, [key])).target.len():
            continue
        outputs = [
            state.once(
                ("output", str(id(pipeline)), key),
                partial(train.predict_sample, state, pipeline, rows),
            )
            for pipeline in members[key][:MEMBERS]
        ]
        inputs = stack_outputs(outputs, rows.labels, rows.weight)
        served = chain.get_served(arrived[:place], inputs.classes)
        adapted = replace(outputs[0], values=predict_layer(served, inputs.outputs))
        values[key] = _measure(state, rows, adapted)
        if not state.is_excluded(key):
            chain.move(key, arrived[:place], inputs)
    return {key: value for key, value in values.items() if value is not None}


def _measure(state: PastState, rows: train.Sample, output: train.Output) -> float | None:
    inputs = rows.labels, output.values, rows.partitions, output.classes
    values = block_values(get_gate_metric(state.spec.gate), *inputs)["value"]
    return cast("float | None", values[0])


def _note_fit(plans: dict[FitName, ModelSpec], spec: ModelSpec, keys: Sequence[str]) -> None:
    plans[train.name_fit(spec, keys)] = spec


def _fit_stored(
    state: ModelState, version: int | None, plan: tuple[FitName, ModelSpec]
) -> train.Trained:
    """Fit on the stored features that the replay has read."""
    (_, _, _, _, *keys), spec = plan
    return train.fit_model(replace(state, spec=spec), keys, version)


def _follow_calendar(
    state: PastState, arrivals: Iterator[list[str]], period: int, fit: Fit
) -> tuple[Members, Decisions]:
    """Fit through the newest mature partition, and serve it from the next one on."""
    members: dict[str, Sequence[train.Model]] = {}
    promoted: list[str] = []
    windows, pipelines = state.spec.windows, list[train.Model]()
    for keys in arrivals:
        if pipelines:
            members |= dict.fromkeys(keys, (*pipelines,))
        arrived = mature_partitions(state.arrived, state.spec.labels.delay)
        mature = [key for key in arrived if not state.is_excluded(key)]
        enough = len(mature) >= windows.needed
        if enough and (not promoted or count_since(mature, promoted[-1]) >= period):
            pipelines.insert(0, fit(windows.take(mature)))
            promoted.append(mature[-1])
    return members, tuple((key, "promote") for key in promoted)


def _versions_of(state: ModelState, row: LedgerRow) -> list[ModelVersion]:
    """Return the versions of a decision: the candidates, and the refit."""
    candidate = state.registry.version(row.candidate or row.version)
    refit = state.registry.version(row.version)
    return [refit, *train.list_candidates(state.registry, candidate)]


def replay_policies(
    state: ModelState,
    policies: Sequence[PolicySpec],
    report: Report,
    first: str = "",
    last: str = "\uffff",
) -> Outcome:
    """Play policies over stored history; neither ledger nor registry is touched.

    Args:
        state: The model.
        policies: The first is what the others are compared with.
        report: A function that takes a policy's name, how many partitions of it were played, and
            of how many.
        first: First partition, where not all of history is played.
        last: Last partition.

    Raises:
        ValueError: History is too short.
    """
    history = Replay(state, report, first, last)
    for policy in policies:  # before any is played, since playing one takes minutes
        history.check(policy)
    metric, week = get_gate_metric(state.spec.gate), state.dataset.partition.per_week
    return compare_policies(metric, history.play_all(policies), CONFIDENCE, week)
