"""Keeps tabular models fresh.

One YAML file says where data lands and what to predict. `LandedDataset` turns files that land into
a versioned, validated table; `RetrainedModel` watches a model on it, retrains it when there is a
cause, compares it with production on the same data, and promotes what is shown to be better. Every
step is a Dagster asset, every decision is a row in a ledger.

Not here: anything but the names of the two components, whose first use loads Dagster, so that a
process that needs only a lower part starts fast.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrain_assets.components.components import LandedDataset, RetrainedModel

# Where no region is set, delta-rs would print a page of warnings for each table.
os.environ.setdefault("RUST_LOG", "error")
__all__ = ["LandedDataset", "RetrainedModel"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.components.components"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
