"""One version of a model, loaded and verified before anybody is answered by it.

The digest that the ledger recorded is the only thing that is believed: a file that has it may come
from MLflow or from the copy that was kept here when it was last verified. Not here: which version,
and when to change it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.model.estimator import predict
from retrain_assets.serving.scoring.quick_model import Fast, fast
from retrain_assets.steps.decision.train import get_classes, list_missing_features
from retrain_assets.steps.features.build import read_features
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import History, LedgerRow
from retrain_assets.stores.registry.model_check import EXAMPLE_FILE, compare_with_example
from retrain_assets.stores.registry.model_file import MODEL_FILE, ModelFileError, digest, load_model
from retrain_assets.stores.registry.registry import ModelRegistry

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

TRIED = 500


class RefusedError(RuntimeError):
    """A version is not served; the message says why."""


@dataclass(frozen=True)
class Version:
    """A version that answers.

    Args:
        row: The decision that put it there.
        pipeline: The model.
        quick: Its form for a few rows, if it has one.
        how: A sentence on how it predicts.
        source: `MLflow`, or `copy` where MLflow was away.
        classes: Of a classifier, as JSON can hold them.
    """

    row: LedgerRow
    pipeline: Pipeline
    quick: Fast | None
    how: str
    source: str
    classes: list[str] | None

    @property
    def number(self) -> int:
        """The number of the version."""
        return self.row.version

    @cached_property
    def columns(self) -> list[str]:
        """The features it wants, in order."""
        return list(self.pipeline[0].columns_)

    @cached_property
    def schema(self) -> dict[str, pl.DataType]:
        """The features as it takes them."""
        texts = self.pipeline[0].categories_
        return {n: pl.String() if n in texts else pl.Float64() for n in self.columns}

    @cached_property
    def categories(self) -> list[tuple[int, str, frozenset[str]]]:
        """Place and name of each category, and its values in training."""
        known = self.pipeline[0].categories_.items()
        return [(self.columns.index(name), name, frozenset(seen)) for name, seen in known]

    def predict(self, state: ModelState, features: Sequence[Any]) -> np.ndarray:
        """Predict features, a column each, as `predict` of the domain does."""
        if self.quick is not None:
            return self.quick.predict(features)
        schema = None if isinstance(features[0], pl.Series) else self.schema
        frame = pl.DataFrame(dict(zip(self.columns, features, strict=True)), schema)
        return predict(self.pipeline, state.spec.target.kind, frame)


@dataclass(frozen=True)
class Loader:
    """Loads versions of one model.

    Args:
        state: The model.
        registry: Its versions in MLflow.
        folder: Where verified copies are kept.
    """

    state: ModelState
    registry: Callable[[], ModelRegistry]
    folder: Path

    def load(self, row: LedgerRow) -> Version:
        """A version that was verified.

        Raises:
            RefusedError: Its file is not the one that was recorded, it predicts something else than
                in training, or the spec no longer makes its features.
        """
        try:
            source = self._fetched(row)
            return self._verified(row, source)
        except Exception as error:  # any doubt: the version that answers stays
            raise RefusedError(
                f"model {self.state.spec.name} version {row.version} is not served: {error}"
            ) from error

    def forget(self, history: History) -> None:
        """Remove copies of what is neither in production, nor was before it, nor came last."""
        row, last = history.production, history.rows[-1]
        wanted = {row.version, row.previous, last.version} if row else set()
        kept = {found.sha256 for found in history.rows if found.version in wanted}
        gone = {found.sha256 for found in history.rows} - kept
        for copy in self.folder.iterdir():  # there are other models' copies too
            if copy.name in gone:
                shutil.rmtree(copy, ignore_errors=True)

    def _fetched(self, row: LedgerRow) -> str:
        """Bring the files here. Only where MLflow gives no answer, the copy does."""
        copy = self._place(row)
        try:
            registry = self.registry()
            found = registry.version(row.version)
            content = registry.file(found.uri, MODEL_FILE)
            example = registry.file(found.uri, f"extra_files/{EXAMPLE_FILE}")
        except ModelFileError:
            raise
        except Exception as error:
            if not (copy / MODEL_FILE).exists():
                raise ModelFileError(f"MLflow gives no answer ({error}), no copy here") from error
            return "copy"
        if digest(content) != row.sha256:
            load_model(content, row.sha256, f"version {row.version}")
        copy.mkdir(parents=True, exist_ok=True)
        for name, written in ((EXAMPLE_FILE, example), (MODEL_FILE, content)):
            part = copy / f"{name}.part"
            part.write_bytes(written)
            part.replace(copy / name)
        return "MLflow"

    def _verified(self, row: LedgerRow, source: str) -> Version:
        state, kind, copy = self.state, self.state.spec.target.kind, self._place(row)
        model = copy / MODEL_FILE
        compare_with_example(model, row.sha256, copy / EXAMPLE_FILE, kind)
        pipeline = load_model(model.read_bytes(), row.sha256, f"version {row.version}")
        if missing := list_missing_features(state, pipeline):
            raise ModelFileError(f"the spec no longer makes {', '.join(missing)}: retrain")
        quick, how = fast(pipeline, kind, self._stored())
        classes = get_classes(pipeline)
        named = None if classes is None else [str(found) for found in classes]
        return Version(row, pipeline, quick, how, source, named)

    def _stored(self) -> pl.DataFrame:
        """Stored rows of features, the newest ones."""
        keys = sorted(self.state.built())[-3:]
        return read_features(self.state, keys).select(self.state.feature_names).tail(TRIED)

    def _place(self, row: LedgerRow) -> Path:
        return self.folder / row.sha256
