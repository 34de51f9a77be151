"""Build and monitor the models of all segments in one pass: each row of the dataset is read once.

A model that fails leaves the others as they are. Not here: what is built of one model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.many_tests import alert_together
from retrain_assets.domain.drift.observations import FEATURE, P_VALUE, PREDICTION, TARGET
from retrain_assets.specs.triggers import TriggersSpec
from retrain_assets.steps.decision import layer
from retrain_assets.steps.features import build
from retrain_assets.steps.features.rows import Rows
from retrain_assets.steps.monitoring import adapt, monitor, predict, watch
from retrain_assets.steps.state import ModelState

MODEL = "model"
Records = list[dict[str, object]]


@dataclass
class Outcome:
    """The results of the models of all segments.

    Args:
        models: How many were built.
        rows: How many rows were stored of each table.
        alerts: Monitored rows that alert, with the model.
        mismatches: Where features do not match those of the training, with the model.
        refused: Rows without features, with the model.
        worse: Models whose version is worse than the one before, and what is known of that.
        failures: Models that could not be built, and why.
    """

    models: int
    rows: dict[str, int] = field(default_factory=dict)
    alerts: list[pl.DataFrame] = field(default_factory=list)
    mismatches: Records = field(default_factory=list)
    refused: Records = field(default_factory=list)
    worse: Records = field(default_factory=list)
    failures: dict[str, Exception] = field(default_factory=dict)


def monitor_members(
    states: Sequence[ModelState],
    partitions: Sequence[str],
    run_id: str,
    report: Callable[[str], None],
) -> Outcome:
    """Build and monitor some partitions of models of one dataset.

    Args:
        states: The models.
        partitions: The partitions; few enough to be in memory are read at a time.
        run_id: The run.
        report: Takes a line for whoever reads the log.

    Raises:
        NotReadyError: None of the partitions has landed.
        Exception: What each of the models failed with.
    """
    ready = build.list_ready(states[0], partitions, states[0].sources())
    outcome = Outcome(len(states))
    for keys in Rows(states[0]).batches(ready):
        _monitor_batch(states, keys, run_id, outcome)
        report(f"{keys[0]} to {keys[-1]}: {len(states) - len(outcome.failures)} models")
    if len(outcome.failures) == len(states):
        raise next(iter(outcome.failures.values()))
    outcome.models -= len(outcome.failures)
    return outcome


def _monitor_batch(
    states: Sequence[ModelState], keys: Sequence[str], run_id: str, outcome: Outcome
) -> None:
    observed: dict[str, monitor.Observed] = {}

    def build_(state: ModelState) -> None:
        _build(state, keys, run_id, outcome)
        observed[state.spec.name] = monitor.observe(state, keys)

    _try_each(states, build_, outcome)
    triggers = states[0].spec.triggers
    together = _alert_together(triggers, observed) if len(states) > 1 else observed

    def store(state: ModelState) -> None:
        _store(state, together[state.spec.name], run_id, outcome)

    _try_each(states, store, outcome)


def _try_each(
    states: Sequence[ModelState], work: Callable[[ModelState], None], outcome: Outcome
) -> None:
    """Do the work for each model that has not failed yet."""
    for state in states:
        if (name := state.spec.name) in outcome.failures:
            continue
        try:
            work(state)
        except Exception as error:  # noqa: BLE001 the others go on; the check names it
            outcome.failures[name] = error


def _build(state: ModelState, keys: Sequence[str], run_id: str, outcome: Outcome) -> None:
    model = {MODEL: state.spec.name}
    features = build.build_features(state, keys, run_id)
    outcome.mismatches += [{**model, **case} for case in features.mismatches]
    outcome.refused += [{**model, **row} for row in features.refused]
    results: dict[str, build.BuildResult | build.FeaturesResult] = {
        "features": features,
        "profile": build.build_profiles(state, keys, run_id),
        "predictions": predict.predict_partitions(state, keys, run_id),
    }
    for name, result in results.items():
        outcome.rows[name] = outcome.rows.get(name, 0) + result.count


def _alert_together(
    triggers: TriggersSpec, observed: Mapping[str, monitor.Observed]
) -> dict[str, monitor.Observed]:
    """Return what was observed, with the alarms that all models have together."""
    if not observed:
        return {}
    roles = {
        FEATURE: triggers.data_drift,
        PREDICTION: triggers.prediction_drift,
        TARGET: triggers.target_drift,
    }
    smallest = {role: part.smallest_effect for role, part in roles.items() if part}
    is_joint = pl.col("measure") == P_VALUE
    least = pl.col("role").replace_strict(smallest, default=0.0, return_dtype=pl.Float64)
    is_large = ~is_joint & pl.col("threshold").is_not_null() & (pl.col("statistic") >= least)
    counts = ~is_joint | is_large.any().over(MODEL, PARTITION, "role")
    parts = (part.rows.with_columns(pl.lit(name).alias(MODEL)) for name, part in observed.items())
    alarms = alert_together(pl.concat(parts)).with_columns(pl.col("alert") & counts)
    rows = alarms.partition_by(MODEL, as_dict=True, include_key=False)
    return {
        name: part._replace(rows=rows.get((name,), part.rows)) for name, part in observed.items()
    }


def _store(state: ModelState, observed: monitor.Observed, run_id: str, outcome: Outcome) -> None:
    result, model = monitor.store(state, observed, run_id), {MODEL: state.spec.name}
    outcome.rows["monitoring"] = outcome.rows.get("monitoring", 0) + result.count
    alerts = result.rows.filter("alert").with_columns(pl.lit(state.spec.name).alias(MODEL))
    outcome.alerts += [alerts] if alerts.height else []
    summary = watch.watch(state, run_id)
    row = watch.act(state, summary)
    if summary and summary.is_worse:
        back = f"; rolled back to version {row.version}" if row else ""
        outcome.worse.append({**model, "reason": f"{summary.sentence}{back}"})
    if state.spec.layer.mode != "off":
        adapt.adapt_partitions(state, run_id)
    layer.act(state, run_id)


def list_alerts(outcome: Outcome, role: str) -> list[dict[str, Any]]:
    """Return the alerts of one role."""
    rows = [part.filter(pl.col("role") == role) for part in outcome.alerts]
    columns = (MODEL, "measure", "column", "statistic", "threshold", "model_version")
    return pl.concat(rows).select(PARTITION, *columns).to_dicts() if rows else []
