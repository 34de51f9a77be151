"""Guess what columns mean: the target, the key, what is known only later, and personal values.

Not here: types, time and bounds.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import polars as pl

from retrain_assets.domain.data.values import read_sql
from retrain_assets.domain.start.draft import Guess, join
from retrain_assets.domain.start.table import Table, compute_strength, count_rarest, ends, find_sum
from retrain_assets.specs.base import hint
from retrain_assets.specs.features import Kind

LABEL = "label"
_PAIR = 2  # values of a binary target
_MOST_CLASSES, _MOST_CODES = 50, 10
_LEAST_ROWS_A_CODE = 20
_PERFECT, _SUSPICIOUS = 0.98, 0.9
_POSITIVE = {"yes", "y", "true", "t", "1", "positive", "pos", "bad", "churned", "fraud", "default"}
_LEAST_GAPS, _LEAST_AGREEMENT = 20, 0.95
_MOST_KEY = 5
_MOST_TWINS = 0.005  # of rows that may share a key, and are then refused
_ID = re.compile(r"(^|_)(id|key|uuid|guid|nr|no|number|code|index|instant)$|^(id|key)_|Id$|ID$")
_PERSONAL_NAME = re.compile(
    r"(first|last|full|sur|user|customer|client|patient|employee|operator|driver|contact)_?name|^name$|e_?mail|phone|mobile"
    r"|address|street|(^|_)ssn|passport|iban|birth|(^|_)dob($|_)|(^|_)ip($|_)|credit_?card",
    re.IGNORECASE,
)
_PERSONAL_VALUE = (
    r"^[^@\s]+@[^@\s]+\.[^@\s]+$"
    r"|^\+?\(?[0-9]{2,4}\)?[ /-][0-9]{3}[ 0-9/-]{3,}$"
    r"|^[0-9]{1,3}(\.[0-9]{1,3}){3}$"
    r"|^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}$"
)
_MOSTLY = 0.8
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})


@dataclass(frozen=True)
class Target:
    """The column that is predicted.

    Args:
        kind: The kind of model.
        column: Its name in the features table.
        expression: The SQL that computes it; None for the column of its name.
        sources: The columns of the dataset that it is made of.
        values: The label of each row: text of a class, or a number.
    """

    kind: Kind
    column: str
    expression: str | None
    sources: tuple[str, ...]
    values: pl.Series


def slug(text: str) -> str:
    """Return a text as a name of the YAML; letters with accents are written without them."""
    lower = unicodedata.normalize("NFKC", text).casefold().translate(_UMLAUTS)
    plain = re.sub(r"[\u0300-\u036f]", "", unicodedata.normalize("NFKD", lower))
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    return (name if name[:1].isalpha() else f"x_{name}")[:50].rstrip("_")


def quote(name: str) -> str:
    """Return a column as SQL has it, in quotes unless it is a plain word there."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        try:
            if pl.select(pl.lit(0).alias(name)).select(pl.sql_expr(name)).columns == [name]:
                return name
        except pl.exceptions.PolarsError:
            pass
    return '"' + name.replace('"', '""') + '"'


def guess_target(table: Table, wish: str, kind: Kind | None) -> tuple[Target, Guess]:
    """Return the target, which is a column or an SQL expression over columns.

    Raises:
        ValueError: It is neither, or cannot be predicted.
    """
    is_column = wish in table.rows.columns
    try:
        expression = pl.col(wish) if is_column else read_sql(wish)
        values = table.rows.select(expression.alias(LABEL)).to_series()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        near = hint(wish, table.types)
        why = f"is neither a column nor SQL over columns{near}"
        raise ValueError(f"--target {wish} {why}") from error
    guess = _guess_kind(values, kind)
    task = cast("Kind", guess.value)
    sources = (wish,) if is_column else tuple(dict.fromkeys(expression.meta.root_names()))
    sql = None if is_column else wish
    if guess.value == "binary":
        positive = _positive(values)
        values = values if positive is None else values == positive
        if positive is not None:
            sql = f"{f'({sql})' if sql else quote(wish)} = {_literal(positive)}"
        values = values.cast(pl.Float64)
    name = slug(wish) if is_column else LABEL
    if is_column and sql is None and name != wish:
        sql = quote(wish)
    number = values.cast(pl.Float64 if guess.value != "multiclass" else pl.String)
    classes = number if guess.value == "regression" else number.cast(pl.String)
    return Target(task, name, sql, sources, classes), guess


