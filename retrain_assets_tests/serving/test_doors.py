"""The same values through landing and through serving: what one refuses, the other refuses."""

import json
from datetime import date, datetime
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retrain_assets.domain.data.contract import judge, slices
from retrain_assets.domain.data.row_checks import RawRows
from retrain_assets.domain.data.rules import LINE
from retrain_assets.serving.http.formats import read_arrow, read_inference, read_invocation
from retrain_assets.serving.scoring.request import Contract, RequestError
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.landing.formats import read_rows

COLUMNS: dict[str, Any] = {
    "day": {"type": "date"},
    "id": {"type": "int"},
    "count": {"type": "int", "min": 0, "max": 100},
    "size": {"type": "int"},
    "x": {"type": "float", "min": -1.5, "max": 100, "required": True},
    "y": {"type": "float"},
    "ok": {"type": "bool"},
    "kind": {"type": "category", "allowed": ["a", "NA", "é"]},
    "plan": {"type": "category", "required": True},
    "town": {"type": "category", "normalise": ["nfc", "strip"], "pattern": "[a-zé ]*"},
    "code": {"type": "text", "pattern": r"[A-Z]{2}(\.\d+)?"},
    "at": {"type": "datetime"},
    "local": {"type": "datetime"},
    "when": {"type": "date"},
    "later": {"type": "int", "known": "later"},
}
SOUND: dict[str, Any] = {
    "day": "2013-01-31",
    "id": 1,
    "count": 5,
    "size": 5,
    "x": 0.5,
    "y": 0.5,
    "ok": True,
    "kind": "a",
    "plan": "plus",
    "town": "é",
    "code": "AB.1",
    "at": "2013-01-31T10:00:00Z",
    "local": "31.01.2013 10:00",
    "when": "1/31/13",
}
WORDS = [
    "NA",
    "null",
    "NaN",
    "#REF!",
    "None",
    "",
    "a",
    "é",
    "e\u0301",
    "plus",
    "a\0b",
    "AB",
    "AB\n",
    "AB.12",
]
TEXTS = st.sampled_from([*WORDS, "z" * (2**17 + 1), "é" * 2**16, "-", " a", "ab"]) | st.text()
DATES = st.dates(date(2012, 12, 1), date(2014, 2, 1)) | st.dates()
ODD_TIMES = [
    *("2013-02-30", "2013-1-5", "20130131", "0000-01-01", "10000-01-01", "1359626400", "NA", ""),
    *("2013-01-31T10:00:00", "2013-01-31 10:00:00Z", "2013-01-31T24:00:00Z", "2013-01-31T10:00Z"),
    *("2013-01-31T10:00:60Z", "0001-01-01T00:00:00+10:00", "9999-12-31T23:00:00-10:00"),
    *("2013-01-31T10:00:00.1234567Z", "2013-01-31T10:00:00.5+0130", "10.03.2013 02:30", "1/5/13"),
    *("03.11.2013 01:30", "31.01.2013 10:00", "31.01.13 10:00", "1/31/2013", "2/30/13", "1/5/-13"),
]
OFFSETS = st.sampled_from(["Z", "+00:00", "-05:00", "+1345", "", "+23:59"])
MOMENTS = st.builds(
    lambda at, offset: at.isoformat(timespec="microseconds") + offset, st.datetimes(), OFFSETS
)
TIMES = st.sampled_from(ODD_TIMES) | DATES.map(str) | MOMENTS
WHOLE = st.sampled_from([0, -1, 100, 101, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**400])
NUMBERS = st.sampled_from([0.0, -0.0, -1.5, -1.6, 100.5, 1e308, 5e-324, 2.0]) | st.floats()
INTS = WHOLE | st.integers() | NUMBERS | st.booleans()
BOOLS = st.booleans() | st.sampled_from([0, 1, 1.0])
KINDS = {"int": INTS, "float": INTS, "bool": BOOLS, "category": TEXTS, "text": TEXTS}
VALUES = st.sampled_from([*SOUND]).flatmap(
    lambda name: st.tuples(st.just(name), st.none() | KINDS.get(COLUMNS[name]["type"], TIMES))
)


