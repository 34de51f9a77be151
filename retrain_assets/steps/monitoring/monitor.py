"""Monitor a range of partitions from summaries alone: no row is read.

Not here: the statistics, and what is done about an alert.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from typing import NamedTuple

import polars as pl

from retrain_assets.domain import windows
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift import measures, permutation_test
from retrain_assets.domain.drift import observations as watch
from retrain_assets.domain.drift.profile import PROFILE_SCHEMA, ColumnProfile, drop_mixed, merge
from retrain_assets.specs.triggers import DriftTrigger
from retrain_assets.steps.decision.train import PREDICTION_COLUMN
from retrain_assets.steps.features.build import BuildResult, describe_commit, list_ready
from retrain_assets.steps.monitoring.intervals import BLOCK, Timeline, read_timeline
from retrain_assets.steps.monitoring.predict import PERFORMANCE_SCHEMA
from retrain_assets.steps.state import MONITORING_SCHEMA, SOURCE, WITHOUT, ModelState
from retrain_assets.stores.ledger import LedgerRow

Profiles = dict[str, ColumnProfile]
Blocks = Mapping[str, pl.DataFrame]
Observations = Iterator[tuple[tuple[str, ...], watch.Observation]]  # each with its window
IS_OUTPUT = pl.col("column") == PREDICTION_COLUMN  # not of its errors


def monitor(
    state: ModelState, partitions: Sequence[str], run_id: str, *, only_triggers: bool = False
) -> BuildResult:
    """Compare each partition's window with production's training window, from summaries alone.

    Later partitions whose window holds one of these are compared anew if they were before, so that
    runs of single partitions come to the same in whatever order.

    Args:
        state: The model.
        partitions: The partitions.
        run_id: The run.
        only_triggers: Whether drift is measured only where a trigger needs it, as nobody will look.
    """
    return store(state, observe(state, partitions, only_triggers=only_triggers), run_id)


class Observed(NamedTuple):
    """The results of monitoring for some partitions, and for later ones that depend on these.

    Args:
        ready: Those of the partitions that have landed.
        keys: All that `rows` are about.
        rows: Rows of `MONITORING_SCHEMA`.
    """

    ready: tuple[str, ...]
    keys: list[str]
    rows: pl.DataFrame


def observe(
    state: ModelState, partitions: Sequence[str], *, only_triggers: bool = False
) -> Observed:
    """Return what `monitor` stores."""
    sources = state.sources()
    ready = list_ready(state, partitions, sources)
    watcher = _Watcher(state, sources, only_triggers=only_triggers)
    ranges = windows.widen_ranges(tuple(sources), ready, state.spec.monitoring_span)
    affected = {key for key in state.built() for first, last in ranges if first <= key <= last}
    keys = sorted(affected.union(ready))
    rows = pl.DataFrame(
        [
            {PARTITION: key, SOURCE: source, **observation}
            for key in keys
            if (source := watcher.get_source(key)) is not None
            for observation in watcher.observe(key)
        ],
        schema=MONITORING_SCHEMA,
    )
    return Observed(ready, keys, rows)


def store(state: ModelState, observed: Observed, run_id: str) -> BuildResult:
    """Store what was observed."""
    ready, keys, rows = observed
    commit = describe_commit(run_id, keys)
    version = state.tables.replace(state.table("monitoring"), rows, keys, commit)
    return BuildResult(ready, rows.filter(pl.col(PARTITION).is_in(ready)), version)


def read_sides(state: ModelState, key: str) -> tuple[Profiles, Profiles]:
    """Return summaries of the reference and of the window that ends at a partition, by column.

    Both are empty where nothing was in production.
    """
    watcher = _Watcher(state, {})
    production, window = watcher.history.production_at(key), watcher.get_window(key)
    reference = watcher.list_reference(window, production) if production and window else ()
    return (watcher.merge(reference), watcher.merge(window)) if reference else ({}, {})


class _Comparison(NamedTuple):
    """The columns of a reference and of a window, whose blocks can be drawn from."""

    role: str
    trigger: DriftTrigger | None
    sides: Sequence[Profiles]
    blocks: Blocks
    reference: tuple[str, ...]
    window: tuple[str, ...]


class _Watcher:
    """Summaries of all partitions a range of windows needs, read once."""

    def __init__(
        self, state: ModelState, sources: Mapping[str, str], *, only_triggers: bool = False
    ) -> None:
        self.only_triggers = only_triggers
        self.state = state if state.memo is not None else replace(state, memo={})
        self.sources, self.history = sources, state.ledger.read()
        self.landed = state.count_rows()
        self.profiles = state.once(("profile",), lambda: self._read("profile"))
        self.keys = tuple(self.profiles)
        self.expected_output = cache(self._read_expected_output)
        self.metric_values = cache(self._read_metric_values)
        self.timelines: dict[str, Timeline | None] = {}

    def get_source(self, key: str) -> str | None:
        """Return what the profile of a partition was built from, whatever has landed since.

        Without rows there is no profile, and whatever has landed comes to the same. If all rows
        were refused, the commit of the features says so. None where rows have landed since: they
        are built first.
        """
        if key in self.profiles:
            return str(self.profiles[key][SOURCE][0])
        return self.without_features.get(key) if self.landed.get(key) else self.sources[key]

    @cached_property
    def outputs(self) -> dict[str, pl.DataFrame]:
        """Return summaries of the output on each partition, without those of its errors."""
        return self._read("prediction_profile", IS_OUTPUT)

    @cached_property
    def without_features(self) -> dict[str, str]:
        """Return the partitions without any features, with what they were last built from."""
        commits = self.state.tables.list_commits(self.state.table("features"))
        notes = (json.loads(commit.get(WITHOUT, "{}")) for commit in reversed(commits))
        return {key: source for note in notes for key, source in note.items()}

    def observe(self, key: str) -> Iterator[dict[str, object]]:
        """Yield all observations of the window that ends at a partition."""
        production = self.history.production_at(key)
        version = production.version if production else None
        for window, observation in self._observe(key, production):
            ends = {"window_from": window[0], "window_to": window[-1]}
            yield {**vars(observation), "model_version": version, **ends}

    def _observe(self, key: str, production: LedgerRow | None) -> Observations:
        rows = self.profiles[key]["rows"][0] if key in self.profiles else 0
        yield (key,), watch.Observation(watch.VOLUME, "rows", "", float(rows))
        if production is not None:
            yield from self._observe_columns(key, production)
            yield from self._observe_output(key, production)
            yield from self._observe_performance(key, production)
            yield from self._observe_intervals(key, production)

    def _observe_columns(self, key: str, production: LedgerRow) -> Observations:
        """Yield the drift of features and target."""
        window, triggers = self.get_window(key), self.state.spec.triggers
        roles = {watch.FEATURE: triggers.data_drift, watch.TARGET: triggers.target_drift}
        if self.only_triggers and not any(roles.values()):
            return
        if not (reference := self.list_reference(window, production)):
            return
        parts, target = (reference, window), self.state.spec.target.column
        before, now = (self.merge(part) for part in parts)
        # A function may give text on one day and numbers on another, which no measure compares.
        names = [name for name in before if name in now and before[name].kind == now[name].kind]
        for role, trigger in roles.items():
            columns = [name for name in names if (name == target) == (role == watch.TARGET)]
            sides = [{name: side[name] for name in columns} for side in (before, now)]
            yield from self._compare(_Comparison(role, trigger, sides, self.profiles, *parts))

    def _observe_output(self, key: str, production: LedgerRow) -> Observations:
        """Yield the drift of the output, once a whole window was predicted by this version."""
        trigger = self.state.spec.triggers.prediction_drift
        if self.only_triggers and not trigger:
            return
        window = self._get_served(tuple(self.outputs), key, production)
        if window and production.candidate is not None:
            expected = self.expected_output(production.candidate)
            blocks, parts = {**self.outputs, **expected}, (tuple(expected), window)
            sides = [_merge(blocks[key] for key in part) for part in parts]
            comparison = _Comparison(watch.PREDICTION, trigger, sides, blocks, *parts)
            yield from self._compare(comparison)

    def _compare(self, comparison: _Comparison) -> Observations:
        """Yield each measure of each column once, the permutation test's first."""
        names = set()
        for observation in self._test(comparison):
            names.add((observation.measure, observation.column))
            yield comparison.window, observation
        role, trigger, sides, *_ = comparison
        for observation in watch.observe_drift(
            role, trigger, *sides, only_trigger=self.only_triggers
        ):
            if (observation.measure, observation.column) not in names:
                yield comparison.window, observation

    def _test(self, comparison: _Comparison) -> Iterator[watch.Observation]:
        """Test by a rate of false alarms, once nothing of the window is of the reference."""
        role, trigger, (before, now), blocks, reference, window = comparison
        period = self.state.dataset.partition.period
        rate = trigger.false_alarms_per_year if trigger else None
        if not trigger or not rate or period is None or set(reference) & set(window):
            return
        keys = [*reference, *window]
        rows = pl.concat([blocks[key] for key in keys])
        pooled = permutation_test.pool(rows.filter(pl.col("column").is_in(tuple(now))), keys)
        places = range(len(reference), len(keys))
        # The same window is judged alike whenever it is judged.
        seed = [self.state.spec.seed, *window[-1].encode()]
        effects = {name: measures.describe_effect(before[name], now[name]) for name in now}
        inputs = role, pooled, places, rate / period.per_year, seed, effects
        yield from watch.observe_permutation_test(*inputs, smallest=trigger.smallest_effect)

    def _observe_performance(self, key: str, production: LedgerRow) -> Observations:
        """Yield the performance of a whole window by this version, realised and estimated."""
        spec, trigger = self.state.spec, self.state.spec.triggers.performance
        if trigger is None:
            return
        baseline = production.metrics.get(trigger.metric, math.nan)
        keys = tuple(partition for partition in self.keys if partition <= key)
        roles = {watch.PERFORMANCE: windows.mature_partitions(keys, spec.labels.delay)}
        if trigger.estimated:
            roles[watch.ESTIMATED] = keys
        for role, parts in roles.items():
            values = self.metric_values(production.version, role, trigger.metric)
            window = self._get_served([part for part in parts if part in values], key, production)
            figures = [values[part] for part in window or ()]
            observation = watch.observe_performance(spec, role, figures, baseline)
            if window and observation:
                yield window, observation

    def _observe_intervals(self, key: str, production: LedgerRow) -> Observations:
        """Yield how far the intervals of a partition reach, and the coverage of a whole window."""
        since = production.seen_through
        if since not in self.timelines:
            self.timelines[since] = read_timeline(self.state, self.history, production)
        spec, timeline = self.state.spec, self.timelines[since]
        if timeline is None or spec.intervals is None:
            return
        column, period = spec.target.column, self.state.dataset.partition.period
        if (half_width := timeline.half_width(key)) is not None:
            yield (key,), watch.Observation(watch.INTERVALS, watch.HALF_WIDTH, column, half_width)
        served = timeline.list_covered(key, spec.labels.delay)
        window = served[-spec.windows.current :]
        if len(window) < max(2, spec.windows.current) or period is None:
            return
        expected = timeline.reference(window[0].key)
        if len(expected) > 1:
            values = [(part.share, part.rows) for part in window]
            rate = spec.intervals.false_alarms_per_year / period.per_year
            figures = column, spec.intervals.coverage, values, expected, rate
            yield tuple(part.key for part in window), watch.observe_coverage(*figures)

    def _get_served(
        self, keys: Sequence[str], key: str, production: LedgerRow
    ) -> tuple[str, ...] | None:
        """Return the window that ends at a partition, if production has served all of it."""
        served = [partition for partition in keys if partition > production.seen_through]
        window = self.get_window(key, served)
        return window if len(window) == self.state.spec.windows.current else None

    def get_window(self, key: str, keys: Sequence[str] | None = None) -> tuple[str, ...]:
        """Return the window of some keys that ends at a partition, without others excluded."""
        parts = self.keys if keys is None else keys
        usable = [part for part in parts if part == key or not self.state.is_excluded(part)]
        return windows.take_through(usable, key, self.state.spec.windows.current)

    def list_reference(self, window: Sequence[str], production: LedgerRow) -> tuple[str, ...]:
        """Return the partitions that a window is compared with."""
        spec, period = self.state.spec.triggers.reference, self.state.dataset.partition.period
        if spec is None:
            return self.state.trained_on(self.keys, production.data_range)
        keys = [key for key in self.keys if not self.state.is_excluded(key)]
        return windows.reference_partitions(
            spec, keys, window, period.begins if period else lambda _: None
        )

    def merge(self, keys: Sequence[str]) -> Profiles:
        """Return one summary of each column over some partitions."""
        name = ("merged", *keys)
        return self.state.once(name, lambda: _merge(self.profiles[key] for key in keys))

    def _read(self, name: str, condition: pl.Expr | bool = True) -> dict[str, pl.DataFrame]:
        stored = self.state.stored(name, PROFILE_SCHEMA, condition)
        rows = stored.sort(PARTITION, maintain_order=True)
        # Slices of what is sorted: to copy each partition costs more than all that is done with it.
        runs = rows[PARTITION].rle().struct.unnest()
        placed = runs.select("value", pl.col("len").cum_sum() - pl.col("len"), length="len")
        return {key: rows.slice(first, length) for key, first, length in placed.iter_rows()}

    def _read_expected_output(self, candidate: int) -> dict[str, pl.DataFrame]:
        """Return summaries of the output on each partition of the candidate's holdout."""
        stored = self.state.tables.read(self.state.table("reference"), [str(candidate)])
        rows = stored.filter(IS_OUTPUT)
        parts = rows.with_columns(pl.col(BLOCK).alias(PARTITION)).drop(BLOCK)
        return {str(key): part for (key,), part in parts.group_by(PARTITION, maintain_order=True)}

    def _read_metric_values(
        self, version: int, role: str, metric: str
    ) -> dict[str, tuple[float, int]]:
        same = (pl.col("model_version") == version) & (pl.col("role") == role)
        same &= pl.col("metric") == metric
        rows = self.state.stored("performance", PERFORMANCE_SCHEMA, same).drop_nulls("value")
        values = rows.sort(PARTITION).select(PARTITION, "value", "rows")
        return {key: (value, count) for key, value, count in values.iter_rows()}


def _merge(blocks: Iterable[pl.DataFrame]) -> Profiles:
    return merge(drop_mixed(pl.concat(blocks)))
