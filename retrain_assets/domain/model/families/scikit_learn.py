"""scikit-learn: its own estimators, and the functions of users that combine estimators.

A stored model is a skops file. To build one runs no code that the file names, since the types that
are loaded were reviewed one by one (`stores.registry.model_file`). Not here: other libraries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.model.families.family import (
    LAST,
    EstimatorFamily,
    Mistake,
    TrainingError,
)
from retrain_assets.specs.base import hint
from retrain_assets.specs.model import EstimatorSpec, ModelSpec

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline

# The argument and its values with which a classifier gives probabilities, which is not the default.
_PROBABLE: dict[str, tuple[str, tuple[Any, ...]]] = {
    "NuSVC": ("probability", (True,)),
    "SGDClassifier": ("loss", ("log_loss", "modified_huber")),
    "SVC": ("probability", (True,)),
}
_SEVERAL = "predicts several targets at once, and a model has one"
_UNFIT = {
    **dict.fromkeys(("CCA", "MultiTaskElasticNet", "MultiTaskElasticNetCV"), _SEVERAL),
    **dict.fromkeys(("MultiTaskLasso", "MultiTaskLassoCV", "PLSCanonical"), _SEVERAL),
    "CategoricalNB": "takes categories as whole numbers, and gets them one-hot encoded",
    "IsotonicRegression": "takes a single feature",
}


class ScikitLearn(EstimatorFamily):
    """The estimators of scikit-learn.

    HistGradientBoosting takes categories and missing values as they are. For any other estimator
    categories are one-hot encoded (missing is a category if it was there in training, otherwise
    none), numbers imputed by the median and standardised. An estimator with a ColumnTransformer
    that selects columns by name gets the features as a pandas frame, and prepares them itself.
    """

    name, title, distributions = "sklearn", "scikit-learn", ("scikit-learn",)
    reads_roles = True

    def find_unusable(self, spec: ModelSpec) -> Iterator[Mistake]:
        """Yield classes that cannot be fitted here, or give no probabilities by these arguments."""
        path, search = spec.estimator.class_ or "", spec.estimator.search
        name = path.rpartition(".")[2]
        if reason := _UNFIT.get(name):
            yield ("estimator", "class"), f"{path} {reason}: choose another"
        argument, values = _PROBABLE.get(name, ("", ()))
        is_searched = search is not None and argument in search.params
        if argument and not is_searched and spec.estimator.params.get(argument) not in values:
            needed = " or ".join(json.dumps(value) for value in values)
            yield (
                ("estimator", "class"),
                f"{path} gives probabilities only with params: {{{argument}: {needed}}}",
            )

    def create(self, path: str) -> BaseEstimator:
        """Return an unfitted estimator by the name of its class."""
        from sklearn.base import BaseEstimator

        module, _, name = path.rpartition(".")
        try:
            estimator = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            raise TrainingError(f"estimator.class: scikit-learn has no {path}") from None
        inside = isinstance(estimator, type) and estimator.__module__.startswith("sklearn.")
        if not (inside and issubclass(estimator, BaseEstimator)):
            raise TrainingError(f"estimator.class: {path} is no estimator of scikit-learn")
        try:
            return estimator()
        except TypeError as error:
            raise TrainingError(
                f"estimator.class: {error}: build it in a function and name that in "
                "estimator.python"
            ) from error

    def build(self, estimator: Any, spec: EstimatorSpec, schema: pl.Schema, seed: int) -> Pipeline:
        """Return encoder, whatever the estimator needs between, and the estimator."""
        from sklearn.pipeline import Pipeline

        from retrain_assets.domain.encoder import MAX_CATEGORIES, FrameColumns, FrameEncoder
        from retrain_assets.domain.encoder import is_category as is_text

        accepted = estimator.get_params()
        prepared = _set_params(estimator, accepted, spec, seed)
        if _selects_by_name(prepared):
            return Pipeline([("encode", FrameColumns()), (LAST, prepared)])
        categories = [place for place, dtype in enumerate(schema.values()) if is_text(dtype)]
        bins = spec.params.get("max_bins", accepted.get("max_bins"))
        most = min(MAX_CATEGORIES, bins) if isinstance(bins, int) else MAX_CATEGORIES
        steps: list[tuple[str, Any]] = [("encode", FrameEncoder(most))]
        if "categorical_features" in accepted:
            if "categorical_features" not in spec.params:
                prepared.set_params(categorical_features=categories or None)
        else:
            numbers = [place for place in range(len(schema)) if place not in categories]
            steps.append(("prepare", _preparation(categories, numbers)))
        return Pipeline([*steps, (LAST, prepared)])


def _set_params(estimator: Any, accepted: dict[str, Any], spec: EstimatorSpec, seed: int) -> Any:
    for name in set(spec.params).difference(accepted):
        raise TrainingError(
            f"estimator.params: {type(estimator).__name__} takes no {name!r}{hint(name, accepted)}"
        )
    unset = [name for name, value in accepted.items() if value is None]
    seeds: dict[str, Any] = {
        name: seed for name in unset if name.rpartition("__")[2] == "random_state"
    }
    return estimator.set_params(**{**seeds, **spec.params})


def _selects_by_name(estimator: BaseEstimator) -> bool:
    """Return whether a ColumnTransformer within an estimator needs a frame with column names."""
    from sklearn.compose import ColumnTransformer

    transformers = [
        transformer
        for part in (estimator, *estimator.get_params().values())
        if isinstance(part, ColumnTransformer)
        for transformer in part.transformers
    ]
    return any(
        callable(columns) or (np.size(columns) and isinstance(np.ravel(columns)[0], str))
        for _, _, columns in transformers
    )


def _preparation(categories: list[int], numbers: list[int]) -> BaseEstimator:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    imputer = SimpleImputer(strategy="median", keep_empty_features=True)
    return ColumnTransformer(
        [
            ("categories", OneHotEncoder(handle_unknown="ignore"), categories),
            ("numbers", make_pipeline(imputer, StandardScaler()), numbers),
        ]
    )
