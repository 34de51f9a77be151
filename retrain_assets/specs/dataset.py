"""The YAML of a `LandedDataset`: where its files land, what a sound row is, how it is partitioned.

Not here: reading files, checking rows, and Dagster.
"""

import re
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, field_validator

from retrain_assets.specs.base import Duration, Mistakes, NamedSpec, Spec, hint
from retrain_assets.specs.notify import NotifySpec
from retrain_assets.specs.partition import PartitionSpec
from retrain_assets.specs.sql import SqlSpec

ColumnType = Literal["int", "float", "bool", "category", "text", "date", "datetime"]
Format = Literal["csv", "jsonl", "parquet", "delta", "iceberg"]
Encoding = Literal["utf-8", "utf-16", "latin-1", "cp1252"]
TAGGED = ("dataset", "features")  # each version of a model is tagged with versions of these
_LONGEST_NAME = 255
_OBJECT_STORES = ("s3", "gs", "az", "abfs", "abfss")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")


class OutlierSpec(Spec):
    """The rule by which values lie far from the other values of their partition.

    Args:
        robust_z: Robust standard deviations from the median beyond which a value is far out.
        action: `flag` counts the rows; `quarantine` refuses them.
        max_share: Above this share of rows, the check warns.
    """

    robust_z: float = Field(gt=0)
    action: Literal["flag", "quarantine"] = "flag"
    max_share: float = Field(0.01, ge=0, le=1)


class ColumnSpec(Spec):
    """One column of the landing files, and the rules that its values must keep.

    Args:
        type: Type of the values; a `datetime` is stored in UTC.
        required: Whether a row without a value goes to quarantine.
        allowed: The only values that are allowed.
        min: Smallest value that is allowed.
        max: Largest value that is allowed.
        pattern: Regular expression that a text must match in full.
        normalise: `nfc` composes the characters of a text, `strip` takes blanks from both ends.
        outliers: Rules for numbers that lie far out.
        personal: Whether values are masked wherever they are shown.
        expression: SQL over other columns, `_line`, `_row` (from 0, after the header), and
            `_partition` if file names contain it.
        known: A `later` value is not known when predicting, so no feature can use it.
        since: First partition whose files have the column; before it they may lack it.
        description: What the column means; Dagster's UI shows it.
    """

    type: ColumnType
    required: bool = False
    allowed: list[str] | None = Field(None, min_length=1)
    min: float | None = None
    max: float | None = None
    pattern: str | None = Field(None, max_length=500)
    normalise: list[Literal["nfc", "strip"]] = Field([])
    outliers: OutlierSpec | None = None
    personal: bool = False
    expression: str | None = None
    timing: Literal["before", "later"] = Field("before", alias="known")
    since: str | None = None
    # Left out of what is stored, so that other words never cause data to be read again.
    description: str | None = Field(None, exclude=True)

    def _find_mistakes(self) -> Mistakes:
        for name in ("allowed", "pattern"):
            if getattr(self, name) is not None and self.type not in ("category", "text"):
                yield f"`{name}` needs type category or text, not {self.type}"
        if self.normalise and (self.type not in ("category", "text") or self.expression):
            yield "`normalise` needs type category or text, and a column of the files"
        is_bounded = self.min is not None or self.max is not None or self.outliers is not None
        if is_bounded and self.type not in ("int", "float"):
            yield f"`min`, `max` and `outliers` need type int or float, not {self.type}"
        if self.min is not None and self.max is not None and self.min > self.max:
            yield f"min {self.min:g} is above max {self.max:g}"


class ReadSpec(Spec):
    """Options by which the bytes of a landing file are read as columns.

    Args:
        header: Names of the columns of a CSV without header line.
        delimiter: Separator of CSV fields.
        decimal: Decimal mark of CSV numbers.
        thousands: Mark between each three digits of CSV numbers, such as `.` in 1.234,50.
        trim: Whether spaces around CSV values are removed.
        nulls: CSV texts that mean that there is no value.
        encoding: Encoding of CSV and JSONL files.
        date_format: Formats such as `%m/%d/%y` by column; ISO 8601 by default.
        naive: Times without offset are refused, or are UTC, or `local` to `partition.timezone`.
        rename: Names in `columns`, by the name in the file (`""` for none).
        max_bytes: Most bytes of a file, packed or unpacked.
        max_rows: Most rows of a file.
        max_values: Most values of a file, rows times columns; no bound by default.
        batch_values: About as many values, rows times columns, are read and judged at once.
        settle: A file is read once it has been unchanged for this time.
    """

    header: list[str] | None = Field(None, min_length=1)
    delimiter: str = Field(",", min_length=1, max_length=1)
    decimal: Literal[".", ","] = "."
    thousands: Literal[".", ",", "'", " "] | None = Field(
        None, exclude_if=lambda value: value is None
    )
    trim: bool = False
    nulls: list[str] = Field([""])
    encoding: Encoding = "utf-8"
    date_format: dict[str, str] = Field({})
    naive: Literal["refuse", "utc", "local"] = "refuse"
    rename: dict[str, str] = Field({})
    max_bytes: int = Field(2**30, ge=1)
    max_rows: int = Field(5000000, ge=1)
    max_values: int | None = Field(None, ge=1)
    batch_values: int = Field(500000, ge=1)
    settle: Duration = "5s"

    def _find_mistakes(self) -> Mistakes:
        if self.delimiter in ('"', "\r", "\n", "," if self.decimal == "," else ""):
            yield (
                f"delimiter: {self.delimiter!r} is a quote, a line's end or the decimal mark: "
                "use another, such as ;"
            )
        if self.thousands == self.decimal:
            yield f"thousands: {self.thousands!r} is the decimal mark too: they must differ"


