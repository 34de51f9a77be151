"""scikit-learn: its own estimators, and the functions of users that combine estimators.

A stored model is a skops file. To build one runs no code that the file names, since the types that
are loaded were reviewed one by one (`stores.registry.model_file`). Not here: other libraries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.model import trees
from retrain_assets.domain.model.families.family import (
    LAST,
    EstimatorFamily,
    Explainer,
    Mistake,
    TrainingError,
)
from retrain_assets.domain.model.tree_shap import TreeShap
from retrain_assets.domain.model.trees import CODES, Ensemble, Leaf, Question
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
            raise TrainingError(f"estimator.class: {path} is not an estimator of scikit-learn")
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

        _name_last_estimators(estimator)
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

    def explains(self, path: str) -> bool:
        """Return whether a class has SHAP values: those of HistGradientBoosting."""
        return path.rpartition(".")[2].startswith("HistGradientBoosting")

    def build_explainer(self, estimator: Any) -> Explainer:
        """Return a function to SHAP values of HistGradientBoosting."""
        return TreeShap(self.read_trees(estimator))

    def read_trees(self, estimator: Any) -> Ensemble:
        """Return the trees of a fitted estimator; see `read_ensemble`."""
        return read_ensemble(estimator)


def _set_params(estimator: Any, accepted: dict[str, Any], spec: EstimatorSpec, seed: int) -> Any:
    for name in (name for name in spec.params if name not in accepted):
        raise TrainingError(
            f"estimator.params: {type(estimator).__name__} takes no {name!r}{hint(name, accepted)}"
        )
    unset = [name for name, value in accepted.items() if value is None]
    seeds: dict[str, Any] = {
        name: seed for name in unset if name.rpartition("__")[2] == "random_state"
    }
    return estimator.set_params(**{**seeds, **spec.params})


def _name_last_estimators(estimator: Any) -> None:
    """Set the default of a stacking, which shows that it gives probabilities only if it is set."""
    from sklearn.ensemble import StackingClassifier
    from sklearn.linear_model import LogisticRegression

    for part in (estimator, *estimator.get_params().values()):
        if isinstance(part, StackingClassifier) and part.final_estimator is None:
            part.set_params(final_estimator=LogisticRegression())


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


def read_ensemble(model: Any) -> Ensemble:
    """Return the trees of a HistGradientBoosting, which depends on private parts of it.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: The model has other parts than expected.
    """
    columns, outputs = model._n_features, model.n_trees_per_iteration_  # noqa: SLF001
    is_category = model.is_categorical_
    if is_category is None:
        is_category = np.zeros(columns, bool)
    # The model moves its categories before its numbers.
    order = np.argsort(~is_category, kind="stable")
    codes = _list_sklearn_codes(model, order[: int(is_category.sum())].tolist())
    bitsets, places = model._bin_mapper.make_known_categories_bitsets()  # noqa: SLF001

    def read(tree: Any, node: Any) -> tuple[Question, Any, Any] | Leaf:
        if node["is_leaf"]:
            return Leaf(float(node["value"]), int(node["count"]))
        place, missing_left = int(node["feature_idx"]), bool(node["missing_go_to_left"])
        question = Question(int(order[place]), float(node["num_threshold"]), missing_left)
        if node["is_categorical"]:
            lefts = _unpack(tree.raw_left_cat_bitsets[node["bitset_idx"]])
            lefts |= missing_left & ~_unpack(bitsets[places[place]])
            flags = np.append(lefts, missing_left)[codes[place]]
            question = question._replace(categories=np.append(flags, [missing_left] * 2))
        return question, tree.nodes[node["left"]], tree.nodes[node["right"]]

    ensemble = [
        trees.flatten(tree.nodes[0], partial(read, tree))
        for iteration in model._predictors  # noqa: SLF001
        for tree in iteration
    ]
    loss, several = model._loss, outputs > 1  # noqa: SLF001

    def link(raw: np.ndarray) -> np.ndarray:
        # `predict_proba` of two classes would give both columns.
        return np.asarray(loss.predict_proba(raw) if several else loss.link.inverse(raw[:, 0]))

    base = np.ravel(model._baseline_prediction)  # noqa: SLF001
    return Ensemble(ensemble, columns, outputs, base, link)


def _list_sklearn_codes(model: Any, categories: Sequence[int]) -> list[np.ndarray]:
    """Return of each category the model's own code of each code; CODES for none."""
    codes = []
    for place, column in enumerate(categories):
        rows = np.zeros((CODES, model._n_features))  # noqa: SLF001
        rows[:, column] = np.arange(CODES)
        inner = model._preprocess_X(rows, reset=False)[:, place]  # noqa: SLF001
        codes.append(np.where(np.isnan(inner), CODES, inner).astype(int))
    return codes


def _unpack(words: np.ndarray) -> np.ndarray:
    """Return the bits of words, the lowest first."""
    return np.unpackbits(np.asarray(words, "<u4").view("u1"), bitorder="little").astype(bool)
