"""What a user can afford decides how often is retrained, unless the YAML says it."""

from typing import Any

import pytest

from retrain_assets.domain.decision.budget import apply_budget, describe_budget
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec


def dataset(by: str, least: int = 1) -> DatasetSpec:
    start = {"day": "2024-01-01", "hour": "2024-01-01T00", "week": "2024-01-01"}[by]
    partition = {"by": by, "column": "at", "start": start, "timezone": "UTC"}
    columns = {"at": {"type": "datetime", "required": True}, "x": {"type": "float"}}
    fields = {"name": "d", "landing": "d/{partition}.csv", "partition": partition}
    return DatasetSpec.model_validate(
        fields | {"columns": columns, "rows": {"min": least}, "key": ["at"]}
    )


def model(**fields: Any) -> ModelSpec:
    parts: dict[str, Any] = {
        "name": "m",
        "dataset": "d",
        "features": {"sql": "SELECT x FROM rows"},
        "target": {"column": "y", "expression": "x > 0", "kind": "binary"},
        "estimator": {"class": "sklearn.linear_model.LogisticRegression"},
        "gate": {"metric": "log_loss"},
        "budget": {"fits_per_month": 4},
    }
    return ModelSpec.model_validate(parts | fields)


@pytest.mark.parametrize(
    ("by", "least", "fields", "windows", "wait"),
    [
        ("day", 1, {}, (61, 7, 7), 16),  # two fits of 4 a month: each half of a month
        ("day", 1, {"refit": False}, (61, 7, 7), 8),
        ("day", 20, {"refit": False}, (100, 7, 7), 8),  # few rows a day need more days
        ("day", 1, {"budget": {"fits_per_month": 0.5}}, (61, 14, 7), 122),
        ("day", 1, {"budget": {"fits_per_month": 60}}, (61, 7, 7), 8),  # newer than production
        ("day", 1, {"windows": {"train": 90, "holdout": 10}}, (90, 10, 7), 16),
        ("hour", 1, {}, (1461, 168, 168), 366),
        ("week", 1, {}, (20, 5, 2), 6),
    ],
)
def test_windows_and_triggers_follow_from_the_budget(
    by: str, least: int, fields: dict[str, Any], windows: tuple[int, int, int], wait: int
) -> None:
    spec = apply_budget(model(**fields), dataset(by, least))
    assert (spec.windows.train, spec.windows.holdout, spec.windows.current) == windows
    assert (spec.triggers.cooldown, spec.triggers.new_partitions) == (wait, wait)
    assert f"cooldown {wait}, new_partitions {wait}; windows: train {windows[0]}" in (
        describe_budget(spec) or ""
    )


def test_what_the_yaml_gives_stays_and_without_a_budget_all_does() -> None:
    spec = apply_budget(model(triggers={"new_partitions": 30, "cooldown": 10}), dataset("day"))
    assert (spec.triggers.cooldown, spec.triggers.new_partitions) == (10, 30)
    plain = model(budget=None)
    assert apply_budget(plain, dataset("day")) is plain
    assert describe_budget(plain) is None
    assert "budget" not in plain.model_dump_json()
