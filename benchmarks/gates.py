"""What the gate is worth: `python benchmarks/gates.py [GATES]`; results in docs/decisions.md.

Two models that are equal in expectation by construction: the predictions of one fitted model plus
noise of one law, a part per row and a part per day, drawn anew for each model and gate, on 14 days
of real flights. A promotion of either is a false one, and their share is held against the stated
rate. Then gains that are there: the noise of production is larger. Prints tables.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from decisions import profiles
from rich.console import Console
from rich.progress import track
from scipy.special import expit, softmax
from scipy.stats import binom, ttest_rel
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from retrain_assets.definitions import models
from retrain_assets.domain.decision.causes import LONGEST_WAIT
from retrain_assets.domain.decision.gate import Verdict, compare, decide
from retrain_assets.domain.metrics.metrics import get_gate_metric, surprise
from retrain_assets.specs.gate import METRICS_BY_KIND, GateSpec
from retrain_assets.stores.storage import Storage

GATES, TRAIN, HOLDOUT, STATED = 2000, 60, 14, 0.05
EARLIER, AFTER, DAYS = (14, 28), 60, 365
BY_ROW, BY_DAY, WORSE = 0.5, 0.3, (0.1, 0.2, 0.4, 0.8)
PARAMETERS: dict[str, dict[str, Any]] = {
    "cost": {"cost": {"false_positive": 5.0, "false_negative": 20.0}},
    "pinball": {"quantile": 0.9},
}
COUNTED = {
    "binary": (*METRICS_BY_KIND["binary"], "cost"),
    "multiclass": METRICS_BY_KIND["multiclass"],
    "regression": (*METRICS_BY_KIND["regression"], "pinball"),
}


def fitted(folder: Path) -> None:
    """Store labels, raw predictions and day of each row after the training window, by kind."""
    profiles(folder)  # brings the flights in and makes their features
    state = models()["flight_delay"].state(Storage(folder))
    rows = state.tables.read(state.table("features"), list(state.sources()))
    rows = rows.drop_nulls("delayed").sort("_landing_partition")
    inputs = rows.select(state.feature_names).select(pl.selectors.numeric())
    _, day = np.unique(rows["_landing_partition"], return_inverse=True)
    features, late = inputs.to_numpy(), rows["delayed"].to_numpy().astype(int)
    # Two more targets of the same rows: what they are does not matter, that they are real does.
    third = late + (late & (features[:, inputs.columns.index("departure_hour")] > 17))
    speed = rows["temp"].fill_null(0).to_numpy() / 10
    old = day < TRAIN
    boosting = {"max_iter": 60, "random_state": 0}
    binary = HistGradientBoostingClassifier(**boosting).fit(features[old], late[old])
    several = HistGradientBoostingClassifier(**boosting).fit(features[old], third[old])
    keep = [name for name in inputs.columns if name not in {"temp", "dewp"}]
    other = inputs.select(keep).to_numpy()
    number = HistGradientBoostingRegressor(**boosting).fit(other[old], speed[old])
    new = ~old
    np.savez(folder / "inputs.npz", features=features, late=late, day=day)
    np.savez(
        folder / "rows.npz",
        day=day[new],
        binary=late[new],
        multiclass=third[new],
        regression=speed[new],
        binary_raw=binary.decision_function(features[new]),
        multiclass_raw=several.decision_function(features[new]),
        regression_raw=number.predict(other[new]),
    )


def noisy(
    raw: np.ndarray, day: np.ndarray, random: np.random.Generator, kind: str, more: float = 0.0
) -> np.ndarray:
    """Predictions of a model whose noise has a part per row and a part per day."""
    width = raw.shape[1:]
    days = random.normal(0, BY_DAY, (day.max() + 1, *width))[day]
    found = raw + days + random.normal(0, np.hypot(BY_ROW, more), raw.shape)
    if kind == "binary":
        return np.asarray(expit(found))
    return np.asarray(softmax(found, axis=1)) if kind == "multiclass" else found


def drawn(folder: Path, kind: str, seed: list[int], more: float = 0.0, days: int = HOLDOUT) -> Any:
    """Labels, candidate, production and day of each row of a holdout that is drawn at random."""
    data = np.load(folder / "rows.npz", mmap_mode="r")
    random, day = np.random.default_rng(seed), data["day"]
    first = int(random.integers(day[0], day[-1] + 2 - days))
    rows = slice(*np.searchsorted(day, [first, first + days]))
    labels, raw, day = data[kind][rows], data[f"{kind}_raw"][rows], day[rows] - first
    ours, theirs = (noisy(raw, day, random, kind, extra) for extra in (0.0, more))
    return labels, ours, theirs, pl.Series(day)


def promoted(folder: Path, kind: str, metric: str, seed: int) -> bool:
    """Whether the gate promotes one of two equal models."""
    measure = get_gate_metric(GateSpec(metric=metric, **PARAMETERS.get(metric, {})))
    classes = [0, 1, 2] if kind == "multiclass" else None
    held = drawn(folder, kind, [seed, len(metric), len(kind)])
    return compare(measure, *held, 1 - 2 * STATED, classes=classes).low > 0


def others(folder: Path, seed: int) -> list[bool]:
    """Of log_loss: whether a point comparison, a t test of rows, a bootstrap of days promote."""
    labels, ours, theirs, days = drawn(folder, "binary", [seed, 99])
    gains = surprise(labels, theirs) - surprise(labels, ours)
    found = ttest_rel(surprise(labels, theirs), surprise(labels, ours), alternative="greater")
    sums = np.bincount(days.to_numpy(), gains, HOLDOUT)
    picked = np.random.default_rng(seed).integers(0, HOLDOUT, (1000, HOLDOUT))
    low = np.quantile(sums[picked].sum(axis=1), STATED)
    return [gains.mean() > 0, bool(found.pvalue < STATED), bool(low > 0)]


def with_gain(folder: Path, more: float, seed: int) -> tuple[float, str, bool | None]:
    """The gain, the verdict, and of a HOLD with a forecast whether it is a promotion by then."""
    spec = GateSpec(metric="log_loss", min_gain=0.0)

    def judged(days: int, number: int) -> Any:
        held = drawn(folder, "binary", [number, 7], more, days)
        return decide(spec, found := compare("log_loss", *held, 0.9), found), found

    decision, found = judged(HOLDOUT, seed)
    later = None
    if decision.verdict is Verdict.HOLD and decision.more_blocks:
        days = decision.more_blocks
        if days <= 300:
            later = judged(days, seed + 10**6)[0].verdict is Verdict.PROMOTE
    return found.gain, decision.verdict.value, later


def again(folder: Path, seed: int) -> list[bool] | None:
    """Of two equal models one of which is held: whether a second look promotes it.

    On the days that a HOLD foresees, on their own as it is done, and together with the first.
    """
    spec, longest = GateSpec(metric="log_loss", min_gain=0.0), HOLDOUT * LONGEST_WAIT
    labels, ours, theirs, days = drawn(folder, "binary", [seed, 5], days=HOLDOUT + longest)

    def judged(first: int, last: int) -> Any:
        rows = days.is_between(first, last, closed="left").to_numpy()
        held = labels[rows], ours[rows], theirs[rows], days.filter(rows)
        return decide(spec, found := compare("log_loss", *held, 1 - 2 * STATED), found)

    decision = judged(0, HOLDOUT)
    if decision.verdict is not Verdict.HOLD or (decision.more_blocks or 10**6) > longest:
        return None
    last = HOLDOUT + decision.more_blocks
    return [judged(first, last).verdict is Verdict.PROMOTE for first in (HOLDOUT, 0)]


def real_pairs(folder: Path, last: int) -> list[tuple[str, str, float, float]]:
    """Pairs of real models trained through one day: kind, verdict, gain then and 60 days on.

    None is known to be equal; what each is worth shows in the days after the holdout.
    """
    data = np.load(folder / "inputs.npz")
    features, late, day = data["features"], data["late"], data["day"]
    random = np.random.default_rng(last)

    def model(days: np.ndarray, seed: int = 0) -> HistGradientBoostingClassifier:
        rows = np.concatenate([np.arange(*np.searchsorted(day, [one, one + 1])) for one in days])
        made = HistGradientBoostingClassifier(max_iter=60, max_features=0.5, random_state=seed)
        return made.fit(features[rows], late[rows])

    def gain(ours: Any, theirs: Any, first: int, length: int) -> Any:
        rows = slice(*np.searchsorted(day, [first, first + length]))
        both = (one.predict_proba(features[rows])[:, 1] for one in (ours, theirs))
        return compare("log_loss", late[rows], *both, pl.Series(day[rows]), 1 - 2 * STATED)

    window = np.arange(last + 1 - TRAIN, last + 1)
    drawn_twice = (model(np.sort(random.choice(window, TRAIN))) for _ in range(2))
    newest = model(window)
    pairs = {
        "seeds": (newest, model(window, 1)),
        "resampled days": tuple(drawn_twice),
        **{f"{age} days older": (newest, model(window - age)) for age in EARLIER},
    }
    found = []
    for kind, (ours, theirs) in pairs.items():
        judged = gain(ours, theirs, last + 1, HOLDOUT)
        verdict = "PROMOTE" if judged.low > 0 else "REJECT" if judged.high < 0 else "HOLD"
        later = gain(ours, theirs, last + 1 + HOLDOUT, AFTER)
        found.append((kind, verdict, judged.gain, later.gain))
    return found


def told(found: list[tuple[str, str, float, float]]) -> str:
    """A row: how often one of the pair was shown to be better, and how often it then was."""
    settled = [(then > 0) == (later > 0) for _, verdict, then, later in found if verdict != "HOLD"]
    held = [(then > 0) == (later > 0) for _, verdict, then, later in found if verdict == "HOLD"]
    passed = [later > 0 for _, verdict, _, later in found if verdict == "PROMOTE"]
    return (
        f"{len(found)} | {len(passed)} | {np.mean(passed or [np.nan]):.0%} | "
        f"{len(settled)} | {np.mean(settled or [np.nan]):.0%} | {np.mean(held or [np.nan]):.0%}"
    )


def main(gates: int) -> None:
    """Print the tables."""
    low, high = (bound / gates for bound in binom.interval(0.95, gates, STATED))
    print(f"{gates} gates, stated {STATED:.0%}: 95 % of shares lie in {low:.1%} to {high:.1%}")
    context = get_context("spawn")
    with TemporaryDirectory(prefix="retrain-benchmark-") as name:
        folder = Path(name)
        fitted(folder)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            print(f"days by the day's {BY_DAY} and the row's {BY_ROW}")
            asked = [(kind, metric) for kind, offered in COUNTED.items() for metric in offered]
            for kind, metric in track(asked, console=Console(stderr=True)):
                began = time.perf_counter()
                job = partial(promoted, folder, kind, metric)
                share = np.mean(list(pool.map(job, range(gates), chunksize=50)))
                took = 2000 * (time.perf_counter() - began) / gates
                print(f"| {kind} | {metric} | {share:.1%} | {took:.0f} ms |", flush=True)
            shares = np.mean(list(pool.map(partial(others, folder), range(gates))), axis=0)
            for what, share in zip(("point", "t test of rows", "bootstrap"), shares, strict=True):
                print(f"| {what} | {share:.1%} |", flush=True)
            looked = [*pool.map(partial(again, folder), range(5 * gates), chunksize=50)]
            held = [found for found in looked if found]
            fresh, together = np.mean(held, axis=0)
            print(f"| second looks | {len(held)} | {fresh:.1%} | {together:.1%} |", flush=True)
            ends = range(TRAIN + max(EARLIER) - 1, DAYS - HOLDOUT - AFTER, 10)
            real = [one for each in pool.map(partial(real_pairs, folder), ends) for one in each]
            for kind in dict.fromkeys(kind for kind, *_ in real):
                print(f"| {kind} | {told([one for one in real if one[0] == kind])} |", flush=True)
            for more in WORSE:
                job = partial(with_gain, folder, more)
                found = list(pool.map(job, range(gates // 5), chunksize=20))
                verdicts = [verdict for _, verdict, _ in found]
                later = [then for _, _, then in found if then is not None]
                print(
                    f"| {more} | {np.mean([gain for gain, _, _ in found]):.4f} | "
                    f"{verdicts.count('PROMOTE') / len(found):.0%} | "
                    f"{verdicts.count('REJECT') / len(found):.1%} | "
                    f"{np.mean(later) if later else float('nan'):.0%} of {len(later)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else GATES)
