"""What a request may hold: raw rows of a dataset as they land, by its contract.

The types are pydantic's, so that what is checked and what OpenAPI shows are one thing. What landing
would quarantine is refused; a text outside `allowed` is not, since a model takes it for one that it
has never seen, and says so. Not here: features, and the transport.
"""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
from pydantic import (
    ConfigDict,
    FailFast,
    Field,
    GetPydanticSchema,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import core_schema, to_json
from typing_extensions import TypedDict

from retrain_assets.domain.data.patterns import full_match
from retrain_assets.domain.data.rules import STORED
from retrain_assets.specs.dataset import ColumnSpec, DatasetSpec

Row = dict[str, Any]
Sent = list[Row] | pl.DataFrame
_INT64 = 2**63
_NOT_JSON = "json_invalid"
_SHOWN = 20
MANY = 64  # rows that are a frame from here on
_TYPED_DICT: Any = TypedDict  # made of names that are known when the service starts
# A time is written as ISO 8601 and not as seconds, which pydantic would take too.
_ISO = core_schema.custom_error_schema(
    core_schema.str_schema(pattern="(?s).-", strict=True),
    "not_iso",
    custom_error_message="Value error, Input should be ISO 8601, such as 2013-01-31 or "
    "2013-01-31T12:00:00Z",
)


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        status: Of HTTP.
        code: What it is, for programs.
        message: What was wrong and what would do.
        faults: Where in the rows, as `{"row", "column", "message"}`.
    """

    def __init__(
        self, status: int, code: str, message: str, faults: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.faults = faults or []

    def body(self) -> dict[str, Any]:
        """The error as it is answered."""
        found: dict[str, Any] = {"code": self.code, "message": self.message}
        return {"error": found | ({"rows": self.faults} if self.faults else {})}


def _typed(name: str, fields: dict[str, Any]) -> Any:
    """A dict with just these keys."""
    made = _TYPED_DICT(name, fields)
    made.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    return made


def _bodies(types: dict[str, Any]) -> TypeAdapter[dict[str, list[Row]]]:
    several: Any = list[_typed("Row", types)]  # type: ignore[misc]
    # The first row that is wrong tells enough.
    return TypeAdapter(_typed("Body", {"rows": Annotated[several, FailFast()]}))


class Contract:
    """Rows of a dataset in a request: every column that is known before the prediction.

    Args:
        dataset: Whose rows are predicted.
        most: How many rows a request may hold.
    """

    def __init__(self, dataset: DatasetSpec, most: int) -> None:
        self.dataset, self._zone = dataset, ZoneInfo(dataset.partition.timezone)
        self.columns = {
            name: column
            for name, column in dataset.file_columns.items()
            if column.known == "before"
        }
        required = {name: self.is_required(name) for name in self.columns}
        types = {
            name: _type(found, required=required[name]) for name, found in self.columns.items()
        }
        self.most = most
        self._timed = [name for name, found in self.columns.items() if found.type == "datetime"]
        unquoted = ("int", "float", "bool")
        self._quoted = [name for name, found in self.columns.items() if found.type not in unquoted]
        schema = {name: STORED[found.type] for name, found in self.columns.items()}
        self._arrow = pl.DataFrame(schema=schema).to_arrow().schema
        self._row: TypeAdapter[Row] = TypeAdapter(_typed("Row", types))
        self._body = _bodies(types)
        # Of many rows the texts of times are read once each.
        self._texts: dict[str, TypeAdapter[list[Any]]] = {
            name: TypeAdapter(list[types[name]])  # type: ignore[valid-type]
            for name, found in self.columns.items()
            if found.type in ("date", "datetime")
        }
        texts = {name: str if required[name] else str | None for name in self._texts}
        self._light = _bodies(types | texts)

    def is_required(self, name: str) -> bool:
        """Whether a column must have a value."""
        must = {*self.dataset.key, self.dataset.partition.column}
        return self.columns[name].required or name in must

    def schema(self) -> dict[str, Any]:
        """One row as JSON schema."""
        return self._row.json_schema()

    def read(self, content: bytes) -> Sent:
        """The rows of `{"rows": [{…}, …]}`; many of them as a frame.

        Raises:
            RequestError: It is not JSON, a key is given twice, or a row breaks the contract.
        """
        frame = self._frame(content) if content.count(b"{") > MANY else None
        rows: Sent = self._few(content) if frame is None else frame
        count_rows(len(rows), self.most)
        quoted = len(rows) * (len(self.columns) + len(self._quoted))
        quoted -= sum(
            [row[name] for row in rows].count(None)
            if isinstance(rows, list)
            else rows[name].null_count()
            for name in self._quoted
        )
        if b"\\" in content or content.count(b'"') != 2 * (1 + quoted):
            unique_keys(content)  # there are more texts than keys and values, or none can be told
        return rows

    def _few(self, content: bytes) -> list[Row]:
        try:
            return self._in_utc(self._body.validate_json(content)["rows"])
        except ValidationError as error:
            raise refusal(error, 1) from None

    def _frame(self, content: bytes) -> pl.DataFrame | None:
        """The rows of a body as a frame; None where something is wrong, which `_few` then tells."""
        try:
            rows = self._light.validate_json(content)["rows"]
            columns = zip(*(row.values() for row in rows), strict=True)
            series = [self._series(*each) for each in zip(self._arrow, columns, strict=True)]
        except (ValueError, OverflowError):
            return None
        return pl.DataFrame(series)

    def _series(self, field: pa.Field, values: Sequence[Any]) -> pl.Series:
        if field.name not in self._texts:
            return pl.Series(field.name, pa.array(values, field.type))
        places = {text: place for place, text in enumerate(dict.fromkeys(values))}
        read = self._texts[field.name].validate_json(to_json([*places]))
        if field.name in self._timed:
            read = [self._utc(at) for at in read]
        known = pl.Series(field.name, pa.array(read, field.type))
        return known[pl.Series([places[text] for text in values], dtype=pl.UInt32)]

    def _utc(self, at: datetime | None) -> datetime | None:
        """A time without offset is local to the dataset's time zone, as in its files."""
        return at and self._zoned(at).astimezone(UTC)

    def _in_utc(self, rows: list[Row]) -> list[Row]:
        for name in self._timed:
            for place, row in enumerate(rows):
                try:
                    row[name] = self._utc(row[name])
                except (OverflowError, ValueError) as error:
                    said = f"Value error, {error}"
                    if isinstance(error, OverflowError):
                        said = "Value error, Input should be a year from 1 to 9999"
                    raise refused([{"row": place, "column": name, "message": said}]) from None
        return rows

    def _zoned(self, at: datetime) -> datetime:
        """A time with its offset; a local hour that a clock skips or repeats has none."""
        if at.tzinfo:
            return at
        local = at.replace(tzinfo=self._zone)
        if local.utcoffset() != local.replace(fold=1).utcoffset():
            raise ValueError(f"clocks in {self._zone} skip or repeat that hour: give its offset")
        return local


def count_rows(count: int, most: int) -> None:
    """Refuse no rows and too many.

    Raises:
        RequestError: 422 or 413.
    """
    if count == 0:
        raise RequestError(422, "no_rows", "there are no rows: give at least one")
    if count > most:
        raise RequestError(413, "too_many_rows", f"{count} rows: at most {most} go in a request")


def refusal(error: ValidationError, depth: int) -> RequestError:
    """What to answer to a body that pydantic refused; values are not repeated.

    Args:
        error: What it said.
        depth: At which place of a location the number of the row stands.
    """
    found = error.errors(include_url=False, include_input=False, include_context=False)
    if found[0]["type"] == _NOT_JSON:
        return RequestError(400, "not_json", found[0]["msg"])
    faults = []
    for fault in found[:_SHOWN]:
        row, *column = fault["loc"][depth:] or (None,)
        where = {"row": row, "column": ".".join(map(str, column)) or None}
        if not isinstance(row, int):
            where = {"row": None, "column": ".".join(map(str, fault["loc"])) or None}
        faults.append({**where, "message": fault["msg"]})
    return refused(faults)


def refused(faults: list[dict[str, Any]]) -> RequestError:
    """What to answer to rows with faults, each as `{"row", "column", "message"}`."""
    first = faults[0]
    place = "" if first["row"] is None else f"row {first['row']} (counted from 0): "
    message = f"{place}{first['column'] or 'body'}: {first['message']}"
    return RequestError(422, "invalid_rows", message, faults)


def unique_keys(content: bytes) -> Any:
    """JSON in which no object has a key twice: which value is meant could not be told.

    Raises:
        RequestError: It has one, or is not JSON.
    """
    try:
        return json.loads(content, object_pairs_hook=_object)
    except RequestError:
        raise
    except (ValueError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(400, "not_json", f"the body is not JSON: {said}") from None


def _object(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RequestError(400, "key_twice", "an object has a key twice: give each once")
    return found


def _type(column: ColumnSpec, *, required: bool) -> Any:
    bounds: dict[str, Any] = {"ge": column.min, "le": column.max}
    kinds: dict[str, Any] = {
        "int": Annotated[int, Field(**_whole(bounds))],
        "float": Annotated[float, Field(allow_inf_nan=False, **bounds)],
        "bool": bool,
        "date": _iso(date, core_schema.date_schema(strict=False), "date"),
        "datetime": _iso(datetime, core_schema.datetime_schema(strict=False), "date-time"),
    }
    # Anchors that OpenAPI's regular expressions know too.
    pattern = column.pattern and full_match(column.pattern, begin="^", end="$")
    kind = kinds.get(column.type, Annotated[str, Field(pattern=pattern)])
    return kind if required else kind | None


def _whole(bounds: dict[str, Any]) -> dict[str, Any]:
    low, high = bounds["ge"], bounds["le"]
    return {"ge": -_INT64 if low is None else low, "le": _INT64 - 1 if high is None else high}


def _iso(kind: type[date], read: core_schema.CoreSchema, name: str) -> Any:
    """A text that is read as a time, without Python code for each value."""
    steps = core_schema.chain_schema([_ISO, read])
    shown = WithJsonSchema({"type": "string", "format": name})
    return Annotated[kind, GetPydanticSchema(lambda *_: steps), shown]
