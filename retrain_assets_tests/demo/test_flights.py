"""The flights land as their contract says, whole, and only once."""

from __future__ import annotations

import json
import zipfile
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest

import retrain_assets
from retrain_assets.demo import flights as demo
from retrain_assets.demo.flights import Flights, FlightsNotInstalledError
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.yaml import load_strictly

YAML = Path(retrain_assets.__file__).parent / "defs" / "flight_delay" / "defs.yaml"
STORED = {
    "int": pl.Int64,
    "float": pl.Float64,
    "category": pl.String,
    "text": pl.String,
    "date": pl.Date,
    "datetime": pl.Datetime("us", "UTC"),
}
DAYS = ("2013-03-10", "2013-11-03")
APRIL = [f"2013-04-{day:02}" for day in range(1, 31)]


@pytest.fixture(scope="module")
def flights() -> Flights:
    return Flights.load()


@pytest.fixture(scope="module")
def contracts() -> dict[str, DatasetSpec]:
    documents = [
        document.value["attributes"]
        for document in load_strictly(YAML)
        if document.value["type"].endswith("LandedDataset")
    ]
    return {document["name"]: DatasetSpec.model_validate(document) for document in documents}


def source(name: str) -> pl.DataFrame:
    folder = demo._package_folder() / "data"
    if name == "flights.csv":
        content: bytes | Path = zipfile.ZipFile(folder / "flights.csv.zip").read(name)
    else:
        content = folder / name
    return pl.read_csv(content, infer_schema=False, null_values=["NA"])


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in found
    }


def test_flights_are_typed_as_their_contract_says(
    flights: Flights, contracts: dict[str, DatasetSpec], tmp_path: Path
) -> None:
    flights.drop(tmp_path, DAYS)
    expected = {name: STORED[column.type] for name, column in contracts["flights"].columns.items()}
    for day in DAYS:
        landed = pl.read_parquet(tmp_path / contracts["flights"].landing.format(partition=day))
        assert dict(landed.schema) == expected
        assert landed["flight_date"].unique().to_list() == [date.fromisoformat(day)]
        assert landed["dep_time"].null_count() > 0


def test_weather_and_planes_have_the_columns_of_their_contract(
    flights: Flights, contracts: dict[str, DatasetSpec], tmp_path: Path
) -> None:
    flights.drop(tmp_path, DAYS)
    (planes,) = flights.drop_planes(tmp_path)
    weather = pl.read_csv(tmp_path / contracts["weather"].landing.format(partition=DAYS[0]))
    assert set(weather.columns) == set(contracts["weather"].columns)
    assert planes == tmp_path / contracts["planes"].landing
    assert set(pl.read_ndjson(planes).columns) == set(contracts["planes"].columns)


def test_what_the_source_does_not_know_lands_as_no_value(flights: Flights, tmp_path: Path) -> None:
    flights.drop(tmp_path, DAYS)
    (planes,) = flights.drop_planes(tmp_path)
    text = (tmp_path / "weather" / f"{DAYS[0]}.csv").read_text(encoding="utf-8")
    assert ",," in text
    assert "NA" not in text
    years = [json.loads(line)["year"] for line in planes.read_text(encoding="utf-8").splitlines()]
    assert years.count(None) == source("planes.csv")["year"].null_count() > 0
    assert {type(year) for year in years} == {int, type(None)}