def contract(**changes: Any) -> DatasetSpec:
    zoned = {"timezone": "America/New_York", "start": "2013-01-01", "end": "2013-12-31"}
    return DatasetSpec.model_validate(
        {
            "name": "sales",
            "landing": "sales.jsonl",
            "partition": {"by": "day", "column": "day", **zoned},
            "columns": COLUMNS,
            "key": ["id"],
            "quarantine": {"max_fraction": 1},
            "read": {"date_format": {"local": "%d.%m.%Y %H:%M", "when": "%m/%d/%y"}},
        }
        | changes
    )


SPEC = contract()
CONTRACT = Contract(SPEC, 100)


def landed(row: dict[str, Any], spec: DatasetSpec = SPEC) -> str | None:
    """What landing makes of a row, as text; None where it refuses it."""
    accepted = land(row, spec)
    return plain(accepted) if accepted else None


def land(row: dict[str, Any], spec: DatasetSpec = SPEC) -> dict[str, Any] | None:
    """What landing makes of a row; None where it refuses it."""
    kind = spec.format
    if kind == "csv":
        line = ",".join("" if value is None else str(value) for value in row.values())
        content = f"{','.join(row)},later\n{line},\n"
    else:
        content = json.dumps(row | {"later": None}, ensure_ascii=False) + "\n"
    rows, _ = read_rows(content.encode(), spec)
    parts = slices(RawRows("sales", "", "", rows), spec)
    accepted = judge(parts, spec).accepted.drop("_landing_partition", "later")
    return accepted.row(0, named=True) if accepted.height else None


def plain(row: dict[str, Any]) -> str:
    """A row as text, whichever library its time zone is of."""
    times = {name: at.isoformat() for name, at in row.items() if isinstance(at, datetime)}
    return repr(row | times)


def answered(ask: Any, column: str, place: int = 0) -> str | None:
    """What serving makes of a row; None where it refuses it, by its row and column."""
    try:
        rows = ask()
    except RequestError as error:
        [where] = [(fault["row"], fault["column"]) for fault in error.faults]
        assert (error.status, *where) == (422, place, column)  # noqa: PT017
        return None
    return plain(rows.row(place, named=True) if isinstance(rows, pl.DataFrame) else rows[place])


def body(*rows: dict[str, Any]) -> bytes:
    return json.dumps({"rows": rows}, ensure_ascii=False).encode()


@given(value=VALUES)
@example(value=("kind", "b"))
@example(value=("plan", "a\0b"))
@example(value=("plan", "#REF!"))
@example(value=("town", "\u00a0e\u0301\u200b"))
@example(value=("town", " "))
@example(value=("count", 5.0))
@example(value=("count", 101.0))
@example(value=("size", 1e15))
@example(value=("day", "2013-01-31T00:00:00"))
@example(value=("day", "2012-12-31"))
@example(value=("day", "2014-01-01"))
@example(value=("at", "2013-01-31T10:00:00"))
@example(value=("local", "2013-01-31T10:00:00-05:00"))
@settings(max_examples=500)
def test_serving_takes_and_refuses_in_json_what_landing_does(value: tuple[str, Any]) -> None:
    column, odd = value
    row = SOUND | {column: odd}
    expected = landed(row)
    if column in ("local", "when") and is_iso(column, odd):
        return  # JSON has times as ISO 8601 whatever form they have in files
    assert answered(lambda: CONTRACT.read(body(row)), column) == expected
    many = [SOUND] * 70
    assert answered(lambda: CONTRACT.read(body(*many, row)), column, 70) == expected
    if not isinstance(odd, float) or odd == odd:  # noqa: PLR0124 NaN is no JSON
        tensors = [as_tensor(name, [SOUND[name], item]) for name, item in row.items()]
        if all(tensors):
            content = json.dumps({"inputs": tensors}, ensure_ascii=False).encode()
            found = answered(lambda: read_inference(content, "", CONTRACT)[1], column, 1)
            assert found == expected


