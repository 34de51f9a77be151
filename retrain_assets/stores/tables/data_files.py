"""The data files of a Delta table: how they are written, merged, sealed with digests and removed.

Each data file has the digest of its content beside it, since parquet as Delta writes it does not
notice most flipped bits. Rows that wait for a commit are spilled to disk, so that memory stays
flat. Not here: what is committed and when, and which versions are still needed.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Final, Self
from weakref import finalize

import polars as pl
from deltalake import DeltaTable, WriterProperties
from deltalake.exceptions import DeltaError

from retrain_assets.stores.place import Place, PlaceError, Stored
from retrain_assets.stores.tables.log import REPAIR, short

# Versions that models were trained on stay readable: nothing expires by itself.
# Without statistics of all columns, a partition column after the 32nd would prune no file.
CONFIGURATION: Final = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
    "delta.checkpointInterval": "10",
    "delta.dataSkippingNumIndexedCols": "-1",
}
SEALS = "_seals"
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


def record_batches(frames: Sequence[pl.LazyFrame], schema: Mapping[str, pl.DataType]) -> Any:
    """Return a reader of the rows by batches, so that they are never in memory together.

    Each batch is cast by itself, since polars mixes the order of rows if a query casts them.

    Args:
        frames: The rows; a column that a frame lacks is null there.
        schema: The columns of the stream and their types.
    """
    import pyarrow as pa  # takes a quarter of a second, which only writing needs

    empty = pl.DataFrame(schema=schema)

    def batches() -> Iterator[Any]:
        for frame in frames:
            for part in frame.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True):
                lacking = [pl.lit(None, empty.schema[n]).alias(n) for n in schema if n not in part]
                rows = part.with_columns(lacking).select(schema.keys()).cast(empty.schema)
                yield from rows.to_arrow().to_batches()

    return pa.RecordBatchReader.from_batches(empty.to_arrow().schema, batches())


def merge_small_files(opened: DeltaTable | None, table: Place) -> None:
    """Merge small files once they are many; if another commit is faster, leave it to the next.

    Files of a table with damage stay as they are, since merged files would get new digests.

    Args:
        opened: The table after a commit; None if the commit created it.
        table: Where it is.
    """
    if opened is None:
        return
    sizes = opened.get_add_actions(flatten=True)["size_bytes"].to_pylist()
    are_many = sum(size < _SMALL_BYTES for size in sizes) > MAX_SMALL_FILES
    if are_many and changed_file(table, opened, "", None) is None:
        with suppress(*FAILURES):
            opened.optimize.compact(
                target_size=_FILE_BYTES, writer_properties=LAYOUT["writer_properties"]
            )


def unneeded_files(
    table: Place, opened: DeltaTable, keep: list[int], hours: int
) -> Iterator[Stored]:
    """Yield data files that neither the newest version nor one to keep names, and their digests.

    Delta's own vacuum lists them; it does not remove them, since it would commit two versions in
    doing so, in which nothing is replaced or decided.

    Args:
        table: Where the table is.
        opened: Its newest version.
        keep: Further versions that stay readable; all must exist.
        hours: Files that were written or replaced within the last hours stay.
    """
    names = opened.vacuum(hours, enforce_retention_duration=False, full=True, keep_versions=keep)
    for name in names:
        yield from filter(None, (table.find(name), table.find(f"{SEALS}/{name}")))


def unreadable_file(table: Place, opened: DeltaTable | None, key: str) -> str | None:
    """Name the first data file that cannot be read, and the values of `key` in it.

    Raises:
        PlaceError: The store gives nothing now.
    """
    for file in _files(opened):
        try:
            pl.read_parquet(table.read(file["path"]))
        except PlaceError:
            raise
        except FAILURES as error:
            values = f"{file.get(f'min.{key}')} to {file.get(f'max.{key}')}"
            path = f"{table}/{file['path']}"
            return (
                f"data file {path} of partitions {values} is unreadable: {short(error)}; {REPAIR}"
            )
    return None


def seal(table: Place, opened: DeltaTable) -> None:
    """Write the digests of data files that have none yet."""
    sealed = {item.name for item in (table / SEALS).files()}
    for file in _files(opened):
        if file["path"] not in sealed and (digest := _digest(table, file["path"])):
            (table / SEALS).write(file["path"], digest.encode("ascii"))


def changed_file(
    table: Place, opened: DeltaTable | None, key: str, values: Collection[str] | None
) -> str | None:
    """Name the first data file with some values of `key` whose digest is not that of its seal.

    Args:
        table: Where the table is.
        opened: The version that is read; None if there is no table.
        key: Column that files are chosen by.
        values: The values of `key`; None means all files.
    """
    for file in () if values == [] else _files(opened):
        low, high = (file.get(f"{end}.{key}") or "" for end in ("min", "max"))
        if values and high and (high < min(values) or low > max(values)):
            continue
        with suppress(FileNotFoundError):  # the reader names a data file that is missing
            sealed = (table / SEALS).read(file["path"]).decode("ascii")
            if _digest(table, file["path"]) not in (None, sealed):
                path = f"{table}/{file['path']}"
                return f"data file {path} of partitions {low} to {high} is not what was written"
    return None


def _files(opened: DeltaTable | None) -> Iterator[dict[str, Any]]:
    if opened is not None:
        yield from pl.DataFrame(opened.get_add_actions(flatten=True)).iter_rows(named=True)


def _digest(table: Place, name: str) -> str | None:
    """Return the digest of a data file, once for each content of an object; None if it is gone."""
    stored, memory = table.find(name), table.memory
    if stored is None:
        return None
    key = f"{table}/{name} {stored.stamp}"
    if key not in memory:
        memory[key] = sha256(table.read(name)).hexdigest()
    return str(memory[key])


class Spill:
    """Frames of one schema in order; one stays in memory, several are on disk.

    The folder is removed when the block is left, or when nobody has the object any more.
    """

    def __init__(self) -> None:
        self.count = self.height = 0
        self._frames: list[pl.DataFrame] = []

    @cached_property
    def folder(self) -> Path:
        """The folder of those on disk."""
        folder = Path(mkdtemp(prefix="retrain-"))
        self._remove = finalize(self, rmtree, folder, ignore_errors=True)
        return folder

    def add(self, frame: pl.DataFrame) -> None:
        """Append a frame."""
        self._frames.append(frame)
        self.count += 1
        self.height += frame.height
        if self.count > 1:
            self._write()

    def put(self, frame: pl.DataFrame) -> None:
        """Append a frame, and leave none in memory."""
        self.add(frame)
        self._write()

    def _write(self) -> None:
        first = self.count - len(self._frames)
        for number, waiting in enumerate(self._frames, first):
            waiting.write_parquet(self._path(number), compression="lz4")
        self._frames.clear()

    def cut(self, count: int) -> None:
        """Drop the frames after the first ones."""
        for number, part in enumerate(self.parts()):
            if number >= count:
                self.height -= part.select(pl.len()).collect().item()
                self._path(number).unlink(missing_ok=True)
        self._frames = self._frames[:count]
        self.count = min(self.count, count)

    def frame(self) -> pl.DataFrame | pl.LazyFrame:
        """Return all of them, in order: the one in memory, or a scan of those on disk."""
        return self._frames[0] if self._frames else pl.scan_parquet(f"{self.folder}/*.parquet")

    def parts(self) -> list[pl.LazyFrame]:
        """Return each frame on its own, in order, as their types may differ."""
        if self._frames:
            return [frame.lazy() for frame in self._frames]
        return [pl.scan_parquet(self._path(number)) for number in range(self.count)]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.parquet"

    @cached_property
    def schema(self) -> pl.Schema:
        """The columns of the first frame and their types."""
        return self.parts()[0].collect_schema()

    def __iter__(self) -> Iterator[pl.DataFrame]:
        return (part.collect() for part in self.parts())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "folder" in vars(self):
            self._remove()
