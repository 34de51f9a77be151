"""Dagster's storage, which writes the events of a range of partitions in one transaction.

Dagster hands such events over as a batch where `DAGSTER_EVENT_BATCH_SIZE` says so, but its sqlite
storage then writes them one by one, each through three connections of its own: for the 6,009
partition events of a year's first run that came to 38 of 61 CPU seconds. Each of these connections
also ends with a checkpoint of the database, since it was the last one; here one stays open. Its
PostgreSQL storage writes batches as they are; there, too, one connection stays open. Used by
dagster.yaml as `storage: custom:`. Not here: which events there are, and how any other is stored.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from fcntl import LOCK_EX, flock
from functools import cache, cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from dagster import EventLogEntry
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable as Checks
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as Events
from dagster._core.storage.event_log.sqlite.sqlite_event_log import (
    INDEX_SHARD_NAME,
    SqliteEventLogStorage,
)
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData, serialize_value
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool, StaticPool

from retrain_assets.stores.database import alone, create_schema, database_from, in_schema
from retrain_assets.stores.place import Folder

# What Dagster takes from the environment alone, and all processes are to have.
SETTINGS = {
    "DAGSTER_EVENT_BATCH_SIZE": "1000",
    # A backfill waits for a code server that is being restarted, where it would otherwise fail.
    "DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR": "1",
}


class Opened(NamedTuple):
    """A database that stays open, and where it was opened."""

    engine: Engine
    process: int
    inode: int


class BatchingEventLog(SqliteEventLogStorage):
    """The event log, with batches in one transaction.

    The index and the database of the newest run stay open. `_db_lock` of Dagster lets one thread
    use them at a time.
    """

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = self._open(shard)
            try:
                with engine.begin() as connection:
                    database: Any = connection.connection.dbapi_connection
                    before = database.total_changes
                    yield connection
            except BaseException:
                engine.dispose()
                raise
            if shard != INDEX_SHARD_NAME and database.total_changes != before:
                # The web server watches this file, which sqlite writes when it is closed.
                os.utime(self.path_for_shard(shard))

    def _open(self, shard: str) -> Engine:
        """Return the engine of a database, opened by this process on the file that is there now."""
        path, process = Path(self.path_for_shard(shard)), os.getpid()
        present = self._opened.get(shard)
        if present and present.process == process and present.inode == _inode(path):
            return present.engine
        for name in {*self._opened} - {INDEX_SHARD_NAME} | {shard}:
            if (former := self._opened.pop(name, None)) and former.process == process:
                former.engine.dispose()
        if not path.exists() and shard != INDEX_SHARD_NAME:
            Folder(path.parent).write_new(path.name, self._empty)
        if not _is_prepared(path):
            self._initdb(create_engine(f"sqlite:///{path}", poolclass=NullPool))
        arguments = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
        address = self.conn_string_for_shard(shard)
        engine = create_engine(address, poolclass=StaticPool, connect_args=arguments)
        # In WAL mode a killed process loses nothing; a power cut may lose the newest events, and
        # never breaks the file. Otherwise each event waits for the disk.
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA synchronous = NORMAL")
        self._opened[shard] = Opened(engine, process, _inode(path))
        return engine

    @cached_property
    def _opened(self) -> dict[str, Opened]:
        return {}

    @cached_property
    def _empty(self) -> bytes:
        """Return a new database of a run, which Dagster takes 0.1 s of CPU to make."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "empty.db"
            self._initdb(create_engine(f"sqlite:///{path}", poolclass=NullPool))
            return path.read_bytes()

    def dispose(self) -> None:
        """Close all databases."""
        super().dispose()
        while self._opened:
            self._opened.popitem()[1].engine.dispose()

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events of one run, in its own database and in the index that the UI reads."""
        kinds = {event.dagster_event_type for event in events}
        if not kinds <= ASSET_EVENTS | ASSET_CHECK_EVENTS:
            super().store_event_batch(events)
            return
        rows = [self._event_to_row(event) for event in events]
        with self.run_connection(events[0].run_id) as connection:
            connection.execute(Events.insert(), rows)
        insert = Events.insert().returning(Events.c.id, sort_by_parameter_order=True)
        with self.index_transaction() as connection:
            numbers = connection.execute(insert, rows).scalars().all()
            stored = list(zip(events, numbers, strict=True))
            self._store_assets(connection, stored)
        for event, number in stored:
            if event.dagster_event_type in ASSET_CHECK_EVENTS:
                self.store_asset_check_event(event, number)

    def _store_assets(self, connection: Any, stored: Sequence[tuple[EventLogEntry, int]]) -> None:
        """Store the tags of all events, and the row of each asset from its newest event alone."""
        assets = [pair for pair in stored if pair[0].dagster_event_type in ASSET_EVENTS]
        if not assets:
            return
        events, numbers = zip(*assets, strict=True)
        self._store_asset_event_tags(connection, events, numbers)
        newest = {event.get_dagster_event().asset_key: (event, number) for event, number in assets}
        for event, number in newest.values():
            self._store_asset_event(connection, event, number)

    def _store_asset_check_evaluation_planned(
        self, event: EventLogEntry, event_id: int | None
    ) -> None:
        """Store as Dagster does, but serialise the event once and not for each partition."""
        planned: Any = event.get_dagster_event().event_specific_data
        subset = planned.partitions_subset
        shared = {
            "asset_key": planned.asset_key.to_string(),
            "check_name": planned.check_name,
            "run_id": event.run_id,
            "execution_status": AssetCheckExecutionRecordStatus.PLANNED.value,
            "evaluation_event": serialize_value(event),
            "evaluation_event_timestamp": self._event_insert_timestamp(event),  # type: ignore[no-untyped-call]
            "evaluation_event_storage_id": event_id,
        }
        keys = subset.get_partition_keys() if subset else [None]
        with self.index_connection() as connection:
            connection.execute(Checks.insert(), [{**shared, "partition": key} for key in keys])


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def _is_prepared(path: Path) -> bool:
    """Return whether Dagster has made a database; it would import Alembic to look."""
    with closing(sqlite3.connect(path, SQLITE_BUSY_TIMEOUT_SECONDS)) as database:
        try:
            return (
                database.execute("SELECT version_num FROM alembic_version").fetchone() is not None
            )
        except sqlite3.OperationalError:  # no such table
            return False


class BatchingSqliteStorage(DagsterSqliteStorage):
    """Runs, events and schedules in sqlite, as Dagster keeps them, but for batches of events.

    Args:
        base_dir: Folder of the databases.
        inst_data: What dagster.yaml says, kept so that other processes open the same.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        _apply_settings()
        folder = Path(base_dir)
        folder.mkdir(parents=True, exist_ok=True)
        # Daemon and web server that set a new folder up at once leave it broken for good.
        with (folder / ".setup").open("w") as alone:
            flock(alone, LOCK_EX)
            super().__init__(base_dir, inst_data)
            self._event_log_storage = BatchingEventLog(self._event_log_storage._base_dir)  # noqa: SLF001
        # Of its three databases Dagster gives only the events more than 5 seconds of patience.
        for storage in (self._run_storage, self._schedule_storage):
            storage._conn_string += f"?timeout={SQLITE_BUSY_TIMEOUT_SECONDS}"  # noqa: SLF001

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData, config_value: dict[str, str]
    ) -> DagsterStorage:
        """Open what `RETRAIN_DATABASE` names; without it, the `config` of dagster.yaml.

        So one setting moves all processes of a project, whose dagster.yaml stays as it is.
        """
        if uri := database_from(os.environ):
            return open_postgres(uri, inst_data)
        return cls.from_local(inst_data=inst_data, **config_value)


