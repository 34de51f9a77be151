"""Samples of all kinds as they are read, and the files of a new project."""

from __future__ import annotations

import io
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from retrain_assets.domain.start.guess import Wishes, guess
from retrain_assets.steps import start
from retrain_assets.steps.start import land_files, read_delivery, write_new, write_project
from retrain_assets_tests.buckets import bucket
from retrain_assets_tests.servers import running

ROWS = pl.DataFrame({"day": ["2023-01-01", "2023-01-02"], "x": [1.5, 2.5], "name": ["a", "b"]})


def lines(*rows: str, encoding: str = "utf-8") -> bytes:
    return ("\n".join(rows) + "\n").encode(encoding)


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("a.csv", lines("day,x", "2023-01-01,1", "2023-01-02,2"), {}),
        (
            "a.txt",
            lines("day;x", "2023-01-01;1,5", "2023-01-02;2"),
            {"delimiter": ";", "decimal": ","},
        ),
        (
            "a.csv",
            lines("x;y", "1.234,5;1.000", "2,5;030 123 456"),
            {"delimiter": ";", "decimal": ",", "thousands": "."},
        ),
        ("a.csv", lines("x,y", '"1,234.50",1', "7,2"), {"thousands": ","}),
        ("a.tsv", lines("day\tx", "2023-01-01\t1", "2023-01-02\t2"), {"delimiter": "\t"}),
        ("a.csv", lines("day,x", "2023-01-01, 1", "2023-01-02, 2"), {"trim": True}),
        ("a.csv", lines("däy,x", "1,ü", "2,y", encoding="cp1252"), {"encoding": "cp1252"}),
        ("a.csv", lines("day,x", "1,ü", "2,y", encoding="utf-16"), {"encoding": "utf-16"}),
        ("a.csv", lines("1,2.5", "3,4.5"), {"header": ["column_1", "column_2"]}),
        (
            "a.csv",
            lines(",_x,{{ y", "1,2,3"),
            {"rename": {"": "column_1", "_x": "x", "{{ y": "( y"}},
        ),
        ("a.ndjson", lines('{"day": "2023-01-01", "x": 1}', '{"x": 2}'), {}),
    ],
)
def test_the_options_of_reading_show_in_the_file(
    tmp_path: Path, name: str, content: bytes, read: dict[str, Any]
) -> None:
    (tmp_path / name).write_bytes(content)
    delivery = read_delivery(tmp_path / name, "shop")
    assert delivery.sample.read == read
    assert delivery.sample.rows["_broken"].null_count() == delivery.sample.rows.height
    ending = ".jsonl" if name.endswith("json") else ".csv"
    assert delivery.sample.source == {"landing": f"shop/*{ending}"}
    assert [*delivery.files] == [f"a{ending}"]


def test_a_folder_is_one_sample_whose_files_have_the_same_columns(tmp_path: Path) -> None:
    for number in (1, 2):
        ROWS.write_csv(tmp_path / f"{number}.csv")
    delivery = read_delivery(tmp_path, "shop")
    assert (delivery.sample.rows.height, delivery.sample.files) == (4, 2)
    ROWS.rename({"x": "y"}).write_csv(tmp_path / "3.csv")
    with pytest.raises(ValueError, match="differ in their columns: x, y"):
        read_delivery(tmp_path, "shop")


def test_json_has_its_columns_in_the_order_of_the_file(tmp_path: Path) -> None:
    names = [f"x{number * 7 % 40}" for number in range(40)]
    text = ", ".join(f'"{name}": 1' for name in names)
    (tmp_path / "a.jsonl").write_text(f'{{{text}}}\n{{"x1": 2, "late": 3}}\n', encoding="utf-8")
    assert read_delivery(tmp_path / "a.jsonl", "shop").sample.columns == [*names, "late"]


def test_parquet_and_delta_keep_their_types(tmp_path: Path) -> None:
    ROWS.write_parquet(tmp_path / "a.parquet")
    ROWS.write_delta(str(tmp_path / "table"))
    for path, source in ((tmp_path / "a.parquet", "landing"), (tmp_path / "table", "delta")):
        sample = read_delivery(path, "shop").sample
        assert [*sample.source] == [source]
        assert sample.rows.schema["x"] == pl.Float64


SHEETS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
WORKBOOK = {
    "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"'
    '><Default Extension="xml" ContentType="application/xml"/><Default Extension="rels" '
    'ContentType="application/vnd.openxmlformats-package.relationships+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{PACKAGE}"><Relationship Id="a" '
    f'Target="xl/workbook.xml" Type="{LINKS}/officeDocument"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{SHEETS}" xmlns:r="{LINKS}"><sheets>'
    '<sheet name="orders" sheetId="1" r:id="a"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}"><Relationship Id="a" '
    f'Target="worksheets/sheet1.xml" Type="{LINKS}/worksheet"/></Relationships>',
}
CELL = '<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'


def write_sheet(path: Path) -> None:
    """Write a workbook of one sheet, by its parts, since no library here writes one."""
    rows = [("day", "x"), ("2023-01-01", "a"), ("2023-01-02", "b")]
    cells = [
        "".join(CELL.format(place=f"{'AB'[at]}{number}", value=row[at]) for at in range(2))
        for number, row in enumerate(rows, start=1)
    ]
    lines = "".join(f'<row r="{number}">{row}</row>' for number, row in enumerate(cells, start=1))
    sheet = f'<worksheet xmlns="{SHEETS}"><sheetData>{lines}</sheetData></worksheet>'
    with zipfile.ZipFile(path, "w") as file:
        for name, text in {**WORKBOOK, "xl/worksheets/sheet1.xml": sheet}.items():
            file.writestr(name, text)


