"""LightGBM: its native file is text of numbers, which it parses without running anything.

A fit is equal bit for bit with `deterministic`, the histograms built by rows, and a fixed number of
threads (LightGBM's documentation of `deterministic`). Not here: what it shares with the other
libraries of boosted trees.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from retrain_assets.domain.model import trees
from retrain_assets.domain.model.families import boosting
from retrain_assets.domain.model.families.boosting import BoostingFamily, Description
from retrain_assets.domain.model.families.family import Explainer, Flavor, Rows, TrainingError
from retrain_assets.domain.model.trees import Ensemble, Leaf, Link, Question

# Of the core library, which its classes take without showing them.
_CORE = (
    "alpha bagging_seed boost_from_average cat_l2 cat_smooth cegb_penalty_split cegb_tradeoff "
    "data_random_seed data_sample_strategy drop_rate drop_seed enable_bundle extra_seed "
    "extra_trees fair_c feature_contri feature_fraction_bynode feature_fraction_seed "
    "interaction_constraints is_unbalance linear_lambda linear_tree max_bin max_bin_by_feature "
    "max_cat_threshold max_cat_to_onehot max_delta_step max_drop metric min_data_in_bin "
    "min_data_per_group monotone_constraints monotone_constraints_method monotone_penalty "
    "neg_bagging_fraction num_grad_quant_bins objective_seed other_rate path_smooth "
    "poisson_max_delta_step pos_bagging_fraction quant_train_renew_leaf reg_sqrt "
    "scale_pos_weight sigmoid skip_drop stochastic_rounding top_rate tweedie_variance_power "
    "uniform_drop use_quantized_grad verbosity xgboost_dart_mode"
)
_ZERO = float(np.float32(1e-35))  # numbers up to this count as zero
_END = "\nend of parameters"
_BY_PLATFORM = ("deterministic", "force_row_wise", "force_col_wise", "verbosity")
_REFUSED = {
    "n_jobs": boosting.THREADS,
    "device_type": boosting.NOT_REPRODUCIBLE,
    **dict.fromkeys(_BY_PLATFORM, boosting.OF_THE_PLATFORM),
}


class LightGBM(BoostingFamily):
    """The classifier and the regressor of LightGBM."""

    name, title, extra = "lightgbm", "LightGBM", "lightgbm"
    distributions = ("lightgbm",)
    roles: ClassVar = {"LGBMClassifier": "classifier", "LGBMRegressor": "regressor"}
    refused_classes: ClassVar = {"LGBMRanker": boosting.RANKING}
    objectives: ClassVar = {
        "classifier": ("binary", "multiclass", "multiclassova", "cross_entropy"),
        "regressor": (
            *("regression", "regression_l1", "l2", "l1", "mse", "mae", "rmse", "huber", "fair"),
            *("poisson", "quantile", "mape", "gamma", "tweedie"),
        ),
    }
    refused_objectives: ClassVar = {
        "lambdarank": boosting.RANKING,
        "rank_xendcg": boosting.RANKING,
    }
    further_params = tuple(_CORE.split())
    refused_params = _REFUSED
    fixed_params: ClassVar = {"deterministic": True, "force_row_wise": True, "verbosity": -1}
    error = "basic.LightGBMError"
    beginnings = (b"tree\nversion=",)

    def fit(self, estimator: Any, rows: Rows) -> Any:
        """Fit a class."""
        return self._fit(estimator, rows).booster_

    def choose_rounds(self, estimator: Any, rows: Rows, newer: Rows, patience: int) -> int:
        """Return the number of rounds after which newer rows are predicted best."""
        from lightgbm import early_stopping

        watch = {
            "eval_X": newer.features,
            "eval_y": newer.labels,
            "eval_sample_weight": None if newer.weight is None else [newer.weight],
            "callbacks": [early_stopping(patience, verbose=False)],
        }
        return int(self._fit(estimator, rows, **watch).best_iteration_ or 0)

    def _fit(self, estimator: Any, rows: Rows, **watch: Any) -> Any:
        params, layout = estimator.params, estimator.layout
        places = dict(params)
        if "monotone_constraints" in params:
            signs = boosting.by_place(params["monotone_constraints"], layout.names)
            places["monotone_constraints"] = signs
        if groups := params.get("interaction_constraints"):
            places["interaction_constraints"] = boosting.places_of(groups, layout.names)
        model = self._class(estimator.path)(**places)
        categories = {"categorical_feature": list(layout.categories)} if layout.categories else {}
        return model.fit(
            rows.features, rows.labels, sample_weight=rows.weight, **categories, **watch
        )

    def dump(self, model: Any) -> bytes:
        """Return the model as text."""
        return str(model.model_to_string(num_iteration=-1)).encode()

    def load(self, content: bytes, path: str) -> Any:
        """Read the text."""
        del path
        text = content.decode()
        # LightGBM reads on behind what was cut off, which crashes now or later.
        if "\nend of trees" not in text or text.count("\nparameters:") > text.count(_END):
            raise ValueError("its text is cut off")
        lines = text.partition("\nparameters:")[2].partition(_END)[0].split("\n")
        if wrong := [line for line in lines if line and ": " not in line]:
            raise ValueError(f"its parameter {wrong[0][:50]!r} has no value")
        return self._import().Booster(model_str=text)

    def describe(self, model: Any) -> Description:
        """Return what a booster says of itself; it knows the categories of pandas."""
        about, texts = model.dump_model(), model.pandas_categorical or []
        names: list[str] = about["feature_names"]
        coded = [name for name in names if about["feature_infos"].get(name, {}).get("values")]
        if texts and len(texts) != len(coded):
            raise TrainingError("it does not say which of its features have which categories")
        # Without texts, its categories are numbers.
        categories = {name: [*map(str, values)] for name, values in zip(coded, texts, strict=False)}
        return Description(about["objective"].partition(" ")[0], names, categories)

    def list_split_features(self, model: Any) -> Iterator[int]:
        """Yield the feature of each split."""
        nodes = [tree["tree_structure"] for tree in model.dump_model()["tree_info"]]
        while nodes:
            node = nodes.pop()
            if "split_feature" in node:
                yield node["split_feature"]
                nodes += [node["left_child"], node["right_child"]]

    def predict(self, estimator: Any, matrix: np.ndarray) -> np.ndarray:
        """Predict rows."""
        return np.asarray(estimator.model.predict(matrix, num_threads=1))

    def flavor(self, estimator: Any) -> Flavor:
        """Return the flavor of a booster."""
        del estimator
        version = self._import().__version__
        notes = {"lgb_version": version, "model_class": "lightgbm.basic.Booster"}
        return Flavor("lightgbm", "model.lgb", notes)

    def build_explainer(self, estimator: Any) -> Explainer:
        """Return a function to the SHAP values of LightGBM."""
        booster = estimator.model

        def explain(matrix: np.ndarray) -> np.ndarray:
            with self.errors():
                values = booster.predict(matrix, pred_contrib=True, num_threads=1)
            return np.asarray(values).reshape(len(matrix), -1, matrix.shape[1] + 1)

        return explain

    def read_trees(self, estimator: Any) -> Ensemble:
        """Return the trees of a fitted estimator; see `read_ensemble`."""
        return read_ensemble(estimator.model)


def read_ensemble(booster: Any) -> Ensemble:
    """Return the trees of a booster of LightGBM, from its `dump_model`.

    Raises:
        KeyError, ValueError: The dump holds what the form cannot.
    """
    dump = booster.dump_model()
    ensemble = [trees.flatten(tree["tree_structure"], _read_lightgbm) for tree in dump["tree_info"]]
    name, *words = dump["objective"].split()
    settings = dict(word.partition(":")[::2] for word in words)
    outputs, scale = dump["num_tree_per_iteration"], float(settings.get("sigmoid", 1.0))
    share = outputs / len(ensemble) if dump["average_output"] else 1.0
    links: Mapping[str, Link] = {
        "binary": lambda raw: trees.sigmoid(scale * raw),
        "cross_entropy": trees.sigmoid,
        "multiclass": trees.softmax,
        "multiclassova": lambda raw: trees.expit(scale * raw),
        **dict.fromkeys(("poisson", "gamma", "tweedie"), trees.exponential),
        **dict.fromkeys(
            ("regression", "regression_l1", "huber", "fair", "quantile", "mape"),
            trees.signed_square if "sqrt" in settings else trees.identity,
        ),
    }
    link, columns = trees.get_link(links, name), dump["max_feature_idx"] + 1
    return Ensemble(ensemble, columns, outputs, np.zeros(outputs), lambda raw: link(share * raw))


def _read_lightgbm(node: Any) -> tuple[Question, Any, Any] | Leaf:
    if "leaf_value" in node:
        if node.get("leaf_coeff"):
            raise ValueError("a leaf of its trees is a linear model")
        return Leaf(float(node["leaf_value"]), node.get("leaf_count", 0))
    column, threshold = node["split_feature"], node["threshold"]
    if node["decision_type"] == "==":
        question = Question(column, categories=trees.flag([*map(int, threshold.split("||"))]))
    elif node["missing_type"] == "Zero":
        raise ValueError("its trees take zeros for missing values")
    else:
        if -_ZERO <= threshold < 0:
            threshold = float(np.nextafter(-_ZERO, -np.inf))
        elif 0 <= threshold < _ZERO:
            threshold = _ZERO
        # Where training had no missing value, one counts as zero.
        missing_left = threshold >= 0 if node["missing_type"] == "None" else node["default_left"]
        question = Question(column, threshold, missing_left)
    return question, node["left_child"], node["right_child"]
