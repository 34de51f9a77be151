"""SQL databases as a source: the rows of a table or query, by the ADBC driver of the database.

A query is the user's own text, and the value of the cursor is a parameter of it. The URI comes from
the environment, and no error repeats it. Not here: where the rows go, and which are new.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import polars as pl
import polars.selectors as cs

from retrain_assets.errors import PermanentError, mask, split_uri
from retrain_assets.specs.sql import SqlSpec
from retrain_assets.stores.landing.source import LandingError

FRAME_ROWS = 500_000  # of a frame, so that memory is bounded
_MOST_REASON = 300  # characters of what a database says


class StatementError(PermanentError):
    """The database refuses the statement; it would refuse it again."""


@dataclass(frozen=True)
class Dialect:
    """The driver and the words of one kind of database.

    Args:
        driver: Its ADBC module.
        package: What is to be installed for it.
        parameter: How a statement names its first parameter.
        quote: The mark around names.
    """

    driver: str
    package: str
    parameter: str = "$1"
    quote: str = '"'


_POSTGRESQL = Dialect("adbc_driver_postgresql", "retrain-assets[sql]")
DIALECTS = {
    "sqlite": Dialect("adbc_driver_sqlite", "retrain-assets[sql]"),
    "duckdb": Dialect("adbc_driver_duckdb", "retrain-assets[sql]"),
    "postgresql": _POSTGRESQL,
    "postgres": _POSTGRESQL,
    # The same interface, which nobody has tried against these two services.
    "snowflake": Dialect("adbc_driver_snowflake", "adbc-driver-snowflake", "?"),
    "bigquery": Dialect("adbc_driver_bigquery", "adbc-driver-bigquery", "?", "`"),
}


@dataclass(frozen=True)
class Database:
    """A database, and what a dataset reads from it.

    Args:
        spec: What is read.
        environment: Holds the URI by the name `spec.uri`.

    Raises:
        StatementError: The variable is not set, or its URI is of a database that is not known.
    """

    spec: SqlSpec
    environment: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self._uri:
            raise StatementError(
                f"the environment variable {self.spec.uri} is not set: set it to the URI of the "
                "database, such as postgresql://user:password@host/database"
            )
        if self._scheme not in DIALECTS:
            schemes = ", ".join(f"{scheme}://" for scheme in DIALECTS)
            raise StatementError(f"{self.spec.uri} must begin with one of {schemes}")

    def read(
        self, columns: list[str] | None = None, since: object = None, most: int | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield the rows in the order of the cursor, at most `FRAME_ROWS` at once.

        Args:
            columns: The columns of a table that are read; all by default. A query says its own.
            since: Least value of the cursor; None for all rows.
            most: Most rows.

        Raises:
            StatementError: The database refuses the statement.
            LandingError: The database cannot be reached now.
        """
        cursor = self.spec.cursor and self._quote(self.spec.cursor)
        statement = f"SELECT {self._list(columns)} FROM {self._relation} AS pull"  # noqa: S608 names
        if since is not None:
            statement += f" WHERE {cursor} >= {self._dialect.parameter}"
        if cursor:
            statement += f" ORDER BY {cursor}"
        if most is not None:
            statement += f" LIMIT {most}"
        yield from self._execute(statement, () if since is None else (since,))

    def count_rows_without_cursor(self) -> int:
        """Return how many rows have no cursor, so that no pull after the first one would see them.

        Raises:
            StatementError: The database refuses the statement.
            LandingError: The database cannot be reached now.
        """
        is_null = f"{self._quote(self.spec.cursor or '')} IS NULL"
        statement = f"SELECT count(*) AS rows FROM {self._relation} AS pull WHERE {is_null}"  # noqa: S608
        return int(next(self._execute(statement, ())).item())

    @property
    def _uri(self) -> str:
        return self.environment.get(self.spec.uri, "").strip()

    @property
    def _scheme(self) -> str:
        return self._uri.partition(":")[0]

    @property
    def _dialect(self) -> Dialect:
        return DIALECTS[self._scheme]

    @property
    def _relation(self) -> str:
        """Return the table, or the query in brackets."""
        if self.spec.query is not None:
            return f"(\n{self.spec.query.strip().rstrip(';')}\n)"
        return ".".join(map(self._quote, (self.spec.table or "").split(".")))

    def _list(self, columns: list[str] | None) -> str:
        if columns is None or self.spec.query is not None:
            return "*"
        return ", ".join(map(self._quote, dict.fromkeys(columns)))

    def _quote(self, name: str) -> str:
        mark = self._dialect.quote
        return f"{mark}{name.replace(mark, mark * 2)}{mark}"

    def _execute(self, statement: str, parameters: tuple[object, ...]) -> Iterator[pl.DataFrame]:
        driver = self._import_driver()
        try:
            with closing(self._connect(driver)) as connection, closing(connection.cursor()) as rows:
                rows.execute(statement, parameters or None)
                yield from _frames(rows.fetch_record_batch())
        except driver.Error as error:
            permanent = (driver.ProgrammingError, driver.NotSupportedError)
            # DuckDB calls all its errors internal.
            is_internal = isinstance(error, driver.InternalError) and "IO Error" not in str(error)
            is_permanent = is_internal or isinstance(error, permanent)
            kind = StatementError if is_permanent else LandingError
            raise kind(self._explain(error)) from None

    def _import_driver(self) -> Any:
        try:
            return import_module(f"{self._dialect.driver}.dbapi")
        except ImportError as error:
            package = self._dialect.package
            raise RuntimeError(f"no driver for {self._scheme}: pip install '{package}'") from error

    def _connect(self, driver: Any) -> Any:
        """Open a connection that only reads, where the driver can say so."""
        address = self._uri.partition("://")[2]
        if self._scheme == "sqlite":
            path = Path(address.removeprefix("/"))
            if not path.is_file():  # the driver would speak of memory
                raise LandingError(
                    f"{self.spec.place}: there is no such file: correct the path in {self.spec.uri}"
                )
            return driver.connect(f"file:{path}?mode=ro")
        if self._scheme == "duckdb":
            return _connect_duckdb(address.removeprefix("/"))
        if self._scheme == "bigquery":
            project, _, dataset = address.partition("?")[0].partition("/")
            names = {"project_id": project, "dataset_id": dataset}
            options = {f"adbc.bigquery.sql.{name}": value for name, value in names.items()}
            return driver.connect(db_kwargs=options)
        return driver.connect(address if self._scheme == "snowflake" else self._uri)

    def _explain(self, error: Exception) -> str:
        """Return what the database says, without the URI and what it holds."""
        place, password = split_uri(self._uri)
        options = parse_qsl(self._uri.partition("?")[2])
        secrets = [password, *(value for _, value in options)]
        hidden = dict.fromkeys([*secrets, *map(unquote, secrets)], "***")
        names = {self._uri: f"${self.spec.uri}", place: f"${self.spec.uri}"}
        text = mask(" ".join(str(error).split()), names | hidden)[:_MOST_REASON]
        return f"{self.spec.place}: {text}"


