"""What share of labels the intervals of the demo's regression contain, and how often they alarm.

The predictions of the demo (`make demo` first) are taken as they were made. Beside the intervals
that adapt, those of split conformal inference alone are measured: with the half-width of the first
day of each version, and with one from the newest days at a fixed level.

    python benchmarks/intervals.py [--model arrival_delay] [--coverage 0.9]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.observations import observe_coverage
from retrain_assets.domain.drift.profile import build_profile, read_sketch
from retrain_assets.domain.model import conformal
from retrain_assets.domain.model.conformal import Errors

CALIBRATED, WINDOW, RATE = 14, 7, 1 / 365


def main() -> None:
    """Print the share and the alarms of each kind of interval."""
    from retrain_assets.definitions import models
    from retrain_assets.stores.storage import storage_from

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="arrival_delay")
    parser.add_argument("--coverage", type=float, default=0.9)
    options = parser.parse_args()
    state = models()[options.model].state(storage_from(os.environ, Path.cwd()))
    rows = state.tables.scan(state.table("predictions")).filter(~pl.col("in_sample"))
    error = (pl.col("prediction") - pl.col("label")).abs().alias("error")
    errors = rows.select(PARTITION, "model_version", error).collect()
    steps = {"adapting": conformal.STEP, "newest days": 0.0, "first days": 0.0}
    for name, conformal.STEP in steps.items():
        shares, alarms = measure(errors, options.coverage, is_fixed=name == "first days")
        values, counts = zip(*shares, strict=True)
        share = np.average(values, weights=counts)
        print(f"{name}: {share:.1%} of {sum(counts):,} labels, {len(shares)} days; {alarms} alarms")


def measure(
    errors: pl.DataFrame, coverage: float, *, is_fixed: bool
) -> tuple[list[tuple[float, int]], int]:
    """Return the share within the intervals of each day, with its rows, and the alarms."""
    shares, alarms = [], 0
    for _, rows in errors.sort("model_version").group_by("model_version", maintain_order=True):
        profile = build_profile(rows.select(PARTITION, "error"))
        days = [Errors(*read_sketch(sketch)) for sketch in profile["sketch"]]
        before, served = days[:CALIBRATED], days[CALIBRATED:]
        timeline = conformal.adapt(coverage, before, served, 0, CALIBRATED)
        timeline = timeline[:1] * len(served) if is_fixed else timeline
        pairs = list(zip(served, timeline, strict=False))
        part = [(day.share_within(item.half_width), day.rows) for day, item in pairs]
        for end in range(WINDOW, len(part) + 1):
            first = timeline[end - WINDOW]
            expected = [day.share_within(first.half_width) for day in first.calibration]
            window = part[end - WINDOW : end]
            alarms += observe_coverage("", coverage, window, expected, RATE).alert
        shares += part
    return shares, alarms


if __name__ == "__main__":
    main()
