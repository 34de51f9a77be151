"""Time and size of each library's models on 100,000 rows of 12 features, three of them categories.

Prints seconds of a fit with one thread, milliseconds of loading with a first prediction, of one row
and of 1,000 rows with the library's own prediction, the size of the stored file, and whether a
second fit with two threads gives the same file. Times are those of the processor, in which other
work on the machine does not count. Usage: `python benchmarks/families.py [ROWS]`.

With `--apart`, it only fits each with two threads in two processes, one after the other, and prints
whether the fitted objects are the same, bit for bit.
"""

import subprocess
import sys
from collections.abc import Callable
from statistics import median
from time import process_time

import numpy as np
import polars as pl
import skops.io

from retrain_assets.domain.model.estimator import fit, predict
from retrain_assets.specs.model import ModelSpec
from retrain_assets.stores.registry.model_file import (
    content_digest,
    digest,
    load_model,
    prepare_threads,
)

ESTIMATORS = {
    "HistGradientBoosting": ("sklearn.ensemble.HistGradientBoostingClassifier", "max_iter"),
    "LightGBM": ("lightgbm.LGBMClassifier", "n_estimators"),
    "XGBoost": ("xgboost.XGBClassifier", "n_estimators"),
    "CatBoost": ("catboost.CatBoostClassifier", "iterations"),
}
ROUNDS, REPEATS = 100, 20


def make_rows(count: int) -> tuple[pl.DataFrame, pl.Series]:
    """Return features with missing values and categories, and a label that depends on them."""
    random = np.random.default_rng(0)
    numbers = random.normal(size=(count, 9))
    numbers[random.random(numbers.shape) < 0.05] = np.nan
    frame = pl.DataFrame({f"n{i}": numbers[:, i] for i in range(9)}).with_columns(
        pl.col("^n.*$").fill_nan(None)
    )
    codes = random.integers(0, 20, size=(count, 3))
    frame = frame.with_columns(pl.Series(f"c{i}", codes[:, i]).cast(pl.String) for i in range(3))
    score = np.nan_to_num(numbers[:, :4]).sum(axis=1) + (codes[:, 0] % 3) - 1
    return frame, pl.Series("late", (score + random.normal(size=count) > 0).astype(int))


def make_spec(path: str, name: str, threads: int) -> ModelSpec:
    """Return a model with one estimator."""
    return ModelSpec.model_validate(
        {
            "name": "late",
            "dataset": "rows",
            "features": {"sql": "SELECT * FROM rows"},
            "target": {"column": "late", "kind": "binary"},
            "estimator": {"class": path, "params": {name: ROUNDS}, "threads": threads},
            "gate": {"metric": "log_loss"},
        }
    )


def milliseconds(call: Callable[[], object]) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(REPEATS):
        start = process_time()
        call()
        times.append(process_time() - start)
    return 1000 * median(times)


def main(count: int) -> None:
    """Print a row for each library."""
    prepare_threads()
    rows, label = make_rows(count)
    days = pl.Series(["day"] * count)
    head = "fit, s | load, ms | one row, ms | 1,000 rows, ms | file, kB | same"
    print(f"| | {head} |\n|---|---|---|---|---|---|---|")
    for title, (path, name) in ESTIMATORS.items():
        seconds, files = [], []
        for threads in (1, 2, 2):
            start = process_time()
            fitted = fit(make_spec(path, name, threads), rows, label, days)
            seconds.append(process_time() - start)
            files.append(skops.io.dumps(fitted.pipeline))
        content, sha256, few = files[-1], digest(files[-1]), rows[:1000]
        pipeline = load_model(content, sha256, title)
        expected = predict(fitted.pipeline, "binary", few)
        same = content_digest(files[1]) == content_digest(files[2])
        same &= predict(pipeline, "binary", few).tolist() == expected.tolist()
        load = milliseconds(
            lambda content=content, sha256=sha256: predict(
                load_model(content, sha256, ""), "binary", rows[:1]
            )
        )
        single = milliseconds(lambda pipeline=pipeline: predict(pipeline, "binary", rows[:1]))
        many = milliseconds(lambda pipeline=pipeline, few=few: predict(pipeline, "binary", few))
        times = f"{seconds[0]:.1f} | {load:.0f} | {single:.2f}"
        print(
            f"| {title} | {times} | {many:.1f} | {len(content) / 1000:.0f} | {same} |", flush=True
        )


def fit_once(title: str, count: int) -> str:
    """Return the digest of the fitted objects of a fit with two threads."""
    prepare_threads()
    rows, label = make_rows(count)
    spec = make_spec(*ESTIMATORS[title], threads=2)
    fitted = fit(spec, rows, label, pl.Series(["day"] * count))
    return content_digest(skops.io.dumps(fitted.pipeline))


def compare_processes(count: int) -> None:
    """Print of each library whether two processes fit the same."""
    for title in ESTIMATORS:
        command = [sys.executable, __file__, str(count), title]
        first, second = (subprocess.check_output(command, text=True) for _ in range(2))
        print(f"{title}, {count:,} rows: {'the same' if first == second else 'different'}")


if __name__ == "__main__":
    rows_asked = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    (option,) = sys.argv[2:] or ("",)
    if option == "--apart":
        compare_processes(rows_asked)
    elif option:
        print(fit_once(option, rows_asked))
    else:
        main(rows_asked)
