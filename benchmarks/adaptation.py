"""What the adaptive layer costs, and what it is worth on the flights of 2013.

    python benchmarks/adaptation.py [--keep FOLDER] [--delays 0 3] [--calendars]

All is played by `retrain replay`'s own functions, over the whole year; daily retraining only from
August on, from where everything is reported. The policy that ships is played too, and its layer
is made by the step that makes it live. Differences are of daily means; their intervals are
percentiles of a bootstrap of weeks. Not here: other policies with triggers and gates
(`policies.py`), and years in which nothing drifts (`stable.py`).
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from policies import LIVED_FROM, REPORTED_FROM, Values, describe, prepared

from retrain_assets.domain.adaptation.layer import Update, predict_layer, start_layer, update_layer
from retrain_assets.domain.adaptation.service import assess
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.replay import PolicyResult
from retrain_assets.specs.model import LabelsSpec, PolicySpec
from retrain_assets.steps import replay
from retrain_assets.steps.monitoring.adapt import Chain, adapt_partitions, read_losses
from retrain_assets.steps.monitoring.members import Inputs
from retrain_assets.steps.state import ModelState

PERIODS = (7, 28, 56)
LAYER = " + layer"
BAD_DAYS = ("2013-08-14", "2013-09-10", "2013-10-09", "2013-11-05", "2013-11-27", "2013-12-08")
LATER = (1, 3, 7, 14)
ABUSES: dict[str, Callable[[Inputs], Inputs]] = {
    "flipped labels": lambda inputs: replace(inputs, labels=1 - inputs.labels),
    "labels all 0": lambda inputs: replace(inputs, labels=0 * inputs.labels),
    "labels all 1": lambda inputs: replace(inputs, labels=0 * inputs.labels + 1),
    "10 rows": lambda inputs: replace(
        inputs, outputs=inputs.outputs[:10], labels=inputs.labels[:10]
    ),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="Storage root that is made or used again.")
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 3], help="Of the labels.")
    text = "Leave out costs, daily retraining, bad days and the shipped policy."
    parser.add_argument("--calendars", action="store_true", help=text)
    options = parser.parse_args()
    if not options.calendars:
        report_costs()
    with TemporaryDirectory() as folder:
        state = prepared(options.keep or Path(folder))
        for delay in options.delays:
            spec = state.spec.model_copy(update={"labels": LabelsSpec(delay=delay)})
            begun = time.process_time()
            report_worth(replace(state, spec=spec), delay, all_of_it=not options.calendars)
            print(f"{time.process_time() - begun:.0f} CPU seconds")
        if not options.calendars:
            report_shadow(state)


def report_costs() -> None:
    """Print the CPU time of an update and of a prediction by five members."""
    print("| kind | rows | update | predict |\n|---|---|---|---|")
    for kind in ("binary", "regression"):
        for rows in (1000, 1_000_000):
            random = np.random.default_rng(0)
            law = random.normal(size=rows)
            link = law[:, None] + 0.5 * random.normal(size=(rows, 5))
            labels = (random.random(rows) < 1 / (1 + np.exp(-law))) * 1.0
            outputs = 1 / (1 + np.exp(-link)) if kind == "binary" else link
            state, spent = start_layer(kind), []
            for _ in range(5):
                begun = time.process_time()
                state = update_layer(state, outputs, labels).state
                spent.append(time.process_time() - begun)
            begun = time.process_time()
            predict_layer(state, outputs)
            served = time.process_time() - begun
            print(f"| {kind} | {rows:,} | {median(spent) * 1e3:.1f} ms | {served * 1e3:.1f} ms |")


def report_worth(state: ModelState, delay: int, *, all_of_it: bool) -> None:
    """Print the loss from August on of calendars with and without the layer, and of daily fits."""
    history = replay.Replay(state)
    calendars = [
        PolicySpec(
            name=f"every {period}" + (" + layer" if adapt else ""), every=period, adapt=adapt
        )
        for period in PERIODS
        for adapt in (False, True)
    ]
    results = [history.play(policy) for policy in calendars]
    if all_of_it:
        daily = replay.Replay(state, first=LIVED_FROM)
        daily.memo = history.memo
        results.append(daily.play(PolicySpec(name="every 1", every=1)))
    values = {item.name: item.values for item in results}
    results = [part for item in results for part in (item, *serve_by_test(item, values, delay))]
    values = {item.name: item.values for item in results}
    days = [day for day in results[-1].values if day >= REPORTED_FROM]
    print(f"\nlabel delay {delay}, {len(days)} days from {days[0]} on")
    print("| policy | fits | log loss | less than every 28 | less than every 1 |")
    print("|---|---|---|---|---|")
    for item in results:
        fits = sum(as_of >= REPORTED_FROM for as_of, _ in item.decisions)
        names = ("every 28", "every 1") if all_of_it else ("every 28",)
        rivals = (describe(values[name], item.values, days) for name in names)
        average = mean(item.values[day] for day in days)
        print(f"| {item.name} | {fits} | {average:.4f} | {' | '.join(rivals)} |", flush=True)
    if all_of_it:
        report_abuse(history, values, days)


def serve_by_test(
    item: PolicyResult, values: Mapping[str, Values], delay: int
) -> list[PolicyResult]:
    """Return what a calendar with the layer would have had where the test lets it in and out."""
    if not item.name.endswith(LAYER):
        return []
    alone, adapted, served = values[item.name.removesuffix(LAYER)], item.values, {}
    days = sorted(alone.keys() & adapted.keys())
    serves, since = False, 0
    for place, day in enumerate(days):
        known = days[since : max(since, place - delay)]
        losses = [alone[key] for key in known], [adapted[key] for key in known]
        if known and assess(*losses, serves=serves).changes:
            serves, since = not serves, place
            print(f"{item.name}: {'in' if serves else 'out of'} service from {day} on")
        served[day] = (adapted if serves else alone)[day]
    return [replace(item, name=f"{item.name} by the test", values=served)]


class Shadow(replay.Replay):
    """Plays a policy with triggers and gate, and then makes the states of the layer."""

    def adapt(self, policy: PolicySpec) -> tuple[pl.DataFrame, float]:
        """Return the losses of the layer, and the CPU seconds that it took to make them."""
        state = self.past_state(policy)
        self._follow_triggers(state, self._arrivals(policy, state))
        begun = time.process_time()
        adapt_partitions(state, "benchmark")
        return read_losses(state), time.process_time() - begun


def report_shadow(state: ModelState) -> None:
    """Print what the layer would have brought on top of the policy that ships."""
    losses, seconds = Shadow(state).adapt(PolicySpec(name="as it is"))
    rows = losses.filter(pl.col(PARTITION) >= REPORTED_FROM)
    days = rows[PARTITION].to_list()
    alone, adapted = (
        dict(zip(days, rows[name], strict=True)) for name in ("loss_newest", "loss_layer")
    )
    print(
        f"the policy that ships: newest version alone {mean(alone.values()):.4f}, layer "
        f"{mean(adapted.values()):.4f}, lower by {describe(alone, adapted, days)}; "
        f"{losses.height} states and the predictions of older versions in {seconds:.0f} CPU seconds"
    )


def report_abuse(history: replay.Replay, values: Mapping[str, Values], days: list[str]) -> None:
    """Print what a bad day costs the layer on the days after it, over several such days."""
    name, move = f"every 28{LAYER}", Chain.move
    sound, alone = values[name], values["every 28"]
    print(
        "| the bad day has | days later | to the layer without it | to the newest alone | worst |"
    )
    print("|---|---|---|---|---|")
    for what, change in ABUSES.items():
        excess = []
        for day in BAD_DAYS:
            Chain.move = abuse(move, day, change)
            bad = history.play(PolicySpec(name=name, every=28, adapt=True)).values
            later = days[days.index(day) + 1 :][: max(LATER)]
            excess.append([(bad[day] - sound[day], bad[day] - alone[day]) for day in later])
        Chain.move = move
        for after in LATER:
            worse, than_alone = zip(*(of_day[after - 1] for of_day in excess), strict=True)
            means = f"{mean(worse):+.3f} | {mean(than_alone):+.3f} | {max(than_alone):+.3f}"
            print(f"| {what} | {after} | {means} |", flush=True)


def abuse(
    move: Callable[..., Update], day: str, change: Callable[[Inputs], Inputs]
) -> Callable[..., Update]:
    """Return `Chain.move` with another content of one day."""

    def abused(chain: Chain, key: str, arrived: Sequence[str], inputs: Inputs) -> Update:
        return move(chain, key, arrived, change(inputs) if key == day else inputs)

    return abused


if __name__ == "__main__":
    main()
