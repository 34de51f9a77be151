"""Of a table that others write, what passes is tried again, and what is damaged is refused."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake

from retrain_assets.stores.landing.foreign import DeltaSource
from retrain_assets.stores.landing.source import LandingError
from retrain_assets_tests.buckets import KEY_ID, SECRET, answering, bucket_apart, point_at, send
from retrain_assets_tests.sales import DAY, spec

ROWS = pl.DataFrame({"id": [1, 2], "day": [DAY] * 2, "note": ["x", "y"]})
NOT_NOW = f"<Error><Code>AccessDenied</Code><Id>{KEY_ID}</Id>{SECRET}</Error>".encode()


def source(root: Path, table: str = "other") -> DeltaSource:
    return DeltaSource(str(root), spec("sales/*.csv").model_copy(update={"delta": table}))


def write(uri: str) -> None:
    for _ in range(3):
        write_deltalake(uri, ROWS, mode="append")


def test_a_store_that_gives_nothing_now_refuses_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bucket_apart("lake", monkeypatch) as url:
        write("s3://lake/sales")
        table = source(tmp_path, "s3://lake/sales")
        [file] = table.files()
        with answering(monkeypatch, lambda asked: send(asked, 403, NOT_NOW)):
            for attempt in (table.files, lambda: table.read(file)):
                with pytest.raises(LandingError, match="AccessDenied; see to the store") as raised:
                    attempt()
                text = "".join(traceback.format_exception(raised.value))
                assert "s3://lake/sales cannot be read" in text
                assert not [word for word in (KEY_ID, SECRET) if word in text]
        point_at(url, monkeypatch)
        assert table.read(file).rows["note"].to_list() == ["x", "y"] * 3


def test_a_folder_that_may_not_be_read_now_refuses_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(f"{tmp_path}/other")
    table = source(tmp_path)
    [file] = table.files()

    def fail(*_: object) -> pl.LazyFrame:
        raise TimeoutError(110, "the server of the folder does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(DeltaSource, "scan", fail)
        with pytest.raises(LandingError, match="other cannot be read: TimeoutError; see to"):
            table.read(file)
    assert table.read(file).refusal is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def spoil(path: Path) -> None:
    path.write_bytes(b"no table" * 100)


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"PAR1", b"PAR2"))


@pytest.mark.parametrize("damage", [cut, spoil, flip, Path.unlink])
def test_a_damaged_file_refuses_the_version_and_not_some_of_its_rows(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    write(f"{tmp_path}/other")
    table = source(tmp_path)
    [file] = table.files()
    damage(sorted((tmp_path / "other").glob("*.parquet"))[1])
    raw = table.read(file)
    assert raw.rows.is_empty()
    assert "version 2" in str(raw.refusal)
