"""Every kind of bad file has its verdict, in every format: R refused whole, Q rows quarantined, A
accepted, W accepted with a warning. Each goes from bytes on disk through reading and judging.

A target with one class only is seen where the target is known, which is with the model.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrain_assets.domain.data.contract import judge
from retrain_assets.domain.data.rules import LINE
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.landing.source import Ignored, LocalFiles

if TYPE_CHECKING:
    from pathlib import Path

DAY = "2013-01-31"
COLUMNS: dict[str, dict[str, Any]] = {
    "id": {"type": "int"},
    "day": {"type": "date"},
    "price": {"type": "float", "required": True, "min": 0, "max": 100},
    "kind": {"type": "category", "allowed": ["a", "b"]},
    "note": {"type": "text"},
}
SOUND: dict[str, Any] = {"id": 1, "day": DAY, "price": 1.5, "kind": "a", "note": "x"}
Reason = tuple[str, str | None, str | None]  # rule, column, value


@dataclass(frozen=True)
class Case:
    """A file and what becomes of it.

    Args:
        id: Row of the table of faults, format, and what is wrong.
        content: Its bytes.
        verdict: R, Q, W or A.
        says: R: what the reason holds. Q: by line, the reasons. W: the further columns.
        changes: To the spec.
    """

    id: str
    content: bytes
    verdict: str
    says: Any = None
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def ending(self) -> str:
        return self.id.split("-")[1]


def spec(ending: str, **changes: Any) -> DatasetSpec:
    partition = {"by": "day", "column": "day", "start": "2013-01-01", "end": "2013-12-31"}
    attributes: dict[str, Any] = {
        "name": "sales",
        "landing": f"sales/{{partition}}.{ending}",
        "partition": partition | changes.pop("partition", {}),
        "columns": COLUMNS | changes.pop("columns", {}),
        "key": ["id"],
        "quarantine": {"max_fraction": 0.5},
    }
    return DatasetSpec.model_validate(attributes | changes)


def row(**changes: Any) -> dict[str, Any]:
    return SOUND | changes


def rows(*bad: dict[str, Any]) -> list[dict[str, Any]]:
    """Four sound rows, which stand on lines 2 to 5 of a CSV and 1 to 4 of others, and bad ones."""
    return [*(row(id=number) for number in range(101, 105)), *bad]


def csv(*lines: str, found: list[dict[str, Any]] | None = None) -> bytes:
    values = [[*map(str, one.values())] for one in (rows() if found is None else found)]
    every = [",".join(SOUND), *map(",".join, values), *lines]
    return "".join(f"{line}\n" for line in every).encode()


def jsonl(*lines: str, found: list[dict[str, Any]] | None = None) -> bytes:
    values = map(json.dumps, rows() if found is None else found)
    return "".join(f"{line}\n" for line in [*values, *lines]).encode()


def parquet(found: list[dict[str, Any]] | None = None, **kinds: Any) -> bytes:
    listed = rows() if found is None else found
    schema = {"id": pl.Int64, "day": pl.Int32, "price": pl.Float64}
    schema |= {"kind": pl.String, "note": pl.String} | kinds
    columns = {
        name: [_days(one[name]) if name == "day" else one[name] for one in listed]
        for name in schema
    }
    content = io.BytesIO()
    pl.DataFrame(columns, schema).cast({"day": pl.Date}).write_parquet(content)
    return content.getvalue()


def _days(value: str | int) -> int:
    """Since 1970; a number is that already, and may be of a year that no date has."""
    return value if isinstance(value, int) else (date.fromisoformat(value) - date(1970, 1, 1)).days


def arrow(**options: Any) -> bytes:
    """The sound rows as another writer has them."""
    content = io.BytesIO()
    pq.write_table(pl.read_parquet(io.BytesIO(parquet())).to_arrow(), content, **options)
    return content.getvalue()


def flipped(content: bytes, value: bytes) -> bytes:
    """The same with one bit of a value turned over."""
    at = content.index(value)
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def bomb(groups: int) -> bytes:
    """Each group is the same million of rows, in few bytes; the footer says how many there are."""
    count = 10**6
    one = pl.select(
        id=pl.repeat(1, count, dtype=pl.Int64),
        day=pl.repeat(date(2013, 1, 31), count),
        price=pl.repeat(1.0, count),
        kind=pl.repeat("a", count),
        note=pl.repeat("x", count),
    )
    content, footer = io.BytesIO(), io.BytesIO()
    pq.write_table(one.to_arrow(), content, row_group_size=count, store_schema=False)
    whole = pq.read_metadata(pa.BufferReader(content.getvalue()))
    same = pq.read_metadata(pa.BufferReader(content.getvalue()))
    for _ in range(groups - 1):
        whole.append_row_groups(same)
    whole.write_metadata_file(footer)
    data = content.getvalue()
    data = data[: -8 - int.from_bytes(data[-8:-4], "little")]
    return data + footer.getvalue()[4:]


def same(identity: str, bad: dict[str, Any], *reasons: Reason, **changes: Any) -> list[Case]:
    """A row that is bad in the same way in all formats."""
    row_, name = identity.split("-", 1)
    found = rows(row(**bad))
    # What JSON calls null is no text in CSV.
    texts = [{name: "" if value is None else value for name, value in one.items()} for one in found]
    empty = [(rule, column, "" if value is None else value) for rule, column, value in reasons]
    return [
        Case(f"{row_}-csv-{name}", csv(found=texts), "Q", {6: empty}, changes),
        Case(f"{row_}-jsonl-{name}", jsonl(found=found), "Q", {5: [*reasons]}, changes),
        Case(f"{row_}-parquet-{name}", parquet(found), "Q", {5: [*reasons]}, changes),
    ]


HTML = b"<!DOCTYPE html>\n<html><body>502 Bad Gateway</body></html>\n"
NO_LIST = {"columns": {"kind": {"type": "category"}}}
ZONE = {"timezone": "America/New_York"}
AT = {"type": "datetime"}
LOCAL = {
    "partition": ZONE,
    "columns": {"note": AT},
    "read": {"date_format": {"note": "%d.%m.%Y %H:%M"}},
}
HIGH = 2**63
LONG, FIELD = 8 * 2**20, "z" * 2**20
EVIL = ['=HYPERLINK("http://x")', "<script>alert(1)</script>", "<!channel>", "a\u202eb'; DROP"]

UNREADABLE = [
    Case("B1-csv-empty", b"", "R", "it is empty"),
    Case("B1-jsonl-empty", b"", "R", "it is empty"),
    Case("B1-parquet-empty", b"", "R", "not a sound parquet file"),
    Case("B1-csv-header-only", csv(found=[]), "R", "it has no rows"),
    Case("B1-jsonl-blank-lines", b"\n \n", "R", "it has no rows"),
    Case("B1-parquet-no-rows", parquet([]), "R", "it has no rows"),
    Case("B1-csv-no-header", csv().split(b"\n", 1)[1], "R", "it lacks id, day, price, kind, note"),
    Case("B1-csv-html", HTML, "R", "its columns are '<!DOCTYPE html>'"),
    Case("B1-jsonl-html", HTML, "R", "all of its 2 rows were refused"),
    Case("B1-parquet-html", HTML, "R", "does not begin and end as one"),
    Case("B2-csv-missing", csv().replace(b"note", b"memo"), "R", "it lacks note"),
    Case("B2-jsonl-missing", jsonl().replace(b"note", b"memo"), "R", "it lacks note"),
    Case("B2-parquet-missing", parquet().replace(b"note", b"memo"), "R", "it lacks note"),
    Case("B2-csv-case", csv().replace(b"price", b"Price "), "R", "price (is 'Price ' meant?)"),
    Case("B2-jsonl-case", jsonl().replace(b"price", b"Price"), "R", "price (is 'Price' meant?)"),
    Case("B2-parquet-case", parquet().replace(b"price", b"Price"), "R", "(is 'Price' meant?)"),
    Case("B2-csv-twice", csv().replace(b"note", b"id"), "R", "it has two columns 'id'"),
    Case("B2-parquet-twice", parquet().replace(b"note", b"kind"), "R", "two columns 'kind'"),
    Case("B4-csv-delimiter", csv().replace(b",", b";"), "R", "columns are 'id;day;price"),
    Case("B4-csv-utf-16", csv().decode().encode("utf-16"), "R", "it is utf-16, not utf-8"),
    Case("B4-jsonl-utf-16", jsonl().decode().encode("utf-16"), "R", "it is utf-16, not utf-8"),
    Case("B4-csv-latin-1", csv().replace(b"x", b"\xe9"), "R", "(byte 0xe9 at offset 44)"),
    Case("B4-jsonl-latin-1", jsonl().replace(b"x", b"\xe9"), "R", "not utf-8 (byte 0xe9"),
    Case("B6-csv-gzip", gzip.compress(csv()), "R", "it is a gzip file, not utf-8: deliver"),
    Case("B6-jsonl-gzip", gzip.compress(jsonl()), "R", "it is a gzip file, not utf-8: deliver"),
    Case("B6-parquet-gzip", gzip.compress(parquet()), "R", "does not begin and end as one"),
    Case("B6-csv-parquet", parquet(), "R", "not utf-8"),
    Case("B6-jsonl-parquet", parquet(), "R", "not utf-8"),
    Case("B6-parquet-csv", csv(), "R", "does not begin and end as one"),
    Case("B6-parquet-truncated", parquet()[:-100], "R", "does not begin and end as one"),
    Case("B6-parquet-garbage", b"PAR1" + b"\xff" * 200 + b"PAR1", "R", "not a sound parquet file"),
    Case("B6-parquet-page-lost", b"PAR1" + parquet()[40:], "R", "not a sound parquet file"),
    Case("B7-csv-truncated", csv("105,2013-01-31,1")[:-1], "R", "ends in the middle of line 6"),
    Case("B7-jsonl-truncated", jsonl('{"id": 105, "d')[:-1], "R", "in the middle of line 5"),
    Case("B7-csv-unclosed-quote", csv('105,,,,"x', "106,,,,y"), "R",
         "the quote opened on line 6 runs on to line 7"),
    Case("B17-csv-nul", csv("105,,,,\0"), "R", "it holds a NUL byte"),
    Case("B17-jsonl-nul", jsonl("\0"), "R", "it holds a NUL byte"),
    Case("B17-csv-gzip-bomb", gzip.compress(b"0" * 10**7), "R", "not utf-8"),
    Case("B17-csv-max-bytes", csv(), "R", "it has 115 bytes; read.max_bytes is 99",
         {"read": {"max_bytes": 99}}),
    *(
        Case(f"B17-{ending}-max-values", made(), "R", f"{noun} of 5 columns; read.max_values is 9",
             {"read": {"max_values": 9}})
        for ending, made, noun in (
            ("csv", csv, "5 lines"), ("jsonl", jsonl, "4 lines"), ("parquet", parquet, "4 rows"))
    ),
    Case("B17-jsonl-max-bytes", jsonl(), "R", "read.max_bytes is 99", {"read": {"max_bytes": 99}}),
    Case("B17-parquet-unpacked", bomb(1), "R", "unpacks to 40,000,000 bytes; read.max_bytes is",
         {"read": {"max_bytes": 10**7}}),
    Case("B20-parquet-text", parquet(id=pl.String, found=rows(row(id="x"))[4:]), "R",
         "column id is String, but the contract says int"),
    Case("B20-parquet-float", parquet(rows(row(id=1.5)), id=pl.Float64), "Q",
         {5: [("type", "id", "1.5")]}),
    Case("B20-parquet-list", parquet([row(note=["x"])], note=pl.List(pl.String)), "R",
         "column note is List(String), but the contract says text"),
    Case("B20-parquet-struct", parquet([row(note={"x": 1})], note=pl.Struct({"x": pl.Int64})),
         "R", "column note is Struct({'x': Int64})"),
    Case("B20-parquet-naive", parquet([row(note=datetime(2013, 1, 31))], note=pl.Datetime("us")),  # noqa: DTZ001
         "R", "column note has times without a time zone", {"columns": {"note": AT}}),
    Case("B20-parquet-zone",
         parquet([row(note=datetime(2013, 1, 31, tzinfo=UTC))],
                 note=pl.Datetime("us", "Europe/Paris")),
         "R", "time zone Europe/Paris, but partition.timezone is America/New_York",
         {"columns": {"note": AT}, "partition": ZONE}),
    Case("B21-jsonl-array", json.dumps(rows(), indent=1).encode(), "R", "as a JSON array"),
    Case("B21-jsonl-array-of-lines", b"[" + jsonl() + b"]\n", "R", "as a JSON array"),
    Case("B21-jsonl-envelope", json.dumps({"data": rows()}).encode(), "R", "it lacks id, day"),
    Case("B21-jsonl-indented", json.dumps({"data": rows()}, indent=1).encode() + b"\n", "R",
         "it begins as a JSON object on several lines: write each object on one line"),
]  # fmt: skip

TOO_BAD = "5 of 9 rows were refused; quarantine.max_fraction is 0.5"
MANY = rows(*(row(id=number, kind="c") for number in range(5)))
SPOILT = [row(id=number, kind="c") for number in range(5)]
SUMS = [
    Case(f"B16-{ending}-{name}", made(found=found), "R", why)
    for ending, made in (("csv", csv), ("jsonl", jsonl), ("parquet", parquet))
    for name, found, why in (
        ("too-many", MANY, TOO_BAD),
        ("all", SPOILT, "all of its 5 rows were refused"),
    )
]

TOO_LONG = "it is not CSV: field larger than field limit (131072)"


def short(text: str) -> str:
    """What quarantine shows of a text."""
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"


BROKEN_LINES = [
    Case(
        *(identity, made(line), "Q"),
        {6 if made is csv else 5: [("parse", None, f"{why}: {short(line)}")]},
    )
    for identity, made, line, why in (
        ("B8-csv-short", csv, "105,2013-01-31,1.5,a", "it has 4 fields instead of 5"),
        ("B8-csv-long", csv, "105,2013-01-31,1.5,a,x,y", "it has 6 fields instead of 5"),
        ("B8-csv-footer", csv, "-- 4 rows --", "it has 1 field instead of 5"),
        (
            "B8-jsonl-footer",
            jsonl,
            "-- 4 rows --",
            "it is not JSON: Expecting value at character 1",
        ),
        ("B17-csv-quoted-field", csv, f'105,2013-01-31,1.5,a,"{FIELD}"', TOO_LONG),
        ("B17-csv-long-line", csv, f"105,2013-01-31,1.5,a,{'z' * LONG}", TOO_LONG),
        (
            "B17-jsonl-long-line",
            jsonl,
            json.dumps(row(id=105, more="z" * LONG)),
            "it has 8,388,692 characters; 1,048,576 are the most",
        ),
        (
            "B17-jsonl-nul",
            jsonl,
            json.dumps(row(id=105, note="a\0b")),
            "column note holds a NUL character",
        ),
        (
            "B22-jsonl-broken",
            jsonl,
            '{"id": 105,',
            "it is not JSON: Expecting property name enclosed in double quotes at character 12",
        ),
        ("B22-jsonl-nesting", jsonl, "[" * 10**5, "it is nested too deeply"),
        (
            "B22-jsonl-nested-value",
            jsonl,
            json.dumps(row(id=105, note={"a": [1]})),
            "column note holds a nested value, not a single one",
        ),
        ("B22-jsonl-key-twice", jsonl, '{"id": 105, "id": 106}', "column id stands twice"),
        (
            "B22-jsonl-surrogate",
            jsonl,
            json.dumps(row(id=105)).replace("x", "\\ud800"),
            "column note holds half of a surrogate pair",
        ),
    )
]

BAD_ROWS = [
    *BROKEN_LINES,
    Case("B8-jsonl-short", jsonl('{"id": 105, "day": "2013-01-31"}'), "Q",
         {5: [("required", "price", None)]}),
    *(
        Case(f"B9-{ending}-{name}", made(found=rows(row(**{column: text}))), "Q",
             {6 if ending == "csv" else 5: [("type", column, str(text))]})
        for ending, made in (("csv", csv), ("jsonl", jsonl))
        for name, column, text in (
            ("text-in-int", "id", "one"),
            ("float-in-int", "id", 1.5),
            ("overflow", "id", HIGH),
            ("underscore", "id", "1_000"),
            ("no-ascii-digit", "id", "\uff11"),
            ("unit", "price", "1.5 USD"),
        )
    ),
    Case("B9-csv-decimal-comma", csv('105,2013-01-31,"1,5",a,x'), "Q",
         {6: [("type", "price", "1,5")]}),
    Case("B9-csv-thousands", csv('"1,000",2013-01-31,1.5,a,x'), "Q",
         {6: [("type", "id", "1,000")]}),
    Case("B9-jsonl-decimal-comma", jsonl(found=rows(row(price="1,5"))), "Q",
         {5: [("type", "price", "1,5")]}),
    Case("B9-parquet-overflow", parquet(rows(row(id=HIGH)), id=pl.UInt64), "Q",
         {5: [("type", "id", str(HIGH))]}),
    *(
        Case(f"B10-{ending}-{text}", made(found=rows(row(price=text))), "Q",
             {6 if ending == "csv" else 5: [("type", "price", text)]})
        for ending, made in (("csv", csv), ("jsonl", jsonl))
        for text in ("NaN", "inf", "-Infinity", "1e999", "NULL", "N/A", "None")
    ),
    Case("B10-jsonl-bare-nan", jsonl(found=rows(row(price=float("nan")))), "Q",
         {5: [("type", "price", "NaN")]}),
    Case("B10-parquet-nan", parquet(rows(row(price=float("nan")))), "Q",
         {5: [("type", "price", "NaN")]}),
    Case("B10-parquet-inf", parquet(rows(row(price=float("inf")))), "Q",
         {5: [("type", "price", "inf")]}),
    *same("B10-word", {"note": "NULL"}, ("type", "note", "NULL")),
    *same("B11-null", {"price": None}, ("required", "price", None)),
    *same("B11-null-key", {"id": None}, ("key", "id", None)),
    *same("B11-range", {"price": 100.5}, ("range", "price", "100.5")),
    *same("B11-not-allowed", {"kind": "A"}, ("allowed", "kind", "A")),
    *same("B11-pattern", {"note": "N1x"}, ("pattern", "note", "N1x"),
          columns={"note": {"type": "text", "pattern": "x|N[0-9]"}}),
    *(
        Case(f"B13-{ending}-{text}", made(found=rows(row(day=text))), "Q",
             {6 if ending == "csv" else 5: [("type", "day", text)]})
        for ending, made in (("csv", csv), ("jsonl", jsonl))
        for text in ("2013-02-30", "31/01/2013", "2013-1-31", "1359590400", "0000-00-00",
                     "2013-01-31T10:00:00")
    ),
    *(
        Case(f"B13-{ending}-local-{text}", made(found=local), "Q",
             {6 if ending == "csv" else 5: [("type", "note", text)]}, LOCAL)
        for ending, made in (("csv", csv), ("jsonl", jsonl))
        for text in ("10.03.2013 02:30", "03.11.2013 01:30", "31.01.2013 10:00Z",
                     "31.01.2013 10:00-05:00")
        for local in [[one | {"note": "31.01.2013 10:00"} for one in rows()] + [row(note=text)]]
    ),
    *(
        Case(f"B13-{ending}-no-offset", made(found=mixed), "Q",
             {6 if ending == "csv" else 5: [("type", "note", "2013-01-31T10:00:00")]},
             {"columns": {"note": AT}})
        for ending, made in (("csv", csv), ("jsonl", jsonl))
        for mixed in [
            [one | {"note": "2013-01-31T10:00:00-05:00"} for one in rows()]
            + [row(note="2013-01-31T10:00:00")]
        ]
    ),
    Case("B13-parquet-year-10000", parquet(rows(row(day=2_932_897))), "Q",
         {5: [("type", "day", "+10000-01-01")]}),
    *same("B14-foreign", {"day": "2013-01-30"}, ("partition", "day", "2013-01-30")),
    *same("B14-future", {"day": "2099-01-31"}, ("partition", "day", "2099-01-31")),
    *same("B15-repeated", {"id": 101}, ("repeat", "id", "101")),
    Case("B17-csv-field", csv(f"105,2013-01-31,1.5,a,{FIELD[:-100]}"), "Q",
         {6: [("type", "note", short(FIELD[:-100]))]}),
    Case("B17-jsonl-field", jsonl(found=rows(row(note=FIELD[:-100]))), "Q",
         {5: [("type", "note", short(FIELD[:-100]))]}),
    Case("B17-parquet-field", parquet(rows(row(note=FIELD))), "Q",
         {5: [("type", "note", short(FIELD))]}),
    Case("B17-parquet-nul", parquet(rows(row(note="a\0b"))), "Q",
         {5: [("type", "note", "a\0b")]}),
]  # fmt: skip
ACCEPTED = [
    Case("B3-csv-extra", b"\n".join(line + b",1" for line in csv().split()).replace(
        b"note,1", b"note,more") + b"\n", "W", ("more",)),
    Case("B3-jsonl-extra", jsonl(json.dumps(row(id=105, more={"x": [1]}))), "W", ("more",)),
    Case("B3-parquet-extra", parquet([one | {"more": [1]} for one in rows()],
                                     more=pl.List(pl.Int64)), "W", ("more",)),
    Case("B5-csv-bom-crlf-order",
         b"\xef\xbb\xbfnote,kind,price,day,id\r\nx,a,1.5,2013-01-31,1\r\n", "A"),
    Case("B5-jsonl-bom-crlf-order",
         b'\xef\xbb\xbf{"note":"x","kind":"a","price":1.5,"day":"2013-01-31","id":1}\r\n', "A"),
    Case("B5-parquet-order", parquet([dict(reversed(one.items())) for one in rows()]), "A"),
    Case("B6-parquet-checksums", arrow(write_page_checksum=True, compression="none"), "A"),
    *(
        Case(f"B12-{ending}-unseen", made(found=rows(row(kind="never seen"))), "A", None, NO_LIST)
        for ending, made in (("csv", csv), ("jsonl", jsonl), ("parquet", parquet))
    ),
]  # fmt: skip
CASES = [*UNREADABLE, *SUMS, *BAD_ROWS, *ACCEPTED]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_bad_file_has_its_verdict(tmp_path: Path, case: Case) -> None:
    path = tmp_path / "sales" / f"{DAY}.{case.ending}"
    path.parent.mkdir()
    path.write_bytes(case.content)
    landing = LocalFiles(tmp_path, spec(case.ending, **case.changes))
    [file] = landing.files()
    raw = landing.read(file)
    judgement = judge([raw], landing.spec)
    counted = judgement.files.row(0, named=True)
    assert path.read_bytes() == case.content
    assert counted["rows_read"] == counted["accepted"] + counted["quarantined"]
    lines = dict(judgement.quarantined.select(LINE, "_reasons").iter_rows())
    if case.verdict == "R":
        [reason] = judgement.refused_partitions.values()
        assert reason.startswith(f"sales/{DAY}.{case.ending}: ")
        assert case.says in reason
        assert len(reason) < 500
        assert list(lines) == [None]
        assert lines[None][0]["value"] in reason
        assert judgement.accepted.is_empty()
        return
    assert judgement.refused_partitions == {}
    assert counted["accepted"] == judgement.accepted.height == counted["rows_read"] - len(lines)
    assert counted["accepted"] > 0
    found = {
        line: [(one["rule"], one["column"], one["value"]) for one in reasons]
        for line, reasons in lines.items()
    }
    assert found == (case.says if case.verdict == "Q" else {})
    assert raw.extra == (case.says if case.verdict == "W" else ())


@pytest.mark.parametrize("made", [csv, jsonl, parquet], ids=lambda made: made.__name__)
def test_b15_of_rows_with_one_key_that_differ_none_is_accepted(tmp_path: Path, made: Any) -> None:
    path = tmp_path / "sales" / f"{DAY}.{made.__name__}"
    path.parent.mkdir()
    path.write_bytes(made(found=rows(row(id=101, note="y"))))
    landing = LocalFiles(tmp_path, spec(made.__name__))
    judgement = judge([landing.read(file) for file in landing.files()], landing.spec)
    first = 2 if made is csv else 1
    assert judgement.quarantined[LINE].to_list() == [first, first + 4]
    [[one], [other]] = judgement.quarantined["_reasons"]
    assert one == other == {"rule": "key", "column": "id", "value": "101"}


@pytest.mark.parametrize("text", EVIL)
@pytest.mark.parametrize("made", [csv, jsonl, parquet], ids=lambda made: made.__name__)
def test_b18_text_that_means_harm_elsewhere_is_stored_as_it_is(
    tmp_path: Path, made: Any, text: str
) -> None:
    written = '"{}"'.format(text.replace('"', '""')) if made is csv else text
    path = tmp_path / "sales" / f"{DAY}.{made.__name__}"
    path.parent.mkdir()
    path.write_bytes(made(found=rows(row(note=written))))
    landing = LocalFiles(tmp_path, spec(made.__name__))
    judgement = judge([landing.read(file) for file in landing.files()], landing.spec)
    assert judgement.accepted["note"].to_list()[-1] == text


def test_b6_a_flipped_bit_is_seen_where_pages_have_checksums(tmp_path: Path) -> None:
    sound = arrow(write_page_checksum=True, compression="none", use_dictionary=False)
    path = tmp_path / "sales" / f"{DAY}.parquet"
    path.parent.mkdir()
    path.write_bytes(flipped(sound, (103).to_bytes(8, "little")))
    landing = LocalFiles(tmp_path, spec("parquet"))
    assert "the checksum of a page is wrong" in (landing.read(landing.files()[0]).refusal or "")


@pytest.mark.parametrize("value", [3, 5, 2**20])
def test_b6_a_footer_that_lies_of_its_rows_is_refused(tmp_path: Path, value: int) -> None:
    lying, sound = io.BytesIO(), arrow(store_schema=False)
    begin = -8 - int.from_bytes(sound[-8:-4], "little")
    # The number of rows of the file, and of its only group, each a zigzag varint.
    said, number = b"\x16" + _varint(2 * 4), b"\x16" + _varint(2 * value)
    footer = sound[begin:-8].replace(said, number)
    assert footer != sound[begin:-8]
    lying.write(sound[:begin] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    path = tmp_path / "sales" / f"{DAY}.parquet"
    path.parent.mkdir()
    path.write_bytes(lying.getvalue())
    landing = LocalFiles(tmp_path, spec("parquet"))
    assert "do not hold the rows of the footer" in (landing.read(landing.files()[0]).refusal or "")


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


CHILD = """
import sys
from pathlib import Path
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.landing.source import LocalFiles
root, spec = Path(sys.argv[1]), DatasetSpec.model_validate_json(sys.argv[2])
def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024
import polars; polars.DataFrame({"a": [1]}).write_parquet(root / "warm")
polars.read_parquet(root / "warm")
landing = LocalFiles(root, spec)
before = peak()
raw = landing.read(landing.files()[0])
print(peak() - before, raw.refusal)
"""


def test_b17_a_bomb_of_a_thousand_million_rows_is_refused_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "sales" / f"{DAY}.parquet"
    path.parent.mkdir()
    path.write_bytes(bomb(1000))
    assert path.stat().st_size < 2**20
    arguments = [str(tmp_path), spec("parquet").model_dump_json()]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    grown, _, refusal = child.stdout.partition(" ")
    assert "it unpacks to 40,000,000,000 bytes; read.max_bytes is 1,073,741,824" in refusal
    assert int(grown) < 100


def test_b17_one_text_repeated_a_million_times_is_refused_without_being_written_out(
    tmp_path: Path,
) -> None:
    coded = pa.DictionaryArray.from_arrays(pa.array([0] * 50_000, pa.int32()), [FIELD])
    columns = {name: [value] * 50_000 for name, value in SOUND.items() if name != "note"}
    table = pa.table(columns | {"day": [date(2013, 1, 31)] * 50_000, "note": coded})
    path = tmp_path / "sales" / f"{DAY}.parquet"
    path.parent.mkdir()
    pq.write_table(table, path, compression="zstd")
    landing = LocalFiles(tmp_path, spec("parquet"))
    begin = datetime.now(UTC)
    refusal = landing.read(landing.files()[0]).refusal or ""
    assert "it unpacks to 52,428,850,000 bytes" in refusal
    assert datetime.now(UTC) - begin < timedelta(seconds=5)


def test_b23_what_is_no_finished_regular_file_is_never_opened(tmp_path: Path) -> None:
    root = tmp_path / "landing"
    folder = root / "sales"
    (folder / "2013-01-01.csv").mkdir(parents=True)
    os.mkfifo(folder / "2013-01-02.csv")
    (tmp_path / "secret.csv").write_bytes(csv())
    (folder / "2013-01-03.csv").symlink_to(tmp_path / "secret.csv")
    for ending in ("csv.tmp", "csv.part", "csv.crdownload", "csv~"):
        (folder / f"2013-01-04.{ending}").write_bytes(csv())
    for name in ("~$2013-01-04.csv", "~2013-01-04.csv"):
        (folder / name).write_bytes(csv())
    ignored = Ignored()
    assert LocalFiles(root, spec("csv")).files(None, ignored) == []
    assert ignored.reasons["temporary"][0] == 6
