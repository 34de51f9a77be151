"""The formats of other servers: the Open Inference Protocol v2, Arrow, and MLflow's.

The first two hold raw rows, as `/predict` takes them; the clients of `mlflow models serve` send
features, as their model takes them. Not here: scoring, and the paths.
"""

import io
import struct
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field, StrictBool, StrictStr, TypeAdapter, ValidationError
from pydantic_core import to_json

from retrain_assets.serving.scoring import request as requests
from retrain_assets.serving.scoring.request import Contract, RequestError, RequestRows
from retrain_assets.serving.scoring.score import Scored
from retrain_assets.serving.scoring.served_model import Serving, Version

ARROW = "application/vnd.apache.arrow.stream"
ENDS = ("low", "high")  # of an interval
_RECORDS, _DICTIONARY = 3, 2  # kinds of Arrow messages that hold rows
_Body = TypeVar("_Body", bound=BaseModel)
_V2_TYPES = {"int": "INT64", "float": "FP64", "bool": "BOOL"}
_V2_VALUES: dict[str, set[type]] = {"INT64": {int}, "FP64": {int, float}, "BOOL": {bool}}
_V2_VALUES |= {"INT32": {int}, "FP32": {int, float}, "BYTES": {str}}
_V2_PACKED = {"INT64": "<i8", "INT32": "<i4", "FP64": "<f8", "FP32": "<f4", "BOOL": "?"}
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_NUMBERS: TypeAdapter[Any] = TypeAdapter(list[_Number | None])
_BOOLEANS: TypeAdapter[Any] = TypeAdapter(list[StrictBool | _Number | None])
_TEXTS: TypeAdapter[Any] = TypeAdapter(list[StrictStr | None])


class Size(BaseModel, strict=True):
    """The number of bytes of a tensor whose data stand behind the JSON."""

    binary_data_size: int | None = Field(None, ge=0)


class Tensor(BaseModel, strict=True):
    """One column of a request of the Open Inference Protocol."""

    name: str
    shape: list[int] = Field(min_length=1, max_length=2)
    datatype: Literal["INT64", "INT32", "FP64", "FP32", "BOOL", "BYTES"]
    data: list[Any] = []
    parameters: Size = Size()


class Packing(BaseModel, strict=True):
    """The choice of tensors of the answer that stand behind its JSON."""

    binary_data: bool | None = None  # of one output
    binary_data_output: bool = False  # of all others


class Output(BaseModel, strict=True):
    """A tensor of the answer."""

    name: str
    parameters: Packing = Packing()


class Inference(BaseModel, strict=True):
    """A request of the Open Inference Protocol: one tensor for each column of raw rows."""

    id: str | None = None
    inputs: list[Tensor] = Field(min_length=1)
    outputs: list[Output] = []
    parameters: Packing = Packing()

    def is_packed(self, output: str) -> bool:
        """Tell if an output is to stand behind the JSON of the answer."""
        packings = [part.parameters.binary_data for part in self.outputs if part.name == output]
        packing = packings[0] if packings else None
        return self.parameters.binary_data_output if packing is None else packing


class Split(BaseModel, extra="forbid", strict=True):
    """Column names and rows of values."""

    columns: list[str]
    data: list[list[Any]]


class Invocation(BaseModel, extra="forbid", strict=True):
    """A request of a client of `mlflow models serve`: features in one of four forms."""

    dataframe_split: Split | None = None
    dataframe_records: list[dict[str, Any]] | None = None
    inputs: dict[str, list[Any]] | list[dict[str, Any]] | None = None
    instances: list[dict[str, Any]] | None = None
    params: dict[str, Any] | None = None


def read_inference(
    content: bytes, header_length: str, contract: Contract
) -> tuple[Inference, RequestRows]:
    """Read the raw rows of a request of the Open Inference Protocol.

    Args:
        content: JSON, and behind it the bytes of the tensors whose parameters give their size.
        header_length: Length of the JSON in bytes; empty if nothing stands behind it.
        contract: What the rows may hold.

    Raises:
        RequestError: It is no such request, or a row breaks the contract.
    """
    length = int(header_length[:20]) if header_length.isdecimal() else len(content)
    inference = _read_body(Inference, content[:length])
    _unpack_tensors(inference.inputs, content[length:], contract.most)
    columns = {tensor.name: tensor for tensor in inference.inputs}
    lengths = {n for tensor in inference.inputs for n in (len(tensor.data), tensor.shape[0])}
    if len(columns) < len(inference.inputs) or len(lengths) != 1:
        message = "give each column once, as a tensor of shape [rows], all of one length"
        raise requests.invalid(message)
    for tensor in inference.inputs:
        wrong = {*map(type, tensor.data)} - _V2_VALUES[tensor.datatype] - {NoneType}
        if wrong or tensor.shape[1:] not in ([], [1]):
            message = f"{tensor.name} does not hold {tensor.datatype} of shape [rows] as it says"
            raise requests.invalid(message)
    values = zip(*(tensor.data for tensor in columns.values()), strict=True)
    rows = [dict(zip(columns, row, strict=True)) for row in values]
    return inference, contract.read(to_json({"rows": rows}))


