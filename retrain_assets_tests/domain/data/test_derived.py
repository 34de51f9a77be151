"""A derived column is SQL over its own row, judged like one that stood in the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from retrain_assets.domain.data.contract import judge, slices
from retrain_assets.domain.data.row_checks import MASK, RawRows
from retrain_assets.domain.data.row_wise import explain_sql
from retrain_assets.domain.data.rules import BROKEN, LINE
from retrain_assets.domain.data.values import counts_lines, find_column_mistakes
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.landing.readers import number_rows

DAY = "2013-01-31"
COLUMNS = {
    "id": {"type": "int"},
    "day": {"type": "date"},
    "at": {"type": "datetime"},
    "price": {"type": "float"},
    "note": {"type": "text"},
}


def spec(ending: str = "csv", /, **columns: Any) -> DatasetSpec:
    return DatasetSpec.model_validate(
        {
            "name": "sales",
            "landing": f"sales/{{partition}}.{ending}",
            "partition": {"by": "day", "column": "day", "start": "2013-01-01"},
            "columns": COLUMNS | columns,
            "key": ["id"],
            "quarantine": {"max_fraction": 0.9},
        }
    )


def raw(*notes: str | None, **changes: Any) -> RawRows:
    values: dict[str, Any] = {
        "id": [str(n) for n in range(1, len(notes) + 1)],
        "day": [DAY] * len(notes),
        "at": ["2013-01-31T10:00:00Z"] * len(notes),
        "price": ["1.5"] * len(notes),
        "note": list(notes),
        BROKEN: [None] * len(notes),
    }
    frame = pl.DataFrame(values | changes, schema_overrides={BROKEN: pl.String})
    lines = frame.with_row_index(LINE, offset=2).cast({LINE: pl.Int64})
    return RawRows(f"sales/{DAY}.csv", DAY, "sha", lines)


def derived(kind: str, expression: str, *notes: str) -> list[object]:
    found = spec(x={"type": kind, "expression": expression})
    assert list(find_column_mistakes(found)) == []
    return judge([raw(*notes)], found).accepted["x"].to_list()


def mistake(kind: str, expression: str) -> str:
    found = list(find_column_mistakes(spec(x={"type": kind, "expression": expression})))
    assert [loc for loc, _ in found] == [("columns", "x", "expression")]
    return found[0][1]


@pytest.mark.parametrize(
    ("kind", "expression", "values"),
    [
        ("int", "_line", [2, 3, 4]),
        ("int", "_line // 2", [1, 1, 2]),
        ("int", "id % 2", [1, 0, 1]),
        ("float", "price / 2", [0.75] * 3),
        ("bool", "id > 1 AND price < 2", [False, True, True]),
        (
            "category",
            "CASE WHEN id > 2 THEN 'late' WHEN id > 1 THEN 'on time' END",
            [None, "on time", "late"],
        ),
        ("text", "note || '-' || id", ["7-1", "x-2", "-9-3"]),
        ("int", "TRY_CAST(note AS BIGINT)", [7, None, -9]),
        ("int", "COALESCE(TRY_CAST(note AS INT), 0)", [7, 0, -9]),
        ("int", "DATE_PART('year', day)", [2013] * 3),
        ("bool", "note IN ('x', 'y')", [False, True, False]),
    ],
)
def test_sql_over_the_row_gives_the_column(kind: str, expression: str, values: list[Any]) -> None:
    assert derived(kind, expression, "7", "x", "-9") == values


def test_a_derived_column_may_use_those_before_it() -> None:
    columns = {
        "half": {"type": "float", "expression": "price / 2"},
        "quarter": {"type": "float", "expression": "half / 2"},
    }
    assert list(find_column_mistakes(spec(**columns))) == []
    assert judge([raw("a")], spec(**columns)).accepted["quarter"].to_list() == [0.375]
    backwards = spec(**dict(reversed(columns.items())))
    assert [loc for loc, _ in find_column_mistakes(backwards)] == [
        ("columns", "quarter", "expression")
    ]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_what_is_derived_is_judged_by_the_rules_of_its_column(ending: str) -> None:
    column = {"type": "int", "expression": "TRY_CAST(note AS INT)", "required": True, "max": 9}
    file = raw("1", "a", "10", "2")
    if ending == "parquet":
        times = pl.col("at").str.to_datetime("%+"), pl.col("day").str.to_date()
        numbers = {"id": pl.Int64, "price": pl.Float64}
        file = RawRows(file.path, DAY, "sha", file.rows.cast(numbers).with_columns(*times))
    judgement = judge([file], spec(ending, x=column))
    reasons = [
        (line, reason["rule"], reason["column"], reason["value"])
        for line, found in judgement.quarantined.select(LINE, "_reasons").iter_rows()
        for reason in found
    ]
    assert reasons == [(3, "required", "x", None), (4, "range", "x", "10")]
    assert judgement.accepted["x"].to_list() == [1, 2]
    assert '"x":"10"' in judgement.quarantined["_row"][1]


@pytest.mark.parametrize("position", [0, 5, 9])
def test_a_row_for_which_it_cannot_be_computed_is_refused_alone(position: int) -> None:
    notes = [DAY] * 10
    notes[position] = "soon"
    column = {"type": "bool", "expression": "STRPTIME(note, '%Y-%m-%d') = day"}
    judgement = judge([raw(*notes)], spec(x=column))
    reason = {"rule": "type", "column": "x", "value": None}
    assert judgement.quarantined.select(LINE, "_reasons").rows() == [(position + 2, [reason])]
    assert judgement.accepted["x"].to_list() == [True] * 9


def test_a_line_that_is_no_row_has_nothing_derived_from_it() -> None:
    columns = {"x": {"type": "int", "expression": "_line", "max": 2}}
    file = raw("a", None, id=["1", None], day=[DAY, None], **{BROKEN: [None, "2,x"]})
    found = judge([file], spec(**columns)).quarantined
    assert [reason["rule"] for reason in found["_reasons"][0]] == ["parse"]


def test_a_derived_column_can_be_the_key_and_say_the_partition() -> None:
    made = DatasetSpec.model_validate(
        spec().model_dump()
        | {
            "columns": {
                "note": {"type": "text"},
                "day": {"type": "date", "expression": "DATE '2013-01-01'"},
                "line": {"type": "int", "expression": "_line"},
            },
            "key": ["line"],
        }
    )
    assert list(find_column_mistakes(made)) == []
    rows = raw("a", "a").rows.drop("id", "day", "at", "price")
    judgement = judge([RawRows("sales/x.csv", "2013-01-01", "sha", rows)], made)
    assert judgement.accepted.select("day", "line").to_dict(as_series=False)["line"] == [2, 3]


@pytest.mark.parametrize(
    ("kind", "expression", "why"),
    [
        ("int", "nope + 1", "unable to find column"),
        ("int", "x + 1", "unable to find column"),
        ("int", "_raw_id", "unable to find column"),
        ("int", "_broken", "unable to find column"),
        ("int", "id +", "is not valid"),
        ("int", "id; DROP TABLE rows", "may not hold 'TABLE'"),
        ("int", "id, price", "is not valid"),
        ("int", "*", "is not valid"),
        ("int", "unheard(id)", "unsupported function"),
        ("int", "read_csv('/etc/passwd')", "unsupported function"),
        ("int", "price", "gives Float64, but the contract says int"),
        ("float", "note", "gives String, but the contract says float"),
        ("datetime", "TIMESTAMP '2013-01-01 00:00:00'", "gives Datetime"),
        ("int", "SUM(id)", "more than its own row"),
        ("int", "id - MAX(id)", "more than its own row"),
        ("int", "LAG(id) OVER (ORDER BY _line)", "more than its own row"),
        ("int", "ROW_NUMBER() OVER (ORDER BY id)", "more than its own row"),
        ("int", "FIRST(id)", "more than its own row"),
        ("int", "CAST(note AS INT)", "write TRY_CAST"),
        ("int", "note::int", "write TRY_CAST"),
        ("date", "TRY_CAST(note AS DATE)", "read a date with DATE(text, '%Y-%m-%d')"),
        ("int", "DATE_PART('hour', TRY_CAST(note AS TIMESTAMP))", "fails for every row"),
        ("bool", "TRY_CAST(note AS BOOLEAN)", "fails for every row"),
        ("date", "CASE WHEN id = 7 THEN TRY_CAST(note AS DATE) END", "fails for every row"),
        ("bool", "at < NOW()", "may not hold 'NOW'"),
        ("bool", "day < current_date", "may not hold 'current_date'"),
    ],
)
def test_an_expression_that_cannot_work_is_told_before_anything_runs(
    kind: str, expression: str, why: str
) -> None:
    assert why in mistake(kind, expression)


@pytest.mark.parametrize(
    "query",
    [
        "(SELECT a FROM read_csv('{0}'))",
        "EXISTS(FROM read_csv('{0}'))",
        "id IN (FROM read_csv('{0}'))",
        "id IN (VALUES (1) UNION FROM read_csv('{0}'))",
        "id IN (WITH t AS (FROM read_csv('{0}')) TABLE t)",
        "(/* a */ sElEcT 1 /* b */ fRoM read_parquet('{0}'))",
    ],
)
def test_an_expression_opens_no_file(tmp_path: Path, query: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # whoever opens it hangs
    assert "neither a query nor the clock" in mistake("int", query.format(pipe))


def test_what_is_derived_from_something_personal_is_masked_as_well() -> None:
    columns = {
        "note": {"type": "text", "personal": True},
        "upper": {"type": "text", "expression": "UPPER(note)"},
        "again": {"type": "text", "expression": "upper || '!'", "allowed": None, "pattern": "A!"},
    }
    found = judge([raw("a", "jane")], spec(**columns)).quarantined
    assert found["_reasons"][0].to_list() == [{"rule": "pattern", "column": "again", "value": MASK}]
    assert "jane" not in found["_row"][0].lower()


@pytest.mark.parametrize(
    ("ending", "read", "first"),
    [("csv", {}, 2), ("csv", {"header": ["id"]}, 1), ("parquet", {}, 1)],
)
def test_the_row_of_a_file_is_counted_without_its_header(
    ending: str, read: dict[str, Any], first: int
) -> None:
    made = DatasetSpec.model_validate(
        {
            "name": "sales",
            "landing": f"sales/*.{ending}",
            "read": read,
            "partition": {"by": "value", "column": "chunk", "start": "0", "end": "9"},
            "columns": {
                "id": {"type": "int"},
                "chunk": {"type": "int", "expression": "_row // 2"},
            },
            "key": ["id"],
        }
    )
    assert list(find_column_mistakes(made)) == []
    numbers = pl.Series([1, 2, 3, 4, 5], dtype=pl.Int64)
    frame = pl.DataFrame({"id": numbers.cast(pl.String) if ending == "csv" else numbers})
    file = RawRows("sales/x", "", "", number_rows(frame, first))
    assert [part.partition for part in slices(file, made)[:-1]] == ["0", "1", "2"]
    assert judge(slices(file, made), made).accepted["chunk"].to_list() == [0, 0, 1, 1, 2]
    assert counts_lines(made)


def test_an_error_of_sql_says_where_and_what_may_be_missing() -> None:
    error = "sql parser error: Expected: end of statement, found: c at Line: {}, Column: 12\nmore"
    assert explain_sql(ValueError(error.format(1))).endswith(
        "found: c, at character 12 of the SQL: is a comma missing before c?"
    )
    assert "at character 12 of line 3 of the SQL" in explain_sql(ValueError(error.format(3)))
    assert explain_sql(ValueError("no such column")) == "no such column"
