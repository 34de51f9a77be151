"""An existing Delta table as the source of a dataset: each new version of it is new data.

It is read like one file that holds many partitions, of which those are taken in whose rows have
changed. Not here: which partition a row is of, and whether it is sound.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.landing.readers import RefusedFileError, columns_of, numbered
from retrain_assets.stores.landing.source import LandingFile, RawFile, refused


@dataclass(frozen=True)
class DeltaSource:
    """A Delta table that somebody else writes.

    Args:
        root: What a relative path starts from.
        spec: The dataset.
    """

    root: Path
    spec: DatasetSpec

    @property
    def uri(self) -> str:
        """Where the table is."""
        path = self.spec.delta or ""
        return path if "://" in path else str(self.root / path)

    def files(self, *_: object) -> list[LandingFile]:
        """The newest version of the table, as one file; nothing where there is no table yet."""
        try:
            version = DeltaTable(self.uri, without_files=True).version()
        except TableNotFoundError:
            return []
        key = None if self.spec.is_split else "all"
        return [LandingFile(self.spec.delta or "", key, 0, f"v{version}")]

    def read(self, file: LandingFile, /) -> RawFile:
        """The rows of the version that was seen, numbered in the order in which they are read."""
        version = int(file.stamp.removeprefix("v"))
        try:
            table = pl.scan_delta(self.uri, version=version)
            found = table.collect_schema().names()
            positions, extra = columns_of(found, self.spec)
            wanted = [pl.col(found[at]).alias(name) for name, at in positions.items()]
            rows = numbered(table.select(wanted).collect(), first=1)
        except RefusedFileError as error:
            return refused(file, str(error))
        except (DeltaError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            return refused(file, f"version {version} cannot be read: {str(error)[:200]!r}")
        return RawFile(file.path, file.partition or "", file.stamp, rows, file=file, extra=extra)
