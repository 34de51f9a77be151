"""Keeps tabular models fresh.

One YAML file says where data lands and what to predict. `LandedDataset` turns files that land into
a versioned, validated table; `RetrainedModel` watches a model on it, retrains it when there is a
cause, compares it with production on the same data, and promotes what is shown to be better. Every
step is a Dagster asset, every decision is a row in a ledger.

Not here: anything but the two components' names, which load Dagster only when they are asked for,
so that a process that needs a part below them starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrain_assets.components.landed_dataset import LandedDataset
    from retrain_assets.components.retrained_model import RetrainedModel

__all__ = ["LandedDataset", "RetrainedModel"]
_MODULES = {"LandedDataset": "landed_dataset", "RetrainedModel": "retrained_model"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.components.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
