"""A retraining at each month's end over the flights of 2013: what the gate lets pass, its worth.

    python benchmarks/months.py [--keep FOLDER]

The model of the end of March comes first; those of the end of April to November are for May to
December. Each is gated and, where it passes, refitted by the functions that run live, and held
against promoting every one and none. Not here: policies that say when to retrain (`policies.py`).
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from policies import RUN, prepared

from retrain_assets.domain.windows import mature_partitions
from retrain_assets.specs.model import PolicySpec
from retrain_assets.steps.decision.promote import decide_candidate
from retrain_assets.steps.decision.reconsider import propose
from retrain_assets.steps.decision.train import fit_model
from retrain_assets.steps.monitoring.monitor import monitor
from retrain_assets.steps.monitoring.predict import predict_partitions
from retrain_assets.steps.replay import Replay, measure_newest

if TYPE_CHECKING:
    from retrain_assets.steps.replay import PastState
    from retrain_assets.stores.ledger import LedgerRow

FIRST = "2013-03"
GATES: dict[str, dict[str, Any]] = {
    "shipped": {},
    "14 days, 90 %": {
        "gate": {"metric": "log_loss", "confidence": 0.9},
        "windows": {"train": 60, "holdout": 14, "current": 7},
    },
}
Values = dict[str, float]


class Months(Replay):
    """Retrains at each month's end instead of asking the triggers."""

    rows: tuple[LedgerRow, ...]

    @property
    def ends(self) -> list[str]:
        """The last day of each month from the first retraining on, but for the last month."""
        return [one for one, then in pairwise(self.keys) if one[:7] != then[:7] and one > FIRST]

    def retrain(self, policy: PolicySpec) -> tuple[Values, Values, Values]:
        """Retrain at each month's end, and return the losses of this and of both rivals."""
        state, begun = self.past_state(policy), self.keys.index(self.ends[0]) + 1
        for keys in [self.keys[:begun], *([key] for key in self.keys[begun:])]:
            state.arrived.extend(keys)
            predict_partitions(state, keys, RUN)
            monitor(state, keys, RUN)
            if keys[-1] in self.ends:
                why = ("schedule",), "a month has ended"
                propose(state, None, None, why, lambda: RUN)
                decide_candidate(state, RUN, lambda: RUN)
        history = state.ledger.read()
        self.rows = history.rows
        served = {key: history.production_at(key) for key in self.keys[begun:]}
        models = {key: [self.versions[row.version][1]] for key, row in served.items() if row}
        return measure_newest(state, models), *self._rivals(state, begun)

    def _rivals(self, state: PastState, begun: int) -> tuple[Values, Values]:
        """The loss of each day where each month's model is taken, and where only the first is."""
        made = {}
        for end in self.ends:
            past = self.keys[: self.keys.index(end) + 1]
            mature = mature_partitions(past, state.spec.labels.delay)
            made[end] = fit_model(state, mature[-state.spec.windows.train :]).pipeline
        newest = {key: [made[max(end for end in made if end < key)]] for key in self.keys[begun:]}
        first = dict.fromkeys(self.keys[begun:], (made[self.ends[0]],))
        return measure_newest(state, newest), measure_newest(state, first)


def main() -> None:
    """Play, print what was decided each month and what it came to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="Storage root that is made or used again.")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        state = prepared(options.keep or Path(folder))
        for name, parts in GATES.items():
            months = Months(state)
            policy = PolicySpec.model_validate({"name": name, "triggers": {}, **parts})
            report(name, months, *months.retrain(policy))


def report(name: str, months: Months, *played: Values) -> None:
    """A line a month: the verdict, and the mean daily loss of the month after it, by policy."""
    print(f"\n{name}\n| as of | decided | gated | always | never |\n|---|---|---|---|---|")
    for row in months.rows:
        following = dict(pairwise([*months.ends, "2013-12-31"]))
        end = row.seen_through
        days = [key for key in played[0] if end < key <= following[end]]
        means = " | ".join(f"{mean(each[day] for day in days):.4f}" for each in played)
        print(f"| {row.as_of} | {row.action} | {means} | {row.reason}", flush=True)
    means = " | ".join(f"{mean(each.values()):.4f}" for each in played)
    print(f"| all days | | {means} |")


if __name__ == "__main__":
    main()
