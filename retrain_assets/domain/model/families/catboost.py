"""CatBoost: its native file is cbm, a flat buffer that holds no code; `cbm` looks through it.

A fit on the CPU is equal bit for bit for one number of threads and one seed; the time of the fit
and a random identity, which it would write into the file, are left out. CatBoost computes with
32-bit floats. Not here: what it shares with the other libraries of boosted trees.
"""

import json
from collections.abc import Mapping
from functools import partial
from itertools import chain
from tempfile import NamedTemporaryFile
from typing import Any, ClassVar

import numpy as np

from retrain_assets.domain.model import trees
from retrain_assets.domain.model.families import boosting, cbm
from retrain_assets.domain.model.families.boosting import BoostingFamily, Description
from retrain_assets.domain.model.families.family import (
    Explainer,
    Flavor,
    Layout,
    Rows,
    TrainingError,
)
from retrain_assets.domain.model.trees import Ensemble, Leaf, Link, Question, Split, Tree

_FILES = (
    *("allow_writing_files", "input_borders", "output_borders", "save_snapshot", "snapshot_file"),
    *("snapshot_interval", "train_dir"),
)
_BY_PLATFORM = (
    *("verbose", "silent", "logging_level", "cat_features", "class_names", "classes_count"),
    *("text_features", "embedding_features", "metadata", "use_best_model", "ignored_features"),
)
_REFUSED = {
    "thread_count": boosting.THREADS,
    "early_stopping_rounds": boosting.EARLY_STOPPING,
    "od_type": boosting.EARLY_STOPPING,
    "od_wait": boosting.EARLY_STOPPING,
    "od_pval": boosting.EARLY_STOPPING,
    "eval_fraction": boosting.EARLY_STOPPING,
    "callback": "a function cannot be stored",
    "task_type": boosting.NOT_REPRODUCIBLE,
    "devices": boosting.NOT_REPRODUCIBLE,
    **dict.fromkeys(_FILES, boosting.NO_FILES),
    **dict.fromkeys(_BY_PLATFORM, boosting.OF_THE_PLATFORM),
}
_VOLATILE = ("model_guid", "train_finish_time")
_MISSING = -1.0  # the code of a missing category
Floats = Mapping[int, Mapping[str, Any]]  # the description of each feature that is a number


class CatBoost(BoostingFamily):
    """The classifier and the regressor of CatBoost."""

    name, title, extra = "catboost", "CatBoost", "catboost"
    quick_rows = 200  # it walks trees that ask the same of each node for many rows together
    distributions = ("catboost",)
    roles: ClassVar = {"CatBoostClassifier": "classifier", "CatBoostRegressor": "regressor"}
    refused_classes: ClassVar = {
        "CatBoostRanker": boosting.RANKING,
        "CatBoost": "use CatBoostClassifier or CatBoostRegressor",
    }
    objectives: ClassVar = {
        "classifier": ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll", "Focal"),
        "regressor": (
            *("RMSE", "MAE", "Quantile", "LogLinQuantile", "Poisson", "MAPE", "Lq", "Huber"),
            *("Expectile", "Tweedie", "LogCosh"),
        ),
    }
    refused_objectives: ClassVar = {
        **dict.fromkeys(("YetiRank", "PairLogit", "Query", "StochasticRank"), boosting.RANKING),
        **dict.fromkeys(("LambdaMart", "StochasticFilter", "GroupQuantile"), boosting.RANKING),
        **dict.fromkeys(("Cox", "SurvivalAft"), boosting.SURVIVAL),
        **dict.fromkeys(("Multi", "RMSEWithUncertainty"), boosting.SEVERAL),
    }
    objective_params = ("loss_function", "objective")
    refused_params = _REFUSED
    rounds_params = ("iterations", "num_boost_round", "n_estimators", "num_trees")
    seed_params = ("random_seed", "random_state")
    threads_param = "thread_count"
    fixed_params: ClassVar = {"allow_writing_files": False, "verbose": False}
    error = "CatBoostError"
    beginnings = (b"CBM1",)

    def fit(self, estimator: Any, rows: Rows, **watch: Any) -> Any:
        """Fit a class."""
        params, layout = estimator.params, estimator.layout
        places = dict(params)
        if "monotone_constraints" in params:
            signs = boosting.by_place(params["monotone_constraints"], layout.names)
            order = [*_numbers(rows.features, layout), *layout.categories]
            places["monotone_constraints"] = [signs[place] for place in order]
        return self._class(estimator.path)(**places).fit(self._pool(layout, *rows), **watch)

    def choose_rounds(self, estimator: Any, rows: Rows, newer: Rows, patience: int) -> int:
        """Return the number of rounds after which newer rows are predicted best."""
        watch = self._pool(estimator.layout, *newer)
        model = self.fit(estimator, rows, eval_set=watch, early_stopping_rounds=patience)
        return int(model.get_best_iteration()) + 1

    def _pool(
        self,
        layout: Layout,
        matrix: np.ndarray,
        labels: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ) -> Any:
        """Return rows as CatBoost takes them: 32-bit numbers first, then categories as texts."""
        library, numbers = self._import(), _numbers(matrix, layout)
        data: dict[str, Any] = {}
        if numbers:
            with np.errstate(over="ignore"):  # what a 32-bit float cannot hold is infinite
                data["num_feature_data"] = np.ascontiguousarray(matrix[:, numbers], np.float32)
        if layout.categories:
            codes = np.nan_to_num(matrix[:, list(layout.categories)], nan=_MISSING)
            texts = codes.astype(np.int64).astype(np.bytes_).astype(object)
            data["cat_feature_data"] = np.ascontiguousarray(texts)
        return library.Pool(library.FeaturesData(**data), labels, weight=weight)

    def dump(self, model: Any) -> bytes:
        """Return the model as cbm, without what differs from fit to fit."""
        notes = model.get_metadata()
        for name in _VOLATILE:
            if name in notes.keys():  # noqa: SIM118 it has no other test
                del notes[name]
        return bytes(model._serialize_model())  # noqa: SLF001 the public way writes a file

    def load(self, content: bytes, path: str) -> Any:
        """Read cbm."""
        cbm.verify(content)
        return self._class(path)().load_model(blob=content)

    def describe(self, model: Any) -> Description:
        """Return what a model says of itself."""
        if model.get_cat_feature_indices():
            raise TrainingError(
                "it keeps only digests of its categories, so no text of the data can be told to be "
                "one of them: give it one-hot features, or fit it here"
            )
        objective = json.loads(model.get_metadata()["params"])["loss_function"]["type"]
        classes = (*map(str, getattr(model, "classes_", ())),)
        return Description(objective, list(model.feature_names_), {}, classes)

    def list_split_features(self, model: Any) -> list[int]:
        """Return the features; the trees were looked through when the file was read."""
        return [*range(len(model.feature_names_))]

    def predict(self, estimator: Any, matrix: np.ndarray) -> np.ndarray:
        """Predict rows."""
        model, pool = estimator.model, self._pool(estimator.layout, matrix)
        if hasattr(model, "predict_proba"):
            return np.asarray(model.predict_proba(pool, thread_count=1))
        return np.asarray(model.predict(pool, thread_count=1))

    def flavor(self, estimator: Any) -> Flavor:
        """Return the flavor of a model."""
        version, name = self._import().__version__, estimator.path.rpartition(".")[2]
        notes = {"catboost_version": version, "model_type": name, "save_format": "cbm"}
        return Flavor("catboost", "model.cb", notes)

    def build_explainer(self, estimator: Any) -> Explainer:
        """Return a function to the SHAP values of CatBoost."""
        layout = estimator.layout

        def explain(matrix: np.ndarray) -> np.ndarray:
            pool, columns = self._pool(layout, matrix), matrix.shape[1]
            values = np.asarray(
                estimator.model.get_feature_importance(pool, type="ShapValues", thread_count=1)
            ).reshape(len(matrix), -1, columns + 1)
            order = [*_numbers(matrix, layout), *layout.categories, columns]
            values[:, :, order] = values.copy()
            return values

        return explain

    def read_trees(self, estimator: Any) -> Ensemble:
        """Return the trees of a fitted estimator; see `read_ensemble`."""
        return read_ensemble(estimator.model)


