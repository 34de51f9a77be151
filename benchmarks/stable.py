"""What layer, gate and alarms do where nothing drifts: the flights of 2013 in a random order.

    python benchmarks/stable.py [--keep FOLDER] [--seeds 10]

For each seed the days of the year are shuffled, with all that is stored of them. Two policies are
played by `retrain replay`'s own functions. One retrains every 28 days, with the layer and without:
the layer should cost nothing. The other has triggers on drift, the layer as the YAML has it, and a
gate that promotes only what is better at 90 %: each of its promotions but the first is false, and
each alarm, too. Not here: gates and alarms by themselves (`gates.py`, `decisions.py`).
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from adaptation import LAYER, serve_by_test
from policies import REPORTED_FROM, describe, prepared

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.replay import PolicyResult
from retrain_assets.domain.drift.observations import P_VALUE
from retrain_assets.specs.model import PolicySpec
from retrain_assets.steps.replay import INPUTS, Replay
from retrain_assets.steps.state import ModelState

PERIOD, ALARMS_PER_YEAR, DAYS, STATED_GATE = 28, 2, 365.25, 0.05
COUNTED = ("alarms", "tests")
STRICT = PolicySpec.model_validate(
    {
        "name": "strict",
        "triggers": {
            "new_partitions": 14,
            "cooldown": 7,
            "data_drift": {"false_alarms_per_year": ALARMS_PER_YEAR},
            "prediction_drift": {"false_alarms_per_year": ALARMS_PER_YEAR},
        },
        "gate": {"metric": "log_loss", "min_blocks": 5, "confidence": 1 - 2 * STATED_GATE},
        "windows": {"train": 60, "holdout": 14, "current": 7},
    }
)


def shuffle(state: ModelState, seed: int) -> Replay:
    """Return the history of a model with its days in an order drawn at random."""
    history = Replay(state)
    order = np.random.default_rng(seed).permutation(history.keys).tolist()
    day = pl.col(PARTITION).replace_strict(history.keys, order)
    for name in map(state.table, INPUTS):
        number, parts = history.tables[name]
        rows = {part: table.with_columns(day).sort(PARTITION) for part, table in parts.items()}
        history.tables[name] = number, rows
    return history


def report_layer(history: Replay) -> None:
    """Print what the layer changes for a calendar, and when its test lets it in or out."""
    policies = [PolicySpec(name=str(adapt), every=PERIOD, adapt=adapt) for adapt in (False, True)]
    alone, adapted = (history.play(policy).values for policy in policies)
    days = [key for key in alone if key >= REPORTED_FROM]
    difference = describe(alone, adapted, days)
    print(f"  every {PERIOD} + layer is lower than every {PERIOD} by {difference}")
    serve_by_test(PolicyResult(LAYER, adapted, 0, ()), {"": alone}, 0)


def count_errors(history: Replay) -> Counter[str]:
    """Play the strict policy; count what it did, and by role the alarms and what was tested."""
    past = history.past_state(STRICT)
    counts = Counter(action for _, action in history.play(STRICT, past).decisions)
    rows = past.tables.read(past.table("monitoring"), history.keys)
    tested = rows.filter(pl.col("measure") == P_VALUE)
    alarms = tested.group_by("role").agg(pl.len().alias("tests"), pl.sum("alert")).sort("role")
    for role, tests, alerts in alarms.iter_rows():
        counts[f"tests of {role}"], counts[f"alarms of {role}"] = tests, alerts
    print(f"  with a strict gate: {dict(counts)}", flush=True)
    return counts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="Storage root that is made or used again.")
    parser.add_argument("--seeds", type=int, default=10, help="Orders of the days.")
    options = parser.parse_args()
    seeds: list[Counter[str]] = []
    with TemporaryDirectory() as folder:
        state = prepared(options.keep or Path(folder))
        for seed in range(options.seeds):
            print(f"days shuffled by seed {seed}", flush=True)
            history = shuffle(state, seed)
            report_layer(history)
            seeds.append(count_errors(history))
    # The first version has no production to be better than.
    promoted = [counts["promote"] - 1 for counts in seeds]
    gates = [counts["promote"] + counts["hold"] + counts["reject"] - 1 for counts in seeds]
    print_share("promotions", promoted, gates, STATED_GATE)
    for role in ("feature", "prediction"):
        alarms, tests = ([counts[f"{what} of {role}"] for counts in seeds] for what in COUNTED)
        print_share(f"alarms of {role}", alarms, tests, ALARMS_PER_YEAR / DAYS)


def print_share(what: str, counts: Sequence[int], trials: Sequence[int], stated: float) -> None:
    """Print how often something false happened beside what was stated.

    The standard error is that of a ratio among seeds, since an alarm lasts for days.
    """
    count, total = sum(counts), sum(trials)
    share, number = count / total, len(trials)
    residuals = np.array(counts) - share * np.array(trials)
    error = np.sqrt(number / max(number - 1, 1) * (residuals**2).sum()) / total
    text = f"{share:.2%} (standard error {error:.2%}); stated {stated:.2%}"
    print(f"false {what}: {count} of {total}, {text}")


if __name__ == "__main__":
    main()
