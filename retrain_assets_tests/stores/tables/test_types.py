"""A write never changes a value: a column is widened without loss, or the rows are refused."""

from contextlib import suppress
from datetime import UTC, date, datetime
from itertools import permutations
from pathlib import Path

import polars as pl
import pytest

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.stores.tables.tables import Tables
from retrain_assets.stores.tables.types import ColumnTypeError

VALUES = {
    "bool": pl.Series([True, False]),
    "int": pl.Series([7, -5]),
    "large int": pl.Series([2**53 + 1, 2**63 - 1]),
    "small int": pl.Series([7, -5], dtype=pl.Int8),
    "unsigned": pl.Series([7, 200], dtype=pl.UInt8),
    "whole float": pl.Series([7.0, 0.0]),
    "float": pl.Series([0.75, 1e300]),
    "float32": pl.Series([0.1, 2.5], dtype=pl.Float32),
    "text": pl.Series(["01.50", "007"]),
    "category": pl.Series(["a", "5"], dtype=pl.Categorical),
    "date": pl.Series([date(2024, 1, 1), date(1, 1, 1)]),
    "datetime": pl.Series([datetime(2024, 1, 2, 13, 14, 15, 1, UTC)] * 2),
    "local time": pl.Series(["2024-01-02T13:14:15"] * 2).str.to_datetime(),
    "nanoseconds": pl.Series([1, 2]).cast(pl.Datetime("ns", "UTC")),
    "nothing": pl.Series([None, None], dtype=pl.Null),
    "binary": pl.Series([b"a", b""]),
}


def same(stored: pl.Series, values: pl.Series) -> bool:
    """Return whether each stored value is the one that was written."""
    if stored.dtype == pl.String and values.dtype.is_integer():
        return stored.to_list() == [str(value) for value in values]
    if isinstance(stored.dtype, pl.Datetime) and values.dtype == pl.Date:
        return stored.dt.date().to_list() == values.to_list() and (
            stored.dt.time().cast(pl.Int64).sum() == 0
        )
    return stored.to_list() == values.to_list()


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize(("old", "new"), permutations(VALUES, 2))
def test_no_write_changes_a_value(tmp_path: Path, old: str, new: str, *, append: bool) -> None:
    tables, version = Tables(str(tmp_path)), None
    stored: dict[str, pl.Series] = {}
    for key, kind in (("01", old), ("02", new), ("03", old)):
        rows = pl.DataFrame({PARTITION: [key] * 2, "x": VALUES[kind]})
        with suppress(ColumnTypeError):
            if append:
                version = tables.append("d/t", rows, {}, version)
            else:
                version = tables.replace("d/t", rows, [key], {})
            stored[key] = VALUES[kind]
        for written, values in stored.items():
            assert same(tables.read("d/t", [written])["x"], values)


@pytest.mark.parametrize(
    ("old", "new", "dtype"),
    [
        ("int", "float", pl.Float64()),
        ("bool", "int", pl.Int64()),
        ("int", "text", pl.String()),
        ("date", "datetime", pl.Datetime("us", "UTC")),
        ("nothing", "text", pl.String()),
        ("float", "int", pl.Float64()),
    ],
)
def test_a_column_is_widened_where_that_loses_nothing(
    tmp_path: Path, old: str, new: str, dtype: pl.DataType
) -> None:
    tables = Tables(str(tmp_path))
    for key, kind in (("01", old), ("02", old), ("02", new)):
        rows = pl.DataFrame({PARTITION: [key] * 2, "x": VALUES[kind]})
        tables.replace("d/t", rows, [key], {})
    description = tables.describe("d/t")
    assert description is not None
    assert description.schema["x"] == dtype
    assert description.widened == ("" if old == "float" else f"x to {dtype}")
    assert same(tables.read("d/t", ["01"])["x"], VALUES[old])
    assert same(tables.read("d/t", ["02"])["x"], VALUES[new])


@pytest.mark.parametrize(
    ("old", "new"),
    [("float", "text"), ("datetime", "int"), ("large int", "float"), ("int", "date")],
)
def test_what_no_type_holds_is_refused_by_name(tmp_path: Path, old: str, new: str) -> None:
    tables = Tables(str(tmp_path))
    tables.replace("d/t", pl.DataFrame({PARTITION: ["01"] * 2, "x": VALUES[old]}), ["01"], {})
    rows = pl.DataFrame({PARTITION: ["02"] * 2, "x": VALUES[new]})
    with pytest.raises(ColumnTypeError, match=r"d/t: column x is stored as .* another name"):
        tables.replace("d/t", rows, ["02"], {})
    assert tables.version("d/t") == 0
    tables.replace("d/t", rows, ["01", "02"], {})  # nothing of the old type stays
    assert same(tables.read("d/t", ["02"])["x"], VALUES[new])
