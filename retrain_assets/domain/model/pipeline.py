"""The unfitted pipeline that the YAML asks for, built by the family of its estimator.

Not here: what differs between libraries (`families`), fitting, predicting.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import polars as pl

from retrain_assets.domain.model.families.catalogue import TITLES, family_of, find_family
from retrain_assets.domain.model.families.family import TrainingError
from retrain_assets.specs.model import EstimatorSpec

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


def build_pipeline(spec: EstimatorSpec, schema: pl.Schema, seed: int) -> Pipeline:
    """Return the unfitted pipeline: encoder, whatever the estimator needs between, estimator.

    Args:
        spec: The estimator.
        schema: Names and types of the features.
        seed: Of each random state that is not set otherwise.

    Raises:
        TrainingError: The estimator does not exist, does not take a parameter, or its library is
            not installed.
    """
    if spec.python:
        estimator = _wrap_parts(_call_user_function(spec.python), spec.threads, seed)
        return family_of(estimator).build(estimator, spec, schema, seed)
    path = spec.class_ or ""
    family = find_family(path)
    if family is None:
        raise TrainingError(f"estimator.class: {path} is of none of {TITLES}")
    return family.build(family.create(path), spec, schema, seed)


def _wrap_parts(estimator: Any, threads: int, seed: int) -> Any:
    """Return an estimator in which each part is in the form in which it can be stored."""
    estimator = family_of(estimator).wrap(estimator, threads, seed)
    for name, part in estimator.get_params().items():
        wrapped = family_of(part).wrap(part, threads, seed)
        if wrapped is not part:
            estimator.set_params(**{name: wrapped})
    return estimator


def _call_user_function(reference: str) -> Any:
    """Return the estimator that the user's function makes."""
    module, _, function = reference.partition(":")
    try:
        estimator = getattr(import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise TrainingError(f"estimator.python: {reference} cannot be imported: {error}") from error
    if not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        kind = type(estimator).__name__
        raise TrainingError(
            f"estimator.python: {reference} returned {kind}, not an estimator that can be fitted"
        )
    return estimator
