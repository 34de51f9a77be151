"""The pictures say what the numbers say, whatever the names and however few the rows."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text
from matplotlib.colors import to_hex
from PIL import Image

from retrain_assets.domain.decision.replay import Outcome, PolicyResult, Standing
from retrain_assets.reports import plots
from retrain_assets.reports.canvas import BLUE, ORANGE, shorten, to_png
from retrain_assets.reports.page import to_markdown
from retrain_assets.reports.plots import (
    draw_actual,
    draw_confusion,
    draw_gains,
    draw_holdout,
    draw_reliability,
    draw_replay,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

RNG = np.random.default_rng(0)
PROBABILITY = RNG.beta(1.5, 5, 5000)
LABEL = RNG.random(5000) < PROBABILITY
NUMBER = RNG.gamma(2.0, 10.0, 5000)
ACTUAL = NUMBER + RNG.normal(0, 5, 5000)
CLASSES = ["late", "on time", "cancelled"]
CLASS = np.array(CLASSES, dtype=object)[RNG.integers(0, 3, 5000)]
SHARES = RNG.dirichlet(np.ones(3), 5000)
DAYS = [f"2013-{month:02}-{day:02}" for month in range(1, 7) for day in range(1, 29)]
BLOCKS = DAYS[:5]
GAINS = [0.01, -0.002, 0.02, 0.0, 0.03]


def said(figure: Figure) -> str:
    return "\n".join(text.get_text() for part in (figure, *figure.axes) for text in part.texts)


def line(figure: Figure, label: str) -> np.ndarray:
    (found,) = [line for line in figure.axes[0].lines if line.get_label() == label]
    return np.asarray(found.get_xydata())


def cells(figure: Figure) -> np.ndarray:
    (image,) = figure.axes[0].images
    return np.ma.filled(image.get_array(), np.nan)


def row_names(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def column_names(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_xticklabels()]


def drawn(figure: Figure) -> bytes:
    head, _, tail = to_markdown(figure).partition("base64,")
    assert head == "![picture](data:image/png;"
    return base64.b64decode(tail.removesuffix(")"), validate=True)


FIGURES: dict[str, Callable[[], Figure]] = {
    "reliability": lambda: draw_reliability(LABEL, PROBABILITY),
    "predicted_against_actual": lambda: draw_actual(ACTUAL, NUMBER),
    "confusion": lambda: draw_confusion(CLASS, SHARES, CLASSES),
    "gain_by_block": lambda: draw_gains(BLOCKS, GAINS, 0.01, 0.002, 0.02, "PROMOTE"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_picture_is_a_small_png_and_the_same_each_time(name: str) -> None:
    content = drawn(FIGURES[name]())
    assert content.startswith(b"\x89PNG")
    assert len(content) < 60_000
    assert drawn(FIGURES[name]()) == content


def test_drawing_leaves_no_global_state_and_importing_costs_nothing() -> None:
    code = (
        "import sys, numpy as np\n"
        "from retrain_assets.reports import page, plots\n"
        "before = 'matplotlib' in sys.modules\n"
        "page.to_markdown(plots.draw_reliability(np.array([0, 1]), np.array([.2, .8])))\n"
        "print(before, 'matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "True", "False"], done.stderr[-2000:]


@pytest.mark.parametrize(
    ("kind", "title", "arguments"),
    [
        ("binary", "observed share", (LABEL, PROBABILITY)),
        ("regression", "Predicted against actual\n", (ACTUAL, NUMBER, [])),
        ("multiclass", "actual class", (CLASS, SHARES, CLASSES)),
    ],
)
def test_each_kind_has_its_picture(kind: str, title: str, arguments: tuple[object, ...]) -> None:
    assert title in draw_holdout(kind, *arguments).get_suptitle()  # type: ignore[arg-type]


def test_sound_probabilities_lie_on_the_diagonal_and_wrong_ones_do_not() -> None:
    sound = line(draw_reliability(LABEL, PROBABILITY), "observed")
    assert len(sound) == 10
    assert np.abs(sound[:, 0] - sound[:, 1]).max() < 0.06
    wrong = line(draw_reliability(LABEL, 1 - PROBABILITY), "observed")
    assert np.abs(wrong[:, 0] - wrong[:, 1]).max() > 0.3


def test_labels_may_be_booleans_or_numbers() -> None:
    assert drawn(draw_reliability(LABEL.astype(int), PROBABILITY)) == drawn(
        FIGURES["reliability"]()
    )


def test_predictions_that_tie_stay_in_one_bin() -> None:
    points = line(
        draw_reliability(np.array([0, 1, 1, 1]), np.array([0.2, 0.2, 0.8, 0.8])), "observed"
    )
    assert points.tolist() == [[0.2, 0.5], [0.8, 1.0]]
    assert len(line(draw_reliability(LABEL, np.full(5000, 0.3)), "observed")) == 1


@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.7, 1.0]), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_bins_keep_the_overall_mean_whatever_ties(values: list[float]) -> None:
    prediction = np.array(values)
    predicted, actual = plots._average_bins(prediction, prediction * 2)
    assert np.isfinite(predicted).all()
    assert np.allclose(actual, 2 * predicted)
    assert (np.diff(predicted) > 0).all()


def test_rows_beyond_the_axes_are_counted() -> None:
    figure = draw_actual(np.append(ACTUAL, [1e6] * 3), np.append(NUMBER, [20.0] * 3))
    (_, top), beyond = figure.axes[0].get_ylim(), said(figure)
    assert top < 200
    outside = int(beyond.partition(" rows, ")[2].partition(" beyond")[0])
    assert 3 <= outside <= 110


@pytest.mark.parametrize("constant", [0.0, 3.5])
def test_a_constant_number_can_be_drawn(constant: float) -> None:
    same = np.full(100, constant)
    assert drawn(draw_actual(same, same))
    assert len(line(draw_actual(ACTUAL[:100], same), "mean actual")) == 1


def test_confusion_is_per_cent_of_each_actual_class() -> None:
    target = np.array(["a", "a", "a", "a", "b"], dtype=object)
    right, wrong = [0.9, 0.1], [0.2, 0.8]
    figure = draw_confusion(target, np.array([right, right, right, wrong, right]), ["a", "b"])
    assert cells(figure).tolist() == [[75, 25], [100, 0]]
    assert "60.0% right" in said(figure)


def test_a_class_the_model_does_not_know_has_a_row() -> None:
    figure = draw_confusion(np.array([1, 7]), np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([1, 2]))
    assert row_names(figure) == ["1", "2", "7"]
    shares = cells(figure)
    assert shares[[0, 2]].tolist() == [[100, 0, 0], [100, 0, 0]]
    assert np.isnan(shares[1]).all()


def test_rare_classes_are_shown_as_one() -> None:
    names = [f"c{i:02}" for i in range(40)]
    target = np.repeat(names, np.arange(40, 0, -1))
    figure = draw_confusion(target, np.eye(40)[np.repeat(range(40), np.arange(40, 0, -1))], names)
    assert row_names(figure) == [*names[:15], "all others"]
    assert (cells(figure) == 100 * np.eye(16)).all()


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.001, 0.02, "better:"), (-0.02, -0.001, "worse:"), (-0.001, 0.02, "can't tell")],
)
def test_the_gain_says_whether_it_is_sure(low: float, high: float, words: str) -> None:
    figure = draw_gains(BLOCKS, GAINS, (low + high) / 2, low, high, "title")
    assert words in said(figure)
    assert "better in 3 of 5 blocks" in said(figure)


def test_bars_are_gains_and_the_band_is_the_interval() -> None:
    figure = draw_gains(BLOCKS, GAINS, 0.01, 0.002, 0.02, "title")
    band, *bars = figure.axes[0].patches
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((0.002, 0.02))
    assert [bar.get_height() for bar in bars] == GAINS
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [BLUE, ORANGE, BLUE, ORANGE, BLUE]
    assert column_names(figure) == BLOCKS[::-1]


def test_a_long_title_takes_two_lines_and_no_more() -> None:
    figure = draw_gains(BLOCKS, GAINS, 0.01, 0.002, 0.02, "costs $5 or $6 " * 40)
    lines = figure.get_suptitle().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(r"costs \$5 or \$6")
    assert lines[1].endswith(" …")


def test_few_of_many_blocks_are_named_the_last_among_them() -> None:
    figure = draw_gains(DAYS, [0.1] * len(DAYS), 0.1, 0.0, 0.2, "title")
    assert len(column_names(figure)) <= 7
    assert column_names(figure)[0] == DAYS[-1]


@given(st.text(alphabet=st.one_of(st.sampled_from("$\\_{}^ \n"), st.characters(codec="utf-8"))))
@settings(max_examples=100, deadline=None)
def test_names_are_shown_literally(text: str) -> None:
    shown = shorten(text)
    assert not is_math_text(shown)
    assert "\n" not in shown
    line = " ".join(text.split())
    # Matplotlib itself takes the escape away from text without mathematics.
    assert shown.replace(r"\$", "$") == line or len(line) > 40


@pytest.mark.parametrize("name", ["$x$", r"\$", "$\\frac{$", "a_{b}^", "€ ✓ naïve"])
def test_odd_names_can_be_drawn(name: str) -> None:
    assert drawn(draw_gains([name], [0.1], 0.1, 0.0, 0.2, name))
    assert drawn(draw_confusion(np.array([name]), np.array([[1.0]]), [name]))


@pytest.mark.parametrize("count", [3, 30])
def test_a_replay_tells_its_whole_proposal_and_labels_no_policy_over_another(count: int) -> None:
    names = [f"policy {number}" for number in range(count)]
    histories = [PolicyResult(name, dict.fromkeys(DAYS, 0.4), 9, ()) for name in names]
    standings = [Standing(name, 0.4, 9, 1, 0.0, 0.0, 0.0, gated=True) for name in names]
    proposal = f"`policy 0` did best: {'mean log_loss 0.4 with 9 fits, now 0.4 with 9; ' * 5}end"
    figure = draw_replay(Outcome("log_loss", histories, standings, "policy 0", proposal))
    image = np.asarray(Image.open(io.BytesIO(to_png(figure))).convert("RGB"), dtype=np.int64)
    orange = [int(ORANGE[place : place + 2], 16) for place in (1, 3, 5)]
    assert (np.abs(image - orange).sum(axis=2) < 20).sum() > 10, "the best policy stands out"
    *fits, note = figure.axes[0].texts
    assert note.get_text().replace("\n", " ") == proposal
    places = sorted(label.get_window_extent().y0 for label in fits)
    assert min(np.diff(places)) >= fits[0].get_window_extent().height
