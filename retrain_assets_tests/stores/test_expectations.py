"""The audit finds by another engine what the contract should have refused, and names where."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from retrain_assets.domain.rules import PARTITION, dataset_schema
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores import expectations
from retrain_assets.stores.expectations import Audit, Finding, audit

FIRST, SECOND = "2013-01-30", "2013-01-31"
ATTRIBUTES: dict[str, Any] = {
    "name": "sales",
    "landing": "sales/{partition}.csv",
    "partition": {
        "by": "day",
        "column": "at",
        "start": "2013-01-01",
        "timezone": "America/New_York",
    },
    "columns": {
        "id": {"type": "int", "required": True},
        "at": {"type": "datetime"},
        "day": {"type": "date"},
        "price": {"type": "float", "min": 0, "max": 100},
        "kind": {"type": "category", "allowed": ["a", "b"]},
        "ok": {"type": "bool"},
    },
    "key": ["id", "day"],
    "rows": {"min": 3, "max": 5},
}


def spec(*given: dict[str, Any], **changes: Any) -> DatasetSpec:
    return DatasetSpec.model_validate(ATTRIBUTES | {"expectations": list(given)} | changes)


def accepted(rows: int = 4) -> pl.DataFrame:
    """Sound rows of two partitions, with a null in every column that may have one."""
    records = [
        {
            PARTITION: key,
            "id": number,
            "at": datetime(2013, 1, number_of_day, 12, tzinfo=UTC),
            "day": date(2013, 1, number_of_day) if number else None,
            "price": float(number) if number else None,
            "kind": "ab"[number % 2] if number else None,
            "ok": True if number else None,
        }
        for key, number_of_day in ((FIRST, 30), (SECOND, 31))
        for number in range(rows)
    ]
    return pl.DataFrame(records, dataset_schema(spec())).with_columns(
        pl.col("day").fill_null(pl.col(PARTITION).str.to_date())
    )


def damaged(column: str, value: object, place: int = -1) -> pl.DataFrame:
    """Sound rows, but for one value; the last row is of the second partition."""
    frame = accepted()
    values = frame[column].to_list()
    values[place] = value
    return frame.with_columns(pl.Series(column, values, frame.schema[column]))


def failed(rows: pl.DataFrame, contract: DatasetSpec) -> list[Finding]:
    return [finding for finding in audit(rows, contract).findings if not finding.passed]


def test_sound_rows_pass_every_expectation() -> None:
    outcome = audit(accepted(), spec())
    assert [finding for finding in outcome.findings if not finding.passed] == []
    assert [(f.expectation.removeprefix("expect_"), f.column) for f in outcome.findings] == [
        ("table_columns_to_match_set", None),
        ("column_values_to_be_between", "_rows"),
        ("column_values_to_not_be_null", "id"),
        ("column_values_to_not_be_null", "day"),
        ("column_values_to_be_between", "price"),
        ("column_values_to_be_in_set", "kind"),
        ("compound_columns_to_be_unique", "id, day"),
        ("column_pair_values_to_be_equal", "at"),
    ]
    assert (outcome.rows_audited, outcome.rows, outcome.refusals()) == (8, 8, {})


@pytest.mark.parametrize(
    ("column", "value", "expectation", "reported"),
    [
        ("id", None, "expect_column_values_to_not_be_null", "id"),
        ("day", None, "expect_column_values_to_not_be_null", "day"),
        ("price", -0.5, "expect_column_values_to_be_between", "price"),
        ("price", 100.5, "expect_column_values_to_be_between", "price"),
        ("kind", "c", "expect_column_values_to_be_in_set", "kind"),
        ("id", 2, "expect_compound_columns_to_be_unique", "id, day"),
        (
            "at",
            datetime(2013, 2, 1, 5, tzinfo=UTC),
            "expect_column_pair_values_to_be_equal",
            "at",
        ),
        ("at", None, "expect_column_pair_values_to_be_equal", "at"),
    ],
)
def test_a_bad_row_fails_its_own_expectation_in_its_own_partition(
    column: str, value: object, expectation: str, reported: str
) -> None:
    (finding,) = failed(damaged(column, value), spec())
    assert (finding.expectation, finding.column) == (expectation, reported)
    assert finding.partitions == (SECOND,)
    assert " of 8 rows, such as " in finding.observed
    assert not finding.is_volume


def test_a_day_begins_at_midnight_of_its_time_zone() -> None:
    late = datetime(2013, 2, 1, 4, 59, tzinfo=UTC)
    assert failed(damaged("at", late), spec()) == []


@pytest.mark.parametrize("rows", [2, 6])
def test_a_partition_with_too_few_or_too_many_rows_fails(rows: int) -> None:
    own = pl.col(PARTITION) == SECOND
    frame = pl.concat([accepted().filter(~own), accepted(rows).filter(own)])
    (finding,) = failed(frame, spec())
    assert finding.is_volume
    assert finding.partitions == (SECOND,)
    assert finding.observed == f"1 of 2 rows, such as {rows}"


@pytest.mark.parametrize(
    ("frame", "observed"),
    [
        (accepted().drop("ok"), "{'mismatched': {'missing': ['ok: Boolean']}}"),
        (accepted().with_columns(more=1), "{'mismatched': {'unexpected': ['more: Int32']}}"),
        (
            accepted().cast({"id": pl.Int32}),
            "{'mismatched': {'unexpected': ['id: Int32'], 'missing': ['id: Int64']}}",
        ),
    ],
)
def test_a_column_that_is_missing_unknown_or_of_another_type_fails_everywhere(
    frame: pl.DataFrame, observed: str
) -> None:
    (finding,) = failed(frame, spec())
    assert finding.expectation == "expect_table_columns_to_match_set"
    assert (finding.partitions, finding.observed) == ((FIRST, SECOND), observed)


def mean(**bounds: float) -> dict[str, Any]:
    kwargs = {"column": "price", **bounds}
    return {"type": "expect_column_mean_to_be_between", "kwargs": kwargs}


def test_an_expectation_of_the_spec_on_all_rows_fails_everywhere() -> None:
    assert failed(accepted(), spec(mean(max_value=2))) == []
    (finding,) = failed(accepted(), spec(mean(min_value=3)))
    assert (finding.column, finding.observed) == ("price", "2.0")
    assert finding.partitions == (FIRST, SECOND)


def test_an_expectation_that_is_asked_for_twice_is_answered_twice() -> None:
    twice = [finding.column for finding in failed(accepted(), spec(*[mean(min_value=3)] * 2))]
    assert twice == ["price", "price"]


@pytest.mark.parametrize(
    "raising",
    [
        {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "kind", "max_value": 1}},
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "nowhere"}},
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "price", "min_value": "2013-01-31"},
        },
    ],
)
def test_an_expectation_that_raises_has_failed_everywhere_and_alone(
    raising: dict[str, Any],
) -> None:
    (finding,) = failed(accepted(), spec(raising, mean(max_value=2)))
    assert finding.expectation == raising["type"]
    assert finding.partitions == (FIRST, SECOND)
    assert finding.observed.startswith("it raised: ")


def test_a_result_that_says_both_success_and_exception_has_failed() -> None:
    info = {"raised_exception": True, "exception_message": "out of memory"}
    result: Any = SimpleNamespace(success=True, exception_info=info, result={})
    asked = expectations._Asked("expect_something", {})
    finding = expectations._finding(asked, result, pl.Series([FIRST, SECOND, FIRST]))
    assert (finding.passed, finding.partitions) == (False, (FIRST, SECOND))
    assert finding.observed == "it raised: out of memory"


def test_with_mostly_only_partitions_that_miss_it_by_themselves_fail() -> None:
    kwargs = {"column": "id", "min_value": 2, "mostly": 0.5}
    mostly = {"type": "expect_column_values_to_be_between", "kwargs": kwargs}
    assert failed(accepted(), spec(mostly)) == []
    (finding,) = failed(damaged("id", -7), spec(mostly))
    assert finding.partitions == (SECOND,)
    assert finding.observed == "5 of 8 rows, such as 0, 1, 0"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"type": "expect_colum_mean_to_be_betwen", "kwargs": {"column": "price"}},
            "knows no 'expect_colum_mean_to_be_betwen': is it expect_column_mean_to_be_between",
        ),
        ({"type": "expect_nonsense_qqqqqqqq"}, "knows no 'expect_nonsense_qqqqqqqq'"),
        (
            {"type": "expect_column_mean_to_be_between", "kwargs": {"colum": "price"}},
            "mean_to_be_between with {'colum': 'price'}: 2 validation errors .* column",
        ),
    ],
)
def test_an_expectation_that_cannot_be_made_is_an_error(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        audit(accepted(), spec(given))


def test_without_partitions_the_key_and_the_rules_are_judged_all_the_same() -> None:
    whole = spec(partition={"by": "none"}, rows={})
    frame = damaged("id", 2).with_columns(pl.lit("all").alias(PARTITION))
    (finding,) = failed(frame, whole)
    assert finding.partitions == ("all",)


def test_no_rows_need_no_audit() -> None:
    assert audit(accepted().clear(), spec()) == Audit((), 0, 0)


def test_very_many_rows_are_sampled_alike_from_each_partition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = spec(rows={"max": 50})
    rows = pl.concat([accepted(100).filter(pl.col(PARTITION) == FIRST), accepted(10).tail(10)])
    monkeypatch.setattr(expectations, "MAX_AUDITED_ROWS", 44)
    outcome = audit(rows, counts)
    assert (outcome.rows_audited, outcome.rows) == (44, 110)
    sample = expectations._sample(rows)
    assert sample[PARTITION].value_counts(sort=True)["count"].to_list() == [40, 4]
    assert sample.equals(expectations._sample(rows))
    assert [f.partitions for f in outcome.findings if f.is_volume] == [(FIRST,)]
    bad = rows.with_columns(price=pl.lit(-1.0))
    assert [f.partitions for f in failed(bad, counts) if f.column == "price"] == [(FIRST, SECOND)]


def test_refusals_list_everything_found_in_a_partition() -> None:
    frame = damaged("price", -1.0).with_columns(
        kind=pl.when(pl.col("id") > 2).then(pl.lit("c")).otherwise("kind")
    )
    refusals = audit(frame, spec()).refusals()
    kinds = "expect_column_values_to_be_in_set of kind: 2 of 8 rows, such as c, c"
    assert refusals[FIRST] == kinds
    prices = "expect_column_values_to_be_between of price: 1 of 8 rows, such as -1.0"
    assert refusals[SECOND] == f"{prices}; {kinds}"


def test_an_audit_is_silent_local_and_leaves_the_environment_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was made"))
    expectations._batches.cache_clear()
    audit(accepted(), spec())
    batches = expectations._batches()
    audit(accepted(), spec())
    assert expectations._batches() is batches
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")


def test_importing_the_module_does_not_import_great_expectations() -> None:
    code = (
        "import sys, retrain_assets.stores.expectations\n"
        "print(*{'great_expectations', 'pandas'}.intersection(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""
