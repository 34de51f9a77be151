"""Texts that look like a mistake are named with the reason, and no row is refused for them."""

from typing import Any

import polars as pl
import pytest

from retrain_assets.domain.data import texts
from retrain_assets.domain.data.contract import judge
from retrain_assets.domain.data.row_checks import RawRows
from retrain_assets.specs.dataset import DatasetSpec, ReadSpec

DAYS = [f"2013-01-{day:02}" for day in range(1, 11)]


def spec(**city: Any) -> DatasetSpec:
    return DatasetSpec.model_validate(
        {
            "name": "sales",
            "landing": "sales/{partition}.parquet",
            "partition": {"by": "day", "column": "day", "start": DAYS[0]},
            "columns": {
                "day": {"type": "date", "required": True},
                "id": {"type": "int", "required": True},
                "city": {"type": "category"} | city,
            },
            "key": ["id"],
        }
    )


def delivery(day: str, *cities: str) -> RawRows:
    size = len(cities)
    rows = pl.DataFrame(
        {
            "day": pl.Series([day] * size).str.to_date(),
            "id": range(size),
            "city": cities,
            "_line": range(1, size + 1),
        }
    )
    broken = pl.lit(None, pl.String).alias("_broken")
    return RawRows(f"sales/{day}.parquet", day, "", rows.with_columns(broken))


def tally(dataset: DatasetSpec, *files: RawRows) -> pl.DataFrame:
    return judge(files, dataset).texts


def whys(dataset: DatasetSpec, *cities: str) -> dict[object, object]:
    counts = tally(dataset, delivery(DAYS[0], *cities))
    found = texts.describe(counts, texts.NO_TALLY, dataset)
    return {record["value"]: record["why"] for record in found}


def test_too_many_categories_in_one_chunk_are_too_many_in_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(texts, "_MOST_CATEGORIES", 2)
    file = delivery(DAYS[0], "a", "b", "c", "d ", "a", "a", "a", "a")
    for at_once in (4, 100):
        read = {"batch_values": at_once * len(spec().columns)}
        counts = judge([file], spec().model_copy(update={"read": ReadSpec(**read)})).texts
        assert counts.select("value", "rows").rows() == [("d ", 1)]


@pytest.mark.parametrize(
    ("text", "shown", "why"),
    [
        ("NY ", "NY ", "looks like 'NY'"),
        ("NY\u00a0", "NY\\xa0", "looks like 'NY'"),
        ("N\u200bY", "N\\u200bY", "looks like 'NY'"),
        ("НУ", "НУ", "looks like 'HY'"),  # noqa: RUF001
        ("Oslo ", "Oslo ", "begins or ends with a space or an invisible character"),
        ("New\u00a0York", "New\\xa0York", "has an invisible character or unusual space, U+00A0"),
        ("Os\ufefflo", "Os\\ufefflo", "has an invisible character or unusual space, U+FEFF"),
        ("Zu\u0308rich", "Zu\u0308rich", "is not in the composed form of Unicode, NFC"),
        ("Оslo", "Оslo", "mixes Latin letters with Cyrillic or Greek ones that look alike"),  # noqa: RUF001
        ("=1+1", "=1+1", "looks like a formula"),
        ("@SUM(A1)", "@SUM(A1)", "looks like a formula"),
        ("+cmd|' /C calc'!A0", "+cmd|' /C calc'!A0", "looks like a formula"),
        ("#BEZUG!", "#BEZUG!", "looks like an error of a spreadsheet"),
    ],
)
def test_a_category_that_looks_like_a_mistake_is_named(text: str, shown: str, why: str) -> None:
    found = whys(spec(), "NY", "HY", "Bern", text)
    assert found == {shown: why}
    assert whys(spec(allowed=["NY", "HY", "Bern", text]), "NY", text) == {}


def test_plain_texts_are_not_named() -> None:
    plain = ["NY", "New York", "Zürich", "Москва", "-5", "+49 30", "a=b", "#1", "kΩ", "@bob"]
    assert whys(spec(), *plain) == {}
    assert whys(spec(type="text"), *plain, "a ", "=1+1") == {"=1+1": "looks like a formula"}


def test_a_personal_value_is_masked() -> None:
    assert whys(spec(personal=True), "NY", "NY ") == {"***": "looks like another value"}


def test_new_categories_are_named_with_file_line_and_rows() -> None:
    usual = [delivery(day, *["a", "b"] * 100) for day in DAYS[:6]]
    new = delivery(DAYS[6], *["a"] * 195, *"cdefg")
    found = texts.describe(tally(spec(), new), tally(spec(), *usual), spec())
    assert [record["value"] for record in found] == list("cdefg")
    assert found[0] == {
        "partition": DAYS[6],
        "file": f"sales/{DAYS[6]}.parquet",
        "line": 196,
        "column": "city",
        "value": "c",
        "rows": 1,
        "why": "is new",
    }
    together = texts.describe(tally(spec(), *usual, new), texts.NO_TALLY, spec())
    assert together == found
    assert texts.describe(tally(spec(), new), tally(spec(), *usual[:4]), spec()) == []


def test_where_categories_are_often_new_only_many_are_named() -> None:
    names = (f"n{number}" for number in range(10_000))
    usual = [delivery(day, *["a"] * 180, *(next(names) for _ in range(20))) for day in DAYS[:6]]
    before = tally(spec(), *usual)
    few = delivery(DAYS[6], *["a"] * 180, *(next(names) for _ in range(25)))
    assert texts.describe(tally(spec(), few), before, spec()) == []
    many = delivery(DAYS[6], *["a"] * 180, *(next(names) for _ in range(60)))
    assert len(texts.describe(tally(spec(), many), before, spec())) == 20


def test_of_very_many_categories_only_odd_ones_are_counted() -> None:
    cities = [*(f"c{number}" for number in range(1100)), "=1+1"]
    assert tally(spec(), delivery(DAYS[0], *cities))["value"].to_list() == ["=1+1"]


def test_a_column_can_be_normalised() -> None:
    dataset = spec(normalise=["nfc", "strip"])
    accepted = judge(
        [delivery(DAYS[0], "Zu\u0308rich", "\u00a0NY\u200b", " a b")], dataset
    ).accepted
    assert accepted["city"].to_list() == ["Zürich", "NY", "a b"]
    with pytest.raises(ValueError, match="`normalise` needs type category or text"):
        spec(type="int", normalise=["strip"])
