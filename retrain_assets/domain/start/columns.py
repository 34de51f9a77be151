"""Guess the type of each column from its values, by the readers that landing files go through.

Not here: what the columns mean to a model, and bounds on their values.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import polars as pl

from retrain_assets.domain.data.values import NULL_WORDS, moment
from retrain_assets.specs.dataset import ColumnType

_LEAST_SHARE, _LEAST_WITH_WORDS = 0.98, 0.3
_MOST_WORDS, _WORD_LENGTH = 3, 12
_FIRST_LOOK = 300  # distinct values on which formats are tried before all are read
_NUMBER = r"^[+-]?[0-9]{1,18}(\.0)?$"
_CODE = r"^[+-]?0[0-9]"  # a leading zero, as a postcode has: a number would lose it
_DAYS = (
    *("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d"),
    *("%d-%b-%Y", "%d %b %Y", "%b %d %Y", "%b %d, %Y", "%B %d, %Y", "%d %B %Y"),
    *("%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%d-%b-%y", "%d %b %y"),
)
_CLOCKS = (" %H:%M", " %H:%M:%S", " %H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p")
_FORMATS: tuple[tuple[ColumnType, str | None], ...] = (
    ("date", None),
    ("datetime", None),
    ("datetime", "%Y-%m-%d %H:%M"),
    ("datetime", "%Y-%m-%dT%H:%M"),
    *(("date", day) for day in _DAYS),
    *(("datetime", "".join(parts)) for parts in product(_DAYS, _CLOCKS)),
)
_COMPACT: tuple[ColumnType, str] = ("date", "%Y%m%d")
_TYPED: Mapping[str, ColumnType] = {"Boolean": "bool", "Date": "date", "String": "category"}


@dataclass(frozen=True)
class ColumnGuess:
    """The type of one column.

    Args:
        kind: The type; None where no type of the contract holds the values.
        written: Format of strftime of a date that is not written as ISO 8601 has it.
        words: Texts that stand for no value.
        unread: Values that are neither of the type nor such a word.
        rival: Another format that reads the values as well.
    """

    kind: ColumnType | None
    written: str | None = None
    words: tuple[str, ...] = ()
    unread: int = 0
    rival: str | None = None


def guess_typed(stored: pl.DataType) -> ColumnGuess:
    """Return the type of a column whose file has types, such as parquet."""
    if stored.is_integer():
        return ColumnGuess("int")
    if stored.is_numeric():
        return ColumnGuess("float")
    if isinstance(stored, pl.Datetime):
        return ColumnGuess("datetime")
    if stored in (pl.Categorical, pl.Enum):
        return ColumnGuess("category")
    return ColumnGuess(_TYPED.get(str(stored)))


def guess_text(values: pl.Series, decimal: str = ".") -> ColumnGuess:
    """Return the type of a column of text.

    Args:
        values: The texts as they stand in the file, null where there is none.
        decimal: The decimal mark.
    """
    counts = values.rename("text").drop_nulls().value_counts()
    words = pl.col("text").is_in([*NULL_WORDS, "", "?"])
    marked = tuple(counts.filter(words)["text"].sort())
    counts = counts.filter(~words).sort("count", "text", descending=[True, False])
    if counts.is_empty():
        return ColumnGuess("category", words=marked)
    plain = counts["text"].str.to_lowercase().is_in(["true", "false"])
    if plain.all():
        return ColumnGuess("bool", words=marked)
    for kind, written in _formats(counts["text"]):
        guess = _try(counts, kind, written, decimal, marked)
        if guess is not None:
            rival = _rival(counts, guess) if written else None
            return ColumnGuess(guess.kind, written, guess.words, guess.unread, rival)
    return ColumnGuess("category", words=marked)


def _formats(texts: pl.Series) -> Iterator[tuple[ColumnType, str | None]]:
    """Yield the types that may read the texts, in the order in which they are tried."""
    first = texts.head(_FIRST_LOOK)
    if not first.str.contains(r"[0-9]").any():
        return
    if first.str.contains(r"^(19|20)[0-9]{6}$").all():
        yield _COMPACT
    if first.str.contains(_CODE).any() and first.str.contains(r"^[0-9]+$").all():
        return
    yield "int", None
    yield "float", None
    for kind, written in _FORMATS:
        is_read = _read(first, kind, written, ".")
        if is_read.sum() > len(first) * _LEAST_WITH_WORDS:
            yield kind, written


def _try(
    counts: pl.DataFrame,
    kind: ColumnType,
    written: str | None,
    decimal: str,
    words: tuple[str, ...],
) -> ColumnGuess | None:
    """Return the guess if a type reads nearly all values, or all but a few repeated words."""
    is_read = _read(counts["text"], kind, written, decimal)
    total, failing = int(counts["count"].sum()), counts.filter(~is_read)
    share = 1 - int(failing["count"].sum()) / total
    texts = failing["text"]
    are_words = (
        len(texts) <= _MOST_WORDS
        and bool((texts.str.len_chars() <= _WORD_LENGTH).all())
        and bool((failing["count"] > 1).all())
        and not texts.str.contains(r"[0-9{]").any()
    )
    if share >= _LEAST_WITH_WORDS and are_words:
        return ColumnGuess(kind, written, (*words, *texts.sort()))
    if share >= _LEAST_SHARE:
        return ColumnGuess(kind, written, words, int(failing["count"].sum()))
    return None


def _rival(counts: pl.DataFrame, guess: ColumnGuess) -> str | None:
    """Return the format with day and month exchanged if it reads every value too."""
    written = guess.written or ""
    swapped = re.sub("%[dm]", lambda part: {"%d": "%m", "%m": "%d"}[part[0]], written)
    is_numeric = "%d" in written and "%m" in written and not written.startswith("%Y")
    if guess.kind is None or not is_numeric:
        return None
    return swapped if _read(counts["text"], guess.kind, swapped, ".").all() else None


def _read(texts: pl.Series, kind: ColumnType, written: str | None, decimal: str) -> pl.Series:
    """Return which texts a type reads."""
    value = pl.col(texts.name)
    if kind == "int":
        is_read = value.str.contains(_NUMBER.replace(r"\.", re.escape(decimal)))
    elif kind == "float":
        number = value if decimal == "." else value.str.replace(",", ".", literal=True)
        is_read = number.cast(pl.Float64, strict=False).is_finite()
    else:
        is_read = moment(value, kind, written, "UTC", "UTC").is_not_null()
    return texts.to_frame().select(is_read.fill_null(False)).to_series()
