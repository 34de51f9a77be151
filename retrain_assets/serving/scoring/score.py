"""Rows in, predictions out: one version, one state of the lookups, and what arrives together.

Requests that arrive while the loop is busy are scored together; no request waits for others. Not
here: reading requests and writing answers.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import polars as pl
from polars.exceptions import PanicException  # which is no Exception

from retrain_assets.domain.data.row_wise import SQL_ERRORS
from retrain_assets.domain.features.build import FeatureError
from retrain_assets.domain.model.estimator import PredictionError
from retrain_assets.serving.scoring.request import RequestError, RequestRows, Row
from retrain_assets.serving.scoring.rows import FeatureMaker
from retrain_assets.serving.scoring.served_model import (
    ServedLayer,
    ServedModel,
    Serving,
    Version,
)
from retrain_assets.steps.state import ModelState

Columns = list[Any]
Job = tuple[list[Row], asyncio.Future["Scored"]]

INLINE_ROWS = 1_000  # of a frame; more is handed to a thread, so that others are answered
BATCH_ROWS = 256


@dataclass(frozen=True)
class Scored:
    """Predictions of some rows.

    Args:
        version: The version that predicted all of them.
        features: A column each, in the order of `version.columns`: lists, or series of a frame.
        output: As `predict` of the domain gives it.
        shadow: The predictions of the shadow version.
        half_width: How far the interval reaches on each side of a prediction; None without one.
        layer: The partition of the state of the adaptive layer; None if the version answers alone.
        newest: What the version predicts by itself, where the layer serves.
    """

    version: Version
    features: Columns  # columns, as all that is done with them goes by column
    output: np.ndarray
    shadow: Scored | None = None
    half_width: float | None = None
    layer: str | None = None
    newest: np.ndarray | None = None

    @property
    def states(self) -> list[str | None]:
        """Return of each row the state that it is answered by; None where the newest is alone."""
        if self.newest is None:
            return [None] * len(self.output)
        moved = (self.output != self.newest).reshape(len(self.output), -1).any(axis=1)
        return [self.layer if is_moved else None for is_moved in moved.tolist()]

    def part(self, first: int, last: int) -> Scored:
        """Return some of the rows."""
        shadow = self.shadow and self.shadow.part(first, last)
        features = [column[first:last] for column in self.features]
        newest = None if self.newest is None else self.newest[first:last]
        part = replace(self, features=features, output=self.output[first:last], shadow=shadow)
        return replace(part, newest=newest)

    def unseen(self) -> dict[int, list[str]]:
        """Return, by row, the features whose category did not occur in training."""
        features: dict[int, list[str]] = {}
        for place, name, trained in self.version.categories:
            values = list(self.features[place])
            if new := {*values} - trained - {None}:
                for row in (row for row, value in enumerate(values) if value in new):
                    features.setdefault(row, []).append(name)
        return features


def score(model: ServedModel, rows: RequestRows) -> Scored:
    """Predict raw rows.

    Raises:
        RequestError: The model does not answer now, or features or the prediction of a row cannot
            be computed.
    """
    serving = require_serving(model)
    try:
        features = _make_features(serving.maker, rows)
    except FeatureError as error:
        raise RequestError(422, "features", str(error)) from error
    scored = predict_columns(serving.version, model.state, features, serving.layer)
    scored = replace(scored, half_width=serving.half_width)
    if serving.shadow is None:
        return scored
    try:
        return replace(scored, shadow=predict_columns(serving.shadow, model.state, features))
    except RequestError:  # the shadow version answers nobody, so it refuses nobody
        return scored


def _make_features(maker: FeatureMaker, rows: RequestRows) -> dict[str, Any]:
    """Return the features of rows by column.

    Raises:
        FeatureError: Those of a row cannot be computed.
    """
    quick = maker.quick
    if quick is not None:
        with suppress(*SQL_ERRORS):  # the slow way tells which row fails
            columns = quick.values(rows) if isinstance(rows, list) else quick.frame(rows)
            return dict(zip(quick.names, columns, strict=True))
    frame = maker.features(rows)
    return frame.to_dict(as_series=not isinstance(rows, list))


def predict_columns(
    version: Version, state: ModelState, features: dict[str, Any], layer: ServedLayer | None = None
) -> Scored:
    """Predict rows of features, given by column.

    Raises:
        RequestError: The prediction of a row is not finite.
    """
    columns = [features[name] for name in version.columns]
    try:
        output = version.predict(state, columns)
    except PredictionError as error:
        raise RequestError(422, "prediction", str(error)) from error
    if layer is None:
        return Scored(version, columns, output)
    served = layer.predict(version, state, features, output)
    if served is output:
        return Scored(version, columns, output)
    return Scored(version, columns, served, layer=layer.newest.name, newest=output)


def require_serving(model: ServedModel) -> Serving:
    """Return what answers for a model.

    Raises:
        RequestError: Nothing does yet.
    """
    if model.serving is None:
        reason = "; ".join(model.troubles.values()) or "it is being loaded"
        raise RequestError(503, "not_ready", f"model {model.name} does not answer yet: {reason}")
    return model.serving


class Batcher:
    """Scores together the requests that arrive together.

    Args:
        model: The model whose rows they are.
    """

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._waiting: list[Job] = []
        self._task: asyncio.Task[None] | None = None

    async def score(self, rows: RequestRows) -> Scored:
        """Predict the rows of one request.

        Raises:
            RequestError: As `score`, of these rows alone.
        """
        if isinstance(rows, pl.DataFrame):
            if rows.height <= INLINE_ROWS and self._is_quick(rows.height):
                return score(self._model, rows)
            return await asyncio.to_thread(score, self._model, rows)
        answer: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, answer))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await answer

    def _is_quick(self, rows: int) -> bool:
        serving = self._model.serving
        return bool(serving and serving.maker.quick and serving.version.is_quick(rows))

    async def _run(self) -> None:
        try:
            while self._waiting:
                counts = accumulate(len(rows) for rows, _ in self._waiting)
                fitting = max(1, sum(count <= BATCH_ROWS for count in counts))
                jobs, self._waiting = self._waiting[:fitting], self._waiting[fitting:]
                if self._is_quick(sum(len(rows) for rows, _ in jobs)):
                    results = self._score(jobs)
                else:
                    results = await asyncio.to_thread(self._score, jobs)
                for (_, answer), result in zip(jobs, results, strict=True):
                    if answer.done():
                        continue  # the client has gone
                    if isinstance(result, BaseException):
                        answer.set_exception(result)
                    else:
                        answer.set_result(result)
        finally:
            self._task = None

    def _score(self, jobs: list[Job]) -> list[Scored | BaseException]:
        """Return the result of each request; where they fail together, each is scored alone."""
        try:
            scored = score(self._model, [row for rows, _ in jobs for row in rows])
        except (Exception, PanicException) as error:  # noqa: BLE001 it is the answer
            if len(jobs) == 1:
                return [error]
            return [result for job in jobs for result in self._score([job])]
        ends = list(accumulate((len(rows) for rows, _ in jobs), initial=0))
        return [scored.part(first, last) for first, last in pairwise(ends)]
