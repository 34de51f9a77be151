"""Features of a range are those of its partitions, also when history or a lookup is corrected."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from retrain_assets.components.spec_check import find_model_mistakes
from retrain_assets.domain.features.build import compute_features
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.data.ingest import ingest
from retrain_assets.steps.decision.train import sample
from retrain_assets.steps.features import rows as rows_module
from retrain_assets.steps.features.build import (
    FeaturesResult,
    NotReadyError,
    build_features,
    build_profiles,
)
from retrain_assets.steps.features.rows import Rows
from retrain_assets.steps.monitoring.monitor import monitor
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets_tests.world import DATASET, MODEL, World, customers, key, new_world

HISTORY = {
    "sql": "SELECT rows.x, rows.plan, h.rate, h.seen FROM rows LEFT JOIN (SELECT plan, "
    'AVG("left") AS rate, COUNT(*) AS seen FROM history GROUP BY plan) AS h ON rows.plan = h.plan',
    "history": 2,
}


def landed(world: World, *numbers: int, **law: Any) -> None:
    world.land(*numbers, **law)
    ingest(world.storage, world.dataset, [key(n) for n in numbers], "run")


def stored(world: World, table: str = "churn/features") -> pl.DataFrame:
    return (
        world.storage.tables.scan(table).collect().sort("_landing_partition", maintain_order=True)
    )


def built(world: World, *numbers: int) -> FeaturesResult:
    return build_features(world.state, [key(n) for n in numbers], "run")


def in_production(world: World, first: int, last: int, seen: int) -> None:
    """A version trained on a range, as the ledger has it."""
    row = LedgerRow(
        time=datetime(2020, 1, 1, tzinfo=UTC),
        as_of=key(last),
        seen_through=key(seen),
        action="promote",
        version=1,
        candidate=None,
        previous=None,
        reason="better",
        causes=(),
        data_range=(key(first), key(last)),
        metrics={},
        by="test",
        sha256="",
        recipe=world.spec.recipe,
    )
    world.state.ledger.append(row, world.state.ledger.read())


@pytest.fixture
def looking_back(tmp_path: Path, instance: dg.DagsterInstance) -> World:
    return new_world(tmp_path, instance, features=HISTORY, labels={"delay": 1})


def test_a_range_gives_exactly_what_its_partitions_and_its_rows_give_alone(
    looking_back: World,
) -> None:
    world = looking_back
    landed(world, 0, 1, 3, 4, 5)
    built(world, 0, 1, 3, 4, 5)
    together, rows = stored(world).drop("_source"), Rows(world.state)
    dataset = stored(world, "customers/dataset")
    for number in (0, 1, 3, 4, 5):
        alone, _ = rows.build([key(number)])
        assert_frame_equal(alone, together.filter(_landing_partition=key(number)))
        past = rows.history([key(number)])
        assert past is not None
        own = dataset.filter(_landing_partition=key(number))
        for place in (0, 60, 119):
            row = own[place].drop("left", "_landing_partition")
            one = compute_features(row, {}, world.spec, world.dataset, past.before(key(number)))
            name = alone["_key"] == f"{own['day'][place]}|{own['id'][place]}"
            assert_frame_equal(one, alone.filter(name).select(one.columns))
    assert together.filter(_landing_partition=key(5))["rate"].null_count() == 0


def test_history_of_a_partition_still_to_come_is_what_has_landed(looking_back: World) -> None:
    landed(looking_back, 0, 1, 2)
    past = Rows(looking_back.state).history([key(3)])
    assert past is not None
    assert past.before(key(3))["_landing_partition"].unique().sort().to_list() == [key(1), key(2)]


def test_a_correction_rebuilds_what_looks_back_on_it(looking_back: World) -> None:
    world = looking_back
    world.land(*range(7))
    world.settle()
    world.land(2, slope=-2.0)
    runs = world.settle()
    assert [run.job for run in runs] == ["customers_ingest", "churn_monitor"]
    run = world.instance.get_run_by_id(runs[1].run_id)
    assert run is not None
    start, end = (run.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end"))
    assert (start, end) == (key(2), key(6))  # two look back, and their windows hold two more
    assert_frame_equal(
        Rows(world.state).build([key(4)])[0],
        stored(world).filter(_landing_partition=key(4)).drop("_source"),
    )


def test_another_delay_of_labels_rebuilds_features_with_history_alone(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    for made, changes in ((HISTORY, True), (MODEL["features"], False)):
        one, two = (
            new_world(tmp_path, instance, features=made, labels={"delay": delay})
            for delay in (0, 1)
        )
        landed(one, 0, 1, 2)
        first, second = one.state.sources(), two.state.sources()
        assert (first[key(2)] != second[key(2)]) is changes


def test_a_long_range_is_built_in_batches_and_written_as_one_commit(
    looking_back: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = looking_back
    landed(world, *range(6))
    built(world, *range(6))
    build_profiles(world.state, [key(n) for n in range(6)], "run")
    whole, profiles = stored(world), stored(world, "churn/profile")
    monkeypatch.setattr(rows_module, "BATCH_VALUES", 2500)
    assert [len(batch) for batch in Rows(world.state).batches([key(n) for n in range(6)])] == [
        2
    ] * 3
    before = world.storage.tables.version("churn/features")
    again = built(world, *range(6))
    build_profiles(world.state, [key(n) for n in range(6)], "run")
    assert again.version == (before or 0) + 1
    assert again.count == whole.height
    assert_frame_equal(stored(world), whole)
    assert_frame_equal(stored(world, "churn/profile"), profiles)


def test_nothing_to_build_says_what_to_do(world: World) -> None:
    with pytest.raises(NotReadyError, match="ingest them first"):
        built(world, 0, 1)


def test_an_empty_partition_is_built_and_monitored_among_others(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance)
    world.dataset = DatasetSpec.model_validate(DATASET | {"rows": {"min": 0}})
    days = [key(n) for n in range(5)]
    landed(world, 0, 1, 3)
    empty = tmp_path / "landing" / "customers" / f"{key(2)}.csv"
    customers(2).clear().write_csv(empty)
    ingest(world.storage, world.dataset, [key(2)], "run")
    for step in (build_features, build_profiles):
        step(world.state, days, "run")
    in_production(world, 0, 1, 1)
    monitor(world.state, days, "run")
    assert world.state.built() == world.state.sources()
    assert world.state.mature() == tuple(days[:4])
    rows = stored(world, "churn/monitoring").filter(pl.col("role") == "volume")
    assert rows["statistic"].to_list() == [120.0, 120.0, 0.0, 120.0]
    build_features(world.state, [key(2)], "run")
    # Rows that land before monitoring are built first.
    landed(world, 2)
    monitor(world.state, days, "run")
    assert key(2) not in world.state.built()


OUTLIERS = {"outliers": {"rate": 0.01, "max_share": 0.05}}


def flags(world: World, number: int) -> pl.Series:
    return stored(world).filter(_landing_partition=key(number))["_outlier"]


def test_outliers_are_judged_by_the_version_in_production_when_they_came(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance, **OUTLIERS)
    landed(world, *range(8))
    landed(world, 8, shift=6.0)
    in_production(world, 0, 5, 6)
    found = built(world, *range(9))
    assert flags(world, 6).null_count() == 120
    assert flags(world, 7).mean() < 0.05  # type: ignore[operator]
    assert flags(world, 8).mean() > 0.05  # type: ignore[operator]
    outliers = dict(found.summary.select("_landing_partition", "outliers").iter_rows())
    assert outliers[key(6)] is None
    assert outliers[key(8)] == flags(world, 8).mean()
    marked = flags(world, 8)
    in_production(world, 3, 8, 8)
    built(world, 8)
    assert flags(world, 8).equals(marked)


def test_outliers_are_kept_out_of_training_alone(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance, **OUTLIERS)
    landed(world, *range(4))
    in_production(world, 0, 2, 2)
    landed(world, 4, shift=6.0)
    built(world, *range(5))
    count = int(flags(world, 4).sum())
    assert count > 0
    keys = [key(3), key(4)]
    beside = int(flags(world, 3).sum())
    assert len(sample(world.state, keys, fitting=True).target) == 240
    world.spec = new_world(
        tmp_path, instance, outliers=OUTLIERS["outliers"] | {"action": "quarantine"}
    ).spec
    assert len(sample(world.state, keys, fitting=True).target) == 240 - count - beside
    assert len(sample(world.state, keys).target) == 240


def test_the_sample_for_outliers_is_bounded_and_always_the_same(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(tmp_path, instance, features=HISTORY)
    landed(world, *range(4))
    keys, rows = [key(n) for n in range(4)], Rows(world.state)
    found = rows.sample(keys, 100)
    assert found.height == 96
    assert set(found["_landing_partition"]) == set(keys)
    monkeypatch.setattr(rows_module, "BATCH_VALUES", 1)
    assert_frame_equal(rows.sample(keys, 100), found)
    whole, _ = rows.build(keys)
    assert_frame_equal(found, whole.join(found.select("_key"), on="_key", how="semi"))


def test_rows_unlike_training_are_named_from_stored_profiles(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance)
    landed(world, *range(7))
    days = [key(n) for n in range(7)]
    assert built(world, *range(7)).mismatches == []
    build_profiles(world.state, days, "run")
    in_production(world, 0, 5, 6)
    landed(world, 7)
    landed(world, 8, shift=9.0)
    for data in (tmp_path / "delta" / "churn" / "features").glob("*.parquet"):
        data.unlink()  # no stored row is read
    (case,) = built(world, 7, 8).mismatches
    assert (case["partition"], case["column"]) == (key(8), "x")
    assert case["finding"] == "beyond the range trained on"
    world.spec = new_world(
        tmp_path, instance, features={"sql": "SELECT x, 1 AS one FROM rows"}
    ).spec
    cases = {(case["column"], case["finding"]) for case in built(world, 7).mismatches}
    assert cases == {
        ("one", "one value alone"),
        ("one", "not trained on"),
        ("plan", "trained on, not there"),
    }


HOURLY: dict[str, Any] = {
    "name": "prices",
    "landing": "prices/{partition}.csv",
    "partition": {"by": "hour", "column": "at", "start": "2020-01-01T00"},
    "columns": {"at": {"type": "datetime"}, "plan": {"type": "text"}, "price": {"type": "float"}},
    "key": ["at", "plan"],
    "read": {"settle": "0s"},
}
TIMED = DATASET | {
    "partition": {"by": "day", "column": "at", "start": "2020-01-01"},
    "columns": {
        "at": {"type": "datetime"},
        "id": {"type": "int"},
        "plan": {"type": "text"},
        "left": {"type": "int", "known": "later"},
    },
    "key": ["id"],
}
PRICED: dict[str, Any] = {
    "lookups": {"prices": {"on": ["plan"], "as_of": "at", "lag": "1h", "tolerance": "3h"}},
    "features": {"sql": "SELECT prices_price AS price FROM rows"},
}


class Priced:
    """Days whose prices come by the hour."""

    def __init__(self, root: Path, instance: dg.DagsterInstance, prices: dict[str, Any]) -> None:
        self.world = new_world(root, instance)
        self.dataset = DatasetSpec.model_validate(TIMED)
        self.prices = DatasetSpec.model_validate(prices)
        spec = ModelSpec.model_validate(MODEL | PRICED)
        lookups = {"prices": self.prices}
        self.state = replace(self.world.state, spec=spec, dataset=self.dataset, lookups=lookups)

    def write(self, spec: DatasetSpec, name: str, rows: list[dict[str, object]]) -> None:
        folder = self.world.root / "landing" / spec.name
        folder.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(rows).write_csv(folder / f"{name}.csv")
        ingest(self.world.storage, spec, [name], "run")

    def day(self, number: int) -> None:
        rows = [
            {"at": f"{key(number)}T{hour:02}:30:00Z", "id": hour, "plan": "basic", "left": 0}
            for hour in range(24)
        ]
        self.write(self.dataset, key(number), rows)

    def price(self, name: str, *hours: datetime, value: float = 0.0) -> None:
        rows = [
            {"at": f"{at:%Y-%m-%dT%H}:00:00Z", "plan": "basic", "price": value + at.hour}
            for at in hours
        ]
        self.write(self.prices, name, rows)

    def found(self, number: int) -> list[float | None]:
        build_features(self.state, [key(number)], "run")
        table = self.state.tables.scan("churn/features").collect()
        rows = table.filter(_landing_partition=key(number))
        ids = rows["_key"].cast(pl.Int64)
        return rows.with_columns(ids.alias("id")).sort("id")["price"].to_list()  # type: ignore[no-any-return]


def hour(number: int, of_day: int) -> datetime:
    return datetime(2020, 1, 1 + number, of_day, tzinfo=UTC)


def test_a_day_is_complete_with_the_hours_its_rows_can_see(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    days = Priced(tmp_path, instance, HOURLY)
    days.day(0)
    for at in range(22):
        days.price(f"{key(0)}T{at:02}", hour(0, at))
    assert days.state.sources() == {}
    days.price(f"{key(0)}T22", hour(0, 22))
    assert list(days.state.sources()) == [key(0)]
    assert days.found(0) == [None, *map(float, range(23))]
    before = days.state.sources()
    days.price(f"{key(0)}T23", hour(0, 23), value=999.0)
    assert days.state.sources() == before  # within the lag of every row
    assert days.found(0)[-1] == 22.0
    days.price(f"{key(0)}T05", hour(0, 5), value=100.0)
    assert days.state.sources() != before
    assert days.found(0)[6:8] == [105.0, 6.0]


def test_a_late_row_changes_older_rows_where_as_of_is_its_time_and_none_where_it_is_its_delivery(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    days = Priced(tmp_path, instance, HOURLY)
    days.day(0)
    for at in range(24):
        days.price(f"{key(0)}T{at:02}", hour(0, at))
    before = days.found(0)
    # Measured at 5 and delivered at 9: first with the one, then with the other in `at`.
    for at in (9, 5):
        days.price(f"{key(0)}T{at:02}", hour(0, at), value=100.0 - at)
        after = days.found(0)
        assert [of_day for of_day in range(at + 1) if after[of_day] != before[of_day]] == []
        assert (before[at + 1], after[at + 1]) == (at, 100.0)


def test_hours_that_do_not_come_are_waited_for_only_so_long(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    days = Priced(tmp_path, instance, HOURLY)
    days.day(0)
    days.price(f"{key(0)}T00", hour(0, 0))
    assert days.state.sources() == {}
    days.day(1)
    assert list(days.state.sources()) == [key(0)]
    assert days.found(0)[:5] == [None, 0.0, 0.0, None, None]


def test_days_wait_for_their_month_and_are_rebuilt_with_it(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    monthly = HOURLY | {"partition": {"by": "month", "column": "at", "start": "2019-12"}}
    days = Priced(tmp_path, instance, monthly)
    days.day(0)
    days.price("2019-12", datetime(2019, 12, 31, 23, tzinfo=UTC))
    assert days.state.sources() == {}
    days.price("2020-01", *(hour(0, at) for at in range(24)))
    before = days.state.sources()
    assert list(before) == [key(0)]
    assert days.found(0)[:3] == [23.0, 0.0, 1.0]
    days.price("2019-12", datetime(2019, 12, 31, 23, tzinfo=UTC), value=100.0)
    assert days.state.sources() != before
    assert days.found(0)[:3] == [123.0, 0.0, 1.0]


def test_rows_joined_on_the_partition_see_and_wait_for_their_own(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    daily = HOURLY | {
        "partition": {"by": "value", "column": "plan", "values": ["a", "b"]},
        "columns": HOURLY["columns"],
        "key": ["plan"],
    }
    days = Priced(tmp_path, instance, daily)
    days.dataset = DatasetSpec.model_validate(
        TIMED | {"partition": {"by": "value", "column": "plan", "values": ["a", "b"]}}
    )
    joined = PRICED | {"lookups": {"prices": {"on": ["plan"]}}}
    spec = ModelSpec.model_validate(MODEL | joined)
    days.state = replace(days.state, spec=spec, dataset=days.dataset)

    def price(plan: str, value: float) -> None:
        row = {"at": f"{key(0)}T00:00:00Z", "plan": plan, "price": value}
        days.write(days.prices, plan, [row])

    for plan in ("a", "b"):
        row = {"at": f"{key(0)}T00:00:00Z", "id": 1, "plan": plan, "left": 0}
        days.write(days.dataset, plan, [row])
    price("a", 1.0)
    assert list(days.state.sources()) == ["a"]
    build_features(days.state, ["a"], "run")
    before = days.state.sources()
    price("b", 2.0)
    after = days.state.sources()
    assert list(after) == ["a", "b"]
    assert after["a"] == before["a"]
    build_features(days.state, ["a", "b"], "run")
    assert stored(days.world).select("_landing_partition", "price").rows() == [
        ("a", 1.0),
        ("b", 2.0),
    ]


def test_rows_without_a_time_find_nothing_in_a_lookup(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    days = Priced(tmp_path, instance, HOURLY)
    maker = Rows(days.state)
    days.day(0)
    days.price(f"{key(0)}T00", hour(0, 0))
    timeless = pl.DataFrame({"at": [None]}, schema={"at": pl.Datetime("us", "UTC")})
    assert maker.lookup("prices", timeless, [key(0)]).is_empty()


OUTCOMES: dict[str, Any] = {
    "name": "outcomes",
    "landing": "outcomes/{partition}.csv",
    "partition": {"by": "day", "column": "day", "start": "2020-01-01"},
    "columns": {
        "day": {"type": "date"},
        "id": {"type": "int"},
        "left": {"type": "int", "known": "later"},
        "plan": {"type": "text"},
    },
    "key": ["day", "id"],
    "read": {"settle": "0s"},
}


def test_a_label_that_is_corrected_on_a_later_day_replaces_the_first(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(
        tmp_path,
        instance,
        lookups={"outcomes": {"on": ["id"], "lateness": 0}},
        target={"column": "gone", "expression": "outcomes_left", "kind": "binary"},
        features={"sql": "SELECT x, plan FROM rows"},
    )
    spec = DatasetSpec.model_validate(OUTCOMES | {"key": ["id"]})
    state = replace(world.state, lookups={"outcomes": spec})
    landed(world, 0)
    (world.root / "landing" / "outcomes").mkdir()
    first = customers(0).select("day", "id", "left", "plan")
    corrected = first.head(1).with_columns(day=pl.lit(key(1)), left=1 - pl.col("left"))
    for number, rows in enumerate((first, corrected)):
        rows.write_csv(world.root / "landing" / "outcomes" / f"{key(number)}.csv")
        ingest(world.storage, spec, [key(number)], "run")
    build_features(state, [key(0)], "run")
    labels = dict(stored(world).select(pl.col("_key").str.split("|").list[1], "gone").iter_rows())
    expected = dict(first.select(pl.col("id").cast(pl.String), "left").iter_rows())
    changed = {name for name in expected if labels[name] != expected[name]}
    assert changed == {str(first["id"][0])}


def test_labels_may_come_later_as_a_dataset_of_their_own(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(
        tmp_path,
        instance,
        lookups={"outcomes": {"on": ["day", "id"], "lateness": 0}},
        target={"column": "gone", "expression": "1 - outcomes_left", "kind": "binary"},
        features={"sql": "SELECT x, plan FROM rows"},
    )
    spec = DatasetSpec.model_validate(OUTCOMES)
    assert list(find_model_mistakes(world.spec, world.dataset, {"outcomes": spec})) == []
    state = replace(world.state, lookups={"outcomes": spec})
    landed(world, 0, 1)

    def outcomes(number: int, kept: int) -> None:
        rows = customers(number).head(kept).select("day", "id", "left", "plan")
        (world.root / "landing" / "outcomes").mkdir(exist_ok=True, parents=True)
        rows.write_csv(world.root / "landing" / "outcomes" / f"{key(number)}.csv")
        ingest(world.storage, spec, [key(number)], "run")

    outcomes(0, 100)
    before = state.sources()
    build_features(state, [key(0), key(1)], "run")
    found = stored(world).select("_landing_partition", "gone", "x", "plan")
    expected = (1 - customers(0)["left"]).to_list()[:100]
    days = found.partition_by("_landing_partition", as_dict=True)
    assert sorted(days[key(0),]["gone"].drop_nulls()) == sorted(expected)
    assert days[key(0),]["gone"].null_count() == 20
    assert days[key(1),]["gone"].null_count() == 120
    outcomes(1, 120)
    assert state.sources()[key(1)] != before[key(1)], "what has come is built again"
    assert state.sources()[key(0)] == before[key(0)]
    sees = MODEL | {"lookups": {"outcomes": {"on": ["day", "id"]}}}
    leaking = ModelSpec.model_validate(
        sees | {"features": {"sql": "SELECT outcomes_left FROM rows"}}
    )
    (told,) = find_model_mistakes(leaking, world.dataset, {"outcomes": spec})
    assert told[0] == ("features", "sql")


def test_a_landing_of_a_lookup_rebuilds_only_the_partitions_that_have_one_of_its_keys(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance, lookups={"outcomes": {"on": ["id"]}})
    spec = DatasetSpec.model_validate(OUTCOMES | {"key": ["id"]})
    state = replace(world.state, lookups={"outcomes": spec})
    for name in ("customers", "outcomes"):
        (world.root / "landing" / name).mkdir(parents=True)
    for number in range(3):
        part = customers(number).with_columns(id=pl.col("id") + 1000 * number)
        part.write_csv(world.root / "landing" / "customers" / f"{key(number)}.csv")
    ingest(world.storage, world.dataset, [key(number) for number in range(3)], "run")

    def deliver(number: int, ids: int) -> set[str]:
        before = state.sources()
        part = customers(number).with_columns(id=pl.col("id") + ids)
        path = world.root / "landing" / "outcomes" / f"{key(number)}.csv"
        part.select("day", "id", "left", "plan").write_csv(path)
        ingest(world.storage, spec, [key(number)], "run")
        return {name for name, source in state.sources().items() if before.get(name) != source}

    assert deliver(0, 0) == {key(0), key(1), key(2)}
    assert deliver(1, 1000) == {key(1)}
    assert deliver(2, 2000) == {key(2)}
    assert deliver(1, 2000) == {key(1), key(2)}, "its rows had keys of one and have keys of another"