class QuarantineSpec(Spec):
    """The bound on refused rows, beyond which the whole file is refused.

    Args:
        max_fraction: Above this share of refused rows, the whole file is refused.
    """

    max_fraction: float = Field(0.05, ge=0, le=1)


class RowsSpec(Spec):
    """Bounds on the number of rows of a partition.

    Args:
        min: Smallest number of rows of a sound partition.
        max: Largest number of rows of a sound partition.
        typical: The check of the volume warns if the number of rows differs from the usual one by
            more than this share of it.
        stray: Rows below this share of the usual number are few; a partition with few rows waits if
            it is far from others. 0: none waits, however far it is.
        ahead: A partition that begins later than this after now waits in quarantine.
    """

    min: int = Field(1, ge=0)
    max: int | None = Field(None, ge=1)
    typical: float | None = Field(None, gt=0)
    stray: float = Field(0.05, ge=0, lt=1)
    ahead: Duration = "0s"

    def _find_mistakes(self) -> Mistakes:
        if self.max is not None and self.max < self.min:
            yield f"max {self.max} is below min {self.min}"


class ExpectationSpec(Spec):
    """A further rule of Great Expectations that the accepted rows must keep.

    Args:
        type: Name of an expectation, such as `expect_column_mean_to_be_between`.
        kwargs: Arguments of the expectation.
    """

    type: str = Field(pattern="^expect_[a-z0-9_]+$")
    kwargs: dict[str, Any] = Field({})


