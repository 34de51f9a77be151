"""The ledger is append-only, decided on one version of itself, and says who was in production."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake

from retrain_assets.stores.ledger import SCHEMA, History, Ledger, LedgerRow, list_reversible
from retrain_assets.stores.tables.tables import StaleTableError, Tables


def row(action: str, version: int, as_of: str, **changes: object) -> LedgerRow:
    first = LedgerRow(
        time=datetime(2013, 3, 1, tzinfo=UTC),
        as_of=as_of,
        seen_through=as_of,
        action=action,  # type: ignore[arg-type]
        version=version,
        candidate=version,
        previous=None,
        reason="why",
        causes=("data_drift", "performance"),
        data_range=("2013-01-01", as_of),
        metrics={"log_loss": 0.5},
        by="run 1",
        sha256="ab",
        recipe="cd",
    )
    return dataclasses.replace(first, **changes)  # type: ignore[arg-type]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Tables(str(tmp_path)), "m")


def filled(ledger: Ledger, *rows: LedgerRow) -> History:
    for entry in rows:
        ledger.append(entry, ledger.read())
    return ledger.read()


def test_rows_come_back_as_they_were_written(ledger: Ledger) -> None:
    rows = (row("promote", 1, "2013-02-01"), row("hold", 2, "2013-02-08", candidate=None, more=9))
    assert filled(ledger, *rows).rows == rows


def test_an_empty_ledger_has_nothing_in_production(ledger: Ledger) -> None:
    history = ledger.read()
    assert (history.production, history.decided, history.version) == (None, None, None)


def test_two_decisions_on_one_ledger_cannot_both_stand(ledger: Ledger) -> None:
    read = ledger.read()
    ledger.append(row("promote", 1, "2013-02-01"), read)
    with pytest.raises(StaleTableError):
        ledger.append(row("promote", 2, "2013-02-01"), read)
    read = ledger.read()
    ledger.append(row("promote", 3, "2013-02-08"), read)
    with pytest.raises(StaleTableError):
        ledger.append(row("rollback", 1, "2013-02-08"), read)
    assert [entry.version for entry in ledger.read().rows] == [1, 3]


def test_rows_are_read_once_for_as_long_as_nobody_adds_one(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = filled(ledger, row("promote", 1, "2013-02-01"))
    with monkeypatch.context() as patch:
        patch.setattr(Tables, "scan", None)
        assert ledger.read() is first
    filled(Ledger(ledger.tables, "m"), row("hold", 2, "2013-02-08"))
    assert [entry.version for entry in ledger.read().rows] == [1, 2]


def test_a_refused_candidate_changes_nothing_in_production(ledger: Ledger) -> None:
    history = filled(
        ledger, row("promote", 1, "2013-02-01"), row("reject", 2, "2013-02-08", candidate=2)
    )
    assert history.production is not None
    assert history.production.version == 1
    assert history.decided == history.rows[-1]
    made = history.decision_on(2)
    assert made is not None
    assert made.action == "reject"


def test_a_partition_was_served_by_what_was_in_production_when_it_arrived(ledger: Ledger) -> None:
    history = filled(
        ledger,
        row("promote", 1, "2013-02-01"),
        row("promote", 2, "2013-03-01"),
        row("rollback", 1, "2013-03-10"),
    )
    served = {
        key: found and found.version
        for key in ("2013-02-01", "2013-02-02", "2013-03-01", "2013-03-02", "2013-03-11")
        for found in [history.production_at(key)]
    }
    assert served == {
        "2013-02-01": None,
        "2013-02-02": 1,
        "2013-03-01": 1,
        "2013-03-02": 2,
        "2013-03-11": 1,
    }


def test_versions_that_served_can_be_gone_back_to() -> None:
    rows = [row("promote", 1, "a"), row("hold", 2, "b"), row("promote", 4, "c")]
    assert list_reversible(rows) == (4, 1)


def test_an_undefined_metric_is_null_in_the_stored_json(ledger: Ledger) -> None:
    metrics = {"roc_auc": math.nan, "lift": math.inf, "log_loss": 0.5}
    (stored,) = filled(ledger, row("promote", 1, "2013-02-01", metrics=metrics)).rows
    (text,) = ledger.tables.scan(ledger.table).collect()["metrics"]
    assert json.loads(text) == {"roc_auc": None, "lift": None, "log_loss": 0.5}
    assert math.isnan(stored.metrics["roc_auc"])
    assert stored.metrics["log_loss"] == 0.5


def test_a_row_for_people_is_json_like() -> None:
    shown = row("promote", 1, "2013-02-01").for_people()
    assert shown["data_range"] == ["2013-01-01", "2013-02-01"]
    assert shown["time"] == "2013-03-01T00:00:00+00:00"


def rewritten(ledger: Ledger, rows: pl.DataFrame) -> History:
    """The ledger once somebody who can write its table has put other rows there."""
    uri = ledger.tables.uri(ledger.table)
    write_deltalake(uri, rows, mode="overwrite", schema_mode="overwrite")
    return ledger.read()


def three(ledger: Ledger) -> tuple[History, pl.DataFrame]:
    history = filled(ledger, *(row("promote", n, f"2013-02-0{n}") for n in (1, 2, 3)))
    return history, ledger.tables.scan(ledger.table).collect().sort("number")


def test_a_ledger_only_appended_to_fits_and_has_every_head_it_had(ledger: Ledger) -> None:
    heads = [ledger.append(row("hold", n, "2013-02-01"), ledger.read()).head for n in (1, 2, 3)]
    history = ledger.read()
    assert history.misfit == ""
    assert history.head == heads[-1]
    assert [history.has(head) for head in heads] == [True, True, True]
    assert len(set(history.digests)) == 3


@pytest.mark.parametrize("column", ["reason", "version", "metrics", "time", "by"])
def test_a_row_that_was_rewritten_no_longer_fits(ledger: Ledger, column: str) -> None:
    _, rows = three(ledger)
    other = {"reason": "x", "version": 9, "metrics": "{}", "by": "x"}
    other["time"] = datetime(2014, 1, 1, tzinfo=UTC)
    changed = pl.when(pl.col("number") == 1).then(pl.lit(other[column])).otherwise(column)
    found = rewritten(ledger, rows.with_columns(changed.cast(SCHEMA[column]).alias(column)))
    assert found.misfit == "row 1 or one before it is not what row 2 was written after"


def test_the_newest_row_rewritten_or_dropped_leaves_a_head_that_is_not_there(
    ledger: Ledger,
) -> None:
    before, rows = three(ledger)
    dropped = rewritten(ledger, rows.head(2))
    assert (dropped.misfit, dropped.has(before.head)) == ("", False)
    last = pl.when(pl.col("number") == 2).then(pl.lit("x")).otherwise("reason").alias("reason")
    changed = rewritten(ledger, rows.with_columns(last))
    assert (changed.misfit, changed.has(before.head)) == ("", False)
    assert rewritten(ledger, rows).has(before.head)


def test_a_row_missing_in_the_middle_is_named(ledger: Ledger) -> None:
    _, rows = three(ledger)
    found = rewritten(ledger, rows.filter(pl.col("number") != 1))
    assert found.misfit == "row 1 is missing: row 2 stands there"


def test_a_chain_that_was_cut_off_does_not_fit(ledger: Ledger) -> None:
    _, rows = three(ledger)
    cut = pl.when(pl.col("number") < 2).then("previous_sha256").alias("previous_sha256")
    found = rewritten(ledger, rows.with_columns(cut))
    assert found.misfit == "row 1 or one before it is not what row 2 was written after"
