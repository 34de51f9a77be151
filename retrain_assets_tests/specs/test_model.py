"""A mistake in the YAML of a model is refused before anything runs, and the message names it."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from retrain_assets.specs.model import ModelSpec

MODEL: dict[str, Any] = {
    "name": "m",
    "dataset": "d",
    "features": {"sql": "SELECT x FROM rows"},
    "target": {"column": "y", "kind": "binary"},
    "estimator": {"class": "sklearn.linear_model.LogisticRegression"},
    "gate": {"metric": "log_loss"},
}


def test_the_example_is_sound() -> None:
    assert ModelSpec.model_validate(MODEL).windows.train == 60
    late = [ModelSpec.model_validate(MODEL | {"labels": {"delay": delay}}) for delay in (0, 3, 4)]
    assert [spec.layer.mode for spec in late] == ["auto", "auto", "shadow"]
    quantile = MODEL["target"] | {"kind": "regression"}, {"metric": "pinball", "quantile": 0.5}
    parts = dict(zip(("target", "gate"), quantile, strict=True)) | {"triggers": {}}
    assert ModelSpec.model_validate(MODEL | parts).layer.mode == "off"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"features": {}}, "either `sql` or `python`"),
        ({"features": {"sql": "a", "python": "b:c"}}, "either `sql` or `python`"),
        ({"features": {"python": "not a reference"}}, "python"),
        ({"features": {"sql": "a", "history": -1}}, "history"),
        ({"gate": {"metric": "rmse"}}, "gate.metric: 'rmse' does not judge a binary model"),
        ({"gate": {"metric": "log_loss", "confidence": 1.2}}, "confidence"),
        ({"gate": {"metric": "log_loss", "min_gain": float("inf")}}, "min_gain"),
        ({"gate": {"metric": "log_loss", "max_slice_loss": 1.5}}, "max_slice_loss"),
        ({"target": {"column": "y", "kind": "binary", "positive_share": [0.6, 0.1]}}, "range"),
        ({"target": {"column": "y", "kind": "binary", "positive_share": [0.1]}}, "positive_share"),
        ({"target": {"column": "y", "kind": "binary", "positive_share": [0, 1.1]}}, "range"),
        ({"windows": {"train": 0}}, "train"),
        ({"windows": {"train": True}}, "train"),
        ({"windows": {"train": 60, "also": [60]}}, "each below `train` (60)"),
        ({"windows": {"also": [21, 21]}}, "`also` holds different windows"),
        ({"windows": {"also": [0]}}, "also.0"),
        ({"lookups": {"w": {"on": []}}}, "on"),
        ({"lookups": {"w": {"on": ["x"], "lag": "1 hour"}}}, "duration"),
        ({"lookups": {"w": {"on": ["x"], "lag": "1h"}}}, "need `as_of`"),
        ({"lookups": {"w": {"on": ["x"], "tolerance": "1h"}}}, "need `as_of`"),
        ({"lookups": {"w": {"on": ["x"], "as_of": "t", "lag": "2h", "tolerance": "1h"}}}, "below"),
        ({"lookups": {"W x": {"on": ["x"]}}}, "W x"),
        ({"lookups": {"d": {"on": ["x"]}}}, "own lookup"),
        ({"estimator": {"class": "sklearn.svm.SVC()"}}, "class"),
        ({"estimator": {"class": "sklearn..Svc"}}, "class"),
        ({"estimator": {}}, "either `class` or `python`"),
        ({"estimator": {"python": "a:b", "class": "sklearn.svm.SVC"}}, "either `class` or"),
        ({"triggers": {"data_drift": {"threshold": float("nan")}}}, "threshold"),
        ({"triggers": {"data_drift": {"threshold": -1}}}, "threshold"),
        ({"triggers": {"data_drift": {"threshold": 1, "share": 1.01}}}, "share"),
        ({"triggers": {"data_drift": {"measure": "ks", "threshold": 1.1}}}, "ks ends at 1"),
        ({"triggers": {"data_drift": {}}}, "either `threshold` or `false_alarms_per_year`"),
        (
            {"triggers": {"data_drift": {"threshold": 1, "false_alarms_per_year": 2}}},
            "either `threshold` or `false_alarms_per_year`",
        ),
        (
            {"triggers": {"data_drift": {"measure": "ks", "false_alarms_per_year": 2}}},
            "go with `threshold` only",
        ),
        ({"triggers": {"performance": {"metric": "log_loss"}}}, "max_drop"),
        ({"triggers": {"performance": {"metric": "log_loss", "max_drop": 1.5}}}, "max_drop"),
        ({"triggers": {"performance": {"metric": "mae", "max_drop": 0.1}}}, "mae"),
        ({"outliers": {"rate": 0.5}}, "rate"),
        ({"outliers": {"max_share": 2}}, "max_share"),
        ({"exclude": [{"first": "b", "last": "a", "reason": "r"}]}, "last 'a' is before first"),
        ({"exclude": [{"first": "a", "last": "a", "reason": ""}]}, "reason"),
        ({"notify": {"email": ["nobody"]}}, "email"),
        ({"notify": {"slack": "#a b"}}, "slack"),
        ({"notify": {"webhook": "http://deploy.example.org/x"}}, "'http' is not encrypted"),
        ({"notify": {"webhook": "file:///etc/passwd"}}, "give a URL of host and path"),
        ({"notify": {"webhook": "https://me@deploy.example.org/x"}}, "give a URL of host"),
        ({"notify": {"webhook": "https://deploy.example.org:x/"}}, "webhook"),
        ({"notify": {"webhook": "https://deploy.example.org/\r\nX: y"}}, "give a URL of host"),
        ({"notify": {"slack": "#a", "events": {"email": ["held"]}}}, "there is no `email`"),
        ({"notify": {"slack": "#a", "events": {"slack": ["helt"]}}}, "events.slack.0"),
        ({"notify": {"digest": "soon"}}, "'soon' is not a duration"),
        ({"owners": ["team:"]}, "owners"),
        ({"schedule": "every monday"}, "schedule"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.0}, "seed"),
    ],
)
def test_a_mistaken_model_is_refused_by_field(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(named)):
        ModelSpec.model_validate(MODEL | change)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, "low"),
        ({"low": 1, "high": 1}, "`low` must be below `high`"),
        ({"low": 1}, "`low` must be below `high`"),
        ({"low": 0, "high": 1, "log": True}, "`log` needs `low` above 0"),
        ({"values": [1], "low": 0}, "either `values` or"),
        ({"values": []}, "values"),
        ({"low": 0, "high": float("inf")}, "finite"),
    ],
)
def test_a_mistaken_search_is_refused_by_field(change: dict[str, Any], named: str) -> None:
    estimator = MODEL["estimator"] | {"search": {"params": {"C": change}}}
    with pytest.raises(ValidationError, match=named):
        ModelSpec.model_validate(MODEL | {"estimator": estimator})


def test_the_recipe_changes_with_what_is_fitted_and_with_nothing_else() -> None:
    recipe = ModelSpec.model_validate(MODEL).recipe
    assert ModelSpec.model_validate(MODEL | {"seed": 1}).recipe != recipe
    gate = MODEL["gate"]
    assert ModelSpec.model_validate(MODEL | {"gate": gate | {"metric": "brier"}}).recipe != recipe
    assert ModelSpec.model_validate(MODEL | {"gate": gate | {"confidence": 0.8}}).recipe == recipe
    assert ModelSpec.model_validate(MODEL | {"notify": {"slack": "#x"}}).recipe == recipe


RATE = {"false_alarms_per_year": 2.0}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"triggers": {"data_drift": RATE, "prediction_drift": RATE, "target_drift": RATE}},
        {"triggers": {"data_drift": {"measure": "ks", "threshold": 0.2, "share": 0.3}}},
        {"triggers": {"performance": {"metric": "log_loss", "limit": 0.5}, "back_off": 2}},
        {"triggers": {"reference": {"first": "a", "last": "b"}, "new_partitions": 7}},
        {"gate": {"metric": "log_loss", "false_promotions_per_year": 0.5}},
        {"gate": {"metric": "log_loss", "promote_when": {"not_worse": {"margin": 0.1}}}},
        {"windows": {"train": 10, "also": [4], "holdout": 6, "current": 3}},
        {"notify": {"slack": "#a", "events": {"slack": ["held"]}}},
        {
            "estimator": MODEL["estimator"]
            | {"search": {"params": {"C": {"low": 0.1, "high": 1, "log": True}}}}
        },
        {"exclude": [{"first": "a", "last": "b", "reason": "c"}]},
    ],
)
def test_every_spec_is_equal_after_it_was_stored_as_json(change: dict[str, Any]) -> None:
    spec = ModelSpec.model_validate(MODEL | change)
    stored = spec.model_dump_json()
    loaded = ModelSpec.model_validate_json(stored)
    assert loaded == spec
    assert loaded.model_dump_json() == stored
    assert loaded.recipe == spec.recipe


@pytest.mark.parametrize(
    "change",
    [
        {"triggers": {"data_drift": RATE | {"measure": "psi"}}},
        {"gate": {"metric": "log_loss", "false_promotions_per_year": 0.5, "confidence": 0.95}},
    ],
)
def test_a_rate_beside_what_it_replaces_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"threshold|confidence"):
        ModelSpec.model_validate(MODEL | change)
