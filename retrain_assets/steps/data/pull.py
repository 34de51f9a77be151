"""Pull rows from a database or an asset: what is new becomes a landing file, all else follows.

Where to go on is read from the files. With a cursor each file has the rows that are new or changed
since, and a row replaces an older one of the same key; without one, a single file has all rows. Not
here: the database, and reading the files.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import polars as pl
from filelock import FileLock, Timeout

from retrain_assets.specs.base import duration
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores import lease
from retrain_assets.stores.landing.sql import Database, StatementError
from retrain_assets.stores.place import Folder, Place
from retrain_assets.stores.storage import Storage

LOOK_BACK = 500  # newest files in which rows are looked for that are read once more
ALL_ROWS = "all.parquet"


@dataclass
class Pulled:
    """The files that a pull has landed.

    Args:
        rows: How many rows.
        files: The names of the files.
    """

    rows: int = 0
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PulledFiles:
    """The landing files of one dataset that is read from a database.

    Args:
        folder: Where they are.
        lock: The file that one writer of this machine locks.
        shared: Where one writer of all machines holds a lock, in an object store.
        cursor: The column that grows with each new or changed row.
        overlap: How much older rows are read again.
    """

    folder: Place
    lock: Path
    shared: Place
    cursor: str = ""
    overlap: timedelta = timedelta()

    @classmethod
    def of(cls, storage: Storage, spec: DatasetSpec) -> Self:
        """Return the files of a dataset."""
        folder, name = storage.landing_place / str(spec.pattern.parent), f".{spec.name}.pull"
        places = folder, storage.work / f"{name}.lock", storage.place / name
        if spec.sql is None or spec.sql.cursor is None:
            return cls(*places)
        return cls(*places, spec.sql.cursor, duration(spec.sql.overlap))

    @cached_property
    def newest(self) -> list[str]:
        """Return the names of the newest files, oldest first."""
        names = (file.name for file in self.folder.files() if "/" not in file.name)
        return [name for name in names if name.endswith(".parquet")][-LOOK_BACK:]

    def scan(self, name: str) -> pl.LazyFrame:
        """Return the rows of a file."""
        folder = self.folder
        file = folder.path / name if isinstance(folder, Folder) else BytesIO(folder.read(name))
        return pl.scan_parquet(file)

    @cached_property
    def largest(self) -> dict[str, Any]:
        """Return the largest cursor of each of the newest files; None where no row has one.

        Raises:
            StatementError: A file was pulled without the cursor.
        """
        name, largest = self.cursor, dict[str, Any]()
        for file in self.newest:
            rows = self.scan(file)
            if file == ALL_ROWS or name not in rows.collect_schema():
                raise StatementError(
                    f"{self.folder}/{file} was pulled without the cursor {name}: move the files of "
                    f"{self.folder} away, and the next pull reads all rows"
                )
            largest[file] = rows.select(pl.max(name)).collect().item()
        return largest

    def find_bound(self) -> object:
        """Return the least cursor that the next pull reads; None where nothing has landed.

        Raises:
            StatementError: A file was pulled without the cursor, the overlap cannot be subtracted
                from it, or its type differs between files.
        """
        name, values = self.cursor, self.largest.values()
        try:
            bound = max((value for value in values if value is not None), default=None)
        except TypeError as error:
            why = f"{name} has another type in older files of {self.folder}: move these away"
            raise StatementError(why) from error
        if not self.overlap or bound is None:
            return bound
        if not isinstance(bound, date):
            raise StatementError(
                f"overlap: {name} is {type(bound).__name__}, not a date or time: leave `overlap` "
                "out, or choose a cursor that is one"
            )
        return bound - self.overlap

    def drop_landed(self, rows: pl.DataFrame, bound: object) -> pl.DataFrame:
        """Return the rows that no file has exactly as they are."""
        for name, largest in self.largest.items():
            if largest is None or largest < bound:
                continue  # no row of it is read again
            file = self.scan(name)
            if file.collect_schema().keys() == rows.schema.keys():
                near = file.filter(pl.col(self.cursor) >= pl.lit(bound)).collect()
                # SQLite has types by value, so that those of a column differ between pulls.
                cast = near.cast(rows.schema, strict=False)
                # A value that the cast changes was another one, so its row is not there yet.
                back = cast.cast(near.schema, strict=False)
                same = pl.all_horizontal(back[key].eq_missing(near[key]) for key in near.columns)
                near = cast.filter(pl.select(same).to_series()) if near.height else cast
                rows = rows.join(near, on=rows.columns, how="anti", nulls_equal=True)
        return rows

    def write(self, rows: pl.DataFrame, name: str) -> str:
        """Write a file such that it is there as a whole or not at all, and return its name."""
        content = BytesIO()
        rows.write_parquet(content)
        self.folder.write(name, content.getvalue())
        return name

    def replace_all(self, rows: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, str]]:
        """Yield all rows and the name of their one file, unless that has just these rows."""
        if any(name != ALL_ROWS for name in self.newest):
            raise StatementError(
                f"{self.folder} has files that were pulled by a cursor: move them away, and the "
                "next pull reads all rows"
            )
        rows = rows.sort(rows.columns)
        if not (self.newest and self.scan(ALL_ROWS).collect().equals(rows)):
            yield rows, ALL_ROWS

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for one writer; the lock ends with its process.

        Raises:
            RuntimeError: Another process pulls.
        """
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.lock).acquire(blocking=False)
        except Timeout as error:
            raise RuntimeError(
                f"another process pulls into {self.folder}: wait until it has ended"
            ) from error
        with lock, nullcontext() if self.shared.is_local else lease.hold(self.shared):
            yield


