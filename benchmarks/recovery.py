"""How soon the loss that a drift brings is recovered: by layer and retraining, or by neither.

    python benchmarks/recovery.py [--keep FOLDER] [--sizes 0.4 0.8]

The flights of 2013 in an order drawn at random, so that nothing else drifts. From day 200 on, one
of the drifts of `detection.py` is in all days. The excess is the loss of a day above that of the
same day and policy without drift. What can be recovered lies between the excess of a model that
knows nothing of the drift and that of one fitted on drifted days alone, on the last four weeks.
Half of it is recovered when the excess of three days is half-way between these. All is played by
`retrain replay`'s own functions. Not here: when an alarm comes.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from injection import Injection
from policies import prepared

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.specs.model import PolicySpec
from retrain_assets.steps.replay import Replay
from retrain_assets.steps.state import ModelState

KINDS = ("shift", "scale", "replaced", "nulls", "labels")
FIRST, WEEK, MONTH, SMOOTHED, LEAST = 200, 7, 28, 3, 0.01
NEVER = "the first version"
POLICIES = (
    PolicySpec(name=NEVER, every=400),
    PolicySpec(name="every 28", every=MONTH),
    PolicySpec(name="every 28 + layer", every=MONTH, adapt=True),
)
Losses = Mapping[str, np.ndarray]  # of each policy, from the first day with drift on


@dataclass(frozen=True)
class Year:
    """The days of the year in an order drawn at random.

    Args:
        state: The model.
        seed: Of the order and of what is drawn of a drift.
    """

    state: ModelState
    seed: int = 0

    def play(self, injected: Injection | None) -> Losses:
        """Return the loss of each policy on each day with drift."""
        history, name = Replay(self.state), self.state.table("features")
        number, parts = history.tables[name]
        rows = {part: self._change(history, table, injected) for part, table in parts.items()}
        history.tables[name] = number, rows
        days, losses = history.keys[FIRST:], {}
        for policy in POLICIES:
            values = history.play(policy).values
            losses[policy.name] = np.array([values[day] for day in days])
        return losses

    def _change(
        self, history: Replay, rows: pl.DataFrame, injected: Injection | None
    ) -> pl.DataFrame:
        keys, random = history.keys, np.random.default_rng(self.seed)
        day = pl.col(PARTITION).replace_strict(keys, random.permutation(keys).tolist())
        shuffled = rows.with_columns(day).sort(PARTITION, maintain_order=True)
        parts = shuffled.partition_by(PARTITION, maintain_order=True)
        changed = [
            injected.into(part, place - FIRST, random) if injected and place >= FIRST else part
            for place, part in enumerate(parts)
        ]
        return pl.concat(changed)


def count_days(excess: Losses) -> tuple[float, float, dict[str, int | None]]:
    """Return what a drift costs at first and for ever, and after how many days half is recovered.

    Args:
        excess: Of each policy, by day.
    """
    first = float(excess[NEVER][:WEEK].mean())
    last = float(excess["every 28"][-MONTH:].mean())
    days: dict[str, int | None] = {}
    half = (excess[NEVER] + last) / 2  # of each day, since drift costs more on some than on others
    for name, values in excess.items():
        means = np.convolve(values - half, np.ones(SMOOTHED) / SMOOTHED, "valid")
        below = np.flatnonzero(means <= 0)
        days[name] = int(below[0]) + 1 if len(below) else None
    return first, last, days


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="Storage root that is made or used again.")
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.4, 0.8])
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        year = Year(prepared(options.keep or Path(folder)))
        sound = year.play(None)
        print(f"| drift | size | excess at first | at last | {' | '.join(sound)} |")
        print("|---" * (4 + len(sound)) + "|", flush=True)
        for kind in KINDS:
            for size in options.sizes:
                report(kind, size, sound, year.play(Injection(kind, size, sudden=True)))


def report(kind: str, size: float, sound: Losses, drifted: Losses) -> None:
    """Print one line of the table."""
    excess = {name: drifted[name] - sound[name] for name in sound}
    first, last, days = count_days(excess)
    cells: Sequence[str] = [f"{value or 'never'}" for value in days.values()]
    if first - last < LEAST:
        cells = ["-"] * len(days)
    print(f"| {kind} | {size} | {first:+.3f} | {last:+.3f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