def _unpack_tensors(tensors: list[Tensor], packed: bytes, most: int) -> None:
    """Give each tensor its data from the bytes behind the JSON, in the order of the tensors.

    Raises:
        RequestError: The bytes are not what the tensors say.
    """
    for tensor in tensors:
        size = tensor.parameters.binary_data_size
        if size is None:
            continue
        requests.count_rows(tensor.shape[0], most)
        content, packed = packed[:size], packed[size:]
        try:
            if tensor.datatype == "BYTES":
                tensor.data = _unpack_texts(content, tensor.shape[0])
            else:
                tensor.data = np.frombuffer(content, _V2_PACKED[tensor.datatype]).tolist()
        except (ValueError, struct.error) as error:
            message = f"{tensor.name} cannot be unpacked as {tensor.datatype}: {error}"
            raise requests.invalid(message) from error
    if packed:
        raise requests.invalid("more bytes stand behind the JSON than the tensors say")


def _unpack_texts(packed: bytes, most: int) -> list[str]:
    """Return texts that are stored as a length of four bytes and UTF-8 each."""
    texts: list[str] = []
    place = 0
    while place < len(packed) and len(texts) <= most:
        (size,) = struct.unpack_from("<I", packed, place)
        texts.append(packed[place + 4 : place + 4 + size].decode())
        place += 4 + size
    if place > len(packed):
        raise ValueError("it is cut off")
    return texts


def inference_answer(
    name: str, request: str, inference: Inference, scored: Scored, rows: list[dict[str, Any]]
) -> tuple[dict[str, Any], bytes]:
    """Return predictions as tensors, in the Open Inference Protocol.

    Returns:
        The JSON, and the bytes to stand behind it.
    """
    values: dict[str, list[Any]] = {
        "prediction": [row["prediction"] for row in rows],
        "id": [row["id"] for row in rows],
    }
    if scored.output.ndim > 1:
        values |= _probabilities(scored.version, scored.output.T.tolist())
    values |= {name: column.tolist() for name, column in _ends(scored).items()}
    outputs: list[dict[str, Any]] = []
    packed = b""
    for key, kind in _outputs(scored.version, scored.half_width).items():
        output = {"name": key, "shape": [len(values[key])], "datatype": kind}
        if inference.is_packed(key):
            content = _pack(kind, values[key])
            packed += content
            outputs.append(output | {"parameters": {"binary_data_size": len(content)}})
        else:
            outputs.append(output | {"data": values[key]})
    version = str(scored.version.number)
    answer: dict[str, Any] = {"model_name": name, "model_version": version}
    answer["id"] = inference.id or request
    if scored.layer is not None:
        answer["parameters"] = {"state": scored.layer}
    return answer | {"outputs": outputs}, packed


def _pack(kind: str, values: list[Any]) -> bytes:
    if kind != "BYTES":
        return np.array(values, _V2_PACKED[kind]).tobytes()
    texts = (str(value).encode() for value in values)
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def metadata(name: str, contract: Contract, serving: Serving) -> dict[str, Any]:
    """Describe a model in the Open Inference Protocol."""
    inputs = {n: _V2_TYPES.get(column.type, "BYTES") for n, column in contract.columns.items()}
    outputs = _outputs(serving.version, serving.half_width)
    tensors = {
        side: [{"name": key, "datatype": kind, "shape": [-1]} for key, kind in kinds.items()]
        for side, kinds in (("inputs", inputs), ("outputs", outputs))
    }
    versions = [str(serving.version.number)]
    return {"name": name, "versions": versions, "platform": "retrain_assets", **tensors}


def _outputs(version: Version, half_width: float | None) -> dict[str, str]:
    """Return the tensors of an answer with their types; probabilities for several classes only."""
    classes = version.classes or []
    several = len(classes) > 2  # noqa: PLR2004
    kinds = {"prediction": "BYTES" if several else "FP64", "id": "BYTES"}
    kinds |= dict.fromkeys(() if half_width is None else ENDS, "FP64")
    return kinds | dict.fromkeys(_probabilities(version, classes) if several else (), "FP64")


def _ends(scored: Scored) -> dict[str, np.ndarray]:
    """Return both ends of the intervals, if there are any."""
    if scored.half_width is None:
        return {}
    ends = scored.output - scored.half_width, scored.output + scored.half_width
    return dict(zip(ENDS, ends, strict=True))


def _probabilities(version: Version, columns: Any) -> dict[str, Any]:
    """Name the columns of probabilities."""
    classes = version.classes or []
    return {f"probability_{n}": column for n, column in zip(classes, columns, strict=True)}


