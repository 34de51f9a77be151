"""What the platform needs to know of a library of estimators, from the YAML to the stored file.

A family is the only place that knows its library. Nothing of a library is imported before one of
its estimators is built, fitted or loaded. Not here: the families themselves.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from retrain_assets.domain.model.trees import Ensemble
from retrain_assets.specs.model import EstimatorSpec, ModelSpec

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

LAST = "estimator"  # the name of the last step of a pipeline
PLAIN = (str, int, float, bool, type(None))
Explainer = Callable[[np.ndarray], np.ndarray]
Mistake = tuple[tuple[str | int, ...], str]


class TrainingError(ValueError):
    """A model cannot be fitted; the message names the field or column and what would do."""


class Rows(NamedTuple):
    """Rows to learn from: features as an encoder gives them, labels of shape (rows,), weights."""

    features: Any
    labels: np.ndarray
    weight: np.ndarray | None


class Layout(NamedTuple):
    """The columns of a matrix: places of the codes of categories, and names if they are known."""

    categories: tuple[int, ...]
    names: tuple[str, ...]


class Flavor(NamedTuple):
    """A flavor of MLflow: its name, the file that it reads, and what it notes of that."""

    name: str
    file: str
    notes: Mapping[str, Any]


class EstimatorFamily(ABC):
    """A library of estimators.

    Attributes:
        name: Its import name, the first part of the paths of its classes.
        title: Its name in messages.
        distributions: Packages of which one provides it, that of the extra first; the version is
            recorded with each model.
        extra: The extra of this package that installs it; empty if it is always installed.
        further_params: Arguments of its classes that their signatures do not show.
        reads_roles: Whether the bases of a class show what it predicts.
        early_stops: Whether `estimator.early_stopping` can choose the number of its rounds.
        quick_rows: Up to so many rows its trees are evaluated sooner by the service than by itself
            (`benchmarks/trees.py`).
        trusted_types: Types that a stored model of it may hold, beside those of scikit-learn.
    """

    name: str
    title: str
    distributions: tuple[str, ...]
    extra = ""
    further_params: tuple[str, ...] = ()
    reads_roles = False
    early_stops = False
    quick_rows: float = math.inf
    trusted_types: tuple[str, ...] = ()

    @property
    def is_missing(self) -> str:
        """Return a sentence for whoever has not installed it."""
        sentence = f"{self.title} is not installed: pip install 'retrain-assets[{self.extra}]'"
        return f"{sentence}, which brings {self.distributions[0]}" if self._is_double else sentence

    @property
    def clash(self) -> str:
        """Return why it cannot be used where several of its packages are installed."""
        if not self._is_double or len(self._versions) <= 1:
            return ""
        return (
            f"{' and '.join(self._versions)} are both installed, and each overwrites files of the "
            f"other: pip uninstall both, then pip install 'retrain-assets[{self.extra}]' or one of "
            "them"
        )

    @property
    def _is_double(self) -> bool:
        """Return whether several packages contain it."""
        return len(self.distributions) > 1

    @property
    def _versions(self) -> dict[str, str]:
        """Return the versions of its packages that are installed."""
        versions = {}
        for name in self.distributions:
            with suppress(metadata.PackageNotFoundError):
                versions[name] = metadata.version(name)
        return versions

    @property
    def requirement(self) -> str:
        """Return the distribution with the version that is installed, as pip takes it."""
        pinned = [f"{name}=={version}" for name, version in self._versions.items()]
        return pinned[0] if pinned else self.distributions[0]

    def find_mistakes(self, spec: ModelSpec) -> Iterator[Mistake]:
        """Yield the fields of a model that cannot work, without importing the library."""
        del spec
        return iter(())

    def find_unusable(self, spec: ModelSpec) -> Iterator[Mistake]:
        """Yield why a class whose arguments are right cannot be used, as `find_mistakes` does."""
        del spec
        return iter(())

    @abstractmethod
    def create(self, path: str) -> Any:
        """Return an unfitted estimator with default arguments.

        Raises:
            TrainingError: There is no such class.
        """

    def wrap(self, estimator: Any, threads: int, seed: int) -> Any:
        """Return an estimator of a user's function in the form in which it can be stored."""
        del threads, seed
        return estimator

    @abstractmethod
    def build(self, estimator: Any, spec: EstimatorSpec, schema: pl.Schema, seed: int) -> Pipeline:
        """Return the unfitted pipeline from a frame of features to an estimator.

        It decides how categories and missing values are given to the estimator, and sets threads
        and seeds such that the same rows give the same model bit for bit.

        Args:
            estimator: From `create`, or from a function of the user.
            spec: Its params and threads.
            schema: Names and types of the features.
            seed: Of each random state that is not set otherwise.

        Raises:
            TrainingError: The estimator does not take a parameter.
        """

    def list_params(self, estimator: Any) -> Mapping[str, Any]:
        """Return the arguments of an estimator, set and default."""
        return dict(estimator.get_params())

    def flavor(self, estimator: Any) -> Flavor | None:
        """Return MLflow's flavor of a native file; None where a pipeline has no such file."""
        del estimator
        return None

    def explains(self, path: str) -> bool:
        """Return whether the estimators of a class have SHAP values here."""
        del path
        return True

    def build_explainer(self, estimator: Any) -> Explainer:
        """Return a function from a matrix of encoded features to SHAP values.

        They have the shape (rows, outputs, features + 1) and add up to the sum before the link; the
        last is the mean over the training rows.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: There are none for it.
        """
        raise ValueError(f"{type(estimator).__name__} has no SHAP values here")

    def read_trees(self, estimator: Any) -> Ensemble:
        """Return the trees of a fitted estimator, for quick predictions.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: It has no trees, or parts that the form
                cannot hold.
        """
        raise ValueError(f"the trees of {type(estimator).__name__} cannot be read")
