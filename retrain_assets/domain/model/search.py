"""Search the settings of an estimator by optuna's TPE sampler over time-ordered folds.

A search can go on where a killed run ended: the caller keeps what was tried, and the same seed asks
for the same settings again. Not here: fitting on a fold, and storing what was tried.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from retrain_assets.domain.model.families.family import TrainingError
from retrain_assets.specs.model import DistributionSpec, SearchSpec

if TYPE_CHECKING:
    from optuna import Study, Trial

Params = dict[str, Any]
State = Literal["judged", "pruned", "failed"]
UNDEFINED = "the metric is undefined on every fold: use fewer folds"


@dataclass(frozen=True)
class Setting:
    """A setting that was tried.

    Args:
        params: As JSON, with sorted keys.
        losses: Of the folds that it was judged on, in order; NaN where the metric is undefined.
        state: `pruned` settings were worse than most on their first folds; `failed` ones have no
            loss.
        reason: Why it failed.
        seconds: How long that took.
    """

    params: str
    losses: tuple[float, ...]
    state: State
    reason: str
    seconds: float

    @property
    def loss(self) -> float:
        """Return the mean over the folds where it is defined, else NaN."""
        return _mean(self.losses)


class Journal:
    """The settings that a search has tried, in order; a search goes on where its journal ends."""

    def __init__(
        self, settings: Iterable[Setting] = (), clock: Callable[[], float] = lambda: 0.0
    ) -> None:
        """Begin a journal.

        Args:
            settings: Settings that were tried before.
            clock: Seconds since any start, by which `minutes` is kept; by default it stands still.
        """
        self.settings, self.clock = list(settings), clock

    def add(self, setting: Setting) -> None:
        """Keep one more setting."""
        self.settings.append(setting)


def search(
    spec: SearchSpec,
    params: Mapping[str, Any],
    seed: int,
    judge: Callable[[Params], Iterable[float]],
    journal: Journal | None = None,
) -> tuple[Params, pl.DataFrame]:
    """Try settings and return the one with the least loss, the earlier of equals.

    Args:
        spec: The distributions, how many settings are tried, and for how long.
        params: The first setting; later ones replace the parameters that have a distribution.
        seed: Of optuna's sampler.
        judge: Yield the loss of a setting on each fold; lower is better. A setting fails where no
            loss is finite, or where a `ValueError` is raised; then the search goes on.
        journal: What was tried before, which is not tried again; each setting is added to it.

    Returns:
        The best setting; and of each setting its number, `params` as JSON, `state`, number of
        `folds` that it was judged on, and `loss`, the mean over these.

    Raises:
        TrainingError: Every setting failed; the message has the reason of the first.
    """
    journal = journal or Journal()
    past = {setting.params: setting for setting in journal.settings}
    study, trials, settings = _new_study(spec, seed), list[Params](), list[Setting]()
    limit = 60 * (spec.minutes or math.inf)
    for number in range(spec.budget):
        if number and sum(setting.seconds for setting in settings) >= limit:
            break
        trial = study.ask()
        draws = {name: _draw(trial, name, of) for name, of in spec.params.items()} if number else {}
        trials.append({**params, **draws})
        text = json.dumps(trials[-1], sort_keys=True, default=str)
        recalled = past.get(text)
        losses = judge(trials[-1]) if recalled is None else recalled.losses
        setting = _try(trial, text, losses, journal.clock)
        if recalled is None:
            journal.add(setting)
        setting = past.setdefault(text, setting)
        _tell(study, trial, setting)
        settings.append(setting)
    losses = [setting.loss if setting.state == "judged" else math.inf for setting in settings]
    if not np.isfinite(losses).any():
        raise TrainingError(
            f"estimator.search: all of its {len(settings)} settings failed, the first because of: "
            f"{settings[0].reason}"
        )
    return trials[int(np.argmin(losses))], _to_table(settings)


def _new_study(spec: SearchSpec, seed: int) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.MedianPruner() if spec.prune else optuna.pruners.NopPruner()
    return optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner)


def _try(trial: Trial, params: str, losses: Iterable[float], clock: Callable[[], float]) -> Setting:
    """Judge a setting fold by fold, until it is worse than most others on as many folds."""
    start, values, reason = clock(), list[float](), ""
    is_pruned = False
    try:
        for loss in losses:
            values.append(float(loss))
            if math.isfinite(mean := _mean(values)):
                trial.report(mean, len(values))
                if is_pruned := trial.should_prune():
                    break
    except ValueError as error:
        reason = str(error)
    if not reason and not math.isfinite(_mean(values)):
        reason = UNDEFINED
    state: State = "failed" if reason else "pruned" if is_pruned else "judged"
    return Setting(params, tuple(values), state, reason, clock() - start)


def _tell(study: Study, trial: Trial, setting: Setting) -> None:
    from optuna.trial import TrialState

    states = {"judged": None, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    value = setting.loss if setting.state == "judged" else None
    study.tell(trial, value, states[setting.state])


def _mean(losses: Iterable[float]) -> float:
    defined = [loss for loss in losses if not math.isnan(loss)]
    return float(np.mean(defined)) if defined else math.nan


def _to_table(settings: list[Setting]) -> pl.DataFrame:
    rows = [(item.params, item.state, len(item.losses), item.loss) for item in settings]
    table = pl.DataFrame(rows, ["params", "state", "folds", "loss"], orient="row")
    return table.with_row_index("setting")


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


def _draw(trial: Trial, name: str, distribution: DistributionSpec) -> Any:
    if (values := distribution.values) is not None:
        return values[trial.suggest_categorical(name, range(len(values)))]
    low, high = float(distribution.low or 0), float(distribution.high or 0)
    if distribution.is_integer:
        return trial.suggest_int(name, math.ceil(low), math.floor(high), log=distribution.log)
    return trial.suggest_float(name, low, high, log=distribution.log)
