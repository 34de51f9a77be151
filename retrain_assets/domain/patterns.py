r"""The regular expressions that polars and Great Expectations read alike: what both can write.

polars matches by Rust's regex, Great Expectations by Python's re. Where one pattern may mean two
things (`[a[b]]`, `a++`, `\w` of an accent, `(?i)` of a Kelvin sign) it is refused, or given to both
in a form that means one: \d, \w and \s are ASCII, and groups keep nothing. Not here: values.
"""

from __future__ import annotations

import re

import polars as pl

_SHORT = {"d": "0-9", "w": "0-9A-Za-z_", "s": r" \t\n\r\f\v"}
_CONTROL = r"\\[nrtfv]"
_ONE = rf"{_CONTROL}|\\[^0-9A-Za-z]|[^\]\[\\-]"
_IN_SET = re.compile(rf"\\([dws])|({_ONE}|\A-|-\Z)", re.DOTALL)
_TOKEN = re.compile(
    rf"\[(?P<negated>\^?+)(?P<set>-?(?:\\[dws]|(?:{_ONE})(?:-(?:{_ONE}))?)+-?)\]"
    r"|\\(?P<short>[dwsDWS])"
    rf"|(?P<char>{_CONTROL}|\\[^0-9A-Za-z]|[^\\^$.|?*+()\[\]{{}}])"
    r"|(?P<count>[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??(?![*+?{])"
    r"|(?P<group>\((?:\?:|(?!\?)))"
    r"|(?P<same>[.^|)])"
    r"|(?P<end>\$)",
    re.DOTALL,
)


def full_match(pattern: str, end: str = r"\z") -> str:
    r"""A pattern that holds for all of a text.

    Args:
        pattern: As the YAML has it.
        end: How the end of a text is written: `\z` for polars, `\Z` for Python.

    Raises:
        ValueError: It holds what the two do not read alike.
    """
    written, place = "", 0
    while place < len(pattern):
        token = _TOKEN.match(pattern, place)
        if token is None:
            raise ValueError(
                f"{pattern[place : place + 20]!r} at character {place + 1} is not read alike by "
                r"polars and Python: use literals, sets, \d \w \s, groups and counts, and escape "
                "others by a backslash"
            )
        written += _portable(token, end)
        place = token.end()
    return rf"\A(?:{written}){end}"


def mistaken_pattern(pattern: str) -> str | None:
    """Why a pattern cannot be used; None where it can."""
    try:
        re.compile(full_match(pattern, end=r"\Z"))
        pl.Series([""]).str.contains(full_match(pattern))
    except (ValueError, OverflowError, re.error, pl.exceptions.PolarsError) as error:
        return " ".join(str(error).split())[:300]
    return None


def _portable(token: re.Match[str], end: str) -> str:
    """One part of a pattern, in the form that both read alike."""
    kind, text = str(token.lastgroup), token[token.lastgroup or 0]
    if kind == "set":
        inner = _IN_SET.sub(lambda one: _SHORT[one[1]] if one[1] else _literal(one[2]), text)
        return f"[{token['negated']}{inner}]"
    if kind == "short":
        return f"[{'^' if text.isupper() else ''}{_SHORT[text.lower()]}]"
    return {"char": _literal(text), "group": "(?:", "end": end}.get(kind, text)


def _literal(char: str) -> str:
    return char if re.fullmatch(_CONTROL, char) else re.escape(char[-1])
