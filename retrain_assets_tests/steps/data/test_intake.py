"""Whatever lands, in whatever order and file, the same rows end in the same partitions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyiceberg.catalog import load_catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.utils.config import Config

from retrain_assets.domain.data import contract
from retrain_assets.domain.data.contract import UNPLACED, Judgement
from retrain_assets.domain.data.row_checks import RawRows
from retrain_assets.domain.data.values import find_column_mistakes
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.data import intake
from retrain_assets.steps.data.ingest import PARTS, Ingestion, NothingLandedError, ingest
from retrain_assets.steps.data.intake import Intake
from retrain_assets.steps.state import landed_rows, landing_files
from retrain_assets.stores.landing.formats import READERS
from retrain_assets.stores.landing.source import LandingError, LocalFiles
from retrain_assets.stores.storage import Storage
from retrain_assets.stores.tables.data_files import Spill

DAYS = [f"2013-01-{day:02}" for day in range(1, 29)]
SALES: dict[str, Any] = {
    "name": "sales",
    "landing": "sales/*.csv",
    "partition": {"by": "day", "column": "day", "start": "2013-01-01", "end": "2013-01-28"},
    "columns": {
        "day": {"type": "date", "required": True},
        "id": {"type": "int", "required": True},
        "price": {"type": "float", "min": 0},
    },
    "key": ["day", "id"],
    "quarantine": {"max_fraction": 0.5},
}


def dataset(**changes: Any) -> DatasetSpec:
    return DatasetSpec.model_validate(SALES | changes)


def deliver(root: Path, name: str, *lines: str) -> Path:
    path = root / "landing" / "sales" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["day,id,price", *lines]) + "\n", encoding="utf-8")
    return path


def run(root: Path, spec: DatasetSpec, asked: list[str] | None = None) -> Ingestion:
    return ingest(Storage(root), spec, asked or DAYS, "run")


def table(root: Path, name: str = "dataset") -> dict[str, list[int | None]]:
    rows = Storage(root).tables.scan(f"sales/{name}").sort("id")
    return dict(
        rows.group_by("_landing_partition")
        .agg("id")
        .sort("_landing_partition")
        .collect()
        .iter_rows()
    )


def quarantined(root: Path) -> list[tuple[str, str, int | None, str]]:
    rows = Storage(root).tables.scan("sales/quarantine").collect().sort("_file", "_line")
    return [
        (row["_landing_partition"], row["_file"], row["_line"], row["_reasons"][0]["rule"])
        for row in rows.to_dicts()
    ]


def test_a_file_of_many_partitions_fills_them_all(tmp_path: Path) -> None:
    deliver(tmp_path, "a.csv", "2013-01-01,1,5", "2013-01-03,2,5", "2013-01-01,3,5")
    done = run(tmp_path, dataset())
    assert table(tmp_path) == {"2013-01-01": [1, 3], "2013-01-03": [2]}
    assert done.requested == done.published == ("2013-01-01", "2013-01-03")
    assert done.files == 1
    assert Intake(Storage(tmp_path), dataset()).unread == []


def test_of_a_file_delivered_again_only_changed_partitions_are_replaced(tmp_path: Path) -> None:
    sound = ["2013-01-01,1,5", "2013-01-02,2,5", "2013-01-03,3,5"]
    deliver(tmp_path, "a.csv", *sound)
    run(tmp_path, dataset())
    deliver(tmp_path, "a.csv", "2013-01-02,7,5", *sound)
    done = run(tmp_path, dataset())
    assert done.published == ("2013-01-02",)
    assert table(tmp_path) == {"2013-01-01": [1], "2013-01-02": [2, 7], "2013-01-03": [3]}


def test_a_file_delivered_twice_is_counted_once_and_changes_nothing(tmp_path: Path) -> None:
    deliver(tmp_path, "a.csv", "2013-01-01,1,5")
    version = run(tmp_path, dataset()).version
    deliver(tmp_path, "a.csv", "2013-01-01,1,5").touch()
    done = run(tmp_path, dataset())
    assert (done.published, done.version) == ((), version)
    assert Intake(Storage(tmp_path), dataset()).unread == []


def test_a_partition_is_made_of_all_files_that_hold_it(tmp_path: Path) -> None:
    deliver(tmp_path, "a.csv", "2013-01-01,1,5", "2013-01-02,2,5")
    run(tmp_path, dataset())
    deliver(tmp_path, "b.csv", "2013-01-02,3,5", "2013-01-04,4,5")
    assert run(tmp_path, dataset()).published == ("2013-01-02", "2013-01-04")
    assert table(tmp_path) == {"2013-01-01": [1], "2013-01-02": [2, 3], "2013-01-04": [4]}


def test_a_key_that_two_files_hold_is_refused_in_both(tmp_path: Path) -> None:
    deliver(tmp_path, "a.csv", "2013-01-01,1,5", "2013-01-01,2,5")
    deliver(tmp_path, "b.csv", "2013-01-01,1,6", "2013-01-01,3,5")
    run(tmp_path, dataset())
    assert table(tmp_path) == {"2013-01-01": [2, 3]}
    assert quarantined(tmp_path) == [
        ("2013-01-01", "sales/a.csv", 2, "key"),
        ("2013-01-01", "sales/b.csv", 2, "key"),
    ]


def test_a_row_that_another_file_holds_too_counts_once_and_refuses_nobody(tmp_path: Path) -> None:
    deliver(tmp_path, "a.csv", "2013-01-01,1,5", "2013-01-01,2,5")
    deliver(tmp_path, "copy.csv", "2013-01-01,1,5", "2013-01-01,2,5")
    assert run(tmp_path, dataset(quarantine={"max_fraction": 0})).refused == {}
    assert table(tmp_path) == {"2013-01-01": [1, 2]}
    assert [rule for *_, rule in quarantined(tmp_path)] == ["repeat", "repeat"]


def test_a_file_with_one_bad_row_of_a_large_partition_does_not_refuse_it(tmp_path: Path) -> None:
    deliver(tmp_path, "a.csv", *(f"2013-01-01,{number},5" for number in range(9)))
    deliver(tmp_path, "b.csv", "2013-01-01,9,-5")
    assert run(tmp_path, dataset(quarantine={"max_fraction": 0.1})).refused == {}
    assert len(table(tmp_path)["2013-01-01"]) == 9


def test_rows_of_no_partition_are_kept_under_their_file(tmp_path: Path) -> None:
    deliver(
        tmp_path, "a.csv", "2013-01-01,1,5", "2013-02-30,2,5", "2013-05-01,3,5", "2013-01-02,4,5"
    )
    done = run(tmp_path, dataset())
    key = f"{UNPLACED}sales/a.csv"
    assert quarantined(tmp_path) == [
        (key, "sales/a.csv", 3, "type"),
        (key, "sales/a.csv", 4, "partition"),
    ]
    assert done.published == ("2013-01-01", "2013-01-02")
    assert done.unaccounted() == []


def test_too_many_rows_of_no_partition_refuse_the_file_and_keep_what_stood(tmp_path: Path) -> None:
    deliver(tmp_path, "a.csv", "2013-01-01,1,5")
    run(tmp_path, dataset())
    deliver(tmp_path, "a.csv", "2013-01-01,2,5", "x,3,5", "y,4,5")
    done = run(tmp_path, dataset())
    (why,) = done.refused.values()
    assert "sales/a.csv: 2 of 3 rows were refused" in why
    record = Storage(tmp_path).tables.scan("sales/quarantine").collect().to_dicts()[-1]
    assert [line["_line"] for line in json.loads(record["_row"])["sample"]] == [3, 4]
    assert table(tmp_path) == {"2013-01-01": [1]}
    assert Intake(Storage(tmp_path), dataset()).unread == []


def test_one_bad_partition_never_holds_back_its_neighbours(tmp_path: Path) -> None:
    deliver(tmp_path, "a.csv", "2013-01-01,1,5", "2013-01-02,2,-5", "2013-01-03,3,5")
    done = run(tmp_path, dataset())
    assert done.published == ("2013-01-01", "2013-01-03")
    assert list(done.refused) == ["2013-01-02"]


def test_a_file_of_which_not_all_was_asked_for_stays_unread(tmp_path: Path) -> None:
    deliver(tmp_path, "a.csv", "2013-01-01,1,5", "2013-01-02,2,5")
    run(tmp_path, dataset(), ["2013-01-01"])
    assert table(tmp_path) == {"2013-01-01": [1]}
    assert [file.path for file in Intake(Storage(tmp_path), dataset()).unread] == ["sales/a.csv"]
    assert run(tmp_path, dataset()).published == ("2013-01-02",)


def test_what_is_asked_for_by_hand_is_taken_in_again(tmp_path: Path) -> None:
    deliver(tmp_path, "a.csv", "2013-01-01,1,5", "2013-01-02,2,5")
    run(tmp_path, dataset())
    before = table(tmp_path)
    assert run(tmp_path, dataset(), ["2013-01-02"]).published == ("2013-01-02",)
    assert table(tmp_path) == before


def test_what_is_asked_for_by_hand_does_not_depend_on_files_of_other_partitions(
    tmp_path: Path,
) -> None:
    deliver(tmp_path, "a.csv", "2013-01-01,1,5", "2013-01-02,2,5")
    run(tmp_path, dataset())
    deliver(tmp_path, "b.csv", "2013-01-07,3,5")
    assert run(tmp_path, dataset(), ["2013-01-02"]).published == ("2013-01-02",)
    assert [file.path for file in Intake(Storage(tmp_path), dataset()).unread] == ["sales/b.csv"]


@pytest.mark.parametrize("gone", ["deleted", "shortened"])
def test_rows_whose_file_holds_them_no_more_are_not_dropped(tmp_path: Path, gone: str) -> None:
    old = deliver(tmp_path, "a.csv", "2013-01-01,1,5", "2013-01-02,2,5")
    run(tmp_path, dataset())
    if gone == "deleted":
        old.unlink()
    else:
        deliver(tmp_path, "a.csv", "2013-01-02,2,5")
    deliver(tmp_path, "b.csv", "2013-01-01,3,5")
    done = run(tmp_path, dataset())
    assert "sales/a.csv: it held 1 row of this partition" in done.refused["2013-01-01"]
    assert table(tmp_path)["2013-01-01"] == [1]


def test_a_partition_file_that_was_deleted_is_missed(tmp_path: Path) -> None:
    spec = dataset(landing="sales/{partition}-*.csv")
    old = deliver(tmp_path, "2013-01-01-a.csv", "2013-01-01,1,5")
    run(tmp_path, spec)
    old.unlink()
    deliver(tmp_path, "2013-01-01-b.csv", "2013-01-01,2,5")
    assert "restore it" in run(tmp_path, spec).refused["2013-01-01"]
    assert table(tmp_path) == {"2013-01-01": [1]}


def test_the_keys_of_a_file_are_known_before_it_is_taken_in(tmp_path: Path) -> None:
    deliver(tmp_path, "a.csv", "2013-01-03,1,5", "x,1,5", "2013-01-01,2,5")
    deliver(tmp_path, "b.csv", "2013-01-07,1,5").write_bytes(b"\xff\xfe")
    found = Intake(Storage(tmp_path), dataset())
    assert found.keys(found.unread) == {"2013-01-03", "2013-01-01"}


def test_batches_change_nothing_and_hold_whole_partitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = dataset(landing="sales/{partition}-*.csv", quarantine={"max_fraction": 0.9})
    for day in DAYS:
        deliver(tmp_path, f"{day}-a.csv", f"{day},1,5", f"{day},2,-1", f"{day},3,5")
        deliver(tmp_path, f"{day}-b.csv", f"{day},3,6", f"{day},4,5", f"{day},5,5")
    whole = run(tmp_path, spec)
    tables = table(tmp_path), quarantined(tmp_path)
    monkeypatch.setattr(intake, "BATCH_BYTES", 200)
    batches = list(Intake(Storage(tmp_path), spec).batches(set(DAYS)))
    assert len(batches) > 5
    assert sum(share for _, share in batches) == pytest.approx(1)
    again = run(tmp_path, spec)
    assert (table(tmp_path), quarantined(tmp_path)) == tables
    assert again.reading.judgement.files.equals(whole.reading.judgement.files)


def test_a_batch_is_bounded_by_what_files_hold_however_well_they_are_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = dataset(landing="sales/{partition}.parquet")
    (tmp_path / "landing" / "sales").mkdir(parents=True)
    for day in DAYS:
        rows = pl.DataFrame({"day": [day], "id": [1], "price": [5.0]}).sample(
            5_000, with_replacement=True
        )
        file = tmp_path / "landing" / "sales" / f"{day}.parquet"
        rows.with_columns(pl.col("day").str.to_date()).write_parquet(file)
        assert file.stat().st_size < 5_000
    monkeypatch.setattr(intake, "BATCH_BYTES", 10_000 * 6 * intake.BYTES_A_VALUE)
    batches = list(Intake(Storage(tmp_path), spec).batches(set(DAYS)))
    assert [len(raw) for raw, _ in batches] == [2] * 14


def write_delta(root: Path, rows: pl.DataFrame) -> None:
    write_deltalake(str(root / "other" / "sales"), rows, mode="append")


def write_iceberg(_: Path, rows: pl.DataFrame) -> None:
    catalog = load_catalog("lake")
    catalog.create_namespace_if_not_exists("shop")
    table = catalog.create_table_if_not_exists("shop.sales", rows.to_arrow().schema)
    table.append(rows.to_arrow().cast(table.schema().as_arrow()))


@pytest.mark.parametrize(
    ("source", "write"),
    [({"delta": "other/sales"}, write_delta), ({"iceberg": "lake.shop.sales"}, write_iceberg)],
)
def test_a_foreign_table_is_a_dataset_and_its_new_version_is_new_data(
    source: dict[str, str],
    write: Callable[[Path, pl.DataFrame], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", f"sqlite:///{tmp_path}/lake.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__WAREHOUSE", f"file://{tmp_path}/lake")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # it was read at the import
    spec = dataset(landing=None, **source, rows={"min": 0})
    assert Intake(Storage(tmp_path), spec).files == []
    rows = pl.DataFrame({"day": DAYS[:3], "id": [1, 2, 3], "price": [5.0, 5.0, -1.0], "more": 0})
    write(tmp_path, rows.with_columns(pl.col("day").str.to_date()))
    done = run(tmp_path, spec)
    assert table(tmp_path) == {"2013-01-01": [1], "2013-01-02": [2]}
    assert done.reading.extra == {next(iter(source.values())): ("more",)}
    more = pl.DataFrame({"day": DAYS[1:2], "id": [9], "price": [5.0], "more": 0})
    write(tmp_path, more.with_columns(pl.col("day").str.to_date()))
    assert run(tmp_path, spec).published == ("2013-01-02",)
    assert table(tmp_path) == {"2013-01-01": [1], "2013-01-02": [2, 9]}
    [file] = Intake(Storage(tmp_path), spec).files
    assert Intake(Storage(tmp_path), spec).unread == []
    assert file.stamp[:1] == "v"


def test_a_store_that_does_not_answer_refuses_no_file_with_many_partitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LandingError("the store does not answer")

    deliver(tmp_path, "a.csv", "2013-01-01,1,5")
    monkeypatch.setattr(LocalFiles, "read", fail)
    with pytest.raises(LandingError, match="does not answer"):
        run(tmp_path, dataset())


def test_a_catalog_that_is_not_configured_is_named_with_what_would_do(tmp_path: Path) -> None:
    spec = dataset(landing=None, iceberg="nowhere.shop.sales")
    with pytest.raises(LandingError, match="set PYICEBERG_CATALOG__NOWHERE__URI"):
        Storage(tmp_path).source(spec).files()


def test_a_catalog_is_closed_after_each_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(SqlCatalog, "close", lambda _: closed.append("lake"))
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", f"sqlite:///{tmp_path}/lake.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__WAREHOUSE", f"file://{tmp_path}/lake")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # it was read at the import
    source = Storage(tmp_path).source(dataset(landing=None, iceberg="lake.shop.sales"))
    assert [source.files(), source.files()] == [[], []]
    assert len(closed) == 2


def test_nothing_landed_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(NothingLandedError, match=r"nothing for 2013-01-01 to 2013-01-28 in sales/"):
        run(tmp_path, dataset())


def test_keys_in_several_partitions_are_counted(tmp_path: Path) -> None:
    spec = dataset(key=["id"])
    deliver(tmp_path, "a.csv", "2013-01-01,1,5", "2013-01-02,1,5", "2013-01-02,2,5")
    assert run(tmp_path, spec).shared_keys == [{"partitions": "2013-01-01, 2013-01-02", "keys": 1}]
    deliver(tmp_path, "b.csv", "2013-01-03,2,5", "2013-01-03,3,5")
    assert run(tmp_path, spec).shared_keys == [{"partitions": "2013-01-02, 2013-01-03", "keys": 1}]


def test_an_unusual_number_of_rows_is_told_against_the_partitions_before(tmp_path: Path) -> None:
    spec = dataset(rows={"typical": 0.5})
    for day in DAYS[:9]:
        deliver(
            tmp_path, f"{day}.csv", *(f"{day},{n},5" for n in range(1 if day == DAYS[7] else 4))
        )
    assert run(tmp_path, spec).atypical == [{"partition": DAYS[7], "rows": 1, "median_before": 4.0}]


BY = {
    "hour": ("at", "2013-01-01T00", {"2013-01-01T00", "2013-01-01T23", "2013-03-10T02"}),
    "week": ("at", "2012-12-31", {"2012-12-31", "2013-03-04"}),
    "month": ("at", "2013-01", {"2013-01", "2013-03"}),
    "year": ("at", "2013", {"2013"}),
}


@pytest.mark.parametrize("by", BY)
def test_each_period_has_its_own_keys(tmp_path: Path, by: str) -> None:
    column, start, keys = BY[by]
    spec = dataset(
        partition={"by": by, "column": column, "start": start},
        columns={"at": {"type": "datetime"}, "id": {"type": "int"}},
        key=["id"],
    )
    path = tmp_path / "landing" / "sales" / "a.csv"
    path.parent.mkdir(parents=True)
    times = ["2013-01-01T00:59:59Z", "2013-01-01T23:00:00Z", "2013-03-10T03:30:00+01:00"]
    lines = [f"{time},{number}" for number, time in enumerate(times)]
    path.write_text("\n".join(["at,id", *lines]) + "\n")
    found = Intake(Storage(tmp_path), spec)
    assert found.keys(found.unread) == keys
    run(tmp_path, spec, sorted(keys))
    assert set(table(tmp_path)) == keys


def test_partitions_by_value_need_no_time(tmp_path: Path) -> None:
    columns = {"shop": {"type": "category"}, "id": {"type": "int"}}
    values = {"by": "value", "column": "shop", "values": ["Nice", "Agen"]}
    spec = dataset(partition=values, columns=columns, key=["id"], quarantine={"max_fraction": 0.5})
    path = tmp_path / "landing" / "sales" / "a.csv"
    path.parent.mkdir(parents=True)
    path.write_text("shop,id\nNice,1\nAgen,2\nLyon,3\n")
    run(tmp_path, spec, ["Agen", "Nice"])
    assert table(tmp_path) == {"Agen": [2], "Nice": [1]}
    assert [rule for *_, rule in quarantined(tmp_path)] == ["partition"]


ROWS = st.lists(
    st.tuples(st.sampled_from([*DAYS[:4], "2013-02-30"]), st.integers(0, 3), st.integers(-1, 1)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=15, deadline=None)
@given(files=st.lists(ROWS, min_size=1, max_size=3), order=st.randoms(use_true_random=False))
def test_one_run_many_runs_and_any_order_of_arrival_end_alike(
    tmp_path_factory: pytest.TempPathFactory, files: list[Any], order: Any
) -> None:
    spec = dataset(quarantine={"max_fraction": 0.9})
    lines = [[f"{day},{number},{price}" for day, number, price in rows] for rows in files]
    together, apart = tmp_path_factory.mktemp("together"), tmp_path_factory.mktemp("apart")
    for name, content in enumerate(lines):
        deliver(together, f"{name}.csv", *content)
    done = run(together, spec)
    # A partition that is refused keeps what it held before, which is of the order of arrival.
    assume(not done.refused)
    arrivals = list(enumerate(lines))
    order.shuffle(arrivals)
    for name, content in arrivals:
        deliver(apart, f"{name}.csv", *content)
        found = Intake(Storage(apart), spec)
        days = list(found.keys(found.unread)) or DAYS[:1]
        order.shuffle(days)
        for day in days:
            run(apart, spec, [day])
        run(apart, spec)
    assert published(together) == published(apart)
    assert quarantined(together) == quarantined(apart)


def published(root: Path) -> list[tuple[Any, ...]]:
    schema = {"_landing_partition": pl.String, "id": pl.Int64, "price": pl.Float64}
    rows = Storage(root).tables.scan("sales/dataset", schema).select(*schema).collect()
    return sorted(rows.iter_rows())


STREAM: dict[str, Any] = {
    "landing": "sales/*.jsonl",
    "columns": {**SALES["columns"], "coupon": {"type": "text"}},
    "rows": {"min": 1},
}


def test_a_small_file_of_a_stream_may_lack_what_producers_leave_out(tmp_path: Path) -> None:
    folder = tmp_path / "landing" / "sales"
    folder.mkdir(parents=True)
    (folder / "t-0-000-001.jsonl").write_text(
        '{"day": "2013-01-01", "id": 1, "price": 5}\n{"day": "2013-01-02", "id": 2}\n'
    )
    (folder / "t-0-002-002.jsonl").write_text('{"day": "2013-01-02", "id": 3, "cupon": "x"}\n')
    (folder / "t-0-003-003.jsonl").write_text('"not a message"\n')
    done = run(tmp_path, dataset(**STREAM))
    assert table(tmp_path) == {"2013-01-01": [1], "2013-01-02": [2]}
    assert done.published == ("2013-01-01", "2013-01-02")
    refused = sorted(done.refused.values())
    assert "lacks coupon (is 'cupon' meant?)" in refused[0]
    assert "t-0-003-003.jsonl: its only row was refused" in refused[1]


@pytest.mark.parametrize("landing", ["sales/*.csv", "sales/{partition}.csv"])
@pytest.mark.parametrize("error", [ZeroDivisionError("no"), pl.exceptions.PanicException("no")])
def test_whatever_error_a_file_causes_refuses_that_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landing: str, error: BaseException
) -> None:
    for day in (1, 2, 3):
        deliver(tmp_path, f"2013-01-0{day}.csv", f"2013-01-0{day},{day},5")
    spec, read, judge = dataset(landing=landing), READERS["csv"], contract.judge

    def raise_for_two(content: BinaryIO, *rest: Any) -> Any:
        if b",2,5" in content.read():
            raise error
        return read(content, *rest)

    def raise_for_three(raw: Sequence[RawRows], spec: DatasetSpec, keep: Any = None) -> Judgement:
        if any(3 in file.frame["id"].cast(int) for file in raw if "id" in file.frame.columns):
            raise error
        return judge(raw, spec, keep)

    monkeypatch.setitem(READERS, "csv", raise_for_two)
    monkeypatch.setattr(contract, "judge", raise_for_three)
    ingestion = run(tmp_path, spec)
    assert table(tmp_path) == {"2013-01-01": [1]}
    reasons = sorted(ingestion.refused.values())
    assert reasons == [
        "sales/2013-01-02.csv: it cannot be read: 'no'",
        "sales/2013-01-03.csv: its rows cannot be judged: 'no'",
    ]
    monkeypatch.undo()
    assert Intake(Storage(tmp_path), spec).unread == []


def month(root: Path, name: str, days: range, *lines: str) -> None:
    rows = [f"2013-01-{day:02},{day * 100 + i},5" for day in days for i in range(40)]
    deliver(root, name, *rows, *lines)


LONG = {**SALES["partition"], "end": None, "start": "2013-01-01"}


def test_a_row_of_a_mistaken_month_waits_until_its_neighbours_come(tmp_path: Path) -> None:
    spec = dataset(partition=LONG)
    month(tmp_path, "a.csv", range(1, 11), "2013-12-18,9001,5", "2103-01-01,9002,5")
    storage, now = Storage(tmp_path), 1_400_000_000 * 10**9
    days = Intake(storage, spec, None, now).keys(Intake(storage, spec).files)
    assert max(days) == "2013-01-10"
    ingestion = ingest(storage, spec, sorted(days), "run", now)
    assert max(ingestion.published) == max(table(tmp_path)) == "2013-01-10"
    assert quarantined(tmp_path) == [
        (f"{UNPLACED}sales/a.csv", "sales/a.csv", line, "partition") for line in (402, 403)
    ]
    values = storage.tables.scan("sales/quarantine").collect().sort("_line")["_reasons"].to_list()
    few = "its partition is far from all others, has few rows and waits for its neighbours"
    assert [reasons[0]["value"] for reasons in values] == [
        f"2013-12-18: {few}",
        "2103-01-01: its partition begins in the future and waits",
    ]
    assert Intake(storage, spec, None, now).unread == []
    near = ["2013-12-16", "2013-12-17"]
    deliver(tmp_path, "b.csv", *(f"{day},{i},5" for day in near for i in range(40)))
    ingest(storage, spec, near, "run", now)
    again = Intake(storage, spec, None, now)
    assert [file.path for file in again.unread] == ["sales/a.csv"]
    assert "2013-12-18" in again.keys(again.unread)
    ingest(storage, spec, ["2013-12-18"], "run", now)
    assert table(tmp_path)["2013-12-18"] == [9001]
    assert [row[2] for row in quarantined(tmp_path)] == [403]
    assert Intake(storage, spec, None, now).unread == []


@pytest.mark.parametrize("landing", ["sales/*.csv", "sales/{partition}.csv"])
def test_a_delivery_far_away_waits_for_a_second_one_though_it_has_usual_rows(
    tmp_path: Path, landing: str
) -> None:
    spec, storage = dataset(partition=LONG, landing=landing), Storage(tmp_path)
    days = [f"2013-01-{day:02}" for day in range(1, 11)]
    wrong, second = ["2013-10-17", "2013-10-18"][-1 - spec.is_split :], "2013-10-19"
    for day in days:
        deliver(tmp_path, f"{day}.csv", *(f"{day},{i},5" for i in range(5)))
    ingest(storage, spec, days, "run")
    deliver(tmp_path, f"{wrong[-1]}.csv", *(f"{day},{i},5" for day in wrong for i in range(5)))
    assert ingest(storage, spec, wrong, "run").published == ()
    assert set(table(tmp_path)) == set(days)
    reasons = storage.tables.scan("sales/quarantine").collect()["_reasons"].to_list()
    assert all("waits for a second file near it" in str(reason) for reason in reasons)
    assert Intake(storage, spec).unread == []
    willing = dataset(partition=LONG, landing=landing, rows={"stray": 0})
    assert [file.path for file in Intake(storage, willing).unread] == [f"sales/{wrong[-1]}.csv"]
    deliver(tmp_path, f"{second}.csv", *(f"{second},{i},5" for i in range(5)))
    assert ingest(storage, spec, [second], "run").published == (second,)
    assert [file.path for file in Intake(storage, spec).unread] == [f"sales/{wrong[-1]}.csv"]
    assert ingest(storage, spec, wrong, "run").published == tuple(wrong)
    assert Intake(storage, spec).unread == []


def test_a_file_of_many_partitions_is_cut_alike_whatever_is_in_memory_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    put = Spill.put

    def count(spill: Spill, rows: pl.DataFrame) -> None:
        held.append(rows.height)
        put(spill, rows)

    monkeypatch.setattr(Spill, "put", count)
    wrong = ["2013-12-18,9001,5", "2013-01-02,9002,-5", "nonsense,9003,5", "2013-01-01,100,5"]
    stored: dict[int, list[pl.DataFrame]] = {}
    for values in (500_000, 60):
        root = tmp_path / str(values)
        month(root, "a.csv", range(1, 11), *wrong)
        month(root, "b.csv", range(5, 8))
        ingest(Storage(root), dataset(partition=LONG, read={"batch_values": values}), DAYS, "run")
        tables = [Storage(root).tables.scan(f"sales/{name}").collect() for name in PARTS]
        stored[values] = [table.drop("stamp", strict=False).sort(pl.all()) for table in tables]
    assert all(map(pl.DataFrame.equals, *stored.values()))
    assert 0 < max(held) <= 80


def test_a_person_can_let_a_partition_in_that_waits(tmp_path: Path) -> None:
    month(tmp_path, "a.csv", range(1, 11), "2013-12-18,9001,5")
    storage, now = Storage(tmp_path), 1_400_000_000 * 10**9
    ingest(storage, dataset(partition=LONG), DAYS, "run", now)
    willing = dataset(partition=LONG, rows={"stray": 0})
    assert len(Intake(storage, willing, None, now).unread) == 1
    ingest(storage, willing, [*DAYS, "2013-12-18"], "run", now)
    assert table(tmp_path)["2013-12-18"] == [9001]


def test_a_file_named_after_the_future_is_ignored_until_then(tmp_path: Path) -> None:
    spec = dataset(partition=LONG, landing="sales/{partition}.csv")
    deliver(tmp_path, "2103-01-01.csv", "2103-01-01,1,5")
    at = Intake(Storage(tmp_path), spec, None, 1_400_000_000 * 10**9)
    assert list(at.ranges()) == []
    assert "of a partition that begins in the future" in str(at.ignored)
    later = Intake(Storage(tmp_path), spec, None, 4_200_000_000 * 10**9)
    assert [keys for keys, _ in later.ranges()] == [("2103-01-01",)]


def test_a_refused_file_is_read_again_once_the_spec_is_mended(tmp_path: Path) -> None:
    for landing in ("sales/*.csv", "sales/{partition}.csv"):
        root = tmp_path / str(len(landing))
        deliver(root, "2013-01-01.csv", "2013-01-01,1,-5")
        storage, strict = Storage(root), dataset(landing=landing)
        ingest(storage, strict, DAYS, "run")
        assert Intake(storage, strict).unread == []
        lenient = dataset(landing=landing, columns=SALES["columns"] | {"price": {"type": "float"}})
        assert len(Intake(storage, lenient).unread) == 1
        ingest(storage, lenient, DAYS, "run")
        assert table(root) == {"2013-01-01": [1]}
        assert Intake(storage, lenient).unread == []


CHUNKS: dict[str, Any] = {
    "partition": {"by": "value", "column": "chunk", "start": "0", "end": "9"},
    "columns": {
        "id": {"type": "int"},
        "line": {"type": "int", "expression": "_line"},
        "chunk": {"type": "int", "expression": "(line - 2) // 2"},
    },
    "key": ["line"],
}


def test_where_partitions_count_lines_a_second_or_shorter_file_changes_nothing(
    tmp_path: Path,
) -> None:
    spec, few, more = dataset(**CHUNKS), ["a,1,5", "a,2,5", "a,3,5"], ["a,4,5", "a,5,5"]
    keys = list("0123456789")
    deliver(tmp_path, "b.csv", *few)
    run(tmp_path, spec, keys)
    deliver(tmp_path, "b.csv", *few, *more)
    assert run(tmp_path, spec, keys).refused == {}
    stored = {"0": [1, 2], "1": [3, 4], "2": [5]}
    assert table(tmp_path) == stored
    second = deliver(tmp_path, "a.csv", *more)
    assert run(tmp_path, spec, keys).refused == {
        "file:sales/a.csv": "sales/a.csv: its lines are counted from 1 again, as those of "
        "sales/b.csv: append new rows to the one file, or give them a column that tells their "
        "partition"
    }
    second.unlink()
    deliver(tmp_path, "b.csv", *few)
    (refused,) = run(tmp_path, spec, keys).refused.values()
    assert "sales/b.csv: it has 3 rows, 5 are stored: append new rows to the one file" in refused
    assert table(tmp_path) == stored
    deliver(tmp_path, "b.csv", *few, *more, "a,6,5")
    assert run(tmp_path, spec, keys).refused == {}
    assert table(tmp_path) == stored | {"2": [5, 6]}


def test_a_short_last_partition_of_lines_waits_until_it_is_half_full(tmp_path: Path) -> None:
    chunk = {"type": "int", "expression": "(line - 2) // 4"}
    changes = CHUNKS | {"columns": CHUNKS["columns"] | {"chunk": chunk}}
    spec = dataset(**changes, quarantine={"max_fraction": 0.05})
    lines = [f"a,{number},5" for number in range(11)]
    deliver(tmp_path, "a.csv", *lines[:9])
    assert run(tmp_path, spec, list("0123")).refused == {}
    stored = {"0": [0, 1, 2, 3], "1": [4, 5, 6, 7]}
    assert table(tmp_path) == stored
    assert quarantined(tmp_path) == [("file:sales/a.csv", "sales/a.csv", 10, "partition")]
    assert Intake(Storage(tmp_path), spec).unread == []
    assert len(Intake(Storage(tmp_path), dataset(**changes, rows={"stray": 0})).unread) == 1
    deliver(tmp_path, "a.csv", *lines)
    run(tmp_path, spec, list("0123"))
    assert (table(tmp_path), quarantined(tmp_path)) == (stored | {"2": [8, 9, 10]}, [])


@pytest.mark.parametrize(
    ("partition", "kind", "keys"),
    [
        ({"by": "month", "start": "2013-01"}, "date", ["2013-01", "2013-02"]),
        ({"by": "hour", "start": "2013-01-01T00"}, "datetime", ["2013-01-01T00", "2013-01-01T01"]),
        ({"by": "value", "values": ["north", "south"]}, "category", ["north", "south"]),
        ({"by": "value", "start": "08", "end": "12"}, "int", ["09", "10"]),
    ],
)
def test_a_delivery_is_a_partition_where_a_column_takes_it_from_the_name_of_the_file(
    tmp_path: Path, partition: dict[str, Any], kind: str, keys: list[str]
) -> None:
    columns = {"part": {"type": kind, "expression": "_partition"}, "id": {"type": "int"}}
    spec = dataset(
        landing="sales/{partition}.csv",
        partition=partition | {"column": "part"},
        columns=columns,
        key=["part", "id"],
    )
    assert list(find_column_mistakes(spec)) == []
    for key in keys:
        deliver(tmp_path, f"{key}.csv", "a,1,5", "a,2,5")
    assert run(tmp_path, spec, keys).refused == {}
    assert table(tmp_path) == {key: [1, 2] for key in keys}


def test_full_copies_are_compared_by_key_from_one_delivery_to_the_next(tmp_path: Path) -> None:
    part = {"type": "date", "expression": "_partition"}
    columns = {"part": part, "id": {"type": "int"}, "price": {"type": "float"}}
    spec = dataset(
        landing="sales/{partition}.csv",
        partition={"by": "month", "column": "part", "start": "2013-01"},
        columns=columns,
        key=["part", "id"],
    )
    deliver(tmp_path, "2013-01.csv", "a,1,5", "a,2,5", "a,3,")
    deliver(tmp_path, "2013-03.csv", "a,9,5")
    assert run(tmp_path, spec, ["2013-01"]).changes == []
    run(tmp_path, spec, ["2013-03"])
    deliver(tmp_path, "2013-02.csv", "a,3,", "a,2,6", "a,4,5", "a,9,5")
    names = ("partition", "before", "added", "changed", "unchanged", "gone")
    assert [tuple(map(row.get, names)) for row in run(tmp_path, spec, ["2013-02"]).changes] == [
        ("2013-02", "2013-01", 2, 1, 1, 1),
        ("2013-03", "2013-02", 0, 0, 1, 3),
    ]


def test_a_derived_column_that_fails_for_all_rows_refuses_them_by_its_name(tmp_path: Path) -> None:
    day = {"type": "date", "expression": "DATE(note)", "required": True}
    spec = dataset(columns={"note": {"type": "text"}, "day": day, "id": {"type": "int"}})
    (tmp_path / "landing" / "sales").mkdir(parents=True)
    (tmp_path / "landing" / "sales" / "a.csv").write_text("note,id\nx,1\ny,2\n")
    (refused,) = run(tmp_path, spec).refused.values()
    assert "column day" in refused


LANDINGS = pytest.mark.parametrize("landing", ["sales/*.csv", "sales/{partition}*.csv"])


@LANDINGS
def test_rows_may_move_to_a_file_of_another_name_but_none_may_vanish(
    tmp_path: Path, landing: str
) -> None:
    spec = dataset(landing=landing)
    old = deliver(tmp_path, "2013-01-01.csv", "2013-01-01,1,5", "2013-01-01,2,5")
    run(tmp_path, spec)
    deliver(tmp_path, "2013-01-01-copy.csv", "2013-01-01,1,5", "2013-01-01,2,5")
    assert run(tmp_path, spec).refused == {}  # the same rows in two files
    old.unlink()
    copy = deliver(tmp_path, "2013-01-01-copy.csv", *(f"2013-01-01,{i},5" for i in (1, 2, 3)))
    assert run(tmp_path, spec).refused == {}
    assert table(tmp_path) == {"2013-01-01": [1, 2, 3]}
    copy.unlink()
    deliver(tmp_path, "2013-01-01-less.csv", "2013-01-01,1,5", "2013-01-01,2,5")
    refused = run(tmp_path, spec).refused["2013-01-01"]
    assert refused.endswith("it held 3 rows of this partition and holds none now: restore it")
    assert table(tmp_path) == {"2013-01-01": [1, 2, 3]}


@LANDINGS
def test_an_unchanged_delivery_moves_no_version(tmp_path: Path, landing: str) -> None:
    spec = dataset(landing=landing)
    lines = ["2013-01-01,1,5", "2013-01-01,2,5", "2013-01-01,3,-5"]
    names = ["sales/dataset", "sales/quarantine"]
    for modified in (1, 2):
        os.utime(deliver(tmp_path, "2013-01-01.csv", *lines), (modified, modified))
        assert len(Intake(Storage(tmp_path), spec).unread) == 1
        run(tmp_path, spec)
        assert Intake(Storage(tmp_path), spec).unread == []
        assert [Storage(tmp_path).tables.version(name) for name in names] == [0, 0]
    deliver(tmp_path, "2013-01-01.csv", *lines[:2], "2013-01-01,4,5")
    run(tmp_path, spec)
    assert table(tmp_path) == {"2013-01-01": [1, 2, 4]}
    assert [Storage(tmp_path).tables.version(name) for name in names] == [1, 1]


@LANDINGS
def test_a_file_is_read_again_after_a_read_error_that_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landing: str
) -> None:
    spec, opened = dataset(landing=landing), Path.open
    deliver(tmp_path, "2013-01-01.csv", "2013-01-01,1,5")

    def fail(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.suffix == ".csv":
            raise OSError(5, "Input/output error")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", fail)
    [reason] = run(tmp_path, spec).refused.values()
    assert "it cannot be read (Input/output error)" in reason
    monkeypatch.undo()
    assert len(Intake(Storage(tmp_path), spec).unread) == 1
    run(tmp_path, spec)
    assert table(tmp_path) == {"2013-01-01": [1]}
    assert Intake(Storage(tmp_path), spec).unread == []


@pytest.mark.parametrize("landing", ["sales/*.csv", "sales/{partition}.csv"])
def test_refused_files_can_be_read_again_though_neither_they_nor_the_yaml_changed(
    tmp_path: Path, landing: str
) -> None:
    spec = dataset(landing=landing)
    for day in (1, 2, 4):
        deliver(tmp_path, f"{DAYS[day]}.csv", f"{DAYS[day]},1,{'5' if day == 1 else 'bad'}")
    run(tmp_path, spec)
    assert Intake(Storage(tmp_path), spec).unread == []
    ranges = Intake(Storage(tmp_path), spec).forget_refusals()
    assert [keys[0] for keys in ranges] == [DAYS[2]]
    unread = Intake(Storage(tmp_path), spec).unread
    assert [file.path for file in unread] == [f"sales/{DAYS[day]}.csv" for day in (2, 4)]
    deliver(tmp_path, f"{DAYS[2]}.csv", f"{DAYS[2]},1,5")
    deliver(tmp_path, f"{DAYS[4]}.csv", f"{DAYS[4]},1,5")
    run(tmp_path, spec, [key for keys in ranges for key in keys])
    assert Intake(Storage(tmp_path), spec).forget_refusals() == []
    assert [*table(tmp_path)] == [DAYS[1], DAYS[2], DAYS[4]]


def test_refused_files_without_a_partition_are_read_again_and_forgotten_once_deleted(
    tmp_path: Path,
) -> None:
    spec = dataset(landing="sales/*.csv")
    deliver(tmp_path, f"{DAYS[1]}.csv", f"{DAYS[1]},1,5")
    bad = tmp_path / "landing" / "sales" / "bad.csv"
    bad.write_text("id,price\n1,5\n")
    run(tmp_path, spec)
    [keys] = Intake(Storage(tmp_path), spec).forget_refusals()
    assert list(keys) == []
    unread = Intake(Storage(tmp_path), spec).unread
    assert [file.path for file in unread] == ["sales/bad.csv"]
    assert [*run(tmp_path, spec, DAYS[:1]).refused] == ["file:sales/bad.csv"]
    bad.unlink()
    assert Intake(Storage(tmp_path), spec).forget_refusals() == []
    records = landing_files(Storage(tmp_path).tables, spec.name)
    assert records.filter(file="sales/bad.csv").is_empty()
    assert landed_rows(Storage(tmp_path).tables, spec.name) == {DAYS[1]: 1}


def test_new_categories_and_odd_texts_are_named_and_kept(tmp_path: Path) -> None:
    city = {"city": {"type": "category"}}
    spec = dataset(landing="sales/{partition}.csv", columns=SALES["columns"] | city)
    folder = tmp_path / "landing" / "sales"
    folder.mkdir(parents=True)
    for day in DAYS[:7]:
        cities = ["Rome", "Oslo", "Bern" if day == DAYS[6] else "Rome", "Oslo "]
        lines = [f"{day},{number},5,{city}" for number, city in enumerate(cities)]
        (folder / f"{day}.csv").write_text("\n".join(["day,id,price,city", *lines]) + "\n")
    assert run(tmp_path, spec, DAYS[:6]).odd_texts[0]["why"] == "looks like 'Oslo'"
    done = run(tmp_path, spec, DAYS[6:7])
    assert [(row["value"], row["why"], row["line"]) for row in done.odd_texts] == [
        ("Bern", "is new", 4),
        ("Oslo ", "looks like 'Oslo'", 5),
    ]
    assert done.rows_by_partition(DAYS)["accepted"].to_list() == [4]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", ["{partition}", "*"])
def test_older_files_may_lack_a_column_that_came_later(
    tmp_path: Path, ending: str, name: str
) -> None:
    city = {"city": {"type": "category", "required": True, "since": DAYS[2]}}
    columns = SALES["columns"] | city
    spec = dataset(
        landing=f"sales/{name}.{ending}", columns=columns, quarantine={"max_fraction": 0}
    )
    folder = tmp_path / "landing" / "sales"
    folder.mkdir(parents=True)
    for number, day in enumerate(DAYS[:5]):
        row = {"day": day, "id": 1, "price": 5.0} | ({"city": "Rome"} if number in (1, 3) else {})
        rows = pl.DataFrame([row])
        path = folder / f"{day}.{ending}"
        if ending == "parquet":
            rows.with_columns(pl.col("day").str.to_date()).write_parquet(path)
        else:
            (rows.write_csv if ending == "csv" else rows.write_ndjson)(path)
    refused = run(tmp_path, spec).refused
    assert sorted(refused) == [DAYS[2], DAYS[4]]
    assert "it lacks city" in refused[DAYS[2]]
    stored = Storage(tmp_path).tables.scan("sales/dataset").collect().sort("day")
    assert stored["city"].to_list() == [None, "Rome", "Rome"]


def test_since_names_a_partition_and_no_column_that_each_row_must_have() -> None:
    with pytest.raises(
        ValueError, match=r"columns\.city\.since: '2013' is not a partition: write it as"
    ):
        dataset(columns=SALES["columns"] | {"city": {"type": "category", "since": "2013"}})
    with pytest.raises(ValueError, match="each file must have id"):
        dataset(columns=SALES["columns"] | {"id": {"type": "int", "since": DAYS[1]}})


def test_a_file_of_few_rows_for_a_partition_far_from_all_others_waits(tmp_path: Path) -> None:
    spec = dataset(landing="sales/{partition}.csv")
    for day in DAYS[:7]:
        deliver(tmp_path, f"{day}.csv", *(f"{day},{number},5" for number in range(30)))
    run(tmp_path, spec)
    far = DAYS[20]
    deliver(tmp_path, f"{far}.csv", f"{far},1,5")
    assert "is far from all others, has few rows and waits" in run(tmp_path, spec).refused[far]
    assert far not in table(tmp_path)
    assert Intake(Storage(tmp_path), spec).unread == []
    near = DAYS[15]
    deliver(tmp_path, f"{near}.csv", *(f"{near},{number},5" for number in range(30)))
    assert run(tmp_path, spec, [near]).published == (near,)
    assert [file.partition for file in Intake(Storage(tmp_path), spec).unread] == [far]
    assert run(tmp_path, spec, [far]).published == (far,)
    sparse = dataset(landing="sales/{partition}.csv", rows={"stray": 0})
    last = DAYS[27]
    deliver(tmp_path, f"{last}.csv", f"{last},1,5")
    assert run(tmp_path, sparse, [last]).published == (last,)
