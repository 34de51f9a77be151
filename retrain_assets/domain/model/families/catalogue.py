"""The families that there are, and which of them a class belongs to.

Not here: what a family does.
"""

from collections.abc import Iterator
from typing import Any

from retrain_assets.domain.model.families.boosting import BoostingFamily
from retrain_assets.domain.model.families.catboost import CatBoost
from retrain_assets.domain.model.families.family import EstimatorFamily
from retrain_assets.domain.model.families.lightgbm import LightGBM
from retrain_assets.domain.model.families.scikit_learn import ScikitLearn
from retrain_assets.domain.model.families.xgboost import XGBoost

SCIKIT_LEARN = ScikitLearn()
FAMILIES: tuple[EstimatorFamily, ...] = (SCIKIT_LEARN, LightGBM(), XGBoost(), CatBoost())
_BY_NAME = {family.name: family for family in FAMILIES}
TITLES = ", ".join(family.title for family in FAMILIES)


def find_family(path: str) -> EstimatorFamily | None:
    """Return the family of a class by its path, such as `sklearn.svm.SVC`; None if it has none."""
    return _BY_NAME.get(path.partition(".")[0])


def recognize(content: bytes) -> BoostingFamily | None:
    """Return the family whose native file begins like this; None if there is none."""
    boosting = (family for family in FAMILIES if isinstance(family, BoostingFamily))
    return next((family for family in boosting if content.startswith(family.beginnings)), None)


def family_of(estimator: Any) -> EstimatorFamily:
    """Return the family of an estimator; scikit-learn's if it belongs to no other."""
    path = getattr(estimator, "path", type(estimator).__module__)
    return find_family(str(path)) or SCIKIT_LEARN


def families_within(pipeline: Any) -> Iterator[EstimatorFamily]:
    """Yield the families of an estimator and of those it is made of, each once."""
    parts = (pipeline, *pipeline.get_params().values())
    yield from {family.name: family for family in map(family_of, parts)}.values()
