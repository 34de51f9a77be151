"""A row is accepted or refused with all its reasons; a refused file takes its partition along."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain_assets.domain.data import row_checks, texts
from retrain_assets.domain.data.arrivals import LONELY, find_strays
from retrain_assets.domain.data.contract import (
    FILES_SCHEMA,
    NEIGHBOUR_REFUSED,
    QUARANTINE_SCHEMA,
    AccountingError,
    Judgement,
    judge,
    refuse_partitions,
)
from retrain_assets.domain.data.row_checks import RawRows
from retrain_assets.domain.data.rules import (
    BROKEN,
    LINE,
    PARTITION,
    dataset_schema,
    partition_of,
    row_key,
)
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.partition import ALL, PartitionSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DAY = "2013-01-31"
NAIVE = datetime(2013, 1, 31)  # noqa: DTZ001 as pandas writes it
SOUND = {
    "id": "1",
    "day": DAY,
    "at": "2013-01-31T10:00:00Z",
    "price": "1.5",
    "kind": "a",
    "ok": "true",
    "note": "x",
}
ATTRIBUTES: dict[str, Any] = {
    "name": "sales",
    "landing": "sales/{partition}.csv",
    "partition": {"by": "day", "column": "day", "start": "2013-01-01"},
    "columns": {
        "id": {"type": "int"},
        "day": {"type": "date"},
        "at": {"type": "datetime"},
        "price": {"type": "float", "required": True, "min": 0, "max": 100},
        "kind": {"type": "category", "allowed": ["a", "b"]},
        "ok": {"type": "bool"},
        "note": {"type": "text"},
    },
    "key": ["day", "id"],
    "quarantine": {"max_fraction": 0.9},
}
Row = dict[str, str | None]


def spec(**changes: Any) -> DatasetSpec:
    return DatasetSpec.model_validate(ATTRIBUTES | changes)


def raw(
    rows: Sequence[Mapping[str, Any]],
    partition: str = DAY,
    name: str = "1",
    schema: Mapping[str, Any] | None = None,
) -> RawRows:
    frame = pl.DataFrame(rows, schema=schema or dict.fromkeys([*SOUND, BROKEN], pl.String))
    lines = frame.with_row_index(LINE, offset=2).cast({LINE: pl.Int64})
    return RawRows(f"sales/{partition}-{name}.csv", partition, f"sha-{name}", lines)


def sound(count: int, start: int = 100) -> list[Row]:
    return [{**SOUND, "id": str(start + n)} for n in range(count)]


def reasons(judgement: Judgement) -> dict[int, list[tuple[str, str | None, str | None]]]:
    return {
        line: [(r["rule"], r["column"], r["value"]) for r in found]
        for line, found in judgement.quarantined.select(LINE, "_reasons").iter_rows()
    }


def test_a_sound_row_is_accepted_in_the_types_of_the_contract() -> None:
    judgement = judge([raw([SOUND])], spec())
    assert judgement.accepted.schema == pl.Schema(dataset_schema(spec()))
    assert judgement.accepted.row(0) == (
        DAY,
        1,
        date(2013, 1, 31),
        datetime(2013, 1, 31, 10, tzinfo=UTC),
        1.5,
        "a",
        True,
        "x",
    )
    assert judgement.quarantined.schema == pl.Schema(QUARANTINE_SCHEMA)
    assert judgement.files.schema == pl.Schema(FILES_SCHEMA)
    assert judgement.files.row(0) == (DAY, f"sales/{DAY}-1.csv", "sha-1", 1, 1, 0, 0, None)


@pytest.mark.parametrize(
    ("column", "value", "read"),
    [
        ("id", "007", 7),
        ("id", "-9223372036854775808", -(2**63)),
        ("price", "1e1", 10.0),
        ("ok", "FALSE", False),
        ("at", "2013-01-31 10:00:00.25+05:00", datetime(2013, 1, 31, 5, 0, 0, 250_000, UTC)),
        ("at", "2013-01-30T23:00:00-0500", datetime(2013, 1, 31, 4, tzinfo=UTC)),
        ("at", "", None),
        ("kind", "", None),
        ("note", "none", "none"),
        ("note", " 1", " 1"),
    ],
)
def test_a_value_written_in_another_right_way_is_accepted(
    column: str, value: str, read: object
) -> None:
    judgement = judge([raw([{**SOUND, column: value}])], spec())
    assert judgement.accepted[column].to_list() == [read]


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("id", "1.5", "type"),
        ("id", "1,5", "type"),
        ("id", " 1", "type"),
        ("id", "1_000", "type"),
        ("id", "9223372036854775808", "type"),
        ("id", "\uff11", "type"),
        ("price", "NaN", "type"),
        ("price", "-inf", "type"),
        ("price", "1e999", "type"),
        ("price", "1,5", "type"),
        ("price", "NULL", "type"),
        ("kind", "N/A", "type"),
        ("note", "#REF!", "type"),
        ("note", "NA", "type"),
        ("ok", "1", "type"),
        ("day", "2013-02-30", "type"),
        ("day", "2013-1-31", "type"),
        ("day", "31.01.2013", "type"),
        ("day", "0000-01-01", "type"),
        ("at", "2013-01-31T10:00:00", "type"),
        ("at", "2013-01-31", "type"),
        ("at", "2013-01-31T10:00:60Z", "type"),
        ("at", "2013-01-31T24:00:00Z", "type"),
        ("at", "9999-12-31T23:00:00-05:00", "type"),
        ("at", "1359626400", "type"),
        ("price", "", "required"),
        ("price", None, "required"),
        ("price", "-0.1", "range"),
        ("price", "100.5", "range"),
        ("kind", "c", "allowed"),
        ("kind", "A", "allowed"),
        ("day", "2013-02-01", "partition"),
        ("day", "2013-01-30", "partition"),
        ("id", "", "key"),
    ],
)
def test_a_bad_value_is_refused_by_its_rule_and_shown(
    column: str, value: str | None, rule: str
) -> None:
    judgement = judge([raw([*sound(3), {**SOUND, column: value}])], spec())
    assert reasons(judgement) == {5: [(rule, column, value)]}
    assert judgement.accepted.height == 3
    assert json.loads(judgement.quarantined["_row"][0]) == {**SOUND, column: value}


def test_words_for_null_are_those_configured() -> None:
    words = spec(read={"nulls": ["", "NA", "-"]})
    rows = [{**SOUND, "note": "NA", "ok": "-"}, {**SOUND, "id": "2", "price": "-"}]
    judgement = judge([raw(rows)], words)
    assert judgement.accepted.select("note", "ok").row(0) == (None, None)
    assert reasons(judgement) == {3: [("required", "price", "-")]}


def test_a_word_for_null_is_a_value_where_it_is_allowed() -> None:
    kinds = {**ATTRIBUTES["columns"], "kind": {"type": "category", "allowed": ["NA"]}}
    judgement = judge([raw([{**SOUND, "kind": "NA"}])], spec(columns=kinds))
    assert judgement.accepted["kind"].to_list() == ["NA"]


def test_jsonl_has_its_own_null_so_an_empty_text_is_a_text() -> None:
    jsonl = spec(landing="sales/{partition}.jsonl")
    judgement = judge([raw([{**SOUND, "note": ""}, {**SOUND, "price": ""}])], jsonl)
    assert judgement.accepted["note"].to_list() == [""]
    assert reasons(judgement) == {3: [("type", "price", "")]}


def test_a_broken_line_is_refused_with_its_text_and_for_nothing_else() -> None:
    broken: Row = {**dict.fromkeys(SOUND), BROKEN: "1,2013"}
    judgement = judge([raw([SOUND, broken])], spec())
    assert reasons(judgement) == {3: [("parse", None, "1,2013")]}
    assert json.loads(judgement.quarantined["_row"][0]) == {BROKEN: "1,2013"}


def test_a_row_lists_every_reason() -> None:
    row = {**SOUND, "id": "", "day": "2013-02-01", "price": "-1", "kind": "c", "ok": "maybe"}
    found = reasons(judge([raw([*sound(2), row])], spec()))
    assert [rule for rule, _, _ in found[4]] == ["type", "range", "allowed", "partition", "key"]


def test_a_row_without_a_date_belongs_to_no_partition() -> None:
    found = reasons(judge([raw([SOUND, {**SOUND, "day": ""}])], spec()))
    assert found == {3: [("partition", "day", ""), ("key", "day", "")]}


def test_of_equal_rows_the_first_stays() -> None:
    judgement = judge([raw([SOUND, SOUND, {**SOUND, "id": "01"}, *sound(1)])], spec())
    assert reasons(judgement) == {
        3: [("repeat", "day, id", "2013-01-31, 1")],
        4: [("repeat", "day, id", "2013-01-31, 01")],
    }
    assert judgement.accepted["id"].to_list() == [1, 100]


def test_of_rows_that_differ_under_one_key_none_stays() -> None:
    rows = [SOUND, {**SOUND, "price": "2"}, SOUND, *sound(1)]
    judgement = judge([raw(rows)], spec())
    assert sorted(reasons(judgement)) == [2, 3, 4]
    assert judgement.accepted["id"].to_list() == [100]


def test_a_key_is_one_across_the_files_of_a_partition_but_not_across_partitions() -> None:
    ids = spec(key=["id"])
    other = [{**row, "day": "2013-01-30"} for row in [SOUND, *sound(1)]]
    files = [
        raw([SOUND, *sound(1)], name="2"),
        raw([SOUND, *sound(1, 200)], name="1"),
        raw(other, "2013-01-30"),
    ]
    judgement = judge(files, ids)
    assert judgement.quarantined.select("_file", LINE).rows() == [(f"sales/{DAY}-2.csv", 2)]
    alone = judge(files[:2], ids).accepted
    assert judgement.accepted.filter(pl.col(PARTITION) == DAY).equals(alone)


def test_a_row_that_cannot_be_read_disputes_and_repeats_no_other() -> None:
    unread = {**SOUND, "ok": "maybe"}
    judgement = judge([raw([unread, unread, {**SOUND, "ok": ""}])], spec())
    assert judgement.accepted["ok"].to_list() == [None]
    assert reasons(judgement) == {line: [("type", "ok", "maybe")] for line in (2, 3)}


def test_a_row_in_the_file_of_another_partition_repeats_none_in_its_own() -> None:
    stray = [SOUND, {**SOUND, "day": "2013-01-30"}]
    judgement = judge([raw(stray, "2013-01-30"), raw([SOUND])], spec())
    assert judgement.accepted[PARTITION].to_list() == ["2013-01-30", DAY]
    assert [rule for found in reasons(judgement).values() for rule, *_ in found] == ["partition"]


def test_what_is_shown_of_a_value_is_short() -> None:
    judgement = judge([raw([*sound(1), {**SOUND, "price": "9" * 1000 + "x"}])], spec())
    assert reasons(judgement)[3] == [("type", "price", f"{'9' * 200}… (1001 characters)")]
    assert len(judgement.quarantined["_row"][0]) < 400


def test_a_file_with_too_many_bad_rows_is_one_record_and_takes_its_partition_along() -> None:
    bad: list[Row] = [{**SOUND, "id": str(n), "kind": "c"} for n in range(7)]
    files = [raw([*bad, *sound(3)], name="2"), raw(sound(4, 200), name="1")]
    files.append(raw([{**SOUND, "day": "2013-01-30"}], "2013-01-30"))
    judgement = judge(files, spec(quarantine={"max_fraction": 0.6}))
    assert judgement.accepted[PARTITION].to_list() == ["2013-01-30"]
    why = (
        f"sales/{DAY}-2.csv: 7 of 10 rows were refused; quarantine.max_fraction is 0.6"
        "; the first is on line 2: column kind: 'c' breaks the rule allowed"
    )
    assert judgement.refused_partitions == {DAY: why}
    assert judgement.quarantined[LINE].to_list() == [None, None]
    neighbour, whole = judgement.quarantined.sort("_file").to_dicts()
    assert neighbour["_reasons"][0]["value"] == NEIGHBOUR_REFUSED
    assert [(r["rule"], r["column"]) for r in whole["_reasons"]] == [
        ("file", None),
        ("allowed", "kind"),
    ]
    shown = json.loads(whole["_row"])
    assert (shown["rows_read"], shown["refused"], len(shown["sample"])) == (10, 7, 5)
    assert shown["sample"][0] == {LINE: 2, **bad[0]}
    counts = judgement.files.select("file", "rows_read", "accepted", "quarantined").rows()
    assert counts[1:] == [(f"sales/{DAY}-1.csv", 4, 0, 4), (f"sales/{DAY}-2.csv", 10, 0, 10)]


def test_a_share_of_bad_rows_up_to_the_bound_is_no_reason_to_refuse_the_file() -> None:
    rows = [*sound(4), {**SOUND, "kind": "c"}]
    assert judge([raw(rows)], spec(quarantine={"max_fraction": 0.2})).accepted.height == 4
    assert judge([raw(rows)], spec(quarantine={"max_fraction": 0.19})).accepted.height == 0


def test_a_file_without_a_sound_row_is_refused_whatever_the_bound() -> None:
    judgement = judge([raw([{**SOUND, "kind": "c"}])], spec(quarantine={"max_fraction": 1}))
    assert judgement.refused_partitions == {
        DAY: f"sales/{DAY}-1.csv: its only row was refused"
        "; the first is on line 2: column kind: 'c' breaks the rule allowed"
    }


def test_a_file_without_rows_is_refused_unless_there_may_be_none() -> None:
    assert judge([raw([])], spec()).refused_partitions == {
        DAY: f"sales/{DAY}-1.csv: it has no rows"
    }
    judgement = judge([raw([])], spec(rows={"min": 0}))
    assert judgement.refused_partitions == {}
    assert judgement.files["rows_read"].to_list() == [0]


def test_a_file_that_could_not_be_read_is_refused_with_the_readers_reason() -> None:
    whole = {"by": "none"}
    unread = RawRows("sales/x.csv", DAY, "sha", pl.DataFrame(), refusal="it is not UTF-8")
    judgement = judge([unread, raw(sound(1), "2013-01-30")], spec(partition=whole, landing="x.csv"))
    assert judgement.refused_partitions == {DAY: "sales/x.csv: it is not UTF-8"}
    assert judgement.quarantined["_reasons"][0][0]["rule"] == "file"
    assert judgement.files.row(1)[3:] == (0, 0, 0, 0, "it is not UTF-8")


def test_a_partition_can_be_refused_after_all() -> None:
    bad, before = {**SOUND, "kind": "c"}, {**SOUND, "day": "2013-01-30"}
    first = judge([raw([*sound(2), bad]), raw([before], "2013-01-30")], spec())
    judgement = refuse_partitions(first, {DAY: "mean of price is 7"})
    assert judgement.accepted[PARTITION].to_list() == ["2013-01-30"]
    assert judgement.refused_partitions == {DAY: f"sales/{DAY}-1.csv: mean of price is 7"}
    assert judgement.quarantined[LINE].to_list() == [None]
    assert refuse_partitions(judgement, {DAY: "later"}).refused_partitions == (
        judgement.refused_partitions
    )
    assert refuse_partitions(first, {}).accepted.equals(first.accepted)


TYPED = {
    "id": pl.UInt64,
    "day": pl.Date,
    "at": pl.Datetime("ns", "America/New_York"),
    "price": pl.Float32,
    "kind": pl.Categorical,
    "ok": pl.Boolean,
    "note": pl.Null,
    BROKEN: pl.String,
}
TYPED_ROW = {
    "id": 1,
    "day": date(2013, 1, 31),
    "at": datetime(2013, 1, 31, 10, tzinfo=UTC),
    "price": 1.5,
    "kind": "a",
    "ok": True,
}


def parquet(**changes: Any) -> DatasetSpec:
    partition = ATTRIBUTES["partition"] | {"timezone": "America/New_York"}
    return spec(**{"landing": "sales/{partition}.parquet", "partition": partition} | changes)


def test_parquet_types_that_hold_the_values_are_accepted_and_mixed() -> None:
    narrow = TYPED | {"id": pl.Int8, "kind": pl.String, "price": pl.Float64}
    files = [
        raw([TYPED_ROW], schema=TYPED),
        raw([{**TYPED_ROW, "id": 2}], name="2", schema=narrow),
    ]
    judgement = judge(files, parquet())
    assert judgement.accepted.schema == pl.Schema(dataset_schema(parquet()))
    assert judgement.accepted.select("id", "at", "kind").rows() == [
        (1, datetime(2013, 1, 31, 10, tzinfo=UTC), "a"),
        (2, datetime(2013, 1, 31, 10, tzinfo=UTC), "a"),
    ]


@pytest.mark.parametrize(
    ("column", "value"),
    [("id", 2**63), ("price", float("nan")), ("price", float("inf")), ("kind", "NULL")],
)
def test_a_bad_value_in_parquet_is_refused(column: str, value: object) -> None:
    rows = [TYPED_ROW, {**TYPED_ROW, "id": 2, column: value}]
    found = reasons(judge([raw(rows, schema=TYPED)], parquet()))
    assert [(rule, name) for rule, name, _ in found[3]] == [("type", column)]


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        ("id", pl.Boolean),
        ("id", pl.String),
        ("id", pl.List(pl.Int64)),
        ("price", pl.String),
        ("note", pl.Float64),
        ("day", pl.Datetime("us", "UTC")),
        ("at", pl.Date),
        ("ok", pl.Int8),
    ],
)
def test_a_parquet_column_of_a_wrong_type_refuses_the_file(column: str, dtype: Any) -> None:
    file = raw([], schema=TYPED | {column: dtype})
    refusal = judge([file], parquet()).refused_partitions[DAY]
    assert f"column {column} is " in refusal
    assert f"the contract says {ATTRIBUTES['columns'][column]['type']}" in refusal


@pytest.mark.parametrize(
    ("column", "values", "accepted"),
    [
        ("id", pl.Series([5.0, 6.5, 1e15, float("nan")]), [5]),
        ("note", pl.Series([10, 2**62, -1, 3]), ["10", str(2**62), "-1", "3"]),
        (
            "day",
            pl.Series([NAIVE, NAIVE + timedelta(hours=1)] * 2, dtype=pl.Datetime("ns")),
            [date(2013, 1, 31)] * 2,
        ),
        ("kind", pl.Series(["a", "NA", "nan", "b"]), ["a", "b"]),
        ("note", pl.Series(["NA", "nan", "N/A", "<NA>"]), ["NA", "N/A"]),
    ],
)
def test_of_what_pandas_writes_the_exact_is_taken(
    column: str, values: pl.Series, accepted: list[Any]
) -> None:
    sound_rows = [{**TYPED_ROW, "id": number} for number in range(4)]
    file = raw(sound_rows, schema=TYPED)
    changed = replace(file, rows=file.rows.with_columns(values.alias(column)))
    judgement = judge([changed], parquet(quarantine={"max_fraction": 1}))
    assert judgement.accepted[column].to_list() == accepted
    rules = [rule for found in reasons(judgement).values() for rule, name, _ in found]
    assert set(rules) <= {"type", "allowed", "partition"}
    assert len(reasons(judgement)) == 4 - len(accepted)


@pytest.mark.parametrize(("naive", "hour"), [("refuse", None), ("utc", 10), ("local", 15)], ids=str)
def test_times_without_offset_are_read_as_the_spec_says(naive: str, hour: int | None) -> None:
    zoned = ATTRIBUTES["partition"] | {"timezone": "America/New_York"}
    rules = parquet(partition=zoned, read={"naive": naive}, quarantine={"max_fraction": 1})
    at = pl.Series([NAIVE + timedelta(hours=10)]).alias("at")
    file = raw([TYPED_ROW], schema=TYPED)
    judgement = judge([replace(file, rows=file.rows.with_columns(at))], rules)
    text = raw([{**SOUND, "at": "2013-01-31 10:00:00"}])
    written = judge([text], spec(partition=zoned, read={"naive": naive}))
    for accepted in (judgement.accepted, written.accepted):
        assert [time.hour for time in accepted["at"]] == ([] if hour is None else [hour])
    refused = judgement.refused_partitions
    assert ("set read.naive to utc" in str(refused)) is (hour is None)


def test_nothing_to_judge_gives_empty_frames() -> None:
    judgement = judge([], spec())
    assert judgement.accepted.schema == pl.Schema(dataset_schema(spec()))
    assert judgement.quarantined.schema == pl.Schema(QUARANTINE_SCHEMA)
    assert judgement.files.is_empty()


def test_a_row_that_gets_lost_stops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = row_checks._gathered
    monkeypatch.setattr(row_checks, "_gathered", lambda *given: whole(*given).head(1))
    with pytest.raises(AccountingError, match="3 rows read, 1 accepted, 0 quarantined"):
        judge([raw(sound(3))], spec())


START = {"day": "2013-01-01", "month": "2013-01"}
END = {"day": "2013-12-31", "month": "2013-12"}
VALUES = st.sampled_from(["", "1", "2", "x", "1.0", DAY, "2013-02-01", "a", "c", "NA", "true"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.fixed_dictionaries(dict.fromkeys(SOUND, VALUES)), max_size=8), st.data())
def test_every_row_is_accounted_for_and_order_of_files_does_not_matter(
    rows: list[Row], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(rows)))
    files = [raw([*sound(1), *rows[:cut]], name="1"), raw([*sound(1, 900), *rows[cut:]], name="2")]
    judgement = judge(files, spec())
    counts = judgement.files.select(pl.col("rows_read", "accepted", "quarantined").sum()).row(0)
    assert counts[0] == len(rows) + 2 == counts[1] + counts[2]
    assert judgement.accepted.height == counts[1]
    assert not judgement.accepted.select(pl.struct("day", "id").is_duplicated().any()).item()
    assert judge(files[::-1], spec()).accepted.equals(judgement.accepted)


PARTS = ("accepted", "quarantined", "files", "outliers", "texts")


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.fixed_dictionaries(dict.fromkeys(SOUND, VALUES)), max_size=8),
    st.integers(1, 6),
    st.sampled_from([0.2, 0.9]),
)
def test_rows_are_judged_alike_whatever_number_is_judged_at_once(
    rows: list[Row], at_once: int, share: float
) -> None:
    same = [{**SOUND, "kind": "x"}, SOUND, {**SOUND, "id": "77"}, {**SOUND, "id": "77"}] * 2
    odd = [{**SOUND, "id": str(n), "kind": f"{n} ", "note": "=1"} for n in range(80, 84)]
    files = [raw([*sound(3), *rows, *odd], name="1"), raw([*rows[::-1], *sound(3)], name="2")]
    files.append(raw([*same, *sound(9, 300)], "2013-01-30"))
    columns = ATTRIBUTES["columns"] | {
        "price": {"type": "float", "outliers": {"robust_z": 2, "action": "quarantine"}},
        "kind": {"type": "category"},
    }
    rules = {"columns": columns, "quarantine": {"max_fraction": share}}
    # Fewer repeated rows are listed than there are, so that the last one counts the others.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_checks, "MAX_REPEATS", 2)
        patch.setattr(texts, "_MOST_CATEGORIES", 2)
        full = judge(files, spec(**rules))
        read = {"batch_values": at_once * len(columns)}
        kept: list[pl.DataFrame] = []
        parts = judge(files, spec(**rules, read=read), kept.append)
    kept.append(parts.accepted)
    refused = list(parts.refused_partitions)
    accepted = pl.concat(kept).filter(~pl.col(PARTITION).is_in(refused))
    assert accepted.equals(full.accepted)
    assert max(frame.height for frame in kept) <= at_once
    for name in PARTS[1:]:
        alike = [getattr(side, name).sort(pl.all(), maintain_order=True) for side in (full, parts)]
        assert alike[0].equals(alike[1]), name
    assert full.quarantined.equals(parts.quarantined)


def test_a_gap_that_the_spacing_of_the_others_contradicts_makes_a_partition_wait() -> None:
    january = {f"2013-01-{day:02}": 40 for day in range(1, 11)}
    assert find_strays({"2013-12-18": 40}, january, spec()) == {"2013-12-18": LONELY}
    assert find_strays({"2012-10-18": 40, **january}, {}, spec()).keys() == {"2012-10-18"}
    assert find_strays({"2013-12-18": 40, "2013-12-19": 40}, january, spec()) == {}
    assert find_strays({"2013-12-18": 40}, january, spec(), ["2013-12-19"]) == {}
    split, wrong = spec(landing="x.csv"), {f"2014-01-{day:02}": 40 for day in range(8, 22)}
    assert find_strays(wrong, january, split).keys() == wrong.keys()
    assert find_strays(january | wrong, {}, split) == {}  # two seasons at the very beginning
    assert find_strays(wrong, january, split, ["2014-01-22"]) == {}
    assert find_strays(wrong, january, split, (), wrong) != {}
    assert find_strays(wrong | {"2014-01-22": 40}, january, split, (), wrong) == {}
    assert find_strays(wrong | {"2014-01-22": 1}, january, split, (), wrong) != {}
    assert find_strays({"2013-12-18": 40}, january, spec(), ["2013-11-19"]) != {}
    few_rows = find_strays({"2013-12-18": 1}, january, spec(), ["2013-12-19"])
    assert "has few rows" in few_rows["2013-12-18"]
    assert find_strays({"2013-02-07": 40}, january, spec()) == {}
    seasons = january | {"2013-06-01": 40, "2013-06-02": 40}
    assert find_strays({"2013-10-20": 40}, seasons, spec()) == {}
    assert find_strays({"2013-12-18": 40}, seasons, spec()) == {"2013-12-18": LONELY}
    few = dict(list(january.items())[:5])
    assert find_strays({"2013-12-18": 40}, few, spec()) == {}
    assert find_strays({"2013-12-18": 40}, january, spec(rows={"stray": 0})) == {}


def test_a_partition_begins_at_midnight_of_its_time_zone() -> None:
    frame = pl.DataFrame(
        {
            "t": [
                datetime(2013, 2, 1, 4, 59, tzinfo=UTC),
                datetime(2013, 2, 1, 5, tzinfo=UTC),
                None,
            ],
            "d": [date(2013, 1, 31), date(2013, 2, 1), None],
        }
    )

    def keys(by: str, column: str) -> list[str | None]:
        given = {"by": by, "column": column, "start": START[by], "timezone": "America/New_York"}
        key = partition_of(PartitionSpec.model_validate(given), column)
        return frame.select(key.alias("key"))["key"].to_list()

    assert keys("day", "t") == ["2013-01-31", "2013-02-01", None]
    assert keys("day", "d") == ["2013-01-31", "2013-02-01", None]
    assert keys("month", "t") == ["2013-01", "2013-02", None]
    everything = partition_of(PartitionSpec.model_validate({"by": "none"}), "t")
    assert frame.with_columns(key=everything)["key"].to_list() == [ALL] * 3


@pytest.mark.parametrize(
    ("by", "key", "valid"),
    [
        ("day", "2013-02-28", True),
        ("day", "2012-02-29", False),
        ("day", "2013-02-30", False),
        ("day", "2013-1-5", False),
        ("day", "2013-01-05\n", False),
        ("day", "\uff12013-01-05", False),
        ("day", "2014-01-01", False),
        ("day", "2013-W01-1", False),
        ("day", "../../etc", False),
        ("month", "2013-02", True),
        ("month", "2013-13", False),
        ("month", "2012-12", False),
        ("month", "2013-02-01", False),
    ],
)
def test_a_partition_key_is_a_real_date_within_the_spec(by: str, key: str, valid: bool) -> None:
    given = {"by": by, "column": "day", "start": START[by], "end": END[by]}
    assert PartitionSpec.model_validate(given).is_key(key) is valid


def test_an_unpartitioned_dataset_has_one_key() -> None:
    whole = PartitionSpec.model_validate({"by": "none"})
    assert whole.is_key(ALL)
    assert not whole.is_key("2013-01-01")


@given(st.lists(st.tuples(*[st.text("a|\\\\ ", max_size=4)] * 3), unique=True))
def test_different_keys_never_become_one_text(keys: list[tuple[str, ...]]) -> None:
    columns = ["a", "b", "c"]
    rules = spec(
        key=columns,
        columns=ATTRIBUTES["columns"] | {name: {"type": "text"} for name in columns},
    )
    rows = pl.DataFrame(keys, schema=dict.fromkeys(columns, pl.String), orient="row")
    assert rows.select(row_key(rules)).to_series().n_unique() == len(keys)


def test_a_file_is_explained_in_parts_and_of_repeated_rows_only_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(row_checks, "MAX_REPEATS", 3)
    monkeypatch.setattr(row_checks, "_EXPLAINED_ROWS", 2)
    explain, sizes = row_checks._explain, list[int]()
    monkeypatch.setattr(
        row_checks,
        "_explain",
        lambda rows, *rest: sizes.append(rows.height) or explain(rows, *rest),
    )
    judgement = judge([raw([SOUND] * 10)], spec())
    assert judgement.accepted.height == 1
    assert judgement.files["quarantined"].to_list() == [9]
    values = [row[0]["value"] for row in judgement.quarantined["_reasons"].to_list()]
    assert [value.partition(", 1")[2] for value in values] == [
        "",
        "",
        ", and 6 more rows that repeat another",
    ]
    assert sizes == [2, 1]


def test_of_a_file_that_is_refused_only_examples_are_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explain, sizes = row_checks._explain, list[int]()
    monkeypatch.setattr(
        row_checks,
        "_explain",
        lambda rows, *rest: sizes.append(rows.height) or explain(rows, *rest),
    )
    bad = [{**SOUND, "id": str(number), "kind": "c"} for number in range(50)]
    judgement = judge([raw([*bad, {**SOUND, "id": "x"}, *sound(3, 100)])], spec())
    assert sizes == [6]
    record = json.loads(judgement.quarantined["_row"][0])
    assert (record["rows_read"], record["refused"], len(record["sample"])) == (54, 51, 5)
    rules = [(reason["rule"], reason["column"]) for reason in judgement.quarantined["_reasons"][0]]
    assert rules == [("file", None), ("allowed", "kind"), ("type", "id")]
