"""Features of one row are those of its batch, and see nothing that is not known yet."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from retrain_assets.domain.features import build
from retrain_assets.domain.features.build import (
    FeatureError,
    RowError,
    build_features,
    compute_features,
    drop_replaced,
    get_lookup_schema,
    join_lookups,
    join_parts,
    list_features,
)
from retrain_assets.domain.features.history import History
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.features import LookupSpec
from retrain_assets.specs.model import ModelSpec

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
DATASET = DatasetSpec.model_validate(
    {
        "name": "flights",
        "landing": "{partition}.csv",
        "partition": {"by": "day", "column": "day", "start": "2013-01-01"},
        "columns": {
            "day": {"type": "date"},
            "time": {"type": "datetime"},
            "carrier": {"type": "category"},
            "origin": {"type": "category"},
            "tail": {"type": "text"},
            "delay": {"type": "float", "known": "later"},
        },
        "key": ["carrier", "time"],
    }
)


def model(**changes: object) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "m",
            "dataset": "flights",
            "lookups": {
                "weather": {"on": ["origin"], "as_of": "time", "lag": "1h", "tolerance": "3h"},
                "planes": {"on": ["tail"]},
            },
            "features": {
                "sql": "SELECT carrier, weather_temp AS temp, planes_seats AS seats FROM rows"
            },
            "target": {"column": "late", "expression": "delay > 15", "kind": "binary"},
            "estimator": {"class": "sklearn.linear_model.LogisticRegression"},
            "gate": {"metric": "log_loss"},
        }
        | changes
    )


def rows(*times: datetime, tail: str = "N1") -> pl.DataFrame:
    count = len(times)
    return pl.DataFrame(
        {
            "_landing_partition": ["2013-01-01"] * count,
            "day": [date(2013, 1, 1)] * count,
            "time": times,
            "carrier": [f"C{number}" for number in range(count)],
            "origin": ["JFK"] * count,
            "tail": [tail] * count,
            "delay": [float(10 * number) for number in range(count)],
        },
        schema_overrides={"time": pl.Datetime("us", "UTC")},
    )


def weather(**temps: float) -> pl.DataFrame:
    times = [NOON + timedelta(hours=int(hour[1:].replace("m", "-"))) for hour in temps]
    return pl.DataFrame(
        {"origin": ["JFK"] * len(temps), "time": times, "temp": list(temps.values())},
        schema_overrides={"time": pl.Datetime("us", "UTC")},
    )


PLANES = pl.DataFrame({"tail": ["N1", "N2"], "seats": [100, 200]})


def temp_at(time: datetime, table: pl.DataFrame) -> float | None:
    lookups = {"weather": table, "planes": PLANES}
    return compute_features(rows(time), lookups, model(), DATASET)["temp"].item()  # type: ignore[no-any-return]


def test_a_lookup_row_is_seen_only_after_its_lag() -> None:
    table = weather(h0=1.0)
    assert temp_at(NOON + timedelta(minutes=59), table) is None
    assert temp_at(NOON + timedelta(minutes=60), table) == 1.0


def test_a_value_from_the_future_is_never_seen() -> None:
    planted = weather(hm2=1.0, h0=999.0, h1=999.0)
    assert temp_at(NOON + timedelta(minutes=30), planted) == 1.0


def test_a_lookup_row_older_than_its_tolerance_is_not_used() -> None:
    table = weather(h0=1.0)
    assert temp_at(NOON + timedelta(hours=3), table) == 1.0
    assert temp_at(NOON + timedelta(hours=3, seconds=1), table) is None


def test_one_row_has_the_features_it_has_in_its_batch() -> None:
    batch = rows(*(NOON + timedelta(minutes=20 * step) for step in range(12)))
    lookups = {"weather": weather(hm1=1.0, h0=2.0, h1=3.0, h2=4.0), "planes": PLANES}
    together = compute_features(batch, lookups, model(), DATASET)
    for number in range(batch.height):
        alone = compute_features(batch[number], lookups, model(), DATASET)
        assert_frame_equal(alone, together[number])


def test_a_missing_lookup_row_gives_nulls_and_loses_no_row() -> None:
    batch = rows(NOON, NOON, tail="unknown")
    found = compute_features(
        batch, {"weather": weather(h9=1.0), "planes": PLANES}, model(), DATASET
    )
    assert found["temp"].null_count() == found["seats"].null_count() == batch.height == 2


def test_features_cannot_see_what_is_known_later() -> None:
    spec = model(features={"sql": "SELECT delay FROM rows"}, lookups={})
    with pytest.raises(FeatureError, match="delay"):
        compute_features(rows(NOON), {}, spec, DATASET)


def test_rows_without_the_later_columns_score_all_the_same() -> None:
    lookups = {"weather": weather(hm1=1.0), "planes": PLANES}
    complete = compute_features(rows(NOON), lookups, model(), DATASET)
    bare = compute_features(rows(NOON).drop("delay"), lookups, model(), DATASET)
    assert_frame_equal(complete, bare)


def test_the_target_is_null_where_the_label_is() -> None:
    batch = rows(NOON, NOON, NOON).with_columns(delay=pl.Series([20.0, None, 3.0]))
    table = build_features(batch, {}, model(lookups={}, features=CARRIER), DATASET)
    assert table["late"].to_list() == [1.0, None, 0.0]
    assert table["_key"].to_list()[0].startswith("C0|2013-01-01 12:00")


CARRIER = {"sql": "SELECT carrier FROM rows"}


def test_rows_are_sorted_by_key_so_that_arrival_order_changes_nothing() -> None:
    batch = rows(*(NOON + timedelta(hours=hour) for hour in range(5)))
    spec = model(lookups={}, features=CARRIER)
    assert_frame_equal(
        build_features(batch, {}, spec, DATASET), build_features(batch[::-1], {}, spec, DATASET)
    )


def test_a_lookup_that_would_multiply_rows_is_refused() -> None:
    doubled = pl.concat([PLANES, PLANES])
    with pytest.raises(FeatureError, match="planes"):
        compute_features(
            rows(NOON), {"weather": weather(h0=1.0), "planes": doubled}, model(), DATASET
        )


def outcomes(*rows: tuple[str, int, int]) -> pl.DataFrame:
    return pl.DataFrame(rows, ["_landing_partition", "id", "y"], orient="row")


@pytest.mark.parametrize(
    ("key", "partition", "labels"),
    [
        (["id"], {"by": "day", "column": "day", "start": "2013-01-01"}, {7: [1], 8: [0]}),
        (["id"], {"by": "value", "column": "part", "start": "0", "end": "9"}, {7: [1], 8: [0]}),
        # Two rows are two things: regions have no order, and a part of a key names many rows.
        (["id"], {"by": "value", "column": "day", "values": ["1", "2"]}, {7: [0, 1], 8: [0]}),
        (["id", "y"], {"by": "day", "column": "day", "start": "2013-01-01"}, {7: [0, 1], 8: [0]}),
    ],
)
def test_a_row_of_a_lookup_that_is_delivered_again_later_counts_in_place_of_the_first(
    key: list[str], partition: dict[str, object], labels: dict[int, list[int]]
) -> None:
    types = {"id": "int", "y": "int", "part": "int", "day": "date"}
    if "values" in partition:
        types["day"] = "category"
    columns = {name: {"type": type_} for name, type_ in types.items()}
    fields = {"name": "o", "landing": "{partition}.csv", "columns": columns, "key": key}
    dataset = DatasetSpec.model_validate({**fields, "partition": partition})
    rows = outcomes(("1", 7, 0), ("1", 8, 0), ("2", 7, 1))
    newest = drop_replaced(rows, LookupSpec.model_validate({"on": ["id"]}), dataset)
    assert dict(newest.group_by("id").agg(pl.col("y").sort()).iter_rows()) == labels


def test_a_lookup_with_two_rows_for_one_says_which_and_where() -> None:
    spec = LookupSpec.model_validate({"on": ["id"]})
    twins = outcomes(("2013-01-01", 7, 0), ("2013-01-02", 7, 1), ("2013-01-02", 8, 1))
    with pytest.raises(FeatureError, match="2 rows of 2013-01-01, 2013-01-02 have 7: join on"):
        join_lookups(pl.DataFrame({"id": [7]}), {"o": twins}, {"o": spec})


def test_the_target_among_its_own_features_is_refused() -> None:
    spec = model(features={"sql": "SELECT carrier AS late FROM rows"}, lookups={})
    with pytest.raises(FeatureError, match="late"):
        build_features(rows(NOON), {}, spec, DATASET)


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELECT carrier FROM rows LIMIT 1", "1 row for 2"),
        ("SELECT day FROM rows", "day"),
        ("SELECT missing FROM rows", "missing"),
    ],
)
def test_unusable_features_are_refused_by_name(sql: str, named: str) -> None:
    with pytest.raises(FeatureError, match=named):
        compute_features(rows(NOON, NOON), {}, model(features={"sql": sql}, lookups={}), DATASET)


def test_the_partition_is_no_feature_of_a_query_for_all_columns() -> None:
    spec = model(features={"sql": "SELECT * EXCLUDE (time, day, tail) FROM rows"}, lookups={})
    assert list_features(spec, DATASET, {}) == ("carrier", "origin")
    features = build_features(rows(NOON), {}, spec, DATASET)
    assert features.columns == ["_landing_partition", "_key", "carrier", "origin", "late"]


def test_a_feature_that_begins_with_an_underscore_is_refused() -> None:
    spec = model(features={"sql": "SELECT carrier AS _amount FROM rows"}, lookups={})
    with pytest.raises(FeatureError, match=r"'_amount' begins with an underscore.*'amount'"):
        build_features(rows(NOON), {}, spec, DATASET)


def weekday(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(weekday=pl.col("day").dt.weekday())


def measure_tail(frame: pl.DataFrame) -> pl.DataFrame:
    sizes = [tail and (len(tail) if len(tail) % 2 else len(tail) / 4) for tail in frame["tail"]]
    words = [tail and tail.upper() for tail in frame["tail"]]
    return pl.DataFrame({"size": pl.Series(sizes, strict=False), "word": pl.Series(words)})


@pytest.mark.parametrize(
    ("tails", "sizes"),
    [([], []), ([None], [None]), ([None, "abc"], [None, 3]), (["abc", "ab", None], [3, 0.5, None])],
)
def test_the_type_of_a_python_feature_may_follow_its_values(
    tails: list[str | None], sizes: list[float | None]
) -> None:
    spec = model(features={"python": f"{__name__}:measure_tail"}, lookups={})
    frame = rows(NOON, NOON, NOON)[: len(tails)]
    frame = frame.with_columns(tail=pl.Series(tails, dtype=pl.String))
    features = compute_features(frame, {}, spec, DATASET)
    assert features["size"].to_list() == sizes
    assert features["word"].to_list() == [tail and tail.upper() for tail in tails]
    assert list_features(spec, DATASET, {}) == ("size", "word")


def test_features_may_be_a_python_function() -> None:
    spec = model(features={"python": f"{__name__}:weekday"}, lookups={})
    found = compute_features(rows(NOON), {}, spec, DATASET)
    assert found["weekday"].to_list() == [2]


def test_weights_come_from_the_spec() -> None:
    spec = model(features=CARRIER, lookups={}, weight="delay + 1")
    table = build_features(rows(NOON, NOON), {}, spec, DATASET)
    assert table["_weight"].to_list() == [1.0, 11.0]
    assert list_features(spec, DATASET, {}) == ("carrier",)


def test_a_date_is_its_midnight_so_that_a_lag_of_hours_hides_the_same_day() -> None:
    dated = {"weather": {"on": ["origin"], "as_of": "day", "lag": "12h"}}
    spec = model(lookups=dated, features={"sql": "SELECT weather_temp AS temp FROM rows"})
    table = pl.DataFrame(
        {
            "origin": ["JFK"] * 2,
            "day": [date(2012, 12, 31), date(2013, 1, 1)],
            "temp": [1.0, 999.0],
        }
    )
    assert compute_features(rows(NOON), {"weather": table}, spec, DATASET)["temp"].item() == 1.0


def test_two_lookup_rows_of_one_time_are_refused_as_no_one_can_tell_which_is_meant() -> None:
    doubled = pl.concat([weather(h0=1.0), weather(h0=2.0)])
    with pytest.raises(FeatureError, match="2 rows share origin and time"):
        temp_at(NOON + timedelta(hours=2), doubled)


def test_a_lookup_row_of_no_known_time_or_key_is_not_used() -> None:
    table = weather(hm1=1.0, h0=2.0).with_columns(
        time=pl.when(pl.col("temp") == 1.0).then(pl.col("time"))
    )
    assert temp_at(NOON + timedelta(hours=2), table) == 1.0
    batch = rows(NOON).with_columns(origin=pl.lit(None, pl.String))
    unnamed = pl.concat([weather(hm1=3.0).with_columns(origin=pl.lit(None, pl.String))] * 2)
    found = compute_features(batch, {"weather": unnamed, "planes": PLANES}, model(), DATASET)
    assert found["temp"].item() is None


def test_a_lookup_shows_no_column_that_is_known_later() -> None:
    assert "delay" not in get_lookup_schema(DATASET)
    spec = model(
        lookups={"others": {"on": ["tail"]}}, features={"sql": "SELECT others_delay FROM rows"}
    )
    with pytest.raises(FeatureError, match="others_delay"):
        list_features(spec, DATASET, {"others": DATASET})


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (
            "SELECT AVG(distance) OVER () AS mean FROM rows",
            r"mean of a row is 1\.0 alone and 4\.0 among 3 rows",
        ),
        ("SELECT AVG(distance) AS mean FROM rows", "1 row for 3"),
    ],
)
def test_features_that_depend_on_the_rows_beside_are_refused(sql: str, said: str) -> None:
    before = DATASET.columns["delay"].model_copy(update={"timing": "before"})
    columns = DATASET.columns | {"distance": before}
    dataset = DATASET.model_copy(update={"columns": columns})
    batch = rows(NOON, NOON, NOON).with_columns(distance=pl.Series([1.0, 2.0, 9.0]))
    with pytest.raises(FeatureError, match=said):
        build_features(batch, {}, model(features={"sql": sql}, lookups={}), dataset)


def shuffled(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select("carrier").sort("carrier", descending=True)


def test_a_function_that_gives_rows_in_another_order_is_refused() -> None:
    spec = model(features={"python": f"{__name__}:shuffled"}, lookups={})
    with pytest.raises(FeatureError, match="carrier of a row is 'C0' alone and 'C2'"):
        build_features(rows(NOON, NOON, NOON), {}, spec, DATASET)


def test_a_block_that_cannot_be_computed_fails_no_other_row() -> None:
    spec = model(features=CARRIER, lookups={}, blocks="CAST(origin AS BIGINT)")
    origins = pl.concat([rows(NOON).with_columns(origin=pl.lit(name)) for name in ("7", "JFK")])
    blocks = build_features(origins, {}, spec, DATASET)["_block"]
    assert set(blocks) == {"2013-01-01|7", "2013-01-01|"}


def test_blocks_never_straddle_partitions() -> None:
    spec = model(features=CARRIER, lookups={}, blocks="origin")
    batch = pl.concat(
        [
            rows(NOON),
            rows(NOON).with_columns(_landing_partition=pl.lit("2013-01-02")),
            rows(NOON).with_columns(origin=pl.lit(None, pl.String)),
        ]
    )
    found = build_features(batch, {}, spec, DATASET)["_block"]
    assert found.sort().to_list() == ["2013-01-01|", "2013-01-01|JFK", "2013-01-02|JFK"]


DAYS = tuple(f"2013-01-0{day}" for day in range(1, 7))
HISTORY = {
    "sql": "SELECT rows.carrier, h.mean, h.flights FROM rows LEFT JOIN "
    "(SELECT carrier, AVG(delay) AS mean, COUNT(*) AS flights FROM history GROUP BY carrier) AS h "
    "ON rows.carrier = h.carrier",
    "history": 3,
}


def days(**changes: pl.Expr) -> pl.DataFrame:
    """Six days of three carriers, whose delay is the day of the month."""
    parts = [
        rows(NOON, NOON, NOON).with_columns(
            _landing_partition=pl.lit(key), delay=pl.lit(float(key[-1]))
        )
        for key in DAYS
    ]
    return pl.concat(parts).with_columns(**changes)


def on_day(frame: pl.DataFrame, key: str, delay: int = 0) -> pl.DataFrame:
    """Features of one day, made from whatever a frame holds."""
    spec = model(lookups={}, features=HISTORY, labels={"delay": delay})
    past = History(frame, DAYS, spec, DATASET)
    own = frame.filter(_landing_partition=key)
    return build_features(own, {}, spec, DATASET, past.before)


def test_a_row_looks_back_on_the_partitions_before_its_own() -> None:
    assert on_day(days(), DAYS[4])["mean"].to_list() == [3.0] * 3
    assert on_day(days(), DAYS[1])["mean"].to_list() == [1.0] * 3
    assert on_day(days(), DAYS[0])["flights"].to_list() == [None] * 3


def test_a_gap_is_skipped_in_history() -> None:
    spec = model(lookups={}, features=HISTORY)
    past = History(days(), (*DAYS[:2], *DAYS[4:]), spec, DATASET)
    assert past.before(DAYS[5])["delay"].unique().sort().to_list() == [1.0, 2.0, 5.0]
    assert past.before("2013-02-01")["delay"].unique().sort().to_list() == [2.0, 5.0, 6.0]


def test_history_shows_labels_that_are_final_and_no_others() -> None:
    assert on_day(days(), DAYS[4], delay=1)["mean"].to_list() == [2.5] * 3
    assert on_day(days(), DAYS[4], delay=2)["mean"].to_list() == [2.0] * 3
    hidden = on_day(days(), DAYS[4], delay=3)
    assert hidden["mean"].to_list() == [None] * 3
    assert hidden["flights"].to_list() == [3] * 3


PLANTED = pl.lit(999.0)
FUTURE = {
    "its own partition": pl.col("_landing_partition") == DAYS[4],
    "a later partition": pl.col("_landing_partition") > DAYS[4],
    "labels that are not final": pl.col("_landing_partition") == DAYS[3],
    "partitions further back": pl.col("_landing_partition") < DAYS[1],
}


@pytest.mark.parametrize("where", FUTURE)
def test_what_is_planted_in_the_future_does_not_change_features(where: str) -> None:
    planted = days(delay=pl.when(FUTURE[where]).then(PLANTED).otherwise("delay"))
    assert_frame_equal(
        on_day(planted, DAYS[4], delay=1).drop("late"),
        on_day(days(), DAYS[4], delay=1).drop("late"),
    )


def test_training_batch_and_a_single_row_have_the_same_history() -> None:
    frame = days()
    spec = model(lookups={}, features=HISTORY)
    past = History(frame[::-1], DAYS, spec, DATASET)
    together = build_features(frame, {}, spec, DATASET, past.before)
    for key in DAYS:
        own = frame.filter(_landing_partition=key)
        alone = build_features(own, {}, spec, DATASET, past.before)
        assert_frame_equal(alone, together.filter(_landing_partition=key))
        for number in range(own.height):
            row = own.sort("carrier")[number].drop("delay", "_landing_partition")
            one = compute_features(row, {}, spec, DATASET, past.before(key))
            assert_frame_equal(one, alone.select(one.columns)[number])


def test_no_rows_have_features_of_the_same_types() -> None:
    spec = model(lookups={}, features=HISTORY)
    past = History(days(), DAYS, spec, DATASET)
    some = build_features(days(), {}, spec, DATASET, past.before)
    assert build_features(days().clear(), {}, spec, DATASET, past.before).schema == some.schema
    assert list_features(spec, DATASET, {}) == ("carrier", "mean", "flights")


def looking_back(frame: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    return frame.select(known=pl.col("carrier").is_in(history["carrier"].to_list()))


def test_a_function_gets_history_as_its_second_argument() -> None:
    spec = model(features={"python": f"{__name__}:looking_back", "history": 1}, lookups={})
    past = History(days(), DAYS, spec, DATASET)
    found = build_features(days(), {}, spec, DATASET, past.before)
    assert found["known"].to_list() == [False] * 3 + [True] * 15
    assert list_features(spec, DATASET, {}) == ("known",)


def test_a_number_that_is_not_finite_is_null_in_features_and_target_and_0_in_the_weight() -> None:
    spec = model(
        features={
            "sql": "SELECT planes_seats / (planes_seats - planes_seats) AS seats, carrier FROM rows"
        },
        target={"column": "late", "expression": "delay / delay", "kind": "regression"},
        estimator={"class": "sklearn.linear_model.LinearRegression"},
        gate={"metric": "mae"},
        weight="10 / delay - 1",
    )
    lookups = {"weather": weather(h0=1.0), "planes": PLANES}
    table = build_features(rows(NOON, NOON, NOON), lookups, spec, DATASET)
    assert table["seats"].to_list() == [None, None, None]
    assert table["late"].to_list() == [None, 1.0, 1.0]
    assert table["_weight"].to_list() == [0.0, 0.0, 0.0]
    classes = model(target={"column": "late", "expression": "delay / delay", "kind": "multiclass"})
    assert build_features(rows(NOON), lookups, classes, DATASET)["late"].to_list() == [None]


def number_of(rows: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"twice": [None if v is None else v * 2 for v in rows["planes_seats"]]})


def whole_or_fraction(rows: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    del history
    day = rows["_landing_partition"][0] if rows.height else ""
    return pl.DataFrame({"n": [{"2013-01-01": 1, "2013-01-02": 0.5}.get(day)] * rows.height})


def text_or_number(rows: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    del history
    day = rows["_landing_partition"][0] if rows.height else ""
    return pl.DataFrame({"n": [1 if day == "2013-01-01" else "one"] * rows.height})


def test_a_function_without_rows_or_values_needs_no_type() -> None:
    spec = model(features={"python": f"{__name__}:number_of"})
    none = rows(NOON)[:0]
    tables = {"weather": weather(h0=1.0)[:0], "planes": PLANES[:0]}
    assert compute_features(none, tables, spec, DATASET).columns == ["twice"]
    given = {"weather": weather(h0=1.0), "planes": PLANES}
    assert build_features(rows(NOON), given, spec, DATASET)["twice"].to_list() == [200]
    assert build_features(rows(NOON, tail="none"), given, spec, DATASET)["twice"].to_list() == [
        None
    ]


def test_a_function_that_changes_its_type_between_days_loses_no_value() -> None:
    days = ["2013-01-01", "2013-01-02", "2013-01-03"]
    frame = rows(NOON, NOON, NOON).with_columns(_landing_partition=pl.Series(days))
    lookups = {"weather": weather(h0=1.0), "planes": PLANES}
    spec = model(features={"python": f"{__name__}:whole_or_fraction", "history": 1})
    table = build_features(frame, lookups, spec, DATASET, lambda _: frame)
    assert table["n"].to_list() == [1.0, 0.5, None]
    mixed = model(features={"python": f"{__name__}:text_or_number", "history": 1})
    with pytest.raises(FeatureError, match="n is text in some partitions and a number in others"):
        build_features(frame, lookups, mixed, DATASET, lambda _: frame)
    large = pl.LazyFrame({"n": [2**53 + 1]}), pl.LazyFrame({"n": [0.5]})
    with pytest.raises(FeatureError, match="n is beyond 9,007,199,254,740,992"):
        join_parts(large, spec)


def test_a_number_with_a_point_is_a_float_so_that_no_digit_is_lost() -> None:
    spec = model(
        features={"sql": "SELECT planes_seats / 3.0 AS third, 'a 1.5' AS name FROM rows"},
        target={"column": "late", "expression": "delay > .5 * 2", "kind": "binary"},
        weight="LENGTH(carrier) / 3.0",
    )
    lookups = {"weather": weather(h0=1.0), "planes": PLANES}
    table = build_features(rows(NOON, NOON), lookups, spec, DATASET)
    assert table["third"].to_list() == [100 * (1 / 3)] * 2  # as polars divides a column
    assert table["name"].to_list() == ["a 1.5"] * 2
    assert table["late"].to_list() == [0.0, 1.0]
    assert table["_weight"].to_list() == [2 / 3] * 2
    zero = model(features={"sql": "SELECT planes_seats / (planes_seats * 0.0) AS s FROM rows"})
    assert build_features(rows(NOON), lookups, zero, DATASET)["s"].to_list() == [None]


def test_a_cast_that_fails_for_a_row_is_one_null() -> None:
    spec = model(
        features={"sql": "SELECT CAST(tail AS BIGINT) AS tail, 'cast(' AS name FROM rows"},
        target={"column": "late", "expression": "cast (tail AS DOUBLE) > 3", "kind": "binary"},
    )
    frame = rows(NOON, NOON).with_columns(tail=pl.Series(["7", "N1"]))
    table = build_features(frame, {"weather": weather(h0=1.0), "planes": PLANES}, spec, DATASET)
    assert table.select("tail", "name", "late").rows() == [(7, "cast(", 1.0), (None, "cast(", None)]


def parse(rows: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"n": [int(tail) for tail in rows["tail"]]}, schema={"n": pl.Int64})


def unreachable(rows: pl.DataFrame) -> pl.DataFrame:
    if rows.height:
        raise ConnectionError("the server does not answer")
    return pl.DataFrame(schema={"n": pl.Int64})


TAILS = pl.Series(["7", "N1", "8", "9", ""])
CAST_FAILS = "conversion from `str` to `i64` failed in column 'tail': "
PARSE_FAILS = "ValueError: invalid literal for int() with base 10: "


@pytest.mark.parametrize(
    ("features", "reasons"),
    [
        (
            {"sql": "SELECT tail::BIGINT AS n FROM rows"},
            [f'{CAST_FAILS}"N1"', f'{CAST_FAILS}""'],
        ),
        (
            {"sql": "SELECT DAY(STRPTIME('2013-01-0' || tail, '%Y-%m-%d')) AS n FROM rows"},
            ["conversion from `str` to `datetime[μs]` failed in column 'literal': \"2013-01-0"] * 2,
        ),
        ({"python": f"{__name__}:parse"}, [f"{PARSE_FAILS}'N1'", f"{PARSE_FAILS}''"]),
    ],
)
def test_a_row_whose_features_fail_is_refused_by_name_and_no_other(
    features: dict[str, str], reasons: list[str]
) -> None:
    spec = model(features=features, lookups={})
    frame = rows(*[NOON] * 5).with_columns(tail=TAILS)
    refused: list[dict[str, str]] = []
    table = build_features(frame, {}, spec, DATASET, refused=refused)
    sound = frame.filter(pl.col("tail").is_in(["7", "8", "9"]))
    assert_frame_equal(table, build_features(sound, {}, spec, DATASET), check_exact=True)
    assert [row["key"][:2] for row in refused] == ["C1", "C4"]
    assert {row["partition"] for row in refused} == {"2013-01-01"}
    for row, reason in zip(refused, reasons, strict=True):
        assert row["reason"].startswith(reason)
    with pytest.raises(RowError, match=r"features of row 1 \(counted from 0\): "):
        compute_features(frame, {}, spec, DATASET)


def test_a_partition_of_too_many_rows_that_fail_is_refused_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = model(features={"python": f"{__name__}:parse"}, lookups={})
    refused: list[dict[str, str]] = []
    table = build_features(rows(NOON, NOON), {}, spec, DATASET, refused=refused)
    assert (table.columns[2:], table.height, len(refused)) == (["n", "late"], 0, 2)
    assert refused[1]["reason"] == f"{PARSE_FAILS}'N1'"
    refused.clear()
    monkeypatch.setattr(build, "MOST_REFUSED", 1)
    monkeypatch.setattr(build, "MOST_TRIED", 1)
    days = pl.Series(["2013-01-01"] * 3 + ["2013-01-02"] * 2 + ["2013-01-03"] * 3)
    tails = pl.Series(["7", "x", "y", "x", "y", "7", "x", "9"])
    frame = rows(*[NOON] * 8).with_columns(_landing_partition=days, tail=tails)
    table = build_features(frame, {}, spec, DATASET, refused=refused)
    assert table["_landing_partition"].to_list() == ["2013-01-03"] * 2
    reason = f"over 1 rows of the partition fail, such as: {PARSE_FAILS}'y'"
    assert [row["reason"] for row in refused] == [reason] * 5 + [f"{PARSE_FAILS}'x'"]


def test_what_may_pass_is_no_fault_of_a_row() -> None:
    spec = model(features={"python": f"{__name__}:unreachable"}, lookups={})
    with pytest.raises(ConnectionError):
        build_features(rows(NOON, NOON), {}, spec, DATASET)


def test_a_label_that_cannot_be_computed_is_null_and_such_a_weight_is_0() -> None:
    spec = model(
        features=CARRIER,
        lookups={},
        target={"column": "late", "expression": "tail::INT > 7", "kind": "binary"},
        weight="tail::INT",
        blocks="tail::INT",
    )
    frame = rows(NOON, NOON, NOON).with_columns(tail=pl.Series(["7", "N1", "8"]))
    table = build_features(frame, {}, spec, DATASET)
    assert table["late"].to_list() == [0.0, None, 1.0]
    assert table["_weight"].to_list() == [7.0, 0.0, 8.0]
    assert table["_block"].to_list() == ["2013-01-01|7", "2013-01-01|", "2013-01-01|8"]


def divide(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(hours=pl.col("delay") / 60, weeks=pl.col("delay") / 49.0)


@pytest.mark.parametrize(
    "features",
    [
        {"sql": "SELECT delay / 60.0 AS hours, delay / 49 AS weeks FROM rows"},
        {"python": f"{__name__}:divide"},
    ],
)
def test_a_division_gives_a_row_the_same_bits_however_many_rows_are_computed(
    features: dict[str, str],
) -> None:
    data = DatasetSpec.model_validate(
        DATASET.model_dump()
        | {"columns": DATASET.model_dump()["columns"] | {"delay": {"type": "float"}}}
    )
    spec = model(
        features=features,
        target={"column": "late", "expression": "delay / 60.0", "kind": "regression"},
        gate={"metric": "mae"},
        estimator={"class": "sklearn.linear_model.LinearRegression"},
        weight="delay / 60.0",
    )
    frame = rows(*[NOON] * 200).with_columns(carrier=pl.int_range(200).cast(pl.String).str.zfill(3))
    lookups = {"weather": weather(h0=1.0), "planes": PLANES}
    together = build_features(frame, lookups, spec, data)
    for size in (1, 2, 3, 5):
        parts = [
            build_features(frame[start : start + size], lookups, spec, data)
            for start in range(0, 200, size)
        ]
        assert_frame_equal(pl.concat(parts), together, check_exact=True)
