"""Tables that somebody else writes, as the source of a dataset: Delta and Iceberg.

A table is read like one file that holds many partitions, of which those are taken in whose rows
have changed. Each new version or snapshot of it is new data. Not here: the tables of this platform
(`stores/tables`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from retrain_assets.domain.data.row_checks import RawRows
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.partition import ALL
from retrain_assets.stores.landing.readers import RefusedFileError, columns_of, number_rows
from retrain_assets.stores.landing.source import Frames, LandingError, LandingFile, refused
from retrain_assets.stores.place import describe_error

_ROWS = 25_000  # of a batch
# A file of a table may be damaged in ways that polars does not expect.
_DAMAGED = (DeltaError, pl.exceptions.PolarsError, pl.exceptions.PanicException)


class ForeignTable:
    """A table of one dataset; subclasses say how it is opened."""

    spec: DatasetSpec

    def version(self) -> int | None:
        """Return the newest version of the table; None where there is no table, or none yet."""
        raise NotImplementedError

    def scan(self, version: int) -> pl.LazyFrame:
        """Return the rows of a version."""
        raise NotImplementedError

    def files(self, *_: object) -> list[LandingFile]:
        """Return the newest version of the table as one file."""
        with self._passing_errors():
            version = self.version()
        key = None if self.spec.is_split else ALL
        return [] if version is None else [LandingFile(self.spec.place, key, 0, f"v{version}")]

    def read(self, file: LandingFile, /) -> RawRows:
        """Return the rows of the listed version, numbered in the order in which they are read.

        A version is refused where its files are missing or damaged.
        """
        version, frames = int(file.stamp.removeprefix("v")), Frames(self.spec)
        try:
            with self._passing_errors():
                positions, extra = self._read(version, frames)
        except RefusedFileError as error:
            return refused(file, str(error))
        except FileNotFoundError:
            return refused(file, f"a data file of version {version} is missing")
        except _DAMAGED as error:
            return refused(file, f"version {version} cannot be read: {str(error)[:200]!r}")
        lacking = tuple(name for name in self.spec.file_columns if name not in positions)
        raw = refused(file, None, file.stamp)
        return replace(raw, rows=frames.rows(), extra=extra, lacking=lacking)

    def _read(self, version: int, frames: Frames) -> tuple[dict[str, int], tuple[str, ...]]:
        """Add the rows of a version to some frames, and return what `columns_of` does."""
        table, first = self.scan(version), 1
        names = table.collect_schema().names()
        positions, extra = columns_of(names, self.spec)
        wide = table.select(pl.col(names[at]).alias(name) for name, at in positions.items())

        def add(rows: pl.DataFrame) -> None:
            nonlocal first
            frames.add(number_rows(rows, first))
            first += rows.height

        add(wide.limit(0).collect())
        # `collect_batches` would end at a panic as if there were no more rows.
        wide.sink_batches(add, chunk_size=_ROWS, maintain_order=True)
        return positions, extra

    @contextmanager
    def _passing_errors(self) -> Iterator[None]:
        """Raise what a store or disk may do at the next attempt as a `LandingError`."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = describe_error(error)
            raise LandingError(f"{self.spec.place} cannot be read: {reason}") from None


@dataclass(frozen=True)
class DeltaSource(ForeignTable):
    """A Delta table that somebody else writes.

    Args:
        root: The folder or URI that a relative path starts from.
        spec: The dataset.
    """

    root: str
    spec: DatasetSpec

    @property
    def uri(self) -> str:
        """Return where the table is."""
        path = self.spec.delta or ""
        return path if "://" in path else f"{self.root}/{path}"

    def version(self) -> int | None:
        """Return the newest version of the table; None where there is no table."""
        try:
            return DeltaTable(self.uri, without_files=True).version()
        except TableNotFoundError:
            return None

    def scan(self, version: int) -> pl.LazyFrame:
        """Return the rows of a version."""
        return pl.scan_delta(self.uri, version=version)


@dataclass(frozen=True)
class IcebergSource(ForeignTable):
    """An Iceberg table that somebody else writes, in a catalog that pyiceberg's settings name."""

    spec: DatasetSpec

    def version(self) -> int | None:
        """Return the newest snapshot of the table; None where there is no table, or none yet."""
        table = open_iceberg(self.spec.iceberg or "")
        snapshot = table.current_snapshot() if table else None
        return snapshot.snapshot_id if snapshot else None

    def scan(self, version: int) -> pl.LazyFrame:
        """Return the rows of a snapshot."""
        return pl.scan_iceberg(open_iceberg(self.spec.iceberg or ""), snapshot_id=version)


def open_iceberg(name: str) -> Any:
    """Open the table `catalog.namespace.table`; None where its catalog does not have it.

    Raises:
        LandingError: The catalog is not configured, or does not answer.
    """
    try:
        from pyiceberg import exceptions
        from pyiceberg.catalog import load_catalog

        os.environ.setdefault("POLARS_ICEBERG_PLANNER", "pyiceberg")  # polars warns without it
    except ModuleNotFoundError as error:
        raise LandingError(
            f"{name}: Iceberg needs pip install 'retrain-assets[iceberg]'"
        ) from error
    catalog, _, table = name.partition(".")
    try:
        with load_catalog(catalog) as opened:
            return opened.load_table(table)
    except (exceptions.NoSuchTableError, exceptions.NoSuchNamespaceError):
        return None
    except Exception as error:  # of its client, which may repeat a password of the URI
        raise LandingError(
            f"{name}: the Iceberg catalog {catalog} does not answer ({type(error).__name__}): set "
            f"PYICEBERG_CATALOG__{catalog.upper()}__URI, or look at ~/.pyiceberg.yaml"
        ) from error
