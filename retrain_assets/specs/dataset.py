"""The YAML of a `LandedDataset`: where its files land, what a sound row is, how it is partitioned.

Not here: reading files, checking rows, Dagster.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Literal
from zoneinfo import available_timezones

from pydantic import Field, field_validator, model_validator

from retrain_assets.specs.base import Name, Spec

ColumnType = Literal["int", "float", "bool", "category", "text", "date", "datetime"]
FileFormat = Literal["csv", "jsonl", "parquet"]
_KEYS = {"day": ("%Y-%m-%d", "2013-01-31"), "month": ("%Y-%m", "2013-01")}


class ColumnSpec(Spec):
    """One column of the landing files and the rules its values keep."""

    type: ColumnType = Field(
        description="`category` and `text` are strings; `datetime` is stored in UTC."
    )
    required: bool = Field(False, description="A null value sends the row to quarantine.")
    allowed: list[str] | None = Field(None, description="The only values a category may take.")
    min: float | None = Field(None, allow_inf_nan=False, description="Smallest value, inclusive.")
    max: float | None = Field(None, allow_inf_nan=False, description="Largest value, inclusive.")
    known: Literal["before", "later"] = Field(
        "before",
        description="`later`: not known when the prediction is made, so no feature can see it.",
    )

    @model_validator(mode="after")
    def _rules_fit_the_type(self) -> ColumnSpec:
        if self.allowed is not None and self.type not in ("category", "text"):
            raise ValueError(f"`allowed` needs type category or text, not {self.type}")
        if (self.min is not None or self.max is not None) and self.type not in ("int", "float"):
            raise ValueError(f"`min` and `max` need type int or float, not {self.type}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class PartitionSpec(Spec):
    """How rows and files divide into the unit that is replaced, monitored and resampled."""

    by: Literal["day", "month", "none"] = Field(
        description="`none`: each delivery replaces the whole dataset."
    )
    column: str | None = Field(
        None, description="The date or datetime column that says which partition a row is of."
    )
    start: str | None = Field(None, description="First partition, as `2013-01-01`.")
    end: str | None = Field(None, description="Last partition, where the dataset is closed.")
    timezone: str = Field("UTC", description="The time zone in which a day or month begins.")

    @field_validator("timezone")
    @classmethod
    def _timezone_exists(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(f"unknown time zone {value!r}: use an IANA name such as Europe/Paris")
        return value

    @model_validator(mode="after")
    def _dated_partitions_are_complete(self) -> PartitionSpec:
        given = self.column is not None and self.start is not None
        if self.by != "none" and not given:
            raise ValueError(f"partitions by {self.by} need both `column` and `start`")
        if self.by == "none" and (self.column or self.start):
            raise ValueError("`by: none` takes neither `column` nor `start`")
        for bound in filter(None, (self.start, self.end)):
            _check_key(self.by, bound)
        if self.start and self.end and self.end < self.start:
            raise ValueError(f"end {self.end} is before start {self.start}")
        return self


def _check_key(by: str, key: str) -> None:
    pattern, example = _KEYS[by]
    try:
        parsed = datetime.strptime(key, pattern).strftime(pattern)  # noqa: DTZ007 a key
    except ValueError:
        parsed = None
    if parsed != key:
        raise ValueError(f"{key!r} is no {by}: write it as {example}")


class ReadSpec(Spec):
    """How the bytes of a landing file become columns."""

    delimiter: str = Field(",", min_length=1, max_length=1, description="CSV field separator.")
    nulls: list[str] = Field([""], description="CSV words that mean: no value.")
    rename: dict[str, str] = Field({}, description="Name in the file: name in `columns`.")


class QuarantineSpec(Spec):
    """How much may be refused before a whole file is."""

    max_fraction: float = Field(
        0.05, ge=0, le=1, description="Above this share of refused rows, the file is refused whole."
    )


class RowsSpec(Spec):
    """How many rows a partition may hold."""

    min: int = Field(1, ge=0, description="Fewest rows of a sound partition.")
    max: int | None = Field(None, ge=1, description="Most rows of a sound partition.")


class ExpectationSpec(Spec):
    """A further Great Expectations rule on the accepted rows, by its own name."""

    type: str = Field(
        pattern=r"^expect_[a-z0-9_]+$",
        description="Such as `expect_column_mean_to_be_between`.",
    )
    kwargs: dict[str, Any] = Field({}, description="The expectation's own arguments.")


class DatasetSpec(Spec):
    """One source of data: its landing files, contract and partitions."""

    name: Name = Field(description="Group and first part of the asset keys.")
    landing: str = Field(
        description="Path of the files below `landing/`, such as `flights/{partition}.parquet`; "
        "`*` matches within one name. The ending says the format: csv, jsonl, parquet."
    )
    read: ReadSpec = Field(ReadSpec(), description="Options of the reader.")
    partition: PartitionSpec = Field(description="How the dataset is partitioned.")
    columns: dict[str, ColumnSpec] = Field(min_length=1, description="The contract, by column.")
    key: list[str] = Field(min_length=1, description="Columns that together name one row.")
    quarantine: QuarantineSpec = Field(QuarantineSpec(), description="Bound on refused rows.")
    rows: RowsSpec = Field(RowsSpec(), description="Bound on the rows of a partition.")
    expectations: list[ExpectationSpec] = Field([], description="Further expectations.")

    @property
    def format(self) -> FileFormat:
        """The file format, from the ending of `landing`."""
        return PurePosixPath(self.landing).suffix.removeprefix(".")  # type: ignore[return-value]

    @field_validator("landing")
    @classmethod
    def _landing_stays_below_its_root(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or "\x00" in value:
            raise ValueError(f"{value!r} leaves the landing folder: give a path below it")
        if path.suffix not in (".csv", ".jsonl", ".parquet"):
            raise ValueError(f"{value!r} must end in .csv, .jsonl or .parquet")
        return value

    @model_validator(mode="after")
    def _columns_are_declared(self) -> DatasetSpec:
        reserved = [name for name in self.columns if name.startswith("_")]
        if reserved:
            raise ValueError(f"columns may not start with an underscore: {', '.join(reserved)}")
        for where, names in (("key", self.key), ("partition.column", [self.partition.column])):
            unknown = [name for name in names if name is not None and name not in self.columns]
            if unknown:
                raise ValueError(f"{where}: {', '.join(unknown)} not among `columns`")
        dated = self.partition.column
        if dated and self.columns[dated].type not in ("date", "datetime"):
            raise ValueError(f"partition.column {dated} must be of type date or datetime")
        if self.partition.by != "none" and "{partition}" not in self.landing:
            raise ValueError(f"landing {self.landing!r} must say where {{partition}} stands")
        return self
