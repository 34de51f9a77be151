"""A time line puts everything where its partition is, whatever the width of the page."""

from __future__ import annotations

from typing import Any

import pytest

from retrain_assets.reports import timeline
from retrain_assets.reports.timeline import Axis, Scale, draw

KEYS = ["a", "b", "d", "e"]


def event(kind: str, first: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "first": first, "last": first, "text": f"{kind} {first}"} | fields


def window(key: str, statistic: float, **fields: Any) -> dict[str, Any]:
    row = {"window_to": key, "statistic": statistic, "role": "performance", "model_version": 1}
    row |= {"low": None, "high": None, "threshold": 3.0, "baseline": 1.0, "alert": False}
    return row | {"text": f"{key}: {statistic}"} | fields


def drawn(*events: dict[str, Any], **parts: Any) -> dict[str, Any]:
    told = {"partitions": KEYS, "events": events, "course": [], "drift": [], "volumes": []}
    told |= {"next": {"as_of": None, "partitions": None}}
    made = draw(told | parts)
    assert made is not None
    return made


def test_partitions_share_the_width_evenly_and_a_missing_one_stands_between() -> None:
    axis = Axis(KEYS)
    assert [axis.at(key) for key in KEYS] == [12.5, 37.5, 62.5, 87.5]
    assert axis.at("c") == 62.5
    assert axis.at("z") == 87.5
    assert axis.span("b", "d") == (25.0, 50.0)
    assert axis.span("c", "c") == (50.0, 0.0)


def test_the_next_decision_stands_behind_the_data() -> None:
    made = drawn(next={"as_of": "g", "partitions": 1})
    assert made["future"] == 90.0
    assert [hit["x"] for hit in made["hits"]] == [0.0, 20.0, 40.0, 60.0]
    assert drawn(next={"as_of": "b", "partitions": 1})["future"] is None


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.0, 1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (0.412, 0.498, ["0.42", "0.44", "0.46", "0.48"]),
        (-3.0, 9.0, ["-2.5", "0", "2.5", "5", "7.5"]),
        (17.0, 940.0, ["200", "400", "600", "800"]),
    ],
)
def test_ticks_are_round_values_within_the_scale(low: float, high: float, told: list[str]) -> None:
    scale = Scale(low, high)
    assert [text for _, text in scale.ticks()] == told
    for height, text in scale.ticks():
        assert height == scale.at(float(text))
    assert (scale.at(low), scale.at(high), scale.at(high + 1)) == (timeline.HEIGHT, 0.0, 0.0)


def test_a_version_serves_the_partitions_after_its_decision() -> None:
    made = drawn(
        event("promote", "a", serves="a", version=1),
        event("hold", "b", serves=None, version=2),
        event("rollback", "d", serves="d", version=3),
    )
    spans = [(span["version"], span["x"], span["width"]) for span in made["versions"]]
    assert spans == [(1, 25.0, 50.0), (3, 75.0, 25.0)]
    soon = {"as_of": "f", "partitions": 1}
    (last,) = drawn(event("promote", "e", serves="e", version=9), next=soon)["versions"]
    assert (last["x"], last["width"]) == (80.0, 20.0)  # it serves on


def test_several_decisions_on_one_partition_stand_above_each_other() -> None:
    made = drawn(event("stage", "b"), event("approve", "b"), event("hold", "d"))
    assert [(mark["x"], mark["lift"]) for mark in made["decisions"]] == [
        (37.5, 0),
        (37.5, timeline.STACK),
        (62.5, 0),
    ]
    assert list(made["glyphs"]) == ["approve", "stage", "hold"]


def test_each_version_has_a_line_of_its_own_and_alerts_have_a_dot() -> None:
    course = [window("a", 1.0), window("b", 2.0), window("d", 4.0, model_version=2, alert=True)]
    made = drawn(course=course)["performance"]
    assert made is not None
    lines = [points.split() for _, points in made["lines"]]
    assert [len(points) for points in lines] == [2, 1]
    assert [point.partition(",")[0] for point in lines[0]] == ["125.0", "375.0"]
    heights = [float(point.partition(",")[2]) for points in lines for point in points]
    assert heights == sorted(heights, reverse=True)
    assert [dot["alert"] for dot in made["dots"]].count(True) == 1


def test_a_wide_interval_does_not_flatten_the_line() -> None:
    made = drawn(course=[window("a", 1.0, low=-500.0, high=500.0), window("b", 2.0)])
    heights = [float(p.partition(",")[2]) for p in made["performance"]["lines"][0][1].split()]
    assert heights[0] - heights[1] > timeline.HEIGHT / 5


def test_refused_rows_stand_on_top_of_accepted_ones() -> None:
    row = {"accepted": 90, "quarantined": 10, "refusal": None}
    rows = [{"partition": "a", **row}, {"partition": "b", **row, "quarantined": 0}]
    made = drawn(volumes=rows)
    first, second = made["volumes"]
    assert list(made["colours"]) == ["accepted", "quarantined"]
    (_, top, height), (_, above, _) = first["parts"]
    assert top + height == pytest.approx(timeline.BARS)
    assert above < top
    assert [kind for kind, *_ in second["parts"]] == ["accepted"]
    assert first["text"] == "a: 90 rows accepted, 10 refused"


def test_each_partition_tells_all_that_is_known_of_it() -> None:
    made = drawn(event("promote", "b", serves="b", version=1), course=[window("b", 1.0)])
    assert made["hits"][1]["text"] == "b\nb: 1.0\npromote b"


def test_without_partitions_there_is_nothing_to_draw() -> None:
    assert draw({"partitions": [], "next": {"as_of": None}}) is None
