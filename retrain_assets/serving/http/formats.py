"""What clients of other servers send and expect: the Open Inference Protocol v2, Arrow.

They send raw rows, as `/predict` takes them.

What clients of `mlflow models serve` send and expect: features, as their model takes them.

Not here: MLflow's clients, who send features
(`invocations`), scoring, and the paths.
"""

import io
import math
import struct
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, cast

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from retrain_assets.domain.data.patterns import full_match
from retrain_assets.domain.data.rules import STORED
from retrain_assets.serving.scoring.request import (
    Contract,
    RequestError,
    Sent,
    count_rows,
    refusal,
    refused,
    unique_keys,
)
from retrain_assets.serving.scoring.score import Scored
from retrain_assets.serving.scoring.version import Version
from retrain_assets.specs.dataset import ColumnSpec

ARROW = "application/vnd.apache.arrow.stream"
# The first and last day and microsecond of the years 1 to 9999, from 1970 on.
_YEARS = {
    "date": (-719_162, 2_932_896),
    "datetime": (-62_135_596_800 * 10**6, 253_402_300_800 * 10**6 - 1),
}
_RECORDS, _DICTIONARY = 3, 2  # kinds of Arrow messages that hold rows
_Sent = TypeVar("_Sent", bound=BaseModel)
_V2_TYPES = {"int": "INT64", "float": "FP64", "bool": "BOOL"}
_V2_VALUES: dict[str, set[type]] = {"INT64": {int}, "FP64": {int, float}, "BOOL": {bool}}
_V2_VALUES |= {"INT32": {int}, "FP32": {int, float}, "BYTES": {str}}


class Tensor(BaseModel):
    """One column of a request of the Open Inference Protocol."""

    model_config = ConfigDict(strict=True)
    name: str
    shape: list[int] = Field(min_length=1, max_length=2)
    datatype: Literal["INT64", "INT32", "FP64", "FP32", "BOOL", "BYTES"]
    data: list[Any]


class Inference(BaseModel):
    """A request of the Open Inference Protocol: a tensor a column of raw rows."""

    model_config = ConfigDict(strict=True)
    id: str | None = None
    inputs: list[Tensor] = Field(min_length=1)


def read_inference(content: bytes, contract: Contract) -> tuple[str | None, Sent]:
    """The id and raw rows of a request of the Open Inference Protocol.

    Raises:
        RequestError: It is no such request, or a row breaks the contract.
    """
    sent = parsed(Inference, content)
    columns = {tensor.name: tensor for tensor in sent.inputs}
    lengths = {tensor.shape[0] for tensor in sent.inputs} | {len(t.data) for t in sent.inputs}
    if len(columns) < len(sent.inputs) or len(lengths) != 1:
        said = "give each column once, as a tensor of shape [rows], all of one length"
        raise RequestError(422, "invalid_rows", said)
    for tensor in sent.inputs:
        wrong = {*map(type, tensor.data)} - _V2_VALUES[tensor.datatype] - {NoneType}
        if wrong or tensor.shape[1:] not in ([], [1]):
            said = f"{tensor.name} does not hold {tensor.datatype} of shape [rows] as it says"
            raise RequestError(422, "invalid_rows", said)
    count_rows(lengths.pop(), contract.most)
    rows = zip(*(tensor.data for tensor in columns.values()), strict=True)
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    return sent.id, contract.read(to_json({"rows": found}))


def inference_answer(
    name: str, request: str, scored: Scored, found: list[dict[str, Any]]
) -> dict[str, Any]:
    """Predictions as tensors, in the Open Inference Protocol."""
    values = [row["prediction"] for row in found]
    text = scored.output.ndim > 1
    outputs = [_tensor("prediction", "BYTES" if text else "FP64", values)]
    outputs.append(_tensor("id", "BYTES", [row["id"] for row in found]))
    for place, known in enumerate(scored.version.classes or () if text else ()):
        outputs.append(_tensor(f"probability_{known}", "FP64", scored.output[:, place].tolist()))
    version = str(scored.version.number)
    return {"model_name": name, "model_version": version, "id": request, "outputs": outputs}


def _tensor(name: str, datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)], "datatype": datatype, "data": data}


def metadata(name: str, contract: Contract, version: Version) -> dict[str, Any]:
    """A model in the Open Inference Protocol."""
    inputs = [
        {"name": column, "datatype": _V2_TYPES.get(found.type, "BYTES"), "shape": [-1]}
        for column, found in contract.columns.items()
    ]
    text = version.classes is not None and len(version.classes) > 2  # noqa: PLR2004
    kinds = {"prediction": "BYTES" if text else "FP64", "id": "BYTES"}
    kinds |= {f"probability_{known}": "FP64" for known in version.classes or () if text}
    outputs = [{"name": key, "datatype": kind, "shape": [-1]} for key, kind in kinds.items()]
    known = {"name": name, "versions": [str(version.number)], "platform": "retrain_assets"}
    return known | {"inputs": inputs, "outputs": outputs}


