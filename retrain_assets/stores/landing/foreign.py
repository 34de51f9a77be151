"""Tables that somebody else writes, as the source of a dataset: Delta and Iceberg.

A table is read like one file that holds many partitions, of which those are taken in whose rows
have changed. Each new version or snapshot of it is new data. Not here: the tables of this platform
(`stores/tables`).
"""

import os
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from retrain_assets.domain.data.row_checks import RawRows
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.partition import ALL
from retrain_assets.stores.landing.readers import RefusedFileError, columns_of, number_rows
from retrain_assets.stores.landing.source import Frames, LandingError, LandingFile, refused

_ROWS = 25_000  # of a batch
# A file of a table may be damaged in ways that polars does not expect.
_UNREADABLE = (DeltaError, pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


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
        version, key = self.version(), None if self.spec.is_split else ALL
        return [] if version is None else [LandingFile(self.spec.place, key, 0, f"v{version}")]

    def read(self, file: LandingFile, /) -> RawRows:
        """Return the rows of the listed version, numbered in the order in which they are read."""
        version = int(file.stamp.removeprefix("v"))
        try:
            table = self.scan(version)
            names = table.collect_schema().names()
            positions, extra = columns_of(names, self.spec)
            columns = [pl.col(names[at]).alias(name) for name, at in positions.items()]
            wide, frames, first = table.select(columns), Frames(self.spec), 1
            batches = wide.collect_batches(chunk_size=_ROWS, maintain_order=True)
            for rows in chain([wide.limit(0).collect()], batches):
                frames.add(number_rows(rows, first))
                first += rows.height
        except RefusedFileError as error:
            return refused(file, str(error))
        except _UNREADABLE as error:
            return refused(file, f"version {version} cannot be read: {str(error)[:200]!r}")
        lacking = tuple(name for name in self.spec.file_columns if name not in positions)
        raw = refused(file, None, file.stamp)
        return replace(raw, rows=frames.rows(), extra=extra, lacking=lacking)


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
