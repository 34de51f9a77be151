"""A page shows what it is given literally, and asks for nothing from elsewhere."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from retrain_assets.reports.canvas import to_png
from retrain_assets.reports.page import mark_up, render_page, render_sections
from retrain_assets.reports.plots import draw_importance
from retrain_assets.reports.search_plot import draw_search

BAD = '<script>alert("1")</script>'
SAFE = "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;"


@pytest.mark.parametrize("piece", [BAD, [{BAD: 1}], [{"key": BAD}], [{"key": [BAD]}]])
def test_whatever_is_shown_is_escaped(piece: Any) -> None:
    made = render_page(BAD, render_sections({BAD: [piece]}))
    assert "<script" not in made
    assert made.count(SAFE) == 4


def test_a_heading_with_nothing_under_it_is_left_out() -> None:
    assert (
        render_sections({"empty": ["", [], None], "full": ["text"]}) == "<h2>full</h2>\n<p>text</p>"
    )


def test_numbers_are_short_and_what_is_not_there_is_blank() -> None:
    made = render_sections({"one": [[{"a": 0.123456, "b": None, "c": float("inf"), "d": 7}]]})
    assert "<td>0.1235</td><td></td><td>inf</td><td>7</td>" in made


def test_a_picture_is_part_of_the_page_and_nothing_else_may_be_fetched() -> None:
    made = render_page(
        "t", render_sections({"one": [draw_importance({"x": 0.5, "$y$": -0.1}, "said")]})
    )
    assert '<img src="data:image/png;base64,' in made
    assert "default-src 'none'" in made
    assert "http://" not in made.replace("http-equiv", "")
    assert "https://" not in made


def test_the_feature_that_is_worth_most_stands_on_top() -> None:
    figure = draw_importance({"a": 0.1, "b": 0.9, "c": -0.2}, "said")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["c", "a", "b"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [-0.2, 0.1, 0.9]


def test_settings_of_a_search_are_drawn_by_each_parameter_that_differs() -> None:
    params = [{"rate": rate, "rule": rule, "fixed": 1} for rate, rule in ((0.1, "$a$"), (1, None))]
    trials = {
        "setting": [0, 1],
        "params": [json.dumps(item) for item in params],
        "state": ["judged", "pruned"],
        "loss": [0.5, 0.9],
    }
    figure = draw_search(pl.DataFrame(trials))
    assert [axes.get_xlabel() for axes in figure.axes] == ["setting", "rate", "rule"]
    assert [line.get_ydata().tolist() for line in figure.axes[1].lines] == [[0.5], [0.9]]
    assert b"PNG" in to_png(figure)


def test_a_sentence_is_escaped_its_commands_are_code_and_its_dates_stay_on_one_line() -> None:
    text = "since 2013-08-31, see `retrain plan <b>` & 2013-09"
    assert mark_up(text) == (
        'since <span class="short">2013-08-31</span>, see <code>retrain plan &lt;b&gt;</code>'
        ' &amp; <span class="short">2013-09</span>'
    )
    assert mark_up("<script>`<i>`") == "&lt;script&gt;<code>&lt;i&gt;</code>"
