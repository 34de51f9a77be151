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

from retrain_assets.domain.data.expectations import Expectation, figures
from retrain_assets.domain.data.rules import PARTITION, dataset_schema
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores import audit as module
from retrain_assets.stores.audit import Audit, Finding, draw_sample

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


def audit(rows: pl.DataFrame, contract: DatasetSpec) -> Audit:
    return module.audit(rows, figures(rows, contract), contract)


def failed(rows: pl.DataFrame, contract: DatasetSpec) -> list[Finding]:
    return [finding for finding in audit(rows, contract).findings if not finding.passed]


def test_sound_rows_pass_every_expectation() -> None:
    outcome = audit(accepted(), spec())
    assert [finding for finding in outcome.findings if not finding.passed] == []
    assert [(f.item.title.removeprefix("expect_"), f.item.column) for f in outcome.findings] == [
        ("table_columns_to_match_set", None),
        ("column_values_to_be_between", "_rows"),
        ("column_values_to_not_be_null", "id"),
        ("column_values_to_be_between", "price"),
        ("column_values_to_be_in_set", "kind"),
        ("column_values_to_not_be_null", "at"),
        ("column_pair_values_to_be_equal", "at"),
        ("column_values_to_not_be_null", "day"),
        ("compound_columns_to_be_unique", "id, day"),
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
        ("at", None, "expect_column_values_to_not_be_null", "at"),
    ],
)
def test_a_bad_row_fails_its_own_expectation_in_its_own_partition(
    column: str, value: object, expectation: str, reported: str
) -> None:
    (finding,) = failed(damaged(column, value), spec())
    assert (finding.item.title, finding.item.column) == (expectation, reported)
    assert finding.partitions == (SECOND,)
    assert finding.observed.startswith(
        "1 of 8, such as " if column != "id" or value is None else "2"
    )
    assert finding.item.rule != "volume"


def test_a_day_begins_at_midnight_of_its_time_zone() -> None:
    late = datetime(2013, 2, 1, 4, 59, tzinfo=UTC)
    assert failed(damaged("at", late), spec()) == []


@pytest.mark.parametrize("rows", [2, 6])
def test_a_partition_with_too_few_or_too_many_rows_fails(rows: int) -> None:
    own = pl.col(PARTITION) == SECOND
    frame = pl.concat([accepted().filter(~own), accepted(rows).filter(own)])
    (finding,) = failed(frame, spec())
    assert finding.item.rule == "volume"
    assert finding.partitions == (SECOND,)
    assert finding.observed == f"1 of 2, such as {rows}"


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
    assert finding.item.title == "expect_table_columns_to_match_set"
    assert (finding.partitions, finding.observed) == ((FIRST, SECOND), observed)


def mean(**bounds: float) -> dict[str, Any]:
    kwargs = {"column": "price", **bounds}
    return {"type": "expect_column_mean_to_be_between", "kwargs": kwargs}


PRICES = {FIRST: [2.0, 4.0, 4.0, None], SECOND: [10.0, 20.0, 30.0, 50.0]}


@pytest.mark.parametrize(
    ("figure", "first", "second"),
    [
        ("mean", 10 / 3, 27.5),
        ("median", 4, 25),
        ("min", 2, 10),
        ("max", 4, 50),
        ("sum", 10, 110),
        ("stdev", (4 / 3) ** 0.5, (875 / 3) ** 0.5),
        ("unique_value_count", 2, 4),
        ("proportion_of_unique_values", 2 / 3, 1),
    ],
)
def test_an_aggregate_is_held_by_each_partition(figure: str, first: float, second: float) -> None:
    prices = pl.Series(PRICES[FIRST] + PRICES[SECOND], dtype=pl.Float64)
    rows = accepted().with_columns(price=prices)
    for value, other, failing in ((first, second, SECOND), (second, first, FIRST)):
        bounds = {"min_value": value - 1e-9, "max_value": value + 1e-9}
        kwargs = {"column": "price", **bounds}
        asked = {"type": f"expect_column_{figure}_to_be_between", "kwargs": kwargs}
        (finding,) = failed(rows, spec(asked))
        assert (finding.item.title, finding.item.column) == (asked["type"], "price")
        assert finding.partitions == (failing,)
        assert finding.observed.startswith(f"1 of 2, such as {str(float(other))[:6]}")


