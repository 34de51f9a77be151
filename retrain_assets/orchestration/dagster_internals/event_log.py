"""Dagster's storage, which writes the events of a range of partitions in one transaction.

Dagster hands such events over as a batch where `DAGSTER_EVENT_BATCH_SIZE` says so, but its sqlite
storage then writes them one by one, each through three connections of its own: for the 6,009
partition events of a year's first run that came to 38 of 61 CPU seconds. Its PostgreSQL storage
writes batches as they are. Used by dagster.yaml as `storage: custom:`. Not here: which events there
are, and how any other event is stored.
"""

import os
from collections.abc import Sequence
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

from dagster import EventLogEntry
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable as Checks
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as Events
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData, serialize_value

from retrain_assets.stores.database import alone, create_schema, database_from, in_schema

# What Dagster takes from the environment alone, and all processes are to have.
SETTINGS = {
    "DAGSTER_EVENT_BATCH_SIZE": "1000",
    # A backfill waits for a code server that is being restarted, where it would otherwise fail.
    "DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR": "1",
}


class BatchingEventLog(SqliteEventLogStorage):
    """The event log, with batches in one transaction."""

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
        return DagsterPostgresStorage(in_schema(uri), inst_data=inst_data)


def _apply_settings() -> None:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
