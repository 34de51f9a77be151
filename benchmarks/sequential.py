"""How often the sequential test errs on streams without an effect, and how soon it finds one.

    python benchmarks/sequential.py [--rounds 4000]

A stream has a gain a day. The test is looked at after each; evidence of 10 is stated to be reached
in 5 % of the streams without an effect. In the last columns, it is reached by weeks, or by weeks
where gains count up to a cap, of so many deviations: so the adaptive layer begins to serve. Not
here: the gate (`gates.py`).
"""

import argparse
from collections.abc import Callable

import numpy as np

from retrain_assets.domain.metrics.intervals import (
    STRETCH,
    SURE,
    compute_evidence,
    required_evidence,
)

DAYS, WEEK = 300, 7
NEEDED = required_evidence(0.9)
Draw = Callable[[np.random.Generator, int], np.ndarray]


def resembling(alike: float) -> Draw:
    """Return a law of gains that correlate with their neighbours."""

    def draw(rng: np.random.Generator, days: int) -> np.ndarray:
        gains = rng.normal(size=days)
        gains[1:] *= (1 - alike**2) ** 0.5
        for day in range(1, days):
            gains[day] += alike * gains[day - 1]
        return gains

    return draw


def shocked(share: float, first: int) -> Draw:
    """Return a law whose weeks have shocks, which are a share of the variance.

    Args:
        share: Of the variance.
        first: On which day of a week the stream begins.
    """

    def draw(rng: np.random.Generator, days: int) -> np.ndarray:
        shocks = rng.normal(size=days // WEEK + 2)[(np.arange(days) + first) // WEEK]
        return np.asarray(share**0.5 * shocks + (1 - share) ** 0.5 * rng.normal(size=days))

    return draw


def regime(rng: np.random.Generator, days: int) -> np.ndarray:
    """Return gains that are good for some six weeks, then so bad for a week that the mean is 0."""
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < days:
        parts += [np.full(rng.geometric(1 / (6 * WEEK)), 1.0), np.full(rng.geometric(1 / WEEK), -6)]
    return np.concatenate(parts)[:days] + rng.normal(size=days)


STREAMS: dict[str, Draw] = {
    "independent": resembling(0.0),
    "correlation 0.3": resembling(0.3),
    "correlation 0.5": resembling(0.5),
    "correlation 0.7": resembling(0.7),
    "correlation 0.85": resembling(0.85),
    "weekly shocks, half of the variance": shocked(0.5, 0),
    "the same, from the middle of a week": shocked(0.5, 3),
    "weekly shocks, 80 %, from the middle": shocked(0.8, 3),
    "heavy tails": lambda rng, days: rng.standard_t(5, size=days),
    "rare losses": lambda rng, days: 1 - rng.exponential(size=days),
    "six good weeks, a bad one": regime,
}
CAPS = (0.25, 1.0, 4.0)
EFFECTS = ((0.3, 120), (0.5, 60), (1.0, 28), (1.0, 42))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=4000, help="Streams of each kind.")
    rounds = parser.parse_args().rounds
    print(f"{rounds} streams of {DAYS} days; reached in the share of them")
    capped = "".join(f" by weeks, or with a cap of {cap:g} |" for cap in CAPS)
    print(f"| stream | day by day | by weeks | by weeks, or at once |{capped}")
    print("|---" * (4 + len(CAPS)) + "|")
    for name, draw in STREAMS.items():
        print(f"| {name} | {' | '.join(share(draw, DAYS, rounds))} |", flush=True)
    for effect, days in EFFECTS:
        shares = share(lambda rng, days, mean=effect: rng.normal(mean, size=days), days, rounds)
        print(f"| effect of {effect} deviations, {days} days | {' | '.join(shares)} |", flush=True)


def share(draw: Draw, days: int, rounds: int) -> list[str]:
    """Return the share of streams in which enough evidence is reached, by each of the tests."""
    rng, reached = np.random.default_rng(0), np.zeros(3 + len(CAPS))
    for _ in range(rounds):
        gains = draw(rng, days)
        daily, weekly = (compute_evidence(gains, size) for size in (1, STRETCH))
        either = weekly.max() >= NEEDED or daily.max() >= SURE * NEEDED
        capped = (compute_evidence(np.minimum(gains, cap), STRETCH).max() for cap in CAPS)
        both = [max(weekly.max(), part) >= NEEDED for part in capped]
        reached += [daily.max() >= NEEDED, weekly.max() >= NEEDED, either, *both]
    return [f"{value:.1%}" for value in reached / rounds]


if __name__ == "__main__":
    main()
