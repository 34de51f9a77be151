"""A file of the prediction log, read back as rows of its table.

The prediction log: what was answered, to which features, by which version.

Not here: writing it, and bringing it into the table (`log`).
"""

import errno
import fcntl
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pyarrow as pa
from pydantic_core import from_json, to_json

from retrain_assets.domain.data.contract import UNPLACED
from retrain_assets.domain.data.rules import PARTITION, STORED, Type, partition_of
from retrain_assets.domain.features.build import KEY
from retrain_assets.serving.scoring.request import RequestError, Sent
from retrain_assets.serving.scoring.score import Scored
from retrain_assets.serving.scoring.version import Version
from retrain_assets.specs.dataset import ColumnType, DatasetSpec
from retrain_assets.steps.state import ModelState

SEGMENT = "_segment"
_TIMES = ("date", "datetime")


def kept(path: Path, dataset: DatasetSpec) -> pl.DataFrame:
    """The predictions of a file; a record that was cut off was not answered."""
    first, _, rest = path.read_bytes().partition(b"\n")
    if not rest:
        return pl.DataFrame()
    head = from_json(first)
    columns = {n: pl.String() if is_text else pl.Float64() for n, is_text in head["features"]}
    output = pl.List(pl.Float64) if head["several"] else pl.Float64()
    kinds = {name: dataset.columns[name].type for name in head["named"]}
    rows = _of_arrow(rest) if head["arrow"] else _of_json(rest, kinds, columns, output)
    if rows.is_empty():
        return pl.DataFrame()
    return rows.select(
        *_placed(rows.select(pl.col(f"_key_{name}").alias(name) for name in kinds), dataset),
        pl.lit(path.stem).alias(SEGMENT),
        pl.concat_str("_id", pl.lit("-"), "_place").alias("_id"),
        "_time",
        pl.lit(head["role"]).alias("_role"),
        pl.lit(head["version"], pl.Int64).alias("_version"),
        pl.col("_prediction").cast(output),
        *(pl.col(name).cast(kind) for name, kind in columns.items()),
    )


def _of_arrow(content: bytes) -> pl.DataFrame:
    source, tables, told = pa.BufferReader(content), [], []
    while (end := content.find(b"\n", source.tell()) + 1) > 0:
        line = from_json(content[source.tell() : end])
        source.seek(end)
        try:
            tables.append(pa.ipc.open_stream(source).read_all())
        except (pa.ArrowException, OSError):
            break
        told.append({**line, "_count": tables[-1].num_rows})
    if not told:
        return pl.DataFrame()
    time, place = _read(pl.col("_time"), "datetime"), pl.int_ranges("_count").alias("_place")
    each = pl.DataFrame(told).select("_id", time, place).explode("_place", empty_as_null=False)
    rows = pl.DataFrame(pa.concat_tables(tables, promote_options="permissive"))
    return rows.hstack(each)


def _of_json(
    content: bytes, kinds: Mapping[str, ColumnType], columns: Mapping[str, Type], output: Type
) -> pl.DataFrame:
    stored = {f"_key_{n}": pl.String if k in _TIMES else STORED[k] for n, k in kinds.items()}
    listed = {name: pl.List(kind) for name, kind in {**stored, **columns}.items()}
    schema = {"_id": pl.String(), "_time": pl.String(), "_prediction": pl.List(output), **listed}
    lines = content[: content.rfind(b"\n") + 1]
    found = pl.read_ndjson(lines, schema=schema) if lines else pl.DataFrame(schema=schema)
    place = pl.int_ranges(pl.col("_prediction").list.len()).alias("_place")
    rows = found.with_columns(place).explode("_prediction", "_place", *listed, empty_as_null=False)
    read = [_read(pl.col(f"_key_{name}"), kind) for name, kind in kinds.items()]
    return rows.with_columns(_read(pl.col("_time"), "datetime"), *read)


