"""Turn the text or value in a file into a typed value, and derive columns from others.

A value that cannot be read as its type becomes null. Patterns, formats and SQL of a spec are tried
here on no data. Not here: rules on values that can be read.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from retrain_assets.domain.data import rules
from retrain_assets.domain.data.patterns import mistaken_pattern
from retrain_assets.domain.data.row_wise import SQL_ERRORS, compute_by_row, explain_sql, select_rows
from retrain_assets.specs.base import hint
from retrain_assets.specs.dataset import ColumnSpec, ColumnType, DatasetSpec

NULL_WORDS = frozenset(
    ("NULL", "Null", "null", "None", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT")
)
_ERRORS = frozenset(
    ("#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NUM!", "#NULL!", "#SPILL!", "#CALC!")
)
# CSV has no other way to write a missing value; elsewhere NA may be Namibia.
_AMBIGUOUS_WORDS = frozenset(("NA", "N/A", "n/a"))
_DIGITS = 15  # of a whole number that is written as a float, which holds so many exactly
MAX_BYTES = 2**17  # of one value, which is also the limit of Python's csv module
_LOCAL = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,6})?"
ISO: dict[ColumnType, str] = {
    "date": r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ]00:00:00(\.0{1,6})?)?",
    "datetime": rf"{_LOCAL}(Z|[+-][0-9]{{2}}:?[0-9]{{2}})",
}
# The parser of polars would also take a sign, any number of digits, and second 60.
_DIRECTIVES = {"Y": "[0-9]{4}", "S": "[0-5]?[0-9]"} | dict.fromkeys("mdyHMIj", "[0-9]{1,3}")
_YEARS = (1, 9999)  # the years that Python has dates of
# polars runs a query within an expression, files included, as soon as it parses it.
_FORBIDDEN = re.compile(
    r"\b(select|from|table|now|current_(?:date|time|timestamp)|local(?:time|timestamp))\b",
    re.IGNORECASE,
)
_POINT = re.compile(
    r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/)|(?<![\w.])(?:\d+\.\d*|\.\d+)(?![\w.])""",
    re.DOTALL,
)
_VALUE, _GIVEN = "_value", "_given"
_SAMPLE = datetime(2013, 1, 31, 13)  # noqa: DTZ001 local wherever it is used


def wide(column: ColumnSpec) -> rules.Type:
    """Return the type that a typed value is kept in until it is judged."""
    # In a wider type, an unsigned value that is too large is seen instead of wrapped.
    return pl.Int128 if column.type == "int" else rules.STORED[column.type]


def is_given(name: str, spec: DatasetSpec) -> pl.Expr:
    """Return whether a file has a value, readable or not."""
    absent, words = rules.raw(name).is_null(), null_words(spec)
    return ~(absent | rules.raw(name).is_in(words)) if words else ~absent


def null_words(spec: DatasetSpec) -> list[str]:
    """Return the texts that mean no value."""
    return spec.read.nulls if spec.format == "csv" else []


def keep_finite(value: pl.Expr) -> pl.Expr:
    """Return a number, or null where it is NaN or infinite, as nothing can be computed from it."""
    return pl.when(value.is_finite()).then(value)


