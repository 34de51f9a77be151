"""XGBoost: its native file is UBJ, a binary form of JSON, which it parses without running anything.

A fit on the CPU is equal bit for bit for one number of threads and one seed. XGBoost computes with
32-bit floats. Not here: what it shares with the other libraries of boosted trees.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from retrain_assets.domain.model import trees
from retrain_assets.domain.model.families import boosting
from retrain_assets.domain.model.families.boosting import BoostingFamily, Description
from retrain_assets.domain.model.families.family import Explainer, Flavor, Rows, TrainingError
from retrain_assets.domain.model.trees import Ensemble, Leaf, Link, Question, Tree

_CATEGORY = 1  # the type of a split
_BY_PLATFORM = ("enable_categorical", "feature_types", "missing", "validate_parameters")
_REFUSED = {
    "n_jobs": boosting.THREADS,
    "device": boosting.NOT_REPRODUCIBLE,
    "early_stopping_rounds": boosting.EARLY_STOPPING,
    "callbacks": "a function cannot be stored",
    "verbosity": boosting.OF_THE_PLATFORM,
    **dict.fromkeys(_BY_PLATFORM, boosting.OF_THE_PLATFORM),
}


class XGBoost(BoostingFamily):
    """The classifier and the regressor of XGBoost, with trees."""

    name, title, extra = "xgboost", "XGBoost", "xgboost"
    # The same library, without and with what a graphics card needs.
    distributions = ("xgboost-cpu", "xgboost")
    roles: ClassVar = {"XGBClassifier": "classifier", "XGBRegressor": "regressor"}
    refused_classes: ClassVar = {
        "XGBRanker": boosting.RANKING,
        "XGBRFClassifier": "use XGBClassifier with num_parallel_tree",
        "XGBRFRegressor": "use XGBRegressor with num_parallel_tree",
    }
    objectives: ClassVar = {
        "classifier": ("binary:logistic", "multi:softprob"),
        "regressor": (
            *("reg:squarederror", "reg:squaredlogerror", "reg:pseudohubererror"),
            *("reg:absoluteerror", "reg:quantileerror", "reg:gamma", "reg:tweedie"),
            "count:poisson",
        ),
    }
    refused_objectives: ClassVar = {
        "rank:": boosting.RANKING,
        "survival:": boosting.SURVIVAL,
        "binary:hinge": boosting.NO_PROBABILITIES,
        "multi:softmax": boosting.NO_PROBABILITIES,
    }
    # Of the core library, which its classes take without showing them.
    further_params = (
        *("colsample_bynode", "huber_slope", "max_cached_hist_node", "quantile_alpha"),
        *("refresh_leaf", "tweedie_variance_power", "updater"),
        *("normalize_type", "rate_drop", "sample_type", "skip_drop", "one_drop"),
    )
    refused_params = _REFUSED
    fixed_params: ClassVar = {"enable_categorical": True, "verbosity": 0}
    error = "core.XGBoostError"
    beginnings = (b"{L", b'{"learner"', b'{"version"')

    def refuse_params(self, path: str, params: Any) -> Any:
        """Yield the arguments that cannot be used, with the reason."""
        yield from super().refuse_params(path, params)
        if params.get("booster") == "gblinear":
            yield "booster", "gblinear is not a model of trees: use one of sklearn.linear_model"

    def fit(self, estimator: Any, rows: Rows) -> Any:
        """Fit a class."""
        return self._fit(estimator, rows, estimator.params).get_booster()

    def choose_rounds(self, estimator: Any, rows: Rows, newer: Rows, patience: int) -> int:
        """Return the number of rounds after which newer rows are predicted best."""
        stopping = {**estimator.params, "early_stopping_rounds": patience}
        weights = None if newer.weight is None else [newer.weight]
        watch = {"eval_set": [newer[:2]], "sample_weight_eval_set": weights, "verbose": False}
        return int(self._fit(estimator, rows, stopping, **watch).best_iteration) + 1

    def _fit(self, estimator: Any, rows: Rows, params: dict[str, Any], **watch: Any) -> Any:
        layout, places = estimator.layout, dict(params)
        if "monotone_constraints" in params:
            signs = boosting.by_place(params["monotone_constraints"], layout.names)
            places["monotone_constraints"] = f"({','.join(map(str, signs))})"
        if groups := params.get("interaction_constraints"):
            places["interaction_constraints"] = str(boosting.places_of(groups, layout.names))
        types = self._types(estimator, rows.features)
        model = self._class(estimator.path)(**places, feature_types=types)
        return model.fit(rows.features, rows.labels, sample_weight=rows.weight, **watch)

    @staticmethod
    def _types(estimator: Any, matrix: np.ndarray) -> list[str]:
        categories = estimator.layout.categories
        return ["c" if place in categories else "q" for place in range(matrix.shape[1])]

    def dump(self, model: Any) -> bytes:
        """Return the model as UBJ."""
        return bytes(model.save_raw("ubj"))

    def load(self, content: bytes, path: str) -> Any:
        """Read UBJ."""
        del path
        return self._import().Booster({"nthread": 1}, model_file=bytearray(content))

    def describe(self, model: Any) -> Description:
        """Return what a booster says of itself."""
        names = model.feature_names or [f"f{place}" for place in range(model.num_features())]
        types = model.feature_types or ()
        coded = [name for name, kind in zip(names, types, strict=False) if kind == "c"]
        stored = model.get_categories(export_to_arrow=True).to_arrow() if coded else ()
        categories = {name: texts.to_pylist() for name, texts in stored or () if name in coded}
        if len(categories) < len(coded) or not all(
            isinstance(text, str) for texts in categories.values() for text in texts
        ):
            raise TrainingError(
                "it does not hold the texts of its categories, as files of XGBoost before 3.1 and "
                "fits on codes do not: give it one-hot features, or fit it here"
            )
        learner = json.loads(model.save_config())["learner"]
        return Description(learner["objective"]["name"], list(names), categories)

    def list_split_features(self, model: Any) -> Iterator[int]:
        """Yield the feature of each split; what the library does not check is checked here."""
        learner = json.loads(model.save_raw("json"))["learner"]
        booster, sizes = learner["gradient_booster"], learner["learner_model_param"]
        stored = booster.get("gbtree", booster)["model"]
        outputs = range(max(1, int(sizes["num_class"]), int(sizes.get("num_target", 1))))
        if wrong := [output for output in stored["tree_info"] if output not in outputs]:
            raise ValueError(f"a tree adds to output {wrong[0]} of {len(outputs)}")
        for tree in stored["trees"]:
            parents, nodes = tree["parents"], range(1, len(tree["parents"]))
            for node, below in enumerate(zip(tree["left_children"], tree["right_children"])):  # noqa: B905 equal by the library
                absent = [n for n in below if n not in nodes or parents[n] != node]
                if below != (-1, -1) and (absent or below[0] == below[1]):
                    raise ValueError(f"node {node} of a tree has no children {below}")
            segments = zip(tree["categories_segments"], tree["categories_sizes"], strict=True)
            ends = [start + size for start, size in segments]
            if max(ends, default=0) > len(tree["categories"]):
                raise ValueError("a tree has fewer categories than its splits ask for")
            yield from tree["split_indices"]

    def predict(self, estimator: Any, matrix: np.ndarray) -> np.ndarray:
        """Predict rows; the booster knows which of its columns are categories."""
        values = estimator.model.inplace_predict(matrix, validate_features=False)
        return np.asarray(values, dtype=np.float64)

    def flavor(self, estimator: Any) -> Flavor:
        """Return the flavor of a booster."""
        del estimator
        version = self._import().__version__
        notes = {"xgb_version": version, "model_class": "xgboost.core.Booster"}
        return Flavor("xgboost", "model.ubj", {**notes, "model_format": "ubj"})

    def build_explainer(self, estimator: Any) -> Explainer:
        """Return a function to the SHAP values of XGBoost."""
        library, booster = self._import(), estimator.model

        def explain(matrix: np.ndarray) -> np.ndarray:
            types = self._types(estimator, matrix)
            rows = library.DMatrix(matrix, feature_types=types, enable_categorical=True, nthread=1)
            values = booster.predict(
                rows, pred_contribs=True, strict_shape=True, validate_features=False
            )
            return np.asarray(values, dtype=np.float64)

        return explain

    def read_trees(self, estimator: Any) -> Ensemble:
        """Return the trees of a fitted estimator; see `read_ensemble`."""
        return read_ensemble(estimator.model)


def read_ensemble(booster: Any) -> Ensemble:
    """Return the trees of a booster of XGBoost, from its JSON.

    Raises:
        KeyError, TypeError, ValueError: The JSON holds what the form cannot.
    """
    learner = json.loads(booster.save_raw("json"))["learner"]
    gradient_booster, name = learner["gradient_booster"], learner["objective"]["name"]
    if gradient_booster["name"] != "gbtree":
        raise ValueError(f"its booster is {gradient_booster['name']}")
    dump, base = gradient_booster["model"], _read_xgboost_base(booster)
    by_output: list[list[Tree]] = [[] for _ in base]
    for tree, output in zip(dump["trees"], dump["tree_info"], strict=True):
        by_output[output].append(_read_xgboost(tree))
    links: Mapping[str, Link] = {
        **dict.fromkeys(("binary:logistic", "reg:logistic"), trees.sigmoid),
        **dict.fromkeys(("multi:softprob", "multi:softmax"), trees.softmax),
        **dict.fromkeys(("count:poisson", "reg:gamma", "reg:tweedie"), trees.exponential),
        **dict.fromkeys(
            ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror",
             "reg:squaredlogerror", "reg:quantileerror"),
            trees.identity,
        ),
    }  # fmt: skip
    ensemble = [*chain(*zip(*by_output, strict=True))]
    columns = int(learner["learner_model_param"]["num_feature"])
    link = trees.get_link(links, name)
    return Ensemble(ensemble, columns, len(base), base, link, is_single=True)


def _read_xgboost_base(booster: Any) -> np.ndarray:
    """Return what the booster adds to its trees, which versions of XGBoost write in several ways.

    So it is asked for the sum of a tree whose leaves are zero.
    """
    import xgboost

    stored = json.loads(booster[:1].save_raw("json"))
    for tree in stored["learner"]["gradient_booster"]["model"]["trees"]:
        tree["split_conditions"] = [
            0.0 if node < 0 else condition
            for node, condition in zip(tree["left_children"], tree["split_conditions"], strict=True)
        ]
    zero = xgboost.Booster(model_file=bytearray(json.dumps(stored).encode()))
    row = np.zeros((1, booster.num_features()))
    return np.ravel(zero.inplace_predict(row, predict_type="margin", validate_features=False))


def _read_xgboost(tree: Mapping[str, Any]) -> Tree:
    if int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise ValueError("a leaf of its trees has several values")
    categories = {
        node: tree["categories"][first : first + size]
        for node, first, size in zip(
            tree["categories_nodes"],
            tree["categories_segments"],
            tree["categories_sizes"],
            strict=True,
        )
    }

    def read(node: int) -> tuple[Question, Any, Any] | Leaf:
        child, value = tree["left_children"][node], tree["split_conditions"][node]
        if child < 0:
            return Leaf(float(value))
        column, missing_left = tree["split_indices"][node], bool(tree["default_left"][node])
        if tree["split_type"][node] == _CATEGORY:
            flags = ~trees.flag(categories[node])  # the categories of a node go right
            flags[-1] = missing_left
            return Question(column, categories=flags), child, tree["right_children"][node]
        threshold = trees.widen(value, is_included=False)
        return Question(column, threshold, missing_left), child, tree["right_children"][node]

    return trees.flatten(0, read)
