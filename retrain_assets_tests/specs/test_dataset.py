"""A mistake in the YAML of a dataset is refused before anything runs, and the message names it."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from retrain_assets.specs.dataset import DatasetSpec

DATASET: dict[str, Any] = {
    "name": "d",
    "landing": "d/{partition}.csv",
    "partition": {"by": "day", "column": "day", "start": "2013-01-01"},
    "columns": {"day": {"type": "date"}, "x": {"type": "float"}, "c": {"type": "category"}},
    "key": ["day"],
}


def test_the_example_is_sound() -> None:
    assert DatasetSpec.model_validate(DATASET).format == "csv"


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
        ({"name": "features"}, "a dataset cannot be called 'features'"),
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
        ({"landing": "s3://me:pw@bucket/{partition}.csv"}, "not a bucket: write s3://bucket/path"),
        ({"landing": "s3:///{partition}.csv"}, "'' is not a bucket"),
        ({"landing": "s3://bucket/../{partition}.csv"}, "leaves the landing folder"),
        ({"landing": "gs://bucket"}, "must end in"),
        ({"landing": "d/{day}.csv"}, "placeholder that is not {partition}"),
        ({"landing": "d/{.csv"}, "placeholder"),
        ({"landing": None}, "one of `landing`, `delta`, `iceberg` and `sql`"),
        ({"delta": "s3://bucket/table"}, "one of `landing`, `delta`, `iceberg` and `sql`"),
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
        (
            {"read": {"header": ["no", "nr", "day"], "rename": {"no": "x", "nr": "x"}}},
            "read.header: 'no' and 'nr' both name the column x, so every file would be refused",
        ),
        ({"read": {"date_format": {"nope": "%d"}}}, "read.date_format: 'nope' is not among"),
        ({"read": {"date_format": {"x": "%d"}}}, "'x' is neither date nor datetime"),
    ],
)
def test_a_mistaken_dataset_is_refused_by_field(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(named)):
        DatasetSpec.model_validate(DATASET | change)


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
    spec = DatasetSpec.model_validate(DATASET | {"landing": landing})
    assert (spec.bucket, str(spec.pattern), spec.format) == (bucket, pattern, "csv")
