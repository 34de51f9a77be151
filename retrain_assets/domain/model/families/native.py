"""An estimator of another library as the last step of a pipeline, held as the library's own file.

The library's own object exists only in memory. What is stored is the native file, which holds
numbers and names and no code. Importing this imports scikit-learn, so it is imported only where
models are fitted or loaded. The paths of these classes are written into stored models. Not here:
what differs between the libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.pipeline import Pipeline

from retrain_assets.domain.encoder import FrameEncoder, is_category
from retrain_assets.domain.model.families.family import LAST, Layout, Rows, TrainingError
from retrain_assets.specs.features import Kind

# By name, since the families that it lists build the classes of this module.
CATALOGUE = "retrain_assets.domain.model.families.catalogue"


_ZERO_AND_ONE = (("0", "1"), ("0.0", "1.0"), ("False", "True"))


class NativeEstimator(BaseEstimator):  # type: ignore[misc]  # untyped base
    """A model of boosted trees that keeps its native file.

    Args:
        path: The class, such as `lightgbm.LGBMClassifier`.
        params: Its arguments, apart from those that `BoostingFamily` sets.
        categories: Places of the features that are codes of categories.
        names: Names of the features, if they are known; params may name features by these.

    Attributes:
        native_: The native file.
        n_features_in_: Number of features.
    """

    native_: bytes

    def __init__(
        self,
        path: str,
        params: dict[str, Any] | None = None,
        categories: list[int] | None = None,
        names: list[str] | None = None,
    ) -> None:
        self.path, self.params, self.categories, self.names = path, params, categories, names

    @property
    def family(self) -> Any:
        """Return the `BoostingFamily` of the class."""
        return import_module(CATALOGUE).find_family(self.path)

    @property
    def layout(self) -> Layout:
        """Return what the columns of the matrix are."""
        return Layout(tuple(self.categories or ()), tuple(self.names or ()))

    @property
    def model(self) -> Any:
        """Return the library's own object, which is read from the native file when first used."""
        if "_model" not in self.__dict__:
            self._model = self.family.load(self.native_, self.path)
        return self._model

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments; a deep answer has those of the library's class as well."""
        arguments: dict[str, Any] = super().get_params(deep=False)
        if not deep:
            return arguments
        family = self.family
        names = [n for n in family.list_accepted(self.path) if n not in family.seed_params]
        accepted = dict.fromkeys(names)  # without other names of the seed, which is always set
        return {**accepted, **family.list_params(self), **arguments}

    def set_params(self, **params: Any) -> NativeEstimator:
        """Set arguments, those of the library's class as well."""
        arguments = self.get_params(deep=False)
        mine = {name: params.pop(name) for name in arguments if name in params}
        self.__dict__.update(mine)
        self.params = {**(self.params or {}), **params}
        return self

    def fit(self, features: Any, labels: Any, sample_weight: Any = None) -> NativeEstimator:
        """Fit it and keep the native file.

        Args:
            features: Matrix of shape (rows, features), NaN where a value is missing.
            labels: Of shape (rows,).
            sample_weight: Of shape (rows,), or None.

        Raises:
            ValueError: The library refuses params or rows.
        """
        weight = None if sample_weight is None else np.asarray(sample_weight)
        rows = Rows(_to_matrix(features), self._learn_labels(np.asarray(labels)), weight)
        self.n_features_in_ = rows.features.shape[1]
        family = self.family
        with family.errors():
            model = family.fit(self, rows)
            self.native_ = family.dump(model)
        self.__dict__.pop("_model", None)
        return self

    def choose_rounds(self, older: Rows, newer: Rows, patience: int) -> int:
        """Return the number of rounds after which newer rows are predicted best.

        Args:
            older: Rows to fit on.
            newer: Rows to judge each round on.
            patience: The fit stops after so many rounds without a better one.

        Raises:
            TrainingError: No round is better than none, or the rows do not do.
            ValueError: The library refuses params or rows.
        """
        fitted = Rows(_to_matrix(older.features), self._learn_labels(older.labels), older.weight)
        judging = Rows(_to_matrix(newer.features), self._encode(newer.labels), newer.weight)
        family = self.family
        with family.errors():
            rounds: int = family.choose_rounds(self, fitted, judging, patience)
        if rounds < 1:
            raise TrainingError(
                "estimator.early_stopping: no number of rounds predicts the newer rows better than "
                "none: leave it out or change params"
            )
        return rounds

    def verify(self) -> None:
        """Walk over the trees of the native file.

        Raises:
            ValueError: They are no trees over the features of the fit. A file that is damaged in
                another way may crash the process.
        """
        family, places = self.family, range(self.n_features_in_)
        if reason := family.refuse_class(self.path):
            raise ValueError(reason)
        with family.errors():
            wrong = [n for n in family.list_split_features(self.model) if n not in places]
        if wrong:
            raise ValueError(f"a tree asks for feature {wrong[0]} of {self.n_features_in_}")

    def _learn_labels(self, labels: np.ndarray) -> np.ndarray:
        return self._encode(labels)

    def _encode(self, labels: np.ndarray) -> np.ndarray:
        return np.asarray(labels, dtype=np.float64)

    def _raw(self, features: Any) -> np.ndarray:
        output: np.ndarray = self.family.predict(self, _to_matrix(features))
        return output

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "native_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.sparse = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return what is stored; the native file as an array, since skops names it by its place."""
        state = {name: value for name, value in self.__dict__.items() if name != "_model"}
        if "native_" in state:
            state["native_"] = np.frombuffer(state["native_"], np.uint8)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what was stored."""
        self.__dict__.update(state)
        if "native_" in state:
            self.native_ = np.asarray(state["native_"]).tobytes()


class NativeClassifier(ClassifierMixin, NativeEstimator):  # type: ignore[misc]
    """A classifier of another library.

    Attributes:
        classes_: The labels, sorted.
    """

    classes_: np.ndarray

    def choose_rounds(self, older: Rows, newer: Rows, patience: int) -> int:
        """Return the number of rounds; newer rows of a class that older rows lack do not count."""
        counts = np.isin(newer.labels, older.labels)
        if np.unique(older.labels).size == 1 or not counts.any():
            raise TrainingError(
                "estimator.early_stopping: the older training rows have only one class, or none of "
                "the classes of the newer rows: use a longer windows.train"
            )
        weight = None if newer.weight is None else newer.weight[counts]
        usable = Rows(newer.features[counts], newer.labels[counts], weight)
        return super().choose_rounds(older, usable, patience)

    def _learn_labels(self, labels: np.ndarray) -> np.ndarray:
        self.classes_ = np.unique(labels)
        return self._encode(labels)

    def _encode(self, labels: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.classes_, labels).astype(np.int64)

    def predict_proba(self, features: Any) -> np.ndarray:
        """Return probabilities of shape (rows, classes), in the order of `classes_`."""
        output = self._raw(features)
        return np.column_stack([1.0 - output, output]) if output.ndim == 1 else output

    def predict(self, features: Any) -> np.ndarray:
        """Return the most likely class of each row."""
        labels: np.ndarray = self.classes_[self.predict_proba(features).argmax(axis=1)]
        return labels


class NativeRegressor(RegressorMixin, NativeEstimator):  # type: ignore[misc]
    """A regressor of another library."""

    def predict(self, features: Any) -> np.ndarray:
        """Return the value of each row."""
        return self._raw(features)


def wrap_file(family: Any, content: bytes, kind: Kind, features: pl.DataFrame) -> Pipeline:
    """Put a native file that was fitted elsewhere behind an encoder of the features of the spec.

    Args:
        family: The `BoostingFamily` that reads it.
        content: The file.
        kind: What it is to predict.
        features: Rows as the spec makes them.

    Raises:
        TrainingError: It wants other features, or predicts something else.
        ValueError: The library refuses it.
    """
    role = "regressor" if kind == "regression" else "classifier"
    name = next(name for name, value in family.roles.items() if value == role)
    estimator: NativeEstimator = family.create(f"{family.name}.{name}")
    with family.errors():
        model = family.load(content, estimator.path)
        about = family.describe(model)
    if about.objective not in family.objectives[role]:
        raise TrainingError(f"its objective is {about.objective}, which is not of a {role}")
    encoder = _encoder_of(about, features)
    places = [place for place, name in enumerate(about.names) if name in about.categories]
    estimator.set_params(categories=places, names=about.names)
    estimator.native_, estimator.n_features_in_ = family.dump(model), len(about.names)
    estimator.verify()
    if isinstance(estimator, NativeClassifier):
        estimator.classes_ = _classes_of(about, kind)
        outputs = estimator.predict_proba(encoder.transform(features[:1])).shape[1]
        if outputs != len(estimator.classes_):
            raise TrainingError(f"it predicts {outputs} classes, target.kind binary needs 2")
    return Pipeline([("encode", encoder), (LAST, estimator)])


def _classes_of(about: Any, kind: Kind) -> np.ndarray:
    """Return the labels of the outputs of a file.

    Raises:
        TrainingError: It does not name them, or names others than the kind needs.
    """
    if kind == "multiclass":
        if not about.classes:
            raise TrainingError(
                "native files of LightGBM and XGBoost do not hold the names of classes: fit the "
                "model here"
            )
        return np.array(about.classes, dtype=np.str_)
    if about.classes and about.classes not in _ZERO_AND_ONE:
        names = ", ".join(about.classes)
        raise TrainingError(f"its classes are {names}, target.kind binary needs 0 and 1")
    return np.array([0, 1])


def _encoder_of(about: Any, features: pl.DataFrame) -> FrameEncoder:
    """Return an encoder that gives features and categories the places they have in a file."""
    if missing := [name for name in about.names if name not in features.columns]:
        raise TrainingError(
            f"it needs {', '.join(missing)}, but `features` of the YAML does not make them"
        )
    for name in about.names:
        if is_category(features.schema[name]) != (name in about.categories):
            raise TrainingError(f"{name} is text in only one of the two: the YAML, and the model")
    encoder = FrameEncoder().fit(features.select(about.names))
    encoder.categories_, encoder.empty_ = about.categories, []
    return encoder


def _to_matrix(features: Any) -> np.ndarray:
    matrix = features.toarray() if hasattr(features, "toarray") else features
    return np.ascontiguousarray(matrix, dtype=np.float64)
