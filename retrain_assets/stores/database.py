"""The PostgreSQL database that keeps the records of Dagster and MLflow, if one is set.

MLflow's tables lie in the schema that the database has by default, Dagster's in one of their own,
since both have a table `runs`. SQLAlchemy is imported by the functions that need it, since the
definitions load without it. Not here: Dagster's storage, and what MLflow stores.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from retrain_assets.errors import PermanentError

VARIABLE = "RETRAIN_DATABASE"
# dagster-postgres installs psycopg2; SQLAlchemy takes `postgresql://` for a later driver.
DRIVER = "postgresql+psycopg2://"
SPELLINGS = ("postgresql://", DRIVER)
SCHEMA = "dagster"  # of Dagster's tables
_LOCK = 5_241_993_017  # any number, the same in all processes


class DatabaseError(PermanentError):
    """The setting names no database that can be used; the message says what to write."""


def database_from(environment: Mapping[str, str]) -> str | None:
    """Return the URI of the database that `RETRAIN_DATABASE` names; None if it is not set.

    Raises:
        DatabaseError: It is no URI of PostgreSQL, or its driver is not installed.
    """
    uri = environment.get(VARIABLE)
    if not uri:
        return None
    form = f"{VARIABLE} must be {SPELLINGS[0]}user:password@host/database"
    if not uri.startswith(SPELLINGS):
        raise DatabaseError(f"{form} and starts with {uri.partition(':')[0][:20]!r}")
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):  # its text may hold a part of the password
        url = None
    if url is None or not url.database or "@" in (url.host or ""):
        raise DatabaseError(
            f"{form}, where @ : / ? # % in a password are written %40 %3A and so on"
        )
    if find_spec("psycopg2") is None:
        raise DatabaseError(f"{VARIABLE} needs: pip install 'retrain-assets[postgres]'")
    return name_driver(uri)


def name_driver(uri: str) -> str:
    """Return a URI with the driver that is installed, whatever else it may name."""
    return DRIVER + uri.removeprefix(SPELLINGS[0]) if uri.startswith(SPELLINGS[0]) else uri


def without_password(uri: str) -> str:
    """Return a URI as `pg_dump` takes it, which reads the password from PGPASSWORD or a file."""
    from sqlalchemy.engine import URL, make_url

    url = make_url(uri)
    query = {name: value for name, value in url.query.items() if "password" not in name}
    place = url.username, None, url.host, url.port, url.database, query
    return URL.create("postgresql", *place).render_as_string()


def in_schema(uri: str) -> str:
    """Return a URI whose tables are Dagster's."""
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    options = f"{url.query.get('options', '')} -csearch_path={SCHEMA}".strip()
    url = url.update_query_dict({"options": options})
    return url.render_as_string(hide_password=False)


@contextmanager
def alone(uri: str) -> Iterator[Any]:
    """Keep other processes from creating tables of the same database meanwhile.

    Yields:
        A connection to the database.
    """
    from sqlalchemy import NullPool, create_engine, text

    with create_engine(uri, poolclass=NullPool).connect() as connection:
        connection.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
        yield connection


def create_schema(connection: Any) -> None:
    """Create the schema of Dagster's tables if it is missing."""
    from sqlalchemy import inspect
    from sqlalchemy.schema import CreateSchema

    if not inspect(connection).has_schema(SCHEMA):
        connection.execute(CreateSchema(SCHEMA))
        connection.commit()


def outage(error: BaseException | None) -> str | None:
    """Return what PostgreSQL or its driver says, in one line, if it failed; else None."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    while error is not None:
        if isinstance(error, (OperationalError, InterfaceError)):
            cause = error.orig
            is_postgres = type(cause).__module__.startswith("psycopg2")
            return " ".join(str(cause).split()) if is_postgres else None
        error = error.__cause__ or error.__context__
    return None
