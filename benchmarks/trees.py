"""How much faster trees are in the form of the service than by their own library.

Each library fits the same rows; the quick form and the library then predict in turn in one process
with one thread, and ratios of the least CPU times are printed: of the shortest call of the library
on the encoded matrix, of the pipeline from a frame of features, which the service would call, and
for one row of `predict_proba` of the library's own class.

    python benchmarks/trees.py [--rounds 9]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from importlib import import_module
from time import process_time
from timeit import repeat
from typing import Any

import numpy as np
import polars as pl

from retrain_assets.domain.model.estimator import predict
from retrain_assets.domain.model.pipeline import build_pipeline
from retrain_assets.serving.scoring.quick_model import build_quick_model
from retrain_assets.specs.model import EstimatorSpec
from retrain_assets.stores.registry.model_file import prepare_threads

NUMBERS, CATEGORIES, ROWS, BATCH = 15, 3, 20_000, 1_000
CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 100}, True),
    ("lightgbm.LGBMClassifier", {}, True),
    ("lightgbm.LGBMClassifier", {"n_estimators": 300}, True),
    ("xgboost.XGBClassifier", {}, True),
    ("xgboost.XGBClassifier", {"n_estimators": 300, "max_depth": 4}, True),
    ("catboost.CatBoostClassifier", {"iterations": 100}, False),
    ("catboost.CatBoostClassifier", {}, False),
]


def make_rows(*, categories: bool) -> tuple[pl.DataFrame, np.ndarray]:
    """Return features, some of them missing, and labels of two classes."""
    random = np.random.default_rng(0)
    numbers = random.normal(size=(ROWS, NUMBERS + CATEGORIES))
    score = numbers[:, 1] + np.sin(numbers[:, 2]) * numbers[:, 3] + random.normal(size=ROWS)
    numbers[random.random(numbers.shape) < 0.05] = np.nan
    frame = pl.DataFrame({f"x{n}": column for n, column in enumerate(numbers.T)}).fill_nan(None)
    if categories:
        texts = {f"x{n}": random.choice([*"abcdefgh"], ROWS) for n in range(CATEGORIES)}
        frame = frame.with_columns(**{name: pl.Series(values) for name, values in texts.items()})
    return frame, (score > 0).astype(int)


def measure(call: Callable[[], object], rounds: int) -> float:
    """Return the least CPU milliseconds of a call."""
    return min(repeat(call, timer=process_time, number=20, repeat=rounds)) / 20 * 1e3


def fit_class(path: str, params: dict[str, Any], matrix: np.ndarray, labels: np.ndarray) -> Any:
    """Return the library's own estimator, which predicts with one thread."""
    module, _, name = path.rpartition(".")
    kind = getattr(import_module(module), name)
    fixed = {
        "lightgbm": {"n_jobs": 1, "verbose": -1},
        "xgboost": {"n_jobs": 1},
        "catboost": {"thread_count": 1, "allow_writing_files": False, "silent": True},
    }.get(module, {})
    return kind(**params, **fixed).fit(matrix, labels)


def main() -> None:
    """Print a line for each library."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    prepare_threads()
    for path, params, categories in CASES:
        frame, labels = make_rows(categories=categories)
        spec = EstimatorSpec.model_validate({"class": path, "params": params})
        pipeline = build_pipeline(spec, frame.schema, 0).fit(frame, labels)
        own_class = fit_class(path, params, pipeline[0].transform(frame), labels)
        quick, how = build_quick_model(pipeline, "binary", frame.head(500))
        print(f"{path} {params}: {how}")
        if quick is None:
            continue
        for count in (1, BATCH):
            rows = frame.head(count)
            columns = rows.get_columns()
            features = [column.to_list() for column in columns] if count == 1 else columns
            matrix = pipeline[0].transform(rows)
            fast, own, bare, whole = (
                measure(call, rounds)
                for call in (
                    partial(quick.predict, features),
                    partial(own_class.predict_proba, matrix),
                    partial(pipeline[-1].predict_proba, matrix),
                    partial(predict, pipeline, "binary", rows),
                )
            )
            shares = {"bare": bare, "pipeline": whole}
            shares |= {"predict_proba": own} if count == 1 else {}
            times = "; ".join(f"{name} {t:.3f}, ratio {t / fast:.1f}" for name, t in shares.items())
            print(f"  {count} rows: quick {fast:.3f} ms; {times}")


if __name__ == "__main__":
    main()