def _guess_kind(values: pl.Series, kind: Kind | None) -> Guess:
    present = values.drop_nulls()
    count, is_number = present.n_unique(), values.dtype.is_numeric()
    if values.dtype.is_temporal() or count < _PAIR:
        what = "dates or times" if values.dtype.is_temporal() else f"{count} different values"
        raise ValueError(
            f"--target: has {what}, which no model predicts; give another column, or SQL that "
            "makes a number or a class of it"
        )
    if not is_number and count > _MOST_CLASSES and kind in (None, "multiclass"):
        raise ValueError(
            f"--target: has {count} different texts: a model tells apart {_MOST_CLASSES} at most; "
            "give SQL that makes a number or fewer classes of it"
        )
    if kind is not None:
        if (kind == "regression" and not is_number) or (kind == "binary" and count != _PAIR):
            raise ValueError(
                f"--kind {kind}: the target has {count} different values of another kind: leave "
                "out --kind, or give SQL that makes numbers (regression) or two values (binary)"
            )
        return Guess("target.kind", kind, "as asked for", "sure")
    if count == _PAIR:
        return Guess("target.kind", "binary", "two different values", "sure")
    if not is_number:
        return Guess("target.kind", "multiclass", f"{count} different texts", "sure")
    if _are_codes(present):
        low, high = ends(present)
        why = f"whole numbers from {low} to {high}; or --kind regression"
        return Guess("target.kind", "multiclass", why, "unsure")
    return Guess("target.kind", "regression", f"{count:,} different numbers", "sure")


def _are_codes(values: pl.Series) -> bool:
    """Tell if numbers look like classes: few, whole, without a gap, and each of them frequent."""
    count, (low, high) = values.n_unique(), ends(values)
    return bool(
        values.dtype.is_integer()
        and count <= _MOST_CODES
        and low in (0, 1)
        and high - low + 1 == count
        and count_rarest(values) >= _LEAST_ROWS_A_CODE
    )


def _positive(values: pl.Series) -> Any:
    """Return the value that counts as 1; None where the values are 0 and 1 or truths already."""
    present = values.drop_nulls()
    options = present.unique().sort().to_list()
    if values.dtype == pl.Boolean or options == [0, 1]:
        return None
    if values.dtype.is_numeric():
        return options[1]
    names = [option for option in options if option.strip().lower() in _POSITIVE]
    counts = dict(present.value_counts().iter_rows())
    rarest = min(options, key=lambda option: (counts[option], option))
    return names[0] if len(names) == 1 else rarest


def _literal(value: Any) -> str:
    if not isinstance(value, str):
        return f"{value:g}"
    # Two braces in the YAML would insert a variable of the environment.
    return "'" + value.replace("'", "''").replace("{{", "{' || '{") + "'"