def test_bounds_of_an_aggregate_may_be_strict() -> None:
    rows = accepted().with_columns(price=pl.lit(2.0))
    assert failed(rows, spec(mean(min_value=2))) == []
    assert failed(rows, spec(mean(min_value=2, strict_min=True))) != []


def test_a_partition_without_a_value_fails_what_is_asked_of_the_column() -> None:
    """F35: a metric that is NaN or null is no answer."""
    nothing = pl.when(pl.col(PARTITION) == FIRST).then("price")
    rows = accepted().with_columns(price=nothing)
    for asked in (mean(max_value=1e9), mean(min_value=-1e9)):
        (finding,) = failed(rows, spec(asked))
        assert (finding.item.title, finding.partitions) == (asked["type"], (SECOND,))
    whole_run = mean(max_value=1e9) | {"kwargs": {"column": "price", "row_condition": "price < 0"}}
    whole_run["kwargs"]["condition_parser"] = "pandas"
    (finding,) = failed(rows, spec(whole_run))
    assert finding.partitions == (FIRST, SECOND)


def test_an_expectation_that_is_no_aggregate_of_numbers_is_on_all_rows() -> None:
    kwargs = {"column": "kind", "min_value": 3}
    asked = {"type": "expect_column_unique_value_count_to_be_between", "kwargs": kwargs}
    (finding,) = failed(accepted(), spec(asked))
    assert (finding.observed, finding.partitions) == ("2", (FIRST, SECOND))


def test_an_expectation_that_is_asked_for_twice_is_answered_twice() -> None:
    twice = [finding.item.column for finding in failed(accepted(), spec(*[mean(min_value=3)] * 2))]
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
    assert finding.item.title == raising["type"]
    assert finding.partitions == (FIRST, SECOND)
    assert finding.observed.startswith("it raised: ")


def test_a_result_that_says_both_success_and_exception_has_failed() -> None:
    info = {"raised_exception": True, "exception_message": "out of memory"}
    result: Any = SimpleNamespace(success=True, exception_info=info, result={})
    asked = Expectation("expectations", None, "expect_something", {})
    keys = pl.Series([FIRST, SECOND, FIRST])
    finding = module._finding(asked, result, keys, is_hidden=False)
    assert (finding.passed, finding.partitions) == (False, (FIRST, SECOND))
    assert finding.observed == "it raised: out of memory"


def test_with_mostly_only_partitions_that_miss_it_by_themselves_fail() -> None:
    kwargs = {"column": "id", "min_value": 2, "mostly": 0.5}
    mostly = {"type": "expect_column_values_to_be_between", "kwargs": kwargs}
    assert failed(accepted(), spec(mostly)) == []
    (finding,) = failed(damaged("id", -7), spec(mostly))
    assert finding.partitions == (SECOND,)
    assert finding.observed == "5 of 8, such as 0, 1, 0"


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
    whole = spec(landing="sales/*.csv", partition={"by": "none"}, rows={})
    frame = damaged("id", 2).with_columns(pl.lit("all").alias(PARTITION))
    (finding,) = failed(frame, whole)
    assert finding.partitions == ("all",)


def test_no_rows_need_no_audit() -> None:
    assert audit(accepted().clear(), spec()) == Audit((), 0, 0)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.37, 0.9])
