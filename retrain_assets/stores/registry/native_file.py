"""Take over the native file of a library, which a team fitted elsewhere, without any pickle.

The file is read in a new process first, as a damaged one may crash the process that reads it.
There, `main` takes FILE FEATURES KIND PIPELINE. It writes the pipeline as skops and returns 0, or 1
after a line that says what is wrong. Not here: models of scikit-learn (`registry`), and what is
done with the pipeline.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from retrain_assets.domain.model.families.catalogue import FAMILIES, recognize
from retrain_assets.specs.features import Kind
from retrain_assets.stores.registry import model_check, model_file
from retrain_assets.stores.registry.model_file import ModelFileError


def find_native(folder: Path) -> bytes | None:
    """Return the native file of an MLflow model in the flavor of its library; None without one."""
    from mlflow.models import Model

    flavors = Model.load(str(folder)).flavors
    if "sklearn" in flavors:  # a pipeline knows more of the features than the native file in it
        return None
    for family in FAMILIES:
        path = (folder / str(flavors.get(family.name, {}).get("data"))).resolve()
        if path.is_file() and path.is_relative_to(folder.resolve()):
            content = path.read_bytes()
            return content if recognize(content) else None
    return None


def take_over(content: bytes, source: str, kind: Kind, features: pl.DataFrame) -> Any:
    """Return a pipeline from features of the spec to predictions of a native file.

    Raises:
        ModelFileError: It is no such file, is damaged, wants other features or predicts something
            else.
    """
    if recognize(content) is None:
        raise ModelFileError(
            f"{source} is not a native file: LightGBM's is text, XGBoost's UBJ or JSON, and "
            "CatBoost's cbm"
        )
    with TemporaryDirectory() as folder:
        native, rows, pipeline = (Path(folder) / name for name in ("native", "rows", "pipeline"))
        native.write_bytes(content)
        features.write_parquet(rows)
        arguments = [str(native), str(rows), kind, str(pipeline)]
        result = model_check.run_apart(__name__, arguments, model_check.TIMEOUT_SECONDS)
        if not result.passed:
            raise ModelFileError(f"{source} cannot be taken over: {result.detail}")
        stored = pipeline.read_bytes()
    return model_file.load_model(stored, model_file.digest(stored), source)


def main(arguments: list[str]) -> int:
    """Run the command: print one line on standard output and return the exit code."""
    model_check.limit_memory()
    native, rows, kind, pipeline = arguments
    import skops.io

    from retrain_assets.domain.model.estimator import predict
    from retrain_assets.domain.model.families.native import wrap_file

    try:
        content, features = Path(native).read_bytes(), pl.read_parquet(rows)
        wrapped = wrap_file(recognize(content), content, kind, features)  # type: ignore[arg-type]
        predict(wrapped, kind, features)  # type: ignore[arg-type]
        Path(pipeline).write_bytes(skops.io.dumps(wrapped))
    except Exception as error:  # noqa: BLE001 whatever a library raises of a damaged file
        sys.stdout.write(f"{' '.join(str(error).split())}\n")
        return 1
    sys.stdout.write("taken over\n")
    return 0
