"""Frames set aside on disk until they are committed together, so that memory stays flat.

Not here: committing them.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import polars as pl


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