def _numbers(matrix: np.ndarray, layout: Layout) -> list[int]:
    return [place for place in range(matrix.shape[1]) if place not in layout.categories]


def read_ensemble(model: Any) -> Ensemble:
    """Return the trees of a model of CatBoost, from its JSON.

    Raises:
        KeyError, ValueError: The JSON holds what the form cannot, such as categories.
    """
    with NamedTemporaryFile(suffix=".json") as file:  # it gives JSON in no other way
        model.save_model(file.name, format="json")
        dump = json.load(file)
    if "categorical_features" in dump["features_info"]:
        raise ValueError("it was given categories, which its trees see as statistics of the target")
    floats = dump["features_info"]["float_features"]
    features = {item["feature_index"]: item for item in floats}
    scale, base = dump["scale_and_bias"]
    read = partial(_read_catboost, features=features, scale=scale)
    if "oblivious_trees" in dump:
        grown = [_read_oblivious(tree, features, scale) for tree in dump["oblivious_trees"]]
    else:
        grown = [
            [trees.flatten(tree, partial(read, output=output)) for output in range(len(base))]
            for tree in dump["trees"]
        ]
    links: Mapping[str, Link] = {
        **dict.fromkeys(("Logloss", "CrossEntropy"), trees.sigmoid),
        "MultiClass": trees.softmax,
        "MultiClassOneVsAll": trees.expit,
        **dict.fromkeys(("Poisson", "Tweedie"), trees.exponential),
        **dict.fromkeys(("RMSE", "MAE", "Quantile", "Huber", "LogCosh", "Expectile", "MAPE",
                         "Lq"), trees.identity),
    }  # fmt: skip
    link = trees.get_link(links, dump["model_info"]["params"]["loss_function"]["type"])
    return Ensemble(
        [*chain(*grown)],
        columns=len(floats),
        outputs=len(base),
        base=np.asarray(base),
        link=link,
        is_oblivious="oblivious_trees" in dump,
    )


def _read_oblivious(tree: Mapping[str, Any], features: Floats, scale: float) -> list[Tree]:
    """Return a tree for each output; bit i of the number of a leaf answers the test i."""
    depth, splits = len(tree["splits"]), []
    for place, split in enumerate(tree["splits"]):
        rights = sum(1 << leaf for leaf in range(1 << depth) if leaf >> place & 1)
        lefts = (1 << (1 << depth)) - 1 - rights
        splits.append(Split(_read_catboost_question(split, features), lefts, rights))
    values = np.reshape(tree["leaf_values"], (1 << depth, -1)) * scale
    return [Tree(splits, column.tolist(), []) for column in values.T]


def _read_catboost(
    node: Mapping[str, Any], features: Floats, scale: float, output: int
) -> tuple[Question, Any, Any] | Leaf:
    if "split" not in node:
        return Leaf(float(np.ravel(node["value"])[output] * scale))
    return _read_catboost_question(node["split"], features), node["left"], node["right"]


def _read_catboost_question(split: Mapping[str, Any], features: Floats) -> Question:
    feature = features[split["float_feature_index"]]
    missing_left = feature["nan_value_treatment"] != "AsTrue"
    return Question(
        feature["flat_feature_index"], trees.widen(split["border"], is_included=True), missing_left
    )