def null_infinite(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with null for each number that is NaN or infinite."""
    schema = frame.schema.items()
    return frame.with_columns(keep_finite(pl.col(name)) for name, kind in schema if kind.is_float())


def suspects(column: ColumnSpec, spec: DatasetSpec) -> set[str]:
    """Return the texts that some program wrote for a missing value or an error: none is a value."""
    words = _ERRORS | (NULL_WORDS if spec.format == "csv" else NULL_WORDS - _AMBIGUOUS_WORDS)
    return set(words.difference(column.allowed or ()))


def naive_zone(spec: DatasetSpec) -> str | None:
    """Return the time zone of times that have no offset; None where they are refused."""
    zones = {"refuse": None, "utc": "UTC", "local": spec.partition.timezone}
    return zones[spec.read.naive]


def parsed(name: str, column: ColumnSpec, spec: DatasetSpec, *, from_text: bool) -> pl.Expr:
    """Return a raw column as its type, null where it cannot be read.

    Args:
        name: The column.
        column: Its rules.
        spec: The dataset.
        from_text: Whether the raw column is text that must be read as the type.
    """
    value = rules.raw(name)
    if from_text:
        is_value = pl.col(rules.value_flag(name)) & (value.str.len_bytes() <= MAX_BYTES)
        value = _from_text(pl.when(is_value).then(value), name, spec)
    if column.type == "int":
        return value.cast(pl.Int64, strict=False)
    if column.type == "float":
        return keep_finite(value)
    if column.type in ("category", "text"):
        suspect = value.is_in(sorted(suspects(column, spec)))
        if not rules.is_text(name, spec) and column.allowed is None:
            suspect |= value.str.contains("\0", literal=True) | (value.str.len_bytes() > MAX_BYTES)
        return pl.when(~suspect).then(value)
    if column.type in ("date", "datetime"):
        return pl.when(value.dt.year().is_between(*_YEARS)).then(value)
    return value


def _from_text(text: pl.Expr, name: str, spec: DatasetSpec) -> pl.Expr:
    kind = spec.columns[name].type
    if kind in ("int", "float") and spec.format == "csv" and spec.read.thousands:
        text = ungrouped(text, spec.read.thousands, spec.read.decimal)
    if kind == "float":
        if spec.format == "csv" and spec.read.decimal == ",":
            text = pl.when(~text.str.contains(".", literal=True)).then(text)
            text = text.str.replace(",", ".", literal=True)
        return text.cast(pl.Float64, strict=False)
    if kind == "bool":
        words = {"true": True, "false": False}
        return text.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)
    if kind in ("date", "datetime"):
        return moment(
            text, kind, date_format(name, spec), spec.partition.timezone, naive_zone(spec)
        )
    if kind == "int":
        mark = r"\." if spec.format != "csv" else re.escape(spec.read.decimal)
        # So pandas writes whole numbers with a gap; 1.000 may be a thousand, and is refused.
        return text.str.replace(rf"^([+-]?[0-9]{{1,{_DIGITS}}}){mark}0$", "$1")
    return text


def ungrouped(text: pl.Expr, thousands: str, decimal: str) -> pl.Expr:
    """Return texts without the marks of thousands, where these stand between three digits each."""
    mark, point = re.escape(thousands), re.escape(decimal)
    is_grouped = text.str.contains(rf"^[+-]?[0-9]{{1,3}}({mark}[0-9]{{3}})+({point}[0-9]+)?$")
    return pl.when(is_grouped).then(text.str.replace_all(mark, "")).otherwise(text)


def date_format(name: str, spec: DatasetSpec) -> str | None:
    """Return the format of strftime in which files write a column; None for ISO 8601."""
    return None if spec.is_typed else spec.read.date_format.get(name)


def moment(
    text: pl.Expr, kind: ColumnType, written: str | None, timezone: str, naive: str | None = None
) -> pl.Expr:
    """Read text as a date or datetime.

    Args:
        text: The text in the file.
        kind: `date` or `datetime`.
        written: A format of strftime; None for ISO 8601, where a datetime has its offset.
        timezone: The time zone of a time without offset. An hour that a clock there skips or
            repeats is null.
        naive: The time zone of times in ISO 8601 without offset; None refuses them.
    """
    if written is None and kind == "datetime" and naive is not None:
        bare = text.str.replace(" ", "T", literal=True)
        bare = pl.when(bare.str.contains(f"^{_LOCAL}$")).then(bare)
        local = moment(bare, kind, "%Y-%m-%dT%H:%M:%S%.f", naive)
        return pl.coalesce(moment(text, kind, written, timezone), local)
    form = ISO[kind] if written is None else _as_regex(written)
    text = pl.when(text.str.contains(f"^{form}$")).then(text)
    if kind == "date":
        text = text if written else text.str.slice(0, 10)
        return text.str.to_date(written or "%Y-%m-%d", strict=False)
    if written is None:
        text = text.str.replace(" ", "T", literal=True)
    read = text.str.to_datetime(written or "%+", time_unit="us", strict=False)
    if not is_local(written):
        return read
    local = read.dt.replace_time_zone(timezone, ambiguous="null", non_existent="null")
    return local.dt.convert_time_zone("UTC")


def is_local(written: str | None) -> bool:
    """Return whether a format has no offset, so that its times are local."""
    return written is not None and re.search(r"%:*z|%\+", written) is None


def text_reader(name: str, spec: DatasetSpec, limits: Mapping[str, Any]) -> Callable[[str], Any]:
    """Return a function that reads a text in a request as `parsed` reads it in a file.

    The function raises ValueError where landing would refuse the text. Patterns are left to
    pydantic, whose engine takes linear time.
    """
    words, listed = null_words(spec), limits.get("enum")
    refused_words = suspects(spec.columns[name], spec)

    def read(text: str) -> str | None:
        if text in words:
            if "required" in limits:
                raise ValueError("a value is required")
            return None
        if listed is not None and text not in listed:
            raise ValueError(f"the text is not one of those that are allowed{hint(text, listed)}")
        if text in refused_words:
            raise ValueError("the text stands for a missing value or a mistake: send null")
        if "\0" in text or len(text.encode()) > MAX_BYTES:
            raise ValueError("the text has a NUL character or more than 128 KiB")
        return text

    return read


def as_whole(value: float) -> int:
    """Return a float in a request as the whole number it is.

    Raises:
        ValueError: It is none, or has too many digits to be exact.
    """
    if abs(value) >= 10**_DIGITS or not value.is_integer():
        raise ValueError("the value is not a whole number")
    return int(value)


def time_reader(name: str, spec: DatasetSpec, limits: Mapping[str, Any]) -> Callable[[str], Any]:
    """Return a function that reads a time in a request as the files of the dataset have it."""
    words, written, naive = null_words(spec), spec.read.date_format.get(name), naive_zone(spec)
    kind, zone = spec.columns[name].type, spec.partition.timezone

    def read(text: str) -> Any:
        if text in words and "required" not in limits:
            return None
        value = (written or naive) and _moment(text, kind, written, zone, naive)
        if not value or not limits.get("ge", value) <= value <= limits.get("le", value):
            raise ValueError("the text is no time as the contract has it")
        return value

    return read


@lru_cache(maxsize=10_000)
def _moment(
    text: str, kind: ColumnType, written: str | None, timezone: str, naive: str | None
) -> Any:
    """Read one text as `moment`; a plan of polars takes 0.1 ms."""
    value = moment(pl.lit(text), kind, written, timezone, naive)
    return pl.select(pl.when(value.dt.year().is_between(*_YEARS)).then(value)).item()


def _as_regex(written: str) -> str:
    """Describe texts of a format of strftime, in which numbers may lack leading zeros."""
    parts = re.split(r"%[-_0]?([:.0-9]*[A-Za-z%+])", written.replace("%F", "%Y-%m-%d"))
    forms = [_DIRECTIVES.get(directive, ".*") for directive in parts[1::2]]
    literal = [re.escape(part) for part in parts[::2]]
    return "".join(a + b for a, b in zip(literal, [*forms, ""], strict=True))


def misfit(schema: Mapping[str, pl.DataType], spec: DatasetSpec) -> str | None:
    """Return why the types of a parquet file or table do not fit the contract."""
    columns = {name: spec.file_columns[name].type for name in spec.file_columns if name in schema}
    for name, expected in columns.items():
        kind = schema[name]
        is_naive = getattr(kind, "time_zone", "UTC") is None
        if is_naive and expected == "datetime" and naive_zone(spec) is None:
            return (
                f"column {name} has times without a time zone: write them with one, or set "
                "read.naive to utc, or to local for partition.timezone"
            )
        if kind != pl.Null and not (fits(kind, expected) or needs_text(kind, expected, spec)):
            return (
                f"column {name} is {kind}, but the contract says {expected}: deliver that type, or "
                f"change columns.{name}.type"
            )
        zone = getattr(kind, "time_zone", None) or "UTC"
        if zone not in ("UTC", spec.partition.timezone):
            return (
                f"column {name} is in time zone {zone}, but partition.timezone is "
                f"{spec.partition.timezone}: write it in that or in UTC"
            )
    return None


def fits(stored: pl.DataType, kind: ColumnType) -> bool:
    """Return whether a type can hold the values of a column; a naive datetime cannot."""
    if kind in ("int", "float"):
        return stored.is_integer() or (kind == "float" and stored.is_numeric())
    if kind == "datetime":
        return isinstance(stored, pl.Datetime) and stored.time_zone is not None
    if kind in ("category", "text"):
        return stored in (pl.String, pl.Categorical, pl.Enum)
    return stored == rules.STORED[kind]


def needs_text(stored: pl.DataType, kind: ColumnType, spec: DatasetSpec) -> bool:
    """Tell if values of another type are read as text, which takes those that are exact.

    Databases give text where they have no such type: SQLite for times, PostgreSQL for decimals.
    """
    if spec.is_pulled and stored == pl.String:
        return kind not in ("category", "text")
    if kind in ("category", "text"):
        return stored.is_integer()
    if kind == "int":
        return stored.is_float()
    is_naive = isinstance(stored, pl.Datetime) and stored.time_zone is None
    return kind in ("date", "datetime") and is_naive


def as_text(values: pl.Series) -> pl.Series:
    """Write values of a typed file as a text file has them: a whole float as an int."""
    value = pl.col(values.name)
    if values.dtype.is_float():
        is_whole = (value == value.round()) & (value.abs() < 10**_DIGITS)
        integer = pl.when(is_whole).then(value).cast(pl.Int64, strict=False).cast(pl.String)
        text = pl.coalesce(integer, value.cast(pl.String))
    elif values.dtype.is_temporal():
        text = value.cast(pl.Datetime("us")).dt.to_string("iso:strict")
    else:
        text = value.cast(pl.String)
    return values.to_frame().select(text).to_series()


def derive(rows: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """Add the derived columns, raw and parsed, each from the columns before it.

    Args:
        rows: All other columns as their types.
        spec: A dataset whose expressions are valid.
    """
    visible = [*spec.file_columns, rules.LINE, rules.FILE_ROW, rules.BROKEN]
    first = 1 + (spec.format == "csv" and spec.read.header is None)
    rows = rows.with_columns(
        (pl.col(rules.LINE).cast(pl.Int64) - first).clip(0).alias(rules.FILE_ROW)
    )
    if names_partition(spec):
        rows = rows.with_columns(_begin(rows[rules.PARTITION], spec).alias(rules.FILE_PARTITION))
        visible.append(rules.FILE_PARTITION)
    for name, column in spec.columns.items():
        if column.expression is not None:
            value = pl.when(pl.col(rules.BROKEN).is_null()).then(read_sql(column.expression))
            derived = _evaluated(rows.select(visible), value.cast(wide(column)))
            raw_value = derived[_VALUE].cast(wide(column))  # null of no type if all rows failed
            rows = rows.with_columns(
                raw_value.alias(f"_raw_{name}"), derived[_GIVEN].alias(rules.value_flag(name))
            ).with_columns(parsed(name, column, spec, from_text=False).alias(name))
            visible.append(name)
    return rows.drop(rules.FILE_PARTITION, rules.FILE_ROW, strict=False)


def names_partition(spec: DatasetSpec) -> bool:
    """Return whether the name of a file contains the partition of its rows."""
    return spec.partition.column is not None and not spec.is_split


def _begin(keys: pl.Series, spec: DatasetSpec) -> pl.Series:
    """Return the beginnings of partitions, or their values, as the type of the column they name."""
    partition, kind = spec.partition, spec.columns[spec.partition.column or ""].type
    if partition.period is None:
        return keys.cast(rules.STORED[kind])
    zone, begins = ZoneInfo(partition.timezone), {}
    for key in keys.unique().drop_nulls():
        if begin := partition.period.begins(key):
            begins[key] = begin.date() if kind == "date" else begin.replace(tzinfo=zone)
    return keys.replace_strict(begins, default=None, return_dtype=rules.STORED[kind])


def counts_lines(spec: DatasetSpec) -> bool:
    """Return whether the partition of a row follows from its line."""
    by_line = {rules.LINE, rules.FILE_ROW}
    for name, column in spec.columns.items():
        if by_line.intersection(sources(column)):
            by_line.add(name)
    return spec.partition.column in by_line


def read_sql(expression: str) -> pl.Expr:
    """Return an expression of SQL, whose numbers with a point are floats."""
    return pl.sql_expr(as_floats(expression))


def as_floats(sql: str) -> str:
    """Return SQL whose numbers with a point are floats.

    To polars they are decimals: a whole number divided by 3.0 has six digits, and a division by
    zero fails for all rows.
    """
    return _POINT.sub(lambda match: match[0] if match[1] else f"{match[0]}e0", sql)


def sources(column: ColumnSpec) -> list[str]:
    """Return the columns that a column is derived from."""
    return pl.sql_expr(column.expression).meta.root_names() if column.expression else []


def _evaluated(rows: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    """Evaluate each row; where it fails, null counts as given."""

    def evaluate(part: pl.DataFrame) -> pl.DataFrame:
        values = select_rows(part, value.alias(_VALUE), rules.LINE)
        return values.select(_VALUE, pl.col(_VALUE).is_not_null().alias(_GIVEN))

    failed = pl.lit(None).alias(_VALUE), (pl.col(rules.LINE) > 0).alias(_GIVEN)
    return pl.concat(
        (
            (part.select(failed) if isinstance(result, BaseException) else result)
            for part, result in compute_by_row(rows, evaluate, SQL_ERRORS)
        ),
        how="vertical_relaxed",
    )


def mistaken_expression(name: str, spec: DatasetSpec) -> str | None:
    """Return what is wrong with the expression of a derived column, judged without data."""
    column, expression = spec.columns[name], spec.columns[name].expression or ""
    if forbidden := _FORBIDDEN.search(expression):
        return (
            f"may not hold {forbidden[0]!r}, neither a query nor the clock: use columns and "
            "functions"
        )
    before = list(spec.columns)[: list(spec.columns).index(name)]
    visible = {*spec.file_columns, *before} - {name}
    schema: dict[str, rules.Type] = {rules.LINE: pl.Int64, rules.FILE_ROW: pl.Int64}
    schema |= {item: rules.STORED[spec.columns[item].type] for item in visible}
    if names_partition(spec):
        schema[rules.FILE_PARTITION] = rules.STORED[spec.columns[spec.partition.column or ""].type]
    try:
        value = read_sql(expression)
        if "strict_cast" in str(value):
            return "fails for all rows where one cannot be cast: write TRY_CAST, which gives null"
        derived = pl.LazyFrame(schema=schema).with_columns(value.alias(_VALUE))
        kind = derived.collect_schema()[_VALUE]
        # polars moves a filter below an expression only if it is computed row by row.
        by_row = not derived.filter(pl.col(rules.LINE) > 0).explain().startswith("FILTER")
        derived.collect()
    except SQL_ERRORS as error:
        return f"is not valid: {explain_sql(error)}"
    if not by_row:
        return "looks at more than its own row: leave out aggregates, windows and offsets"
    if not fits(kind, column.type):
        return f"gives {kind}, but the contract says {column.type}: cast it"
    return _explain_impossible_cast(value, schema)


def _explain_impossible_cast(value: pl.Expr, schema: dict[str, rules.Type]) -> str | None:
    """Return why a cast fails whatever the value, which polars says only where there is a value."""
    row = pl.select(pl.lit(1).cast(dtype).alias(name) for name, dtype in schema.items())
    for part in _parts(value):  # each by itself, as no value may reach a branch
        try:
            row.select(part)
        except SQL_ERRORS as error:
            why = str(error).partition("\n")[0].rstrip(".")
            if why.startswith("casting from"):
                return (
                    f"fails for every row, since {why}: read a date with DATE(text, '%Y-%m-%d'), a "
                    "time with STRPTIME(text, '%Y-%m-%d %H:%M'), and a bool with text = 'true'"
                )
    return None


def _parts(value: pl.Expr) -> Iterator[pl.Expr]:
    """Yield an expression and all that it is computed from."""
    yield value
    for part in value.meta.pop():
        yield from _parts(part)


def find_column_mistakes(spec: DatasetSpec) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each field that cannot work, as its path in the YAML, and why."""
    for name, column in spec.columns.items():
        if column.pattern is not None and (why := mistaken_pattern(column.pattern)) is not None:
            yield (
                ("columns", name, "pattern"),
                f"does not compile both in polars and in Python: {why}",
            )
        if column.expression is not None and (why := mistaken_expression(name, spec)) is not None:
            yield ("columns", name, "expression"), why
    for name, written in spec.read.date_format.items():
        kind = spec.columns[name].type
        if (why := _mistaken_format(written, kind, spec.partition.timezone)) is not None:
            yield ("read", "date_format", name), why


def _mistaken_format(written: str, kind: ColumnType, timezone: str) -> str | None:
    """Return why a text written by a format cannot be read back."""
    if "%Z" in written:
        return "names zones by %Z, of which many share a name: use %z"
    sample = pl.lit(_SAMPLE).dt.replace_time_zone(timezone)
    expected = sample.dt.date() if kind == "date" else sample.dt.convert_time_zone("UTC")
    read = moment(sample.dt.strftime(written), kind, written, timezone)
    try:
        if pl.select(read == expected).item():
            return None
    except pl.exceptions.PolarsError as error:
        return f"{written!r} is not a format: {str(error).partition(chr(10))[0][:300]}"
    example = _SAMPLE.replace(tzinfo=ZoneInfo(timezone)).isoformat()
    reason = f"{written!r} leaves out what it takes to read {example} back"
    return f"{reason}: name the year and so on, as %d.%m.%Y does"
