"""Pictures of monitoring say what was measured, whatever the names and however few the rows."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.profile import ColumnProfile, build_profile, merge
from retrain_assets.reports.monitoring_plots import (
    BELOW_THRESHOLD,
    REACHED_THRESHOLD,
    Drift,
    bin_numbers,
    draw_adaptation,
    draw_drift,
    draw_movers,
    rank_categories,
    select_drift,
)
from retrain_assets.reports.page import to_markdown
from retrain_assets.reports.svg import Picture

DAYS = [f"2013-{month:02}-{day:02}" for month in range(1, 7) for day in range(1, 29)]
MONITORING = {
    PARTITION: pl.String,
    "role": pl.String,
    "measure": pl.String,
    "column": pl.String,
    "statistic": pl.Float64,
    "threshold": pl.Float64,
    "alert": pl.Boolean,
}
NAME = "$x_1$ & <x>"


def monitoring(
    *rows: tuple[str, str, float | None, float | None], role: str = "feature"
) -> pl.DataFrame:
    """Rows of (partition, column, statistic, threshold)."""
    records = [
        (day, role, "psi", name, value, bound, None not in (value, bound) and value >= bound)
        for day, name, value, bound in rows
    ]
    return pl.DataFrame(records, schema=MONITORING, orient="row")


def drift(rows: pl.DataFrame) -> Drift:
    selected = select_drift(rows, "psi")
    assert selected is not None
    return selected


def parse(picture: Picture) -> ET.Element:
    return ET.fromstring(picture.content)  # noqa: S314 it was made here


def texts(picture: Picture) -> list[str]:
    return [node.text or "" for node in parse(picture).iter() if node.tag.endswith("text")]


def boxes(picture: Picture, colour: str) -> int:
    """Return how many boxes have a colour, with the one in the legend."""
    paths = [node for node in parse(picture).iter() if node.get("fill") == colour]
    return sum(node.get("d", "").count("M") for node in paths)


def test_drift_is_sorted_by_the_newest_statistic() -> None:
    rows = monitoring(
        (DAYS[0], "fell", 0.9, 0.2),
        (DAYS[0], "rose", 0.1, 0.2),
        (DAYS[0], "gone", 5.0, 0.2),
        (DAYS[1], "fell", 0.05, 0.2),
        (DAYS[1], "rose", 0.4, 0.2),
    )
    assert drift(rows).columns == ["rose", "fell", "gone"]
    multiples = drift(rows).multiples
    assert multiples[:2] == pytest.approx(np.array([[0.5, 2.0], [4.5, 0.25]]))
    assert np.isnan(multiples[2, 1])
    shown = texts(draw_drift(rows, "psi"))
    assert f"1 of 2 columns alert in {DAYS[1]}" in shown
    assert [name for name in shown if name in ("rose", "fell", "gone")] == drift(rows).columns


def test_only_what_alerts_stands_out() -> None:
    rows = monitoring((DAYS[0], "at", 0.2, 0.2), (DAYS[0], "below", 0.1999999, 0.2))
    free = monitoring((DAYS[0], "delayed", 7.0, None), role="target")
    picture = draw_drift(pl.concat([rows, free]), "psi")
    assert drift(pl.concat([rows, free])).columns == ["delayed (target)", "at", "below"]
    assert [boxes(picture, colour) for colour in BELOW_THRESHOLD] == [1, 1, 1, 3]
    assert [boxes(picture, colour) for colour in REACHED_THRESHOLD] == [2, 1, 1, 1]


def test_neighbours_of_one_colour_are_one_box() -> None:
    rows = monitoring(*((day, "temp", 0.3 if day < DAYS[50] else 0.01, 0.2) for day in DAYS[:90]))
    picture = draw_drift(rows, "psi")
    assert boxes(picture, REACHED_THRESHOLD[0]) == boxes(picture, BELOW_THRESHOLD[0]) == 2


def test_the_newest_partitions_and_the_columns_that_drift_most_are_shown() -> None:
    rows = monitoring(*((day, f"c{i:02}", i / 10, 0.2) for day in DAYS for i in range(40)))
    assert drift(rows).multiples.shape == (30, 120)
    assert drift(rows).columns == [f"c{i:02}" for i in range(39, 9, -1)]
    days = [text for text in texts(draw_drift(rows, "psi")) if text.startswith("2013-")]
    assert days[0] == DAYS[-1]
    assert 2 < len(days) <= 7
    assert len(draw_drift(rows, "psi").content) < 20_000


def test_one_partition_is_enough_for_a_heat_map() -> None:
    rows = monitoring((DAYS[0], "temp", 0.3, 0.2))
    assert drift(rows).multiples == pytest.approx(np.array([[1.5]]))
    assert boxes(draw_drift(rows, "psi"), REACHED_THRESHOLD[0]) == 2


@pytest.mark.parametrize("statistic", [None, float("nan")])
def test_undefined_statistics_are_left_blank(statistic: float | None) -> None:
    rows = monitoring((DAYS[0], "temp", None, 0.2), (DAYS[0], "dewp", 0.3, 0.2))
    rows = rows.with_columns(
        pl.when(pl.col("column") == "temp")
        .then(statistic)
        .otherwise("statistic")
        .alias("statistic")
    )
    assert drift(rows).columns == ["dewp", "temp"]
    assert np.isnan(drift(rows).multiples[1, 0])
    colours = BELOW_THRESHOLD + REACHED_THRESHOLD
    assert sum(boxes(draw_drift(rows, "psi"), colour) for colour in colours) == len(colours) + 1
    assert parse(draw_drift(monitoring((DAYS[0], "temp", None, None)), "psi"))


def test_without_a_threshold_nothing_looks_like_an_alert() -> None:
    rows = monitoring((DAYS[0], "temp", 9.0, None), (DAYS[0], "dewp", 4.5, None))
    assert drift(rows).multiples[:, 0] == pytest.approx([0.999, 0.5])
    assert not any(boxes(draw_drift(rows, "psi"), colour) for colour in REACHED_THRESHOLD)
    assert parse(draw_drift(rows.with_columns(statistic=pl.lit(0.0)), "psi"))


def test_before_anything_is_there_the_pictures_say_so() -> None:
    assert "psi: nothing monitored yet" in texts(draw_drift(monitoring(), "psi"))
    other = monitoring((DAYS[0], "temp", 0.3, 0.2))
    assert "ks: nothing monitored yet" in texts(draw_drift(other, "ks"))
    assert "nothing is held against a threshold yet" in texts(draw_movers({}, {}, [row()]))
    assert "has moved the layer yet" in "".join(texts(draw_adaptation(pl.DataFrame())))


def test_columns_of_long_alike_names_stay_apart() -> None:
    names = [f"a very long name of a column that is number {i}" for i in range(3)]
    columns = drift(monitoring(*((DAYS[0], name, 0.3, 0.2) for name in names))).columns
    assert len(set(columns)) == 3
    assert {len(name) for name in columns} == {40}


@given(st.text(alphabet=st.one_of(st.sampled_from("<>&\"'$\\ \n\x00\x1f"), st.characters())))
@settings(max_examples=100, deadline=None)
def test_names_are_shown_literally_and_are_never_markup(text: str) -> None:
    name = text or "x"
    shown = texts(draw_drift(monitoring((DAYS[0], name, 0.3, 0.2)), "psi"))
    line = " ".join(name.split())
    if line.isprintable() and len(line) <= 40:
        assert line in shown
    assert to_markdown(draw_drift(monitoring((DAYS[0], name, 0.3, 0.2)), "psi")).isascii()


def profiles(values: object) -> dict[str, ColumnProfile]:
    series = pl.Series(NAME, values)
    return merge(build_profile(pl.DataFrame({PARTITION: ["a"] * len(series), NAME: series})))


def row(effect: str = "then → now") -> dict[str, object]:
    return {"column": NAME, "measure": "ks", "statistic": 0.5, "threshold": 0.1, "effect": effect}


def test_numbers_are_shares_of_both_sides_over_the_same_bins() -> None:
    random = np.random.default_rng(1)
    before, now = profiles(random.normal(0, 1, 5000)), profiles(random.normal(2, 1, 5000))
    bins = bin_numbers((before[NAME], now[NAME]))
    assert bins is not None
    edges, (then, later) = bins
    middles = (edges[1:] + edges[:-1]) / 2
    assert middles @ then == pytest.approx(0, abs=0.1)
    assert middles @ later == pytest.approx(2, abs=0.1)
    shown = texts(draw_movers(before, now, [row()]))
    assert {NAME, "then → now", "share", "0", "then", "now"} <= {*shown}


def test_categories_are_the_most_frequent_of_either_side() -> None:
    before, now = profiles([*"aab"]), profiles([*"accc"])
    ranked = rank_categories((before[NAME], now[NAME]))
    assert [name for name, _ in ranked] == ["c", "a", "b"]
    assert [pair for _, pair in ranked] == [[0, 0.75], [pytest.approx(2 / 3), 0.25], [1 / 3, 0]]
    shown = texts(draw_movers(before, now, [row()]))
    assert [text for text in shown if text in {*"abc"}] == [*"cab"]


@pytest.mark.parametrize("now", [[1.0, 1.0], [None, None]])
def test_a_constant_and_an_empty_column_are_drawn(now: list[float | None]) -> None:
    later = profiles(pl.Series(now, dtype=pl.Float64))
    assert NAME in texts(draw_movers(profiles([1.0, 1.0]), later, [row()]))


def test_the_layer_is_drawn_with_one_partition_and_with_losses_that_are_missing() -> None:
    rows = pl.DataFrame(
        {
            PARTITION: DAYS[:2],
            "loss_layer": [0.4, None],
            "loss_newest": [0.5, 0.5],
            "weight_newest": [0.25, 0.5],
            "weight_single_fast": [0.75, 0.5],
        }
    )
    for part in (rows, rows.head(1)):
        shown = texts(draw_adaptation(part))
        assert {"newest", "single fast", part[PARTITION][-1]} <= {*shown}
    assert "nan" not in draw_adaptation(rows).content
