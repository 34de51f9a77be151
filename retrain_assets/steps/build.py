"""Features and their profile for a range of partitions, each table replaced in one commit.

Not here: predicting and watching.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.features import KEY, PARTITION, build_features
from retrain_assets.domain.profile import build_profile
from retrain_assets.domain.windows import ending_at
from retrain_assets.specs.base import duration
from retrain_assets.steps.state import SOURCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from retrain_assets.steps.state import ModelState


class NotReadyError(RuntimeError):
    """None of the partitions asked for can be built yet."""


@dataclass(frozen=True)
class Built:
    """What a step stored: the partitions, their rows, and the version its commit made."""

    partitions: tuple[str, ...]
    rows: pl.DataFrame
    version: int


def ready(
    state: ModelState, partitions: Sequence[str], sources: Mapping[str, str]
) -> tuple[str, ...]:
    """The partitions whose datasets are complete, `sources` being those of the state.

    Raises:
        NotReadyError: None is.
    """
    found = tuple(key for key in partitions if key in sources)
    if not found:
        raise NotReadyError(
            f"model {state.spec.name}: no partition from {partitions[0]} to {partitions[-1]} has "
            f"landed in {', '.join([state.dataset.name, *state.lookups])}: ingest them first"
        )
    return found


def features(state: ModelState, partitions: Sequence[str], run_id: str) -> Built:
    """Build the features of a range."""
    # Taken before any row is read: what changes meanwhile has another digest and is built again.
    sources = state.sources()
    keys = ready(state, partitions, sources)
    rows = state.tables.read(f"{state.dataset.name}/dataset", keys)
    lookups = {name: _lookup(state, name, rows) for name in state.lookups}
    table = build_features(rows, lookups, state.spec, state.dataset).with_columns(
        pl.col(PARTITION).replace_strict(sources, return_dtype=pl.String).alias(SOURCE)
    )
    version = state.tables.replace(
        state.table("features"), table, keys, commit_metadata(run_id, keys)
    )
    return Built(keys, table, version)


def profile(state: ModelState, partitions: Sequence[str], run_id: str) -> Built:
    """Summarise features and target, a row per partition and column."""
    keys = ready(state, partitions, state.sources())
    table = stored_features(state, keys)
    made_from = table.select(PARTITION, SOURCE).unique()
    rows = build_profile(table).join(made_from, on=PARTITION, maintain_order="left")
    version = state.tables.replace(
        state.table("profile"), rows, keys, commit_metadata(run_id, keys)
    )
    return Built(keys, rows, version)


def commit_metadata(run_id: str, keys: Sequence[str]) -> dict[str, str]:
    """What is written beside each commit."""
    return {"run_id": run_id, "partitions": f"{keys[0]}..{keys[-1]}"}


def stored_features(state: ModelState, keys: Sequence[str]) -> pl.DataFrame:
    """Rows of the features table in a fixed order."""
    return state.tables.read(state.table("features"), keys).sort(PARTITION, KEY)


def _lookup(state: ModelState, name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """A lookup's rows; of one joined by time, only those that the rows can see."""
    lookup, table = state.spec.lookups[name], state.tables.scan(f"{name}/dataset")
    if lookup.as_of is not None:
        table = table.filter(pl.col(lookup.as_of) <= rows[lookup.as_of].max())
        if lookup.tolerance is not None and rows.height:
            oldest = rows[lookup.as_of].min() - duration(lookup.tolerance)  # type: ignore[operator]
            table = table.filter(pl.col(lookup.as_of) >= oldest)
    return table.collect()


def window_features(state: ModelState, last: str) -> pl.DataFrame:
    """Features of the current window that ends at a partition."""
    window = ending_at(tuple(state.sources()), last, state.spec.windows.current)
    return stored_features(state, window)
