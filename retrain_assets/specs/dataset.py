"""The YAML of a `LandedDataset`: where its files land, what a sound row is, how it is partitioned.

Not here: reading files, checking rows, Dagster.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from retrain_assets.specs.base import Duration, NamedSpec, Spec, hint
from retrain_assets.specs.notify import NotifySpec
from retrain_assets.specs.partition import PartitionSpec

ColumnType = Literal["int", "float", "bool", "category", "text", "date", "datetime"]
Format = Literal["csv", "jsonl", "parquet", "delta"]
_LONGEST_NAME = 255
_OBJECT_STORES = ("s3", "gs", "az", "abfs", "abfss")
_SCHEMES = (*_OBJECT_STORES, "file")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
Encoding = Literal["utf-8", "utf-16", "latin-1", "cp1252"]


class OutlierSpec(Spec):
    """The values of a column that are unusual among the values of their partition."""

    robust_z: float = Field(
        gt=0,
        description="An outlier is more than this many standard deviations (estimated by the "
        "median absolute deviation) from the median.",
    )
    action: Literal["flag", "quarantine"] = Field(
        "flag", description="`flag` counts the rows; `quarantine` refuses them."
    )
    max_share: float = Field(0.01, ge=0, le=1, description="Above this share, the check warns.")


class ColumnSpec(Spec):
    """One column of the landing files, and the rules for its values."""

    type: ColumnType = Field(
        description="`category` and `text` are strings; `datetime` is stored in UTC."
    )
    required: bool = Field(False, description="A null value sends the row to quarantine.")
    allowed: list[str] | None = Field(
        None, min_length=1, description="The only values a category may take."
    )
    min: float | None = Field(None, description="Smallest value, inclusive.")
    max: float | None = Field(None, description="Largest value, inclusive.")
    pattern: str | None = Field(
        None,
        max_length=500,
        description="Regular expression that must match the whole text; only literals, sets, "
        "groups, counts and `\\d \\w \\s` (ASCII), because all engines read these alike.",
    )
    outliers: OutlierSpec | None = Field(None, description="Which numbers lie far out.")
    personal: bool = Field(
        False, description="Mask the values in quarantine, logs, metadata and reports."
    )
    expression: str | None = Field(
        None,
        description="SQL over the other columns and `_line` (the line number, from 1). The column "
        "is then computed and not read from the file.",
    )
    known: Literal["before", "later"] = Field(
        "before",
        description="`later`: not yet known when predicting, so no feature may use it.",
    )

    @model_validator(mode="after")
    def _rules_fit_the_type(self) -> ColumnSpec:
        if self.allowed is not None and self.type not in ("category", "text"):
            raise ValueError(f"`allowed` needs type category or text, not {self.type}")
        if self.pattern is not None and self.type not in ("category", "text"):
            raise ValueError(f"`pattern` needs type category or text, not {self.type}")
        bounded = self.min is not None or self.max is not None or self.outliers is not None
        if bounded and self.type not in ("int", "float"):
            raise ValueError(f"`min`, `max` and `outliers` need type int or float, not {self.type}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class ReadSpec(Spec):
    """How a landing file is read into columns."""

    header: list[str] | None = Field(
        None, min_length=1, description="Column names of a CSV that has no header line, in order."
    )
    delimiter: str = Field(",", min_length=1, max_length=1, description="CSV field separator.")
    decimal: Literal[".", ","] = Field(".", description="Decimal mark of CSV numbers.")
    trim: bool = Field(False, description="Leave out spaces around CSV values.")
    nulls: list[str] = Field([""], description="CSV words that mean: no value.")
    encoding: Encoding = Field("utf-8", description="Encoding of CSV and JSONL.")
    date_format: dict[str, str] = Field(
        {},
        description="By column: how a date or datetime is written, such as `%m/%d/%y`; ISO 8601 by "
        "default. A time without an offset is a local time in `partition.timezone`.",
    )
    rename: dict[str, str] = Field(
        {}, description='From the name in the file (`""`: no name) to that in `columns`.'
    )
    max_bytes: int = Field(
        2**30, ge=1, description="A larger file (of parquet, also when unpacked) is refused."
    )
    settle: Duration = Field(
        "5s", description="A file is not read until it is unchanged for this time."
    )

    @model_validator(mode="after")
    def _marks_differ(self) -> ReadSpec:
        if self.delimiter in ('"', "\r", "\n", "," if self.decimal == "," else ""):
            raise ValueError(
                f"delimiter: {self.delimiter!r} is a quote, a line's end or the decimal mark: "
                "use another, such as ;"
            )
        return self


class QuarantineSpec(Spec):
    """How many rows may be refused."""

    max_fraction: float = Field(
        0.05, ge=0, le=1, description="Above this share of refused rows, the file is refused whole."
    )


class RowsSpec(Spec):
    """How many rows a partition may hold."""

    min: int = Field(1, ge=0, description="Fewest rows that are accepted.")
    max: int | None = Field(None, ge=1, description="Most rows that are accepted.")
    typical: float | None = Field(
        None,
        gt=0,
        description="Warn if the number of rows differs from the median of the 28 partitions "
        "before by more than this share of it.",
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> RowsSpec:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self


class ExpectationSpec(Spec):
    """An expectation of Great Expectations on the accepted rows, under its own name."""

    type: str = Field(
        pattern=r"^expect_[a-z0-9_]+$",
        description="Such as `expect_column_mean_to_be_between`. For numbers, with only `column` "
        "and bounds: mean, median, min, max, sum, stdev, unique value count and proportion of "
        "unique values are checked for each partition. All others are checked on the accepted rows "
        "of a run, or on a sample of some 50,000.",
    )
    kwargs: dict[str, Any] = Field({}, description="The arguments of the expectation.")


TAGGED = ("dataset", "features")  # each version of a model is tagged with versions of these


class DatasetSpec(NamedSpec):
    """One source of data: its landing files, contract and partitions."""

    landing: str | None = Field(
        None,
        description="Path of the files below `landing/`, such as `flights/{partition}.parquet`, or "
        "in an object store (s3, gs, az, abfs), such as `s3://bucket/flights/{partition}.parquet`. "
        "`*` matches within one name. Without `{partition}`, a file may hold rows of many "
        "partitions. The ending sets the format: csv, jsonl, parquet.",
    )
    delta: str | None = Field(
        None,
        description="Path or URI of an existing Delta table that is read instead of files; each "
        "new version of it is new data.",
    )
    read: ReadSpec = Field(ReadSpec(), description="How files are read.")
    partition: PartitionSpec = Field(description="How the dataset is divided into partitions.")
    columns: dict[str, ColumnSpec] = Field(min_length=1, description="The columns and their rules.")
    key: list[str] = Field(min_length=1, description="Columns that together identify one row.")
    quarantine: QuarantineSpec = Field(QuarantineSpec(), description="Bound on refused rows.")
    rows: RowsSpec = Field(RowsSpec(), description="Bounds on the rows of a partition.")
    expectations: list[ExpectationSpec] = Field([], description="Further expectations.")
    expected: Duration | None = Field(
        None, description="A partition that lands later than this after its end is reported."
    )
    notify: NotifySpec = Field(
        NotifySpec(), description="Who receives messages about refused and late data."
    )

    @property
    def bucket(self) -> str | None:
        """The object store that files land in, as `s3://bucket`; None below the landing folder."""
        scheme, separator, rest = (self.landing or "").partition("://")
        return f"{scheme}://{rest.partition('/')[0]}" if separator else None

    @property
    def pattern(self) -> PurePosixPath:
        """How files are named, below the landing folder or in the bucket."""
        return PurePosixPath((self.landing or "")[len(self.bucket or "") :].lstrip("/"))

    @property
    def format(self) -> Format:
        """What is read: the ending of `landing`, or a Delta table."""
        if self.landing is None:
            return "delta"
        return self.pattern.suffix.removeprefix(".")  # type: ignore[return-value]

    @property
    def is_typed(self) -> bool:
        """Whether values come with types rather than as text."""
        return self.format in ("parquet", "delta")

    @property
    def is_split(self) -> bool:
        """Whether one file may hold rows of many partitions, so that its rows say which."""
        return self.partition.by != "none" and "{partition}" not in (self.landing or "")

    @property
    def file_columns(self) -> dict[str, ColumnSpec]:
        """The columns that stand in a file."""
        return {name: column for name, column in self.columns.items() if column.expression is None}

    @field_validator("landing")
    @classmethod
    def _landing_stays_below_its_root(cls, value: str | None) -> str | None:
        if value is None:
            return None
        scheme, separator, rest = value.partition("://")
        bucket, _, below = rest.partition("/")
        if separator and scheme not in _OBJECT_STORES:
            near = ", ".join(_OBJECT_STORES)
            raise ValueError(f"files cannot land in {scheme!r}: use a path or {near}")
        if separator and _BUCKET.fullmatch(bucket) is None:
            raise ValueError(f"{bucket!r} is no bucket: write {scheme}://bucket/path")
        path = PurePosixPath(below if separator else value)
        if path.is_absolute() or ".." in path.parts or "\x00" in value:
            raise ValueError(f"{value!r} leaves the landing folder: give a path below it")
        if path.suffix not in (".csv", ".jsonl", ".parquet"):
            raise ValueError(f"{value!r} must end in .csv, .jsonl or .parquet")
        if set("{}") & set(value.replace("{partition}", "")):
            raise ValueError(f"{value!r} has a placeholder that is not {{partition}}")
        return value

    @field_validator("delta")
    @classmethod
    def _scheme_is_known(cls, value: str | None) -> str | None:
        scheme, separator, _ = (value or "").partition("://")
        if separator and scheme not in _SCHEMES:
            raise ValueError(f"cannot read {scheme!r}: use a path or {', '.join(_SCHEMES)}")
        return value

    @field_validator("name")
    @classmethod
    def _is_no_tag(cls, name: str) -> str:
        if name in TAGGED:
            raise ValueError(f"{name} is what versions of models record: use another")
        return name

    @model_validator(mode="after")
    def _columns_are_declared(self) -> DatasetSpec:
        if (self.landing is None) == (self.delta is None):
            raise ValueError("give either `landing` or `delta`")
        for name in self.columns:
            if name.startswith("_") or not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME:
                raise ValueError(
                    f"columns: {name!r} cannot name a column: use 1 to {_LONGEST_NAME} "
                    "printable characters that do not start with an underscore"
                )
        dated = list(self.read.date_format)
        named: dict[str, list[str | None]] = {
            "key": [*self.key],
            "partition.column": [self.partition.column],
            "read.date_format": [*dated],
            "read.rename": [*self.read.rename.values()],
        }
        for where, names in named.items():
            unknown = [name for name in names if name is not None and name not in self.columns]
            if unknown:
                near = hint(unknown[0], self.columns)
                raise ValueError(f"{where}: {unknown[0]!r} is not among `columns`{near}")
        timed = [name for name in dated if self.columns[name].type not in ("date", "datetime")]
        if timed:
            raise ValueError(f"read.date_format: {timed[0]!r} is neither date nor datetime")
        if self.expected is not None and self.partition.period is None:
            raise ValueError(f"expected: partitions by {self.partition.by} have no end")
        if self.partition.by == "none" and "{partition}" in (self.landing or ""):
            raise ValueError("landing: there is no {partition} where partitions are by none")
        if not self.file_columns:
            raise ValueError("all columns are derived: at least one must stand in the file")
        self._check_partition_column()
        return self

    def _check_partition_column(self) -> None:
        partition = self.partition
        if partition.column is None:
            return
        found = self.columns[partition.column].type
        wanted: tuple[str, ...] = ("date", "datetime")
        if partition.by == "hour":
            wanted = ("datetime",)
        elif partition.by == "value":
            wanted = ("int",) if partition.values is None else ("category", "text")
        if found not in wanted:
            raise ValueError(
                f"partition.column: {partition.column} is of type {found}; partitions by "
                f"{partition.by} need {' or '.join(wanted)}"
            )