def read_arrow(content: bytes, contract: Contract) -> pl.DataFrame:
    """Raw rows of an Arrow stream, by the contract that JSON is held against.

    Raises:
        RequestError: It is no Arrow stream, or a row breaks the contract.
    """
    try:
        if any(map(_is_compressed, pa.ipc.MessageReader.open_stream(content))):
            said = "compressed Arrow is not taken, as its size cannot be told: send it as it is"
            raise RequestError(415, "encoded", said)
        frame = pl.read_ipc_stream(io.BytesIO(content))
    except (pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError,
            struct.error) as error:  # fmt: skip
        raise RequestError(400, "not_arrow", "the body is no Arrow stream") from error
    count_rows(frame.height, contract.most)
    if different := set(frame.columns) ^ set(contract.columns):
        said = f"columns missing or not of the dataset: {', '.join(sorted(different))}"
        raise RequestError(422, "invalid_rows", said)
    return pl.DataFrame([_typed(frame, name, contract) for name in contract.columns])


def _typed(frame: pl.DataFrame, name: str, contract: Contract) -> pl.Series:
    column, values = contract.columns[name], frame[name]
    found = values
    given, wanted = values.dtype, STORED[column.type]
    fits = given.base_type() == wanted.base_type()
    fits |= column.type in ("int", "float") and given.is_integer()
    fits |= column.type == "float" and given.is_float()
    if wanted == pl.String and given in (pl.Categorical, pl.Enum):
        found = values.cast(pl.String)
    elif given != pl.Null and not fits:
        raise RequestError(422, "invalid_rows", f"{name} is {given}, it should be {column.type}")
    if isinstance(given, pl.Datetime) and given.time_zone is None:
        zone = contract.dataset.partition.timezone
        found = values.dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
    typed = found.cast(wanted, strict=False)
    if _is_sound(values, typed, column, required=contract.is_required(name)):
        return typed
    wrong = typed.is_null() & (values.is_not_null() | contract.is_required(name))
    if column.type in ("date", "datetime"):
        wrong |= typed.is_not_null() & ~typed.dt.year().is_between(1, 9999).fill_null(value=False)
    if column.type == "float":
        wrong |= ~typed.is_finite().fill_null(value=True)
    for bound, beyond in ((column.min, typed.lt), (column.max, typed.gt)):
        wrong |= beyond(bound).fill_null(value=False) if bound is not None else False
    if column.pattern is not None:
        wrong |= ~typed.str.contains(full_match(column.pattern)).fill_null(value=True)
    if (row := wrong.arg_max()) is not None and wrong.any():
        raise RequestError(
            422,
            "invalid_rows",
            f"row {row} (counted from 0): {name}: the value breaks the contract",
            [{"row": row, "column": name, "message": "the value breaks the contract"}],
        )
    return typed


def _is_sound(values: pl.Series, typed: pl.Series, column: ColumnSpec, *, required: bool) -> bool:
    """Whether no value can break the contract, by what takes microseconds for a whole column."""
    if typed.null_count() > (0 if required else values.null_count()) or column.pattern:
        return False
    if typed.null_count() == len(typed) or typed.dtype in (pl.String, pl.Boolean):
        return True
    found = typed.cast(pl.Int64) if column.type in _YEARS else typed  # `to_physical` takes 20 us
    low, high = _YEARS.get(column.type, (column.min, column.max))
    if column.type == "float" and not math.isfinite(found.sum()):
        return False
    least, most = cast("Any", found.min()), cast("Any", found.max())
    return (low is None or least >= low) and (high is None or most <= high)


def arrow_answer(scored: Scored, request: str) -> bytes:
    """Predictions as an Arrow stream: id, prediction, and each class's probability."""
    output, classes = scored.output, scored.version.classes or []
    made = {"id": _ids(request, len(output)), "prediction": output}
    if output.ndim > 1:
        made["prediction"] = pa.array([classes[place] for place in output.argmax(axis=1)])
        made |= {f"probability_{n}": output[:, at] for at, n in enumerate(classes)}
    batch, sink = pa.record_batch(made), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


def _ids(request: str, count: int) -> pa.Array:
    """The id of each prediction of a request, for many at once."""
    suffixes, ends = _suffixes(count.bit_length())
    ends = ends[: count + 1] + len(request) * np.arange(count + 1)
    content = request.join(suffixes[: count + 1]).encode()
    return pa.LargeStringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(content))


@cache
def _suffixes(bits: int) -> tuple[list[str], np.ndarray]:
    found = ["", *(f"-{place}" for place in range(2**bits))]
    return found, np.cumsum([len(one) for one in found])


