"""Great Expectations and polars name the same failing rows, for every rule of one contract.

The suite that accepted rows are held to is asked of rows as they were read, held to those that each
expectation can judge; and beside it what accepted rows cannot break. Three things Great
Expectations has no notion of, so it holds what polars prepares: which values were given (`type`,
`required`), which lie far out in their partition (`outlier`), and how often a row was there before
(`repeat`). `key` is unique among the rows that merely repeat none.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime
from math import inf, nan
from typing import TYPE_CHECKING, Any

import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as any_of
from hypothesis import strategies as st

from retrain_assets.domain.data.expectations import Expectation, contract_suite, with_own_partition
from retrain_assets.domain.data.row_checks import RawRows, flag_rows
from retrain_assets.domain.data.rules import (
    BETWEEN,
    BROKEN,
    IN_SET,
    LINE,
    NOT_NULL,
    PARTITION,
    RULES,
    UNIQUE,
    WHOLE,
    far_out,
    unparsable,
    value_flag,
)
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.audit import validate

if TYPE_CHECKING:
    from collections.abc import Iterator

DAYS = ("2013-01-30", "2013-01-31")
COLUMNS: dict[str, Any] = {
    "id": {"type": "int", "max": 2**62},
    "day": {"type": "date"},
    "unit price": {"type": "float", "required": True, "min": 0, "max": 100},
    "kind": {"type": "category", "allowed": ["a", "a.b", "a|b", "é", "NA", "(", "$&"]},
    "code": {"type": "text", "required": True, "pattern": r"[A-Z]{2}(?:\.\d+|\|)?"},
    "at": {"type": "datetime"},
    "ok": {"type": "bool", "required": True},
    "size": {"type": "int", "outliers": {"robust_z": 3, "action": "quarantine"}},
    "twice": {"type": "float", "expression": '"unit price" * 2', "max": 200, "required": True},
    "share": {"type": "int", "expression": "100 // size", "min": 0},
}
BIG = 2**53
MOMENT = datetime(2013, 1, 31, 10, tzinfo=UTC)
TEXT: dict[str, list[str | None]] = {
    "id": ["1", "2", "007", str(BIG), str(BIG + 1), str(2**62), str(2**63), "1.0", "x", "", None],
    "day": [*DAYS, *DAYS, "2013-02-30", "NULL", "", None],
    "unit price": [
        *("0", "-0.0", "100", "100.00000000000001", "-1e-9", "NaN", "inf", "1e999", "1,5"),
        *("5", "5.0", "", None, "n/a", "-"),
    ],
    "kind": [
        *("a", "a.b", "aXb", "a|b", "b", "é", "e\u0301", "NA", "NULL", "(", "$&", "<b>", "", None),
    ],
    "code": [
        *("AB", "AB.1", "AB|", "AB\n", "ABx1", "\u0410B", "AB.\u0661", "[A-Z]", "NULL", "", None),
    ],
    "at": ["2013-01-31T10:00:00Z", "2013-01-31T11:00:00+01:00", "2013-01-31 10:00", "x", "", None],
    "ok": ["true", "FALSE", "1", "", None],
    "size": ["1", "2", "3", "0", "1000", "x", "", None],
}
TYPED: dict[str, list[Any]] = {
    "id": [1, 2, BIG, BIG + 1, BIG + 2, -(2**63), 2**62, 2**62 + 1025, None],
    "day": [date(2013, 1, 30), date(2013, 1, 31), date(2013, 2, 1), date(1, 1, 1), None],
    "unit price": [0.0, -0.0, 100.0, 100.00000000000001, -5e-324, nan, inf, -inf, 5.0, None],
    "kind": [*TEXT["kind"], "a\0"],
    "code": [*TEXT["code"], "AB\0"],
    "at": [MOMENT, MOMENT.replace(year=1), MOMENT.replace(year=9999), None],
    "ok": [True, False, None],
    "size": [1, 2, 3, 0, 1000, -(2**63), None],
}
SCHEMA = {
    **dict(zip(TYPED, (pl.Int64, pl.Date, pl.Float64, pl.String, pl.String), strict=False)),
    "at": pl.Datetime("us", "UTC"),
    "ok": pl.Boolean,
    "size": pl.Int64,
}


def contract(ending: str) -> DatasetSpec:
    return DatasetSpec.model_validate(
        {
            "name": "sales",
            "landing": f"sales/{{partition}}-*.{ending}",
            "partition": {"by": "day", "column": "day", "start": "2013-01-01"},
            "columns": COLUMNS,
            "key": ["id", "day"],
            "read": {"nulls": ["", "-"]} if ending == "csv" else {},
        }
    )


File = list[dict[str, Any]]


def one_by_one(pools: dict[str, list[Any]]) -> File:
    """Sound rows, each but for one value, so that every value is met; some rows are there twice."""
    sound = {name: pool[0] for name, pool in pools.items()}
    rows = [
        {**sound, "id": pools["id"][place % 3], name: value}
        for name, pool in pools.items()
        for place, value in enumerate(pool)
    ]
    return [*rows, {**dict.fromkeys(pools), BROKEN: "no row"}, *rows[::7]]


def some_of(pools: dict[str, list[Any]]) -> st.SearchStrategy[list[File]]:
    """A file for each of up to two days, with rows that are there twice, or but for one value."""
    row = st.fixed_dictionaries({name: st.sampled_from(pool) for name, pool in pools.items()})
    change = st.tuples(st.sampled_from(sorted(pools)), st.integers(0, 2))

    def again(rows: File, changes: list[tuple[str, int]]) -> File:
        near = [{**r, name: pools[name][n]} for r, (name, n) in zip(rows, changes, strict=False)]
        return [*rows, *rows[::2], *near, *rows[::3]]

    file = st.builds(again, st.lists(row, max_size=40), st.lists(change, max_size=20))
    return st.lists(file, max_size=2)


def asked_of(spec: DatasetSpec) -> Iterator[Expectation]:
    """What every rule asks of rows as they were read, with the columns of `prepared`."""
    yield Expectation("parse", None, "expect_column_values_to_be_null", {"column": BROKEN})
    for name, column in spec.columns.items():
        yield held_to(value_flag(name), Expectation("type", name, NOT_NULL, {"column": name}))
        if column.outliers is not None:
            kwargs = {"column": far_out(name), "value_set": [False]}
            yield Expectation("outlier", name, IN_SET, kwargs)
    for one in contract_suite(spec):
        if one.name == NOT_NULL:
            yield held_to(f"_clear_{one.column}", one)
        else:
            yield held_to("_distinct", one) if one.name == UNIQUE else one
    copies = {"column": "_copies", "max_value": 1}
    yield held_to("_single", Expectation("repeat", ", ".join(spec.key), BETWEEN, copies))


def held_to(flag: str, one: Expectation) -> Expectation:
    condition = {"row_condition": f"`{flag}` == True", "condition_parser": "pandas"}
    return replace(one, kwargs={**one.kwargs, **condition})


def prepared(rows: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    clear = {f"_clear_{c}": ~unparsable(c) & pl.col(BROKEN).is_null() for c in spec.columns}
    same, key = [PARTITION, WHOLE, *spec.columns], [PARTITION, WHOLE, *spec.key]
    copies = pl.int_range(1, pl.len() + 1).over(same)
    versions = pl.struct(*spec.columns).n_unique().over(key)
    counted = with_own_partition(rows, spec).with_columns(
        **clear, _copies=copies, _single=pl.col(WHOLE) & (versions == 1)
    )
    repeats = pl.col("_single") & (pl.col("_copies") > 1)
    return counted.with_columns((pl.col(WHOLE) & ~repeats).alias("_distinct"))


def agreed(
    spec: DatasetSpec, files: list[File], schema: dict[str, Any]
) -> dict[tuple[str, str | None], list[int]]:
    """Ask both engines, compare what they say of each row, and return it."""
    raw = [
        RawRows(
            f"sales/{day}-1",
            day,
            day,
            pl.DataFrame(rows, {**schema, BROKEN: pl.String})
            .with_row_index(LINE, 1)
            .cast({LINE: pl.Int64}),
        )
        for day, rows in zip(DAYS, files, strict=False)
    ]
    chunks, flags = flag_rows(raw, spec)
    rows = pl.concat(chunks)
    by_polars: dict[tuple[str, str | None], list[int]] = {}
    for flag, (rule, breach) in flags.items():
        named, found = (rule, breach.column), rows[flag].arg_true().to_list()
        by_polars[named] = sorted({*by_polars.get(named, ()), *found})
    asked = tuple(asked_of(spec))
    by_expectations: dict[tuple[str, str | None], set[int]] = defaultdict(set)
    frame = prepared(rows.drop(*flags), spec).select(~cs.starts_with("_raw_"))
    for one, result in zip(asked, validate(frame, asked), strict=True):
        assert result.success or "unexpected_index_list" in result.result, (one, result)
        found = result.result.get("unexpected_index_list", ())
        by_expectations[one.rule, one.column].update(found)
    assert {named: sorted(found) for named, found in by_expectations.items()} == by_polars
    return by_polars


INPUTS = [("csv", TEXT, dict.fromkeys(TEXT, pl.String)), ("parquet", TYPED, SCHEMA)]
FEW = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize(("ending", "pools", "schema"), INPUTS)
def test_both_engines_name_the_same_rows_for_every_rule_and_value(
    ending: str, pools: dict[str, list[Any]], schema: dict[str, Any]
) -> None:
    found = agreed(contract(ending), [one_by_one(pools)] * 2, schema)
    assert {rule for (rule, _), rows in found.items() if rows} == set(RULES)


@any_of(files=some_of(TEXT))
@FEW
def test_both_engines_name_the_same_rows_of_any_text(files: list[File]) -> None:
    agreed(contract("csv"), files, INPUTS[0][2])


@any_of(files=some_of(TYPED))
@FEW
def test_both_engines_name_the_same_rows_of_any_typed_file(files: list[File]) -> None:
    agreed(contract("parquet"), files, SCHEMA)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_no_rows_are_agreed_upon(ending: str) -> None:
    assert not any(agreed(contract(ending), [], SCHEMA).values())
