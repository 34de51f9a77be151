"""Bytes become rows as they stand, and what cannot be trusted is refused with the reason."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain_assets.domain.data.contract import judge
from retrain_assets.domain.data.row_checks import NO_ROWS, RawRows
from retrain_assets.domain.data.rules import BROKEN, LINE
from retrain_assets.stores.landing import readers
from retrain_assets.stores.landing.formats import read_rows
from retrain_assets.stores.landing.readers import RefusedFileError, number_rows
from retrain_assets.stores.landing.source import LandingFile, parsed
from retrain_assets_tests.sales import DAY, read, spec

if TYPE_CHECKING:
    from pathlib import Path


def rows(file: RawRows) -> list[tuple[object, ...]]:
    return file.rows.select("id", "day", "note", LINE, BROKEN).rows()


@pytest.mark.parametrize(
    "content",
    [
        b"id,day,note\n1,2013-01-31,x\n2,,\n",
        b"\xef\xbb\xbfid,day,note\r\n1,2013-01-31,x\r\n2,,",
        b'"id","day","note"\n"1","2013-01-31","x"\n"2","",""\n',
        b"note,id,day\nx,1,2013-01-31\n,2,\n",
        b"\xef\xbb\xbfid;day;note\n1;2013-01-31;x\n2;;\n",
    ],
)
def test_csv_values_are_the_text_that_stands_there(tmp_path: Path, content: bytes) -> None:
    delimiter = ";" if b";" in content else ","
    file = read(tmp_path, content, read={"delimiter": delimiter})
    assert file.refusal is None
    assert rows(file) == [("1", DAY, "x", 2, None), ("2", "", "", 3, None)]


def test_line_numbers_count_the_lines_of_a_quoted_value_and_blank_ones(tmp_path: Path) -> None:
    file = read(tmp_path, b'id,day,note\n1,,"a ""b"",\nc"\n\n2,,d\n')
    assert rows(file) == [("1", "", 'a "b",\nc', 2, None), ("2", "", "d", 5, None)]


@pytest.mark.parametrize("quoted", [b"", b'"'])
def test_short_and_long_rows_are_kept_as_text(tmp_path: Path, quoted: bytes) -> None:
    note = quoted + b"x" + quoted
    content = b"id,day,note\n1,," + note + b"\n2,x\n3,,,x\n4,," + note + b"\nend of file: 4\n"
    assert rows(read(tmp_path, content)) == [
        ("1", "", "x", 2, None),
        (None, None, None, 3, "2,x"),
        (None, None, None, 4, "3,,,x"),
        ("4", "", "x", 5, None),
        (None, None, None, 6, "end of file: 4"),
    ]


def test_a_misplaced_quote_or_a_huge_field_breaks_its_own_line_only(tmp_path: Path) -> None:
    content = b'id,day,note\n1,,"x"y\n2,,"' + b"z" * 2**20 + b'"\n3,,x\n'
    broken = [line for *_, line in rows(read(tmp_path, content))]
    assert [(line or "")[:7] for line in broken] == ['1,,"x"y', '2,,"zzz', ""]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\n\n", "lacks id, day, note"),
        (b"1,2013-01-31,x\n", "lacks id, day, note"),
        (b"<!DOCTYPE html>\n<html></html>\n", "lacks id, day, note; its columns are '<!DOCTYPE"),
        (b"id;day;note\n1;;\n", "its columns are 'id;day;note'"),
        (b"id,day\n1,\n", "lacks note"),
        (b"id,day, Note\n1,,\n", "lacks note (is ' Note' meant?)"),
        (b"id,day,notes\n1,,\n", "lacks note (is 'notes' meant?)"),
        (b"id,day,note,id\n1,,,\n", "two columns 'id'"),
        (b'id,day,"note\n', "header"),
        ("id,day,note\n1,,x\n".encode("utf-16"), "it is utf-16, not utf-8"),
        ("id,day,note\n1,,\xe9\n".encode("latin-1"), "byte 0xe9 at offset 15"),
        (b"\x1f\x8b\x08\xff gzip", "not utf-8"),
        (b"id,day,note\n1,,x\0\n", "NUL byte"),
        ("id,day,note\n1,,x\n".encode("utf-16-le"), "NUL byte"),
        (b"\xef\xbb\xbf", "lacks id, day, note"),
        (b"id,day,note\n1,,x\n2,", "middle of line 3"),
        (b'id,day,note\n1,,x\n2,,"y\n3,,z\n', "quote opened on line 3"),
        (b'id,day,note\n1,,"x\n', "quote opened on line 2"),
        (b'id,day,note\n1,,"x\n2,,y\n3,,"z",w\n', "runs on to line 4"),
    ],
)
def test_a_csv_that_cannot_be_trusted_is_refused_whole(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    file = read(tmp_path, content)
    assert file.refusal is not None
    assert reason in file.refusal
    assert file.rows.is_empty()


def test_columns_are_renamed_and_extra_ones_reported(tmp_path: Path) -> None:
    rename = {"rename": {"identifier": "id"}}
    file = read(tmp_path, b"identifier,_line,day,note,more\n1,7,,x,y\n", read=rename)
    assert rows(file) == [("1", "", "x", 2, None)]
    assert file.extra == ("_line", "more")
    again = read(tmp_path, b"identifier,id,day,note\n1,7,,x\n", read=rename)
    assert again.refusal == "it has two columns 'id': keep one"


TEXT = "id,day,note\n1,,\xe9\n"


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("utf-8", TEXT.encode()),
        ("utf-8", TEXT.encode("utf-8-sig")),
        ("utf-16", TEXT.encode("utf-16")),
        ("utf-16", b"\xfe\xff" + TEXT.encode("utf-16-be")),
        ("latin-1", TEXT.encode("latin-1")),
        ("cp1252", TEXT.encode("cp1252")),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_text_is_read_in_the_encoding_of_the_yaml(
    tmp_path: Path, encoding: str, content: bytes, ending: str
) -> None:
    if ending == "jsonl":
        line = '{"id":1,"day":"","note":"\xe9"}\n'
        content = content[: -len(TEXT.encode(encoding))] + line.encode(encoding)
    assert rows(read(tmp_path, content, ending, read={"encoding": encoding}))[0][:3] == (
        "1",
        "",
        "\xe9",
    )


@pytest.mark.parametrize(
    ("encoding", "content", "reason"),
    [
        ("utf-8", TEXT.encode("utf-16"), "it is utf-16, not utf-8"),
        ("utf-8", TEXT.encode("latin-1"), "not utf-8 (byte 0xe9 at offset 15)"),
        ("utf-8", TEXT.encode("utf-16-le"), "not utf-8"),
        ("utf-16", TEXT.encode(), "it is utf-8, not utf-16"),
        ("utf-16", TEXT.encode("utf-8-sig"), "it is utf-8, not utf-16"),
        ("utf-16", TEXT.encode("utf-16")[:-1], "not utf-16"),
        ("latin-1", TEXT.encode(), "it is utf-8, not latin-1"),
        ("latin-1", TEXT.replace("\xe9", "\u2019").encode("cp1252"), "it is cp1252, not latin-1"),
        ("latin-1", TEXT.encode("utf-16"), "it is utf-16, not latin-1"),
        ("cp1252", TEXT.encode(), "it is utf-8, not cp1252"),
        ("cp1252", TEXT.encode("latin-1").replace(b"\xe9", b"\x81"), "not cp1252 (byte 0x81"),
    ],
)
def test_another_encoding_than_the_one_said_is_refused_where_it_can_be_told(
    tmp_path: Path, encoding: str, content: bytes, reason: str
) -> None:
    refusal = read(tmp_path, content, read={"encoding": encoding}).refusal or ""
    assert reason in refusal
    assert "read.encoding" in refusal


def test_a_file_without_a_header_has_the_columns_of_the_yaml(tmp_path: Path) -> None:
    given = {"header": ["note", "key", "day", ""], "rename": {"key": "id"}}
    plain, quoted = b"x,1,2013-01-31,\ny,2,,\n", b'x,1,2013-01-31,\n"y",2,,\n'
    for content in (plain, quoted):
        file = read(tmp_path, content, read=given)
        assert rows(file) == [("1", DAY, "x", 1, None), ("2", "", "y", 2, None)]
        assert file.extra == ("",)


@pytest.mark.parametrize("header", [b"note,id,day\n", b'"note","id","day"\r\n'])
def test_a_header_line_that_the_yaml_denies_refuses_the_file(tmp_path: Path, header: bytes) -> None:
    file = read(tmp_path, header + b"x,1,\n", read={"header": ["note", "id", "day"]})
    assert "it has a header line, so read.header must not give one" in (file.refusal or "")


def test_rows_of_another_width_than_the_given_header_are_none(tmp_path: Path) -> None:
    file = read(tmp_path, b"x,1\n", read={"header": ["note", "id", "day"]})
    assert rows(file) == [(None, None, None, 1, "x,1")]


def test_a_column_without_a_name_can_be_named(tmp_path: Path) -> None:
    file = read(tmp_path, b",day,note\n7,,x\n", read={"rename": {"": "id"}})
    assert rows(file) == [("7", "", "x", 2, None)]


def test_names_that_stand_twice_matter_only_where_they_are_read(tmp_path: Path) -> None:
    file = read(tmp_path, b"id,more,day,more,note\n1,a,,b,x\n")
    assert rows(file) == [("1", "", "x", 2, None)]
    assert file.extra == ("more", "more")
    lines = b'{"id":1,"a":1,"a":2,"note":null,"day":null}\n{"id":2,"id":2}\n'
    assert [line for *_, line in rows(read(tmp_path, lines, "jsonl"))] == [None, '{"id":2,"id":2}']


def test_what_may_be_personal_is_not_shown_of_a_file_without_header(tmp_path: Path) -> None:
    columns = {"id": {"type": "int"}, "day": {"type": "date"}}
    columns |= {"note": {"type": "text", "personal": True}}
    refusal = read(tmp_path, b"1,2013-01-31,Jane\n", columns=columns).refusal
    assert refusal == "it lacks id, day, note; it has 3 columns, not shown as they may be personal"
    columns |= {f"x{number}": {"type": "int"} for number in range(30)}
    refusal = read(tmp_path, b"id;day;note\n1;2013-01-31;Jane\n", columns=columns).refusal or ""
    assert refusal.startswith("it lacks id, day, note, x0, x1 and 28 more; it has 1 column, not")
    assert refusal.endswith("if ';' separates them, set read.delimiter to it")


def test_a_derived_column_is_not_looked_for_and_one_of_its_name_is_extra(tmp_path: Path) -> None:
    columns = {"id": {"type": "int"}, "day": {"type": "date"}, "note": {"type": "text"}}
    columns["line"] = {"type": "int", "expression": "_line"}
    assert read(tmp_path, b"id,day,note\n1,,x\n", columns=columns).refusal is None
    assert read(tmp_path, b"id,day,note,line\n1,,x,9\n", columns=columns).extra == ("line",)


CELLS = st.text(st.sampled_from("a0; \u2028\x0b#'"), max_size=4)
WILD = st.text(st.sampled_from('a,"\n\r'), max_size=4)
LINES = st.lists(CELLS, min_size=3, max_size=3) | st.lists(CELLS | WILD, min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(st.lists(LINES, max_size=3), st.booleans())
def test_the_fast_reader_agrees_with_the_careful_one(lines: list[list[str]], ends: bool) -> None:
    body = "\n".join(",".join(line) for line in lines)
    text = "id,day,note\n" + body + ("\n" if ends else "")
    positions = {"note": 2, "id": 0}
    fast = readers._plain_csv(text, ",", 3, positions, True)
    if fast is not None:
        records = readers._csv_records(readers._Lines(text, iter(()), 1), ",", 3, True)
        careful = readers.as_table(records, positions, positions.values())
        assert fast.equals(careful)


OTHERS = [
    "2,x",
    '3,,"a',
    '"b\n\nc",,x',
    "4,,,x",
    "",
    "5,2013-01-31,\u00e9",
    '6,,"z"',
    '"7",,"',
    '8,,"\r',
]
JSONS = [
    '{"id": 1, "more": 2}',
    '{"id": 2, "note": "a"',
    "[]",
    "",
    '{"day": "\u00e9"}',
    '{"id": "x"}',
]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(OTHERS) | st.just("1,,x"), max_size=7),
    st.lists(st.sampled_from(JSONS), max_size=7),
    st.integers(1, 40),
    st.sampled_from(["utf-8", "utf-16"]),
)
def test_a_file_is_read_alike_whatever_the_size_of_its_blocks(
    lines: list[str], objects: list[str], size: int, encoding: str
) -> None:
    text = {"csv": "id,day,note\n" + "\n".join(lines), "jsonl": "\n".join(objects)}
    for ending, content in text.items():
        rules = {"encoding": encoding, "batch_values": size}
        whole, small = (
            spec(f"{{partition}}.{ending}", read=read) for read in ({"encoding": encoding}, rules)
        )
        data = content.encode(encoding)
        file = LandingFile("x", DAY, len(data), "1")
        expected = parsed(file, data, whole)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(readers, "_BLOCK", size)
            found = parsed(file, data, small)
        assert found.frame.equals(expected.frame)
        assert replace(found, rows=NO_ROWS) == replace(expected, rows=NO_ROWS)


def test_many_rows_of_a_file_are_in_chunks_of_the_bound(tmp_path: Path) -> None:
    numbers = pl.DataFrame({"id": pl.int_range(5000, eager=True)}).with_columns(
        day=pl.lit(date(2013, 1, 31)), note=pl.col("id").cast(pl.String).cast(pl.Categorical)
    )
    dense = numbers.with_columns(id=pl.lit(1, pl.Int64), note=pl.lit("x"))
    for frame in (numbers, dense, numbers.drop("note")):
        content = parquet(tmp_path / "frame", frame)
        columns = spec().model_dump()["columns"] | {"note": {"type": "text", "since": "2013-02-01"}}
        file = read(tmp_path, content, "parquet", read={"batch_values": 3000}, columns=columns)
        assert [chunk.height for chunk in file.chunks(10**6)] == [1000] * 5
        assert file.frame[LINE].to_list() == list(range(1, 5001))
        assert file.frame["id"].equals(frame["id"])
        judged = judge([file], spec("x.parquet", partition={"by": "none"}, key=["id", "note"]))
        assert judged.files["rows_read"].item() == 5000


def test_a_short_row_is_not_made_up_for_by_a_long_one() -> None:
    for text in ("id,day,note\n,\n,,,", "id,day,note\n1,a\n2,b,c,d\n"):
        assert readers._plain_csv(text, ",", 3, {"note": 2, "id": 0}, True) is None


def test_a_plain_csv_is_read_by_the_fast_reader() -> None:
    text = "id,day,note\n" + "1,,x\n" * 3
    assert readers._plain_csv(text, ",", 3, {"id": 0}, True) is not None
    assert readers._plain_csv(text + "1,\n", ",", 3, {"id": 0}, True) is None


def test_jsonl_scalars_are_their_json_text(tmp_path: Path) -> None:
    lines = [
        b'{"id": 9223372036854775808, "day": "2013-01-31", "note": null}',
        b'{"note": "\\ud83d\\ude00 \xc3\xa9", "id": 1.0, "day": true, "more": {"x": [1]}}\r',
        b"",
        b'{"id": NaN}',
    ]
    file = read(tmp_path, b"\n".join(lines), "jsonl")
    assert rows(file) == [
        ("9223372036854775808", DAY, None, 1, None),
        ("1.0", "true", "\U0001f600 \xe9", 2, None),
        ("NaN", None, None, 4, None),
    ]
    assert file.extra == ("more",)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"[1]",
        b"12",
        b'"id"',
        b"null",
        b'{"id": 1, "id": 2}',
        b'{"id": [1]}',
        b'{"id": {"x": 1}}',
        b'{"id": "\\ud800"}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_no_flat_object_is_kept_as_text(tmp_path: Path, line: bytes) -> None:
    file = read(tmp_path, b'{"id":1,"day":null,"note":null}\n' + line + b"\n", "jsonl")
    assert rows(file) == [("1", None, None, 1, None), (None, None, None, 2, line.decode())]


def test_jsonl_names_that_are_renamed_onto_one_another_break_the_line(tmp_path: Path) -> None:
    sound = b'{"no":1,"day":null,"note":null}\n'
    file = read(tmp_path, sound + b'{"no":1,"id":2}\n', "jsonl", read={"rename": {"no": "id"}})
    assert [broken for *_, broken in rows(file)] == [None, '{"no":1,"id":2}']


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b'{"id":1,"day":null}\n', "lacks note"),
        (b'{"id":1,"day":null,"note":null}\n{"id":2,"da', "middle of line 2"),
        (b'\n [{"id":1,"day":null,"note":null}]\n', "JSON array"),
        (b"\x80\xfe", "not utf-8"),
    ],
)
def test_a_jsonl_that_cannot_be_trusted_is_refused_whole(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    assert reason in (read(tmp_path, content, "jsonl").refusal or "")


def parquet(path: Path, frame: pl.DataFrame) -> bytes:
    frame.write_parquet(path)
    return path.read_bytes()


FRAME = pl.DataFrame({"note": ["x", None], "id": [1, 2], "more": [0, 0], "day": [None, None]})


def test_parquet_keeps_its_types_and_numbers_its_rows(tmp_path: Path) -> None:
    file = read(tmp_path, parquet(tmp_path / "frame", FRAME), "parquet")
    assert rows(file) == [(1, None, "x", 1, None), (2, None, None, 2, None)]
    assert file.rows.schema["id"] == pl.Int64
    assert file.extra == ("more",)


def test_a_damaged_parquet_is_refused_wherever_it_is_damaged(tmp_path: Path) -> None:
    sound = parquet(tmp_path / "frame", FRAME)
    damaged = {
        "truncated": sound[:-20],
        "garbage": b"PAR1" + b"garbage" * 20 + b"PAR1",
        "page header": sound[:4] + b"\xff" * 30 + sound[34:],
        "empty": b"",
        "text": b"id,day,note\n",
    }
    for name, content in damaged.items():
        refusal = read(tmp_path, content, "parquet").refusal or ""
        assert "not a sound parquet file" in refusal, name


def test_a_parquet_that_makes_polars_panic_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(*_: object, **__: object) -> None:
        raise pl.exceptions.PanicException("range end out of bounds")

    content = parquet(tmp_path / "frame", FRAME)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", panic)
    assert "range end out of bounds" in (read(tmp_path, content, "parquet").refusal or "")


WRITERS: list[dict[str, Any]] = [
    {"compression": "zstd", "data_page_version": "2.0", "row_group_size": 7},
    {"compression": "snappy", "use_dictionary": False, "write_page_checksum": True},
    {"compression": "brotli", "data_page_size": 64, "write_page_index": True},
    {"data_page_version": "2.0", "write_page_checksum": True, "store_schema": False},
]


@pytest.mark.parametrize("options", WRITERS, ids=str)
def test_parquet_of_other_writers_is_read_alike(tmp_path: Path, options: dict[str, Any]) -> None:
    frame = pl.DataFrame(
        {"id": range(100), "note": ["a", None, "bb", "ccc"] * 25, "day": [date(2013, 1, 31)] * 100}
    )
    coded = frame.with_columns(pl.col("note").cast(pl.Categorical))
    for written in (frame, coded, frame.clear()):
        content = io.BytesIO()
        pq.write_table(written.to_arrow(), content, **options)
        file = read(tmp_path, content.getvalue(), "parquet")
        assert file.refusal is None
        assert file.rows.select("id", "note", "day").equals(frame.head(written.height))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_never_ends_in_anything_but_a_refusal(data: st.DataObject) -> None:
    content = io.BytesIO()
    frame = FRAME.with_columns(pl.col("note").cast(pl.Categorical), day=pl.lit(date(2013, 1, 31)))
    pq.write_table(frame.to_arrow(), content, write_page_checksum=True)
    damaged = bytearray(content.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(RefusedFileError):
        read_rows(bytes(damaged), spec("{partition}.parquet"))


def test_a_column_that_is_taken_is_not_meant_for_another(tmp_path: Path) -> None:
    columns = spec().model_dump()["columns"] | {"notes": {"type": "text"}}
    columns = {name: {"type": column["type"]} for name, column in columns.items()}
    refusal = read(tmp_path, b"id,day,notes\n1,,\n", columns=columns).refusal or ""
    assert "it lacks note; its columns are 'id, day, notes'" in refusal


def test_a_parquet_without_a_column_is_refused(tmp_path: Path) -> None:
    content = parquet(tmp_path / "frame", FRAME.rename({"note": "Note"}))
    refusal = read(tmp_path, content, "parquet").refusal or ""
    assert "lacks note (is 'Note' meant?)" in refusal


def test_a_broken_line_reaches_quarantine_with_its_number_and_text(tmp_path: Path) -> None:
    content = b"id,day,note\n" + b"".join(b"%d,2013-01-31,x\n" % n for n in range(30)) + b"31,x\n"
    judgement = judge([read(tmp_path, content)], spec())
    assert judgement.accepted.height == 30
    record = judgement.quarantined.to_dicts()[0]
    assert (record[LINE], record["_reasons"][0]["value"]) == (
        32,
        "it has 2 fields instead of 3: 31,x",
    )


def test_nanoseconds_of_pandas_are_times_like_others() -> None:
    times = pl.Series("at", [0, 2**62], pl.Datetime("ns"))
    assert number_rows(times.to_frame(), first=1)["_broken"].null_count() == 2
