"""Features of one row are those of its batch, and see nothing that is not known yet."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from retrain_assets.domain.features import (
    FeatureError,
    build_features,
    feature_names,
    row_features,
)
from retrain_assets.specs.dataset import DatasetSpec
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
    return row_features(rows(time), lookups, model(), DATASET)["temp"].item()  # type: ignore[no-any-return]


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
    together = row_features(batch, lookups, model(), DATASET)
    for number in range(batch.height):
        alone = row_features(batch[number], lookups, model(), DATASET)
        assert_frame_equal(alone, together[number])


def test_a_missing_lookup_row_gives_nulls_and_loses_no_row() -> None:
    batch = rows(NOON, NOON, tail="unknown")
    found = row_features(batch, {"weather": weather(h9=1.0), "planes": PLANES}, model(), DATASET)
    assert found["temp"].null_count() == found["seats"].null_count() == batch.height == 2


def test_features_cannot_see_what_is_known_later() -> None:
    spec = model(features={"sql": "SELECT delay FROM rows"}, lookups={})
    with pytest.raises(FeatureError, match="delay"):
        row_features(rows(NOON), {}, spec, DATASET)


def test_rows_without_the_later_columns_score_all_the_same() -> None:
    lookups = {"weather": weather(hm1=1.0), "planes": PLANES}
    complete = row_features(rows(NOON), lookups, model(), DATASET)
    bare = row_features(rows(NOON).drop("delay"), lookups, model(), DATASET)
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
        row_features(rows(NOON), {"weather": weather(h0=1.0), "planes": doubled}, model(), DATASET)


def test_the_target_among_its_own_features_is_refused() -> None:
    spec = model(features={"sql": "SELECT carrier AS late FROM rows"}, lookups={})
    with pytest.raises(FeatureError, match="late"):
        build_features(rows(NOON), {}, spec, DATASET)


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELECT carrier FROM rows LIMIT 1", "1 rows for 2"),
        ("SELECT day FROM rows", "day"),
        ("SELECT missing FROM rows", "missing"),
    ],
)
def test_unusable_features_are_refused_by_name(sql: str, named: str) -> None:
    with pytest.raises(FeatureError, match=named):
        row_features(rows(NOON, NOON), {}, model(features={"sql": sql}, lookups={}), DATASET)


def weekday(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(weekday=pl.col("day").dt.weekday())


def test_features_may_be_a_python_function() -> None:
    spec = model(features={"python": f"{__name__}:weekday"}, lookups={})
    found = row_features(rows(NOON), {}, spec, DATASET)
    assert found["weekday"].to_list() == [2]


def test_weights_come_from_the_spec() -> None:
    spec = model(features=CARRIER, lookups={}, weight="delay + 1")
    table = build_features(rows(NOON, NOON), {}, spec, DATASET)
    assert table["_weight"].to_list() == [1.0, 11.0]
    assert feature_names(spec, DATASET, {}) == ("carrier",)
