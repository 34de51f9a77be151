"""Look at the guards of a gate: what needs a clock, a file or a process.

Not here: the bounds, and the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

from retrain_assets.domain import guards as domain
from retrain_assets.domain.estimator import predict
from retrain_assets.domain.guards import GuardResult
from retrain_assets.domain.performance import comparable
from retrain_assets.stores.model_check import EXAMPLE_FILE, check_file, write_example
from retrain_assets.stores.model_file import MODEL_FILE, digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    import numpy as np
    import polars as pl
    from sklearn.pipeline import Pipeline

    from retrain_assets.specs.features import Kind
    from retrain_assets.specs.gate import GateSpec
    from retrain_assets.steps.train import Sample

REPEATS, BATCH = 15, 1000


@dataclass(frozen=True)
class Side:
    """One of two models on the holdout.

    Args:
        pipeline: The model.
        output: What it predicts for the rows, in the columns of the classes of both.
    """

    pipeline: Pipeline
    output: np.ndarray


def looked_at(
    gate: GateSpec,
    kind: Kind,
    rows: Sample,
    candidate: Side,
    production: Side,
    classes: Sequence[Any] | None,
) -> Iterator[GuardResult]:
    """What each guard of the YAML says of a candidate."""
    asked, labels = gate.guards, rows.target.to_numpy()
    ours, theirs = candidate.output, production.output
    if asked.calibration:
        yield domain.calibration(
            asked.calibration, labels, ours, theirs, rows.blocks, gate.confidence
        )
    if asked.negative_flips:
        known, ours = comparable(labels, ours, classes)
        yield domain.negative_flips(asked.negative_flips, known, ours, theirs, gate.threshold)
    if asked.latency:
        times = _seconds(kind, rows.features, candidate.pipeline, production.pipeline)
        yield domain.ratio("latency", asked.latency, *times)
    if asked.size:
        both = ({"bytes": float(len(_file(side.pipeline)))} for side in (candidate, production))
        yield domain.ratio("size", asked.size, *both)
    if asked.skew:
        yield _skew(asked.skew, kind, rows.features, candidate.pipeline)


def _seconds(
    kind: Kind, features: pl.DataFrame, *pipelines: Pipeline
) -> tuple[dict[str, float], dict[str, float]]:
    """Medians by size of the batch; the two take turns, so that a busy machine slows both."""
    found: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for name, batch in (("one row", features.head(1)), ("a batch", features.head(BATCH))):
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(REPEATS):
            for pipeline, seconds in zip(pipelines, taken, strict=True):
                began = perf_counter()
                predict(pipeline, kind, batch)
                seconds.append(perf_counter() - began)
        for side, seconds in zip(found, taken, strict=True):
            side[f"seconds of {name}"] = median(seconds)
    return found


def _file(pipeline: Pipeline) -> bytes:
    import skops.io

    return bytes(skops.io.dumps(pipeline))


def _skew(action: Any, kind: Kind, features: pl.DataFrame, pipeline: Pipeline) -> GuardResult:
    """Whether a clean process predicts the same for every row of the holdout, bit for bit."""
    content = _file(pipeline)
    with TemporaryDirectory() as folder:
        path, example = Path(folder) / MODEL_FILE, Path(folder) / EXAMPLE_FILE
        path.write_bytes(content)
        write_example(example, features, predict(pipeline, kind, features))
        tried = check_file(path, digest(content), example, kind)
    return GuardResult("skew", action, tried.passed, tried.detail)
