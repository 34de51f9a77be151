"""The prediction log: what was answered, to which features, by which version.

A prediction is written to a local file before it is answered, so that it outlives the process;
files are brought into the table `<m>/prediction_log` in batches, each exactly once, since a file is
a partition of its own there and replaces itself when it comes again. A file that is not locked was
left by a process that is gone. Not here: what is made of the log.
"""

from __future__ import annotations

import fcntl
import os
import threading
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import polars as pl
from pydantic_core import from_json, to_json

from retrain_assets.domain.contract import UNPLACED
from retrain_assets.domain.features import KEY, PARTITION
from retrain_assets.domain.rules import STORED, partition_of
from retrain_assets.serving.contract import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from retrain_assets.serving.contract import Row
    from retrain_assets.serving.score import Scored
    from retrain_assets.serving.version import Version
    from retrain_assets.specs.dataset import DatasetSpec
    from retrain_assets.steps.state import ModelState

TABLE, SEGMENT = "prediction_log", "_segment"
SEGMENT_BYTES = 32 * 2**20
LIVE, SHADOW = "production", "shadow"
SCHEMA: dict[str, pl.DataType] = {
    PARTITION: pl.String(),
    KEY: pl.String(),
    SEGMENT: pl.String(),
    "_id": pl.String(),
    "_time": pl.Datetime("us", "UTC"),
    "_role": pl.String(),
    "_version": pl.Int64(),
    "_prediction": pl.Float64(),
}


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
    """

    def __init__(self, folder: Path, states: Mapping[str, ModelState], most_bytes: int) -> None:
        self._folder, self._states, self._most = folder, states, most_bytes
        self._open: dict[tuple[str, int, str], _Segment] = {}
        self._lock = threading.Lock()
        self.backlog_bytes = self._waiting_bytes()

    def write(
        self, model: str, request: str, at: datetime, rows: Sequence[Row], scored: Scored
    ) -> None:
        """Keep the predictions of a request, which has not been answered yet.

        Args:
            model: Its name.
            request: Its id.
            at: When it came.
            rows: Raw rows; none where features were sent.
            scored: What is answered.

        Raises:
            RequestError: They cannot be kept, so that it must not be answered.
        """
        if self.backlog_bytes > self._most:
            said = "predictions wait for storage up to the bound: try again when it is back"
            raise RequestError(503, "backlog", said)
        named = _named(self._states[model].dataset)
        keys: list[Any] = [[row.get(name) for name in named] for row in rows]
        for role, part in ((LIVE, scored), (SHADOW, scored.shadow)):
            if part is not None:
                record = {
                    "id": request,
                    "time": at,
                    "keys": keys or [None] * len(part.features),
                    "features": part.features,
                    "output": part.output.tolist(),
                }
                self._append(model, part.version, role, record)

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

    def _append(self, model: str, version: Version, role: str, record: dict[str, Any]) -> None:
        line = to_json(record) + b"\n"
        with self._lock:
            key = (model, version.number, role)
            segment = self._open.get(key)
            try:
                if segment is None or segment.size > SEGMENT_BYTES:
                    segment = self._open[key] = self._new(model, version, role)
                _write(segment, line)
            except OSError as error:
                said = f"the prediction cannot be kept ({error.strerror}): make room for the log"
                raise RequestError(503, "log", said) from error
            self.backlog_bytes += len(line)

    def _new(self, model: str, version: Version, role: str) -> _Segment:
        path = self._folder / model / f"{uuid4().hex}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        segment = _Segment(path, descriptor)
        texts = {name for _, name, _ in version.categories}
        head = {
            "version": version.number,
            "role": role,
            "named": _named(self._states[model].dataset),
            "features": [[name, name in texts] for name in version.columns],
            "classes": version.classes if len(version.classes or ()) > 2 else None,  # noqa: PLR2004
        }
        _write(segment, to_json(head) + b"\n")
        return segment

    def _store_closed(self) -> int:
        """Store the files that nobody writes to, some of each model in one commit."""
        count = 0
        for name, state in self._states.items():
            for paths in _bounded(sorted((self._folder / name).glob("*.jsonl"))):
                held = [(path, opened) for path in paths if (opened := _locked(path)) is not None]
                try:
                    parts = [_frame(path, state.dataset) for path, _ in held]
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

    def _waiting_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._folder.glob("*/*.jsonl"))


def _named(dataset: DatasetSpec) -> list[str]:
    """What names a row and its partition."""
    return list(dict.fromkeys(filter(None, (*dataset.key, dataset.partition.column))))


def _write(segment: _Segment, line: bytes) -> None:
    """Append a line, or nothing of it."""
    written = 0
    try:
        while written < len(line):
            written += os.write(segment.descriptor, line[written:])
    except OSError:
        os.ftruncate(segment.descriptor, segment.size)
        raise
    segment.size += written


def _locked(path: Path) -> int | None:
    """A file that nobody writes to, held against others; None where somebody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # another process has stored it
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _bounded(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Files together, up to a bound on their bytes."""
    batch: list[Path] = []
    held = 0
    for path in paths:
        batch.append(path)
        held += path.stat().st_size if path.exists() else 0
        if held > SEGMENT_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _frame(path: Path, dataset: DatasetSpec) -> pl.DataFrame:
    """The predictions of a file; what follows the last end of a line was not answered."""
    lines = path.read_bytes().split(b"\n")[:-1]
    if not lines:
        return pl.DataFrame()
    head, *records = map(from_json, lines)
    flat = [
        (f"{found['id']}-{place}", found["time"], output, key, row)
        for found in records
        for place, (output, key, row) in enumerate(
            zip(found["output"], found["keys"], found["features"], strict=True)
        )
    ]
    ids, times, outputs, keys, rows = zip(*flat, strict=True) if flat else ((),) * 5
    kind = pl.Float64() if head["classes"] is None else pl.List(pl.Float64)
    made = {
        "_id": pl.Series(ids, dtype=pl.String),
        "_time": pl.Series(map(datetime.fromisoformat, times), dtype=SCHEMA["_time"]),
        "_prediction": pl.Series(outputs, dtype=kind),
    }
    for place, (name, is_text) in enumerate(head["features"]):
        values = [row[place] for row in rows]
        made[name] = pl.Series(values, dtype=pl.String if is_text else pl.Float64)
    constant = {SEGMENT: path.stem, "_role": head["role"], "_version": head["version"]}
    shared = [pl.lit(value).alias(name) for name, value in constant.items()]
    return pl.DataFrame(made).select(*_placed(head["named"], keys, dataset), *shared, "*")


def _placed(named: list[str], keys: Sequence[list[Any]], dataset: DatasetSpec) -> list[pl.Series]:
    """Partition and key of each row, as the features table has them."""
    typed = {}
    for place, name in enumerate(named):
        kind = dataset.columns[name].type
        read: Any = {"date": date.fromisoformat, "datetime": datetime.fromisoformat}.get(kind)
        values = [key[place] if key else None for key in keys]
        read_all = [None if v is None else read(v) for v in values] if read else values
        typed[name] = pl.Series(read_all, dtype=STORED[kind])
    whole = [pl.col(name).cast(pl.String) for name in dataset.key]
    partition = partition_of(dataset.partition, dataset.partition.column or "")
    return (
        pl.DataFrame(typed)
        .select(
            partition.fill_null(UNPLACED).alias(PARTITION),
            pl.concat_str(whole, separator="|").alias(KEY),
        )
        .get_columns()
    )