def open_postgres(uri: str, inst_data: ConfigurableClassData | None) -> DagsterStorage:
    """Open runs, events and schedules in PostgreSQL, and create their tables if they are missing.

    Args:
        uri: The database, with the driver psycopg2.
        inst_data: What dagster.yaml says, kept so that other processes open the same.
    """
    from dagster_postgres import DagsterPostgresStorage  # an extra

    _apply_settings()
    with alone(uri) as connection:
        create_schema(connection)
        storage = DagsterPostgresStorage(in_schema(uri), inst_data=inst_data)
    parts: list[Any] = [storage.run_storage, storage.event_log_storage, storage.schedule_storage]
    for part in parts:
        part._engine = _open_pool(in_schema(uri))  # noqa: SLF001
    return storage


@cache
def _open_pool(uri: str) -> Any:
    """Return the connections of this process to a database, of which one stays open.

    Dagster connects for each of its questions, which takes nine times as long as asking. All
    instances share the connection, since a code server opens an instance for each tick. It is tried
    before each use, since the server may have died meanwhile.
    """
    options = {"isolation_level": "AUTOCOMMIT", "pool_size": 1, "max_overflow": -1}
    pool = create_engine(uri, pool_pre_ping=True, **options)
    os.register_at_fork(after_in_child=partial(pool.dispose, close=False))
    return pool


def _apply_settings() -> None:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
