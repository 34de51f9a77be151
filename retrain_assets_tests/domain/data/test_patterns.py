"""Polars and Python say the same of a text, or the pattern is refused."""

from __future__ import annotations

import re

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retrain_assets.domain.data.patterns import full_match, mistaken_pattern

PIECES = [
    *"ab-[]^$.|()*+?{}1,:&~é ",
    r"\d",
    r"\W",
    r"\s",
    r"\.",
    r"\-",
    r"\]",
    r"\n",
    "[",
    "a-",
    "(?:",
]
TEXTS = st.text(st.sampled_from("ab1-]^&~é_ \n\u0661\u0301\x1c.A"), max_size=5)


@given(pattern=st.lists(st.sampled_from(PIECES), max_size=8).map("".join), text=TEXTS)
@example(pattern=r"a$\n", text="a\n")
@example(pattern=r"\d", text="\u0661")
@example(pattern=r"\s", text="\x1c")
@example(pattern=r"a|a\n", text="a\n")
@settings(max_examples=600)
def test_a_pattern_that_is_taken_means_the_same_to_both(pattern: str, text: str) -> None:
    if mistaken_pattern(pattern) is None:
        in_python = re.match(full_match(pattern, end=r"\Z"), text) is not None
        assert pl.Series([text]).str.contains(full_match(pattern)).item() is in_python


@pytest.mark.parametrize(
    ("pattern", "sound", "unsound"),
    [
        (r"\d{5}", ["01234"], ["1234", "012345", "01234\n", "\u0661" * 5]),
        ("^[A-Z]{2,3}-(?:a|b+)$", ["AB-a", "ABC-bbb"], ["A-a", "AB-ab", "xAB-a"]),
        (r"[\w.+-]+@[a-z-]+\.example", ["a.b+c@x-y.example"], ["a@b.EXAMPLE", "é@b.example"]),
        (r"[^\]\[]*", ["", "a\nb", "é"], ["a]", "["]),
        ("a|b", ["a", "b"], ["ab", ""]),
        (r"a\|b|\$1", ["a|b", "$1"], ["a"]),
    ],
)
def test_a_pattern_holds_for_all_of_a_text(
    pattern: str, sound: list[str], unsound: list[str]
) -> None:
    assert mistaken_pattern(pattern) is None
    found = pl.Series(sound + unsound).str.contains(full_match(pattern)).to_list()
    assert found == [True] * len(sound) + [False] * len(unsound)


@pytest.mark.parametrize(
    "pattern",
    [
        *("a++a", "a{2}{3}", "[a[b]]", "[a--b]", "[[:alpha:]]", "[]a]", r"[a-\d]", "a{,3}", "a{"),
        *(r"\p{L}", r"\bx", "(?i)x", "(?=x)x", "(?P<name>x)", "(?<name>x)", r"(a)\1", r"\Ax"),
    ],
)
def test_what_the_two_read_in_two_ways_is_refused_with_its_place(pattern: str) -> None:
    assert re.search(r"at character [1-4] is not read alike", mistaken_pattern(pattern) or "")


@pytest.mark.parametrize("pattern", ["(a", "a)", "[z-a]", "*a", "a{3,2}", "a{9999999999}", "^*"])
def test_what_either_cannot_compile_is_refused(pattern: str) -> None:
    assert mistaken_pattern(pattern) is not None


def test_a_pattern_too_large_to_match_by_is_refused() -> None:
    assert "size limit" in (mistaken_pattern("(?:a{1000}){1000}") or "")