def test_a_sample_is_the_same_share_of_each_partition_however_rows_are_batched(
    share: float,
) -> None:
    rows = accepted(1000)
    halves = [rows.filter(pl.col(PARTITION) == key) for key in (FIRST, SECOND)]
    sample = draw_sample(rows, share)
    assert sample.equals(pl.concat([draw_sample(half, share) for half in halves]))
    sizes = sample[PARTITION].value_counts()["count"]
    assert all(abs(size - 1000 * share) <= 3 for size in sizes)
    # Data with a period, such as by the hour, is met at all its phases.
    phases = draw_sample(accepted(24_000), 0.1)["id"] % 24
    assert phases.value_counts()["count"].min() > 150  # type: ignore[operator]


def test_volume_is_counted_on_all_rows_and_a_sample_says_so() -> None:
    contract, rows = spec(rows={"max": 50}), accepted(60)
    counts = figures(rows, contract)
    outcome = module.audit(draw_sample(rows, 0.1), counts, contract)
    assert (outcome.rows_audited, outcome.rows) == (draw_sample(rows, 0.1).height, 120)
    assert [f.partitions for f in outcome.findings if not f.passed] == [(FIRST, SECOND)]


def test_a_year_of_partitions_is_one_validation_of_each_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    validated, seen = module.validate, []
    monkeypatch.setattr(
        module, "validate", lambda *given: seen.append(len(given[1])) or validated(*given)
    )
    year = pl.concat(
        [accepted().with_columns(pl.lit(f"day {n}").alias(PARTITION)) for n in range(365)]
    )
    audit(accepted(), spec(mean(max_value=9)))
    once = list(seen)
    audit(year, spec(mean(max_value=9)))
    assert seen == once * 2


def test_nothing_personal_is_observed() -> None:
    secret = {"price": {"type": "float", "min": 0, "max": 100, "personal": True}}
    asked = {"type": "expect_column_max_to_be_between", "kwargs": {"column": "price"}}
    pair = {"column_A": "price", "column_B": "id"}
    given = [
        asked | {"kwargs": {"column": "price", "max_value": 5}},
        {"type": "expect_column_pair_values_to_be_equal", "kwargs": pair},
        {"type": "expect_column_quantile_values_to_be_between", "kwargs": {"column": "price"}},
        {
            "type": "expect_column_values_to_match_regex",
            "kwargs": {"column": "price", "regex": "("},
        },
        {
            "type": "expect_column_median_to_be_between",
            "kwargs": {"column": "id", "min_value": 9, "row_condition": "price > 777777"},
        },
    ]
    given[2]["kwargs"]["quantile_ranges"] = {"quantiles": [0.5], "value_ranges": [[5, 6]]}
    given[4]["kwargs"]["condition_parser"] = "pandas"
    contract = spec(*given, columns=ATTRIBUTES["columns"] | secret)
    findings = failed(damaged("price", 777_777.0), contract)
    assert len(findings) >= 6
    for finding in findings:
        assert "777777" not in finding.observed
        assert "***" in finding.observed


def test_what_is_observed_is_shortened_and_escaped() -> None:
    (finding,) = failed(damaged("kind", "\x1b[31m<b>" + "x" * 500), spec())
    assert finding.observed == "1 of 8, such as '\\x1b[31m<b>" + "x" * 28


def test_refusals_list_everything_found_in_a_partition() -> None:
    frame = damaged("price", -1.0).with_columns(
        kind=pl.when(pl.col("id") > 2).then(pl.lit("c")).otherwise("kind")
    )
    refusals = audit(frame, spec()).refusals()
    kinds = "expect_column_values_to_be_in_set of kind: 2 of 8, such as 'c', 'c'"
    assert refusals[FIRST] == kinds
    prices = "expect_column_values_to_be_between of price: 1 of 8, such as -1.0"
    assert refusals[SECOND] == f"{prices}; {kinds}"


def test_an_audit_is_silent_local_and_leaves_the_environment_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was made"))
    module._batches.cache_clear()
    audit(accepted(), spec())
    batches = module._batches()
    audit(accepted(), spec())
    assert module._batches() is batches
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")


def test_importing_the_module_does_not_import_great_expectations() -> None:
    code = (
        "import sys, retrain_assets.stores.audit\n"
        "print(*{'great_expectations', 'pandas'}.intersection(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""
