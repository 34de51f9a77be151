"""Landed files become versioned partitions; what is refused is kept, named, and harms nobody."""

from __future__ import annotations

import re

import dagster as dg
import polars as pl
import pytest

from retrain_assets.orchestration.partitions import range_tags
from retrain_assets.steps.data.ingest import NothingLandedError, ingest
from retrain_assets_tests.world import World, customers, key

DATASET = dg.AssetKey(["customers", "dataset"])
FOLDER = "landing/customers"


def ingested(world: World, first: int, last: int) -> dg.ExecuteInProcessResult:
    job = world.definitions.resolve_job_def("customers_ingest")
    return job.execute_in_process(instance=world.instance, tags=range_tags(key(first), key(last)))


def failed_checks(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    evaluations = result.get_asset_check_evaluations()
    return {found.check_name: found.severity.value for found in evaluations if not found.passed}


def rows(world: World, table: str = "dataset") -> pl.DataFrame:
    return world.storage.tables.scan(f"customers/{table}").collect()


def test_a_range_is_one_commit_and_every_check_passes(world: World) -> None:
    world.land(*range(5))
    result = ingested(world, 0, 4)
    assert result.success
    assert failed_checks(result) == {}
    assert len(result.get_asset_check_evaluations()) == 10
    assert world.storage.tables.version("customers/dataset") == 0
    assert rows(world).height == 5 * 120
    assert world.instance.get_materialized_partitions(DATASET) == {key(n) for n in range(5)}


def broken(world: World, number: int, **values: list[object]) -> None:
    """Deliver a day whose first rows hold bad values."""
    frame = customers(number).with_columns(pl.all().cast(pl.String))
    for column, bad in values.items():
        kept = frame[column].to_list()[len(bad) :]
        frame = frame.with_columns(pl.Series(column, [*bad, *kept], dtype=pl.String))
    (world.root / FOLDER).mkdir(parents=True, exist_ok=True)
    frame.write_csv(world.root / FOLDER / f"{key(number)}.csv")


@pytest.mark.parametrize(
    ("check", "column", "value"),
    [
        ("schema_matches", "x", "1,5"),
        ("schema_matches", "day", "2020-02-01"),
        ("required_values_present", "id", ""),
        ("values_within_range", "x", "101"),
        ("categories_allowed", "plan", "gold"),
    ],
)
def test_each_rule_refuses_its_own_row(world: World, check: str, column: str, value: str) -> None:
    broken(world, 0, **{column: [value]})
    result = ingested(world, 0, 0)
    assert failed_checks(result)[check] == "WARN"
    assert rows(world).height == 119
    reason = rows(world, "quarantine")["_reasons"].to_list()[0][0]
    assert (reason["column"], reason["value"] or "") == (column, value)


def test_a_repeated_key_is_refused(world: World) -> None:
    broken(world, 0, id=["5"])
    assert failed_checks(ingested(world, 0, 0)) == {"keys_unique": "WARN"}
    assert rows(world).height == 118


def test_a_file_with_too_many_bad_rows_is_refused_whole_and_its_neighbours_are_not(
    world: World,
) -> None:
    world.land(0, 2)
    broken(world, 1, x=["bad"] * 30)
    result = ingested(world, 0, 2)
    assert result.success
    assert failed_checks(result)["schema_matches"] == "ERROR"
    assert world.instance.get_materialized_partitions(DATASET) == {key(0), key(2)}
    assert set(rows(world)["_landing_partition"]) == {key(0), key(2)}
    record = rows(world, "quarantine").row(0, named=True)
    assert record["_line"] is None
    assert "2020-01-02.csv" in record["_file"]


def test_a_refused_correction_leaves_the_earlier_content(world: World) -> None:
    world.land(0)
    ingested(world, 0, 0)
    before = rows(world).sort("id")
    broken(world, 0, x=["bad"] * 30)
    ingested(world, 0, 0)
    assert rows(world).sort("id").equals(before)
    assert set(world.state.sources()) == {key(0)}


def test_a_corrected_file_replaces_its_partition_and_empties_its_quarantine(world: World) -> None:
    broken(world, 0, x=["bad"])
    ingested(world, 0, 0)
    assert rows(world, "quarantine").height == 1
    world.land(0)
    ingested(world, 0, 0)
    assert (rows(world).height, rows(world, "quarantine").height) == (120, 0)
    assert world.storage.tables.scan("customers/dataset", version=0).collect().height == 119


def test_volume_out_of_range_refuses_the_partition(world: World) -> None:
    world.dataset = world.dataset.model_copy(
        update={"rows": world.dataset.rows.model_copy(update={"min": 100})}
    )
    world.land(0)
    world.land(1, rows=50)
    result = ingested(world, 0, 1)
    assert failed_checks(result)["volume_within_range"] == "ERROR"
    assert set(rows(world)["_landing_partition"]) == {key(0)}


def test_an_expectation_of_the_yaml_refuses_the_partition(world: World) -> None:
    expectation = {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "x", "max_value": 50},
    }
    given = type(world.dataset).model_validate(
        world.dataset.model_dump(exclude_unset=True) | {"expectations": [expectation]}
    )
    world.dataset = given
    world.land(0)
    broken(world, 1, x=["60"])
    result = ingested(world, 0, 1)
    assert failed_checks(result)["accepted_rows_pass_great_expectations"] == "ERROR"
    assert set(rows(world)["_landing_partition"]) == {key(0)}


def test_the_same_files_twice_give_the_same_table(world: World) -> None:
    world.land(0, 1)
    ingested(world, 0, 1)
    first = rows(world).sort("day", "id")
    ingested(world, 0, 1)
    assert rows(world).sort("day", "id").equals(first)


def test_a_partition_without_a_file_says_what_is_missing(world: World) -> None:
    with pytest.raises(NothingLandedError, match=re.escape("customers/{partition}.csv")):
        ingest(world.storage, world.dataset, [key(3)], "run")


def test_the_landing_file_is_never_changed(world: World) -> None:
    broken(world, 0, x=["bad"] * 60)
    path = world.root / FOLDER / f"{key(0)}.csv"
    before = path.read_bytes()
    ingested(world, 0, 0)
    assert path.read_bytes() == before
