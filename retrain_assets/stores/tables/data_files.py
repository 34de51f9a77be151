"""The data files of a Delta table: laid out, streamed, merged, found broken, and removed at last.

Digests of data files, since parquet as Delta writes it does not tell most flipped bits.

Frames set aside on disk until they are committed together, so that memory stays flat.

Not here: what is committed and when, and which versions are still needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from hashlib import file_digest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Self

import polars as pl
import polars.selectors as cs
from deltalake import DeltaTable, WriterProperties
from deltalake.exceptions import DeltaError

from retrain_assets.stores.tables.log import REPAIR, short

if TYPE_CHECKING:
    import pyarrow as pa

# Versions that models were trained on stay readable: nothing expires by itself.
# Without statistics of all columns, a partition column after the 32nd would prune no file.
CONFIGURATION: Final = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
    "delta.checkpointInterval": "10",
    "delta.dataSkippingNumIndexedCols": "-1",
}
_FILE_BYTES = 16 * 2**20
# Replacing a partition rewrites the files it is in; small groups of rows bound memory.
LAYOUT: Final[dict[str, Any]] = {
    "target_file_size": _FILE_BYTES,
    "writer_properties": WriterProperties(max_row_group_size=65_536),
}
_BATCH_ROWS = 25_000
# A file below the size is small; neighbours of merged files never are, which keeps merging rare.
_SMALL_BYTES, MAX_SMALL_FILES = _FILE_BYTES // 4, 64
# A damaged page makes polars panic, which is no Exception.
FAILURES = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, DeltaError)


def streamed(rows: pl.DataFrame | pl.LazyFrame) -> pa.RecordBatchReader:
    """Rows as a stream of batches, so that they are never in memory together.

    Categories become text, as Delta has no other type for them.
    """
    import pyarrow as pa

    lazy = rows.lazy().with_columns(cs.by_dtype(pl.Categorical, pl.Enum).cast(pl.String))

    def batches() -> Iterator[pa.RecordBatch]:
        for part in lazy.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True):
            yield from part.to_arrow().to_batches()

    schema = pl.DataFrame(schema=lazy.collect_schema()).to_arrow().schema
    return pa.RecordBatchReader.from_batches(schema, batches())


def merge_small_files(opened: DeltaTable | None) -> None:
    """Merge small files once they are many; a race lost to another commit is left to the next.

    Args:
        opened: The table after a commit; None where the commit made it.
    """
    if opened is None:
        return
    sizes = opened.get_add_actions(flatten=True)["size_bytes"].to_pylist()
    if sum(size < _SMALL_BYTES for size in sizes) > MAX_SMALL_FILES:
        with suppress(*FAILURES):
            opened.optimize.compact(
                target_size=_FILE_BYTES, writer_properties=LAYOUT["writer_properties"]
            )


def unneeded(opened: DeltaTable, keep: list[int], hours: int) -> list[Path]:
    """Data files that neither the newest version nor one to keep names, and their digests.

    Delta's own vacuum says which; it does not remove them, since it would commit two versions in
    doing so, in which nothing is replaced or decided.

    Args:
        opened: The table, in a local folder, as it is now.
        keep: Further versions that stay readable, all of which there are.
        hours: Files that were written or given up later than this before now stay.
    """
    root = Path(opened.table_uri.removeprefix("file://"))
    names = opened.vacuum(hours, enforce_retention_duration=False, full=True, keep_versions=keep)
    paths = (root / folder / name for name in names for folder in ("", "_seals"))
    return [path for path in paths if path.exists()]


def broken_file(opened: DeltaTable | None, key: str) -> str | None:
    """The first data file that cannot be read, and which values of `key` are in it."""
    if opened is None:
        return None
    for file in pl.DataFrame(opened.get_add_actions(flatten=True)).iter_rows(named=True):
        path = f"{opened.table_uri.removeprefix('file://').rstrip('/')}/{file['path']}"
        try:
            pl.read_parquet(path)
        except FAILURES as error:
            held = f"{file.get(f'min.{key}')} to {file.get(f'max.{key}')}"
            return f"data file {path} of partitions {held} is unreadable: {short(error)}; {REPAIR}"
    return None


def seal(opened: DeltaTable) -> None:
    """Write the digests of data files that have none yet."""
    folder = _root(opened) / "_seals"
    if not folder.parent.is_dir():
        return
    folder.mkdir(exist_ok=True)
    for file in _files(opened):
        kept = folder / file["path"]
        if not kept.exists():
            unfinished = kept.with_suffix(".part")
            unfinished.write_text(_digest(_root(opened) / file["path"]), encoding="ascii")
            unfinished.replace(kept)


def broken_seal(opened: DeltaTable | None, key: str, values: Collection[str] | None) -> str | None:
    """The first data file with such values of `key` that is not what was written, and which.

    Args:
        opened: The version that is read; None where there is no table.
        key: Column that files are chosen by.
        values: What is looked for; None means all files.
    """
    if opened is None or values == []:
        return None
    for file in _files(opened):
        low, high = (file.get(f"{end}.{key}") or "" for end in ("min", "max"))
        data, kept = (_root(opened) / part / file["path"] for part in ("", "_seals"))
        if values and high and (high < min(values) or low > max(values)):
            continue
        if kept.exists() and data.exists() and kept.read_text(encoding="ascii") != _digest(data):
            return f"data file {data} of partitions {low} to {high} is not what was written"
    return None


def _files(opened: DeltaTable) -> Iterator[dict[str, Any]]:
    yield from pl.DataFrame(opened.get_add_actions(flatten=True)).iter_rows(named=True)


def _root(opened: DeltaTable) -> Path:
    return Path(opened.table_uri.removeprefix("file://"))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


class Spill(TemporaryDirectory[str]):
    """Frames of one schema; a single one stays in memory."""

    def __init__(self) -> None:
        super().__init__(prefix="retrain-")
        self._first: pl.DataFrame | None = None
        self._spilled = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Set a frame aside."""
        if self._first is None and self._spilled == 0:
            self._first = frame
            return
        if self._first is not None:
            first, self._first = self._first, None
            self._write(first)
        self._write(frame)

    def frame(self) -> pl.DataFrame | pl.LazyFrame:
        """All of them, in order: the one in memory, or a scan of those on disk."""
        if self._first is not None:
            return self._first
        return pl.scan_parquet(f"{self.name}/*.parquet")

    def _write(self, frame: pl.DataFrame) -> None:
        frame.write_parquet(Path(self.name) / f"{self._spilled:06}.parquet", compression="lz4")
        self._spilled += 1

    def __enter__(self) -> Self:  # type: ignore[override]
        return self
