"""What follows from the number of fits a month that a user can afford: windows and triggers.

Each field that the YAML gives stays as it is. Everything follows from the YAML alone, so that no
new data change what a model is. Not here: when a cause fires, and what a fit costs.
"""

import math
from typing import Any

from retrain_assets.specs.base import number_of
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec, WindowsSpec
from retrain_assets.specs.triggers import TriggersSpec

MONTHS = 2  # of training
FEWEST, FEWEST_ROWS = 20, 2000  # partitions and rows of a training window
DECISIONS = 4  # in whose time a holdout arrives


def apply_budget(spec: ModelSpec, dataset: DatasetSpec) -> ModelSpec:
    """Return the model with the windows and triggers that follow from its budget."""
    period = dataset.partition.period
    if spec.budget is None or period is None:
        return spec
    month, week = period.per_year / 12, int(period.per_year // 52)
    shortest = max(week, spec.gate.min_blocks)
    wait = max(1, math.ceil(month * spec.fits_per_decision / spec.budget.fits_per_month))
    rows = math.ceil(FEWEST_ROWS / max(1, dataset.rows.min))
    windows = {
        "train": max(FEWEST, round(MONTHS * month), rows if dataset.rows.min > 1 else 0),
        "holdout": max(shortest, min(wait // DECISIONS, 2 * shortest)),
        "current": max(week, 2),
    }
    # A candidate is tried only if it is trained on newer data than production was.
    taken_windows = WindowsSpec.model_validate(windows | _list_given(spec.windows))
    wait = max(wait, taken_windows.holdout + 1 if spec.refit else 1)
    triggers = {"cooldown": wait, "new_partitions": wait} | _list_given(spec.triggers)
    parts = {"windows": taken_windows, "triggers": TriggersSpec.model_validate(triggers)}
    return spec.model_copy(update=parts)


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


def _list_given(part: WindowsSpec | TriggersSpec) -> dict[str, Any]:
    """Return the fields that the YAML gives."""
    return {name: getattr(part, name) for name in part.model_fields_set}
