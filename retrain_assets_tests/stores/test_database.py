"""One setting names the database of all records, and no message shows its password."""

from __future__ import annotations

from pathlib import Path

import click
import psycopg2
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from retrain_assets.cli.base import one_line
from retrain_assets.errors import mask_password
from retrain_assets.stores import database
from retrain_assets.stores.storage import storage_from

URI = "postgresql+psycopg2://ann:p%40ss@db:5433/records"


def named(uri: str, **more: str) -> str:
    return storage_from({"RETRAIN_DATABASE": uri, **more}, Path("/nowhere")).mlflow_uri


def test_both_spellings_name_the_database_with_the_driver_that_is_installed() -> None:
    assert named(URI) == named(URI.replace("+psycopg2", "")) == URI
    assert named("") == "sqlite:////nowhere/data/mlflow.db"
    assert named(URI, MLFLOW_TRACKING_URI="http://mlflow:5000") == "http://mlflow:5000"
    assert named("", MLFLOW_TRACKING_URI="postgresql://a@b/c") == "postgresql+psycopg2://a@b/c"


def test_the_tables_of_dagster_lie_in_a_schema_of_their_own() -> None:
    dagster = database.in_schema(f"{URI}?options=-cstatement_timeout%3D5000&sslmode=require")
    query = make_url(dagster).query
    assert query["options"] == "-cstatement_timeout=5000 -csearch_path=dagster"
    assert query["sslmode"] == "require"
    assert make_url(dagster).password == "p@ss"


def test_the_command_for_a_dump_has_no_password() -> None:
    assert database.without_password(URI) == "postgresql://ann@db:5433/records"
    query = "postgresql://ann@db/records?password=s3cret&sslmode=require"
    assert database.without_password(query) == "postgresql://ann@db/records?sslmode=require"
    assert mask_password("no s3cret here", query) == "no *** here"
    assert mask_password("not p[w here", "postgresql://ann:p[w@db/records") == "not *** here"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("postgres://ann:secret@db/records", "starts with 'postgres'"),
        ("mysql://ann:secret@db/records", "starts with 'mysql'"),
        ("postgresql://ann:secret@db", "written %40"),
        ("postgresql://ann:sec@ret@db/records", "written %40"),
        ("postgresql://ann:secret@db:port/records", "written %40"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_with_what_to_write(uri: str, reason: str) -> None:
    with pytest.raises(database.DatabaseError) as refused:
        named(uri)
    assert reason in str(refused.value)
    assert "postgresql://user:password@host/database" in str(refused.value)
    assert not {"sec", "secret"} & set(str(refused.value).replace("@", " ").split())


def test_a_missing_driver_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "find_spec", lambda _: None)
    with pytest.raises(database.DatabaseError, match=r"pip install 'retrain-assets\[postgres\]'"):
        named(URI)


def test_a_server_that_is_gone_is_told_in_one_line_without_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RETRAIN_DATABASE", URI)

    driver = psycopg2.OperationalError("refused\n\tp@ss?")

    def gone() -> None:  # as dagster-postgres says it
        raise Exception("too many retries") from OperationalError("SELECT", {}, driver)  # noqa: TRY002

    with pytest.raises(click.ClickException) as refused:
        one_line(gone)()
    assert refused.value.message.startswith("PostgreSQL: refused ***?. Nothing that was stored")