def pull(storage: Storage, spec: DatasetSpec, environment: Mapping[str, str]) -> Pulled:
    """Let the new rows of a database land.

    Args:
        storage: Where files land.
        spec: A dataset with `sql`.
        environment: Holds the URI of the database.

    Raises:
        StatementError: The database refuses the statement, or rows have no cursor.
        LandingError: The database cannot be reached now.
        RuntimeError: Another process pulls.
        ValueError: The dataset is not read from a database.
    """
    if spec.sql is None:
        raise ValueError(f"dataset {spec.name} is not read from a database: it has no `sql`")
    database = Database(spec.sql, environment)
    files = PulledFiles.of(storage, spec)
    with files.locked():
        return _write(files, _new_rows(database, files, list_columns(spec)))


def land_all(storage: Storage, spec: DatasetSpec, value: object) -> Pulled:
    """Let the rows land that an IO manager has loaded: a frame, or a frame for each partition.

    Args:
        storage: Where files land.
        spec: A dataset with `asset` alone.
        value: A frame of polars, pandas or Arrow, or a dictionary of frames.

    Raises:
        ValueError: It is no frame.
        RuntimeError: Another process writes.
    """
    parts = list(value.values()) if isinstance(value, dict) else [value]
    if not parts:
        return Pulled()
    try:
        frames = [_as_frame(part) for part in parts]
    except (TypeError, ValueError) as error:
        needed = "it must be a frame of polars, pandas or Arrow"
        raise ValueError(f"{spec.place} is {type(parts[0]).__name__}: {needed}") from error
    rows, columns = pl.concat(frames, how="diagonal_relaxed"), list_columns(spec)
    if set(columns) <= set(rows.columns):
        rows = rows.select(columns)
    files = PulledFiles.of(storage, spec)
    with files.locked():
        return _write(files, files.replace_all(rows))


def _as_frame(part: Any) -> pl.DataFrame:
    return part.collect() if isinstance(part, pl.LazyFrame) else pl.DataFrame(part)


def _write(files: PulledFiles, parts: Iterable[tuple[pl.DataFrame, str]]) -> Pulled:
    pulled = Pulled()
    for rows, name in parts:
        pulled.files.append(files.write(rows, name))
        pulled.rows += rows.height
    return pulled


def list_columns(spec: DatasetSpec) -> list[str]:
    """Return the columns of a dataset and its cursor, as the database names them."""
    names = {name: theirs for theirs, name in spec.read.rename.items()}
    cursor = spec.sql.cursor if spec.sql else None
    return [*(names.get(name, name) for name in spec.file_columns), *([cursor] if cursor else [])]


def _new_rows(
    database: Database, files: PulledFiles, columns: list[str]
) -> Iterator[tuple[pl.DataFrame, str]]:
    """Yield the rows of each file that lands, and its name."""
    if database.spec.cursor is None:
        yield from files.replace_all(pl.concat(database.read(columns), rechunk=True))
        return
    bound = files.find_bound()
    if bound is None and (count := database.count_rows_without_cursor()):
        raise StatementError(
            f"{database.spec.place}: {count:,} rows have no {database.spec.cursor}, so that they "
            "would never be read: choose a cursor that each row has, or give a `query` that makes "
            "one, such as coalesce(updated_at, created_at)"
        )
    number = int(files.newest[-1].partition(".")[0]) if files.newest else 0
    for frame in database.read(columns, bound):
        rows = files.drop_landed(frame, bound)
        if not rows.is_empty():
            number += 1
            yield rows, f"{number:08}.parquet"
