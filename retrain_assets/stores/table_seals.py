"""Digests of data files, since parquet as Delta writes it does not tell most flipped bits.

Each data file has its digest beside it, in `_seals/`, from right after the commit that made it; one
that a kill left without is sealed by the next. Files in an object store, which has checksums of its
own, are not. Not here: what is done about a file that has changed.
"""

from __future__ import annotations

from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from deltalake import DeltaTable


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