def is_iso(column: str, text: Any) -> bool:
    """Whether a text is a sound time in ISO 8601."""
    row = SOUND | {"local": SOUND["at"], "when": SOUND["day"], column: text}
    return isinstance(text, str) and landed(row, contract(read={})) is not None


def as_tensor(name: str, data: list[Any]) -> dict[str, Any] | None:
    """A tensor of the Open Inference Protocol; None where it has no type for the values."""
    kinds = {"int": ("INT64", {int}), "float": ("FP64", {int, float}), "bool": ("BOOL", {bool})}
    kind, types = kinds.get(COLUMNS[name]["type"], ("BYTES", {str}))
    if {*map(type, data)} - types - {type(None)}:
        return None
    return {"name": name, "datatype": kind, "shape": [len(data)], "data": data}


FEATURES = ["size", "y", "ok", "plan", "code"]
VERSION: Any = SimpleNamespace(
    columns=FEATURES,
    schema=dict(zip(FEATURES, [pl.Float64] * 3 + [pl.String] * 2, strict=True)),
    booleans=frozenset({"ok"}),
)


@given(value=VALUES.filter(lambda value: value[0] in FEATURES))
@example(value=("ok", True))
@example(value=("ok", None))
@settings(max_examples=200)
def test_mlflows_formats_take_as_features_what_landing_takes(value: tuple[str, Any]) -> None:
    column, odd = value
    accepted = land(SOUND | {column: odd})
    if accepted is None:
        return  # rules are asked of raw rows, and of features only the type
    rows = [{name: row[name] for name in FEATURES} for row in (SOUND, accepted)]
    split = {"columns": FEATURES, "data": [[*row.values()] for row in rows]}
    for form in ({"dataframe_records": rows}, {"dataframe_split": split}):
        content = json.dumps(form, ensure_ascii=False).encode()
        columns = read_invocation(content, VERSION, 100)
        for name, sent in rows[1].items():
            is_number = VERSION.schema[name] == pl.Float64 and sent is not None
            assert columns[name][1] == (float(sent) if is_number else sent)


@given(value=VALUES)
@example(value=("town", "\u00a0e\u0301\u200b"))
@settings(max_examples=300)
def test_serving_takes_and_refuses_in_arrow_what_landing_does_in_parquet(
    value: tuple[str, Any],
) -> None:
    column, odd = value
    sound = CONTRACT.read(body(*[SOUND] * 70))
    assert isinstance(sound, pl.DataFrame)
    try:
        series = pl.Series(column, [typed(column, odd)], dtype=sound.schema[column])
    except (TypeError, OverflowError, ValueError):
        return  # the type of the column cannot hold the value
    frame = sound.head(1).with_columns(series)
    spec = contract(landing="sales.parquet")
    rows = frame.with_columns(
        pl.lit(None, pl.Int64).alias("later"),
        pl.lit(1, pl.Int64).alias(LINE),
        pl.lit(None, pl.String).alias("_broken"),
    )
    accepted = judge(slices(RawRows("sales", "", "", rows), spec), spec).accepted
    expected = [*map(plain, accepted.drop("_landing_partition", "later").rows(named=True))]
    arrow = frame.write_ipc_stream(None).getvalue()
    found = answered(lambda: read_arrow(arrow, Contract(spec, 100)), column)
    assert ([found] if found else []) == expected


def typed(column: str, value: Any) -> Any:
    """A value as an Arrow column has it."""
    kind = COLUMNS[column]["type"]
    if kind == "date" and value is not None:
        return date.fromisoformat(value)
    return datetime.fromisoformat(value) if kind == "datetime" and value is not None else value


@pytest.mark.parametrize(
    ("column", "text", "is_taken"),
    [("kind", "", True), ("plan", "", False), ("kind", "-", False), ("code", "", True)],
)
def test_a_word_for_null_in_csv_is_one_in_requests(column: str, text: str, is_taken: bool) -> None:
    spec = contract(landing="sales.csv")
    row = SOUND | {column: text}
    expected = landed(row, spec)
    assert (expected is not None) is is_taken
    served = Contract(spec, 100)
    for count in (1, 70):
        rows = body(*[row] * count)
        assert answered(lambda rows=rows: served.read(rows), column) == expected