def test_files_land_whole_and_under_their_final_names_only(
    flights: Flights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    replace = Path.replace

    def spy(unfinished: Path, final: Path) -> Path:
        seen.append(sorted(files(tmp_path)))
        pl.read_parquet(unfinished)
        return replace(unfinished, final)

    monkeypatch.setattr(Path, "replace", spy)
    (landed,) = flights.drop(tmp_path, ["2013-12-31"])
    assert [name.endswith(".part") for names in seen for name in names] == [True]
    assert list(files(tmp_path)) == [str(landed.relative_to(tmp_path))]


def test_a_delivery_that_breaks_off_leaves_nothing_to_be_read(
    tmp_path: Path, flights: Flights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Path, __: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            flights.drop(tmp_path, DAYS)
    assert [name for name in files(tmp_path) if not name.endswith(".part")] == []
    assert len(flights.drop(tmp_path, DAYS)) == 4
    assert [name for name in files(tmp_path) if name.endswith(".part")] == []


def test_days_dropped_again_are_left_untouched(flights: Flights, tmp_path: Path) -> None:
    flights.drop(tmp_path, DAYS)
    flights.drop_planes(tmp_path)
    before = files(tmp_path)
    assert flights.drop(tmp_path, DAYS) == flights.drop_planes(tmp_path) == []
    assert files(tmp_path) == before


def test_the_same_days_are_the_same_bytes_elsewhere(flights: Flights, tmp_path: Path) -> None:
    for folder, loaded in (("one", flights), ("other", Flights.load())):
        loaded.drop(tmp_path / folder, DAYS)
        loaded.drop_planes(tmp_path / folder)
    one, other = files(tmp_path / "one"), files(tmp_path / "other")
    assert len(one) == 5
    assert {name: content for name, (content, _) in one.items()} == {
        name: content for name, (content, _) in other.items()
    }


def test_a_corrected_file_is_not_overwritten(flights: Flights, tmp_path: Path) -> None:
    corrected = tmp_path / "weather" / f"{DAYS[0]}.csv"
    corrected.parent.mkdir()
    corrected.write_text("corrected", encoding="utf-8")
    assert flights.drop(tmp_path, DAYS[:1]) == [tmp_path / "flights" / f"{DAYS[0]}.parquet"]
    assert corrected.read_text(encoding="utf-8") == "corrected"


def test_a_month_has_every_row_of_the_source(flights: Flights, tmp_path: Path) -> None:
    flights.drop(tmp_path, APRIL)
    landed = pl.read_parquet(tmp_path / "flights" / "*.parquet")
    of_source = source("flights.csv").filter(pl.col("month") == "4")
    assert landed.height == of_source.height > 25_000
    for column in ("distance", "arr_delay", "sched_dep_time"):
        assert landed[column].sum() == of_source[column].cast(pl.Float64).sum()
    weather = pl.read_csv(tmp_path / "weather" / "*.csv")
    assert weather.height == source("weather.csv").filter(pl.col("month") == "4").height


@pytest.mark.parametrize("day", DAYS)
def test_a_weather_day_is_the_day_in_new_york(flights: Flights, tmp_path: Path, day: str) -> None:
    flights.drop(tmp_path, [day])
    hours = pl.read_csv(tmp_path / "weather" / f"{day}.csv", infer_schema=False)["time_hour"]
    moments = [datetime.fromisoformat(hour) for hour in hours]
    assert {str(moment.date()) for moment in moments} != {day}
    assert {str(m.astimezone(ZoneInfo("America/New_York")).date()) for m in moments} == {day}


def test_the_hour_that_the_clocks_repeat_lands_twice_and_stays_two_hours(
    flights: Flights, tmp_path: Path
) -> None:
    flights.drop(tmp_path, ["2013-11-03"])
    weather = pl.read_csv(tmp_path / "weather" / "2013-11-03.csv", try_parse_dates=True)
    local = weather["time_hour"].dt.convert_time_zone("America/New_York")
    assert (local.dt.hour() == 1).sum() == 2 * 3
    assert weather.select("origin", "time_hour").is_unique().all()


def test_the_year_is_whole_but_for_the_weather_of_its_last_day(flights: Flights) -> None:
    assert (len(flights.days), flights.days[0], flights.days[-1]) == (
        365,
        "2013-01-01",
        "2013-12-31",
    )
    assert [day for day in flights.days if day not in flights.weather] == ["2013-12-31"]


def test_a_day_without_flights_is_refused_before_anything_lands(
    flights: Flights, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"no flights on '2014-01-01'.*2013-12-31"):
        flights.drop(tmp_path, ["2013-01-01", "2014-01-01"])
    assert files(tmp_path) == {}


def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    with pytest.raises(FlightsNotInstalledError, match=r"pip install 'retrain-assets\[demo\]'"):
        Flights.load()