class DatasetSpec(NamedSpec):
    """One source of data: its landing files, its contract and its partitions.

    Args:
        landing: Path of the files below `landing/` or URI, such as `flights/{partition}.csv`.
        delta: Path or URI of a Delta table that is read instead of files.
        iceberg: An Iceberg table that is read instead of files: `catalog.namespace.table`, where
            pyiceberg's own settings say where the catalog is.
        sql: A table or query of a database, whose new rows land as files.
        asset: Key of an upstream Dagster asset such as `shop/orders`, whose materializations say
            when there is new data in the place above; without any, its IO manager loads the rows.
        read: How files are read.
        partition: How the dataset is partitioned.
        columns: The contract: rules by name of the column.
        key: Columns that together identify a row.
        quarantine: How many rows may be refused.
        rows: How many rows a partition may have.
        expectations: Further rules of Great Expectations, asked of each partition by itself.
        expected: A partition is reported as late this long after its end.
        notify: Who is told of refused and late data.
    """

    landing: str | None = None
    delta: str | None = None
    iceberg: str | None = Field(
        None, pattern=r"^\w+(\.\w+){2,}$", max_length=300, exclude_if=lambda value: value is None
    )
    sql: SqlSpec | None = None
    asset: str | None = Field(None, pattern=r"^[^/\s]+(/[^/\s]+)*$", max_length=255)
    read: ReadSpec = ReadSpec()
    partition: PartitionSpec
    columns: dict[str, ColumnSpec] = Field(min_length=1)
    key: list[str] = Field(min_length=1)
    quarantine: QuarantineSpec = QuarantineSpec()
    rows: RowsSpec = RowsSpec()
    expectations: list[ExpectationSpec] = Field([])
    expected: Duration | None = None
    notify: NotifySpec = NotifySpec()

    @property
    def bucket(self) -> str | None:
        """Return the object store that files land in, such as `s3://bucket`, if there is one."""
        scheme, separator, rest = (self.landing or "").partition("://")
        return f"{scheme}://{rest.partition('/')[0]}" if separator else None

    @property
    def pattern(self) -> PurePosixPath:
        """Return the pattern of file names, below the landing folder or in the bucket."""
        if self.is_pulled:
            return PurePosixPath(self.name, "*.parquet")
        return PurePosixPath((self.landing or "")[len(self.bucket or "") :].lstrip("/"))

    @property
    def place(self) -> str:
        """Return where rows come from, as messages name it."""
        if self.sql is not None:
            return self.sql.place
        return self.table or self.landing or f"the asset {self.asset}"

    @property
    def table(self) -> str | None:
        """Return the Delta or Iceberg table that is read instead of files."""
        return self.delta or self.iceberg

    @property
    def is_pulled(self) -> bool:
        """Tell if a run of this project writes the landing files."""
        return self.landing is None and self.table is None

    @property
    def format(self) -> Format:
        """Return the format that the ending of `landing` gives, or the kind of the table."""
        if self.table is not None:
            return "delta" if self.delta else "iceberg"
        return self.pattern.suffix.removeprefix(".")  # type: ignore[return-value]

    @property
    def is_typed(self) -> bool:
        """Tell if values are read with their types, and not as text."""
        return self.format not in ("csv", "jsonl")

    @property
    def is_split(self) -> bool:
        """Tell if a file may contain rows of many partitions, so that each row names its own."""
        return self.partition.by != "none" and "{partition}" not in (self.landing or "")

    @property
    def file_columns(self) -> dict[str, ColumnSpec]:
        """Return the columns that are read from files."""
        return {name: column for name, column in self.columns.items() if column.expression is None}

    @field_validator("landing")
    @classmethod
    def _check_landing(cls, value: str | None) -> str | None:
        if value is None:
            return None
        scheme, separator, rest = value.partition("://")
        bucket, _, below = rest.partition("/")
        if separator and scheme not in _OBJECT_STORES:
            stores = ", ".join(_OBJECT_STORES)
            raise ValueError(f"files cannot land in {scheme!r}: use a path or {stores}")
        if separator and _BUCKET.fullmatch(bucket) is None:
            raise ValueError(f"{bucket!r} is not a bucket: write {scheme}://bucket/path")
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
    def _check_delta(cls, value: str | None) -> str | None:
        scheme, separator, _ = (value or "").partition("://")
        if separator and scheme not in (schemes := (*_OBJECT_STORES, "file")):
            raise ValueError(f"cannot read {scheme!r}: use a path or {', '.join(schemes)}")
        return value

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name in TAGGED:
            raise ValueError(
                f"a dataset cannot be called {name!r}, since each version of a model has a tag of "
                "this name: choose another"
            )
        return name

    def _find_mistakes(self) -> Mistakes:
        places = self.landing, self.delta, self.iceberg, self.sql
        sources = [source for source in places if source is not None]
        if len(sources) != 1 and (sources or self.asset is None):
            yield "give one of `landing`, `delta`, `iceberg` and `sql`, or `asset` alone"
        derived = [
            name for name in self.key if name in self.columns and self.columns[name].expression
        ]
        if self.sql is not None and derived:
            yield f"key: {derived[0]} is derived, but newer rows of a database replace older by key"
        if self.expected is not None and self.partition.period is None:
            yield f"expected: partitions by {self.partition.by} have no end"
        if self.partition.by == "none" and "{partition}" in (self.landing or ""):
            yield "landing: there is no {partition} where partitions are by none"
        if not self.file_columns:
            yield "all columns are derived: at least one must stand in the file"
        yield from self._find_column_mistakes()
        yield from self._find_header_mistakes()
        yield from self._find_partition_mistakes()

    def _find_column_mistakes(self) -> Mistakes:
        for name in self.columns:
            if name.startswith("_") or not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME:
                yield (
                    f"columns: {name!r} cannot name a column: use 1 to {_LONGEST_NAME} "
                    "printable characters that do not start with an underscore"
                )
            if (since := self.columns[name].since) is not None:
                yield from self._find_since_mistakes(name, since)
        fields = {
            "key": self.key,
            "partition.column": [self.partition.column] if self.partition.column else [],
            "read.date_format": self.read.date_format,
            "read.rename": self.read.rename.values(),
        }
        for field, names in fields.items():
            for name in names:
                if name not in self.columns:
                    near = hint(name, self.columns)
                    yield f"{field}: {name!r} is not among `columns`{near}"
        for name in self.read.date_format:
            if self.columns[name].type not in ("date", "datetime"):
                yield f"read.date_format: {name!r} is neither date nor datetime"

    def _find_header_mistakes(self) -> Mistakes:
        header = self.read.header or ()
        for column in self.file_columns:
            names = [repr(name) for name in header if self.read.rename.get(name, name) == column]
            if len(names) > 1:
                yield (
                    f"read.header: {' and '.join(names)} both name the column {column}, so every "
                    "file would be refused: leave one out of `rename`, or give it another name"
                )

    def _find_since_mistakes(self, name: str, since: str) -> Mistakes:
        field = f"columns.{name}.since"
        if self.columns[name].expression or name in (*self.key, self.partition.column):
            yield f"{field}: each file must have {name}, or it is derived: leave out `since`"
        if (why := self.partition.explain_misfit(since)) is not None:
            yield f"{field}: {since!r} is not a partition: {why}"

    def _find_partition_mistakes(self) -> Mistakes:
        partition = self.partition
        if partition.column is None:
            return
        column_type = self.columns[partition.column].type
        by_value = ("int",) if partition.values is None else ("category", "text")
        types = {"hour": ("datetime",), "value": by_value}.get(partition.by, ("date", "datetime"))
        if column_type not in types:
            yield (
                f"partition.column: {partition.column} is of type {column_type}; partitions by "
                f"{partition.by} need {' or '.join(types)}"
            )
