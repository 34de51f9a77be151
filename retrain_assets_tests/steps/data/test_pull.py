"""Rows of a database land as files; new, changed and late ones are read, and nothing twice."""

import sqlite3
from pathlib import Path
from typing import Any
from uuid import UUID

import dagster as dg
import duckdb
import polars as pl
import psycopg2
import pytest
import yaml

from retrain_assets.domain.start.guess import Wishes, guess
from retrain_assets.errors import is_permanent
from retrain_assets.orchestration.build import dataset_definitions
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.partition import PartitionSpec
from retrain_assets.specs.sql import SqlSpec
from retrain_assets.steps.data.ingest import ingest
from retrain_assets.steps.data.intake import Intake
from retrain_assets.steps.data.pull import PulledFiles, pull
from retrain_assets.steps.start import read_table
from retrain_assets.stores.landing.source import LandingError
from retrain_assets.stores.landing.sql import Database, StatementError
from retrain_assets.stores.storage import Storage
from retrain_assets_tests.system.postgres import PASSWORD, postgres

CREATE = """CREATE TABLE orders (
    id INTEGER, day DATE, amount DECIMAL(9, 2), paid BOOLEAN, changed TIMESTAMP, note VARCHAR)"""
SPEC: dict[str, Any] = {
    "name": "orders",
    "sql": {"uri": "SHOP_URI", "table": "orders", "cursor": "changed"},
    "read": {"settle": "0s", "naive": "utc", "rename": {"amount": "price"}},
    "partition": {"by": "day", "column": "day", "start": "2024-01-01"},
    "columns": {
        "id": {"type": "int", "required": True},
        "day": {"type": "date", "required": True},
        "price": {"type": "float", "min": 0},
        "changed": {"type": "datetime"},
    },
    "key": ["id"],
}


class Shop:
    """A database file, and what a project stores of it."""

    def __init__(self, root: Path, kind: str, uri: str = "") -> None:
        self.file, self.kind, self.storage = root / "shop.db", kind, Storage(root / "data")
        self.uri = uri or f"{kind}:///{self.file}"
        self.environment = {"SHOP_URI": self.uri}
        self.run(CREATE)

    def run(self, *statements: str) -> None:
        connect: Any = sqlite3.connect if self.kind == "sqlite" else duckdb.connect
        is_server = self.kind == "postgresql"
        connection = psycopg2.connect(self.uri) if is_server else connect(str(self.file))
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        connection.commit()
        connection.close()

    def add(self, *rows: tuple[int, int, float, str]) -> None:
        lines = [
            f"({number}, '2024-01-{day:02}', {price}, true, '2024-01-{changed}', 'secret')"
            for number, day, price, changed in rows
        ]
        self.run(f"INSERT INTO orders VALUES {', '.join(lines)}")  # noqa: S608 own numbers

    def pull(self, **changes: Any) -> int:
        return pull(self.storage, self.spec(**changes), self.environment).rows

    def spec(self, **changes: Any) -> DatasetSpec:
        return DatasetSpec.model_validate(SPEC | {"sql": SPEC["sql"] | changes})

    def ingest(self) -> dict[int, float]:
        spec = self.spec()
        intake = Intake(self.storage, spec)
        ingest(self.storage, spec, sorted(intake.keys(intake.unread)), "run")
        return self.stored()

    def stored(self) -> dict[int, float]:
        rows = pl.read_delta(str(self.storage.root / "delta" / "orders" / "dataset"))
        assert rows["id"].is_unique().all()
        return dict(rows.select("id", "price").sort("id").iter_rows())


