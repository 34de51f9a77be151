"""Profiles: one small summary a block and column, from which any window is summed up.

Numbers are kept as a KLL sketch (Karnin, Lang, Liberty 2016, "Optimal Quantile Approximation in
Streams", FOCS) in the serialised form of Apache DataSketches, categories as their counts. The
library flips a coin, seeded by the clock and by nothing else, each time it halves a sketch: the
same rows twice give two files, and the same 90 stored blocks merged twice give distribution
functions 0.3 % of the rows apart. A replay must decide what the live system decided, so a sketch
is halved here, at fixed ranks of the sorted values, and the library only answers queries. Fixed
ranks are also closer: a rank is wrong by at most 1/801 of the rows in a block, which a merge
doubles (0.25 %), where the library states 0.35 % at 99 % confidence.
Not here: drift between two profiles, which blocks make a window, storage.
"""

import json
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from datasketches import kll_doubles_sketch, kll_floats_sketch
from numpy.typing import NDArray

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.data.values import keep_finite

Kind = Literal["numeric", "category"]

K = 800
CATEGORY_BOUND = 1000
PROFILE_SCHEMA: dict[str, pl.DataType] = {
    PARTITION: pl.String(),
    "column": pl.String(),
    "kind": pl.String(),
    "rows": pl.Int64(),
    "nulls": pl.Int64(),
    "sketch": pl.Binary(),
    "counts": pl.String(),
    "others": pl.Int64(),
}
_ROWS, _COUNT = "_rows", "_count"
# Nulls, sketch, counts and others of one block.
_Encoded = tuple[int, bytes | None, str | None, int]
Values = NDArray[np.floating[Any]]

# Preamble of a serialised sketch: length of the preamble, serial version, family, flags, k,
# least width of a level, rows, least k merged in, levels.
_PREAMBLE = struct.Struct("<BBBBHBxQHBx")
_EMPTY_FLAG, _SORTED_FLAG, _FAMILY, _MIN_WIDTH = 1, 2, 15, 8
EMPTY = struct.pack("<BBBBHBx", 2, 1, _FAMILY, _EMPTY_FLAG, K, _MIN_WIDTH)


class ProfileError(ValueError):
    """A column cannot be summarised; the message names it and what would do."""


@dataclass(frozen=True)
class ColumnProfile:
    """Summary of one column over a window.

    Args:
        column: Name.
        kind: `numeric` (also booleans, as 0 and 1) or `category`.
        rows: Rows of the window.
        nulls: Those that are null, NaN or infinite.
        sketch: Distribution of a numeric column, in float64, or in float32 where a stored block of
            an earlier version is among those summed up; None of a category.
        counts: Rows by value of a category, exact while no block has more than
            `CATEGORY_BOUND` values; None of a numeric column.
        others: Rows of values beyond that bound, which `counts` does not name.
    """

    column: str
    kind: Kind
    rows: int
    nulls: int
    sketch: kll_doubles_sketch | kll_floats_sketch | None = None
    counts: dict[str, int] | None = None
    others: int = 0

    @property
    def filled(self) -> int:
        """Rows that have a value."""
        return self.rows - self.nulls

    @property
    def is_single(self) -> bool:
        """Return True where the sketch is of an earlier version, which rounded to float32."""
        return type(self.sketch).__name__ == "kll_floats_sketch" and self.filled > 0

    def in_single(self) -> Self:
        """Return the same profile rounded to float32, to compare it with one that is."""
        if self.sketch is None or self.is_single or not self.filled:
            return self
        values, weights = read_sketch(self.sketch.serialize())
        order = np.argsort(values)
        stored = _serialise(values[order].astype(np.float32), weights[order])
        return replace(self, sketch=_merge_sketches((stored,)))


