"""The live stream of a model, monitored by the functions that monitor its partitions.

The newest logged predictions of the version that answers are profiled and compared with the data it
was trained on, and with their labels as soon as these have landed and features were built of them.
Troubles of the service are stored where `<m>_messages` reads them. Not here: the measures, and what
is done about them.
"""

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift import observations as watch
from retrain_assets.domain.drift import performance_estimate, profile
from retrain_assets.domain.features.build import KEY
from retrain_assets.domain.metrics.metrics import block_values, get_followed_metric
from retrain_assets.serving.prediction_log import LIVE, TABLE
from retrain_assets.serving.scoring.served_model import ServedModel, Version
from retrain_assets.steps.decision import evaluate, train
from retrain_assets.steps.upkeep import messages

MAX_ROWS, SPAN = 20_000, timedelta(days=1)  # of the newest predictions, which are one block
MIN_ROWS, INTERVAL = 100, timedelta(seconds=30)


class LiveMonitor:
    """Monitors the live stream of one model.

    Args:
        model: The model.
        report: Takes a line for whoever runs the service.
    """

    def __init__(self, model: ServedModel, report: Callable[[str], None]) -> None:
        self._model, self._report = model, report
        self._table_version: int | None = None
        self._observed_at = datetime.min.replace(tzinfo=UTC)
        self.observations: list[watch.Observation] = []
        self._reported: dict[str, dict[Any, str]] = {}

    def observe(self) -> None:
        """Compute the measures of the newest predictions, if there are new ones."""
        tables, name = self._model.state.tables, self._model.state.table(TABLE)
        now, serving = datetime.now(UTC), self._model.serving
        if serving is None or now - self._observed_at < INTERVAL:
            return
        self._observed_at, table_version = now, tables.version(name)
        if table_version in (None, self._table_version):
            return
        recent = (pl.col("_time") > now - SPAN) & (pl.col("_role") == LIVE)
        recent &= pl.col("_version") == serving.version.number
        newest = tables.scan(name).filter(recent).sort("_time", descending=True).head(MAX_ROWS)
        types = serving.version.schema  # a column may hold what is text in another version
        rows = tables.collect(newest, name).cast(types)  # type: ignore[arg-type]
        is_enough = rows.height >= MIN_ROWS
        self.observations = list(self._observations(rows, serving.version)) if is_enough else []
        alerts = {
            (o.role, o.measure, o.column): f"{self._model.name}: live {o.role} {o.column}: "
            f"{_describe(o)}"
            for o in self.observations
            if o.alert
        }
        for text in self._select_new("alerts", alerts).values():
            self._report(text)
        self._table_version = table_version

    def _observations(self, rows: pl.DataFrame, version: Version) -> Iterator[watch.Observation]:
        state, block = self._model.state, pl.lit("live").alias(PARTITION)
        yield watch.Observation(watch.VOLUME, "rows", "", float(rows.height))
        reference = state.trained_profile(version.row.data_range)
        current = profile.merge(profile.build_profile(rows.select(block, *version.columns)))
        yield from watch.observe_drift(
            watch.FEATURE, state.spec.triggers.data_drift, reference, current
        )
        if version.row.candidate is not None:
            candidate, table = str(version.row.candidate), state.table("reference")
            stored = state.tables.read(table, [candidate], profile.PROFILE_SCHEMA)
            output = rows.select(block, train.to_column(version.classes, _output(rows, version)))
            stored = stored.filter(pl.col("column") == train.PREDICTION_COLUMN)
            sides = profile.merge(stored), profile.merge(profile.build_profile(output))
            trigger = state.spec.triggers.prediction_drift
            yield from watch.observe_drift(watch.PREDICTION, trigger, *sides)
        yield from self._performance(rows, version)

    def _performance(self, rows: pl.DataFrame, version: Version) -> Iterator[watch.Observation]:
        """Yield performance as calibrated probabilities promise it, and on rows with a label."""
        state, candidate = self._model.state, version.row.candidate
        trigger, target = state.spec.triggers.performance, state.spec.target.column
        if trigger is None:
            return
        metric, values = get_followed_metric(trigger, state.spec.gate), {}
        if trigger.estimated and candidate is not None:
            calibration = evaluate.read_calibration(state, candidate)
            if calibration is not None:
                promised = performance_estimate.estimate(
                    metric, _output(rows, version), calibration
                )
                values[watch.ESTIMATED] = [(promised, rows.height)]
        stored = state.tables.read(state.table("features"), rows[PARTITION].unique().to_list())
        labels = stored.select(PARTITION, KEY, pl.col(target).alias("_label")).drop_nulls()
        labelled = rows.join(labels, on=[PARTITION, KEY])
        if labelled.height:
            truth, output = labelled["_label"].to_numpy(), _output(labelled, version)
            blocks = block_values(metric, truth, output, labelled[PARTITION], version.classes)
            values[watch.PERFORMANCE] = blocks.drop_nulls("value").select("value", "rows").rows()
        baseline = version.row.metrics.get(trigger.metric, math.nan)
        for role, pairs in values.items():
            observation = watch.observe_performance(state.spec, role, pairs, baseline)
            if observation is not None:
                yield observation

    def store_troubles(self, now: datetime | None = None) -> None:
        """Store for the messages the troubles that have begun since the last call."""
        now = now or datetime.now(UTC)
        if new := self._select_new("troubles", dict(self._list_troubles(now))):
            messages.store_troubles(self._model.state, new, now)

    def _select_new(self, kind: str, texts: dict[Any, str]) -> dict[Any, str]:
        """Return the texts of causes that the last call did not have."""
        before, self._reported[kind] = self._reported.get(kind, {}), texts
        return {cause: text for cause, text in texts.items() if cause not in before}

    def _list_troubles(self, now: datetime) -> Iterator[tuple[str, str]]:
        """Yield cause and sentence of everything that is wrong with the model now."""
        name = self._model.name
        yield from self._model.troubles.items()
        for lookup, rows in self._model.lookups.items():
            if rows.max_age is not None and now - rows.changed > rows.max_age:
                yield f"lookup {lookup}", f"{name}: lookup {lookup} is stale since {rows.changed}"
        for observation in self.observations:
            if observation.role == watch.PERFORMANCE and observation.alert:
                yield f"live {observation.measure}", f"{name}: live {_describe(observation)}"


def _describe(observation: watch.Observation) -> str:
    """Return an observation as a clause with its bound."""
    return (
        f"{observation.measure} is {observation.statistic:.3g}, its bound "
        f"{observation.threshold:.3g}"
    )


def _output(rows: pl.DataFrame, version: Version) -> np.ndarray:
    """Return logged predictions in the shape that `predict` of the domain gives."""
    logged = rows["_prediction"]
    if logged.dtype == pl.List:
        logged = logged.list.to_array(len(version.classes or ()))
    return logged.to_numpy()
