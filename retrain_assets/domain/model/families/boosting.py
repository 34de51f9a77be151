"""What LightGBM, XGBoost and CatBoost have in common: boosted trees with a native file.

Categories are given as codes of `FrameEncoder`, missing values as NaN; the trees take both as they
are. Not here: what differs between the three.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import polars as pl

from retrain_assets.domain.model.families.family import (
    LAST,
    EstimatorFamily,
    Mistake,
    Rows,
    TrainingError,
)
from retrain_assets.specs.base import hint
from retrain_assets.specs.model import EstimatorSpec, ModelSpec

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

RANKING = "it ranks rows within groups, but each row is predicted alone here"
SURVIVAL = "it needs times at which a row was still observed, which a target here does not hold"
SEVERAL = "it gives several values for a row, but a target here is one value"
NO_PROBABILITIES = "it gives no probabilities"
THREADS = "estimator.threads sets it"
OF_THE_PLATFORM = "the platform sets it"
EARLY_STOPPING = "estimator.early_stopping sets it"
NO_FILES = "a fit reads and writes no files"
NOT_REPRODUCIBLE = "only a fit on the CPU gives the same model again"
_NO_ARGUMENTS = {"self", "args", "kwargs"}
_ROLES = {"regression": "regressor"}


class Description(NamedTuple):
    """The description of a native file.

    Args:
        objective: The objective of its fit.
        names: Names of its features, in order.
        categories: Of each feature with categories, the texts that its codes stand for.
        classes: The names of classes in the order of its outputs, if it holds them.
    """

    objective: str
    names: list[str]
    categories: dict[str, list[str]]
    classes: tuple[str, ...] = ()


class BoostingFamily(EstimatorFamily):
    """A library of boosted trees.

    Attributes:
        roles: What each class predicts, by its name.
        refused_classes: Why other classes cannot be used, by name.
        objectives: The objectives that each role may have.
        refused_objectives: Why others cannot be used, by their beginning.
        objective_params: The names that the argument of the objective has.
        refused_params: Why arguments cannot be set, by name.
        rounds_params: The names that the number of rounds has, the usual one first.
        seed_params: The names that the seed has, the usual one first.
        threads_param: The name of the number of threads.
        fixed_params: Arguments that make a fit reproducible and silent.
        error: The library's own exception.
        beginnings: The first bytes of its native files.
    """

    roles: ClassVar[Mapping[str, str]]
    refused_classes: ClassVar[Mapping[str, str]]
    objectives: ClassVar[Mapping[str, tuple[str, ...]]]
    refused_objectives: ClassVar[Mapping[str, str]]
    objective_params: tuple[str, ...] = ("objective",)
    refused_params: ClassVar[Mapping[str, str]]
    rounds_params: tuple[str, ...] = ("n_estimators",)
    seed_params: tuple[str, ...] = ("random_state",)
    threads_param = "n_jobs"
    fixed_params: ClassVar[Mapping[str, Any]] = {}
    error: str
    beginnings: tuple[bytes, ...]
    early_stops = True
    trusted_types = (
        "retrain_assets.domain.model.families.native.NativeClassifier",
        "retrain_assets.domain.model.families.native.NativeRegressor",
    )

    @abstractmethod
    def fit(self, estimator: Any, rows: Rows) -> Any:
        """Fit the class of a native estimator; labels are codes of classes, or numbers."""

    @abstractmethod
    def choose_rounds(self, estimator: Any, rows: Rows, newer: Rows, patience: int) -> int:
        """Return the number of rounds after which newer rows are predicted best; 0 for none."""

    @abstractmethod
    def dump(self, model: Any) -> bytes:
        """Return the native file of a model, the same bytes for the same model."""

    @abstractmethod
    def load(self, content: bytes, path: str) -> Any:
        """Read a native file. It may crash on a damaged one, so a child process tries it first."""

    @abstractmethod
    def describe(self, model: Any) -> Description:
        """Return what a model says of itself.

        Raises:
            TrainingError: Its categories cannot be given as it knows them.
        """

    @abstractmethod
    def list_split_features(self, model: Any) -> Iterable[int]:
        """Return the place of the feature of each split, by walking over every node of each tree.

        A tree that is no tree, in a damaged file, ends here and not at the row that reaches it.
        """

    @abstractmethod
    def predict(self, estimator: Any, matrix: np.ndarray) -> np.ndarray:
        """Predict rows with one thread.

        Returns:
            Of a regressor the value, of shape (rows,); of a classifier the probability of its
            second class, of shape (rows,), or of all classes, of shape (rows, classes).
        """

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise the library's own exception as a `ValueError`."""
        library = self._import()
        try:
            yield
        except attrgetter(self.error)(library) as error:
            reason = str(error).partition("Stack trace")[0]
            raise ValueError(" ".join(reason.split())[:500]) from error

    def find_mistakes(self, spec: ModelSpec) -> Iterator[Mistake]:
        """Yield what the class, its objective and its arguments show to be impossible."""
        path, kind = spec.estimator.class_ or "", spec.target.kind
        loc, role = ("estimator", "class"), _ROLES.get(kind, "classifier")
        if reason := self.refuse_class(path):
            yield loc, reason
        elif self.roles[_class_name(path)] != role:
            yield loc, f"{path} is not a {role}, which target.kind {kind} needs"
        else:
            for name, reason in self.refuse_params(path, spec.estimator.params):
                yield ("estimator", "params", name), reason

    def refuse_class(self, path: str) -> str:
        """Return why a class cannot be used; empty if it can."""
        name = _class_name(path)
        if name in self.refused_classes:
            return f"{path} cannot be used: {self.refused_classes[name]}"
        if path != f"{self.name}.{name}" or name not in self.roles:
            paths = [f"{self.name}.{name}" for name in self.roles]
            return f"{self.title} has no {path} that can be used{hint(path, paths)}"
        return ""

    def refuse_params(self, path: str, params: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield the arguments that cannot be used, with the reason."""
        offered = self.objectives[self.roles[_class_name(path)]]
        for name, value in params.items():
            if name in self.refused_params:
                yield name, f"{name} cannot be set: {self.refused_params[name]}"
            elif name in self.objective_params and value is not None:
                objective = str(value).partition(":")[0] if ":" not in offered[0] else str(value)
                if objective not in offered:
                    beginnings = self.refused_objectives.items()
                    reasons = (why for start, why in beginnings if objective.startswith(start))
                    reason = next(reasons, f"it may be {', '.join(offered)}")
                    yield name, f"{value!r} cannot be used: {reason}"

    def create(self, path: str) -> Any:
        """Return an unfitted estimator that keeps the native file of its class."""
        from retrain_assets.domain.model.families.native import NativeClassifier, NativeRegressor

        if reason := self.refuse_class(path):
            raise TrainingError(f"estimator.class: {reason}")
        self._import()
        is_regressor = self.roles[_class_name(path)] == "regressor"
        return (NativeRegressor if is_regressor else NativeClassifier)(path, {})

    def wrap(self, estimator: Any, threads: int, seed: int) -> Any:
        """Return the estimator that keeps the native file in place of the library's own object."""
        if hasattr(estimator, "path"):
            return estimator
        native = self.create(f"{self.name}.{type(estimator).__name__}")
        params = {name: v for name, v in estimator.get_params().items() if v is not None}
        objective = {name: v for name, v in params.items() if name in self.objective_params}
        for name, reason in self.refuse_params(native.path, objective):
            raise TrainingError(f"estimator.python: {name}: {reason}")
        return native.set_params(params=self.complete(params, threads, seed))

    def build(self, estimator: Any, spec: EstimatorSpec, schema: pl.Schema, seed: int) -> Pipeline:
        """Return encoder and estimator, as the trees take categories and missing values."""
        from sklearn.pipeline import Pipeline

        from retrain_assets.domain.encoder import FrameEncoder, is_category

        accepted = self.list_accepted(estimator.path)
        for name in (name for name in spec.params if name not in accepted):
            raise TrainingError(
                f"estimator.params: {_class_name(estimator.path)} takes no {name!r}"
                f"{hint(name, accepted)}"
            )
        for name, reason in self.refuse_params(estimator.path, spec.params):
            raise TrainingError(f"estimator.params.{name}: {reason}")
        estimator.set_params(
            params=self.complete(estimator.params | spec.params, spec.threads, seed),
            categories=[place for place, item in enumerate(schema.values()) if is_category(item)],
            names=list(schema),
        )
        return Pipeline([("encode", FrameEncoder()), (LAST, estimator)])

    def complete(self, params: dict[str, Any], threads: int, seed: int) -> dict[str, Any]:
        """Return params with all that makes a fit reproducible: threads, seed, fixed arguments."""
        seeds = {} if {*self.seed_params} & params.keys() else {self.seed_params[0]: seed}
        return {**params, **seeds, **self.fixed_params, self.threads_param: threads}

    def set_rounds(self, params: Mapping[str, Any], rounds: int) -> dict[str, Any]:
        """Return params with another number of rounds."""
        others = {n: value for n, value in params.items() if n not in self.rounds_params}
        return {**others, self.rounds_params[0]: rounds}

    def list_params(self, estimator: Any) -> Mapping[str, Any]:
        """Return the arguments of the library's class, set and default."""
        return {**self._class(estimator.path)().get_params(), **estimator.params}

    def _class(self, path: str) -> Any:
        return getattr(self._import(), _class_name(path))

    def _import(self) -> Any:
        try:
            return import_module(self.name)
        except ImportError as error:
            raise TrainingError(f"estimator: {self.is_missing} ({error})") from error
        except OSError as error:  # such as of libgomp.so.1, which slim systems leave out
            raise TrainingError(
                f"estimator: {self.title} lacks a library of the system ({error}): install that, "
                "such as by apt-get install libgomp1"
            ) from error

    def list_accepted(self, path: str) -> list[str]:
        """Return the names of the arguments that a class takes."""
        signatures = [inspect.signature(item.__init__) for item in self._class(path).__mro__[:-1]]
        names = dict.fromkeys(name for item in signatures for name in item.parameters)
        return [name for name in (*names, *self.further_params) if name not in _NO_ARGUMENTS]


def _class_name(path: str) -> str:
    return path.rpartition(".")[2]


def by_place(value: Any, names: tuple[str, ...]) -> list[int]:
    """Return monotone constraints, by name of a feature or by place, in the order of the features.

    Raises:
        TrainingError: They name no feature, or are neither mapping nor list.
    """
    if isinstance(value, list | tuple):
        return [*value]
    if not isinstance(value, Mapping):
        raise TrainingError(
            "estimator.params.monotone_constraints: give a mapping from features to 1 (rising) or "
            f"-1 (falling), not {value!r}"
        )
    if wrong := [name for name in value if name not in names]:
        raise TrainingError(
            f"estimator.params.monotone_constraints: {wrong[0]!r} is not a feature"
            f"{hint(wrong[0], names)}"
        )
    return [int(value.get(name, 0)) for name in names]


def places_of(groups: Any, names: tuple[str, ...]) -> Any:
    """Return groups of features, by name or place, as groups of places."""
    return [[names.index(item) if item in names else item for item in group] for group in groups]