def build_profile(frame: pl.DataFrame, by: str = PARTITION) -> pl.DataFrame:
    """Summarise each block and column; the order of the rows does not matter.

    Args:
        frame: Rows; columns whose name starts with `_` are not summarised.
        by: Column that says which block a row is of.

    Returns:
        A table of `PROFILE_SCHEMA`, sorted by block, then in the order of the frame's columns.

    Raises:
        ProfileError: A column is neither number, boolean nor text.
    """
    columns = [name for name in frame.columns if not name.startswith("_") and name != by]
    kinds = {name: get_kind(name, frame.schema[name]) for name in columns}
    summaries = [_summarize(name, kind) for name, kind in kinds.items()]
    blocks = frame.group_by(by).agg(pl.len().alias(_ROWS), *summaries).sort(by)
    keys = blocks.select(pl.col(by).cast(pl.String), _ROWS).rows()
    stored = []
    for name, kind in kinds.items():
        encode = _encode_numbers if kind == "numeric" else _encode_categories
        parts = zip(keys, blocks[name], strict=True)
        stored.append([(key, name, kind, rows, *encode(rows, part)) for (key, rows), part in parts])
    by_block = [row for block in zip(*stored, strict=True) for row in block]
    return pl.DataFrame(by_block, schema=PROFILE_SCHEMA, orient="row")


def merge(profile: pl.DataFrame) -> dict[str, ColumnProfile]:
    """Sum up all blocks.

    Args:
        profile: Rows of `PROFILE_SCHEMA`, in any order.

    Returns:
        By column, in the order in which the columns first appear.

    Raises:
        ProfileError: A column is numeric in one block and a category in another.
    """
    # A block without a value may be of either kind.
    is_empty = pl.col("rows").sum() == pl.col("nulls").sum()
    counted = pl.col("kind", "sketch", "counts").filter(
        (pl.col("nulls") < pl.col("rows")) | is_empty
    )
    totals = pl.col("rows", "nulls", "others").sum()
    columns = profile.group_by("column", maintain_order=True).agg(totals, counted)
    return {part["column"]: _merge_column(**part) for part in columns.iter_rows(named=True)}


def drop_mixed(profile: pl.DataFrame) -> pl.DataFrame:
    """Return a profile without the columns that are numeric in one block, categories in another.

    A block without a value may be of either kind.
    """
    kind = pl.when(pl.col("nulls") < pl.col("rows")).then("kind")
    return profile.filter(kind.drop_nulls().n_unique().over("column") <= 1)


def get_kind(name: str, dtype: pl.DataType) -> Kind:
    """Return how a column of a type is summarised.

    Raises:
        ProfileError: It is neither number, boolean nor text.
    """
    if dtype.is_integer() or dtype.is_float() or dtype in (pl.Boolean, pl.Null):
        return "numeric"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "category"
    raise ProfileError(f"column {name} is of type {dtype}: make it a number, text or boolean")


def _summarize(name: str, kind: Kind) -> pl.Expr:
    """Return all finite values of a number in order, or the count of each category."""
    if kind == "numeric":
        return keep_finite(pl.col(name).cast(pl.Float64)).drop_nulls().sort()
    return pl.col(name).cast(pl.String).drop_nulls().value_counts(name=_COUNT)


def _encode_numbers(rows: int, values: pl.Series) -> _Encoded:
    # Adding zero makes a negative zero positive, so that equal values have equal bytes; polars
    # would optimise the addition away.
    canonical, weights = values.to_numpy() + 0.0, np.ones(len(values), dtype=np.int64)
    return rows - len(values), _serialise(canonical, weights), None, 0


def _encode_categories(rows: int, counted: pl.Series) -> _Encoded:
    values, counts = (counted.struct.field(name).to_list() for name in counted.struct.fields)
    by_frequency = sorted(zip(values, counts, strict=True), key=lambda pair: (-pair[1], pair[0]))
    frequent, filled = dict(by_frequency[:CATEGORY_BOUND]), sum(counts)
    text = json.dumps(frequent, sort_keys=True, ensure_ascii=False)
    return rows - filled, None, text, filled - sum(frequent.values())


def _merge_column(
    column: str,
    *,
    rows: int,
    nulls: int,
    others: int,
    kind: list[str],
    sketch: list[bytes | None],
    counts: list[str | None],
) -> ColumnProfile:
    kinds = set(kind)
    if len(kinds) > 1 and rows > nulls:
        raise ProfileError(
            f"column {column} is numeric in some blocks and a category in others: "
            "build the profile of all blocks with one type"
        )
    if "numeric" in kinds:
        merged = _merge_sketches(tuple(filter(None, sketch)))
        return ColumnProfile(column, "numeric", rows, nulls, sketch=merged)
    total: Counter[str] = Counter()
    for text in filter(None, counts):
        total.update(json.loads(text))
    in_order = dict(sorted(total.items()))
    return ColumnProfile(column, "category", rows, nulls, counts=in_order, others=others)


