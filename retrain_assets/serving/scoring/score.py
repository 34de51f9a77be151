"""Rows in, predictions out: one version, one state of the lookups, and what arrives together.

Requests that arrive while the loop is busy are scored in one go; nobody waits for others. Not here:
reading requests and writing answers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import polars as pl
from polars.exceptions import PanicException  # which is no Exception

from retrain_assets.domain.features.build import FeatureError
from retrain_assets.serving.scoring.follow import Followed, Serving
from retrain_assets.serving.scoring.request import RequestError, Row, Sent
from retrain_assets.serving.scoring.version import Version
from retrain_assets.steps.state import ModelState

Made = list[Any]
Asked = tuple[list[Row], asyncio.Future["Scored"]]

INLINE_ROWS = 1_000  # of a frame; more is handed to a thread, so that others are answered
TOGETHER_ROWS = 256


@dataclass(frozen=True)
class Scored:
    """Predictions of some rows.

    Args:
        version: That predicted all of them.
        features: A column each, in the order of `version.columns`: lists, or series of a frame.
        output: As `predict` of the domain gives it.
        shadow: What the candidate beside it predicted.
    """

    version: Version
    features: Made  # columns, as all that is done with them goes by column
    output: np.ndarray
    shadow: Scored | None = None

    def part(self, first: int, last: int) -> Scored:
        """Some of the rows."""
        shadow = self.shadow and self.shadow.part(first, last)
        features = [column[first:last] for column in self.features]
        return Scored(self.version, features, self.output[first:last], shadow)

    def unseen(self) -> dict[int, list[str]]:
        """Of the rows that have one, the features whose category was not there in training."""
        found: dict[int, list[str]] = {}
        for place, name, seen in self.version.categories:
            values = self.features[place]
            values = values.to_list() if isinstance(values, pl.Series) else values
            if new := {*values} - seen - {None}:
                for row in (row for row, value in enumerate(values) if value in new):
                    found.setdefault(row, []).append(name)
        return found


def score(model: Followed, rows: Sent) -> Scored:
    """Predict raw rows.

    Raises:
        RequestError: The model does not answer now, or features of a row cannot be made.
    """
    serving = answering(model)
    maker, quick = serving.maker, serving.maker.quick
    made: Made
    try:
        if quick is None:
            frame = maker.features(rows)
            names, made = frame.columns, _listed(frame, rows)
        else:
            names = quick.names
            made = quick.values(rows) if isinstance(rows, list) else quick.frame(rows)
    except FeatureError as error:
        raise RequestError(422, "features", str(error)) from error
    candidate = serving.shadow
    shadow = None if candidate is None else _scored(candidate, model, names, made)
    return replace(_scored(serving.version, model, names, made), shadow=shadow)


def score_features(version: Version, state: ModelState, frame: pl.DataFrame) -> Scored:
    """Predict rows of features, as a client of `mlflow models serve` sends them."""
    made = _listed(frame, [])
    return Scored(version, made, version.predict(state, made))


def answering(model: Followed) -> Serving:
    """What answers for a model.

    Raises:
        RequestError: Nothing does yet.
    """
    if model.serving is None:
        why = "; ".join(model.trouble.values()) or "it is being loaded"
        raise RequestError(503, "not_ready", f"model {model.name} does not answer yet: {why}")
    return model.serving


def _listed(frame: pl.DataFrame, rows: Sent) -> Made:
    """Columns of features as the rows came, in lists or as series."""
    return [column.to_list() for column in frame] if isinstance(rows, list) else frame.get_columns()


def _chosen(names: list[str], version: Version, made: Made) -> Made:
    if names == version.columns:
        return made
    return [made[names.index(name)] for name in version.columns]


def _scored(version: Version, model: Followed, names: list[str], made: Made) -> Scored:
    chosen = _chosen(names, version, made)
    return Scored(version, chosen, version.predict(model.state, chosen))


class Batcher:
    """Scores together what arrives together.

    Args:
        model: Whose rows.
    """

    def __init__(self, model: Followed) -> None:
        self._model = model
        self._waiting: list[Asked] = []
        self._task: asyncio.Task[None] | None = None

    async def score(self, rows: Sent) -> Scored:
        """Predict the rows of one request.

        Raises:
            RequestError: As `score`, of these rows alone.
        """
        if isinstance(rows, pl.DataFrame):
            if self._is_quick() and rows.height <= INLINE_ROWS:
                return score(self._model, rows)
            return await asyncio.to_thread(score, self._model, rows)
        answer: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, answer))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await answer

    def _is_quick(self) -> bool:
        serving = self._model.serving
        return bool(serving and serving.maker.quick and serving.version.quick)

    async def _run(self) -> None:
        try:
            while self._waiting:
                counts = accumulate(len(rows) for rows, _ in self._waiting)
                fitting = max(1, sum(count <= TOGETHER_ROWS for count in counts))
                taken, self._waiting = self._waiting[:fitting], self._waiting[fitting:]
                if self._is_quick():
                    found = self._scored(taken)
                else:
                    found = await asyncio.to_thread(self._scored, taken)
                _give(taken, found)
        finally:
            self._task = None

    def _scored(self, taken: list[Asked]) -> list[Scored | BaseException]:
        """What became of each request; where they fail together, each alone."""
        try:
            whole = score(self._model, [row for rows, _ in taken for row in rows])
        except (Exception, PanicException) as error:  # noqa: BLE001 it is the answer
            if len(taken) == 1:
                return [error]
            return [found for one in taken for found in self._scored([one])]
        ends = list(accumulate((len(rows) for rows, _ in taken), initial=0))
        return [whole.part(first, last) for first, last in pairwise(ends)]


def _give(taken: list[Asked], found: list[Scored | BaseException]) -> None:
    for (_, answer), result in zip(taken, found, strict=True):
        if answer.done():
            continue  # who asked has gone
        if isinstance(result, BaseException):
            answer.set_exception(result)
        else:
            answer.set_result(result)
