"""Infra validation: load a stored model in a new process, and compare its predictions.

`main` takes MODEL SHA256 EXAMPLE KIND, with names of trusted types behind. It returns 0, or 1 after
a line that says what is wrong; a damaged native file may crash its process or fill its memory,
which is bounded. It imports no Dagster and no MLflow, so that it is quick. Not here: fetching the
model, and whether its predictions are good.
"""

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl

from retrain_assets.specs.features import Kind
from retrain_assets.stores.registry import apart
from retrain_assets.stores.registry.model_file import ModelFileError, load_model

EXAMPLE_FILE = "example.parquet"
EXPECTED = "_expected"
TIMEOUT_SECONDS = 120.0
MAX_BYTES = 2**34  # address space of the process, most of which libraries reserve and do not use


@dataclass(frozen=True)
class CheckResult:
    """The result of loading a model elsewhere.

    Args:
        passed: Whether it gave exactly the predictions that were expected.
        detail: One sentence.
        seconds: Its duration, with the start of the process.
    """

    passed: bool
    detail: str
    seconds: float


def check_file(
    model_path: Path,
    sha256: str,
    example_path: Path,
    kind: Kind,
    trusted: Sequence[str] = (),
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> CheckResult:
    """Load a model file in a new process and compare its predictions exactly.

    Args:
        model_path: The file.
        sha256: Its digest.
        example_path: Rows and the predictions of the fitted pipeline for them, by `write_example`.
        kind: The kind of prediction.
        trusted: Types of the user that it may hold.
        timeout_seconds: The longest wait.
    """
    arguments = [str(model_path), sha256, str(example_path), kind, *trusted]
    return run_apart(__name__, arguments, timeout_seconds)


def run_apart(module: str, arguments: list[str], timeout_seconds: float) -> CheckResult:
    """Run a module of ours in a new process, which prints one line and may crash."""
    started = perf_counter()
    answer = apart.PARENT.run(module, arguments, timeout_seconds)
    code, lines = answer.code, answer.output.strip().splitlines()
    if code is None:
        return CheckResult(False, f"no answer within {timeout_seconds:g} s", timeout_seconds)
    lines = lines or [f"exit code {code}"]
    if code < 0:
        lines = [f"its process crashed by signal {-code}: the model file is damaged, restore it"]
    return CheckResult(code == 0, lines[-1], perf_counter() - started)


def prepare_check() -> None:
    """Begin with what a check needs, since it takes seconds and can be done beside a fit."""
    apart.PARENT.start()


def write_example(path: Path, example: pl.DataFrame, expected: np.ndarray) -> None:
    """Write rows of features with the predictions that are expected of them."""
    column = pl.Series(EXPECTED, expected.tolist(), strict=False)
    example.with_columns(column).write_parquet(path)


def compare_with_example(
    model: Path, sha256: str, example: Path, kind: Kind, trusted: Sequence[str] = ()
) -> str:
    """Load a model, predict and compare, in the process that was started for it.

    Returns:
        A sentence on the model, which passed.

    Raises:
        ModelFileError: It cannot be loaded, or predicts something else.
    """
    from retrain_assets.domain.model.estimator import predict
    from retrain_assets.domain.model.families.verify import verify_trees

    pipeline = load_model(model.read_bytes(), sha256, str(model.name), trusted)
    verify_trees(pipeline)  # whose damage only some rows would meet
    rows = pl.read_parquet(example)
    expected = np.array(rows[EXPECTED].to_list())
    values = predict(pipeline, kind, rows.drop(EXPECTED))
    if values.shape != expected.shape:
        raise ModelFileError(f"predictions of shape {values.shape}, expected {expected.shape}")
    differing = np.argwhere(values != expected)
    if len(differing):
        place = tuple(differing[0])
        raise ModelFileError(
            f"row {place[0]} (counted from 0) predicts {float(values[place])!r}, "
            f"expected {float(expected[place])!r}: the process differs from the one that trained"
        )
    return f"loaded, and predicted {len(values)} rows as in training"


def limit_memory() -> None:
    """Bound the memory of this process, which is to read a file that may be damaged."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(arguments: list[str]) -> int:
    """Run the command: print one line on standard output and return the exit code."""
    model, sha256, example, kind, *trusted = arguments
    limit_memory()
    try:
        line = compare_with_example(Path(model), sha256, Path(example), kind, trusted)  # type: ignore[arg-type]
        code = 0
    except Exception as error:  # noqa: BLE001 whatever a library raises of a damaged file
        line, code = " ".join(str(error).split()), 1
    sys.stdout.write(f"{line}\n")
    return code
