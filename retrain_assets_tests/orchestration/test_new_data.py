"""What lands is asked for in few ranges, soon, and at a cost that history does not raise."""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import polars as pl
import pytest

from retrain_assets.orchestration import sensors
from retrain_assets.orchestration.partitions import RANGE_END, RANGE_START, range_tags
from retrain_assets.orchestration.run_requests import MAX_ATTEMPTS, MAX_RUNS, REQUEST_TAG
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.data import intake
from retrain_assets.stores.landing.source import LocalFiles
from retrain_assets_tests.buckets import KEY_ID, SECRET, Bucket, bucket
from retrain_assets_tests.world import DATASET, World, customers, key

WEEKDAYS = [1, 2, 5, 6, 7, 8, 9, 12, 13]  # 2020-01-02 is a Thursday


class Clock(SimpleNamespace):
    """A time that moves when it is told to."""

    now_ns = 2 * 10**18

    def time_ns(self) -> int:
        return self.now_ns

    def later(self, seconds: int) -> None:
        self.now_ns += seconds * 10**9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(sensors, "time", made)
    return made


def changed(world: World, **changes: Any) -> World:
    return replace(world, dataset=DatasetSpec.model_validate(DATASET | changes))


class Sensor:
    """The sensor of a world, with its cursor."""

    def __init__(
        self, world: World, cursor: str | None = None, name: str = "customers_new_data"
    ) -> None:
        self.world, self.cursor, self.name = world, cursor, name

    def tick(self) -> list[dg.RunRequest] | str:
        repository = self.world.definitions.get_repository_def()
        context = dg.build_sensor_context(
            instance=self.world.instance,
            repository_def=repository,
            sensor_name=self.name,
            resources=repository.get_top_level_resources(),
            cursor=self.cursor,
        )
        outcome = repository.get_sensor_def(self.name).evaluate_tick(context)
        self.cursor = outcome.cursor
        return outcome.run_requests or outcome.skip_message or ""

    def ranges(self) -> list[tuple[str, str]]:
        """What a tick asks for."""
        asked = self.tick()
        assert not isinstance(asked, str), asked
        return [(one.tags[RANGE_START], one.tags[RANGE_END]) for one in asked]

    def run(self) -> int:
        """Do what the ticks ask for; how many runs that took."""
        job, runs = self.world.definitions.resolve_job_def("customers_ingest"), 0
        while not isinstance(asked := self.tick(), str):
            for one in asked:
                assert job.execute_in_process(instance=self.world.instance, tags=one.tags).success
                runs += 1
        return runs


def days(*pairs: tuple[int, int]) -> list[tuple[str, str]]:
    return [(key(first), key(last)) for first, last in pairs]


def failed(world: World, asked: dg.RunRequest, times: int = 1) -> None:
    """Runs of a request that failed."""
    job = world.definitions.resolve_job_def("customers_ingest")
    for _ in range(times):
        world.instance.create_run_for_job(job, tags=asked.tags, status=dg.DagsterRunStatus.FAILURE)


def rows(world: World) -> int:
    return int(world.storage.tables.scan("customers/dataset").collect().height)


def test_days_on_which_nothing_lands_do_not_divide_a_range(world: World) -> None:
    world.land(*WEEKDAYS)
    assert Sensor(world).ranges() == days((1, 13))


@pytest.mark.parametrize("landing", ["customers/{partition}.csv", "customers/*.csv"])
def test_a_range_has_no_gap_of_more_than_a_year(world: World, landing: str) -> None:
    partition = DATASET["partition"] | {"end": "2021-12-31"}
    sensor = Sensor(changed(world, landing=landing, partition=partition))
    world.land(0, 1, 400, 401)
    assert sensor.ranges() == days((0, 1), (400, 401))
    assert sensor.run() == 2
    assert rows(world) == 4 * customers(0).height
    stored = {key(day) for day in (0, 1, 400, 401)}
    dataset = dg.AssetKey(["customers", "dataset"])
    assert world.instance.get_materialized_partitions(dataset) == stored


