"""The data files of a Delta table: laid out, streamed, merged, found broken, and removed at last.

Not here: what is committed and when, and which versions are still needed.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import polars.selectors as cs
from deltalake import WriterProperties
from deltalake.exceptions import DeltaError

from retrain_assets.stores.table_log import REPAIR, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from deltalake import DeltaTable

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
