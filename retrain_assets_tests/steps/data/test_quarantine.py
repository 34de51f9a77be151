"""What was refused can be counted, listed and handed back; nothing delivered runs on the way."""

from __future__ import annotations

import csv
from pathlib import Path

import polars as pl
import pytest

from retrain_assets.steps.data.ingest import ingest
from retrain_assets.steps.data.quarantine import as_lines, count, explain, refused, write_csv
from retrain_assets_tests.world import World, customers, key

FOLDER = "landing/customers"


def deliver(world: World, number: int, **values: list[str]) -> None:
    """A day whose first rows hold these values, which is then ingested."""
    frame = customers(number, rows=200).with_columns(pl.all().cast(pl.String))
    for column, given in values.items():
        kept = frame[column].to_list()[len(given) :]
        frame = frame.with_columns(pl.Series(column, [*given, *kept], dtype=pl.String))
    (world.root / FOLDER).mkdir(parents=True, exist_ok=True)
    frame.write_csv(world.root / FOLDER / f"{key(number)}.csv")
    ingest(world.storage, world.dataset, [key(number)], "run")


def test_nothing_refused_is_nothing_to_show(world: World) -> None:
    assert refused(world.storage, world.dataset).is_empty()
    deliver(world, 0)
    assert list(as_lines(count(refused(world.storage, world.dataset)))) == []


def test_rows_are_listed_with_file_line_column_value_and_every_reason(world: World) -> None:
    deliver(world, 0, x=["bad", "101"], plan=["gold"])
    assert refused(world.storage, world.dataset).rows() == [
        (key(0), f"customers/{key(0)}.csv", 2, "x", "bad", "type"),
        (key(0), f"customers/{key(0)}.csv", 2, "plan", "gold", "allowed"),
        (key(0), f"customers/{key(0)}.csv", 3, "x", "101", "range"),
    ]


def test_each_rule_says_what_it_expects_and_what_it_met(world: World) -> None:
    deliver(world, 0, x=["bad", "101"], plan=["gold"])
    reasons = refused(world.storage, world.dataset)
    (allowed,) = [text for text in explain(reasons, world.dataset) if "plan" in text]
    assert set(explain(reasons, world.dataset)) == {
        "x, type: expected is a number, such as 0.5, not 'bad'",
        "x, range: expected is a number from -100 to 100, not '101'",
        allowed,
    }
    assert allowed.startswith("plan, allowed: expected is one of ")
    assert allowed.endswith(", not 'gold'")
    ((name, *_), *_) = reasons.rows()
    why = "2103-01-01: its partition begins in the future and waits"
    waiting = (name, "a.csv", 2, "day", why, "partition")
    rows = pl.DataFrame([waiting], schema=reasons.schema, orient="row")
    assert [*explain(rows, world.dataset)] == [f"day, partition: {why}"]
    deliver(world, 1, x=["bad"] * 40)
    why, *_ = explain(refused(world.storage, world.dataset, key(1)), world.dataset)
    assert why.startswith(f"customers/{key(1)}.csv: 40 of 200 rows were refused; quarantine.max_")


def test_reasons_are_counted_by_partition_and_column_the_most_frequent_first(world: World) -> None:
    deliver(world, 0, x=["bad"], plan=["gold", "lead"])
    deliver(world, 1, x=["bad"] * 40)
    assert count(refused(world.storage, world.dataset)).rows() == [
        (key(0), "allowed", "plan", 2),
        (key(0), "type", "x", 1),
        (key(1), "file", None, 1),
        (key(1), "type", "x", 1),
    ]


def test_what_is_shown_can_be_one_partition_or_one_reason(world: World) -> None:
    deliver(world, 0, x=["bad"], plan=["gold"])
    deliver(world, 1, x=["bad"])
    here = refused(world.storage, world.dataset, partition=key(1))
    assert here["partition"].unique().to_list() == [key(1)]
    assert refused(world.storage, world.dataset, reason="allowed")["value"].to_list() == ["gold"]
    assert refused(world.storage, world.dataset, key(1), "allowed").is_empty()
    assert refused(world.storage, world.dataset, partition="file:customers/x.csv").is_empty()


def test_the_corrected_file_empties_the_quarantine_of_its_partition_alone(world: World) -> None:
    deliver(world, 0, x=["bad"])
    deliver(world, 1, x=["bad"])
    deliver(world, 0)
    assert refused(world.storage, world.dataset)["partition"].to_list() == [key(1)]
    deliver(world, 1)
    assert refused(world.storage, world.dataset).is_empty()


@pytest.mark.parametrize("bad", ["2020-02-30", "2020-1-5", "a' OR '1'='1", "", "../x"])
def test_a_partition_that_cannot_be_is_refused(world: World, bad: str) -> None:
    with pytest.raises(ValueError, match="is not a partition of customers: write it as 2020-01-01"):
        refused(world.storage, world.dataset, partition=bad)


def test_a_reason_that_is_no_rule_is_refused_with_those_there_are(world: World) -> None:
    with pytest.raises(ValueError, match="no rule is named 'ranges': did you mean range"):
        refused(world.storage, world.dataset, reason="ranges")


FORMULAS = ["=HYPERLINK(1)", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "＝1"]  # noqa: RUF001


def test_no_cell_of_the_csv_is_a_formula(world: World, tmp_path: Path) -> None:
    deliver(world, 0, plan=[*FORMULAS, "plain, 'quoted' \"twice\"\nand broken"])
    found = refused(world.storage, world.dataset).with_columns(file=pl.lit("=file.csv"))
    write_csv(found, tmp_path / "bad.csv")
    with (tmp_path / "bad.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["value"] for row in rows] == [f"'{one}" for one in FORMULAS] + [
        "plain, 'quoted' \"twice\"\nand broken"
    ]
    assert {row["file"] for row in rows} == {"'=file.csv"}
    assert list(rows[0]) == ["partition", "file", "line", "column", "value", "reason"]


def test_a_csv_never_replaces_a_file(world: World) -> None:
    deliver(world, 0, x=["bad"])
    landed = world.root / FOLDER / f"{key(0)}.csv"
    before = landed.read_bytes()
    found = refused(world.storage, world.dataset)
    with pytest.raises(ValueError, match="File exists; name a new file"):
        write_csv(found, landed)
    assert landed.read_bytes() == before
    with pytest.raises(ValueError, match="No such file or directory"):
        write_csv(found, world.root / "nowhere" / "bad.csv")


def test_a_screen_shows_so_many_escaped_and_counts_the_rest(world: World) -> None:
    deliver(world, 0, plan=["\x1b[31mred", "<b>" + "x" * 150, "gold"])
    head, red, long, rest = as_lines(refused(world.storage, world.dataset), most=2)
    assert head.split() == ["partition", "file", "line", "column", "value", "reason"]
    assert r"\x1b[31mred" in red
    assert "\x1b" not in red
    assert "<b>xxx" in long
    assert len(long) < 140
    assert rest == "… and 1 more: --csv FILE writes all"