def _read(text: pl.Expr, kind: str) -> pl.Expr:
    if kind == "date":
        return text.str.to_date("%Y-%m-%d")
    return (
        text.str.to_datetime("%+", time_unit="us", time_zone="UTC") if kind == "datetime" else text
    )


def _placed(keys: pl.DataFrame, dataset: DatasetSpec) -> list[pl.Series]:
    """Partition and key of each row, as the features table has them."""
    whole = [pl.col(name).cast(pl.String) for name in dataset.key]
    partition = partition_of(dataset.partition, dataset.partition.column or "")
    placed = keys.select(
        partition.fill_null(UNPLACED).alias(PARTITION),
        pl.concat_str(whole, separator="|").alias(KEY),
    )
    return placed.get_columns()


TABLE = "prediction_log"
SEGMENT_BYTES, TOGETHER = 16 * 2**20, 4  # of a file, files of a commit
LIVE, SHADOW = "production", "shadow"
_TRIES, _NEW = 3, os.O_WRONLY | os.O_CREAT | os.O_APPEND


@dataclass
class _Segment:
    """A file that is being written."""

    path: Path
    descriptor: int
    size: int = 0


class PredictionLog:
    """The log of all models of a service.

    Args:
        folder: Where files wait for the table.
        states: The models, by name.
        most_bytes: How much may wait before requests are refused.
        elsewhere: A process that stores, so that answering does not wait for it; this one does
            without it or when it is gone.
    """

    def __init__(
        self,
        folder: Path,
        states: Mapping[str, ModelState],
        most_bytes: int,
        elsewhere: Executor | None = None,
    ) -> None:
        self._folder, self._states, self._most = folder, states, most_bytes
        self._elsewhere = elsewhere
        self._open: dict[tuple[str, int, str, bool], _Segment] = {}
        self._lock = threading.Lock()
        self.backlog_bytes = self._waiting_bytes()

    def write(self, model: str, request: str, at: datetime, rows: Sent, scored: Scored) -> None:
        """Keep the predictions of a request, which has not been answered yet.

        Args:
            model: Its name.
            request: Its id.
            at: When it came.
            rows: Raw rows; none where features were sent. A frame is kept as Arrow.
            scored: What is answered.

        Raises:
            RequestError: They cannot be kept, so that it must not be answered.
        """
        if self.backlog_bytes > self._most:
            said = "predictions wait for storage up to the bound: try again when it is back"
            raise RequestError(503, "backlog", said)
        named = _named(self._states[model].dataset)
        for role, part in ((LIVE, scored), (SHADOW, scored.shadow)):
            if part is None:
                continue
            if isinstance(rows, pl.DataFrame):
                record = _as_arrow(request, at, [rows[name] for name in named], part)
                self._append(model, part.version, role, record, arrow=True)
            else:
                keys = {name: [row.get(name) for row in rows] for name in named}
                record = _as_json(request, at, keys, part)
                self._append(model, part.version, role, record, arrow=False)

    def flush(self) -> int:
        """Bring what waits into the tables, also what an earlier process left.

        Returns:
            How many files were stored.
        """
        stored = self._store_closed()
        with self._lock:
            for segment in self._open.values():
                os.close(segment.descriptor)  # which unlocks it
            self._open.clear()
        stored += self._store_closed()
        self.backlog_bytes = self._waiting_bytes()
        return stored

    def _store_closed(self) -> int:
        if self._elsewhere is not None:
            with suppress(BrokenExecutor):
                return self._elsewhere.submit(_store_closed, self._folder, self._states).result()
        return _store_closed(self._folder, self._states)

    def _append(
        self, model: str, version: Version, role: str, record: bytes, *, arrow: bool
    ) -> None:
        with self._lock:
            key = (model, version.number, role, arrow)
            segment = self._open.get(key)
            try:
                if segment is not None and segment.size > SEGMENT_BYTES:
                    os.close(self._open.pop(key).descriptor)  # which lets it be stored
                    segment = None
                if segment is None:
                    segment = self._open[key] = self._new(model, version, role, arrow=arrow)
                _write(segment, record)
            except OSError as error:
                said = f"the prediction cannot be kept ({error.strerror}): make room for the log"
                raise RequestError(503, "log", said) from error
            self.backlog_bytes += len(record)

    def _new(self, model: str, version: Version, role: str, *, arrow: bool) -> _Segment:
        folder = self._folder / model
        folder.mkdir(parents=True, exist_ok=True)
        segment = _begun(folder)
        texts = {name for _, name, _ in version.categories}
        head = {
            "version": version.number,
            "role": role,
            "arrow": arrow,
            "named": _named(self._states[model].dataset),
            "features": [[name, name in texts] for name in version.columns],
            "several": self._states[model].spec.target.kind == "multiclass",
        }
        try:
            _write(segment, to_json(head) + b"\n")
        except OSError:
            segment.path.unlink()
            os.close(segment.descriptor)
            raise
        return segment

    def _waiting_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._folder.glob("*/*.log"))


