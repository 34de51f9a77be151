"""Models of segments from one YAML: their names, their rows, and what they share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from retrain_assets.components.segment_list import complete
from retrain_assets.specs.base import SpecError
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.segments import name_segment
from retrain_assets_tests.world import MODEL

RATE = {"false_alarms_per_year": 3.0}
BUDGETS: dict[str, Any] = {
    "triggers": {"data_drift": RATE, "target_drift": {"threshold": 0.5}},
    "gate": {"metric": "log_loss", "false_promotions_per_year": 1.5},
}


def members(*values: str | int, **changes: Any) -> list[ModelSpec]:
    each = {"column": "plan", "values": [*values]}
    return ModelSpec.model_validate(MODEL | {"for_each": each} | changes).members()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("São Paulo", "sales_sao_paulo"),
        ("../../etc/passwd", "sales_etc_passwd"),
        ("' OR 1=1 --", "sales_or_1_1"),
        ("7", "sales_7"),
        ("東京", "sales_130016b2"),
        ("x" * 99, f"sales_{'x' * 48}_d0621fdd"),
    ],
)
def test_a_value_never_becomes_more_than_a_plain_name(value: str, name: str) -> None:
    assert name_segment("sales", value) == name
    assert re.fullmatch("[a-z][a-z0-9_]{0,62}", name_segment("s" * 63, value))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["New York", "new-york"], "would both be the model 'churn_new_york'"),
        (["a", "a"], "'a' stands there twice"),
        ([7, "7"], "'7' stands there twice"),
        ([], "at least 1 item"),
    ],
)
def test_values_that_would_share_a_model_are_refused(values: list[Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        members(*values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"churn": ["a"', "`retrain segments`: Invalid JSON: EOF while parsing a list at line 1"),
        ('{"churn": ["a", 7]}', "segments`: churn: 1: Input should be a valid string"),
        ('{"churn": ["a", "a"]}', "segments.json: churn: values: 'a' stands there twice"),
    ],
)
def test_a_list_of_segments_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "segments.json").write_text(text, encoding="utf-8")
    spec = ModelSpec.model_validate(MODEL | {"for_each": {"column": "plan", "top": 5}})
    with pytest.raises(SpecError) as refused:
        complete(spec, tmp_path)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_all_models_share_the_budgets_of_the_year_and_differ_in_their_rows() -> None:
    pooled, *segments = models = members("basic", 'p"; DROP', **BUDGETS)
    assert [spec.name for spec in models] == ["churn", "churn_basic", "churn_p_drop"]
    for spec in models:
        assert spec.triggers.data_drift is not None
        assert spec.triggers.data_drift.false_alarms_per_year == 1
        assert spec.gate.false_promotions_per_year == 0.5
        assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec
    assert pooled.recipe == ModelSpec.model_validate(MODEL | BUDGETS).recipe
    assert (
        len({spec.features_recipe for spec in models}) == len({spec.recipe for spec in models}) == 3
    )
    assert {spec.group for spec in segments} == {"churn"}
