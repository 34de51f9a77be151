"""XGBoost: its native file is UBJ, a binary form of JSON, which it parses without running anything.

A fit on the CPU is equal bit for bit for one number of threads and one seed. XGBoost computes with
32-bit floats. Not here: what it shares with the other libraries of boosted trees.
"""

from typing import Any, ClassVar

import numpy as np

from retrain_assets.domain.model.families import boosting
from retrain_assets.domain.model.families.boosting import BoostingFamily, by_place, places_of
from retrain_assets.domain.model.families.family import Flavor, Layout, Rows

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
    # The same library, with and without what a graphics card needs.
    distributions = ("xgboost", "xgboost-cpu")
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

    def refuse_params(self, path: str, params: Any) -> Any:
        """Yield the arguments that cannot be used, with the reason."""
        yield from super().refuse_params(path, params)
        if params.get("booster") == "gblinear":
            yield "booster", "gblinear is no model of trees: use one of sklearn.linear_model"

    def fit(self, path: str, params: dict[str, Any], layout: Layout, rows: Rows) -> Any:
        """Fit a class."""
        return self._fit(path, params, layout, rows).get_booster()

    def choose_rounds(
        self,
        path: str,
        params: dict[str, Any],
        layout: Layout,
        rows: Rows,
        newer: Rows,
        patience: int,
    ) -> int:
        """Return the number of rounds after which newer rows are predicted best."""
        stopping = {**params, "early_stopping_rounds": patience}
        weights = None if newer.weight is None else [newer.weight]
        watch = {"eval_set": [newer[:2]], "sample_weight_eval_set": weights, "verbose": False}
        return int(self._fit(path, stopping, layout, rows, **watch).best_iteration) + 1

    def _fit(
        self, path: str, params: dict[str, Any], layout: Layout, rows: Rows, **watch: Any
    ) -> Any:
        places = dict(params)
        if "monotone_constraints" in params:
            signs = by_place(params["monotone_constraints"], layout.names)
            places["monotone_constraints"] = f"({','.join(map(str, signs))})"
        if groups := params.get("interaction_constraints"):
            places["interaction_constraints"] = str(places_of(groups, layout.names))
        model = self._class(path)(**places, feature_types=self._types(rows.features, layout))
        return model.fit(rows.features, rows.labels, sample_weight=rows.weight, **watch)

    @staticmethod
    def _types(matrix: np.ndarray, layout: Layout) -> list[str]:
        return ["c" if place in layout.categories else "q" for place in range(matrix.shape[1])]

    def dump(self, model: Any) -> bytes:
        """Return the model as UBJ."""
        return bytes(model.save_raw("ubj"))

    def load(self, content: bytes, path: str) -> Any:
        """Read UBJ."""
        del path
        return self._import().Booster({"nthread": 1}, model_file=bytearray(content))

    def predict(self, model: Any, matrix: np.ndarray, layout: Layout) -> np.ndarray:
        """Predict rows; the booster knows which of its columns are categories."""
        del layout
        return np.asarray(model.inplace_predict(matrix, validate_features=False), dtype=np.float64)

    def flavor(self, estimator: Any) -> Flavor:
        """Return the flavor of a booster."""
        del estimator
        version = self._import().__version__
        notes = {"xgb_version": version, "model_class": "xgboost.core.Booster"}
        return Flavor("xgboost", "model.ubj", {**notes, "model_format": "ubj"})
