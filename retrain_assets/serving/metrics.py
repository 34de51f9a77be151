"""What Prometheus scrapes: requests as they are counted, and the state of models when it asks.

Names and labels are what `deploy/prometheus/` and `deploy/grafana/` are written for. Not here: what
is done about a figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from prometheus_client.metrics_core import Metric

    from retrain_assets.serving.follow import Followed
    from retrain_assets.serving.live import Live
    from retrain_assets.serving.log import PredictionLog

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
GAUGES = {
    "ready": "Whether the model answers.",
    "version": "The version that answers.",
    "version_age_seconds": "Time since the version was put into production.",
    "reload_failures": "Changes of version or lookups that were refused since the start.",
}


class Metrics:
    """The figures of a service.

    Args:
        models: By name.
        lives: What is seen of their live streams.
        log: The prediction log.
        clock: Says the time.
    """

    def __init__(
        self,
        models: Mapping[str, Followed],
        lives: Mapping[str, Live],
        log: PredictionLog,
        clock: Callable[[], datetime],
    ) -> None:
        self._models, self._lives, self._log, self._clock = models, lives, log, clock
        self.paths: frozenset[str] = frozenset()
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "retrain_requests",
            "Requests by path and status.",
            ["path", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "retrain_request_seconds",
            "Time to answer, by path.",
            ["path"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._rows = Counter(
            "retrain_rows",
            "Rows that were predicted.",
            ["model", "version"],
            registry=self._registry,
        )
        self._registry.register(self)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request; a path that is none is counted as `other`."""
        path = path if path in self.paths else "other"
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def predicted(self, model: str, version: int, rows: int) -> None:
        """Count rows."""
        self._rows.labels(model, str(version)).inc(rows)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The state of models now."""
        backlog = "Predictions that wait for storage."
        yield GaugeMetricFamily("retrain_log_backlog_bytes", backlog, value=self._log.backlog_bytes)
        states = {name: self._state(model) for name, model in self._models.items()}
        for gauge, said in GAUGES.items():
            family = GaugeMetricFamily(f"retrain_{gauge}", said, labels=["model"])
            for name, found in states.items():
                if gauge in found:
                    family.add_metric([name], found[gauge])
            yield family
        yield from self._lookup_ages()
        yield from self._live()

    def _state(self, model: Followed) -> dict[str, float]:
        found = {"ready": float(model.ready), "reload_failures": float(model.failures)}
        if model.serving is not None:
            row = model.serving.version.row
            age = (self._clock() - row.time).total_seconds()
            found |= {"version": float(row.version), "version_age_seconds": age}
        return found

    def _lookup_ages(self) -> Iterator[Metric]:
        said, labels = "Time since the table of a lookup last changed.", ["model", "lookup"]
        ages = GaugeMetricFamily("retrain_lookup_age_seconds", said, labels=labels)
        said = "Age at which more of a lookup should have landed."
        bounds = GaugeMetricFamily("retrain_lookup_bound_seconds", said, labels=labels)
        for name, model in self._models.items():
            for lookup, held in model.held.items():
                age = (self._clock() - held.changed).total_seconds()
                ages.add_metric([name, lookup], age)
                if held.bound is not None:
                    bounds.add_metric([name, lookup], held.bound.total_seconds())
        yield from (ages, bounds)

    def _live(self) -> Iterator[Metric]:
        labels = ["model", "role", "measure", "column"]
        families = [
            GaugeMetricFamily("retrain_live", "A measure of the live stream.", labels=labels),
            GaugeMetricFamily("retrain_live_threshold", "What it is held against.", labels=labels),
            GaugeMetricFamily("retrain_live_alert", "Whether it is beyond.", labels=labels),
        ]
        for name, live in self._lives.items():
            for found in live.observations:
                values = (found.statistic, found.threshold, float(found.alert))
                watched = found.threshold is not None
                for family, value in zip(families, values, strict=True):
                    if value is not None and (watched or family is families[0]):
                        family.add_metric([name, found.role, found.measure, found.column], value)
        yield from families
