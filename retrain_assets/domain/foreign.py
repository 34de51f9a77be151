"""An estimator that was fitted elsewhere, as a pipeline that takes the features of the spec.

Not here: loading it, and how good it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retrain_assets.domain.estimator import refuse_wrong_kind
from retrain_assets.domain.pipeline import LAST, TrainingError

if TYPE_CHECKING:
    import polars as pl
    from sklearn.pipeline import Pipeline

    from retrain_assets.specs.features import Kind


def taking_features(estimator: Any, kind: Kind, features: pl.DataFrame) -> Pipeline:
    """Put an estimator behind what gives it the columns it wants.

    Args:
        estimator: Of scikit-learn, fitted.
        kind: What it is to predict.
        features: Rows as the spec makes them; their categories count as seen.

    Raises:
        TrainingError: It wants other columns, or predicts something else.
    """
    from sklearn.pipeline import Pipeline

    from retrain_assets.domain.encoder import FrameColumns

    named = getattr(estimator, "feature_names_in_", None)
    wanted = list(features.columns if named is None else named)
    if missing := [str(name) for name in wanted if name not in features.columns]:
        raise TrainingError(
            f"it wants {', '.join(missing)}, which features of the spec do not make"
        )
    count = getattr(estimator, "n_features_in_", len(wanted))
    if count != len(wanted):
        raise TrainingError(
            f"it was fitted on {count} unnamed columns, the spec makes {len(wanted)}: "
            f"{', '.join(wanted)}"
        )
    encoder = FrameColumns(named=named is not None).fit(features.select(wanted))
    pipeline = Pipeline([("encode", encoder), (LAST, estimator)])
    refuse_wrong_kind(pipeline, kind)
    classes = list(getattr(pipeline, "classes_", ()))
    if kind == "binary" and classes != [0, 1]:
        raise TrainingError(f"its classes are {classes}, target.kind binary needs 0 and 1")
    if kind == "multiclass" and not all(isinstance(found, str) for found in classes):
        raise TrainingError(f"its classes are {classes}, target.kind multiclass needs texts")
    return pipeline
