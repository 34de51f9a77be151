"""Texts that differ only in how they are written: normalised if the YAML says so, else warned of.

What keeps the contract but looks like a mistake is named, and no row is refused.

A category is compared with those of the partitions before it, so the result does not depend on how
many partitions a run covers. Not here: rules that refuse rows (`rules.py`).
"""

import math
import re
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any
from unicodedata import normalize

import polars as pl

from retrain_assets.domain.data.rules import LINE, MASK, PARTITION, Type, raw
from retrain_assets.specs.base import shorten
from retrain_assets.specs.dataset import ColumnSpec, DatasetSpec

# White space and characters without a width, which `strip` takes from both ends of a text.
BLANKS = "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
BLANKS += "\u2028\u2029\u202f\u205f\u3000\u200b\u200c\u200d\u2060\ufeff"
TALLY_SCHEMA: dict[str, Type] = {
    **dict.fromkeys((PARTITION, "_file", "column", "value"), pl.String),
    **dict.fromkeys((LINE, "rows"), pl.Int64),
}
NO_TALLY = pl.DataFrame(schema=TALLY_SCHEMA)
HISTORY, _ENOUGH = 28, 5  # most and fewest earlier partitions whose categories are compared
_MOST_CATEGORIES, _MOST_NAMED = 1000, 20  # of a column and partition
_WIDEST = 60
_FORMULA = re.compile(r"\s*([=＝]|[@＠][A-Z]{2}|[+\-＋－][^\d\s.,]*[(!|])")  # noqa: RUF001
_SHEET_ERROR = re.compile(r"\s*#(N/A|[\w/]+[!?])\s*")
_ODD = r"^\s*[=@+\-#＝＠＋－]"  # noqa: RUF001 wide ones count in some spreadsheets
_ODD_CATEGORY = rf"{_ODD}|^\s|\s$|[^\x00-\x7F]"
_INVISIBLE = "\u00ad\u200b\u2060\ufeff"
_CYRILLIC, _GREEK = "АВЕКМНОРСТУХаеорсухіјѕ", "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο"  # noqa: RUF001
_LATIN = "ABEKMHOPCTYXaeopcyxijs" + "ABEZHIKMNOPTYXo"
_LOOK_ALIKE = dict(zip(map(ord, _CYRILLIC + _GREEK), _LATIN, strict=True))


