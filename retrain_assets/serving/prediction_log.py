"""The prediction log: what was answered, to which features, by which version.

A file has a line that describes it and then its records: for JSON a line each with a list for each
column, for Arrow a line and a stream. Files that nobody writes to any more are moved into the
table. Not here: scoring, and monitoring the log.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pyarrow as pa
from polars.exceptions import PanicException
from pydantic_core import from_json, to_json

from retrain_assets.domain.data.contract import UNPLACED
from retrain_assets.domain.data.rules import PARTITION, STORED, Type, partition_of, row_key
from retrain_assets.domain.data.values import null_infinite
from retrain_assets.domain.features.build import KEY
from retrain_assets.serving.scoring.request import RequestError, RequestRows
from retrain_assets.serving.scoring.score import Scored
from retrain_assets.serving.scoring.served_model import Version
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.state import ModelState

TABLE, SEGMENT = "prediction_log", "_segment"
SEGMENT_BYTES, COMMIT_FILES = 16 * 2**20, 4  # of a file, files of a commit
LIVE, SHADOW = "production", "shadow"
_ATTEMPTS, _NEW = 3, os.O_WRONLY | os.O_CREAT | os.O_APPEND
Record = dict[str, Any]


class LogError(RuntimeError):
    """Files of the log could not be stored; the message says which and why."""


@dataclass
class _Segment:
    """A file that is being written."""

    path: Path
    descriptor: int
    size: int = 0

    def append(self, record: bytes) -> None:
        """Append a record, or nothing of it."""
        written = 0
        try:
            while written < len(record):
                written += os.write(self.descriptor, record[written:])
        except OSError:
            os.ftruncate(self.descriptor, self.size)
            raise
        self.size += written


class PredictionLog:
    """The log of all models of a service.

    Args:
        folder: Where files wait for the table.
        states: The models, by name.
        max_bytes: How much may wait before requests are refused.
        writer: Another process that stores, so that answering does not wait for it. Without it, or
            when it is gone, this process stores.
    """

    def __init__(
        self,
        folder: Path,
        states: Mapping[str, ModelState],
        max_bytes: int,
        writer: Executor | None = None,
    ) -> None:
        self._folder, self._states, self._max_bytes = folder, states, max_bytes
        self._writer = writer
        self._open: dict[tuple[str, int, str, bool], _Segment] = {}
        self._lock = threading.Lock()
        self.backlog_bytes = self._waiting_bytes()

    def write(
        self, model: str, request: str, time: datetime, rows: RequestRows, scored: Scored
    ) -> None:
        """Log the predictions of a request, which has not been answered yet.

        Args:
            model: Its name.
            request: Its id.
            time: When it came.
            rows: Raw rows; none where features were sent. A frame is logged as Arrow.
            scored: What is answered.

        Raises:
            RequestError: They cannot be logged, so that the request must not be answered.
        """
        if self.backlog_bytes > self._max_bytes:
            message = "predictions wait for storage up to the bound: try again when it is back"
            raise RequestError(503, "backlog", message)
        names = _key_columns(self._states[model].dataset)
        head: Record = {"_id": request, "_time": time}
        for role, part in ((LIVE, scored), (SHADOW, scored.shadow)):
            if part is None:
                continue
            head["_half_width"] = part.half_width
            if is_arrow := isinstance(rows, pl.DataFrame):
                record = _as_arrow(head, [rows[name].alias(f"_key_{name}") for name in names], part)
            else:
                keys = {f"_key_{name}": [row.get(name) for row in rows] for name in names}
                record = _as_json(head, keys, part)
            self._append(model, part.version, role, record, is_arrow=is_arrow)

    def flush(self) -> int:
        """Move what waits into the tables, also what an earlier process left.

        Returns:
            How many files were stored.

        Raises:
            LogError: Files of a model could not be stored; those of the others were.
        """
        count, failures = self._store_closed(self._states)
        with self._lock:
            for key in [key for key in self._open if key[0] not in failures]:
                os.close(self._open.pop(key).descriptor)  # which unlocks it
        sound = {name: state for name, state in self._states.items() if name not in failures}
        more, later_failures = self._store_closed(sound)
        self.backlog_bytes = self._waiting_bytes()
        if failures := failures | later_failures:
            raise LogError("; ".join(failures.values()))
        return count + more

    def _store_closed(self, states: Mapping[str, ModelState]) -> tuple[int, dict[str, str]]:
        if self._writer is not None:
            with suppress(BrokenExecutor):
                return self._writer.submit(_store_closed, self._folder, states).result()
        return _store_closed(self._folder, states)

    def _append(
        self, model: str, version: Version, role: str, record: bytes, *, is_arrow: bool
    ) -> None:
        with self._lock:
            key = (model, version.number, role, is_arrow)
            try:
                if key in self._open and self._open[key].size > SEGMENT_BYTES:
                    os.close(self._open.pop(key).descriptor)  # which lets it be stored
                if key not in self._open:
                    self._open[key] = self._new_segment(model, version, role, is_arrow=is_arrow)
                self._open[key].append(record)
            except OSError as error:
                message = f"the prediction cannot be logged ({error.strerror}): free some space"
                raise RequestError(503, "log", message) from error
            self.backlog_bytes += len(record)

    def _new_segment(self, model: str, version: Version, role: str, *, is_arrow: bool) -> _Segment:
        folder, state = self._folder / model, self._states[model]
        folder.mkdir(parents=True, exist_ok=True)
        segment = _create_segment(folder)
        head = {
            "version": version.number,
            "role": role,
            "arrow": is_arrow,
            "named": _key_columns(state.dataset),
            "features": [[name, kind == pl.String] for name, kind in version.schema.items()],
            "several": state.spec.target.kind == "multiclass",
        }
        try:
            segment.append(to_json(head) + b"\n")
        except OSError:
            segment.path.unlink()
            os.close(segment.descriptor)
            raise
        return segment

    def _waiting_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._folder.glob("*/*.log"))


def _key_columns(dataset: DatasetSpec) -> list[str]:
    """Return the columns that identify a row and its partition."""
    return list(dict.fromkeys(filter(None, (*dataset.key, dataset.partition.column))))


def _as_json(head: Record, keys: Mapping[str, list[Any]], part: Scored) -> bytes:
    """Return a record as a line with a list for each column."""
    count, columns = len(part.output), zip(part.version.columns, part.features, strict=True)
    keys = {name: values or [None] * count for name, values in keys.items()}
    states = {} if part.layer is None else {"_state": part.states}
    record = head | {"_prediction": part.output.tolist()} | states | keys | dict(columns)
    return to_json(record, inf_nan_mode="null") + b"\n"


def _as_arrow(head: Record, keys: list[pl.Series], part: Scored) -> bytes:
    """Return a record as a line and an Arrow stream."""
    output, states = pl.Series("_prediction", part.output), []
    if part.layer is not None:
        states = [pl.Series("_state", part.states, pl.String)]
    rows = pl.DataFrame([*part.features, *keys, output, *states])
    return to_json(head) + b"\n" + rows.write_ipc_stream(None).getvalue()


def _store_closed(folder: Path, states: Mapping[str, ModelState]) -> tuple[int, dict[str, str]]:
    """Store the files that nobody writes to; return their number, and failures by model."""
    count, failures = 0, {}
    for name, state in states.items():
        paths = sorted((folder / name).glob("*.log"))
        for start in range(0, len(paths), COMMIT_FILES):
            try:
                count += _store_files(paths[start : start + COMMIT_FILES], state)
            except (Exception, PanicException) as error:  # noqa: BLE001 other models are stored
                failures[name] = f"{name}: {error}"
                break
    return count, failures


def _store_files(paths: list[Path], state: ModelState) -> int:
    """Store files that nobody writes to in one commit; return their number.

    Raises:
        LogError: A file cannot be read. It is set aside, so that it does not hold up the others.
    """
    locks = {path: lock for path in paths if (lock := _lock(path)) is not None}
    parts, failures = {}, []
    try:
        for path in locks:
            try:
                parts[path] = _read_segment(path, state.dataset)
            except (ValueError, KeyError, pl.exceptions.PolarsError, PanicException) as error:
                aside = path.rename(path.with_suffix(".unreadable"))
                failures.append(f"{aside} cannot be read and was set aside: {error!r}")
        if rows := [part for part in parts.values() if part.height]:
            table = pl.concat(rows, how="diagonal_relaxed")
            commit, keys = {"rows": str(table.height)}, [path.stem for path in parts]
            # A feature may be a number in one version and text in another.
            state.tables.replace(state.table(TABLE), table, keys, commit, SEGMENT, mixed=True)
        for path in parts:
            path.unlink(missing_ok=True)
    finally:
        for lock in locks.values():
            os.close(lock)
    if failures:
        raise LogError("; ".join(failures))
    return len(parts)


def _read_segment(path: Path, dataset: DatasetSpec) -> pl.DataFrame:
    """Return the predictions of a file; a record that was cut off was not answered."""
    first, _, content = path.read_bytes().partition(b"\n")
    if not content:
        return pl.DataFrame()
    head = from_json(first)
    kinds = {name: dataset.columns[name].type for name in head["named"]}
    features = {n: pl.String() if is_text else pl.Float64() for n, is_text in head["features"]}
    output = pl.List(pl.Float64()) if head["several"] else pl.Float64()
    keys = {f"_key_{name}": STORED[kind] for name, kind in kinds.items()}
    if head["arrow"]:
        records, rows = _read_arrow(content)
    else:
        schema = {**keys, **features, "_prediction": output}
        records, rows = _read_json(content, schema)
    if rows.is_empty():
        return rows
    time, place = _as_time("_time", pl.Datetime), pl.int_ranges("_count").alias("_place")
    schema = {"_half_width": pl.Float64()}
    requests = pl.DataFrame(records, schema_overrides=schema).select(
        "_id", time, place, "_half_width"
    )
    rows = rows.hstack(requests.explode("_place", empty_as_null=False))
    partition = partition_of(dataset.partition, dataset.partition.column or "")
    placed = rows.select(pl.col(f"_key_{name}").alias(name) for name in kinds).select(
        partition.fill_null(UNPLACED).alias(PARTITION),
        row_key(dataset).alias(KEY),
    )
    stored = rows.select(
        *placed,
        pl.lit(path.stem).alias(SEGMENT),
        pl.concat_str("_id", pl.lit("-"), "_place").alias("_id"),
        "_time",
        pl.lit(head["role"]).alias("_role"),
        pl.lit(head["version"], pl.Int64).alias("_version"),
        *([pl.col("_state")] if "_state" in rows.columns else []),
        pl.col("_prediction").cast(output),
        *_ends_of(requests),
        *(pl.col(name).cast(kind) for name, kind in features.items()),
    )
    return null_infinite(stored)


def _ends_of(requests: pl.DataFrame) -> Iterator[pl.Expr]:
    """Yield both ends of the intervals, if a request was answered with one."""
    if requests["_half_width"].is_not_null().any():
        for name, sign in (("_low", -1), ("_high", 1)):
            yield (pl.col("_prediction") + sign * pl.col("_half_width")).alias(name)


def _read_arrow(content: bytes) -> tuple[list[Record], pl.DataFrame]:
    """Return the heads of records, with their counts, and all of their rows."""
    source, tables, records = pa.BufferReader(content), [], []
    while (end := content.find(b"\n", source.tell()) + 1) > 0:
        head = from_json(content[source.tell() : end])
        source.seek(end)
        try:
            tables.append(pa.ipc.open_stream(source).read_all())
        except (pa.ArrowException, OSError):
            break
        records.append({"_half_width": None, **head, "_count": tables[-1].num_rows})
    if not records:
        return [], pl.DataFrame()
    return records, pl.DataFrame(pa.concat_tables(tables, promote_options="permissive"))


def _read_json(content: bytes, schema: Mapping[str, Type]) -> tuple[list[Record], pl.DataFrame]:
    """Return the heads of records, with their counts, and all of their rows."""
    lines = [from_json(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
    records = [
        {name: line.get(name) for name in ("_id", "_time", "_half_width")}
        | {"_count": len(line["_prediction"])}
        for line in lines
    ]
    if any("_state" in line for line in lines):  # the layer served at least one request
        schema = {**schema, "_state": pl.String()}
        lines = [{"_state": [None] * len(line["_prediction"])} | line for line in lines]
    columns = {name: [value for line in lines for value in line[name]] for name in schema}
    times = [name for name, kind in schema.items() if kind.is_temporal()]
    rows = pl.DataFrame(columns, {**schema, **dict.fromkeys(times, pl.String)}, strict=False)
    return records, rows.with_columns(_as_time(name, schema[name]) for name in times)


def _as_time(name: str, kind: Type) -> pl.Expr:
    text = pl.col(name).str
    if kind == pl.Date:
        return text.to_date("%Y-%m-%d")
    return text.to_datetime("%+", time_unit="us", time_zone="UTC")


def _create_segment(folder: Path) -> _Segment:
    """Create a locked file."""
    for _ in range(_ATTEMPTS):  # another flush may take a file before it is locked
        path = folder / f"{uuid4().hex}.log"
        if (descriptor := _lock(path, _NEW)) is not None:
            return _Segment(path, descriptor)
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def _lock(path: Path, flags: int = os.O_RDONLY) -> int | None:
    """Lock a file; return None where another process has locked or stored it."""
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        return None
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:  # it was not stored in between
            return descriptor
    os.close(descriptor)
    return None