def test_a_file_at_a_url_is_read_as_that_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ROWS.write_csv(tmp_path / "shop orders.csv")
    file = read_delivery(tmp_path / "shop orders.csv", "shop")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with running(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        host = f"http://127.0.0.1:{server.server_port}"
        url = f"{host}/shop%20orders.csv?token=secret"
        fetched = start.read_url(url, "shop")
        assert fetched.sample.rows.equals(file.sample.rows)
        assert fetched.files == {"shop_orders.csv": (tmp_path / "shop orders.csv").read_bytes()}
        assert start.name_source(url) == ("shop orders.csv", "shop orders")
        with pytest.raises(ValueError, match=r"no\.csv of 127\.0\.0\.1 cannot be read: HTTP .*404"):
            start.read_url(f"{host}/no.csv?token=secret", "shop")
        with pytest.raises(ValueError, match="names no file"):
            start.read_url(f"{host}/?file=a.csv", "shop")
        monkeypatch.setattr(start, "_MOST_BYTES", 10)
        with pytest.raises(ValueError, match="more than 1 GiB"):
            start.read_url(url, "shop")
    with pytest.raises(ValueError, match="cannot be read"):  # nothing answers there any more
        start.read_url(url, "shop")


def test_a_file_in_an_object_store_is_read_as_that_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    content = ROWS.write_csv().encode()
    with bucket("lake", monkeypatch) as lake:
        lake.put("shop/orders.csv", content)
        delivery = start.read_url("s3://lake/shop/orders.csv", "shop")
    assert delivery.files == {"orders.csv": content}
    assert delivery.sample.rows["x"].to_list() == ["1.5", "2.5"]


def test_a_sheet_of_excel_lands_as_parquet(tmp_path: Path) -> None:
    write_sheet(tmp_path / "a.xlsx")
    delivery = read_delivery(tmp_path / "a.xlsx", "shop", "orders")
    (content,) = delivery.files.values()
    assert isinstance(content, bytes)
    assert pl.read_parquet(io.BytesIO(content)).columns == ["day", "x"]
    with pytest.raises(ValueError, match="nope"):
        read_delivery(tmp_path / "a.xlsx", "shop", "nope")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", b"", "is empty"),
        ("a.zip", b"PK", "unpacked"),
        ("a.jsonl", b'{"x": 1}\n[2', "is not JSON"),
        ("a.csv", b"# from a site\nday,x\n1,2\n", "the first line is a comment"),
        ("a.csv", b'day,x\n1,"2\n', "quote opened on line"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(
    tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=why):
        read_delivery(tmp_path / name, "shop")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        read_delivery(tmp_path / "nope", "shop")


@pytest.mark.parametrize("form", ["parquet", "ndjson", "delta"])
def test_a_name_that_yaml_would_read_otherwise_is_another_name(tmp_path: Path, form: str) -> None:
    hostile = "{{ env.HOME }}"
    days = [f"2023-{1 + at // 25:02}-{1 + at % 25:02}" for at in range(200)]
    rows = pl.DataFrame({"day": days, "y": range(200), hostile: [at % 7 for at in range(200)]})
    path = tmp_path / f"a.{form}"
    getattr(rows, f"write_{form}")(path)
    delivery = read_delivery(path, "shop")
    assert delivery.sample.read["rename"] == {hostile: "( env.HOME }}"}
    drafted = guess(delivery.sample, Wishes("m", "shop", "y", key=["day"]))
    assert "( env.HOME }}" in drafted.dataset.attributes["columns"]
    assert hostile not in drafted.model.render()


def test_a_file_that_has_landed_is_never_written_over(tmp_path: Path) -> None:
    source, landing = tmp_path / "a.csv", tmp_path / "landing"
    ROWS.write_csv(source)
    delivery = read_delivery(source, "shop")
    (landed,) = land_files(delivery, landing, "shop")
    assert landed.read_bytes() == source.read_bytes()
    assert [*land_files(delivery, landing, "shop")] == []  # again, after a kill
    landed.write_bytes(b"other")
    with pytest.raises(ValueError, match="is there already"):
        [*land_files(delivery, landing, "shop")]
    again = read_delivery(landed, "shop")
    assert [*land_files(again, landing, "shop")] == []
    with pytest.raises(ValueError, match="is there already"):
        write_new(landed, "")


def test_a_project_gets_the_files_that_it_lacks_and_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("mine", encoding="utf-8")
    written = {str(path.relative_to(tmp_path)) for path in write_project(tmp_path, "shop")}
    assert {"pyproject.toml", ".env", ".gitignore", "shop/definitions.py"} <= written
    assert (tmp_path / "Makefile").read_text() == "mine"
    assert [*write_project(tmp_path, "shop")] == []
    assert f"DAGSTER_HOME='{tmp_path}'" in (tmp_path / ".env").read_text()


def test_the_settings_of_dagster_are_those_of_this_repository(tmp_path: Path) -> None:
    [*write_project(tmp_path, "shop", ["dagster.yaml"])]
    ours = Path(__file__).parents[2] / "dagster.yaml"
    assert yaml.safe_load((tmp_path / "dagster.yaml").read_text()) == yaml.safe_load(
        ours.read_text()
    )