def normalise_texts(rows: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """Apply `normalise` to the raw columns that have it."""
    changed = []
    for name, column in spec.file_columns.items():
        value = raw(name).str.normalize("NFC") if "nfc" in column.normalise else raw(name)
        if column.normalise:
            changed.append(value.str.strip_chars(BLANKS) if "strip" in column.normalise else value)
    return rows.with_columns(changed)


def normalise_text(text: str, column: ColumnSpec) -> str:
    """Apply `normalise` to a text in a request."""
    text = normalize("NFC", text) if "nfc" in column.normalise else text
    return text.strip(BLANKS) if "strip" in column.normalise else text


def tally(rows: pl.LazyFrame, spec: DatasetSpec) -> pl.LazyFrame:
    """Count the categories, and the other texts that begin like a formula or an error.

    Args:
        rows: Sound rows with `_landing_partition`, `_file` and `_line`.
        spec: The dataset.

    Returns:
        A row for each partition, file, column and value, as in `TALLY_SCHEMA`, which is to be
        added up.
    """
    counted = [NO_TALLY.lazy()]
    for name, column in _texts(spec):
        value, is_text = pl.col(name), column.type == "text"
        odd = value.str.contains(_ODD if is_text else _ODD_CATEGORY)
        present = rows.filter(odd if is_text else value.is_not_null())
        counts = present.group_by(PARTITION, "_file", value.alias("value")).agg(
            pl.col(LINE).min(), pl.len().cast(pl.Int64).alias("rows")
        )
        categories = counts.with_columns(column=pl.lit(name)).select(*TALLY_SCHEMA)
        # So many that they are still too many once the tallies are added up.
        counted.append(_bound(categories, _MOST_CATEGORIES + 1))
    return pl.concat(counted)


def add_up(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Add up the tallies of some chunks of rows.

    Of a column with more than 1,000 categories in a partition, only the odd ones are counted.
    """
    places = [name for name in TALLY_SCHEMA if name not in (LINE, "rows")]
    tally = pl.concat(parts).group_by(places).agg(pl.col(LINE).min(), pl.col("rows").sum())
    return _bound(tally.select(*TALLY_SCHEMA).lazy(), 0).collect()


def _bound(tally: pl.LazyFrame, spare: int) -> pl.LazyFrame:
    """Leave out the usual categories of a column with too many, apart from some to spare."""
    column, is_odd = [PARTITION, "column"], pl.col("value").str.contains(_ODD_CATEGORY)
    is_few = pl.col("value").n_unique().over(column) <= _MOST_CATEGORIES
    number = pl.col("value").is_first_distinct().cum_sum().over(column)
    return tally.filter(is_few | is_odd | (number <= spare))


def _texts(spec: DatasetSpec) -> Iterator[tuple[str, ColumnSpec]]:
    for name, column in spec.file_columns.items():
        is_text = column.type in ("category", "text")
        if is_text and column.allowed is None and name != spec.partition.column:
            yield name, column


def describe(
    counts: pl.DataFrame, earlier: pl.DataFrame, spec: DatasetSpec
) -> list[dict[str, object]]:
    """Describe the texts of some partitions that look like a mistake, and categories that are new.

    A category is new if the partitions before, at most 28 of them, do not have it. It is reported
    if more rows have new ones than chance gives: by Good and Turing, a row has one with the
    probability of the categories that occur once in the rows before.

    Args:
        counts: The tally of the partitions.
        earlier: The tally of other stored partitions; without any, no category is new.
        spec: The dataset.

    Returns:
        Partition, file, line of the first row, column, value, rows and why, by partition.
    """
    records: list[dict[str, object]] = []
    for name, column in _texts(spec):
        here = counts.filter(pl.col("column") == name).sort(PARTITION, "_file", LINE)
        before = earlier.filter(pl.col("column") == name)
        for row, why in _remarks(here, before, column):
            value = MASK if column.personal else shorten(repr(row["value"])[1:-1], _WIDEST)
            place = {"partition": row[PARTITION], "file": row["_file"], "line": row[LINE]}
            records.append(
                {**place, "column": name, "value": value, "rows": row["rows"], "why": why}
            )
    return sorted(records, key=lambda record: str(record["partition"]))


def _remarks(
    here: pl.DataFrame, earlier: pl.DataFrame, column: ColumnSpec
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the rows of a column's tally that look like a mistake, and why."""
    parts = here.partition_by(PARTITION, as_dict=True)
    stored = earlier.partition_by(PARTITION, as_dict=True)
    window: deque[Counter[str]] = deque(maxlen=HISTORY)
    for key in sorted({*parts, *stored}):
        part = parts.get(key, stored.get(key, here))
        present = Counter(dict(part.group_by("value").agg(pl.sum("rows")).iter_rows()))
        if key in parts:
            history = sum(window, Counter[str]())
            has_history = len(window) >= _ENOUGH and column.type == "category"
            new = _find_new(present, history) if has_history else set[str]()
            texts = {*history, *present}
            for row in part.unique("value", keep="first", maintain_order=True).to_dicts():
                if why := _explain(row["value"], column, texts, new):
                    yield row, why
        window.append(present)


def _find_new(present: Counter[str], history: Counter[str]) -> set[str]:
    """Return the new categories, the most frequent ones, if they have more rows than by chance."""
    new = Counter({value: rows for value, rows in present.items() if value not in history})
    once = sum(rows == 1 for rows in history.values())
    expected = present.total() * once / max(history.total(), 1)
    if new.total() <= expected + 3 * math.sqrt(expected):
        return set()
    return {value for value, _ in new.most_common(_MOST_NAMED)}


def _explain(
    text: str, column: ColumnSpec, others: Collection[str], new: Collection[str]
) -> str | None:
    """Return why a text looks like a mistake; None if it does not."""
    if _FORMULA.match(text):
        return "looks like a formula"
    if _SHEET_ERROR.fullmatch(text):
        return "looks like an error of a spreadsheet"
    if column.type == "text":
        return None
    if text != (plain := _make_plain(text)) and plain in others:
        return f"looks like {'another value' if column.personal else repr(plain)}"
    return _find_oddity(text) or ("is new" if text in new else None)


def _find_oddity(text: str) -> str | None:
    if text.isascii() and text == text.strip():
        return None
    if text != text.strip(BLANKS):
        return "begins or ends with a space or an invisible character"
    for character in text:
        if character in _INVISIBLE or (character.isspace() and character != " "):
            return f"has an invisible character or unusual space, U+{ord(character):04X}"
    if text != normalize("NFC", text):
        return "is not in the composed form of Unicode, NFC"
    if re.search("[A-Za-z]", text) and any(ord(character) in _LOOK_ALIKE for character in text):
        return "mixes Latin letters with Cyrillic or Greek ones that look alike"
    return None


@lru_cache(maxsize=10_000)
def _make_plain(text: str) -> str:
    """Return a text as it looks: Latin letters, common spaces, and no invisible characters."""
    if text.isascii():
        return " ".join(text.split())
    visible = "".join(character for character in text if character not in _INVISIBLE)
    return " ".join(normalize("NFKC", visible).translate(_LOOK_ALIKE).split())
