"""Random search: which settings are tried, and on which folds each is judged.

Folds keep the order of time: a setting is always judged on partitions that come after those it was
fitted on. Not here: fitting and judging.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from retrain_assets.specs.model import DistributionSpec, SearchSpec

Params = dict[str, Any]


class SearchError(ValueError):
    """The search cannot be carried out; the message names the field and what would do."""


def search(
    spec: SearchSpec, params: Mapping[str, Any], seed: int, loss: Callable[[Params], float]
) -> tuple[Params, pl.DataFrame]:
    """Try settings and take the one with the least loss, the earlier of equals.

    Args:
        spec: What to draw, how often.
        params: The first setting; later ones replace the parameters that are drawn.
        seed: Of the draws.
        loss: Of one setting; lower is better.

    Returns:
        The best setting; and of each tried one its number, `params` as JSON and `loss`.

    Raises:
        SearchError: The metric was undefined for every setting.
    """
    tried = settings(spec, params, seed)
    losses = [loss(setting) for setting in tried]
    if not any(map(math.isfinite, losses)):
        raise SearchError(
            "estimator.search: the metric is undefined on every fold: use fewer folds"
        )
    best = min(range(len(tried)), key=lambda n: losses[n] if math.isfinite(losses[n]) else math.inf)
    table = {
        "setting": range(len(tried)),
        "params": [json.dumps(setting, sort_keys=True, default=str) for setting in tried],
        "loss": losses,
    }
    return tried[best], pl.DataFrame(table)


def settings(spec: SearchSpec, params: Mapping[str, Any], seed: int) -> list[Params]:
    """The settings to try: `params` as they are, then seeded draws."""
    random = np.random.default_rng(seed)
    drawn = [
        {name: _draw(distribution, random) for name, distribution in spec.params.items()}
        for _ in range(spec.budget - 1)
    ]
    return [dict(params), *({**params, **draw} for draw in drawn)]


def time_folds(blocks: pl.Series, count: int, gap: int) -> list[tuple[pl.Series, pl.Series]]:
    """Folds of an expanding window over blocks.

    Args:
        blocks: The block of each row; blocks are in the order of their names.
        count: How many folds.
        gap: Blocks left out between training and validation, whose labels would not be final yet.

    Returns:
        Of each fold a mask of the rows to fit on, and one of the rows to judge on.

    Raises:
        SearchError: There are too few blocks.
    """
    from sklearn.model_selection import TimeSeriesSplit

    names = blocks.unique().sort()
    try:
        folds = list(TimeSeriesSplit(count, gap=gap).split(names))
    except ValueError as error:
        raise SearchError(
            f"estimator.search: {len(names)} training partitions are too few for {count} folds "
            f"with a gap of {gap}: use fewer folds or a longer windows.train"
        ) from error
    return [(blocks.is_in(names[fit]), blocks.is_in(names[judge])) for fit, judge in folds]


def _draw(distribution: DistributionSpec, random: np.random.Generator) -> Any:
    if distribution.values is not None:
        return distribution.values[int(random.integers(len(distribution.values)))]
    low, high = float(distribution.low or 0), float(distribution.high or 0)
    if distribution.log:
        # exp(log(high)) may exceed high in the last digit
        value = min(high, math.exp(random.uniform(math.log(low), math.log(high))))
    else:
        value = float(random.uniform(low, high))
    if not distribution.whole:
        return value
    return max(math.ceil(low), min(math.floor(high), round(value)))