def _connect_duckdb(path: str) -> Any:
    """Open a file of DuckDB to read; its own function for that would write."""
    from adbc_driver_duckdb import driver_path
    from adbc_driver_manager.dbapi import connect

    options = {"path": path, "access_mode": "READ_ONLY"}
    return connect(driver=driver_path(), entrypoint="duckdb_adbc_init", db_kwargs=options)


def _frames(batches: Any) -> Iterator[pl.DataFrame]:
    """Yield frames of bounded size from a stream of batches; one without rows if there are none."""
    import pyarrow as pa

    waiting: list[Any] = []
    for batch in batches:
        waiting.append(batch)
        if sum(part.num_rows for part in waiting) >= FRAME_ROWS:
            yield _frame(pa.Table.from_batches(waiting))
            waiting = []
    yield _frame(pa.Table.from_batches(waiting, batches.schema))


def _frame(table: Any) -> pl.DataFrame:
    """Return rows with times in UTC, and types that only the database knows as what they store."""
    rows = pl.DataFrame(list(map(_series, table.column_names, table.columns)))
    return rows.with_columns(cs.datetime(time_zone="*").dt.convert_time_zone("UTC"))


def _series(name: str, column: Any) -> pl.Series:
    kind = column.type
    plain = column.cast(kind.storage_type) if hasattr(kind, "storage_type") else column
    values = pl.Series(name, plain)
    if getattr(kind, "extension_name", "") != "arrow.uuid":
        return values
    form = r"^(.{8})(.{4})(.{4})(.{4})"
    return values.bin.encode("hex").str.replace(form, "${1}-${2}-${3}-${4}-")
