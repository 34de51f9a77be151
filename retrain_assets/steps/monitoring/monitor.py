"""Monitoring of a range of partitions, from summaries alone: no row is read.

Not here: the statistics, and what is done about an alert.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift import observations as watch
from retrain_assets.domain.drift.measures import describe_effect
from retrain_assets.domain.drift.permutation_test import pool
from retrain_assets.domain.drift.profile import PROFILE_SCHEMA, ColumnProfile, merge
from retrain_assets.domain.windows import (
    mature_partitions,
    reference_partitions,
    take_through,
    widen_ranges,
)
from retrain_assets.specs.triggers import DriftTrigger
from retrain_assets.steps.decision.judge import BLOCK
from retrain_assets.steps.features.build import BuildResult, describe_commit, list_ready
from retrain_assets.steps.monitoring.predict import PERFORMANCE_SCHEMA
from retrain_assets.steps.state import MONITORING_SCHEMA, SOURCE, ModelState, landed_rows
from retrain_assets.stores.ledger import LedgerRow

Sides = tuple[dict[str, ColumnProfile], dict[str, ColumnProfile]]

Found = tuple[tuple[str, ...], watch.Observation]


def monitor(state: ModelState, partitions: Sequence[str], run_id: str) -> BuildResult:
    """Compare each partition's window with production's training window, from summaries alone.

    Later partitions whose window holds one of these are compared anew if they were before, so that
    runs of single partitions come to the same in whatever order.
    """
    sources = state.sources()
    asked, watcher = list_ready(state, partitions, sources), _Watcher(state, sources)
    ranges = widen_ranges(tuple(sources), asked, state.spec.monitoring_span)
    watched = {key for key in state.built() for first, last in ranges if first <= key <= last}
    keys = sorted(watched.union(asked))
    rows = pl.DataFrame(
        [
            {PARTITION: key, SOURCE: made_from, **found}
            for key in keys
            if (made_from := watcher.made_from(key)) is not None
            for found in watcher.observations(key)
        ],
        schema=MONITORING_SCHEMA,
    )
    version = state.tables.replace(
        state.table("monitoring"), rows, keys, describe_commit(run_id, keys)
    )
    return BuildResult(asked, rows.filter(pl.col(PARTITION).is_in(asked)), version)


def read_sides(
    state: ModelState, key: str
) -> tuple[dict[str, ColumnProfile], dict[str, ColumnProfile]]:
    """Summaries of the reference and of the window that ends at a partition, by column.

    Both are empty where nothing was in production.
    """
    watcher = _Watcher(state, {})
    production, window = watcher.history.production_at(key), watcher.window(key)
    known = watcher.held_against(window, production) if production and window else ()
    return (watcher.merged(known), watcher.merged(window)) if known else ({}, {})


class _Watcher:
    """Summaries of all partitions a range of windows needs, read once."""

    def __init__(self, state: ModelState, sources: Mapping[str, str]) -> None:
        self.state = state if state.memo is not None else replace(state, memo={})
        self.sources, self.history = sources, state.ledger.read()
        self.landed = landed_rows(state.tables, state.dataset.name)
        self.profiles = state.once(("profile",), lambda: self._by_partition("profile"))
        self.outputs = self._by_partition("prediction_profile")
        self.known = tuple(self.profiles)
        self.expected_output = cache(self._expected_output)
        self.metric_values = cache(self._metric_values)

    def made_from(self, key: str) -> str | None:
        """What the profile of a partition was built from, whatever has landed since.

        Without rows there is no profile, and whatever has landed comes to the same. None where rows
        have landed since: they are built first.
        """
        if key in self.profiles:
            return str(self.profiles[key][SOURCE][0])
        return None if self.landed.get(key) else self.sources[key]

    def observations(self, key: str) -> Iterator[dict[str, object]]:
        """All observations of the window that ends at a partition."""
        production = self.history.production_at(key)
        version = production.version if production else None
        for window, found in self._windows(key, production):
            yield {
                **vars(found),
                "model_version": version,
                "window_from": window[0],
                "window_to": window[-1],
            }

    def _windows(self, key: str, production: LedgerRow | None) -> Iterator[Found]:
        rows = self.profiles[key]["rows"][0] if key in self.profiles else 0
        yield (key,), watch.Observation(watch.VOLUME, "rows", "", float(rows))
        if production is None:
            return
        yield from self._drift(key, production)
        yield from self._output(key, production)
        yield from self._performance(key, production)

    def _drift(self, key: str, production: LedgerRow) -> Iterator[Found]:
        spec, window = self.state.spec, self.window(key)
        known = self.held_against(window, production)
        if not known:
            return
        reference, current = dict(self.merged(known)), dict(self.merged(window))
        target = spec.target.column
        targets = {target: reference.pop(target)}, {target: current.pop(target)}
        triggers = spec.triggers
        for role, trigger, sides in (
            (watch.FEATURE, triggers.data_drift, (reference, current)),
            (watch.TARGET, triggers.target_drift, targets),
        ):
            yield from self._compared(role, trigger, sides, self.profiles, known, window)

    def _compared(
        self,
        role: str,
        trigger: DriftTrigger | None,
        sides: Sides,
        blocks: Mapping[str, pl.DataFrame],
        reference: Sequence[str],
        window: tuple[str, ...],
    ) -> Iterator[Found]:
        """Each measure of each column once, by a rate of false alarms where one is asked for."""
        told = set()
        for found in self._calibrated(role, trigger, sides, blocks, reference, window):
            told.add((found.measure, found.column))
            yield window, found
        for found in watch.observe_drift(role, trigger, *sides):
            if (found.measure, found.column) not in told:
                yield window, found

    def _calibrated(
        self,
        role: str,
        trigger: DriftTrigger | None,
        sides: Sides,
        blocks: Mapping[str, pl.DataFrame],
        reference: Sequence[str],
        window: Sequence[str],
    ) -> Iterator[watch.Observation]:
        """Held against a rate of false alarms, once nothing of the window is of the reference."""
        period = self.state.dataset.partition.period
        rate = trigger.false_alarms_per_year if trigger else None
        if not rate or period is None or set(reference) & set(window):
            return
        keys = [*reference, *window]
        rows = pl.concat([blocks[key] for key in keys])
        pooled = pool(rows.filter(pl.col("column").is_in(tuple(sides[1]))), keys)
        places = range(len(reference), len(keys))
        # The same window is judged alike whenever it is judged.
        seed = [self.state.spec.seed, *window[-1].encode()]
        changed = {name: describe_effect(sides[0][name], now) for name, now in sides[1].items()}
        yield from watch.observe_permutation_test(
            role, pooled, places, rate / period.per_year, seed, changed
        )

    def _output(self, key: str, production: LedgerRow) -> Iterator[Found]:
        """Drift of the output, once a whole window was predicted by this version."""
        window = self._served(tuple(self.outputs), key, production)
        if window and production.candidate is not None:
            trigger = self.state.spec.triggers.prediction_drift
            reference = self.expected_output(production.candidate)
            sides = _merge(reference.values()), _merge(self.outputs[part] for part in window)
            blocks = {**self.outputs, **reference}
            yield from self._compared(
                watch.PREDICTION, trigger, sides, blocks, tuple(reference), window
            )

    def _performance(self, key: str, production: LedgerRow) -> Iterator[Found]:
        """Performance of a whole window by this version, realised and estimated."""
        trigger = self.state.spec.triggers.performance
        if trigger is None:
            return
        baseline = production.metrics.get(trigger.metric, math.nan)
        known = [partition for partition in self.known if partition <= key]
        final = mature_partitions(known, self.state.spec.labels.delay)
        told = {watch.PERFORMANCE: final, **({watch.ESTIMATED: known} if trigger.estimated else {})}
        for role, keys in told.items():
            values = self.metric_values(production.version, role, trigger.metric)
            window = self._served([found for found in keys if found in values], key, production)
            if window and (
                found := watch.observe_performance(
                    self.state.spec, role, [values[part] for part in window], baseline
                )
            ):
                yield window, found

    def _served(
        self, known: Sequence[str], key: str, production: LedgerRow
    ) -> tuple[str, ...] | None:
        served = [partition for partition in known if partition > production.seen_through]
        window = self._window(served, key)
        return window if len(window) == self.state.spec.windows.current else None

    def window(self, key: str) -> tuple[str, ...]:
        """The window whose drift is told with a partition."""
        return self._window(self.known, key)

    def _window(self, known: Sequence[str], key: str) -> tuple[str, ...]:
        """The window that ends at a partition, which may be known to be bad while no other is."""
        kept = [found for found in known if found == key or not self.state.is_excluded(found)]
        return take_through(kept, key, self.state.spec.windows.current)

    def _by_partition(self, name: str) -> dict[str, pl.DataFrame]:
        tables, table = self.state.tables, self.state.table(name)
        rows = tables.collect(
            tables.scan(table, PROFILE_SCHEMA).sort(PARTITION, maintain_order=True), table
        )
        # Slices of what is sorted: to copy each partition costs more than all that is done with it.
        runs = rows[PARTITION].rle().struct.unnest()
        placed = runs.select("value", pl.col("len").cum_sum() - pl.col("len"), length="len")
        return {key: rows.slice(first, length) for key, first, length in placed.iter_rows()}

    def held_against(self, window: Sequence[str], production: LedgerRow) -> tuple[str, ...]:
        """The partitions that a window is held against."""
        spec, period = self.state.spec.triggers.reference, self.state.dataset.partition.period
        if spec is None:
            return self.state.trained_on(self.known, production.data_range)
        kept = [key for key in self.known if not self.state.is_excluded(key)]
        return reference_partitions(spec, kept, window, period.begins if period else lambda _: None)

    def merged(self, keys: Sequence[str]) -> dict[str, ColumnProfile]:
        """One summary of each column over some partitions."""
        return self.state.once(
            ("merged", *keys), lambda: _merge(self.profiles[key] for key in keys)
        )

    def _expected_output(self, candidate: int) -> dict[str, pl.DataFrame]:
        """Summaries of the output on each partition of the candidate's holdout."""
        rows = self.state.tables.read(self.state.table("reference"), [str(candidate)])
        parts = rows.with_columns(pl.col(BLOCK).alias(PARTITION)).drop(BLOCK)
        return {str(key): part for (key,), part in parts.group_by(PARTITION, maintain_order=True)}

    def _metric_values(self, version: int, role: str, metric: str) -> dict[str, tuple[float, int]]:
        tables, table = self.state.tables, self.state.table("performance")
        chosen = tables.scan(table, PERFORMANCE_SCHEMA).filter(
            pl.col("model_version") == version,
            pl.col("role") == role,
            pl.col("metric") == metric,
            pl.col("value").is_not_null(),
        )
        rows = tables.collect(chosen.sort(PARTITION), table)
        return {row[PARTITION]: (row["value"], row["rows"]) for row in rows.iter_rows(named=True)}


def _merge(blocks: Iterable[pl.DataFrame]) -> dict[str, ColumnProfile]:
    return merge(pl.concat(blocks))
