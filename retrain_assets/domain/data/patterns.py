r"""The regular expressions that mean the same in polars and in Great Expectations.

Polars uses the regex library of Rust, Great Expectations uses `re` of Python. A pattern that the
two read differently (`[a[b]]`, `a++`, `\w` of an accent, `(?i)` of a Kelvin sign) is refused, or is
given to both in a form with one meaning: \d, \w and \s are ASCII, and groups keep nothing. Not
here: values.
"""

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


def full_match(pattern: str, *, begin: str = r"\A", end: str = r"\z") -> str:
    r"""Return a pattern that matches a text only in full.

    Args:
        pattern: The pattern in the YAML.
        begin: The anchor for the begin of a text.
        end: The anchor for its end: `\z` in polars, `\Z` in Python; JSON schema has `^` and `$`.

    Raises:
        ValueError: Polars and Python read a part of the pattern differently.
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
    return rf"{begin}(?:{written}){end}"


def mistaken_pattern(pattern: str) -> str | None:
    """Return why a pattern cannot be used; None where it can."""
    try:
        re.compile(full_match(pattern, end=r"\Z"))
        pl.Series([""]).str.contains(full_match(pattern))
    except (ValueError, OverflowError, re.error, pl.exceptions.PolarsError) as error:
        return " ".join(str(error).split())[:300]
    return None


def _portable(token: re.Match[str], end: str) -> str:
    """Write one part of a pattern in the form that both engines read alike."""
    kind, text = str(token.lastgroup), token[token.lastgroup or 0]
    if kind == "set":
        inner = _IN_SET.sub(lambda part: _SHORT[part[1]] if part[1] else _literal(part[2]), text)
        return f"[{token['negated']}{inner}]"
    if kind == "short":
        return f"[{'^' if text.isupper() else ''}{_SHORT[text.lower()]}]"
    return {"char": _literal(text), "group": "(?:", "end": end}.get(kind, text)


def _literal(char: str) -> str:
    return char if re.fullmatch(_CONTROL, char) else re.escape(char[-1])
