"""The search for the best settings of an estimator: which are tried, and on which folds.

Folds keep the order of time: a setting is always judged on partitions that come after those it was
fitted on. optuna and scikit-learn are imported within functions. Not here: fitting and judging.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from retrain_assets.domain.pipeline import TrainingError
from retrain_assets.specs.model import DistributionSpec, SearchSpec

if TYPE_CHECKING:
    from optuna import Trial

Params = dict[str, Any]


def search(
    spec: SearchSpec, params: Mapping[str, Any], seed: int, loss: Callable[[Params], float]
) -> tuple[Params, pl.DataFrame]:
    """Try settings and return the one with the least loss, the earlier of equals.

    Args:
        spec: The distributions, and how many settings are tried.
        params: The first setting; later ones replace the parameters that have a distribution.
        seed: Of optuna's sampler.
        loss: Of one setting; lower is better. A setting fails where this is not finite or raises a
            `ValueError`; then the search goes on.

    Returns:
        The best setting; and of each setting its number, `params` as JSON and `loss`.

    Raises:
        TrainingError: Every setting failed; the message has the reason of the first.
    """
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    trials = []
    for number in range(spec.budget):
        trial = study.ask()
        drawn = {name: _draw(trial, name, of) for name, of in spec.params.items()} if number else {}
        setting = {**params, **drawn}
        value, reason = _try(loss, setting)
        finite = math.isfinite(value)
        study.tell(trial, value if finite else None, None if finite else TrialState.FAIL)
        trials.append((setting, value, reason))
    settings, losses, reasons = zip(*trials, strict=True)
    if not np.isfinite(losses).any():
        raise TrainingError(
            f"estimator.search: all of its {len(settings)} settings failed, the first because of: "
            f"{reasons[0]}"
        )
    table = {
        "setting": range(len(settings)),
        "params": [json.dumps(setting, sort_keys=True, default=str) for setting in settings],
        "loss": losses,
    }
    best = int(np.argmin(np.where(np.isfinite(losses), losses, np.inf)))
    return settings[best], pl.DataFrame(table)


def time_folds(blocks: pl.Series, count: int, gap: int) -> list[tuple[pl.Series, pl.Series]]:
    """Return folds of an expanding window, so that blocks are judged after those of the fit.

    Args:
        blocks: The block of each row; blocks are in the order of their names.
        count: How many folds.
        gap: Blocks left out between training and validation, whose labels would not be final yet.

    Returns:
        Of each fold a mask of the rows to fit on, and one of the rows to judge on.

    Raises:
        TrainingError: There are too few blocks.
    """
    from sklearn.model_selection import TimeSeriesSplit

    names = blocks.unique().sort()
    try:
        folds = list(TimeSeriesSplit(count, gap=gap).split(names))
    except ValueError as error:
        raise TrainingError(
            f"estimator.search: {len(names)} training partitions are too few for {count} folds "
            f"with a gap of {gap}: use fewer folds or a longer windows.train"
        ) from error
    return [(blocks.is_in(names[fit]), blocks.is_in(names[judge])) for fit, judge in folds]


def _try(loss: Callable[[Params], float], setting: Params) -> tuple[float, str]:
    """Return the loss of a setting, and why there is none."""
    try:
        return loss(setting), "the metric is undefined on every fold: use fewer folds"
    except ValueError as error:
        return math.nan, str(error)


def _draw(trial: "Trial", name: str, distribution: DistributionSpec) -> Any:
    if (values := distribution.values) is not None:
        return values[trial.suggest_categorical(name, range(len(values)))]
    low, high = float(distribution.low or 0), float(distribution.high or 0)
    if distribution.whole:
        return trial.suggest_int(name, math.ceil(low), math.floor(high), log=distribution.log)
    return trial.suggest_float(name, low, high, log=distribution.log)
