"""What Prometheus scrapes: requests as they are counted, and the state of models when it asks.

Names and labels are what `deploy/prometheus/` and `deploy/grafana/` are written for. Not here: what
is done about a figure.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from retrain_assets.serving.live_monitoring import Live
from retrain_assets.serving.prediction_log import PredictionLog
from retrain_assets.serving.scoring.follow import Followed

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
    "live_threshold": ("What it is held against.", _LIVE),
    "live_alert": ("Whether it is beyond.", _LIVE),
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
        families = {
            name: GaugeMetricFamily(f"retrain_{name}", said, labels=labels)
            for name, (said, labels) in GAUGES.items()
        }
        families["log_backlog_bytes"].add_metric([], self._log.backlog_bytes)
        for model in self._models:
            for name, further, value in self._samples(model):
                families[name].add_metric([model, *further], value)
        yield from families.values()

    def _samples(self, name: str) -> Iterator[tuple[str, list[str], float]]:
        """Figures of a model: which, of which lookup or measure, and how much."""
        model, now = self._models[name], self._clock()
        yield "ready", [], float(model.ready)
        yield "reload_failures", [], model.failures
        if model.serving is not None:
            row = model.serving.version.row
            yield "version", [], row.version
            yield "version_age_seconds", [], (now - row.time).total_seconds()
        for lookup, held in model.held.items():
            yield "lookup_age_seconds", [lookup], (now - held.changed).total_seconds()
            if held.bound is not None:
                yield "lookup_bound_seconds", [lookup], held.bound.total_seconds()
        for found in self._lives[name].observations:
            of = [found.role, found.measure, found.column]
            if found.statistic is not None:
                yield "live", of, found.statistic
            if found.threshold is not None:
                yield "live_threshold", of, found.threshold
                yield "live_alert", of, float(found.alert)
