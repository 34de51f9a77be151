"""What `retrain new` guesses from a sample: types, time, target, leaks, key and windows."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import polars as pl
import pytest

from retrain_assets.components.spec_check import find_dataset_mistakes, find_model_mistakes
from retrain_assets.domain.data.rules import BROKEN, LINE, PROBLEM
from retrain_assets.domain.start.columns import guess_text
from retrain_assets.domain.start.draft import Draft, write_flow
from retrain_assets.domain.start.guess import Sample, Start, Wishes, guess
from retrain_assets.domain.start.meaning import slug
from retrain_assets.domain.start.model import choose_windows
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.yaml import load_strictly

DAYS, ROWS = 120, 40


def orders(days: int = DAYS) -> pl.DataFrame:
    """Return orders of a shop as text, as a CSV has them."""
    draw = random.Random(1)  # noqa: S311 no secret
    rows = []
    for number in range(days * ROWS):
        day = dt.date(2023, 1, 2) + dt.timedelta(number // ROWS)
        amount, channel = draw.gauss(50, 20), draw.choice(["web", "shop", "phone"])
        late = draw.random() < (0.85 if channel == "web" else 0.15)
        rows.append(
            {
                "id": f"A{number:06}",
                "day": day.strftime("%d.%m.%Y"),
                "mail": f"c{draw.randint(1, 500)}@example.org",
                "postcode": f"{draw.randint(1000, 99999):05}",
                "amount": f"{abs(amount):.2f}",
                "discount": draw.choice(["n.a.", "5", "10", "0"]),
                "channel": channel,
                "complaint": (day + dt.timedelta(9)).strftime("%d.%m.%Y") if late else "",
                "late": "yes" if late else "no",
            }
        )
    return pl.DataFrame(rows)


def sample(rows: pl.DataFrame, ending: str = "csv", **read: Any) -> Sample:
    nothing = pl.lit(None, pl.String)
    lines = pl.int_range(2, rows.height + 2, dtype=pl.Int64).alias(LINE)
    rows = rows.with_columns(lines, nothing.alias(BROKEN), nothing.alias(PROBLEM))
    return Sample(rows, {"landing": f"shop/*.{ending}"}, read)


def start(rows: pl.DataFrame, target: str, ending: str = "csv", **wishes: Any) -> Start:
    return guess(sample(rows, ending), Wishes("m", "shop", target, **wishes))


@pytest.fixture(scope="module")
def shop() -> Start:
    return start(orders(), "late")


def specs(start: Start, folder: Any) -> tuple[DatasetSpec, ModelSpec]:
    """Return the written YAML as loading takes it, after all checks of loading."""
    path = folder / "defs.yaml"
    path.write_text(start.render("a test"), encoding="utf-8")
    attributes = [document.value["attributes"] for document in load_strictly(path)]
    dataset, model = (
        DatasetSpec.model_validate(attributes[0]),
        ModelSpec.model_validate(attributes[1]),
    )
    assert [*find_dataset_mistakes(dataset), *find_model_mistakes(model, dataset, {})] == []
    return dataset, model


def test_the_yaml_passes_all_checks_and_refuses_no_row_of_the_sample(
    shop: Start, tmp_path: Any
) -> None:
    dataset, model = specs(shop, tmp_path)
    types = {name: column.type for name, column in dataset.columns.items()}
    assert types["day"] == types["complaint"] == "date"
    assert (types["amount"], types["discount"], types["postcode"]) == ("float", "int", "category")
    assert dataset.read.date_format["day"] == "%d.%m.%Y"
    assert dataset.read.nulls == ["", "n.a."]
    assert (dataset.partition.by, dataset.partition.start) == ("day", "2023-01-02")
    assert dataset.key == ["id"]
    assert (model.target.kind, model.target.expression) == ("binary", "late = 'yes'")
    assert shop.notes == []


def test_rows_that_were_delivered_twice_leave_the_column_of_numbers_the_key() -> None:
    rows = orders(20).with_columns(amount=pl.lit("1.234,5")).rename({"id": "Order-No."})
    twice = sample(pl.concat([rows, rows.head(1)]), delimiter=";", decimal=",", thousands=".")
    shop = guess(twice, Wishes("m", "shop", "late"))
    assert shop.dataset.attributes["key"] == ["Order-No."]
    assert shop.dataset.attributes["columns"]["amount"]["type"] == "float"


def test_what_is_filled_only_with_the_target_is_known_later_and_no_feature(
    shop: Start, tmp_path: Any
) -> None:
    dataset, model = specs(shop, tmp_path)
    later = {name for name, column in dataset.columns.items() if column.timing == "later"}
    assert later == {"complaint", "late"}
    assert "predicts 100% of the target" in shop.render("")
    assert "complaint" not in (model.features.sql or "")


def test_personal_columns_are_masked_and_their_values_stand_nowhere(shop: Start) -> None:
    assert shop.dataset.attributes["columns"]["mail"] == {"type": "category", "personal": True}
    assert "mail" not in shop.model.attributes["features"]["sql"]
    assert "@example.org" not in shop.render("")
    by_name = start(orders(12).with_columns(surname=pl.col("channel")), "late")
    assert by_name.dataset.attributes["columns"]["surname"]["personal"]


def test_bounds_are_wider_than_what_was_observed(shop: Start) -> None:
    columns, comments = shop.dataset.attributes["columns"], shop.dataset.comments
    assert columns["discount"] == {"type": "int", "min": 0, "max": 15}
    assert comments["columns", "discount"].startswith("observed 0 to 10")
    assert columns["channel"]["allowed"] == ["phone", "shop", "web"]


def test_a_number_without_values_that_its_target_lacks_is_known_later() -> None:
    rows = (
        orders(30)
        .with_row_index("n")
        .select(
            "id",
            "day",
            "amount",
            took=pl.when(pl.col("n") % 10 > 0).then(pl.col("n") % 7).cast(pl.String),
            delay=pl.when(pl.col("n") % 10 > 0).then(pl.col("n") * 7919 % 101).cast(pl.String),
        )
    )
    columns = start(rows, "delay").dataset.attributes["columns"]
    assert columns["took"]["known"] == "later"
    assert "known" not in columns["amount"]


def test_parts_that_add_up_to_the_target_are_known_later() -> None:
    number = pl.int_range(3000)
    rows = pl.DataFrame({"n": range(3000)}).select(
        day=pl.date(2023, 1, 1) + pl.duration(days=number // 30),
        casual=(number * 7919 % 101).cast(pl.Int64),
        registered=(number * 104729 % 211).cast(pl.Int64),
        heat=(number * 31 % 17).cast(pl.Float64),
    )
    rows = rows.with_columns(
        total=pl.col("casual") + pl.col("registered"),
        rest=pl.col("registered") - pl.col("heat").cast(pl.Int64),
    )
    columns = start(rows, "total", "parquet").dataset.attributes["columns"]
    later = {name for name, rules in columns.items() if rules.get("known") == "later"}
    assert later == {"casual", "registered", "total"}  # the rest is no sum without these


def test_without_any_time_it_says_what_can_be_judged_and_what_cannot(tmp_path: Any) -> None:
    rows = orders(40).select("amount", "channel", "discount", "late")
    answer = start(rows, "late")
    dataset, model = specs(answer, tmp_path)
    assert (dataset.partition.by, dataset.columns["chunk"].expression) == ("value", "_line // 80")
    assert model.triggers.signals == ()
    assert model.schedule is None
    assert sum("judged" in note for note in answer.notes) == 2
    ordered = start(rows.sort("late"), "late")
    assert ordered.dataset.attributes["columns"]["chunk"]["expression"] == "_line % 20"


def test_seconds_since_1970_are_a_time_and_no_feature(tmp_path: Any) -> None:
    seconds = 1_690_000_000 + 3000 * pl.int_range(DAYS * ROWS)
    rows = orders().select("amount", "channel", "late", ts=seconds.cast(pl.String))
    dataset, model = specs(start(rows, "late"), tmp_path)
    assert dataset.partition.column == "ts_date"
    assert "ts," not in (model.features.sql or "")
    parts = orders(60).select(
        "amount", "late", year=pl.lit("2023"), month=(pl.int_range(60 * ROWS) // 200 + 1).cast(str)
    )
    answer = start(parts, "late")
    assert answer.partitions[:2] == ("2023-01", "2023-02")
    specs(answer, tmp_path)
    place = (pl.int_range(60 * ROWS) // 100 + 1).cast(str).str.zfill(2)
    texts = orders(60).select("amount", "late", day=pl.lit("2023-01-") + place)
    specs(start(texts, "late", "parquet"), tmp_path)


def test_a_target_may_be_sql_and_its_columns_are_known_later(tmp_path: Any) -> None:
    sql = "amount > 60 AND channel = 'web'"
    dataset, model = specs(start(orders(), sql), tmp_path)
    assert (model.target.expression, model.target.kind) == (sql, "binary")
    later = {name for name, column in dataset.columns.items() if column.timing == "later"}
    assert {"amount", "channel"} <= later
    assert "channel" not in (model.features.sql or "")


@pytest.mark.parametrize(
    ("wishes", "why"),
    [
        ({"target": "lte"}, "is neither a column nor SQL over columns: did you mean late"),
        ({"target": "mail"}, "different texts"),
        ({"target": "day"}, "dates or times"),
        (
            {"target": "late", "time": "channel"},
            "a date or time; those that are: day, complaint",
        ),
        ({"target": "late", "key": ["nope"]}, "no column 'nope'"),
        ({"target": "late", "kind": "regression"}, "of another kind"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_with_what_would_do(
    wishes: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        guess(sample(orders(20)), Wishes("m", "shop", **wishes))


def test_hostile_names_and_values_stay_names_and_values(tmp_path: Any) -> None:
    names = ['a "b"', "on", "1e5", "group", "a: #b", "chunk", "line", "date", "päße", "'"]
    rows = orders(40).select(
        pl.int_range(40 * ROWS).mod(7 + at).cast(str).alias(name) for at, name in enumerate(names)
    )
    text = pl.when(rows["on"] == "1").then(pl.lit("it's } \\ # \"")).otherwise(pl.lit("{{ no }}"))
    rows = rows.with_columns(text.alias("label; DROP"))
    dataset, model = specs(start(rows, "label; DROP"), tmp_path)
    assert {*names, "label; DROP", "chunk_2"} == set(dataset.columns)
    assert model.target.kind == "binary"


def test_a_value_never_becomes_a_variable_of_the_environment(tmp_path: Any) -> None:
    secret = "{{ env.HOME }}"
    is_rare = pl.int_range(40 * ROWS) % 3 == 0
    value = pl.when(is_rare).then(pl.lit(secret)).otherwise(pl.lit("none"))
    _, model = specs(start(orders(40).with_columns(value.alias("label")), "label"), tmp_path)
    assert "{{" not in (model.target.expression or "")
    expression = pl.sql_expr(model.target.expression or "")
    labels = pl.DataFrame({"label": [secret, "none"]}).select(expression).to_series()
    assert labels.to_list() == [True, False]


@pytest.mark.parametrize("text", ["a" * 49 + "_b", "1" * 60, "", "é x"])
def test_a_name_is_its_own_name(text: str) -> None:
    assert slug(slug(text)) == slug(text)


def test_a_name_is_written_without_accents() -> None:
    names = {"verspätet": "verspaetet", "Größe, Übung": "groesse_uebung", "café": "cafe"}
    assert {text: slug(text) for text in [*names, "verspa\u0308tet", "№ 日本"]} == {
        **names,
        "verspa\u0308tet": "verspaetet",
        "№ 日本": "no",
    }


def test_types_of_parquet_are_kept(tmp_path: Any) -> None:
    number = pl.int_range(40 * ROWS)
    rows = orders(40).select(
        "id",
        "late",
        at=pl.datetime(2023, 1, 1) + pl.duration(hours=number),
        flag=number % 3 == 0,
        share=number.cast(pl.Decimal(10, 2)),
        channel=pl.col("channel").cast(pl.Categorical),
        parts=pl.concat_list(number, number),
    )
    answer = start(rows, "late", "parquet")
    dataset, _ = specs(answer, tmp_path)
    delta = Sample(sample(rows).rows, {"delta": "table"}, {})
    delta_dataset, _ = specs(guess(delta, Wishes("m", "shop", "late")), tmp_path)
    assert delta_dataset.columns == dataset.columns
    types = {name: column.type for name, column in dataset.columns.items()}
    assert (types["at"], types["flag"], types["share"]) == ("datetime", "bool", "float")
    assert (dataset.read.naive, types["channel"], "parts" in types) == ("utc", "category", False)
    assert "parts is left out" in answer.notes[0]


def test_the_newest_partitions_without_labels_are_the_delay(tmp_path: Any) -> None:
    rows = orders().with_row_index("n")
    recent = pl.col("n") >= (DAYS - 3) * ROWS
    rows = rows.with_columns(late=pl.when(~recent).then("late")).drop("n", "complaint")
    _, model = specs(start(rows, "late"), tmp_path)
    assert model.labels.delay == 3


@pytest.mark.parametrize(
    ("values", "kind", "written"),
    [
        (["1", "2", "3.0"], "int", None),
        (["1", "2.5", "-3e4"], "float", None),
        (["01234", "99999"], "category", None),
        (["true", "False"], "bool", None),
        (["2023-01-31", "2023-02-28"], "date", None),
        (["20230131", "20230228"], "date", "%Y%m%d"),
        (["1/31/23", "12/1/22"], "date", "%m/%d/%y"),
        (["31/1/2023", "1/12/2022"], "date", "%d/%m/%Y"),
        (["19-Sep-03", "18-Sep-03"], "date", "%d-%b-%y"),
        (["2023-01-31T10:00:00Z", "2023-01-31 10:00:00"], "datetime", None),
        (["31.01.2023 10:15", "01.02.2023 00:00"], "datetime", "%d.%m.%Y %H:%M"),
        (["a", "b", None], "category", None),
        (["NA", "", "?"], "category", None),
    ],
)
def test_the_type_of_a_column(values: list[str | None], kind: str, written: str | None) -> None:
    column = guess_text(pl.Series(values * 3, dtype=pl.String))
    assert (column.kind, column.written) == (kind, written)


def test_day_and_month_that_can_be_exchanged_are_said_to_be_unsure() -> None:
    assert guess_text(pl.Series(["01/02/2023", "03/04/2023"])).rival == "%m/%d/%Y"
    assert guess_text(pl.Series(["01/02/2023", "30/04/2023"])).rival is None


def test_values_that_are_not_of_a_type_leave_the_type_if_they_are_rare() -> None:
    texts = [str(number) for number in range(200)]
    assert guess_text(pl.Series([*texts, "12a", "x7"])).unread == 2
    assert guess_text(pl.Series([*texts[:4], "12a", "x7"])).kind == "category"


@pytest.mark.parametrize("count", [4, 7, 20, 100, 1000])
def test_windows_fit_what_there_is(count: int) -> None:
    windows = choose_windows("day", count)
    assert windows.needed <= count
    assert (windows.growing is None) == (count >= 100)  # which has the usual 60
    assert windows.holdout >= 2


def test_foreign_text_stays_text_and_on_its_line() -> None:
    draft = Draft("LandedDataset", {"name": "x", "key": ['a"b: [', "on", "1e5"]})
    draft.comments["key",] = "a\nb: c"
    (line,) = [line for line in draft.render().splitlines() if line.startswith("  key")]
    assert line == r"""  key: ["a\"b: [", "on", "1e5"]    # a\nb: c"""
    assert write_flow("{{ env.HOME }}") == '"{{ env.HOME }}"'
    assert slug("2013 Päße!") == "x_2013_paesse"