def test_a_late_file_is_a_range_of_its_own_and_nothing_that_was_read_lies_in_one(
    world: World,
) -> None:
    sensor = Sensor(world)
    world.land(*(set(range(20)) - {3}))
    assert sensor.run() == 1
    world.land(3, 20, 21)
    assert sensor.ranges() == days((3, 3), (20, 21))
    assert sensor.run() == 2
    (world.root / "landing" / "customers" / f"{key(10)}.csv").unlink()
    world.land(9, 11, slope=1.0)
    assert sensor.ranges() == days((9, 9), (11, 11))


def test_a_tick_asks_for_few_ranges_and_the_next_for_the_rest(world: World) -> None:
    sensor = Sensor(world)
    world.land(*range(0, 30, 2))
    sensor.run()
    world.land(*range(1, 30, 2))
    assert sensor.ranges() == days(*((day, day) for day in range(1, 2 * MAX_RUNS, 2)))
    assert sensor.run() == 15
    assert world.instance.get_materialized_partitions(dg.AssetKey(["customers", "dataset"])) == {
        key(day) for day in range(30)
    }


def test_a_range_is_bounded_in_files_and_divides_no_partition(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_FILES", 3)
    many = changed(world, landing="customers/{partition}-*.csv")
    for day, files in enumerate((2, 1, 2, 5, 1)):
        world.land(day)
        landed = world.root / "landing" / "customers" / f"{key(day)}.csv"
        for number in range(files):
            (landed.parent / f"{key(day)}-{number}.csv").write_bytes(landed.read_bytes())
    assert Sensor(many).ranges() == days((0, 1), (2, 2), (3, 3), (4, 4))


def test_a_range_that_fails_neither_holds_back_nor_renames_the_others(world: World) -> None:
    sensor = Sensor(world)
    world.land(*range(6))
    sensor.run()
    world.land(2, slope=1.0)
    (broken,) = sensor.tick()
    assert isinstance(broken, dg.RunRequest)
    failed(world, broken)
    world.land(3, 6, slope=1.0)
    again, three, six = sensor.tick()
    assert isinstance(again, dg.RunRequest)
    assert again.tags[REQUEST_TAG] == broken.tags[REQUEST_TAG]
    assert again.run_key == f"{broken.tags[REQUEST_TAG]}:1"
    failed(world, broken, times=MAX_ATTEMPTS - 1)
    assert sensor.tick() == [three, six]
    world.land(2, slope=0.5)
    assert sensor.ranges() == days((2, 2), (3, 3), (6, 6))


def test_however_many_ranges_have_failed_too_often_the_next_is_asked_for(world: World) -> None:
    sensor = Sensor(world)
    world.land(*range(0, 20, 2))
    sensor.run()
    world.land(*range(1, 16, 2))
    for _ in range(2):
        for asked in sensor.tick():
            assert isinstance(asked, dg.RunRequest)
            failed(world, asked, times=MAX_ATTEMPTS)
    assert "see why, mend it" in str(sensor.tick())
    world.land(17)
    assert sensor.ranges() == days((17, 17))


def test_a_partition_of_which_a_file_is_being_rewritten_is_waited_for(world: World) -> None:
    sensor = Sensor(changed(world, read={"settle": "60s"}))
    world.land(*range(3))
    folder = world.root / "landing" / "customers"
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    sensor.run()
    world.land(0, 1, 2, 3, slope=1.0)
    os.utime(folder / f"{key(0)}.csv", (2, 2))
    os.utime(folder / f"{key(2)}.csv", (2, 2))
    assert sensor.ranges() == days((0, 0), (2, 2))
    sensor.run()
    assert sensor.tick() == (
        f"3 files have landed from {key(0)} on, all were read; ignored: 2 may still be written "
        f"('customers/{key(1)}.csv', 'customers/{key(3)}.csv')"
    )


@pytest.mark.parametrize("pattern", ["customers/*.csv", "customers/{partition}-*.csv"])
def test_a_new_file_that_is_being_written_is_not_read_by_a_run_for_others(
    world: World, pattern: str
) -> None:
    waiting = changed(world, landing=pattern, read={"settle": "60s"})
    folder = world.root / "landing" / "customers"
    folder.mkdir(parents=True)
    whole, half = folder / f"{key(0)}-a.csv", folder / f"{key(0)}-b.csv"
    customers(0).head(60).write_csv(whole)
    os.utime(whole, (1, 1))
    half.write_text("day,id,x,plan,left\n2020-01-01,77")
    assert Sensor(waiting).run() == 1
    assert waiting.storage.tables.scan("customers/quarantine").collect().is_empty()
    customers(0).tail(60).write_csv(half)
    os.utime(half, (1, 1))
    assert Sensor(waiting).run() == 1
    assert rows(waiting) == 120


@pytest.mark.parametrize("name", [".{}", "{}.tmp", "{}.part"])
def test_a_file_is_read_once_it_has_been_renamed_into_place(world: World, name: str) -> None:
    waiting = changed(world, read={"settle": "60s"})
    sensor = Sensor(waiting)
    world.land(0)
    final = world.root / "landing" / "customers" / f"{key(0)}.csv"
    unfinished = final.with_name(name.format(final.name))
    final.rename(unfinished)
    os.utime(unfinished, (1, 1))
    assert sensor.tick() == (
        "0 files have landed, all were read; ignored: "
        f"1 {'hidden' if name == '.{}' else 'temporary'} ('customers/{unfinished.name}')"
    )
    unfinished.rename(final)
    assert sensor.ranges() == days((0, 0))


def looked_at(world: World, sensor: Sensor, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many files a tick asks the file system about."""
    seen = []
    lstat = Path.lstat
    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", lambda path: seen.append(path) or lstat(path))
        sensor.tick()
    return len([path for path in seen if path.suffix == ".csv"])


def test_a_tick_looks_at_the_newest_partitions_and_once_an_hour_at_all(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "LOOK_BACK", 5)
    sensor = Sensor(world)
    world.land(*range(40))
    sensor.run()
    assert looked_at(world, sensor, monkeypatch) == 5
    assert sensor.tick() == f"5 files have landed from {key(35)} on, all were read"
    world.land(2, 36, 41, slope=1.0)
    assert sensor.ranges() == days((36, 36), (41, 41))
    sensor.run()
    clock.later(3599)
    assert looked_at(world, sensor, monkeypatch) == 5
    clock.later(1)
    assert sensor.ranges() == days((2, 2))
    assert looked_at(world, sensor, monkeypatch) == 39
    sensor.run()
    assert looked_at(world, sensor, monkeypatch) == 5
    clock.later(-7200)
    assert looked_at(world, sensor, monkeypatch) == 41


def test_what_is_late_and_still_being_written_is_not_forgotten_for_an_hour(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "LOOK_BACK", 5)
    sensor = Sensor(changed(world, read={"settle": "60s"}))
    world.land(*(set(range(40)) - {3}))
    folder = world.root / "landing" / "customers"
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    sensor.run()
    world.land(3)
    late = folder / f"{key(3)}.csv"
    os.utime(late, ns=(clock.now_ns + 3601 * 10**9,) * 2)
    clock.later(3601)
    said = f"1 may still be written ('customers/{key(3)}.csv')"
    assert str(sensor.tick()) == f"39 files have landed, all were read; ignored: {said}"
    clock.later(61)
    assert sensor.ranges() == days((3, 3))


AT = {"type": "datetime", "required": True}
KINDS: dict[str, dict[str, Any]] = {
    "hour": {"partition": {"by": "hour", "column": "at", "start": "2020-01-01T00"}},
    "day": {"partition": {"by": "day", "column": "day", "start": "2020-01-01"}},
    "week": {"partition": {"by": "week", "column": "day", "start": "2019-12-30"}},
    "month": {"partition": {"by": "month", "column": "day", "start": "2020-01"}},
    "year": {"partition": {"by": "year", "column": "day", "start": "2019"}},
    "numbers": {"partition": {"by": "value", "column": "id", "start": "000", "end": "119"}},
    "values": {"partition": {"by": "value", "column": "plan", "values": ["basic", "plus", "pro"]}},
    "none": {"partition": {"by": "none"}},
}


@pytest.mark.parametrize("by", KINDS)
def test_each_tick_takes_the_cursor_of_the_one_before_for_every_kind_of_partition(
    by: str, world: World
) -> None:
    columns = DATASET["columns"] | {"at": AT}
    partitioned = changed(world, landing="customers/*.csv", columns=columns, **KINDS[by])
    sensor, folder = Sensor(partitioned), world.root / "landing" / "customers"
    folder.mkdir(parents=True)
    for number in (3, 4):
        rows = customers(number).with_columns(at=pl.lit(f"{key(number)}T07:00:00Z"))
        rows.write_csv(folder / f"{number}.csv")
        (request,) = sensor.tick()
        partitioned.definitions.resolve_job_def("customers_ingest").execute_in_process(
            instance=world.instance,
            tags=request.tags,  # type: ignore[union-attr]
        )
        assert "all were read" in str(sensor.tick())
        assert "all were read" in str(sensor.tick())


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "{",
        "7",
        '["customers/{partition}.csv", 7, 2000000007]',
        '["other.csv", "2020-02-05", 2000000007]',
    ],
)
def test_without_a_cursor_that_fits_everything_is_listed(
    world: World, clock: Clock, cursor: str
) -> None:
    clock.now_ns = 2_000_000_008 * 10**9
    world.land(0, 40)
    assert Sensor(world, cursor).ranges() == days((0, 40))


def test_a_tick_says_what_it_passed_over_and_why(world: World) -> None:
    folder = world.root / "landing" / "customers"
    world.land(0)
    sensor = Sensor(world)
    sensor.run()
    for name in ("a.tmp", ".hidden.csv", "2020-13-01.csv", "2021-01-01.csv", "<script>\n.csv"):
        (folder / name).touch()
    (folder / f"{key(1)}.csv").mkdir()
    (folder / f"{key(2)}.csv").symlink_to("/etc/hostname")
    for number in range(9):
        (folder / f"{number}{'x' * 90}.CSV").touch()
    said = str(Sensor(world).tick())
    assert said.startswith("1 file has landed, all were read; ignored: ")
    for part in (
        "1 temporary ('customers/a.tmp')",
        "1 hidden ('customers/.hidden.csv')",
        "1 of no partition (it is after 2020-04-30) ('customers/2021-01-01.csv')",
        "1 of no partition (write it as 2020-01-01) ('customers/2020-13-01.csv')",
        f"1 not a regular file ('customers/{key(1)}.csv')",
        f"1 outside the landing folder ('customers/{key(2)}.csv')",
        "10 not named like customers/2020-01-01.csv (",
    ):
        assert part in said
    assert len(said) < 900
    names = {f"customers/{path.name}"[-80:] for path in folder.iterdir()}
    shown = said.partition("customers/2020-01-01.csv (")[2].partition(")")[0].split(", ")
    assert len(shown) == 3
    assert {ast.literal_eval(one).removeprefix("…") for one in shown} <= names


def test_a_run_leaves_what_was_passed_over_on_the_landing_asset(world: World) -> None:
    world.land(5)
    folder = world.root / "landing" / "customers"
    (folder / "2020-01-07.CSV").touch()
    (folder / "2020-02-31.csv").touch()
    job = world.definitions.resolve_job_def("customers_ingest")
    job.execute_in_process(instance=world.instance, tags=range_tags(key(5), key(5)))
    landing = dg.AssetKey(["customers", "landing"])
    (event,) = world.instance.fetch_materializations(landing, limit=9).records
    assert event.asset_materialization is not None
    table = event.asset_materialization.metadata["ignored"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data for record in table.records] == [
        {
            "reason": "not named like customers/2020-01-01.csv",
            "names": 1,
            "such as": "'customers/2020-01-07.CSV'",
        },
        {
            "reason": "of no partition (write it as 2020-01-01)",
            "names": 1,
            "such as": "'customers/2020-02-31.csv'",
        },
    ]


@pytest.fixture
def land(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with bucket("landing", monkeypatch) as made:
        yield made


def deliver(land: Bucket, *numbers: int, **law: Any) -> None:
    for number in numbers:
        content = customers(number, **law).write_csv().encode()
        land.put(f"customers/{key(number)}.csv", content)


def test_a_bucket_is_watched_as_a_folder_is(
    world: World, land: Bucket, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "LOOK_BACK", 3)
    stored = changed(world, landing="s3://landing/customers/{partition}.csv")
    sensor = Sensor(stored)
    deliver(land, *range(8))
    land.put("customers/part-7.tmp")
    assert sensor.run() == 1
    assert rows(stored) == 8 * 120
    deliver(land, 1, 6, 9, slope=1.0)
    assert sensor.ranges() == days((6, 6), (9, 9))
    assert sensor.run() == 2
    clock.later(3600)
    assert sensor.ranges() == days((1, 1))
    assert sensor.run() == 1
    assert sensor.tick() == (
        f"3 files have landed from {key(6)} on, all were read"
        "; ignored: 1 temporary ('customers/part-7.tmp')"
    )
    files = stored.storage.tables.scan("customers/files").collect()
    assert files["file"].min() == f"customers/{key(0)}.csv"


def test_while_a_bucket_is_out_of_reach_the_sensor_says_so_and_goes_on_afterwards(
    world: World, land: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = changed(world, landing="s3://landing/customers/{partition}.csv")
    deliver(land, 0)
    sensor = Sensor(stored, "before")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        said = str(sensor.tick())
        job = stored.definitions.resolve_job_def("customers_ingest")
        done = job.execute_in_process(
            instance=world.instance, tags=range_tags(key(0), key(0)), raise_on_error=False
        )
    assert said == (
        "s3://landing/customers/{partition}.csv cannot be listed: error sending request; nothing "
        "answers: see to the network and to the address of the store, such as AWS_ENDPOINT_URL; it "
        "is tried again at the next tick"
    )
    assert not done.success
    logged = "".join(str(entry) for entry in world.instance.all_logs(done.run_id))
    assert "cannot be listed: error sending request" in logged
    assert not [word for word in (KEY_ID, SECRET) if word in logged]
    assert sensor.cursor in (None, "before")
    assert sensor.run() == 1


def test_a_file_deleted_after_the_tick_is_missed_by_name(world: World) -> None:
    world.land(0)
    ((first, last),) = Sensor(world).ranges()
    (world.root / "landing" / "customers" / f"{key(0)}.csv").unlink()
    job = world.definitions.resolve_job_def("customers_ingest")
    done = job.execute_in_process(
        instance=world.instance, tags=range_tags(first, last), raise_on_error=False
    )
    error = done.failure_data_for_node("customers__ingest")
    assert error is not None
    assert f"nothing for {key(0)} to {key(0)} in customers/{{partition}}.csv" in str(error)
    assert Sensor(world).tick() == "0 files have landed, all were read"


def test_the_bound_on_files_of_many_partitions_is_held_by_the_run_as_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (intake, sensors):
        monkeypatch.setattr(module, "MAX_FILES", 2)
    split = changed(world, landing="customers/*.csv")
    world.land(*range(5))
    reads: list[str] = []
    read = LocalFiles.read
    monkeypatch.setattr(
        LocalFiles, "read", lambda found, file: reads.append(file.path) or read(found, file)
    )
    assert Sensor(split).run() == 3
    assert Counter(reads) == {f"customers/{key(day)}.csv": 2 for day in range(5)}  # tick and run
    assert rows(split) == 5 * 120


def test_of_a_growing_file_only_the_partitions_that_changed_are_requested(world: World) -> None:
    split = changed(world, landing="customers/*.csv")
    folder = world.root / "landing" / "customers"
    folder.mkdir(parents=True)
    parts = {number: customers(number) for number in range(10)}
    pl.concat(parts.values()).write_csv(folder / "all.csv")
    assert Sensor(split).ranges() == days((0, 9))
    assert Sensor(split).run() == 1
    parts |= {number: customers(number, shift=1.0) for number in (4, 9, 10, 11)}
    pl.concat(parts.values()).write_csv(folder / "all.csv")
    assert Sensor(split).ranges() == days((4, 11))
    parts[4] = customers(4)
    pl.concat(parts.values()).write_csv(folder / "all.csv")
    assert Sensor(split).ranges() == days((9, 11))
    assert Sensor(split).run() == 1
    assert rows(split) == 12 * 120
    os.utime(folder / "all.csv", (0, 0))
    assert Sensor(split).run() <= 1
    assert "all were read" in str(Sensor(split).tick())


def test_a_long_time_without_data_divides_what_is_built_as_well(world: World) -> None:
    days_of_years = DATASET["partition"] | {"end": "2021-12-31"}
    sparse = changed(world, partition=days_of_years)
    world.land(0, 1, 500)
    assert Sensor(sparse).run() == 2
    ready = Sensor(sparse, name="churn_data_ready")
    assert ready.ranges() == days((0, 1))