@pytest.fixture(params=["sqlite", "duckdb"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    return open_shop(tmp_path, request.param)


def open_shop(root: Path, kind: str, uri: str = "") -> Shop:
    shop = Shop(root, kind, uri)
    shop.add((1, 1, 10.5, "01 10:00:00"), (2, 1, 20, "01 11:00:00"), (3, 2, 30, "02 10:00:00"))
    return shop


def test_each_pull_lands_what_is_new_or_changed_and_the_newest_row_of_a_key_counts(
    shop: Shop,
) -> None:
    assert shop.pull() == 3
    assert shop.ingest() == {1: 10.5, 2: 20, 3: 30}
    assert shop.pull() == 0
    shop.run("UPDATE orders SET amount = 11, changed = '2024-01-02 12:00:00' WHERE id = 1")
    shop.add((4, 2, 40, "02 10:00:00"))  # as late as the newest row that was read
    assert shop.pull() == 2
    assert shop.ingest() == {1: 11, 2: 20, 3: 30, 4: 40}
    (first, second) = sorted((shop.storage.landing / "orders").glob("*.parquet"))
    assert (first.name, second.name) == ("00000001.parquet", "00000002.parquet")
    assert pl.read_parquet_schema(first).keys() == {"id", "day", "amount", "changed"}
    again = ingest(shop.storage, shop.spec(), ["2024-01-01"], "again")
    assert (again.files, again.unaccounted()) == (2, [])
    assert shop.stored() == {1: 11, 2: 20, 3: 30, 4: 40}


def test_what_was_pulled_is_read_once_and_again_only_where_rows_may_come_twice(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in (3, 4, 5):
        shop.pull()
        shop.add((day + 1, day, 40, f"{day:02} 10:00:00"))
    read, scan = list[str](), PulledFiles.scan

    def note(files: PulledFiles, name: str) -> pl.LazyFrame:
        read.append(name)
        return scan(files, name)

    monkeypatch.setattr(PulledFiles, "scan", note)
    assert shop.pull() == 1
    assert read == [*(f"{number:08}.parquet" for number in (1, 2, 3, 3))]


def test_without_a_cursor_one_file_has_all_rows_and_is_written_only_when_they_change(
    shop: Shop,
) -> None:
    assert shop.pull(cursor=None) == 3
    assert shop.pull(cursor=None) == 0
    shop.run("DELETE FROM orders WHERE id = 2")
    assert shop.pull(cursor=None) == 2
    assert [file.name for file in (shop.storage.landing / "orders").glob("*.parquet")] == [
        "all.parquet"
    ]


def test_a_value_that_changes_its_type_is_another_value(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "sqlite")
    shop.add((1, 1, 1.5, "01 10:00:00"))
    assert shop.pull() == 1
    shop.run("UPDATE orders SET amount = 1")
    assert shop.pull() == 1
    assert shop.ingest() == {1: 1}


def test_files_of_another_way_to_pull_are_refused(shop: Shop) -> None:
    assert shop.pull() == 3
    with pytest.raises(StatementError, match="files that were pulled by a cursor"):
        shop.pull(cursor=None)
    with pytest.raises(StatementError, match="was pulled without the cursor note"):
        shop.pull(cursor="note")


def test_a_row_without_a_time_may_change_twice(shop: Shop) -> None:
    for amount in (2, 3, 4):
        assert shop.pull() > 0
        shop.run(f"UPDATE orders SET amount = {amount}, changed = '2024-02-0{amount} 10:00:00'")  # noqa: S608
    shop.pull()
    spec = shop.spec().model_copy(update={"partition": PartitionSpec(by="none")})
    ingest(shop.storage, spec, ["all"], "run")
    assert shop.stored() == {1: 4, 2: 4, 3: 4}


def test_late_commits_are_read_by_the_overlap(shop: Shop) -> None:
    if shop.kind == "sqlite":  # whose times are texts
        shop.pull()
        with pytest.raises(StatementError, match="overlap: changed is str, not a date or time"):
            shop.pull(overlap="1h")
        return
    shop.pull()
    shop.add((5, 2, 50, "02 09:30:00"))
    assert (shop.pull(), shop.pull(overlap="20m"), shop.pull(overlap="1h")) == (0, 0, 1)
    assert shop.ingest() == {1: 10.5, 2: 20, 3: 30, 5: 50}


def test_a_query_is_the_users_own_text(shop: Shop) -> None:
    query = "WITH paid AS (SELECT * FROM orders WHERE paid) SELECT * FROM paid; -- all of them"
    with pytest.raises(StatementError):
        shop.pull(table=None, query=f"{query}\nDROP TABLE orders")
    assert shop.pull(table=None, query=query.partition(";")[0] + " -- all of them") == 3
    assert shop.pull(table=None, query=query.partition(";")[0] + ";") == 0


def test_rows_without_a_cursor_are_not_passed_over_in_silence(shop: Shop) -> None:
    shop.run("UPDATE orders SET changed = NULL WHERE id > 1")
    with pytest.raises(StatementError, match="2 rows have no changed, so that they would never"):
        shop.pull()


@pytest.mark.parametrize(
    ("uri", "error", "why"),
    [
        ("", StatementError, "the environment variable SHOP_URI is not set"),
        ("oracle://user:hunter2@host/db", StatementError, "SHOP_URI must begin with one of sqlite"),
        ("sqlite:///nowhere/shop.db", LandingError, "orders of the database in SHOP_URI: there is"),
        ("postgresql://user:hunter2@127.0.0.1:9/db", LandingError, "Connection refused"),
    ],
)
def test_no_message_shows_the_uri(
    tmp_path: Path, uri: str, error: type[Exception], why: str
) -> None:
    spec = DatasetSpec.model_validate(SPEC)
    with pytest.raises(error, match=why) as caught:
        pull(Storage(tmp_path), spec, {"SHOP_URI": uri})
    assert "hunter2" not in str(caught.value)
    assert is_permanent(caught.value) is (error is StatementError)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"query": "SELECT 1"}, "give either `table` or `query`"),
        ({"cursor": None, "overlap": "1h"}, "there is no `cursor`"),
        ({"uri": "postgresql://user:hunter2@host/db"}, "String should match pattern"),
        ({"every": "0s"}, "give at least 1s"),
    ],
)
def test_mistakes_are_said_when_definitions_load(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        DatasetSpec.model_validate(SPEC | {"sql": SPEC["sql"] | changes})


def test_a_tick_pulls_once_in_each_stretch_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = open_shop(tmp_path, "sqlite")
    monkeypatch.setenv("SHOP_URI", shop.environment["SHOP_URI"])
    resource = {"storage": StorageResource(root=str(shop.storage.root))}
    definitions = dg.Definitions.merge(
        dataset_definitions(shop.spec()), dg.Definitions(executor=dg.in_process_executor)
    )
    with dg.instance_for_test() as instance:
        repository = definitions.get_repository_def()
        sensor = repository.get_sensor_def("orders_pull_due")
        context = dg.build_sensor_context(instance, repository_def=repository)
        (request,) = sensor.evaluate_tick(context).run_requests or []
        job = repository.get_job("orders_pull")
        job.execute_in_process(instance=instance, resources=resource, tags=request.tags)
        assert "has pulled; the next is due when it is" in str(
            sensor.evaluate_tick(context).skip_message
        )
    assert Intake(shop.storage, shop.spec(), now_ns=1).settled


def test_the_yaml_of_a_table_is_drafted_from_its_rows(shop: Shop) -> None:
    days = [(number, 1 + number % 28) for number in range(4, 100)]
    shop.add(*((number, day, number, f"{day:02} 12:00:00") for number, day in days))
    shop.run("UPDATE orders SET paid = id % 3 = 0")
    delivery = read_table("sql:SHOP_URI:orders", None, shop.environment)
    start = guess(delivery.sample, Wishes("late", "orders", "paid"))
    dataset, _ = yaml.safe_load_all(start.render("orders"))
    spec = DatasetSpec.model_validate(dataset["attributes"])
    assert spec.sql
    assert (spec.sql.uri, spec.sql.table, spec.sql.cursor) == ("SHOP_URI", "orders", "changed")
    assert (spec.key, spec.columns["day"].type, delivery.files) == (["id"], "date", {})
    with pytest.raises(ValueError, match="write sql:NAME:TABLE"):
        read_table("sql:orders", None, shop.environment)


@pytest.mark.soak
def test_a_server_of_postgresql_is_read_as_files_are(tmp_path: Path) -> None:
    with postgres() as server:
        for test in (
            test_each_pull_lands_what_is_new_or_changed_and_the_newest_row_of_a_key_counts,
            test_late_commits_are_read_by_the_overlap,
            test_a_query_is_the_users_own_text,
            test_rows_without_a_cursor_are_not_passed_over_in_silence,
        ):
            shop = open_shop(tmp_path / test.__name__[:20], "postgresql", server.uri)
            test(shop)
            shop.run("DROP TABLE orders")
        with pytest.raises(StatementError) as caught:
            shop.pull()
        assert PASSWORD not in str(caught.value)
        shop.run("CREATE TABLE orders AS SELECT gen_random_uuid() AS note, now() AS changed")
        database = Database(SqlSpec(uri="SHOP_URI", table="orders"), shop.environment)
        (rows,) = database.read()
        assert rows.schema == {"note": pl.String, "changed": pl.Datetime("us", "UTC")}
        assert len(str(UUID(rows["note"].item()))) == 36
