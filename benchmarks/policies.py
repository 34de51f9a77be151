"""What policies are worth over the flights of 2013, and what playing them costs.

    python benchmarks/policies.py [--keep FOLDER] [--delays 0 1 3 7]

Values are chosen on January to July and reported on August to December, which they have not seen.
With `--delays`, only the shipped policy and calendars are played, with labels that come so many
days late. All is played by `retrain replay`'s own functions, and fits stay in the folder.
Not here: false alarms and detection (`decisions.py`).
"""

from __future__ import annotations

import argparse
import pickle  # of fits that this benchmark made itself
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from retrain_assets.domain.decision.replay import Outcome
    from retrain_assets.steps.replay import Replay
    from retrain_assets.steps.state import ModelState

CHOSEN_THROUGH, REPORTED_FROM = "2013-07-31", "2013-08-01"
LIVED_FROM = "2013-05-26"  # 67 days before August: the first daily model is fitted on its eve
MODEL, RUN = "flight_delay", "benchmark"
WEEK, DRAWS, LEVEL = 7, 4000, 0.9
Values = Mapping[str, float]


def main() -> None:
    """Play, choose, report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="Storage root that is made or used again.")
    parser.add_argument("--delays", type=int, nargs="+", help="Of the labels.")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        root = options.keep or Path(folder)
        state, fits = prepared(root), root / "fits.pickle"
        memo = pickle.loads(fits.read_bytes()) if fits.exists() else {}  # noqa: S301 see the import
        try:
            if options.delays:
                print("| labels late by | policy | fits | log loss | the shipped is lower by |")
                print("|---|---|---|---|---|")
            for delay in options.delays or ():
                report_delay(state, delay, memo)
            if not options.delays:
                report(*played(state, memo))
        finally:
            fits.write_bytes(pickle.dumps({k: memo[k] for k in memo if k[0] == "fit"}))


def report_delay(state: ModelState, delay: int, memo: dict[Any, Any]) -> None:
    """Print what the shipped policy and calendars come to where labels are final days later."""
    from retrain_assets.specs.model import LabelsSpec, PolicySpec
    from retrain_assets.steps.replay import Replay

    labels = LabelsSpec(delay=delay)
    history = Replay(replace(state, spec=state.spec.model_copy(update={"labels": labels})))
    history.memo = memo
    daily = Replay(history.state, first=LIVED_FROM)
    daily.memo = memo
    results = [history.play(PolicySpec(name="as shipped"))]
    results += [history.play(PolicySpec(name=f"every {n}", every=n)) for n in (56, 28, 14, 7)]
    results += [daily.play(PolicySpec(name="every 1", every=1))]
    shipped = results[0]
    days = [day for day in results[-1].values if day >= REPORTED_FROM]
    for item in results:
        decisions = [action for as_of, action in item.decisions if as_of >= REPORTED_FROM]
        fits = sum(action not in {"adapt", "withdraw", "rollback"} for action in decisions)
        gain = describe(item.values, shipped.values, days) if item is not shipped else ""
        average = mean(item.values[day] for day in days)
        text = f"| {delay} | {item.name} | {fits} | {average:.4f} | {gain} |"
        print(text, flush=True)


def describe(rival: Values, values: Values, days: Sequence[str]) -> str:
    """Return by how much a loss is below a rival's on the same days, with its interval."""
    gains = np.array([rival[day] - values[day] for day in days])
    weeks = np.array_split(gains, range(WEEK, len(gains), WEEK))
    sums, sizes = np.array([week.sum() for week in weeks]), np.array([*map(len, weeks)])
    drawn = np.random.default_rng(0).integers(0, len(weeks), (DRAWS, len(weeks)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return f"{gains.mean():+.4f} ({low:+.4f} to {high:+.4f})"


def prepared(root: Path) -> ModelState:
    """The year, landed, built and watched."""
    from retrain_assets.definitions import datasets, models
    from retrain_assets.demo.flights import Flights
    from retrain_assets.steps.data.ingest import ingest
    from retrain_assets.steps.features.build import build_features, build_profiles
    from retrain_assets.steps.monitoring.monitor import monitor
    from retrain_assets.steps.monitoring.predict import predict_partitions
    from retrain_assets.stores.storage import Storage

    storage, model, specs = Storage(root), models()[MODEL], datasets()
    state = model.state(storage)
    flights = Flights.load()
    if not (root / "landing").exists():
        flights.drop(storage.landing, flights.days)
        flights.drop_planes(storage.landing)
        for name in (model.spec.dataset, *model.spec.lookups):
            keys = ["all"] if specs[name].partition.by == "none" else flights.days
            ingest(storage, specs[name], keys, RUN)
        for step in (build_features, build_profiles):
            step(state, flights.days, RUN)
        predict_partitions(state, flights.days, RUN)
        monitor(state, flights.days, RUN)
    return state


def policies() -> list[dict[str, Any]]:
    """The shipped policy, what it is held against, and a grid of triggers, gates and windows."""
    alone = {"adapt": "off", "refit": True}  # as all policies were before the layer
    rivals: list[dict[str, Any]] = [{"name": "never", "triggers": {}, **alone}]
    rivals += [{"name": f"every {days}", "every": days} for days in (1, 7, 14, 28)]
    not_worse = {"promote_when": {"not_worse": {"margin": 0.01}}, "confidence": 0.8}
    grid = [
        policy(14, 7, {"confidence": 0.55}),
        policy(28, 14, {"confidence": 0.9}),
        policy(28, 14, {"confidence": 0.55}),
        policy(14, 7, not_worse),
        policy(28, 7, {"confidence": 0.55}),
        policy(28, 7, {"confidence": 0.8}),
        policy(28, 7, not_worse),
        policy(28, 7, {"confidence": 0.55}, also=[21]),
    ]
    shipped = {"name": "as shipped (after 14, unless worse, layer)"}
    return [shipped, *rivals, *(item | alone for item in grid)]


def policy(days: int, holdout: int, gate: dict[str, Any], **windows: Any) -> dict[str, Any]:
    """A policy that asks after so many partitions or at a fall of performance, and gates so."""
    how = f"gate {gate['confidence']}" if "promote_when" not in gate else "not worse by 0.01"
    beside = f", also {windows['also']}" if windows else ""
    return {
        "name": f"after {days}, holdout {holdout}, {how}{beside}",
        "triggers": {
            "new_partitions": days,
            "cooldown": 7,
            "performance": {"metric": "log_loss", "max_drop": 0.05},
        },
        "gate": {"metric": "log_loss", "min_blocks": 5, **gate},
        "windows": {"train": 60, "holdout": holdout, "current": 7, **windows},
    }


def played(state: ModelState, memo: dict[Any, Any]) -> tuple[Outcome, float, float]:
    """All policies over the year; CPU seconds of it, and of its fits alone."""
    from retrain_assets.domain.decision.replay import compare_policies
    from retrain_assets.domain.metrics.metrics import get_gate_metric
    from retrain_assets.specs.model import PolicySpec
    from retrain_assets.steps import replay
    from retrain_assets.steps.decision import train

    fit, spent = train.fit_model, [0.0]

    def timed(*given: Any, **named: Any) -> Any:
        before = time.process_time()
        made = fit(*given, **named)
        spent[0] += time.process_time() - before
        return made

    train.fit_model = timed
    begun = time.process_time()
    tried = [PolicySpec.model_validate(policy) for policy in policies()]
    history = replay.Replay(state)
    history.memo = memo
    each = [history.play(policy) for policy in tried]
    outcome = compare_policies(get_gate_metric(state.spec.gate), each, replay.CONFIDENCE)
    seconds = time.process_time() - begun, spent[0]
    report_phases(history)
    report_foresight(history)
    return outcome, *seconds


def report_phases(history: Replay) -> None:
    """A calendar from August on, over each day it may begin on: when it falls is luck."""
    from retrain_assets.specs.model import PolicySpec
    from retrain_assets.steps.replay import Replay

    for every in (7, 14, 28):
        means = []
        for first in history.keys[:every]:
            later = Replay(history.state, first=first)
            later.memo = history.memo
            found = later.play(PolicySpec(name="phase", every=every)).values
            means.append(mean(value for day, value in found.items() if day >= REPORTED_FROM))
        figures = f"{mean(means):.4f} ({stdev(means):.4f}), {min(means):.4f} to {max(means):.4f}"
        print(f"every {every} days, mean (deviation) over the days it may begin on: {figures}")


def report_foresight(history: Replay) -> None:
    """What a calendar of so many fits from August on would come to that knew the best days."""
    losses = np.array(list(losses_of_each(history)))
    days = len(losses)
    for fits in (-(-days // 28), -(-days // 14), -(-days // 7)):
        print(f"{fits} fits from August on, on the best days: {best_days(losses, fits):.4f}")


def losses_of_each(history: Replay) -> Iterator[np.ndarray]:
    """Log loss of each day by the model fitted through each, of shape (days,); inf before it."""
    from retrain_assets.domain.metrics.metrics import block_values
    from retrain_assets.domain.model.estimator import predict
    from retrain_assets.steps.decision.train import fit_model, sample

    state, keys = replace(history.state, memo=history.memo), history.keys
    later = [key for key in keys if key >= REPORTED_FROM]
    rows = sample(state, later)
    for place, first in enumerate(track(later, console=Console(stderr=True))):
        through = keys[: keys.index(first)][-state.spec.windows.train :]
        model, since = fit_model(state, through).pipeline, rows.partitions >= first
        output = predict(model, state.spec.target.kind, rows.features.filter(since))
        labels, blocks = rows.target.filter(since).to_numpy(), rows.partitions.filter(since)
        found = block_values("log_loss", labels, output, blocks)["value"].to_numpy()
        yield np.append(np.full(place, np.inf), found)


def best_days(losses: np.ndarray, fits: int) -> float:
    """The least mean loss of so many models, each served from its fit to that of the next.

    Args:
        losses: Of each model, fitted before that day, and day: shape (days, days).
        fits: How many; the first serves from the first day.
    """
    days = len(losses)
    sums = np.cumsum(np.where(np.isfinite(losses), losses, 0.0), axis=1)
    least = np.append(np.full(days, np.inf), 0.0)  # of all days from each on, by so many models
    for _ in range(fits):
        served = [np.min(sums[first, first:] + least[first + 1 :]) for first in range(days)]
        least = np.append(served, 0.0)
    return float(least[0]) / days


def report(outcome: Outcome, seconds: float, fitting: float) -> None:
    """Choose on the first months, print the means of the rest."""
    days = set.intersection(*(set(each.values) for each in outcome.results))
    means = {
        each.name: (
            mean(each.values[day] for day in days if day <= CHOSEN_THROUGH),
            mean(each.values[day] for day in days if day >= REPORTED_FROM),
        )
        for each in outcome.results
    }
    fits = {each.name: each.fits for each in outcome.results}
    gated = [each.name for each in outcome.results if each.gated]
    best = min(gated, key=lambda name: means[name][0])
    print(f"{'policy':<44} {'fits':>5} {'to July':>9} {'from August':>12}")
    for name, (chosen, reported) in means.items():
        mark = " <- chosen" if name == best else ""
        print(f"{name:<44} {fits[name]:>5} {chosen:>9.4f} {reported:>12.4f}{mark}")
    never, daily = means["never"][1], means["every 1"][1]
    share = (never - means[best][1]) / (never - daily)
    print(f"{best}: {share:.0%} of what every day gains over never, from August on")
    for rival in (each.name for each in outcome.results if not each.gated):
        more, better = fits[rival] - fits[best], means[rival][1] - means[best][1]
        print(f"  against {rival}: {more:+d} fits, {better:+.4f} mean daily log loss")
    print(f"{seconds:.0f} CPU seconds, {fitting:.0f} of them fits: {seconds / fitting:.1f} times")


if __name__ == "__main__":
    main()
