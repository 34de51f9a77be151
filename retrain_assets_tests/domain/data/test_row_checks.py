"""Outliers are counted or refused, personal values never shown, and flags name their rows."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from retrain_assets.domain.data.contract import Judgement, judge, merge, refuse_partitions
from retrain_assets.domain.data.row_checks import MASK, RawRows, flag_rows
from retrain_assets.domain.data.rules import BROKEN, LINE, PARTITION
from retrain_assets.specs.dataset import DatasetSpec

DAYS = ("2013-01-30", "2013-01-31")
NAME = "Jane\tD\u00f6e"


def spec(**changes: Any) -> DatasetSpec:
    columns: dict[str, Any] = {
        "id": {"type": "int"},
        "day": {"type": "date"},
        "price": {"type": "float"},
        "name": {"type": "text"},
    }
    for name in columns:
        columns[name] |= changes.pop(name, {})
    return DatasetSpec.model_validate(
        {
            "name": "sales",
            "landing": "sales/{partition}.csv",
            "partition": {"by": "day", "column": "day", "start": "2013-01-01"},
            "columns": columns,
            "key": ["id"],
            "quarantine": {"max_fraction": 0.9},
        }
        | changes
    )


def raw(of: str = DAYS[0], /, **columns: list[str | None]) -> RawRows:
    height = len(next(iter(columns.values())))
    given: dict[str, list[Any]] = {
        "id": [str(n) for n in range(height)],
        "day": [of] * height,
        "price": ["1"] * height,
        "name": ["x"] * height,
        BROKEN: [None] * height,
    }
    frame = pl.DataFrame(given | columns, schema=dict.fromkeys(given, pl.String))
    return RawRows(
        f"sales/{of}.csv", of, "sha", frame.with_columns(pl.int_range(2, height + 2).alias(LINE))
    )


def shown(judgement: Judgement) -> list[tuple[str, str | None, str | None]]:
    return [tuple(one.values()) for found in judgement.quarantined["_reasons"] for one in found]


# Median 5 and MAD 2, so that one standard deviation is put at 2.9652.
SPREAD: list[str | None] = ["1", "3", "5", "7", "9"]


@pytest.mark.parametrize(("value", "is_far"), [("13.89", False), ("13.90", True), ("-3.9", True)])
def test_a_value_beyond_its_robust_z_score_is_refused(value: str, is_far: bool) -> None:
    rules = {"robust_z": 3, "action": "quarantine"}
    around = raw(price=[*SPREAD, "4.9", "5.1", "5", value, None])
    # Median 5, absolute deviations 0 0 .1 .1 2 2 4 4 and its own, hence MAD 2.
    judgement = judge([around], spec(price={"outliers": rules}))
    assert shown(judgement) == ([("outlier", "price", value)] if is_far else [])
    assert judgement.outliers.rows() == [(DAYS[0], "price", 9, int(is_far))]


def test_what_is_only_flagged_is_accepted_and_counted_by_partition() -> None:
    files = [
        raw(DAYS[0], price=["1", "1", "2", "2", "3", "3", "900"]),
        raw(DAYS[1], price=["900", "901", "902", "900", "901", "902", None]),
    ]
    flagged = spec(price={"outliers": {"robust_z": 5}}, id={"outliers": {"robust_z": 5}})
    judgement = judge(files, flagged)
    assert judgement.quarantined.is_empty()
    assert judgement.outliers.rows() == [
        (DAYS[0], "id", 7, 0),
        (DAYS[0], "price", 7, 1),
        (DAYS[1], "id", 7, 0),
        (DAYS[1], "price", 6, 0),
    ]
    alone = [judge([file], flagged) for file in files]
    assert merge(alone, flagged).outliers.equals(judgement.outliers)


@pytest.mark.parametrize(
    ("values", "far"), [(["5"] * 9, 0), (["5"] * 9 + ["6"], 1), (["5"] * 6 + ["6"] * 4, 0)]
)
def test_where_most_values_are_equal_their_mean_deviation_stands_in(
    values: list[str | None], far: int
) -> None:
    judgement = judge([raw(price=values)], spec(price={"outliers": {"robust_z": 5}}))
    assert judgement.outliers["outlying"].to_list() == [far]


def test_rows_refused_for_something_else_are_not_counted_as_outliers() -> None:
    bounded = spec(price={"outliers": {"robust_z": 3}, "max": 100})
    judgement = judge([raw(price=[*SPREAD, "500", "x"])], bounded)
    assert [rule for rule, *_ in shown(judgement)] == ["range", "type"]
    assert judgement.outliers.rows() == [(DAYS[0], "price", 5, 0)]


def test_a_refused_partition_has_no_outliers() -> None:
    files = [raw(day, price=SPREAD) for day in DAYS]
    judgement = judge(files, spec(price={"outliers": {"robust_z": 3}}))
    left = refuse_partitions(judgement, {DAYS[0]: "why not"}).outliers
    assert left[PARTITION].to_list() == [DAYS[1]]
    empty = judge([], spec(price={"outliers": {"robust_z": 3}})).outliers
    assert empty.schema == left.schema


@pytest.mark.parametrize(
    ("pattern", "matches", "differs"),
    [
        ("N[0-9]+", "N1", "N1 "),
        ("N[0-9]+", "N12", "xN12"),
        ("N|AB", "AB", "NAB"),
        ("a.c", "abc", "a\nc"),
        ("^a$", "a", "a\n"),
        ("", "", "a"),
    ],
)
def test_a_pattern_must_match_in_full(pattern: str, matches: str, differs: str) -> None:
    patterned = spec(name={"pattern": pattern}, read={"nulls": ["-"]})
    judgement = judge([raw(name=[matches, differs, "-"])], patterned)
    assert judgement.accepted["name"].to_list() == [matches, None]
    assert shown(judgement) == [("pattern", "name", differs)]


PERSONAL = {"personal": True}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"name": PERSONAL | {"pattern": "x"}}, ("pattern", "name", MASK)),
        ({"name": PERSONAL | {"type": "category", "allowed": ["x"]}}, ("allowed", "name", MASK)),
        ({"name": PERSONAL | {"type": "int"}}, ("type", "name", MASK)),
        ({"name": PERSONAL, "key": ["day", "name"]}, ("repeat", "day, name", MASK)),
        ({"name": PERSONAL, "price": {"max": 1}}, ("range", "price", "2")),
    ],
)
def test_what_is_personal_is_masked_wherever_it_is_shown(
    changes: dict[str, Any], rule: tuple[str, ...]
) -> None:
    kind = changes["name"].get("type", "text")
    sound = "1" if kind == "int" else "x"
    rows = raw(id=["1", "2", "2"], name=[sound, NAME, NAME], price=["1", "2", "2"])
    judgement = judge([rows], spec(**changes))
    assert rule in shown(judgement)
    everything = judgement.quarantined.write_json() + judgement.files.write_json()
    assert "Jane" not in everything
    assert MASK in judgement.quarantined["_row"][0]


def test_no_part_of_a_broken_line_or_a_refused_file_is_shown_where_anything_is_personal() -> None:
    nothing: list[str | None] = [None, None]
    broken = raw(
        id=nothing, price=nothing, name=nothing, **{"day": nothing, BROKEN: [f"1,{NAME}", "2"]}
    )
    files = [broken, raw(DAYS[1], name=[NAME, "y"], price=["-1", "-1"])]
    judgement = judge(files, spec(name=PERSONAL, price={"min": 0}))
    assert sorted(judgement.refused_partitions) == list(DAYS)
    assert ("parse", None, MASK) in shown(judgement)
    assert "Jane" not in judgement.quarantined.write_json() + judgement.files.write_json()
    assert f'"_broken": "{MASK}"' in judgement.quarantined["_row"][0]


def test_nothing_stays_nothing_behind_the_mask() -> None:
    judgement = judge([raw(name=["x", None])], spec(name=PERSONAL | {"required": True}))
    assert shown(judgement) == [("required", "name", None)]


def test_flags_name_the_rows_that_break_each_rule_of_each_column() -> None:
    columns = {"price": {"max": 5}, "name": {"required": True}}
    files = [
        raw(DAYS[1], price=["9", "1", "x"], name=["", "a", "b"]),
        raw(DAYS[0], price=["1", "6"], id=["7", "7"]),
    ]
    chunks, flags = flag_rows(files, spec(**columns))
    rows = pl.concat(chunks)
    assert rows["_raw_price"].to_list() == ["9", "1", "x", "1", "6"]
    assert rows["price"].to_list() == [9, 1, None, 1, 6]
    failing = [
        (rule, breach.column, row)
        for flag, (rule, breach) in flags.items()
        for row in rows[flag].arg_true()
    ]
    assert failing == [
        ("type", "price", 2),
        ("required", "name", 0),
        ("range", "price", 0),
        ("range", "price", 4),
        ("key", "id", 3),
        ("key", "id", 4),
    ]
    rules = {(rule, breach.column) for rule, breach in flags.values()}
    assert ("parse", None) in rules
    assert ("allowed", "name") not in rules
    assert pl.concat(flag_rows([], spec())[0]).is_empty()
