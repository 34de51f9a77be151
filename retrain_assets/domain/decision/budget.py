"""What follows from the number of fits a month that a user can afford: windows and triggers.

Each field that the YAML gives stays as it is. Everything follows from the YAML alone, so that no
new data change what a model is. Not here: when a cause fires, and what a fit costs.
"""

import math
from typing import Any, TypeVar

from retrain_assets.specs.base import Spec, number_of
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec

Part = TypeVar("Part", bound=Spec)
MONTHS = 2  # of training
FEWEST, FEWEST_ROWS = 20, 2000  # partitions and rows of a training window
DECISIONS = 4  # in whose time a holdout arrives


def apply_budget(spec: ModelSpec, dataset: DatasetSpec) -> ModelSpec:
    """Return the model with the windows and triggers that follow from its budget.

    Whether they go with what the YAML gives is checked with the rest of the spec.
    """
    period = dataset.partition.period
    if spec.budget is None or period is None:
        return spec
    month, week = period.per_year / 12, period.per_week
    shortest = max(week, spec.gate.min_blocks)
    wait = max(1, math.ceil(month * spec.fits_per_decision / spec.budget.fits_per_month))
    rows = math.ceil(FEWEST_ROWS / max(1, dataset.rows.min))
    derived = {
        "train": max(FEWEST, round(MONTHS * month), rows if dataset.rows.min > 1 else 0),
        "holdout": max(shortest, min(wait // DECISIONS, 2 * shortest)),
        "current": max(week, 2),
    }
    # A candidate is tried only if it is trained on newer data than production was.
    windows = _fill(spec.windows, derived)
    wait = max(wait, windows.holdout + 1 if spec.refit else 1)
    triggers = _fill(spec.triggers, {"cooldown": wait, "new_partitions": wait})
    return spec.model_copy(update={"windows": windows, "triggers": triggers})


def describe_budget(spec: ModelSpec) -> str | None:
    """Return what follows from the budget of a model, in words; None without one."""
    if spec.budget is None:
        return None
    windows, triggers = spec.windows, spec.triggers
    return (
        f"budget: {spec.budget.fits_per_month:g} fits a month, "
        f"{number_of(spec.fits_per_decision, 'fit')} a decision: cooldown {triggers.cooldown}, "
        f"new_partitions {triggers.new_partitions}; windows: train {windows.train}, holdout "
        f"{windows.holdout}, current {windows.current}"
    )


def _fill(part: Part, values: dict[str, Any]) -> Part:
    """Return a part of the YAML with values for those fields that it does not give."""
    missing = {name: value for name, value in values.items() if name not in part.model_fields_set}
    return part.model_copy(update=missing)
