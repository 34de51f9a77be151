"""The picture of what moved shows both sides of each column, whatever they hold."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.profile import ColumnProfile, build_profile, merge
from retrain_assets.reports.canvas import to_png
from retrain_assets.reports.plots import draw_movers


def profiles(values: object) -> dict[str, ColumnProfile]:
    series = pl.Series("$x_1$", values)
    return merge(build_profile(pl.DataFrame({PARTITION: ["a"] * len(series), "$x_1$": series})))


def row(effect: str = "then → now") -> dict[str, object]:
    return {
        "column": "$x_1$",
        "measure": "ks",
        "statistic": 0.5,
        "threshold": 0.1,
        "effect": effect,
    }


def test_numbers_are_shares_of_both_sides_over_the_same_bins() -> None:
    random = np.random.default_rng(1)
    before, now = profiles(random.normal(0, 1, 5000)), profiles(random.normal(2, 1, 5000))
    (axes,) = draw_movers(before, now, [row()]).axes
    then, later = (patch.get_data() for patch in axes.patches)
    assert np.array_equal(then.edges, later.edges)
    middles = (then.edges[1:] + then.edges[:-1]) / 2
    assert middles @ then.values == pytest.approx(0, abs=0.1)
    assert middles @ later.values == pytest.approx(2, abs=0.1)


def test_categories_are_the_most_frequent_of_either_side() -> None:
    (axes,) = draw_movers(profiles([*"aab"]), profiles([*"accc"]), [row()]).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["c", "a", "b"]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([0, 2 / 3, 1 / 3, 0.75, 0.25, 0])


@pytest.mark.parametrize("now", [[1.0, 1.0], [None, None]])
def test_a_constant_and_an_empty_column_are_drawn(now: list[float | None]) -> None:
    figure = draw_movers(profiles([1.0, 1.0]), profiles(pl.Series(now, dtype=pl.Float64)), [row()])
    assert to_png(figure)


def test_names_and_effects_are_never_taken_for_mathematics() -> None:
    figure = draw_movers(profiles([*"ab"]), profiles([*"b$"]), [row("$a$ 50% → 0%")])
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == r"\$x_1\$" + "\n" + r"\$a\$ 50% → 0%"
    assert to_png(figure)


def test_nothing_to_show_is_said() -> None:
    (text,) = draw_movers({}, {}, [row()]).texts
    assert text.get_text() == "nothing is held against a threshold yet"