def parsed(kind: type[_Sent], content: bytes) -> _Sent:
    """A body of a known form.

    Raises:
        RequestError: It is not JSON, a key is given twice, or it has another form.
    """
    unique_keys(content)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise refusal(error, len(error.errors()[0]["loc"])) from None


def _is_compressed(message: Any) -> bool:
    """Whether a message's body is packed, read from its flatbuffer since nothing else tells.

    A small body could otherwise unpack to more than there is memory.
    """
    data = message.metadata.to_pybytes()

    def field(table: int, number: int) -> int:
        (back,) = struct.unpack_from("<i", data, table)
        (size,) = struct.unpack_from("<H", data, table - back)
        at = 4 + 2 * number
        (offset,) = struct.unpack_from("<H", data, table - back + at) if at < size else (0,)
        return table + offset if offset else 0

    def follow(place: int) -> int:
        return place + int(struct.unpack_from("<I", data, place)[0])

    root = follow(0)
    kind = data[field(root, 1)]
    if kind not in (_RECORDS, _DICTIONARY):
        return False
    header = follow(field(root, 2))
    return bool(field(follow(field(header, 1)) if kind == _DICTIONARY else header, 3))


_NUMBERS = TypeAdapter(list[Annotated[float, Field(strict=True, allow_inf_nan=False)] | None])
_TEXTS = TypeAdapter(list[Annotated[str, Field(strict=True)] | None])


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Split(_Strict):
    """Column names beside rows of values."""

    columns: list[str]
    data: list[list[Any]]


class Invocation(_Strict):
    """What a client of `mlflow models serve` sends; one of the forms, each of features."""

    dataframe_split: Split | None = None
    dataframe_records: list[dict[str, Any]] | None = None
    inputs: dict[str, list[Any]] | list[dict[str, Any]] | None = None
    instances: list[dict[str, Any]] | None = None
    params: dict[str, Any] | None = None


def read_invocation(content: bytes, version: Version, most: int) -> pl.DataFrame:
    """Features as MLflow's clients send them; further columns are not looked at.

    Raises:
        RequestError: It is none of the forms, a feature is missing or of another type.
    """
    sent = parsed(Invocation, content)
    forms = [form for name, form in sent if name != "params" and form is not None]
    if len(forms) != 1:
        said = "give one of dataframe_split, dataframe_records, inputs or instances"
        raise RequestError(422, "invalid_rows", said)
    columns = _columns(forms[0], version.columns, most)
    made = []
    for name, kind in version.schema.items():
        takes: TypeAdapter[Any] = _TEXTS if kind == pl.String else _NUMBERS
        try:
            values = takes.validate_python(columns[name])
        except ValidationError as error:
            (fault, *_) = error.errors(include_url=False, include_input=False)
            told = {"row": fault["loc"][0], "column": name, "message": fault["msg"]}
            raise refused([told]) from None
        made.append(pl.Series(name, values, dtype=kind))
    return pl.DataFrame(made)


def _columns(form: Any, names: list[str], most: int) -> dict[str, list[Any]]:
    if isinstance(form, Split):
        count_rows(len(form.data), most)
        count = len(form.columns)
        if len(set(form.columns)) < count:
            raise RequestError(422, "invalid_rows", "columns has a name twice: give each once")
        for place, values in enumerate(form.data):
            if len(values) != count:
                said = f"it has {len(values)} values for {count} columns"
                raise refused([{"row": place, "column": None, "message": said}])
        rows = [dict(zip(form.columns, row, strict=True)) for row in form.data]
    elif isinstance(form, list):
        count_rows(len(form), most)
        rows = form
    else:
        missing = [name for name in names if name not in form]
        lengths = {len(form[name]) for name in names if name in form}
        if missing or len(lengths) != 1:
            said = f"inputs lacks {', '.join(missing)}" if missing else "columns differ in length"
            raise RequestError(422, "invalid_rows", said)
        count_rows(lengths.pop(), most)
        return {name: form[name] for name in names}
    for place, row in enumerate(rows):
        if missing := [name for name in names if name not in row]:
            said = f"row {place} (counted from 0) lacks {', '.join(missing)}"
            raise RequestError(422, "invalid_rows", said)
    return {name: [row[name] for row in rows] for name in names}


def invocation_answer(scored: Scored) -> dict[str, Any]:
    """What `mlflow models serve` answers: the class, or the number of a regression."""
    output, classes = scored.output, scored.version.pipeline
    if scored.version.classes is None:
        return {"predictions": output.tolist()}
    place = (output > 0.5).astype(int) if output.ndim == 1 else output.argmax(axis=1)  # noqa: PLR2004
    return {"predictions": classes.classes_[place].tolist()}