@lru_cache(maxsize=512)  # a reference is held against window after window
def _merge_sketches(sketches: tuple[bytes, ...]) -> kll_doubles_sketch | kll_floats_sketch:
    values, weights = pool_values(sketches)
    order = np.argsort(values)
    single = values.dtype == np.float32
    opened = kll_floats_sketch if single else kll_doubles_sketch
    return opened.deserialize(_serialise(values[order], weights[order]))


def pool_values(sketches: Sequence[bytes]) -> tuple[Values, NDArray[np.int64]]:
    """Return the values and weights of all sketches, in float32 where one of them is.

    A value that was rounded in one block only would count as another value than its equals.
    """
    samples = [read_sketch(sketch) for sketch in sketches]
    values, weights = (np.concatenate(arrays) for arrays in zip(*samples, strict=True))
    precision = min((sample.dtype for sample, _ in samples), key=lambda dtype: dtype.itemsize)
    return values.astype(precision), weights


def _serialise(values: Values, weights: NDArray[np.int64]) -> bytes:
    """Return a sketch of weighted values: halved until `K` items, or fewer, represent equal shares.

    The layout is that of `kll_sketch.hpp` of Apache DataSketches: preamble, first index of each
    level, least and greatest value, items by level; an item of level l stands for 2^l rows.

    Args:
        values: In ascending order.
        weights: Rows that each stands for; an extreme that stands for none is kept as such.
    """
    if len(values) == 0:
        return EMPTY
    below = np.cumsum(weights)
    sizes = _level_sizes(int(below[-1]))
    steps = np.repeat(2 ** np.arange(len(sizes)), sizes)
    # The middle of an even step lies between two ranks: taking either in turn keeps the balance.
    alternating = np.where(np.arange(len(steps)) % 2, 0.25, -0.25)
    middles = np.cumsum(steps) - steps / 2 + alternating
    items = values[np.searchsorted(below, middles)]
    first = _capacity(len(sizes)) - np.cumsum(sizes[::-1])[::-1]
    preamble = _PREAMBLE.pack(
        5, 1, _FAMILY, _SORTED_FLAG, K, _MIN_WIDTH, int(below[-1]), K, len(sizes)
    )
    content = np.concatenate([values[[0, -1]], items])
    return preamble + first.astype("<u4").tobytes() + content.tobytes()


@lru_cache(maxsize=4096)  # stored blocks are looked at again for every window they are in
def read_sketch(sketch: bytes) -> tuple[Values, NDArray[np.int64]]:
    """Return the values of a sketch and the rows each stands for: none, if only an extreme."""
    if sketch == EMPTY:
        return np.empty(0), np.empty(0, np.int64)
    levels = _PREAMBLE.unpack_from(sketch)[-1]
    first = np.frombuffer(sketch, "<u4", levels, _PREAMBLE.size)
    sizes = np.diff(first, append=_capacity(levels))
    # Nothing in the layout names the type of the items, so it follows from the length.
    start = _PREAMBLE.size + first.nbytes
    width = (len(sketch) - start) // (2 + int(sizes.sum()))
    values = np.frombuffer(sketch, f"<f{width}", offset=start)
    weights = np.repeat([0, *(1 << level for level in range(levels))], [2, *sizes])
    return values, weights


def _level_sizes(rows: int) -> list[int]:
    """Return the items of each level: at most `K` at the top, below it the rest of the halving."""
    top = (rows // (K + 1)).bit_length()
    return [(rows >> level) & 1 for level in range(top)] + [rows >> top]


def _capacity(levels: int) -> int:
    """Return how many items fit into a sketch; the indices of its levels count down from here."""
    widths = ((2 * K * 2**depth // 3**depth + 1) // 2 for depth in range(levels))
    return sum(max(_MIN_WIDTH, width) for width in widths)
