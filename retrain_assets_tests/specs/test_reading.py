"""Strict reading gives what stands in the file, or a refusal; nothing else whatever the bytes."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain_assets.specs.base import SpecError
from retrain_assets.specs.reading import load_strictly, secret_in

# YAML 1.1, which the program writes, takes 1e3 for text and leaves it without quotes.
TEXT = st.text(max_size=20).filter(lambda text: not re.fullmatch(r"[-+.0-9]+[eE][-+0-9]+", text))
PLAIN = st.none() | st.booleans() | TEXT
NUMBERS = st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    PLAIN | NUMBERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
SAME_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "defs.yaml"


@SAME_FOLDER
@given(value=st.dictionaries(TEXT, VALUES, max_size=4))
def test_what_a_program_writes_is_read_back_as_it_was(path: Path, value: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    (document,) = load_strictly(path)
    assert document.value == value


SYNTAX = st.text(alphabet="ab:-?[]{}&*!|>'\"%#,\n \t~1.0\x00\ufeff\u2028", max_size=60)


@SAME_FOLDER
@given(content=st.binary(max_size=60) | SYNTAX.map(str.encode))
def test_any_bytes_are_read_or_refused_by_line(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    said = ""
    try:
        documents = load_strictly(path)
    except SpecError as error:
        documents, said = (), str(error)
    assert all(isinstance(document.value, dict) for document in documents)
    assert bool(documents) != (": line " in said)
    assert said.isprintable()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1e3", 1000.0),
        ("-0.5", -0.5),
        (".5", 0.5),
        ("7.", 7.0),
        ("+12", 12),
        ("0", 0),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        *((text, text) for text in ("on", "NO", "y", "True", "NULL", ".nan", ".inf", "0x1F")),
        *((text, text) for text in ("010", "00", "1_000", "12:30", "2013-01-01", "0b1", "1e", ".")),
        *((f"'{text}'", text) for text in ("1", "true", "null", "")),
        ("1" * 5_000, "1" * 5_000),
    ],
)
def test_a_plain_word_means_one_thing(path: Path, written: str, read: object) -> None:
    path.write_text(f"a: {written}\n", encoding="utf-8")
    value = load_strictly(path)[0].value["a"]
    assert value == read
    assert type(value) is type(read)


def test_a_part_has_the_line_it_stands_on_or_that_of_what_it_would_be_in(path: Path) -> None:
    path.write_text("# head\na:\n  b:\n    - c\n    - {d: 1,\n       e: 2}\nf: &x [1]\n", "utf-8")
    (document,) = load_strictly(path)
    lines = {(): 1, ("a",): 2, ("a", "b"): 3, ("a", "b", 1): 5, ("a", "b", 1, "e"): 6}
    assert {loc: document.line(loc) for loc in lines} == lines
    assert document.line(("a", "b", 1, "zz", 3)) == 5
    refusal = document.refusal((("f",), "last"), (("a", "b"), "first"))
    assert str(refusal).splitlines() == [
        f"{path.parent.name}/defs.yaml: line 3: a.b: first",
        f"{path.parent.name}/defs.yaml: line 7: f: last",
    ]


def test_a_byte_order_mark_and_foreign_line_ends_are_fine(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert load_strictly(path)[0].value == {"a": 1, "b": 2}


def test_an_edited_file_is_read_anew(path: Path) -> None:
    path.write_text("a: 1\n", encoding="utf-8")
    assert load_strictly(path)[0].value == {"a": 1}
    path.write_text("a: 2\n", encoding="utf-8")
    assert load_strictly(path)[0].value == {"a": 2}


@pytest.mark.parametrize("unit", [":", "://", "://:", "-----BEGIN ", "?sig", "://a:b"])
def test_secrets_are_looked_for_in_linear_time(unit: str) -> None:
    before = time.process_time()
    assert secret_in("://" + unit * (80_000 // len(unit))) is None
    assert time.process_time() - before < 2


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/table",
        "abfss://container@account.dfs.core.windows.net/x",
        "https://example.org:8443/a@b",
        "SELECT token, password FROM rows WHERE token = 'x'",
        "http://127.0.0.1:3000",
        "postgresql://me:{{ env.PASSWORD }}@host/db",
        "ml@example.org",
    ],
)
def test_what_is_no_secret_is_not_taken_for_one(text: str) -> None:
    assert secret_in(text) is None