def _store_closed(folder: Path, states: Mapping[str, ModelState]) -> int:
    """Store the files that nobody writes to, some of each model in one commit."""
    count = 0
    for name, state in states.items():
        every = sorted((folder / name).glob("*.log"))
        for at in range(0, len(every), TOGETHER):
            paths = every[at : at + TOGETHER]
            held = [(path, opened) for path in paths if (opened := _locked(path)) is not None]
            try:
                parts = [kept(path, state.dataset) for path, _ in held]
                if found := [part for part in parts if part.height]:
                    rows = pl.concat(found, how="diagonal_relaxed")
                    keys = [path.stem for path, _ in held]
                    said = {"rows": str(rows.height)}
                    state.tables.replace(state.table(TABLE), rows, keys, said, key=SEGMENT)
                for path, _ in held:
                    path.unlink(missing_ok=True)
            finally:
                for _, opened in held:
                    os.close(opened)
            count += len(held)
    return count


def _named(dataset: DatasetSpec) -> list[str]:
    """What names a row and its partition."""
    return list(dict.fromkeys(filter(None, (*dataset.key, dataset.partition.column))))


def _as_json(request: str, at: datetime, keys: Mapping[str, Sequence[Any]], part: Scored) -> bytes:
    """A record as a line: a list a column."""
    columns = zip(part.version.columns, part.features, strict=True)
    count = len(part.output)
    record = {"_id": request, "_time": at, "_prediction": part.output.tolist()}
    record |= {f"_key_{name}": found or [None] * count for name, found in keys.items()}
    return to_json(record | dict(columns)) + b"\n"


def _as_arrow(request: str, at: datetime, keys: list[pl.Series], part: Scored) -> bytes:
    """A record as a line and an Arrow stream."""
    named = [found.alias(f"_key_{found.name}") for found in keys]
    whole = pl.DataFrame([*part.features, *named, pl.Series("_prediction", part.output)])
    line = to_json({"_id": request, "_time": at}) + b"\n"
    return line + whole.write_ipc_stream(None).getvalue()


def _write(segment: _Segment, record: bytes) -> None:
    """Append a record, or nothing of it."""
    written = 0
    try:
        while written < len(record):
            written += os.write(segment.descriptor, record[written:])
    except OSError:
        os.ftruncate(segment.descriptor, segment.size)
        raise
    segment.size += written


def _begun(folder: Path) -> _Segment:
    """A new file, held against others."""
    for _ in range(_TRIES):  # a flush elsewhere may take a file before it is locked
        path = folder / f"{uuid4().hex}.log"
        if (descriptor := _locked(path, _NEW)) is not None:
            return _Segment(path, descriptor)
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def _locked(path: Path, how: int = os.O_RDONLY) -> int | None:
    """A file held against others; None where another holds it or has stored it."""
    try:
        descriptor = os.open(path, how, 0o600)
    except FileNotFoundError:
        return None
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:  # it was not stored between the two
            return descriptor
    os.close(descriptor)
    return None
