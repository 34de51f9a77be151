"""Draft the YAML of a model: features, estimator, windows, triggers and gate that fit the data.

Not here: the dataset, and what columns mean.
"""

from collections.abc import Collection
from typing import Any

import polars as pl

from retrain_assets.domain.start.draft import Draft
from retrain_assets.domain.start.meaning import Target, is_identifier, quote
from retrain_assets.domain.start.table import Table, ends
from retrain_assets.domain.start.time import LEAST_PARTITIONS, Periods
from retrain_assets.specs.model import GrowingSpec, WindowsSpec

# By period: training, holdout and current window; new partitions that ask for retraining.
_USUAL = {
    "hour": (336, 72, 24, 168),
    "day": (60, 14, 7, 14),
    "week": (26, 8, 4, 4),
    "month": (24, 6, 3, 3),
    "year": (10, 3, 2, 1),
    "value": (12, 5, 2, 3),
}
_METRICS = {"binary": "log_loss", "multiclass": "log_loss", "regression": "mae"}
_MOST_CATEGORIES = 254
_FEW_ROWS = 500  # to train on, below which a linear model is fitted
_ROWS_FOR_DRIFT = 200
_FEW_BLOCKS, _LONG = 8, 400  # days from which the month is a feature
_FIRSTS = 4  # different days of the month, as of dates that name a month or a quarter
_MOST_FITTED = 0.75  # of all partitions, so that some are left to watch the first model on
_TREES = {"max_iter": 100, "learning_rate": 0.06, "max_leaf_nodes": 15}


def choose_features(table: Table, excluded: Collection[str]) -> list[str]:
    """Return the columns that a model can use."""
    return [
        name
        for name, kind in table.types.items()
        if name not in excluded
        and kind in ("int", "float", "bool", "category")
        and table.count_distinct(name) > 1
        and not (kind == "category" and table.count_distinct(name) > _MOST_CATEGORIES)
        and not is_identifier(table, name)
    ]


def write_features(table: Table, names: Collection[str], time: str | None) -> str:
    """Return the SQL of the features: columns, and what the time of a row says."""
    selected = [quote(name) for name in names]
    if time is not None:
        present = {name.lower() for name in table.types}
        parts = _read_clock(table.rows[time]).items()
        selected += [
            f"EXTRACT({part} FROM {quote(time)}) AS {name}"
            for name, part in parts
            if name not in present
        ]
    lines, line = list[str](), ""
    for text in selected:
        if len(line) + len(text) > 88:  # noqa: PLR2004
            lines, line = [*lines, line], ""
        line += f"{', ' if line else ''}{text}"
    return "SELECT\n  " + ",\n  ".join([*lines, line]) + "\nFROM rows"


def _read_clock(times: pl.Series) -> dict[str, str]:
    """Return the parts of a time that differ from row to row, as name and SQL."""
    times, parts = times.drop_nulls(), dict[str, str]()
    if times.dt.weekday().n_unique() > 1 and times.dt.day().n_unique() > _FIRSTS:
        parts["weekday"] = "ISODOW"
    if times.dtype != pl.Date and times.dt.hour().n_unique() > 1:
        parts["hour"] = "HOUR"
    first, last = ends(times)
    if times.dt.month().n_unique() > 1 and (last - first).days > _LONG:
        parts["month"] = "MONTH"
    return parts


def choose_windows(by: str, count: int) -> WindowsSpec:
    """Return windows that leave some partitions after the first model, where there are enough.

    Where there are few, the training window grows to its usual length.
    """
    most, holdout, current, _ = _USUAL[by]
    usable = max(LEAST_PARTITIONS, int(count * _MOST_FITTED))
    holdout = max(2, min(holdout, usable // 4))
    least = max(2, min(most, usable - holdout))
    train = most if least >= most else GrowingSpec(least=least, most=most)
    return WindowsSpec(train=train, holdout=holdout, current=max(1, min(current, count // 6)))


def draft_model(
    name: str, dataset: str, target: Target, sql: str, periods: Periods, delay: int
) -> Draft:
    """Return the draft of a model.

    Args:
        name: The model.
        dataset: Its dataset.
        target: What is predicted.
        sql: The SQL of its features.
        periods: The partitions; `by` is `value` where there is no time.
        delay: Number of newest partitions without labels.
    """
    windows = choose_windows(periods.by, len(periods.keys) - delay)
    rows = windows.least * periods.typical
    metric = _METRICS[target.kind]
    labels: dict[str, Any] = {"column": target.column}
    labels |= {"expression": target.expression} if target.expression else {}
    draft = Draft(
        "RetrainedModel",
        {
            "name": name,
            "dataset": dataset,
            "features": {"sql": sql},
            "target": {**labels, "kind": target.kind},
            "estimator": _choose_estimator(target.kind, rows),
            "windows": windows.model_dump(exclude={"also"}),
            **({"labels": {"delay": delay}} if delay else {}),
            "triggers": _choose_triggers(periods, metric, windows.current),
            "gate": _choose_gate(metric, windows.holdout),
            **({"schedule": None} if periods.by == "value" else {}),
        },
    )
    draft.comments |= {
        ("estimator",): f"about {rows:,} rows to train on",
        ("windows",): f"of {len(periods.keys)} partitions in the sample",
        ("labels",): f"the newest {delay} partitions have no labels in the sample",
        ("gate",): "a candidate replaces production if it is shown to be better by this metric",
        ("triggers", "new_partitions"): "a calendar: retrain after so many new partitions",
        ("triggers", "data_drift"): "retrain if 40 % of the features have moved",
        ("triggers", "performance"): "retrain if the metric has become 10 % worse",
    }
    return draft


def _choose_estimator(kind: str, rows: int) -> dict[str, Any]:
    if rows >= _FEW_ROWS:
        part = "Regressor" if kind == "regression" else "Classifier"
        loss = {"loss": "absolute_error"} if kind == "regression" else {}  # what the gate compares
        return {"class": f"sklearn.ensemble.HistGradientBoosting{part}", "params": _TREES | loss}
    if kind == "regression":
        return {"class": "sklearn.linear_model.Ridge"}
    return {"class": "sklearn.linear_model.LogisticRegression", "params": {"max_iter": 1000}}


def _choose_triggers(periods: Periods, metric: str, current: int) -> dict[str, Any]:
    *_, new = _USUAL[periods.by]
    new = max(1, min(new, len(periods.keys) // 4))
    triggers: dict[str, Any] = {}
    if periods.by != "value":
        if current * periods.typical >= _ROWS_FOR_DRIFT:
            triggers["data_drift"] = {"measure": "psi", "threshold": 0.2, "share": 0.4}
        triggers["performance"] = {"metric": metric, "max_drop": 0.1}
    return triggers | {"new_partitions": new, "cooldown": -(-new // 2)}


def _choose_gate(metric: str, holdout: int) -> dict[str, Any]:
    gate: dict[str, Any] = {"metric": metric, "confidence": 0.9}
    if holdout < _FEW_BLOCKS:
        gate["confidence"] = 0.8
    return gate | ({"min_blocks": holdout} if holdout < 5 else {})  # noqa: PLR2004
