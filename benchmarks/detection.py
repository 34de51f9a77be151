"""Which drift is found, and how soon, at the same rate of false alarms: F1 and delay.

    pip install river
    python benchmarks/detection.py [seeds]

Days of real flights in an order drawn at random: 90 of reference, then 40 that arrive one by one,
of which the last 20 have drift put into them. Each detector's threshold is the one at which one in
ten such streams WITHOUT drift alarms within 20 days, found on streams of their own. ADWIN and
Page-Hinkley (river) follow each column's daily mean, the share of its most frequent value, or of
nulls, in deviations of the reference; Evidently's default is the largest of its distances over its
threshold of 0.1. Not here: whether a stated rate is kept (`decisions.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from injection import TARGET, Injection
from rich.console import Console
from rich.progress import track
from river.drift import ADWIN, PageHinkley
from year import built, features

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.measures import jensen_shannon, psi, wasserstein
from retrain_assets.domain.drift.permutation_test import pool, run_permutation_test
from retrain_assets.domain.drift.profile import build_profile, merge

if TYPE_CHECKING:
    from collections.abc import Callable

REFERENCE, BEFORE, AFTER, CURRENT = 90, 20, 20, 7
SIZES, CLEAN, FALSE = (0.1, 0.2, 0.4, 0.8), 40, 0.1
DELTAS = [10.0**-power for power in range(1, 13)]
LAMBDAS = [float(2**power) for power in range(12)]
Scores = dict[str, np.ndarray]  # by detector, of each arriving day: higher is farther from before


def days(folder: Path) -> list[pl.DataFrame]:
    """Features and target of each day of the year."""
    rows = features(built(folder), TARGET)
    return rows.partition_by(PARTITION, include_key=False, maintain_order=True)


def stream(
    year: list[pl.DataFrame], injected: Injection | None, random: np.random.Generator
) -> list[pl.DataFrame]:
    """Profiles of reference and arriving days, in an order drawn at random."""
    order = random.permutation(len(year))[: REFERENCE + BEFORE + AFTER]
    found = []
    for place, number in enumerate(order):
        day, since = year[number], place - REFERENCE - BEFORE
        if injected is not None and since >= 0:
            day = injected.into(day, since, random)
        found.append(build_profile(day.with_columns(pl.lit(f"{place:03}").alias(PARTITION))))
    return found


def scores(profiles: list[pl.DataFrame], random: np.random.Generator) -> Scores:
    """What each detector says of each arriving day."""
    reference = merge(pl.concat(profiles[:REFERENCE]))
    ours, largest, evidently = [], [], []
    for place in range(REFERENCE, len(profiles)):
        window = profiles[max(place - CURRENT + 1, REFERENCE) : place + 1]
        current = merge(pl.concat(window))
        used = [*range(REFERENCE), *range(place - len(window) + 1, place + 1)]
        columns = pool(pl.concat([profiles[k] for k in used]), [f"{k:03}" for k in used])
        places = range(REFERENCE, len(used))
        ours.append(-np.log(run_permutation_test(columns, places, 0.005, random).p_value))
        pairs = [(before, current[name]) for name, before in reference.items()]
        largest.append(max(psi(*pair) or 0.0 for pair in pairs))
        evidently.append(max((wasserstein(*p) or jensen_shannon(*p) or 0.0) / 0.1 for p in pairs))
    daily = np.array([_figures(profile) for profile in profiles])
    spread = daily[:REFERENCE].std(axis=0)
    standard = (daily - daily[:REFERENCE].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    told = {"ours": ours, "PSI": largest, "Evidently's distances": evidently}
    return {name: np.array(values) for name, values in told.items()} | {
        "ADWIN": _strictest(standard, [lambda d=d: ADWIN(delta=d) for d in DELTAS]),
        "Page-Hinkley": _strictest(
            standard, [lambda t=t: PageHinkley(min_instances=30, threshold=t) for t in LAMBDAS]
        ),
    }


def _figures(profile: pl.DataFrame) -> list[float]:
    """Of each column its mean, or the share of its most frequent value, and the share of nulls."""
    found = []
    for column in merge(profile).values():
        if column.sketch is not None:
            values, rows = np.array([*column.sketch]).T if column.filled else np.zeros((2, 1))
            found.append(float(values @ rows / max(rows.sum(), 1)))
        else:
            found.append(max((column.counts or {"": 0}).values()) / max(column.filled, 1))
        found.append(column.nulls / max(column.rows, 1))
    return found


def _strictest(
    standard: np.ndarray, settings: list[Callable[[], ADWIN | PageHinkley]]
) -> np.ndarray:
    """The strictest setting at which any column alarms on a day, as a number; 0 where none does."""
    found = np.zeros(len(standard))
    for strictness, make in enumerate(settings, 1):
        for column in standard.T:
            detector = make()
            for place, value in enumerate(column):
                detector.update(float(value))
                if detector.drift_detected:
                    found[place] = max(found[place], strictness)
    return found[REFERENCE:]


def thresholds(clean: list[Scores]) -> dict[str, float]:
    """The score above which one in ten streams without drift alarms within as many days."""
    return {
        name: float(np.quantile([found[name][:BEFORE].max() for found in clean], 1 - FALSE))
        for name in clean[0]
    }


def judged(found: Scores, limits: dict[str, float]) -> dict[str, int | None]:
    """Days from the drift to the alarm; None where there is none, -1 where it came before."""
    told: dict[str, int | None] = {}
    for name, values in found.items():
        alarms = np.flatnonzero(values > limits[name])
        told[name] = None if not len(alarms) else max(int(alarms[0]) - BEFORE + 1, -1)
    return told


def main(seeds: int) -> None:
    """Print the table."""
    with TemporaryDirectory(prefix="retrain-benchmark-") as folder:
        year = days(Path(folder))
    console = Console(stderr=True)
    clean = []
    for seed in track(range(CLEAN), "without drift", console=console):
        random = np.random.default_rng([1, seed])
        clean.append(scores(stream(year, None, random), random))
    limits = thresholds(clean)
    kinds = ("shift", "scale", "replaced", "nulls", "labels")
    wanted = [
        (Injection(kind, size, sudden), seed)
        for kind in kinds
        for size in SIZES
        for sudden in (True, False)
        for seed in range(seeds)
    ]
    results = []
    for number, (injected, _) in enumerate(track(wanted, "with drift", console=console)):
        random = np.random.default_rng([2, number])
        found = scores(stream(year, injected, random), random)
        results.append((injected, judged(found, limits)))
    print(f"{len(wanted)} streams with drift, {CLEAN} without; limits at {FALSE:.0%} of these")
    print("| detector | F1 | before it | median delay | " + " | ".join(kinds) + " |")
    for name in limits:
        print(_row(name, results, kinds))


def _row(name: str, results: list, kinds: tuple[str, ...]) -> str:  # type: ignore[type-arg]
    delays = [told[name] for _, told in results]
    hits = [delay for delay in delays if delay is not None and delay > 0]
    early = sum(delay is not None and delay <= 0 for delay in delays)
    score = 2 * len(hits) / (2 * len(hits) + early + (len(delays) - len(hits)))
    recall = []
    for kind in kinds:
        of_kind = [told[name] for injected, told in results if injected.kind == kind]
        recall.append(f"{np.mean([d is not None and d > 0 for d in of_kind]):.0%}")
    middle = f"{np.median(hits):.0f}" if hits else "-"
    early_share = f"{early / len(delays):.0%}"
    return f"| {name} | {score:.2f} | {early_share} | {middle} | " + " | ".join(recall) + " |"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
