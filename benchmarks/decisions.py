"""What the alarms are worth: `python benchmarks/decisions.py`; results in docs/decisions.md.

Days of real flights in an order drawn at random: nothing drifts, so each alarm is a false one. The
share of evaluations with an alarm is held against the rate that was stated, beside PSI > 0.2 on any
column. Prints progress and a table.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from rich.console import Console
from rich.progress import track
from scipy.stats import binom
from year import RUN, built

from retrain_assets.domain.calibration import calibrate, pool
from retrain_assets.domain.drift import psi
from retrain_assets.domain.profile import merge
from retrain_assets.steps import build

REFERENCES, CURRENT, RATES, SEEDS = (30, 60, 90, 180), 7, (0.05, 0.01, 2 / 365.25), 10
PSI_PER_SEED = 5


def profiles(root: Path) -> dict[str, pl.DataFrame]:
    """Stored summaries of all columns of the year's flights, by day."""
    state = built(root)
    keys = tuple(state.sources())
    made = build.profile(state, keys, RUN).rows.filter(pl.col("column") != "delayed")
    parts = made.partition_by("_landing_partition", as_dict=True)
    return {str(key): part for (key,), part in parts.items()}


def stable(days: dict[str, pl.DataFrame], reference: int, per_seed: int) -> dict[str, float]:
    """Alarms in shuffled days: how many of all evaluations, by rate, and by PSI."""
    alarms = dict.fromkeys([*map(str, RATES), "psi"], 0)
    draws, seconds = 0, 0.0
    for seed in range(SEEDS):
        random = np.random.default_rng([reference, seed])
        for number in range(per_seed):
            keys = [str(key) for key in random.permutation(list(days))[: reference + CURRENT]]
            began = time.process_time()
            columns = pool(pl.concat([days[key] for key in keys]), keys)
            places = range(reference, reference + CURRENT)
            found = calibrate(columns, places, min(RATES), random)
            seconds += time.process_time() - began
            draws += found.draws
            for rate in RATES:
                alarms[str(rate)] += found.p_value <= rate
            if number >= PSI_PER_SEED:
                continue  # merging sketches takes longer than all the rest
            before = merge(pl.concat([days[key] for key in keys[:reference]]))
            now = merge(pl.concat([days[key] for key in keys[reference:]]))
            alarms["psi"] += any((psi(before[name], now[name]) or 0) > 0.2 for name in before)
    times = SEEDS * per_seed
    shares = {name: count / times for name, count in alarms.items()}
    shares["psi"] = alarms["psi"] / (SEEDS * min(PSI_PER_SEED, per_seed))
    return {**shares, "draws": draws / times, "milliseconds": 1000 * seconds / times}


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
    print(f"| reference days | {stated} | PSI > 0.2 | CPU ms |")
    for reference in track(REFERENCES, console=Console(stderr=True)):
        found = stable(days, reference, per_seed)
        shares = " | ".join(f"{found[str(rate)]:.2%}" for rate in RATES)
        print(f"| {reference} | {shares} | {found['psi']:.0%} | {found['milliseconds']:.0f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
