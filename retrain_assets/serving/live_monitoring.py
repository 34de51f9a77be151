"""The live stream of a model, watched by the functions that watch its partitions.

The newest logged predictions of the version that answers are profiled and compared with what it was
trained on, and with its labels as soon as these have landed and features were built of them. Not
here: the measures, and what is done about them.

What people are told of the service: troubles, left where `<m>_messages` reads them.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift import observations as watch
from retrain_assets.domain.drift.observations import PERFORMANCE
from retrain_assets.domain.drift.performance_estimate import estimate
from retrain_assets.domain.drift.profile import PROFILE_SCHEMA, build_profile, merge
from retrain_assets.domain.features.build import KEY
from retrain_assets.domain.metrics.metrics import block_values, get_followed_metric
from retrain_assets.serving.prediction_log import LIVE, TABLE
from retrain_assets.serving.scoring.follow import Followed
from retrain_assets.serving.scoring.version import Version
from retrain_assets.steps.decision.evaluate import read_calibration
from retrain_assets.steps.decision.train import to_column
from retrain_assets.steps.upkeep.messages import leave

ROWS, SPAN = 20_000, timedelta(days=1)  # at most, of the newest predictions: one block
FEWEST, EVERY = 100, timedelta(seconds=30)


class Live:
    """What is seen of the live stream.

    Args:
        model: The model.
        clock: Says the time.
        tell: Takes a line for whoever runs the service.
    """

    def __init__(
        self, model: Followed, clock: Callable[[], datetime], tell: Callable[[str], None]
    ) -> None:
        self._model, self._clock, self._tell = model, clock, tell
        self._seen: int | None = None
        self._looked = datetime.min.replace(tzinfo=UTC)
        self.observations: list[watch.Observation] = []
        self._alerts: set[tuple[str, str, str]] = set()

    def look(self) -> None:
        """Look at the newest predictions, if there are new ones."""
        tables, name = self._model.state.tables, self._model.state.table(TABLE)
        now, serving = self._clock(), self._model.serving
        if serving is None or now - self._looked < EVERY:
            return
        self._looked, version = now, tables.version(name)
        if version in (None, self._seen):
            return
        since, number = now - SPAN, serving.version.number
        wanted = (pl.col("_time") > since) & (pl.col("_role") == LIVE)
        wanted &= pl.col("_version") == number
        newest = tables.scan(name).filter(wanted).sort("_time", descending=True).head(ROWS)
        rows = tables.collect(newest, name)
        seen = self._observed(rows, serving.version) if rows.height >= FEWEST else ()
        self.observations = list(seen)
        self._tell_alerts()
        self._seen = version

    def _observed(self, rows: pl.DataFrame, version: Version) -> Iterator[watch.Observation]:
        state, block = self._model.state, pl.lit("live").alias(PARTITION)
        yield watch.Observation(watch.VOLUME, "rows", "", float(rows.height))
        reference = state.trained_profile(version.row.data_range)
        current = merge(build_profile(rows.select(block, *version.columns)))
        yield from watch.observe_drift(
            watch.FEATURE, state.spec.triggers.data_drift, reference, current
        )
        answered = _output(rows, version)
        if version.row.candidate is not None:
            candidate, table = str(version.row.candidate), state.table("reference")
            stored = state.tables.read(table, [candidate], PROFILE_SCHEMA)
            output = rows.select(block, to_column(version.classes, answered))
            trigger = state.spec.triggers.prediction_drift
            yield from watch.observe_drift(
                watch.PREDICTION, trigger, merge(stored), merge(build_profile(output))
            )
            yield from self._estimated(answered, version)
        yield from self._realised(rows, version)

    def _estimated(self, output: np.ndarray, version: Version) -> Iterator[watch.Observation]:
        """What performance the calibrated probabilities promise, before any label."""
        state, candidate = self._model.state, version.row.candidate
        trigger = state.spec.triggers.performance
        calibrated = read_calibration(state, candidate)
        if trigger is None or calibrated is None or not trigger.estimated:
            return
        baseline = version.row.metrics.get(trigger.metric, math.nan)
        value = estimate(get_followed_metric(trigger, state.spec.gate), output, calibrated)
        found = watch.observe_performance(
            state.spec, watch.ESTIMATED, [(value, len(output))], baseline
        )
        if found is not None:
            yield found

    def _realised(self, rows: pl.DataFrame, version: Version) -> Iterator[watch.Observation]:
        """Performance on the rows whose label has landed, joined by the dataset's key."""
        state, target = self._model.state, self._model.state.spec.target
        trigger = state.spec.triggers.performance
        if trigger is None:
            return
        baseline = version.row.metrics.get(trigger.metric, math.nan)
        days = rows[PARTITION].unique().to_list()
        stored = state.tables.read(state.table("features"), days)
        labels = stored.select(PARTITION, KEY, target.column).drop_nulls()
        joined = rows.join(labels.rename({target.column: "_label"}), on=[PARTITION, KEY])
        if joined.is_empty():
            return
        values = block_values(
            get_followed_metric(trigger, state.spec.gate),
            joined["_label"].to_numpy(),
            _output(joined, version),
            joined[PARTITION],
            version.classes,
        ).drop_nulls("value")
        pairs = list(values.select("value", "rows").iter_rows())
        found = watch.observe_performance(state.spec, watch.PERFORMANCE, pairs, baseline)
        if found is not None:
            yield found

    def _tell_alerts(self) -> None:
        """Tell each measure once when it crosses its bound."""
        beyond = {(o.role, o.measure, o.column): o for o in self.observations if o.alert}
        for key in beyond.keys() - self._alerts:
            found = beyond[key]
            self._tell(
                f"{self._model.name}: live {found.role} {found.column}: {found.measure} is "
                f"{found.statistic:.3g}, its bound {found.threshold:.3g}"
            )
        self._alerts = set(beyond)


def _output(rows: pl.DataFrame, version: Version) -> np.ndarray:
    """Logged predictions, as `performance` says."""
    logged = rows["_prediction"]
    return (
        logged.list.to_array(len(version.classes or ())) if logged.dtype == pl.List else logged
    ).to_numpy()


class Events:
    """The troubles of a service.

    Args:
        models: By name.
        lives: What is seen of their live streams.
        clock: Says the time.
    """

    def __init__(
        self,
        models: Mapping[str, Followed],
        lives: Mapping[str, Live],
        clock: Callable[[], datetime],
    ) -> None:
        self._models, self._lives, self._clock = models, lives, clock
        self._told: dict[str, dict[str, str]] = {}

    def leave(self) -> None:
        """Leave what has begun since it was last asked."""
        now = self._clock()
        for name, model in self._models.items():
            found, told = dict(self._troubles(name, now)), self._told.get(name, {})
            if fresh := {cause: text for cause, text in found.items() if cause not in told}:
                leave(model.state, fresh, now)
            self._told[name] = found

    def _troubles(self, name: str, now: datetime) -> Iterator[tuple[str, str]]:
        """Cause and sentence of all that is wrong with a model now."""
        model = self._models[name]
        yield from model.trouble.items()
        for lookup, held in model.held.items():
            if held.bound is not None and now - held.changed > held.bound:
                yield f"lookup {lookup}", f"{name}: lookup {lookup} is stale since {held.changed}"
        for found in self._lives[name].observations:
            if found.role == PERFORMANCE and found.alert:
                said = f"{found.statistic:.3g}, its bound {found.threshold:.3g}"
                yield f"live {found.measure}", f"{name}: live {found.measure} is {said}"
