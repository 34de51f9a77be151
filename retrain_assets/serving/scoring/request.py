"""The rows that a request may hold: raw rows of a dataset, by the contract that landing applies.

The rules are those of `domain.data.rules`, as limits on single values, so that serving refuses what
landing quarantines and takes what landing takes. The types are pydantic's, so that OpenAPI shows
what is checked. Not here: features, derived columns, and the transport.
"""

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any

import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pydantic
from pydantic import Field, TypeAdapter, ValidationError, WithJsonSchema
from pydantic_core import core_schema, to_json
from typing_extensions import TypedDict

from retrain_assets.domain.data import texts
from retrain_assets.domain.data import values as readers
from retrain_assets.domain.data.rules import STORED, column_limits
from retrain_assets.specs.dataset import ColumnSpec, DatasetSpec

Row = dict[str, Any]
RequestRows = list[Row] | pl.DataFrame
MANY_ROWS = 64  # from this number of rows on, a request is handled as a frame
_MAX_FAULTS = 20
_NOT_JSON = "json_invalid"
_NOT_ISO = (
    "it should be ISO 8601: 2013-01-31, or 2013-01-31T12:00:00 with an offset such as Z or -05:00, "
    "which only a dataset with `read.naive` can do without"
)
_RANGES: dict[str, tuple[Any, Any]] = {
    "int": (-(2**63), 2**63 - 1),
    "date": (date.min, date.max),
    "datetime": (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
}
_NUMBERS = ("int", "float", "bool")
_TYPED_DICT: Any = TypedDict  # called with names that are known when the service starts


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: Status of HTTP.
        code: Name of the error, for programs.
        message: What is wrong and how to correct it.
        faults: Faults in the rows, as `{"row", "column", "message"}`.
    """

    def __init__(
        self, status: int, code: str, message: str, faults: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.faults = faults or []

    def body(self, path: str = "") -> dict[str, Any]:
        """Return the body of the answer; in the Open Inference Protocol, `error` is a text."""
        rows = {"rows": self.faults} if self.faults else {}
        if path.startswith("/v2/"):
            return {"error": self.message, "code": self.code, **rows}
        return {"error": {"code": self.code, "message": self.message, **rows}}


class Contract:
    """Rows of a dataset in a request: every column that is known before the prediction.

    Args:
        dataset: The dataset whose rows are predicted.
        most: How many rows a request may hold.
    """

    def __init__(self, dataset: DatasetSpec, most: int) -> None:
        self.dataset, self.most, self._limits = dataset, most, column_limits(dataset)
        self.columns = {n: c for n, c in dataset.file_columns.items() if c.timing == "before"}
        self._schema = pl.Schema({name: STORED[c.type] for name, c in self.columns.items()})
        self._arrow = pl.DataFrame(schema=self._schema).to_arrow().schema
        types = {name: self._nullable(name, self._type(name)) for name in self.columns}
        self._row: TypeAdapter[Row] = TypeAdapter(_typed("Row", types))
        self._body = _bodies(types)
        # Of many rows, each distinct text is read once.
        self._texts = {n for n, c in self.columns.items() if c.type not in _NUMBERS}
        self._values: dict[str, TypeAdapter[list[Any]]] = {
            name: TypeAdapter(list[kind])  # type: ignore[valid-type]
            for name, kind in types.items()
        }
        texts = {name: self._nullable(name, str) for name in self._texts}
        self._light = _bodies(types | texts)

    def schema(self) -> dict[str, Any]:
        """Return one row as JSON schema."""
        return self._row.json_schema()

    def read(self, content: bytes) -> RequestRows:
        """Read the rows of `{"rows": [{…}, …]}`; many of them as a frame.

        Raises:
            RequestError: It is not JSON, a key occurs twice, or a row breaks the contract.
        """
        frame = self._frame(content) if content.count(b"{") > MANY_ROWS else None
        rows: RequestRows = self._few(content) if frame is None else frame
        count_rows(len(rows), self.most)
        if isinstance(rows, list):
            nulls = [row[name] for row in rows for name in self._texts].count(None)
        else:
            nulls = sum(rows[name].null_count() for name in self._texts)
        texts = 1 + len(rows) * (len(self.columns) + len(self._texts)) - nulls
        if b"\\" in content or content.count(b'"') != 2 * texts:
            unique_keys(content)  # there are more texts than keys and values, or it is unclear
        return rows

    def check(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return a frame of raw rows as their types.

        Raises:
            RequestError: The columns are not those of the dataset, or a row breaks the contract.
        """
        count_rows(frame.height, self.most)
        if different := set(frame.columns) ^ set(self.columns):
            raise invalid(f"columns missing or not of the dataset: {', '.join(sorted(different))}")
        frame = frame.select(*self.columns)
        if all(map(self._is_sound, frame)):
            return frame
        schema = frame.drop(cs.datetime(time_zone=None)).schema
        if reason := readers.misfit(schema, self.dataset):
            raise invalid(reason)
        times = map(self._as_text, frame.select(cs.date() | cs.datetime()))
        texts = frame.select(cs.by_name(*self._texts) & cs.integer()).cast(pl.String)
        rows = frame.with_columns(*times, *texts, cs.decimal().cast(pl.Float64)).to_dicts()
        content = to_json({"rows": rows}, inf_nan_mode="constants")
        return pl.DataFrame(self._few(content), self._schema)

    def _few(self, content: bytes) -> list[Row]:
        try:
            return self._body.validate_json(content)["rows"]
        except ValidationError as error:
            raise refusal(error, 1) from None

    def _frame(self, content: bytes) -> pl.DataFrame | None:
        """Read many rows as a frame; None where one is wrong, which `_few` then reports."""
        try:
            rows = self._light.validate_json(content)["rows"]
            columns = zip(*(row.values() for row in rows), strict=True)
            return pl.DataFrame([*map(self._series, self._arrow, columns)])
        except (ValueError, OverflowError):
            return None

    def _series(self, field: pa.Field, values: Sequence[Any]) -> pl.Series:
        if field.name not in self._texts:
            return pl.Series(field.name, pa.array(values, field.type))
        places = {text: place for place, text in enumerate(dict.fromkeys(values))}
        distinct = self._values[field.name].validate_json(to_json([*places]))
        series = pl.Series(field.name, pa.array(distinct, field.type))
        return series[pl.Series([places[text] for text in values], dtype=pl.UInt32)]

    def _as_text(self, values: pl.Series) -> pl.Series:
        """Write times as JSON has them; one without a single meaning as `?`, which is refused."""
        times = values.set(~values.dt.year().is_between(1, 9999).fill_null(value=False), None)
        is_naive = getattr(values.dtype, "time_zone", "UTC") is None
        if is_naive and readers.is_local(self.dataset.read.date_format.get(values.name)):
            zone = self.dataset.partition.timezone
            times = times.dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
        texts = times.dt.to_string("iso:strict")
        return texts.set(texts.is_null() & values.is_not_null(), "?")

    def _is_sound(self, values: pl.Series) -> bool:
        """Return whether a column is surely sound, which takes microseconds."""
        name, kind, limits = values.name, values.dtype, self._limits[values.name]
        if kind != self._schema[name] or ("required" in limits and values.null_count()):
            return False
        if not kind.is_temporal():
            distinct = (values.unique() if kind == pl.String else values).to_list()
            try:
                return self._values[name].validate_python(distinct) == distinct
            except ValidationError:
                return False
        low, high = pl.Series(self._range(name), dtype=kind).cast(pl.Int64)
        ends: list[Any] = [values.cast(pl.Int64).min(), values.cast(pl.Int64).max()]
        return ends[0] is None or (low <= ends[0] and ends[1] <= high)

    def _range(self, name: str) -> tuple[Any, Any]:
        low, high = _RANGES[self.columns[name].type]
        return self._limits[name].get("ge", low), self._limits[name].get("le", high)

    def _type(self, name: str) -> Any:
        """Return the type of a column in JSON, with the limits of its rules."""
        kind, limits = self.columns[name].type, self._limits[name]
        if kind in ("category", "text"):
            words = "".join(f"|^{re.escape(word)}$" for word in readers.null_words(self.dataset))
            pattern = Field(pattern=limits["pattern"] + words if "pattern" in limits else None)
            read = pydantic.AfterValidator(readers.text_reader(name, self.dataset, limits))
            schema = {key: limits[key] for key in ("enum", "pattern") if key in limits}
            described = WithJsonSchema({"type": "string"} | schema)
            if not (column := self.columns[name]).normalise:
                return Annotated[str, pattern, read, described]
            normalise = pydantic.BeforeValidator(lambda text: _normalise(text, column))
            return Annotated[str, pattern, read, normalise, described]
        if kind == "bool":
            return bool
        if kind == "float":
            bounds = {key: limits[key] for key in ("ge", "le") if key in limits}
            return Annotated[float, Field(allow_inf_nan=False, **bounds)]
        low, high = self._range(name)
        if kind == "int":
            return _whole(low, high)
        return _time(readers.ISO[kind], low, high, readers.time_reader(name, self.dataset, limits))

    def _nullable(self, name: str, kind: Any) -> Any:
        return kind if "required" in self._limits[name] else kind | None


def _typed(name: str, fields: dict[str, Any]) -> Any:
    """Make a dict with just these keys."""
    typed = _TYPED_DICT(name, fields)
    typed.__pydantic_config__ = pydantic.ConfigDict(extra="forbid", strict=True)
    return typed


def _bodies(types: dict[str, Any]) -> TypeAdapter[dict[str, list[Row]]]:
    rows: Any = list[_typed("Row", types)]  # type: ignore[misc]
    # The first wrong row says enough.
    return TypeAdapter(_typed("Body", {"rows": Annotated[rows, pydantic.FailFast()]}))


def _normalise(text: object, column: ColumnSpec) -> object:
    return texts.normalise_text(text, column) if isinstance(text, str) else text


def _whole(low: int, high: int) -> Any:
    """Return the type of whole numbers, which may be written as 5.0."""
    number = core_schema.int_schema(strict=True, ge=low, le=high)
    real = core_schema.no_info_after_validator_function(
        readers.as_whole, core_schema.float_schema(strict=True)
    )
    either = core_schema.union_schema(
        [number, core_schema.chain_schema([real, number])], mode="left_to_right"
    )
    schema = WithJsonSchema({"type": "integer", "minimum": low, "maximum": high})
    return Annotated[int, pydantic.GetPydanticSchema(lambda *_: either), schema]


def _time(form: str, low: Any, high: Any, in_files: Callable[[str], Any]) -> Any:
    """Return the type of times: ISO 8601, read without Python code, or as the files have them."""
    iso = core_schema.custom_error_schema(
        core_schema.str_schema(strict=True, pattern=f"^{form}$"),
        "not_iso",
        custom_error_message=_NOT_ISO,
    )
    read: core_schema.CoreSchema = core_schema.date_schema(strict=False, ge=low, le=high)
    if is_timed := isinstance(low, datetime):
        read = core_schema.datetime_schema(strict=False, ge=low, le=high)
        # Within the bounds, the year in UTC is one that Python has.
        read = core_schema.no_info_after_validator_function(lambda at: at.astimezone(UTC), read)
    text = core_schema.str_schema(strict=True)
    as_in_files = core_schema.no_info_after_validator_function(in_files, text)
    either = core_schema.union_schema(
        [core_schema.chain_schema([iso, read]), as_in_files], mode="left_to_right"
    )
    schema = WithJsonSchema({"type": "string", "format": "date-time" if is_timed else "date"})
    return Annotated[date, pydantic.GetPydanticSchema(lambda *_: either), schema]


def invalid(message: str, faults: list[dict[str, Any]] | None = None) -> RequestError:
    """Return the answer to rows that break the contract."""
    return RequestError(422, "invalid_rows", message, faults)


def count_rows(count: int, most: int) -> None:
    """Refuse a request without rows or with too many.

    Raises:
        RequestError: 422 or 413.
    """
    if count == 0:
        raise RequestError(422, "no_rows", "there are no rows: give at least one")
    if count > most:
        raise RequestError(413, "too_many_rows", f"{count} rows: at most {most} go in a request")


def refusal(error: ValidationError, depth: int) -> RequestError:
    """Return the answer to a body that pydantic refused; values are not repeated.

    Args:
        error: The error of pydantic.
        depth: The position of the row number within a location.
    """
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    if errors[0]["type"] == _NOT_JSON:
        return RequestError(400, "not_json", errors[0]["msg"])
    faults: dict[tuple[Any, str | None], str] = {}
    for fault in errors[:_MAX_FAULTS]:
        row, *column = fault["loc"][depth : depth + 2] or (None,)
        if not isinstance(row, int):
            row, column = None, [*fault["loc"]]
        # Of a value that may be written in two ways, the first error is the one to report.
        message = fault["msg"].removeprefix("Value error, ")
        faults.setdefault((row, ".".join(map(str, column)) or None), message)
    return reject([{"row": r, "column": c, "message": m} for (r, c), m in faults.items()])


def reject(faults: list[dict[str, Any]]) -> RequestError:
    """Return the answer to rows with faults, each as `{"row", "column", "message"}`."""
    first = faults[0]
    place = "" if first["row"] is None else f"row {first['row']} (counted from 0): "
    message = f"{place}{first['column'] or 'body'}: {first['message']}"
    return invalid(message, faults)


def unique_keys(content: bytes) -> Any:
    """Read JSON and refuse a key that occurs twice in an object, as its value is ambiguous.

    Raises:
        RequestError: A key occurs twice, or it is not JSON.
    """
    try:
        return json.loads(content, object_pairs_hook=_object)
    except RequestError:
        raise
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(400, "not_json", f"the body is not JSON: {reason}") from None


def _object(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise RequestError(400, "key_twice", "an object has a key twice: give each once")
    return row
