"""A mistake in the YAML is refused before anything runs, and the message names it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import retrain_assets
from retrain_assets.specs.base import duration
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.yaml import load_strictly

DATASET: dict[str, Any] = {
    "name": "d",
    "landing": "d/{partition}.csv",
    "partition": {"by": "day", "column": "day", "start": "2013-01-01"},
    "columns": {"day": {"type": "date"}, "x": {"type": "float"}, "c": {"type": "category"}},
    "key": ["day"],
}
MODEL: dict[str, Any] = {
    "name": "m",
    "dataset": "d",
    "features": {"sql": "SELECT x FROM rows"},
    "target": {"column": "y", "kind": "binary"},
    "estimator": {"class": "sklearn.linear_model.LogisticRegression"},
    "gate": {"metric": "log_loss"},
}


def test_the_examples_are_sound() -> None:
    assert DatasetSpec.model_validate(DATASET).format == "csv"
    assert ModelSpec.model_validate(MODEL).windows.train == 60


def columns(**changes: Any) -> dict[str, Any]:
    return {"columns": DATASET["columns"] | changes}


def partition(**changes: Any) -> dict[str, Any]:
    return {"partition": DATASET["partition"] | changes}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"nam": "d"}, "nam"),
        ({"name": "../x"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "features"}, "is what versions of models record"),
        ({"name": "x" * 300}, "name"),
        ({"landing": "../{partition}.csv"}, "leaves the landing folder"),
        ({"landing": "/etc/{partition}.csv"}, "leaves the landing folder"),
        ({"landing": "a\x00b.csv"}, "leaves the landing folder"),
        ({"landing": "d/{partition}.xlsx"}, "xlsx' must end in"),
        (
            {"landing": "ftp://host/{partition}.csv"},
            "cannot land in 'ftp': use a path or s3, gs, az",
        ),
        ({"landing": "file:///etc/{partition}.csv"}, "cannot land in 'file'"),
        ({"landing": "s3://me:pw@bucket/{partition}.csv"}, "no bucket: write s3://bucket/path"),
        ({"landing": "s3:///{partition}.csv"}, "'' is no bucket"),
        ({"landing": "s3://bucket/../{partition}.csv"}, "leaves the landing folder"),
        ({"landing": "gs://bucket"}, "must end in"),
        ({"landing": "d/{day}.csv"}, "placeholder that is not {partition}"),
        ({"landing": "d/{.csv"}, "placeholder"),
        ({"landing": None}, "either `landing` or `delta`"),
        ({"delta": "s3://bucket/table"}, "either `landing` or `delta`"),
        ({"landing": None, "delta": "ftp://host/table"}, "cannot read 'ftp'"),
        ({"partition": {"by": "none"}}, "no {partition} where partitions are by none"),
        ({"key": ["missing"]}, "key: 'missing' is not among `columns`"),
        ({"key": []}, "key"),
        ({"columns": {}}, "columns"),
        (columns(_x={"type": "int"}), "'_x' cannot name a column"),
        (columns(**{"": {"type": "int"}}), "'' cannot name a column"),
        (columns(**{"a\n": {"type": "int"}}), "cannot name a column"),
        (columns(**{"x" * 256: {"type": "int"}}), "cannot name a column"),
        (columns(x={"type": "flaot"}), "type"),
        (columns(x={"type": "float", "min": 2, "max": 1}), "min 2 is above max 1"),
        (columns(x={"type": "float", "min": float("nan")}), "finite"),
        (columns(x={"type": "float", "max": float("inf")}), "finite"),
        (columns(x={"type": "float", "min": True}), "valid number"),
        (columns(x={"type": "float", "required": 1}), "valid boolean"),
        (columns(x={"type": "date", "outliers": {"robust_z": 3}}), "`outliers` need type"),
        (columns(x={"type": "float", "outliers": {"robust_z": 0}}), "robust_z"),
        (columns(x={"type": "float", "outliers": {"robust_z": 3, "max_share": 2}}), "max_share"),
        (columns(c={"type": "category", "min": 1}), "`min`"),
        (columns(c={"type": "category", "allowed": []}), "allowed"),
        (columns(c={"type": "int", "pattern": "a"}), "`pattern` needs"),
        (columns(c={"type": "text", "pattern": "a" * 501}), "pattern"),
        (columns(x={"type": "int", "allowed": ["a"]}), "`allowed` needs"),
        (columns(**{n: {"type": "date", "expression": "1"} for n in ("day", "x", "c")}), "derived"),
        ({"partition": {"by": "day"}}, "column"),
        (partition(column="x"), "partition.column: x is of type float; partitions by day need"),
        (partition(timezone="Mars/Base"), "Mars/Base"),
        ({"quarantine": {"max_fraction": 1.5}}, "max_fraction"),
        ({"quarantine": {"max_fraction": float("nan")}}, "max_fraction"),
        ({"rows": {"min": 2, "max": 1}}, "max 1 is below min 2"),
        ({"rows": {"typical": 0}}, "typical"),
        ({"expectations": [{"type": "os.system"}]}, "type"),
        ({"read": {"settle": "5"}}, "'5' is not a duration"),
        ({"read": {"delimiter": '"'}}, "use another, such as ;"),
        ({"read": {"delimiter": ",", "decimal": ","}}, "use another, such as ;"),
        ({"read": {"delimiter": ";;"}}, "delimiter"),
        ({"read": {"rename": {"a": "b"}}}, "read.rename: 'b' is not among"),
        ({"read": {"date_format": {"nope": "%d"}}}, "read.date_format: 'nope' is not among"),
        ({"read": {"date_format": {"x": "%d"}}}, "'x' is neither date nor datetime"),
    ],
)
def test_a_mistaken_dataset_is_refused_by_field(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(named)):
        DatasetSpec.model_validate(DATASET | change)


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
        ({"estimator": {"class": "os.system"}}, "class"),
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


@pytest.mark.parametrize(
    "text", ["3", "h", "3 h", "-3h", "3h\n", "\uff13h", "1.5h", "9999999d", ""]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration: write 90m, 3h or 2d"):
        duration(text)


def test_the_recipe_changes_with_what_is_fitted_and_with_nothing_else() -> None:
    recipe = ModelSpec.model_validate(MODEL).recipe
    assert ModelSpec.model_validate(MODEL | {"seed": 1}).recipe != recipe
    gate = MODEL["gate"]
    assert ModelSpec.model_validate(MODEL | {"gate": gate | {"metric": "brier"}}).recipe != recipe
    assert ModelSpec.model_validate(MODEL | {"gate": gate | {"confidence": 0.8}}).recipe == recipe
    assert ModelSpec.model_validate(MODEL | {"notify": {"slack": "#x"}}).recipe == recipe


def test_every_shipped_document_is_sound_and_every_field_described() -> None:
    paths = sorted((Path(retrain_assets.__file__).parent / "defs").glob("*/defs.yaml"))
    documents = [document.value for path in paths for document in load_strictly(path)]
    classes = {"LandedDataset": DatasetSpec, "RetrainedModel": ModelSpec}
    names = [
        classes[item["type"].partition(".")[2]].model_validate(item["attributes"]).name
        for item in documents
    ]
    assert {"flights", "weather", "planes", "flight_delay"} <= set(names)
    for schema in (DatasetSpec.model_json_schema(), ModelSpec.model_json_schema()):
        for part in (schema, *schema["$defs"].values()):
            undescribed = [n for n, f in part["properties"].items() if "description" not in f]
            assert undescribed == [], part["title"]


@pytest.mark.parametrize(
    ("landing", "bucket", "pattern"),
    [
        ("d/{partition}.csv", None, "d/{partition}.csv"),
        ("./None//{partition}.csv", None, "None/{partition}.csv"),
        ("s3://bucket/a/b-{partition}.csv", "s3://bucket", "a/b-{partition}.csv"),
        ("abfss://box@us.net/{partition}.csv", "abfss://box@us.net", "{partition}.csv"),
    ],
)
def test_a_landing_place_is_a_bucket_or_none_and_a_pattern_below(
    landing: str, bucket: str | None, pattern: str
) -> None:
    found = DatasetSpec.model_validate(DATASET | {"landing": landing})
    assert (found.bucket, str(found.pattern), found.format) == (bucket, pattern, "csv")
