"""Look through a cbm file before CatBoost reads it, which follows its numbers without a check.

The file is a flat buffer of trees, then one for each table of statistics of categories. A number
that points out of them lets CatBoost read memory that is not its own, at any row. The numbers of
fields are those of CatBoost's `model.fbs` and `ctr_data.fbs`. Not here: all else of the file.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_TREES, _PARTS = 1, 3
_OUTPUTS, _SPLITS, _SIZES, _STARTS, _LEAVES, _STEPS, _LEAF_PLACES = 0, 1, 2, 3, 8, 10, 11
# Where the lists of features are, and the tests of each: numbers, categories, statistics, others.
_TESTS = ((5, 3), (6, 1), (7, 1), (13, 3))
_STATISTICS = 7
_BUCKET = np.dtype([("category", "<u8"), ("place", "<u4")])
_NO_CATEGORY = 2**64 - 1
_BORDERS, _BUCKETS = 0, 1  # types of statistics that count classes; others have fixed sizes
_SIZES_OF_TYPES = {2: 8, 3: 8, 4: 4, 5: 4}
Key = tuple[Any, ...]  # a type of statistics, and the features that these are of


class _Table:
    """A table of a flat buffer, whose fields have numbers."""

    def __init__(self, content: bytes, place: int) -> None:
        self.content, self.place = content, place
        self._fields = place - _read(content, place)
        (self._size,) = struct.unpack_from("<H", content, self._fields)

    def find(self, number: int) -> int:
        """Return where a field is; 0 if it has its default."""
        entry = 4 + 2 * number
        if entry >= self._size:
            return 0
        (offset,) = struct.unpack_from("<H", self.content, self._fields + entry)
        return self.place + int(offset) if offset else 0

    def number(self, number: int) -> int:
        """Return a whole number."""
        place = self.find(number)
        return _read(self.content, place) if place else 0

    def array(self, number: int, kind: Any) -> np.ndarray:
        """Return a list of numbers."""
        dtype, start = np.dtype(kind), self._follow(number)
        count = _read(self.content, start) if start else 0
        if not 0 <= count <= (len(self.content) - start) // dtype.itemsize:
            raise ValueError("a list of the file is longer than the file")
        return np.frombuffer(self.content, dtype, count, start + 4)

    def table(self, number: int) -> "_Table":
        """Return a table within it."""
        return _Table(self.content, self._follow(number))

    def tables(self, number: int) -> "Iterator[_Table]":
        """Yield the tables of a list."""
        start = self._follow(number) + 4
        for place, offset in enumerate(self.array(number, "<u4").tolist()):
            yield _Table(self.content, start + 4 * place + offset)

    def _follow(self, number: int) -> int:
        place = self.find(number)
        return place + _read(self.content, place) if place else 0


def verify(content: bytes) -> None:
    """Look through a file.

    Raises:
        ValueError: A number points out of the trees or of the statistics.
    """
    try:
        end = 8 + _read(content, 4)
        core = _root(content[8:end])
        trees = core.table(_TREES)
        _verify_trees(trees)
        tables = dict(map(_read_statistics, _list_tables(content[end:])))
        for feature in trees.tables(_STATISTICS):
            _verify_feature(feature.table(0), tables)
    except (struct.error, IndexError) as error:
        raise ValueError(f"the file points out of itself: {error}") from error


def _read(content: bytes, place: int) -> int:
    return int(struct.unpack_from("<i", content, place)[0])


def _root(content: bytes) -> _Table:
    return _Table(content, _read(content, 0))


def _verify_trees(trees: _Table) -> None:
    outputs, leaves = trees.number(_OUTPUTS) or 1, trees.array(_LEAVES, "<f8").size
    splits, sizes = trees.array(_SPLITS, "<i4"), trees.array(_SIZES, "<i4").astype(int)
    starts = trees.array(_STARTS, "<i4")
    tests = sum(item.array(tests, "<i4").size for n, tests in _TESTS for item in trees.tables(n))
    if splits.size and not (splits.min() >= 0 and splits.max() < tests):
        raise ValueError(f"a tree asks for a test that is not one of {tests}")
    is_sound = sizes.size == starts.size and (sizes >= 0).all() and sizes.sum() == splits.size
    if not is_sound or (starts != np.cumsum(sizes) - sizes).any():
        raise ValueError("the trees are not one behind the other")
    steps = trees.array(_STEPS, ("<u2", 2))
    if not len(steps):
        if sum(outputs << size for size in sizes.tolist()) != leaves:
            raise ValueError(f"the trees do not have the {leaves} values of the file")
        return
    places = trees.array(_LEAF_PLACES, "<u4").astype(int)
    if not len(steps) == len(places) == splits.size:
        raise ValueError("the nodes of the trees are not all there")
    ends, nodes = np.repeat(starts + sizes, sizes), np.arange(len(steps))
    if (nodes[:, None] + steps >= ends[:, None]).any():
        raise ValueError("a node of a tree is not above its children")
    if (places[(steps == 0).any(axis=1)] + outputs > leaves).any():
        raise ValueError(f"a leaf is not one of the {leaves} values of the file")


def _list_tables(content: bytes) -> Iterator[_Table]:
    """Yield the tables of statistics, each behind its size."""
    count, place = (_read(content, 0), 4) if content else (0, 0)
    for _ in range(count):
        size = _read(content, place)
        if not 0 < size <= len(content) - place - 4:
            raise ValueError("a table of statistics is longer than the file")
        yield _root(content[place + 4 : place + 4 + size])
        place += 4 + size


def _key(base: _Table) -> Key:
    """Return what tells one table from another: its type and its features."""
    parts, place = base.table(0), base.find(1)
    kind = base.content[place] if place else _BORDERS
    lists = enumerate(("<i4", "<u8", "<u8"))  # categories, tests of numbers, tests of categories
    return kind, *(parts.array(number, form).tobytes() for number, form in lists)


def _read_statistics(table: _Table) -> tuple[Key, int]:
    """Return the key of a table and its number of classes."""
    key, classes = _key(table.table(0)), table.number(4)
    buckets, values = table.array(1, "u1"), table.array(2, "u1")
    size = {_BORDERS: 4 * max(2, classes), _BUCKETS: 4 * classes, **_SIZES_OF_TYPES}.get(key[0], 0)
    count = len(buckets) // _BUCKET.itemsize
    if size <= 0 or count * _BUCKET.itemsize != len(buckets) or count & (count - 1):
        raise ValueError("a table of statistics has no size that it can have")
    entries = buckets.view(_BUCKET)
    used = entries["category"] != _NO_CATEGORY
    if used.all():
        raise ValueError("a table of statistics has no empty place, at which a search ends")
    if (entries["place"][used].astype(int) >= len(values) // size).any():
        raise ValueError("a category has no statistics in its table")
    return key, classes


def _verify_feature(feature: _Table, tables: Mapping[Key, int]) -> None:
    key, border = _key(feature.table(0)), feature.number(1)
    if key not in tables:
        raise ValueError("a feature has no table of statistics")
    if key[0] in {_BORDERS, _BUCKETS} and not 0 <= border < max(2, tables[key]):
        raise ValueError(f"a feature asks for class {border} of {tables[key]}")
