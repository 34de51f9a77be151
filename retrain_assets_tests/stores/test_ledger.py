"""The ledger is append-only, decided on one version of itself, and says who was in production."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import pytest

from retrain_assets.stores.ledger import History, Ledger, LedgerRow, reversible
from retrain_assets.stores.tables import StaleTableError, Tables


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
    rows = (row("promote", 1, "2013-02-01"), row("hold", 2, "2013-02-08", candidate=None))
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
    assert reversible(rows) == (4, 1)


def test_a_row_for_people_is_json_like() -> None:
    shown = row("promote", 1, "2013-02-01").for_people()
    assert shown["data_range"] == ["2013-01-01", "2013-02-01"]
    assert shown["time"] == "2013-03-01T00:00:00+00:00"