def find_later(table: Table, target: Target, time: str | None) -> Iterator[tuple[str, str, bool]]:
    """Yield the columns that look as if they were known only with the target.

    Yields:
        The column, why, and whether it is so plain that no feature should see it.
    """
    rows = table.thin()
    label = target.values.gather_every(-(-table.rows.height // rows.height))
    names = [name for name in table.types if name not in (*target.sources, time)]
    numbers = [name for name in names if table.types[name] in ("int", "float")]
    parts = []
    if target.kind == "regression" and len(target.sources) == 1:
        parts = find_sum(table, target.sources[0], numbers)
    for name in names:
        if name in parts:
            others = join(part for part in parts if part != name) or "nothing else"
            yield name, f"with {others} it adds up to the target", True
        elif why := _is_filled_with(rows[name], label):
            yield name, why, True
        else:
            strength = compute_strength(rows[name], label)
            if strength >= _SUSPICIOUS:
                why = f"predicts {strength:.0%} of the target by itself"
                yield name, why, strength >= _PERFECT


def _is_filled_with(values: pl.Series, label: pl.Series) -> str | None:
    """Return why a column seems to be filled only where the target is; None if it is not."""
    gaps, unlabelled = values.null_count(), label.null_count()
    if min(gaps, unlabelled) < _LEAST_GAPS:
        return None
    shared = int((values.is_null() & label.is_null()).sum())
    if min(shared / gaps, 2 * shared / unlabelled) < _LEAST_AGREEMENT:
        return None
    return f"empty in {gaps:,} rows, {shared:,} of them without a target"


def is_personal(table: Table, name: str) -> str | None:
    """Return why a column looks personal; None if it does not."""
    if _PERSONAL_NAME.search(slug(name)) and table.types[name] not in ("float", "bool"):
        return "its name looks personal"
    if table.types[name] in ("category", "text"):
        values = table.rows[name].drop_nulls().head(1000)
        if values.str.contains(_PERSONAL_VALUE).sum() > _MOSTLY * max(1, len(values)):
            return "its values look personal"
    return None


def is_identifier(table: Table, name: str) -> bool:
    """Tell if a column names rows rather than describes them."""
    distinct, rows = table.count_distinct(name), table.rows.height
    is_whole = table.types[name] in ("int", "category", "text")
    by_name = bool(_names_id(name)) and distinct > rows / 2
    is_int = table.types[name] == "int"
    counts_up = is_int and distinct > rows / 2 and table.rows[name].drop_nulls().is_sorted()
    return is_whole and (by_name or counts_up or (distinct == rows and not is_int))


def _names_id(name: str) -> bool:
    """Tell if the name of a column says that it identifies something, as `Order-No.` does."""
    return bool(_ID.search(name) or _ID.search(slug(name)))


def guess_key(
    table: Table, time: str | None, excluded: Sequence[str], wish: Sequence[str]
) -> tuple[list[str], Guess]:
    """Return the columns that identify a row; none where nothing does.

    Raises:
        ValueError: The columns that are asked for do not exist.
    """
    if wish:
        if unknown := [name for name in wish if name not in table.types]:
            raise ValueError(f"--key: no column {unknown[0]!r}{hint(unknown[0], table.types)}")
        twins = table.rows.height - table.count_keys(wish)
        why = f"as asked for; {twins:,} rows repeat another's" if twins else "as asked for; unique"
        return list(wish), Guess("key", ", ".join(wish), why, "unsure" if twins else "sure")
    names = [
        name
        for name in table.types
        if name not in excluded and table.types[name] != "float" and not table.share_missing(name)
    ]
    for name in sorted(names, key=lambda name: (name != time, not _names_id(name))):
        likely = bool(_names_id(name)) or table.types[name] != "int"
        if likely and table.is_identified_by([name]):
            return [name], Guess("key", name, f"unique in {table.rows.height:,} rows", "likely")
    key = _combine(table, [time] if time in names and time else [], names)
    count = table.count_keys(key) if key else 0
    for name in filter(_names_id, names):  # rows that were delivered twice are twice in any key
        if table.count_keys([name]) == count:
            key = [name]
    twins = table.rows.height - count
    if twins <= _MOST_TWINS * table.rows.height:
        why = f"{twins:,} rows repeat another's" if twins else "unique together"
        return key, Guess("key", ", ".join(key), why, "unsure" if twins else "likely")
    return [], Guess("key", "the line in the file", "no columns identify a row", "unsure")


def _combine(table: Table, first: list[str], names: Sequence[str]) -> list[str]:
    """Add columns, each time the one that tells most rows apart, and drop those without need."""
    key = list(first)
    while len(key) < _MOST_KEY and not (key and table.is_identified_by(key)):
        counts = {name: table.count_keys([*key, name]) for name in names if name not in key}
        if not counts:
            break
        key.append(max(counts, key=lambda name: counts[name]))
    best = table.count_keys(key) if key else 0
    for name in key[len(first) :]:
        rest = [part for part in key if part != name]
        if rest and table.count_keys(rest) == best:
            key = rest
    return key
