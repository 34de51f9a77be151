"""What the alarms are worth: `python benchmarks/decisions.py`; results in docs/decisions.md.

Days of real flights in an order drawn at random: nothing drifts, so each alarm is a false one. The
share of evaluations with an alarm is held against the rate that was stated, beside what is usual:
PSI > 0.2 on any column; a KS test at p < 0.05 on any number; Evidently's defaults for over 1,000
rows, a normed Wasserstein distance (numbers) or a Jensen-Shannon distance to base e (categories) of
at least 0.1, on any column and, as its preset has it, on half of them. Prints progress and a table.
"""

from __future__ import annotations

import sys
import time
from math import log
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from rich.console import Console
from rich.progress import track
from scipy.stats import binom, kstwobign
from year import RUN, built

from retrain_assets.domain.drift.measures import jensen_shannon, ks, psi, wasserstein
from retrain_assets.domain.drift.permutation_test import pool, run_permutation_test
from retrain_assets.domain.drift.profile import ColumnProfile, merge
from retrain_assets.steps.features import build

REFERENCES, CURRENT, RATES, SEEDS = (30, 60, 90, 180), 7, (0.05, 0.01, 2 / 365.25), 10
USUAL_PER_SEED = 5
USUAL = ("PSI > 0.2", "KS p < 0.05", "Evidently, any column", "Evidently, half of them")
Profiles = dict[str, ColumnProfile]


def profiles(root: Path) -> dict[str, pl.DataFrame]:
    """Stored summaries of all columns of the year's flights, by day."""
    state = built(root)
    keys = tuple(state.sources())
    made = build.build_profiles(state, keys, RUN).rows.filter(pl.col("column") != "delayed")
    parts = made.partition_by("_landing_partition", as_dict=True)
    return {str(key): part for (key,), part in parts.items()}


def stable(days: dict[str, pl.DataFrame], reference: int, per_seed: int) -> dict[str, float]:
    """Alarms in shuffled days: how many of all evaluations, by rate, and by what is usual."""
    alarms = dict.fromkeys([*map(str, RATES), *USUAL], 0)
    draws, seconds = 0, 0.0
    for seed in range(SEEDS):
        random = np.random.default_rng([reference, seed])
        for number in range(per_seed):
            keys = [str(key) for key in random.permutation(list(days))[: reference + CURRENT]]
            began = time.process_time()
            columns = pool(pl.concat([days[key] for key in keys]), keys)
            places = range(reference, reference + CURRENT)
            found = run_permutation_test(columns, places, min(RATES), random)
            seconds += time.process_time() - began
            draws += found.draws
            for rate in RATES:
                alarms[str(rate)] += found.p_value <= rate
            if number >= USUAL_PER_SEED:
                continue  # merging sketches takes longer than all the rest
            before = merge(pl.concat([days[key] for key in keys[:reference]]))
            now = merge(pl.concat([days[key] for key in keys[reference:]]))
            for name, alarm in zip(USUAL, usual(before, now), strict=True):
                alarms[name] += alarm
    times = SEEDS * per_seed
    shares = {name: count / times for name, count in alarms.items()}
    shares |= {name: alarms[name] / (SEEDS * min(USUAL_PER_SEED, per_seed)) for name in USUAL}
    return {**shares, "draws": draws / times, "milliseconds": 1000 * seconds / times}


def usual(before: Profiles, now: Profiles) -> tuple[bool, ...]:
    """Whether each of what is usual alarms."""
    pairs = [(before[name], now[name]) for name in before]
    certain = (ks_test(*pair) for pair in pairs if pair[0].kind == "numeric")
    far = [
        (wasserstein(*pair) if pair[0].kind == "numeric" else to_base_e(jensen_shannon(*pair))) or 0
        for pair in pairs
    ]
    moved = [distance >= 0.1 for distance in far]
    return (
        any((psi(*pair) or 0) > 0.2 for pair in pairs),
        any(p_value < 0.05 for p_value in certain),
        any(moved),
        sum(moved) >= len(moved) / 2,
    )


def ks_test(before: ColumnProfile, now: ColumnProfile) -> float:
    """The p-value of the two-sample test, for as many rows as there were."""
    rows = before.filled * now.filled / (before.filled + now.filled)
    return float(kstwobign.sf((ks(before, now) or 0) * rows**0.5))


def to_base_e(distance: float | None) -> float:
    """A distance to base 2 in Evidently's base."""
    return (distance or 0) * log(2) ** 0.5


def main(per_seed: int) -> None:
    """Print the table."""
    with TemporaryDirectory(prefix="retrain-benchmark-") as folder:
        days = profiles(Path(folder))
    times = SEEDS * per_seed
    print(f"{len(days)} days shuffled, {SEEDS} seeds, {times} evaluations a row, {CURRENT} current")
    for rate in RATES:
        low, high = (bound / times for bound in binom.interval(0.95, times, rate))
        print(f"stated {rate:.2%}: 95 % of binomial shares lie in {low:.2%} to {high:.2%}")
    stated = " | ".join(f"stated {rate:.2%}" for rate in RATES)
    print(f"| reference days | {stated} | {' | '.join(USUAL)} | CPU ms |")
    for reference in track(REFERENCES, console=Console(stderr=True)):
        found = stable(days, reference, per_seed)
        shares = " | ".join(f"{found[str(rate)]:.2%}" for rate in RATES)
        others = " | ".join(f"{found[name]:.0%}" for name in USUAL)
        print(f"| {reference} | {shares} | {others} | {found['milliseconds']:.0f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