def read_arrow(content: bytes, contract: Contract) -> pl.DataFrame:
    """Read the raw rows of an Arrow stream.

    Raises:
        RequestError: It is no Arrow stream, or a row breaks the contract.
    """
    try:
        if any(map(_is_compressed, pa.ipc.MessageReader.open_stream(content))):
            message = "compressed Arrow is refused, as its size is unknown: send it uncompressed"
            raise RequestError(415, "encoded", message)
        frame = pl.read_ipc_stream(io.BytesIO(content))
    except (pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError,
            struct.error) as error:  # fmt: skip
        raise RequestError(400, "not_arrow", "the body is not an Arrow stream") from error
    return contract.check(frame)


def arrow_answer(scored: Scored, request: str) -> bytes:
    """Return predictions as an Arrow stream: id, prediction, interval, probability of classes."""
    output, classes = scored.output, scored.version.classes or []
    places = pa.array(np.arange(len(output))).cast(pa.string())
    ids = pc.binary_join_element_wise(request, places, "-").cast(pa.large_string())
    columns = {"id": ids, "prediction": output, **_ends(scored)}
    if output.ndim > 1:
        columns["prediction"] = pa.array([classes[place] for place in output.argmax(axis=1)])
        columns |= _probabilities(scored.version, output.T)
    batch, sink = pa.record_batch(columns), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


def read_invocation(content: bytes, version: Version, most: int) -> dict[str, list[Any]]:
    """Read features, by column, as the clients of MLflow send them; further columns are ignored.

    Raises:
        RequestError: It is none of the forms, or a feature is missing or of another type.
    """
    invocation = _read_body(Invocation, content)
    forms = [form for name, form in invocation if name != "params" and form is not None]
    if len(forms) != 1:
        message = "give one of dataframe_split, dataframe_records, inputs or instances"
        raise requests.invalid(message)
    columns = _columns(forms[0], version.columns, most)
    for name, kind in version.schema.items():
        adapter = _BOOLEANS if name in version.booleans else _NUMBERS
        adapter = _TEXTS if kind == pl.String else adapter
        try:
            columns[name] = adapter.validate_python(columns[name])
        except ValidationError as error:
            (fault, *_) = error.errors(include_url=False, include_input=False)
            where = {"row": fault["loc"][0], "column": name}
            raise requests.reject([{**where, "message": fault["msg"]}]) from None
    return columns


def _columns(form: Any, names: list[str], most: int) -> dict[str, list[Any]]:
    """Return the features by column, whatever the form."""
    if isinstance(form, Split):
        if len({*form.columns}) < len(form.columns):
            raise requests.invalid("columns has a name twice: give each once")
        if {*map(len, form.data)} - {len(form.columns)}:
            raise requests.invalid(
                f"each row of data should have {len(form.columns)} values, as columns"
            )
        form = [dict(zip(form.columns, row, strict=True)) for row in form.data]
    if isinstance(form, list):
        requests.count_rows(len(form), most)
        for place, row in enumerate(form):
            if missing := [name for name in names if name not in row]:
                raise requests.invalid(f"row {place} (counted from 0) lacks {', '.join(missing)}")
        form = {name: [row[name] for row in form] for name in names}
    if missing := [name for name in names if name not in form]:
        raise requests.invalid(f"inputs lacks {', '.join(missing)}")
    lengths = {len(form[name]) for name in names}
    if len(lengths) != 1:
        raise requests.invalid("columns differ in length")
    requests.count_rows(lengths.pop(), most)
    return {name: form[name] for name in names}


def invocation_answer(scored: Scored) -> dict[str, Any]:
    """Return predictions as `mlflow models serve` does: classes, or numbers of a regression.

    The ends of intervals stand beside them, since its clients read the predictions only.
    """
    output, pipeline = scored.output, scored.version.pipeline
    if scored.version.classes is None:
        ends = {name: column.tolist() for name, column in _ends(scored).items()}
        return {"predictions": output.tolist(), **ends}
    place = (output > 0.5).astype(int) if output.ndim == 1 else output.argmax(axis=1)  # noqa: PLR2004
    return {"predictions": pipeline.classes_[place].tolist()}


def _read_body(kind: type[_Body], content: bytes) -> _Body:
    """Read a body of a fixed form.

    Raises:
        RequestError: It is not JSON, a key occurs twice, or it has another form.
    """
    requests.unique_keys(content)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise requests.refusal(error, len(error.errors()[0]["loc"])) from None


def _is_compressed(message: Any) -> bool:
    """Return whether the body of a message is compressed, which only its flatbuffer says.

    Otherwise a small body could unpack to more than the memory holds.
    """
    data = message.metadata.to_pybytes()

    def read(form: str, place: int) -> int:
        return int(struct.unpack_from(form, data, place)[0])

    def field(table: int, number: int) -> int:
        fields, place = table - read("<i", table), 4 + 2 * number
        offset = read("<H", fields + place) if place < read("<H", fields) else 0
        return table + offset if offset else 0

    def follow(place: int) -> int:
        return place + read("<I", place)

    root = follow(0)
    kind = data[field(root, 1)]
    if kind not in (_RECORDS, _DICTIONARY):
        return False
    header = follow(field(root, 2))
    return bool(field(follow(field(header, 1)) if kind == _DICTIONARY else header, 3))
