"""What Prometheus reads: requests as they are counted, and the state of models when it asks.

`deploy/prometheus/` and `deploy/grafana/` depend on these names and labels. Not here: what is done
about a figure.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from retrain_assets.serving.live_monitoring import LiveMonitor
from retrain_assets.serving.prediction_log import PredictionLog
from retrain_assets.serving.scoring.served_model import ServedModel

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_MODEL = ("model",)
_LOOKUP, _LIVE = (*_MODEL, "lookup"), (*_MODEL, "role", "measure", "column")
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "log_backlog_bytes": ("Predictions that wait for storage.", ()),
    "ready": ("Whether the model answers.", _MODEL),
    "version": ("The version that answers.", _MODEL),
    "version_age_seconds": ("Time since the version was put into production.", _MODEL),
    "reload_failures": ("Versions or lookups that were refused since the start.", _MODEL),
    "lookup_age_seconds": ("Time since the table of a lookup last changed.", _LOOKUP),
    "lookup_bound_seconds": ("Age at which more of a lookup should have landed.", _LOOKUP),
    "live": ("A measure of the live stream.", _LIVE),
    "live_threshold": ("The bound of the measure.", _LIVE),
    "live_alert": ("Whether the measure is beyond its bound.", _LIVE),
}


class Metrics:
    """The figures of a service.

    Args:
        models: By name.
        monitors: The monitors of their live streams.
        log: The prediction log.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        monitors: Mapping[str, LiveMonitor],
        log: PredictionLog,
    ) -> None:
        self._models, self._monitors, self._log = models, monitors, log
        self.paths: frozenset[str] = frozenset()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._requests, self._rows = (
            Counter(f"retrain_{name}", description, labels, registry=self._registry)
            for name, description, labels in (
                ("requests", "Requests by path and status.", ["path", "status"]),
                ("rows", "Rows that were predicted.", ["model", "version"]),
            )
        )
        self._seconds = Histogram(
            "retrain_request_seconds",
            "Time to answer, by path.",
            ["path"],
            buckets=SECONDS,
            registry=self._registry,
        )

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request; a path that does not exist is counted as `other`."""
        path = path if path in self.paths else "other"
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_rows(self, model: str, version: int, rows: int) -> None:
        """Count predicted rows."""
        self._rows.labels(model, str(version)).inc(rows)

    def text(self) -> bytes:
        """Return all figures in the format of Prometheus."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the present state of the models."""
        gauges = {
            name: GaugeMetricFamily(f"retrain_{name}", description, labels=labels)
            for name, (description, labels) in GAUGES.items()
        }
        gauges["log_backlog_bytes"].add_metric([], self._log.backlog_bytes)
        for model in self._models.values():
            for name, value, *labels in self._samples(model):
                if value is not None:
                    gauges[name].add_metric([model.name, *labels], float(value))
        yield from gauges.values()

    def _samples(self, model: ServedModel) -> Iterator[tuple[Any, ...]]:
        """Yield figures of a model, each with its value and further labels."""
        now = datetime.now(UTC)
        yield "ready", model.ready
        yield "reload_failures", model.failures
        if model.serving is not None:
            row = model.serving.version.row
            yield "version", row.version
            yield "version_age_seconds", (now - row.time).total_seconds()
        for name, lookup in model.lookups.items():
            max_age = lookup.max_age and lookup.max_age.total_seconds()
            yield "lookup_age_seconds", (now - lookup.changed).total_seconds(), name
            yield "lookup_bound_seconds", max_age, name
        for observation in self._monitors[model.name].observations:
            labels = observation.role, observation.measure, observation.column
            has_bound = observation.threshold is not None
            yield "live", observation.statistic, *labels
            yield "live_threshold", observation.threshold, *labels
            yield "live_alert", observation.alert if has_bound else None, *labels
